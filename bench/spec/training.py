"""What a training is: its recipe, and the run that it makes with a method."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from bench.errors import nearest
from bench.spec.canonical import canonical, digest
from bench.spec.images import normal, select_images
from bench.spec.stored import LATER, to_json
from bench.spec.values import Scalar, scalar_word

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
KEY = re.compile(r"[0-9a-f]{16}\Z")
TRAIN_PRECISIONS = ("float32", "tf32", "bf16", "fp16")
"""Of a training's passes: float32; its products in TF32 (CUDA only); bfloat16 or float16 where that is safe (autocast). Weights are
float32."""


def normalise(spec: Any) -> None:
    """Equal specs get equal keys: an int in a float's place becomes a float, `every=20` becomes `every:20`."""
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if f.type == "float" and type(value) is int:
            object.__setattr__(spec, f.name, float(value))
        elif f.name == "images":
            object.__setattr__(spec, f.name, normal(value))


def positive(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not value > 0:
            raise ValueError(f"{name}={value} must be greater than 0")


IN_MEMORY = ("none", "crop", "crop-flip")
"""Augmentations of images in memory: none, random crop after padding by 4, the same and a horizontal flip."""

STREAMED = ("none", "resized-crop-flip")
"""Augmentations of images that are decoded one by one: none, random resized crop and flip."""

AUGMENTS = tuple(dict.fromkeys(IN_MEMORY + STREAMED))


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How a base classifier is trained, apart from its loss.

    Training time is measured on the recipe's clock: `clock` epochs from start to end, however short the training
    is. Learning rate drops and a method's ramps are stated on that clock, so a shortened protocol shortens them all
    in proportion. With `epochs == clock` and every image it is the plain epoch number.
    """

    arch: str
    epochs: int  # passes over the chosen images
    clock: int  # epochs of the full recipe
    batch: int  # images per optimiser step
    lr: float
    lr_step: int  # clock epochs between drops of the learning rate
    lr_lag: int = 0  # clock epochs by which each drop comes late
    lr_gamma: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    images: str = "all"  # which training images, see `select_images`
    precision: str = "float32"  # of the base classifier's passes, see TRAIN_PRECISIONS
    augment: str = field(default="none", metadata=LATER)  # one of AUGMENTS
    devices: int = field(default=1, metadata=LATER)  # that share each step; the order of their sums and batch norm make it another training
    sync_batchnorm: bool = field(default=False, metadata=LATER)  # batch norm over the whole step, not over each device's share
    survey_copies: int = field(default=0, metadata=LATER)  # most copies of an image in a method's surveys; 0: as the protocol says

    def __post_init__(self) -> None:
        normalise(self)
        positive(self, "epochs", "clock", "batch", "lr", "lr_step", "lr_gamma")
        for name in ("lr_lag", "momentum", "weight_decay", "survey_copies"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=true needs a momentum greater than 0")
        if self.precision not in TRAIN_PRECISIONS:
            raise ValueError(f"precision={self.precision} is not supported{nearest(self.precision, TRAIN_PRECISIONS)}")
        if self.augment not in AUGMENTS:
            raise ValueError(f"augment={self.augment} is unknown{nearest(self.augment, AUGMENTS)}")
        if not 1 <= self.devices <= self.batch:
            raise ValueError(f"devices={self.devices} must lie between 1 and batch={self.batch}, the images of a step that they share")
        if self.sync_batchnorm and self.devices == 1:
            raise ValueError("sync_batchnorm=true needs devices greater than 1")
        select_images(self.images, 1)

    def lr_at(self, epoch: int) -> float:
        """Learning rate at an epoch of the recipe's clock (a step schedule)."""
        return self.lr * self.lr_gamma ** (max(0, epoch - self.lr_lag) // self.lr_step)


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One trained model: what the training key is made of."""

    method: str
    variant: str
    hyperparameters: Mapping[str, Scalar]  # every field of the method, resolved
    dataset: str
    sigma: float  # noise level, in pixels of [0, 1]
    seed: int
    recipe: str
    protocol: str
    train: TrainSpec
    changes: Mapping[str, Scalar] = field(default_factory=dict)  # --set: hyperparameters by name, training as train.name
    depends: str = field(default="", metadata=LATER)  # key of the training whose model it asks, if it asks another

    def __post_init__(self) -> None:
        normalise(self)
        for name in ("method", "variant", "dataset", "recipe", "protocol"):
            if not NAME.match(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)!r} is not a name: lower case letters, digits, - and _")
        check_sigma(self.sigma)
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} must lie in 0 .. 2**63 - 1")
        if self.depends and not KEY.match(self.depends):
            raise ValueError(f"depends={self.depends!r} is not the key of a training")

    @cached_property
    def key(self) -> str:
        """16 hex digits; names the training."""
        return digest(to_json(self))

    @cached_property
    def row(self) -> str:
        """The name of the table row, e.g. `smoothmix.eta5[step_size=0.5]`."""
        return row_name(self.method, self.variant, {k: v for k, v in self.changes.items() if "." not in k})

    @cached_property
    def cell(self) -> str:
        """What seeds of one configuration share: the canonical spec without its seed, and the key of the training that goes with it."""
        return canonical({k: v for k, v in to_json(self).items() if k not in ("seed", "depends")})


def row_name(method: str, variant: str, changes: Mapping[str, Scalar]) -> str:
    """The name of a table row, e.g. `smoothmix.eta5[step_size=0.5]`: changed hyperparameters stand in its brackets."""
    name = method if variant == "default" else f"{method}.{variant}"
    own = [f"{k}={scalar_word(v)}" for k, v in sorted(changes.items())]
    return f"{name}[{','.join(own)}]" if own else name


def names_row(word: str, row: str, *names: str) -> bool:
    """Whether a word of `--method` means a row: the row's name, another name of it such as its method's, or a pattern of the row's name."""
    pattern = re.sub(r"\[(?=[^\[\]]*=)", "[[]", word)  # the brackets of changes stand for themselves
    return word in (row, *names) or fnmatchcase(row, pattern)


def check_sigma(sigma: float) -> None:
    """ValueError unless sigma is a finite number above 0."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma {sigma} must be a finite number greater than 0, such as 0.25")
