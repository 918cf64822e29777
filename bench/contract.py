"""The public contract of a method, checked by running it on a tiny classifier. `bench check` and the tests call it."""

from __future__ import annotations

import dataclasses
import random
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.method import Batch, Method, Terms
from bench.registry import Loaded
from bench.smoothing import SmoothedClassifier
from bench.spec import canonical, coerce, parse_json
from bench.train import check_terms, line_of

CLASSES = 3
SHAPE = (1, 8, 8)
EPOCHS = (0.0, 15.0, 89.0)


@dataclass(frozen=True)
class Result:
    """One promise of the contract, and what broke it (None: it holds)."""

    promise: str
    problem: str | None


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
    """Every promise, in order. A promise that raises is broken, with the exception as its problem."""
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
        try:
            test(loaded)
            results.append(Result(promise, None))
        except _Broken as broken:
            results.append(Result(promise, str(broken)))
        except BenchError as error:
            results.append(Result(promise, str(error)))
        except (Exception, SystemExit) as error:
            where = line_of(error, next(_instances(loaded)))
            results.append(Result(promise, f"{type(error).__name__}: {error}{where}"))
        if results[-1].problem and test is _terms_are_finite:
            break  # what follows needs a loss
    return results


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
                    raise _Broken(f"term {name!r} is {float(term)} at epoch {epoch:g}")
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
