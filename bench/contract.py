"""The public contracts of a method and of a data set, checked by using them. `bench check` and the tests call this."""

from __future__ import annotations

import dataclasses
import random
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.data import of
from bench.datasets import DATASETS, Arrays, DatasetInfo
from bench.datasets.check import folder_of, read_checked
from bench.datasets.source import SPLITS
from bench.errors import BenchError, nearest
from bench.method import Batch, Method, Terms
from bench.models import check_arch
from bench.registry import Loaded
from bench.smoothing import SmoothedClassifier
from bench.spec import PROTOCOLS, canonical, coerce, parse_json, protocol_train, select_images
from bench.train.loop import check_terms, line_of

CLASSES = 3
SHAPE = (1, 8, 8)
EPOCHS = (0.0, 15.0, 89.0)


@dataclass(frozen=True)
class Result:
    """One promise of the contract, and what broke it (None: it holds, unless it was not tried, for want of those before it)."""

    promise: str
    problem: str | None
    tried: bool = True


class _Broken(Exception):
    """A promise that does not hold, in a sentence."""


class _Tiny(nn.Module):
    """A convolution, batch norm and a linear layer: has modes, buffers and several parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.tanh(self.norm(self.conv(x))).mean((2, 3)))  # type: ignore[no-any-return]


def check(loaded: Loaded) -> list[Result]:
    """Every promise of a method, in order. A promise that raises is broken, with the exception as its problem."""
    promises: list[tuple[str, Callable[[Loaded], None]]] = [
        ("hyperparameters survive JSON", _survives_json),
        ("the docstring names a source", _names_a_source),
        ("the loss is made of named, finite scalar terms", _terms_are_finite),
        ("every parameter gets a gradient", _gradient_everywhere),
        ("modes, flags, weights and the batch are left as found", _leaves_no_trace),
        ("the handed generator decides everything", _generator_decides),
        ("any batch size, shape and epoch will do", _any_shape),
    ]
    results = []
    for promise, test in promises:
        results.append(_try(promise, partial(test, loaded), lambda error: line_of(error, next(_instances(loaded)))))
        if results[-1].problem and test is _terms_are_finite:
            break  # what follows needs a loss
    return results + [Result(promise, None, tried=False) for promise, _ in promises[len(results) :]]


def _try(promise: str, test: Callable[[], object], where: Callable[[BaseException], str]) -> Result:
    try:
        test()
        return Result(promise, None)
    except (_Broken, BenchError) as broken:
        return Result(promise, str(broken))
    except (Exception, SystemExit) as error:
        return Result(promise, f"{type(error).__name__}: {error}{where(error)}")


def check_dataset(info: DatasetInfo, data_dir: Path | None = None) -> list[Result]:
    """Every promise of a data set, in order; it ends with the first that is broken, since the next ones build on it.

    Args:
        data_dir: the folder to look in; None: those of BENCH_DATA_DIR and the user's cache.
    """
    promises: list[tuple[str, Callable[[DatasetInfo, Path | None], object]]] = [
        ("its network takes its images, its protocols choose some of them", _facts_fit),
        ("its files are found", folder_of),
        ("both splits fit its facts and are the published ones", _splits_fit),
        ("reading twice gives the same", _reads_the_same),
        ("batches are float32 in [0, 1] and depend on the seed alone", _batches_fit),
    ]
    results = []
    for promise, test in promises:
        results.append(_try(promise, partial(test, info, data_dir), lambda error: ""))
        if results[-1].problem:
            break
    return results + [Result(promise, None, tried=False) for promise, _ in promises[len(results) :]]


def _facts_fit(info: DatasetInfo, data_dir: Path | None) -> None:
    if info.like is not None and info.like not in DATASETS:
        raise _Broken(f"it is like {info.like!r}, which is no data set{nearest(info.like, DATASETS)}")
    if info.source is not None and info.train.augment not in info.source.augments:
        raise _Broken(f"augment={info.train.augment} is not for its images; there is {', '.join(info.source.augments)}")
    for protocol in map(info.protocol, PROTOCOLS.values()):
        train = protocol_train(info.train, protocol)
        check_arch(train.arch, info, info.sigmas[0])
        for images, size in ((train.images, info.train_size), (protocol.certify.images, info.test_size)):
            if not select_images(images, size):
                raise _Broken(f"images={images} of protocol {protocol.name} selects none of {size} images")


def _splits_fit(info: DatasetInfo, data_dir: Path | None) -> None:
    for split in SPLITS:
        read_checked(info, split, data_dir)


def _reads_the_same(info: DatasetInfo, data_dir: Path | None) -> None:
    for split in SPLITS:
        one, two = (read_checked(info, split, data_dir).split for _ in range(2))
        if not np.array_equal(one.labels, two.labels) or one.checksums != two.checksums:
            raise _Broken(f"the labels or check sums of the {split} split differ between two readings")
        if isinstance(one, Arrays) and isinstance(two, Arrays) and not np.array_equal(one.pixels, two.pixels):
            raise _Broken(f"the images of the {split} split differ between two readings")


def _batches_fit(info: DatasetInfo, data_dir: Path | None) -> None:
    assert info.source is not None
    data = of(info, read_checked(info, "train", data_dir))
    order = torch.arange(min(6, len(data)))
    for augment in info.source.augments:
        before = torch.random.get_rng_state()
        whole = torch.cat([x for x, _ in data.batches(order, 3, augment=augment, seed=1)])
        again = torch.cat([x for x, _ in data.batches(order, 6, augment=augment, seed=1)])
        if whole.dtype != torch.float32 or whole.shape != (len(order), *info.shape) or not 0 <= whole.min() <= whole.max() <= 1:
            raise _Broken(f"images under augment={augment} are {whole.dtype} of {tuple(whole.shape)} in {whole.min():g} .. {whole.max():g}")
        if not torch.equal(whole, again) or not torch.equal(before, torch.random.get_rng_state()):
            raise _Broken(f"images under augment={augment} depend on more than the seed")


def _instances(loaded: Loaded) -> Iterator[Method]:
    """Distinct hyperparameters to try: those of the presets, or the defaults."""
    cls = loaded.cls
    yield from dict.fromkeys(cls.presets.values()) if cls.presets else (cls(),)


def _setup(shape: tuple[int, int, int] = SHAPE, batch: int = 4, epoch: float = 89.0) -> tuple[SmoothedClassifier, Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        base = _Tiny(shape[0]).train()
        x = torch.rand(batch, *shape)
    return SmoothedClassifier(base, 0.5, torch.Generator().manual_seed(11)), Batch(x=x, y=torch.arange(batch) % CLASSES, epoch=epoch)


def _survives_json(loaded: Loaded) -> None:
    hints = typing.get_type_hints(loaded.cls)
    for method in _instances(loaded):
        values = parse_json(canonical({f.name: getattr(method, f.name) for f in dataclasses.fields(method)}))
        if type(method)(**{name: coerce(value, hints[name]) for name, value in values.items()}) != method:
            raise _Broken(f"{method} comes back from JSON as something else")


def _names_a_source(loaded: Loaded) -> None:
    if not re.search(r"\b(19|20)\d\d\b", loaded.doc):
        raise _Broken('the docstring at the top of the file must name the publication: authors, "title", venue and year')


def _terms_are_finite(loaded: Loaded) -> None:
    for method in _instances(loaded):
        for epoch in EPOCHS:
            g, batch = _setup(epoch=epoch)
            terms = check_terms(method.loss(g, batch))
            for name, term in terms.items():
                if not bool(term.isfinite()):
                    raise _Broken(f"term {name!r} is {float(term.detach())} at epoch {epoch:g}")
            if not any(term.requires_grad for term in terms.values()):
                raise _Broken("no term has a gradient")


def _gradient_everywhere(loaded: Loaded) -> None:
    for method in _instances(loaded):
        g, batch = _setup()
        _sum(method.loss(g, batch)).backward()  # type: ignore[no-untyped-call]
        for name, parameter in g.base.named_parameters():
            # A bias before batch norm has a zero gradient by construction, so only its absence counts there.
            if parameter.grad is None or (name.startswith("linear") and not bool(parameter.grad.any())):
                raise _Broken(f"parameter {name} gets no gradient")
            if not bool(parameter.grad.isfinite().all()):
                raise _Broken(f"the gradient of parameter {name} is not finite")


def _leaves_no_trace(loaded: Loaded) -> None:
    for method in _instances(loaded):
        g, batch = _setup()
        x, y = batch.x.clone(), batch.y.clone()
        weights = {name: p.detach().clone() for name, p in g.base.named_parameters()}
        g.base.get_parameter("linear.bias").requires_grad_(False)
        g.base.get_submodule("norm").eval()
        flags = [p.requires_grad for p in g.base.parameters()]
        modes = [m.training for m in g.base.modules()]
        method.loss(g, batch)
        if [m.training for m in g.base.modules()] != modes:
            raise _Broken("a module's training mode was changed; use g.frozen() for evaluation mode")
        if [p.requires_grad for p in g.base.parameters()] != flags:
            raise _Broken("a parameter's requires_grad was changed")
        if any(p.grad is not None for p in g.base.parameters()):
            raise _Broken("the loss must not call backward on the parameters")
        if not (torch.equal(x, batch.x) and torch.equal(y, batch.y)) or batch.x.requires_grad or batch.x.grad is not None:
            raise _Broken("the batch was changed")
        if not all(torch.equal(weights[name], p) for name, p in g.base.named_parameters()):
            raise _Broken("the weights were changed")


def _generator_decides(loaded: Loaded) -> None:
    for method in _instances(loaded):
        losses = []
        for ambient in (1, 2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(ambient)
                random.seed(ambient)
                np.random.seed(ambient)  # noqa: NPY002 - the global generator is what a method must not use
                before = (torch.random.get_rng_state(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002
                g, batch = _setup()
                losses.append(float(_sum(method.loss(g, batch)).detach()))
                after = (torch.random.get_rng_state(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002
            if not torch.equal(before[0], after[0]) or before[1:] != after[1:]:
                raise _Broken("a global random generator was used; draw from g.noise and g.uniform only")
        if losses[0] != losses[1]:
            raise _Broken(f"equal generators gave losses {losses[0]} and {losses[1]}")


def _any_shape(loaded: Loaded) -> None:
    for method in _instances(loaded):
        for shape, batch_size in ((SHAPE, 2), ((3, 9, 7), 5)):
            g, batch = _setup(shape, batch_size)
            if not bool(_sum(method.loss(g, batch)).isfinite()):
                raise _Broken(f"the loss is not finite for images of shape {shape}")


def _sum(terms: Terms) -> Tensor:
    return torch.stack(list(terms.values())).sum()
