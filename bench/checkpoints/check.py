"""Accuracy of a base classifier on a few test images, which shows a wrong normalisation before the long work starts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from bench.checkpoints.load import Base
from bench.checkpoints.normalize import Normalization, candidates
from bench.data import Split
from bench.models import Normalize, place
from bench.spec import derive

IMAGES = 500
ROWS = 100  # images per pass
BETTER = 0.05  # by which another normalisation must be ahead, in mean accuracy: about four standard errors at 500 images


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of images in [0, 1].

    Attributes:
        clean: right without noise. noisy: right under one draw of noise each.
        images: how many were tried.
        seconds: per forward pass of one image.
    """

    clean: float
    noisy: float
    images: int
    seconds: float

    @property
    def mean(self) -> float:
        return (self.clean + self.noisy) / 2

    def __str__(self) -> str:
        return f"{self.clean:.1%} without noise and {self.noisy:.1%} with it"


def accuracy(base: Base, data: Split, device: torch.device, normalization: Normalization | None = None) -> Accuracy:
    """Accuracy on at most 500 test images, evenly spread over the test set, without noise and with one draw of it.

    Args:
        normalization: instead of the classifier's own.
    """
    chosen = normalization or base.normalization
    model = place(nn.Sequential(Normalize(chosen.mean, chosen.std), base.model[1]), device).eval()
    indices = torch.arange(0, len(data), math.ceil(len(data) / IMAGES))
    generator = torch.Generator(device).manual_seed(derive(0, "check"))
    right = torch.zeros(2, dtype=torch.int64, device=device)
    begun = time.perf_counter()
    with torch.inference_mode():
        for part in torch.split(indices, ROWS):
            x = data.images(part).to(device)  # B C H W
            y = data.labels[part].to(device)
            noise = torch.empty_like(x).normal_(0.0, base.sigma, generator=generator)
            for kind, images in enumerate((x, x + noise)):
                right[kind] += (model(images).argmax(1) == y).sum()
    clean, noisy = (right / len(indices)).tolist()
    return Accuracy(clean=clean, noisy=noisy, images=len(indices), seconds=(time.perf_counter() - begun) / (2 * len(indices)))


def warnings(base: Base, own: Accuracy, data: Split, device: torch.device) -> list[str]:
    """A sentence for each sign that weights, data set or normalisation are not what they should be.

    Args:
        own: accuracy as the classifier will be certified.
    """
    result = []
    chance = 1 / base.info.classes
    if own.clean <= chance + 3 * math.sqrt(chance * (1 - chance) / own.images):
        result.append(
            f"accuracy on {own.images} test images without noise is {own.clean:.1%}, and chance is {chance:.1%}: "
            "are these the weights, the data set and the normalisation that belong together?"
        )
    others = {
        word: accuracy(base, data, device, other) for word, other in candidates(base.arch, base.info).items() if other != base.normalization
    }
    if others and (best := max(others, key=lambda word: others[word].mean)) and others[best].mean > own.mean + BETTER:
        result.append(
            f"normalisation looks wrong: {own.images} test images are right {others[best]} under --normalize {best}, "
            f"but {own} under {base.normalization}, which is used now"
        )
    return result
