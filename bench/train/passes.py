"""What a method's loss sends through the base classifier, counted by running it, not declared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from bench.datasets import DatasetInfo
from bench.method import Batch, Method
from bench.smoothing import SmoothedClassifier
from bench.train.surveys import even


class _Counter(nn.Module):
    """A tiny classifier that counts the rows that pass through it, in training mode and, by pass, in evaluation mode."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.linear = nn.Linear(info.shape[0], info.classes)
        self.trained = 0
        self.attacked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.trained += len(x)
        else:
            self.attacked.append(len(x))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What the loss of one image sends through the base classifier, forward and backward, on average over a training.

    Attributes:
        trained: rows whose gradient goes to the weights. kept: most of them in an epoch; all are kept until the backward pass.
        attacked: rows whose gradient goes to the images. at_once: those of the largest such pass.
    """

    trained: float
    kept: float
    attacked: float
    at_once: float


def passes_per_image(method: Method, info: DatasetInfo) -> Passes:
    """Forward and backward passes per training image, counted by running the loss, not declared.

    The loss is run in the first and the last epoch of the recipe's clock, and in all between where these two differ.
    """
    clock = info.train.clock
    epochs = [_in_epoch(method, info, epoch) for epoch in (0, clock - 1)]
    if epochs[0] != epochs[1]:
        epochs = [_in_epoch(method, info, epoch) for epoch in range(clock)]
    trained, attacked, at_once = zip(*epochs, strict=True)
    return Passes(trained=fmean(trained), kept=max(trained), attacked=fmean(attacked), at_once=max(at_once))


def _in_epoch(method: Method, info: DatasetInfo, epoch: int) -> tuple[float, float, float]:
    """Per image: rows trained, rows attacked, and those of the largest attacked pass."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = _Counter(info)
        batch = Batch(
            x=torch.rand(2, *info.shape),
            y=torch.arange(2) % info.classes,
            epoch=float(epoch),
            epochs=float(info.train.clock),
        )
        batch = dataclasses.replace(batch, surveys=even(method, 2, info.classes))
        method.loss(SmoothedClassifier(base, info.sigmas[0], generator), batch)
    return base.trained / 2, sum(base.attacked) / 2, max(base.attacked, default=0) / 2


def pairs_per_image(method: Method, info: DatasetInfo) -> float:
    """Forward and backward passes per training image, of either kind: the cost that ACR is bought with."""
    passes = passes_per_image(method, info)
    return passes.trained + passes.attacked
