"""The contract of a training method: a frozen bag of hyperparameters with one function, its loss."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from bench.smoothing import SmoothedClassifier

Terms = dict[str, Tensor]
"""Named, already weighted scalars. The training loss is their sum."""

Preset = tuple[str, str, str, float]
"""(recipe, variant, dataset, sigma): what a preset is for."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Another row's model, of the same data set, recipe, protocol and seed. It is trained first, and every row that asks it shares it.

    Attributes:
        method: name of the row, as `--method` takes it. sigma: its noise level; None: that of the training.
    """

    method: str
    sigma: float | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A question about every training image: which classes a model gives to noisy copies of it. A method declares it, the engine asks it.

    Copies are drawn and classified as in a certification, in evaluation mode; so the counts do not depend on how they are computed.

    Attributes:
        copies: noisy copies of each image under protocol full. Shorter protocols draw fewer; `train.survey_copies` says how many at most.
        votes: count every class; else right answers alone.
        first: the epoch of the recipe's clock before whose first step it is asked. every: again after so many epochs; 0: once.
        augmented: of images as the training sees them, augmented once for the whole survey; else as they are tested.
        of: whose model answers, under noise of its own level; None: the one being trained. Another's is asked once, before the first step.
    """

    copies: int
    votes: bool = False
    first: int = 0
    every: int = 0
    augmented: bool = False
    of: Prior | None = None

    def __post_init__(self) -> None:
        if self.copies < 1 or self.first < 0 or self.every < 0:
            raise ValueError("a survey needs copies from 1 up, and first and every that are not negative")
        if self.of is not None and (self.first or self.every):
            raise ValueError("another model is asked once and before the first step, so first and every must be 0")

    def epochs(self, end: float) -> range:
        """The epochs before which it is asked, of a training of so many."""
        return range(self.first, min(int(end), self.first + 1) if not self.every else int(end), self.every or 1)


@dataclass(frozen=True)
class Batch:
    """What a loss is computed on.

    Attributes:
        x: images, B C H W in [0, 1].
        y: labels, B (int64).
        epoch: on the recipe's clock (0 .. 89 for MNIST), however short the training is; a method never sees the protocol.
        epochs: the length of the training on that clock (90 for MNIST), so that epoch / epochs is its progress.
        index: places of the images in the training set, B (int64). Of a batch made by hand that does not say: 0 .. B-1.
        surveys: by name, what the last survey that was asked found of these images: the share of each class, B K, where it counts
            votes, else the share of right answers, B. One that was not asked yet is missing.
    """

    x: Tensor
    y: Tensor
    epoch: float
    epochs: float = 0.0
    index: Tensor = None  # type: ignore[assignment]  # never None once it is made
    surveys: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.y), device=self.y.device))
        if not self.epochs:  # the last epoch of a training that is no longer than that
            object.__setattr__(self, "epochs", float(self.epoch) + 1)

    def rows(self, rows: slice) -> Batch:
        """Some of its images."""
        surveys = {name: found[rows] for name, found in self.surveys.items()}
        return dataclasses.replace(self, x=self.x[rows], y=self.y[rows], index=self.index[rows], surveys=surveys)

    def cloned(self) -> Batch:
        """The same in memory of its own."""
        surveys = {name: found.clone() for name, found in self.surveys.items()}
        return dataclasses.replace(self, x=self.x.clone(), y=self.y.clone(), index=self.index.clone(), surveys=surveys)

    def take(self, other: Batch) -> None:
        """Overwrites its tensors with those of a batch of the same shape and epoch."""
        for own, new in ((self.x, other.x), (self.y, other.y), (self.index, other.index)):
            own.copy_(new)
        for name, found in self.surveys.items():
            found.copy_(other.surveys[name])


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
        comes from `g`. What Python computes may depend on hyperparameters, `batch.epoch` and which surveys there are, and on nothing
        else: on CUDA a step is recorded as a graph and replayed within an epoch.
        """

    def surveys(self) -> Mapping[str, Survey]:
        """Surveys of the training images, by name (lower case letters, digits, - and _); none unless a method overrides this."""
        return {}

    def weights(self, y: Tensor, right: Mapping[str, Tensor], epoch: float) -> Tensor | None:
        """How often each training image is drawn; None, unless a method overrides this: each once in every pass, in random order.

        With weights, images are drawn with replacement, with probabilities in their proportion; 0 leaves an image out. A pass keeps
        the number of its steps. The engine asks at the start of each pass, and again after every survey for what is left of the pass.

        Args:
            y: labels of the images that are trained on, N (int64), on the CPU.
            right: by survey that was asked, the share of right answers of each image, N (float64).
            epoch: as `Batch.epoch`, of the step that comes next.

        Returns:
            N finite numbers from 0 up, some of them above 0.
        """
        return None
