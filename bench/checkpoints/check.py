"""Accuracy of a base classifier on a few test images, which shows a wrong normalisation before the long work starts."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from bench.checkpoints.load import Base
from bench.checkpoints.normalize import Normalization, candidates
from bench.data import Images
from bench.errors import counted
from bench.models import Normalize, place
from bench.spec import derive

IMAGES = 500
ROWS = 100  # images per pass
BETTER = 0.05  # by which another normalisation must be ahead in mean accuracy: about four standard errors at 500 images
SURER = 4.0
"""Or by what factor in mean cross-entropy, at an accuracy that is not lower: on MNIST accuracy alone hardly shows it. With LeNets
there, 5.6 was measured for a wrong normalisation, and 2.4 for a right one of an unsure network (500 images each, one network each)."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Shares of images in [0, 1].

    Attributes:
        clean: right without noise. noisy: right under one draw of noise each.
        loss: mean cross-entropy over both.
        images: how many were tried.
        seconds: per forward pass of one image.
    """

    clean: float
    noisy: float
    loss: float
    images: int
    seconds: float

    @property
    def mean(self) -> float:
        return (self.clean + self.noisy) / 2

    def much_better(self, other: Accuracy) -> bool:
        """Whether it is ahead by more than chance and the taste of a training explain."""
        surer = self.mean > other.mean - BETTER / 5 and self.loss * SURER < other.loss
        return surer or self.mean > other.mean + BETTER

    def __str__(self) -> str:
        return f"{self.clean:.1%} without noise and {self.noisy:.1%} with it"


def accuracy(base: Base, data: Images, device: torch.device, normalization: Normalization | None = None) -> Accuracy:
    """Accuracy on at most 500 test images, evenly spread over the test set, without noise and with one draw of it.

    Args:
        normalization: instead of the classifier's own.
    """
    chosen = normalization or base.normalization
    model = place(nn.Sequential(Normalize(chosen.mean, chosen.std), base.model[1]), device).eval()
    indices = torch.arange(0, len(data), math.ceil(len(data) / IMAGES))
    generator = torch.Generator(device).manual_seed(derive(0, "check"))
    right = torch.zeros(2, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    begun = time.perf_counter()
    with torch.inference_mode():
        for part in torch.split(indices, ROWS):
            x = data.images(part).to(device)  # B C H W
            y = data.labels[part].to(device)
            noise = torch.empty_like(x).normal_(0.0, base.sigma, generator=generator)
            for kind, images in enumerate((x, x + noise)):
                logits = model(images)  # B K
                right[kind] += (logits.argmax(1) == y).sum()
                loss += F.cross_entropy(logits, y, reduction="sum")
    clean, noisy = (right.double() / len(indices)).tolist()
    tried = 2 * len(indices)
    seconds = (time.perf_counter() - begun) / tried
    return Accuracy(clean=clean, noisy=noisy, loss=float(loss) / tried, images=len(indices), seconds=seconds)


def warnings(base: Base, own: Accuracy, data: Images, device: torch.device) -> list[str]:
    """A sentence for each sign that weights, data set or normalisation are not what they should be.

    Args:
        own: accuracy as the classifier will be certified.
    """
    result = []
    chance = 1 / base.info.classes
    if own.clean <= chance + 3 * math.sqrt(chance * (1 - chance) / own.images):
        result.append(
            f"accuracy on {counted(own.images, 'test image')} without noise is {own.clean:.1%}, and chance is {chance:.1%}: "
            "are these the weights, the data set and the normalisation that belong together?"
        )
    if base.stated:
        return result
    others = {
        word: accuracy(base, data, device, other) for word, other in candidates(base.arch, base.info).items() if other != base.normalization
    }
    if better := {word: other for word, other in others.items() if other.much_better(own)}:
        best = min(better, key=lambda word: better[word].loss)
        result.append(
            f"normalisation may be wrong: {own.images} test images are right {better[best]} (cross-entropy {better[best].loss:.3f}) "
            f"under --normalize {best}, but {own} ({own.loss:.3f}) under {base.normalization}, which is used now"
        )
    return result
