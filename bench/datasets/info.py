"""What is known of a data set before its images are read, and the recipe of its training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.source import Source, roots
from bench.errors import BenchError
from bench.spec import NAME, PROTOCOLS, Protocol, Scalar, TrainSpec, canonical, check_sigma, from_json, replace_checked, to_json


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A data set: its facts, the recipe of its training, and where its images come from.

    Attributes:
        shape: channels, height, width.
        mean, std: per channel, of pixels in [0, 1]; the model's first layer applies them.
        sigmas: the noise levels that are run if none is asked for.
        train: the training with plain SGD switches; see `recipe_train`.
        source: how its files lie on disk; None: facts alone, as a run of a data set that is not at hand has them.
        like: the data set whose presets a method's are taken from, where it has none for this one.
        protocols: protocol name -> what differs in it for this data set, as `train.epochs`, `certify.images`.
    """

    name: str
    summary: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_size: int
    test_size: int
    sigmas: tuple[float, ...]
    train: TrainSpec
    source: Source | None = None
    like: str | None = None
    protocols: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in (self.name, *([self.like] if self.like else [])):
            if not NAME.match(name):
                raise ValueError(f"{name!r} is no name for a data set: lower case letters, digits, - and _")
        numbers = (self.classes, self.train_size, self.test_size, *self.shape)
        if len(self.shape) != 3 or not all(type(n) is int and 0 < n < 10**9 for n in numbers) or self.classes < 2:
            raise ValueError("classes, sizes and the three numbers of shape must be whole numbers from 1 up, classes from 2 up")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean and std need one number for each of the {self.shape[0]} channels")
        if not all(map(math.isfinite, self.mean + self.std)) or not all(s > 0 for s in self.std):
            raise ValueError("mean and std must be finite numbers, std greater than 0")
        if not self.sigmas:
            raise ValueError("sigmas must name at least one noise level")
        for sigma in self.sigmas:
            check_sigma(sigma)
        for name in self.protocols:
            if name not in PROTOCOLS:
                raise ValueError(f"protocols: there is no protocol {name!r}, but {', '.join(PROTOCOLS)}")
            self.protocol(PROTOCOLS[name])

    def check_shape(self, network: str, shape: tuple[int, int, int]) -> None:
        """BenchError unless its images have the shape that a network takes."""
        if self.shape != shape:
            wanted, found = ("x".join(map(str, size)) for size in (shape, self.shape))
            raise BenchError(f"{network} takes images of {wanted}, but {self.name} has {found}")

    def protocol(self, protocol: Protocol) -> Protocol:
        """A protocol as it is for this data set.

        Raises:
            ValueError: the data set changes what there is not.
        """
        own = self.protocols.get(protocol.name, {})
        if odd := [name for name in own if not name.startswith(("train.", "certify."))]:
            raise ValueError(f"protocols: {odd[0]} is neither train.NAME nor certify.NAME")
        fields = {part: {k.removeprefix(part): v for k, v in own.items() if k.startswith(part)} for part in ("train.", "certify.")}
        _, problems = replace_checked(self.train, fields["train."], "train")
        certify, others = replace_checked(protocol.certify, fields["certify."], "certify")
        if problems or others:
            raise ValueError("; ".join(["protocols", *problems, *others]))
        return dataclasses.replace(protocol, train={**protocol.train, **fields["train."]}, certify=certify)

    def test_labels(self) -> tuple[int, ...]:
        """True classes of the test images, in order.

        Raises:
            BenchError: they are not known here, or files that ship with the package are damaged.
        """
        labels = self.known_labels()
        if labels is None:
            raise BenchError(f"the test labels of {self.name} are not known: its published files are not on this machine")
        return labels

    def known_labels(self) -> tuple[int, ...] | None:
        """True classes of the test images, in order, which evidence is checked against.

        Returns:
            None where they are not known: the published files are not on this machine (of BENCH_DATA_DIR and the user's cache).

        Raises:
            BenchError: files that ship with the package are damaged.
        """
        if self.source is None:
            return None
        if (fixed := _fixed_labels(self)) is not None:
            return fixed
        folder = self.source.find(roots())
        return None if folder is None or self.source.missing(folder, "test") else _test_labels(self, folder)


@cache
def _fixed_labels(info: DatasetInfo) -> tuple[int, ...] | None:
    fixed = info.source.fixed_labels() if info.source else None
    return None if fixed is None else tuple(fixed.tolist())


@cache
def _test_labels(info: DatasetInfo, folder: Path) -> tuple[int, ...] | None:
    assert info.source is not None
    try:
        labels, checksums = info.source.labels(folder)
    except BenchError:
        if info.source.ships:
            raise
        return None
    fits = len(labels) == info.test_size and bool(np.isin(labels, np.arange(info.classes)).all())
    return tuple(labels.tolist()) if fits and not info.source.differences(checksums) else None


MOST_CLASSES = 100_000
_FACTS = ("summary", "classes", "shape", "mean", "std", "train_size", "test_size", "sigmas", "like")


def facts_of(info: DatasetInfo) -> dict[str, Any]:
    """The facts as JSON values: what a run of a data set that is no part of the suite keeps beside it."""
    return {name: getattr(info, name) for name in _FACTS} | {"train": to_json(info.train)}


def from_facts(name: str, data: Mapping[str, Any], where: str) -> DatasetInfo:
    """A data set without files, from what `facts_of` gave.

    Raises:
        BenchError: facts that no data set can have; `where` opens the sentence.
    """
    try:
        values: dict[str, Any] = {key: tuple(data[key]) if isinstance(data[key], list) else data[key] for key in _FACTS}
        if not isinstance(data["summary"], str) or not isinstance(data["like"], str | None):
            raise TypeError("summary must be text, and like, where there is one")
        if type(data["classes"]) is not int or data["classes"] > MOST_CLASSES:
            raise ValueError(f"classes must be a whole number up to {MOST_CLASSES:,}")
        return DatasetInfo(name=name, train=from_json(TrainSpec, canonical(data["train"]), where), **values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BenchError(f"{where}: these are no facts of a data set ({type(error).__name__}: {error})") from None


def recipe_train(info: DatasetInfo, recipe: str, chunks: int) -> TrainSpec:
    """The training of a recipe, apart from the loss.

    The paper and its authors' code differ in three fields of it:
    `nesterov` (Appendix C: Nesterov momentum; code: plain), `lr_lag` (Appendix C: the rate drops at epochs 30 and 60, on CIFAR-10 50
    and 100; code: one epoch later), `batch` (the paper states none, so 256 for every method; code: a loader batch of 256 cut
    into `chunks` pieces with one optimiser step each).

    Args:
        chunks: pieces that the method's script cuts a loader batch into.
    """
    if recipe == "paper":
        return dataclasses.replace(info.train, nesterov=True, lr_lag=0)
    return dataclasses.replace(info.train, nesterov=False, lr_lag=1, batch=max(1, info.train.batch // chunks))
