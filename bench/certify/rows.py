"""Evidence of many images, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from bench import rules
from bench.certify.sampler import Sampler
from bench.data import Images
from bench.evidence.certificate import Certificate
from bench.spec import CertifySpec

FITTED_IMAGES = 8


def several(data: Images, device: torch.device) -> Tensor:
    """A few images, from the whole of the data: B C H W."""
    return data.images(torch.arange(0, len(data.labels), max(1, len(data.labels) // FITTED_IMAGES))[:FITTED_IMAGES]).to(device)


def count_images(
    sampler: Sampler, data: Images, spec: CertifySpec, indices: Iterable[int], device: torch.device, check: Callable[[], None]
) -> Iterator[tuple[Certificate, float]]:
    """Evidence of each image, and the seconds that it took.

    Args:
        data: the test images. indices: which of them.
        check: called before each image; raises if no more are wanted.

    Raises:
        BenchError: as `Sampler.certify`.
    """
    stop = rules.of(spec).stop(sampler.sigma)
    sampler.fit(several(data, device))
    for index in indices:
        check()
        begun = time.monotonic()
        image = data.images(torch.tensor([index]))[0].to(device)
        label = int(data.labels[index])
        row = sampler.certify(image, index, label, spec.n0, spec.n, stop, skip_misclassified=spec.skip_misclassified)
        yield row, time.monotonic() - begun
