"""The public contracts of a method and of a data set, checked by using them. `bench check` and the tests call this."""

from __future__ import annotations

import dataclasses
import random
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from bench.train.surveys import check_weights, checked

CLASSES = 3
SHAPE = (1, 8, 8)
EPOCHS = ((0.0, 90.0), (15.0, 90.0), (89.0, 90.0), (149.0, 150.0))
"""At which a loss is tried, of trainings of so many."""


@dataclass(frozen=True)
class Result:
    """One promise of the contract, and what broke it (None: it holds, unless it was not tried, for want of those before it)."""

    promise: str
    problem: str | None
    tried: bool = True


def check_metric(word: str) -> Result:
    """Computes a metric that was loaded from made-up counts: images that are certified right and wrong, and one that abstains."""
    from bench.evidence.columns import Columns
    from leaderboard.metrics import METRICS, outcomes

    label, selected, count = (0, 1, 2, 1), (0, 1, 1, 1), (1000, 800, 900, 500)
    rest = [1000 - c for c in count]
    fields = (range(4), label, selected, selected, [2] * 4, count, rest, [100] * 4, [1000] * 4)
    columns = Columns(*(np.array(field, dtype=np.int32) for field in fields))
    made = outcomes(columns, alpha=0.001, sigma=0.5)
    problem = None
    try:
        for column in (column for function in METRICS[word] for column in function(("0.50",), 3)):
            _ = column.of_seed(made) if column.of_seed else column.of_row and column.of_row([made, made])
    except BenchError as error:
        problem = str(error)
    return Result("it gives a number, or None, for counts of four images", problem)


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


def _hold(holds: object, otherwise: str) -> None:
    if not holds:
        raise _Broken(otherwise)


def check(loaded: Loaded) -> list[Result]:
    """Every promise of a method, in order. A promise that raises is broken, with the exception as its problem."""
    instances = tuple(dict.fromkeys(loaded.cls.presets.values())) or (loaded.cls(),)  # distinct hyperparameters

    def each(test: Callable[[Method], None]) -> Callable[[], object]:
        return lambda: list(map(test, instances))

    asks = any(instance.surveys() for instance in instances) or loaded.cls.weights is not Method.weights
    return _results(
        {
            "hyperparameters survive JSON": each(_survives_json),
            "the docstring names a source": lambda: _names_a_source(loaded.doc),
            "the loss is made of named, finite scalar terms": each(_terms_are_finite),
            "every parameter gets a gradient": each(_gradient_everywhere),
            "modes, flags, weights and the batch are left as found": each(_leaves_no_trace),
            "the handed generator decides everything": each(_generator_decides),
            "any batch size, shape and epoch will do": each(_any_shape),
        }
        | ({"its surveys can be asked, and images drawn by its weights": each(_asks_and_weights)} if asks else {}),
        lambda error: line_of(error, instances[0]),
        last=("the loss is made of named, finite scalar terms",),  # what follows needs a loss
    )


def check_dataset(info: DatasetInfo, data_dir: Path | None = None) -> list[Result]:
    """Every promise of a data set, in order; it ends with the first that is broken, since the next ones build on it.

    Args:
        data_dir: the folder to look in; None: those of BENCH_DATA_DIR and the user's cache.
    """
    promises: dict[str, Callable[[], object]] = {
        "its network takes its images, its protocols choose some of them": lambda: _facts_fit(info),
        "its files are found": lambda: folder_of(info, data_dir),
        "both splits fit its facts and are the published ones": lambda: [read_checked(info, split, data_dir) for split in SPLITS],
        "reading twice gives the same": lambda: _reads_the_same(info, data_dir),
        "batches are float32 in [0, 1] and depend on the seed alone": lambda: _batches_fit(info, data_dir),
    }
    return _results(promises, lambda error: "", last=promises)


