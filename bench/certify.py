"""CERTIFY: counts of the classes that a base classifier gives to noisy copies of one image.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, procedure CERTIFY.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.records import Certificate
from bench.spec import derive

ROWS = 500
"""Rows of every forward pass. Logits in float32 move in the last bit with the shape of a pass, so it never changes."""


class Sampler:
    """Draws noisy copies of images and counts the classes that the base classifier gives them.

    Noise is keyed by (seed, image index) and drawn in blocks of `ROWS`, whatever the batch: counts do not depend on the batch,
    on the order of images, or on interruptions. Selection and estimation take different blocks of one stream, so they
    never share a sample.

    Args:
        base: f, logits B K of B C H W; it is put in evaluation mode for every image.
        sigma: noise level in pixels of [0, 1].
        classes: K.
        seed: the certification's seed.
        batch: samples per forward pass, at most `ROWS`; fewer are padded to `ROWS`.
    """

    def __init__(self, base: nn.Module, sigma: float, classes: int, seed: int, batch: int = ROWS) -> None:
        if batch < 1:
            raise BenchError(f"batch {batch} must be at least 1")
        self.base = base
        self.sigma = sigma
        self.classes = classes
        self.seed = seed
        self.batch = batch

    @torch.inference_mode()
    def certify(self, x: Tensor, index: int, label: int, n0: int, n: int) -> Certificate:
        """Evidence of one image.

        Args:
            x: the image, C H W in [0, 1].
            index: its position in the test set; with the seed it decides the noise.
            n0: samples that choose the class. n: fresh samples that count it.

        Raises:
            BenchError: logits that are not finite or not of shape B K.
        """
        self.base.eval()
        generator = torch.Generator(x.device).manual_seed(derive(self.seed, "certify", index))
        selection = self._count(x, n0, generator)
        estimation = self._count(x, n, generator)
        return Certificate(
            index=index,
            label=label,
            selected=int(selection.argmax()),
            selection=_sparse(selection),
            estimation=_sparse(estimation),
        )

    def _count(self, x: Tensor, n: int, generator: torch.Generator) -> Tensor:
        counts = torch.zeros(self.classes, dtype=torch.int64, device=x.device)
        finite = torch.ones((), dtype=torch.bool, device=x.device)
        # Noise is drawn in plain memory order and then copied, so that the layout of the passes does not change it.
        block = torch.empty((ROWS, *x.shape), device=x.device)
        padded = torch.empty_like(block, memory_format=torch.channels_last)
        for start in range(0, n, ROWS):
            block.normal_(0.0, self.sigma, generator=generator).add_(x)
            take = min(ROWS, n - start)
            for first in range(0, take, self.batch):
                rows = min(self.batch, take - first)
                padded[:rows].copy_(block[first : first + rows])
                if rows < ROWS:
                    padded[rows:].zero_()
                logits = self.base(padded)
                if logits.shape != (ROWS, self.classes):
                    raise BenchError(
                        f"the base classifier gave logits of shape {tuple(logits.shape)} for {ROWS} images of {self.classes} classes"
                    )
                if logits.dtype not in (torch.float32, torch.float64):
                    raise BenchError(
                        f"the base classifier gave logits of {logits.dtype}, whose many ties go to the lowest class; use float32"
                    )
                kept = logits[:rows]
                finite &= kept.isfinite().all()
                counts += torch.bincount(kept.argmax(1), minlength=self.classes)
        if not finite:
            raise BenchError("the base classifier gave logits that are not finite numbers, which would certify class 0 for free")
        return counts


def _sparse(counts: Tensor) -> dict[int, int]:
    return {c: k for c, k in enumerate(counts.tolist()) if k}
