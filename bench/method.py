"""The contract of a training method: a frozen bag of hyperparameters with one function, its loss."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from bench.smoothing import SmoothedClassifier

Terms = dict[str, Tensor]
"""Named, already weighted scalars. The training loss is their sum."""

Preset = tuple[str, str, str, float]
"""(recipe, variant, dataset, sigma): what a preset is for."""


@dataclass(frozen=True)
class Batch:
    """What a loss is computed on.

    Attributes:
        x: images, B C H W in [0, 1]. y: labels, B (int64).
        epoch: on the recipe's clock (0 .. 89 for MNIST), however short the training is; a method never sees the protocol.
        epochs: the length of the training on that clock (90 for MNIST), so that epoch / epochs is its progress.
        index: places of the images in the training set, B (int64). Of a batch made by hand that does not say: 0 .. B-1.
    """

    x: Tensor
    y: Tensor
    epoch: float
    epochs: float = 0.0
    index: Tensor = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.y), device=self.y.device))
        if not self.epochs:  # the last epoch of a training that is no longer than that
            object.__setattr__(self, "epochs", float(self.epoch) + 1)

    def rows(self, rows: slice) -> Batch:
        """Some of its images."""
        return dataclasses.replace(self, x=self.x[rows], y=self.y[rows], index=self.index[rows])

    def cloned(self) -> Batch:
        """The same in memory of its own."""
        return dataclasses.replace(self, x=self.x.clone(), y=self.y.clone(), index=self.index.clone())

    def take(self, other: Batch) -> None:
        """Overwrites its tensors with those of a batch of the same shape and epoch."""
        for own, new in ((self.x, other.x), (self.y, other.y), (self.index, other.index)):
            own.copy_(new)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A training method. Subclass it in a file of its own, as a frozen keyword-only dataclass of hyperparameters.

    Class attributes that a file may set (none is needed):
        variants: names of its variants, the default one first. Written as a plain tuple of strings, because it is
            read without running the file.
        presets: hyperparameters by (recipe, variant, dataset, sigma). Without any, the field defaults serve every data set and
            noise level.
        chunks: into how many pieces the authors' script cuts a loader batch, one optimiser step each, as a field's
            name or a number (the `official` recipe divides the batch by it).
        separable: whether every term is a mean over the batch's images, each image's share depending on that image and its own
            draws alone. `--micro-batch` computes such a loss in pieces.

    The comment behind a field is its documentation, which `bench show` prints: the paper's symbol before a colon (if it has one), the
    meaning, and in brackets the source: `step_size: float = 1.0  # alpha: L2 length of a step [Algorithm 1]`.
    """

    variants: ClassVar[tuple[str, ...]] = ("default",)
    presets: ClassVar[Mapping[Preset, Method]] = {}
    chunks: ClassVar[str | int] = 1
    separable: ClassVar[bool] = False

    def __new__(cls, **_: object) -> Self:
        """TypeError that names the decorator, where it was forgotten; without it a class has no __init__ for its fields."""
        if "__dataclass_params__" not in vars(cls):
            raise TypeError(f"write @dataclass(frozen=True, kw_only=True) above class {cls.__name__}")
        return super().__new__(cls)

    @abstractmethod
    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        """The training loss as named terms.

        The base classifier is in training mode; it must be left so, with every flag as it was found. All randomness
        comes from `g`. What Python computes may depend on hyperparameters and `batch.epoch` alone: on CUDA a step is recorded
        as a graph and replayed within an epoch.
        """