def _results(promises: Mapping[str, Callable[[], object]], where: Callable[[BaseException], str], last: Collection[str]) -> list[Result]:
    """What became of each promise; one of `last` that is broken leaves the rest untried."""
    results: list[Result] = []
    for promise, test in promises.items():
        if any(result.problem and result.promise in last for result in results):
            results.append(Result(promise, None, tried=False))
            continue
        try:
            test()
            results.append(Result(promise, None))
        except (_Broken, BenchError) as broken:
            results.append(Result(promise, str(broken)))
        except (Exception, SystemExit) as error:
            results.append(Result(promise, f"{type(error).__name__}: {error}{where(error)}"))
    return results


def _facts_fit(info: DatasetInfo) -> None:
    _hold(info.like is None or info.like in DATASETS, f"it is like {info.like!r}, which is no data set{nearest(str(info.like), DATASETS)}")
    augments, augment = info.source.augments if info.source else (), info.train.augment
    _hold(not info.source or augment in augments, f"augment={augment} is not for its images; there is {', '.join(augments)}")
    for protocol in map(info.protocol, PROTOCOLS.values()):
        train = protocol_train(info.train, protocol)
        check_arch(train.arch, info, info.sigmas[0])
        for images, size in ((train.images, info.train_size), (protocol.certify.images, info.test_size)):
            chosen = select_images(images, size)
            _hold(len(chosen), f"images={images} of protocol {protocol.name} selects none of {size} images")


def _reads_the_same(info: DatasetInfo, data_dir: Path | None) -> None:
    for split in SPLITS:
        one, two = (read_checked(info, split, data_dir).split for _ in range(2))
        same = np.array_equal(one.labels, two.labels) and one.checksums == two.checksums
        _hold(same, f"the labels or check sums of the {split} split differ between two readings")
        images: list[NDArray[Any]] = [found.pixels if isinstance(found, Arrays) else found.names for found in (one, two)]
        _hold(np.array_equal(images[0], images[1]), f"the images of the {split} split differ between two readings")


def _batches_fit(info: DatasetInfo, data_dir: Path | None) -> None:
    assert info.source is not None
    data = of(info, read_checked(info, "train", data_dir))
    order = torch.arange(min(6, len(data)))
    for augment in info.source.augments:
        before = torch.random.get_rng_state()
        whole, again = (torch.cat([x for x, _ in data.batches(order, size, augment=augment, seed=1)]) for size in (3, 6))
        fits = whole.dtype == torch.float32 and whole.shape == (len(order), *info.shape) and 0 <= whole.min() <= whole.max() <= 1
        found = f"{whole.dtype} of {tuple(whole.shape)} in {whole.min():g} .. {whole.max():g}"
        _hold(fits, f"images under augment={augment} are {found}")
        alone = torch.equal(whole, again) and torch.equal(before, torch.random.get_rng_state())
        _hold(alone, f"images under augment={augment} depend on more than the seed")


def _setup(
    method: Method, shape: tuple[int, int, int] = SHAPE, batch: int = 4, epoch: float = 89.0, epochs: float = 90.0
) -> tuple[SmoothedClassifier, Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        base = _Tiny(shape[0]).train()
        x = torch.rand(batch, *shape)
        found = {
            name: torch.rand(batch, CLASSES).softmax(1) if survey.votes else torch.rand(batch)
            for name, survey in checked(method).items()
            if survey.first <= epoch
        }
    index = 3 * torch.arange(batch).flip(0)
    whole = Batch(x=x, y=torch.arange(batch) % CLASSES, epoch=epoch, epochs=epochs, index=index, surveys=found)
    return SmoothedClassifier(base, 0.5, torch.Generator().manual_seed(11)), whole


def _survives_json(method: Method) -> None:
    hints = typing.get_type_hints(type(method))
    values = parse_json(canonical({f.name: getattr(method, f.name) for f in dataclasses.fields(method)}))
    again = type(method)(**{name: coerce(value, hints[name]) for name, value in values.items()})
    _hold(again == method, f"{method} comes back from JSON as something else")


def _names_a_source(doc: str) -> None:
    wanted = 'the docstring at the top of the file must name the publication: authors, "title", venue and year'
    _hold(re.search(r"\b(19|20)\d\d\b", doc), wanted)


def _terms_are_finite(method: Method) -> None:
    for epoch, epochs in EPOCHS:
        terms = check_terms(method.loss(*_setup(method, epoch=epoch, epochs=epochs)))
        for name, term in terms.items():
            _hold(term.isfinite(), f"term {name!r} is {float(term.detach())} at epoch {epoch:g} of {epochs:g}")
        _hold(any(term.requires_grad for term in terms.values()), "no term has a gradient")


def _gradient_everywhere(method: Method) -> None:
    g, batch = _setup(method)
    _sum(method.loss(g, batch)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in g.base.named_parameters():
        gradient = parameter.grad
        # A bias before batch norm has a zero gradient by construction, so only its absence counts there.
        _hold(gradient is not None and (gradient.any() or not name.startswith("linear")), f"parameter {name} gets no gradient")
        _hold(gradient is not None and gradient.isfinite().all(), f"the gradient of parameter {name} is not finite")


def _leaves_no_trace(method: Method) -> None:
    g, batch = _setup(method)
    before = batch.cloned()
    weights = {name: p.detach().clone() for name, p in g.base.named_parameters()}
    g.base.get_parameter("linear.bias").requires_grad_(False)
    g.base.get_submodule("norm").eval()
    flags = [p.requires_grad for p in g.base.parameters()]
    modes = [m.training for m in g.base.modules()]
    method.loss(g, batch)
    now = [m.training for m in g.base.modules()]
    _hold(now == modes, "a module's training mode was changed; use g.frozen() for evaluation mode")
    _hold([p.requires_grad for p in g.base.parameters()] == flags, "a parameter's requires_grad was changed")
    _hold(all(p.grad is None for p in g.base.parameters()), "the loss must not call backward on the parameters")
    pairs: list[tuple[Tensor, Tensor | None]] = [(before.x, batch.x), (before.y, batch.y), (before.index, batch.index)]
    pairs += [(found, batch.surveys.get(name)) for name, found in before.surveys.items()]
    same = all(after is not None and torch.equal(found, after) for found, after in pairs)
    _hold(same and not batch.x.requires_grad and batch.x.grad is None, "the batch was changed")
    _hold(all(torch.equal(weights[name], p) for name, p in g.base.named_parameters()), "the weights were changed")


def _generator_decides(method: Method) -> None:
    losses = []
    for ambient in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ambient)
            random.seed(ambient)
            np.random.seed(ambient)  # noqa: NPY002 - the global generator is what a method must not use
            before = _ambient()
            losses.append(float(_sum(method.loss(*_setup(method))).detach()))
            _hold(_ambient() == before, "a global random generator was used; draw from g.noise and g.uniform only")
    _hold(losses[0] == losses[1], f"equal generators gave losses {losses[0]} and {losses[1]}")


def _ambient() -> tuple[object, ...]:
    return torch.random.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def _any_shape(method: Method) -> None:
    for shape, batch_size in ((SHAPE, 2), ((3, 9, 7), 5)):
        _hold(_sum(method.loss(*_setup(method, shape, batch_size))).isfinite(), f"the loss is not finite for images of shape {shape}")


def _asks_and_weights(method: Method) -> None:
    y, generator = torch.arange(60) % CLASSES, torch.Generator().manual_seed(5)
    shares = {name: torch.rand(60, generator=generator, dtype=torch.float64) for name in checked(method)}
    kept = y.clone(), {name: share.clone() for name, share in shares.items()}
    for epoch, _ in EPOCHS:
        right = {name: shares[name] for name, survey in method.surveys().items() if survey.first <= epoch}
        found = method.weights(y, right, epoch)
        if found is not None:
            again = method.weights(y, right, epoch)
            _hold(again is not None and torch.equal(check_weights(found, 60), check_weights(again, 60)), "equal answers gave other weights")
    same = torch.equal(y, kept[0]) and all(torch.equal(share, kept[1][name]) for name, share in shares.items())
    _hold(same, "weights() changed the labels or the answers that it was given")


def _sum(terms: Terms) -> Tensor:
    return torch.stack(list(terms.values())).sum()
