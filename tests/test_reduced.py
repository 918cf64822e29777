"""A proposer in less than float32 and its referee: the counts are the referee's, on a CPU as on the devices that it is made for."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import cache

import pytest
import test_certify
import torch
import torch.nn.functional as F
from test_certify import WRONG, Function, Greedy, Net, calibrated, certified, fresh, image, images
from test_speed_paths import Calls
from torch import Tensor, nn

from bench.certify import Sampler
from bench.certify.audit import CLOSE
from bench.certify.margin import LEAST, Margin, leads, moves
from bench.certify.network import Network
from bench.certify.proposer import FLOAT32, REDUCED, Proposer
from bench.certify.spans import Again, Spans
from bench.data import load
from bench.datasets import DATASETS
from bench.evidence.certificate import Certificate
from bench.models import build, place
from bench.rules.rule import Stopping
from bench.system.environment import plain_float32

SIGMA = 0.5
ROWS = 12_000


@pytest.fixture(autouse=True)
def reduced_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's instructions: the rows of REDUCED in their order, float32 last."""
    order, timed = [*REDUCED, FLOAT32.name], Proposer.seconds_per_row

    def seconds(self: Proposer, noisy: Tensor, rows: int) -> float:
        timed(self, noisy, rows)
        return 1.0 + order.index(self.arithmetic.name)

    monkeypatch.setattr(Proposer, "seconds_per_row", seconds)


@pytest.fixture
def exact() -> Iterator[None]:
    with torch.inference_mode(), plain_float32():
        yield


@cache
def trained() -> nn.Module:
    """LeNet after seconds of training on noisy digits."""
    data, generator = load("mnist", "train"), torch.Generator().manual_seed(0)
    network = place(build("lenet", DATASETS["mnist"], 0), torch.device("cpu"))
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for rows in torch.split(torch.randperm(60_000, generator=generator)[:5_120], 64):
        x = data.images(rows)
        loss = F.cross_entropy(network(x + SIGMA * torch.randn(x.shape, generator=generator)), data.labels[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


@cache
def digits() -> Tensor:
    return load("mnist", "test").images(torch.arange(24))


def spans(*reduced: str, base: nn.Module | None = None) -> Spans:
    base = trained() if base is None else base
    sampler = Sampler(base, SIGMA, 10, 0, reduced=reduced)
    sampler.fit(digits())
    assert sampler._spans
    return sampler._spans


def noisy(rows: int, sigma: float = SIGMA) -> Tensor:
    x = digits().repeat(math.ceil(rows / len(digits())), 1, 1, 1)[:rows]
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def decided(rows: Tensor) -> Tensor:
    """Classes in float32, in float64 wherever two logits are close, by the plainest means: R C H W -> R."""
    network = copy.deepcopy(trained())
    with torch.inference_mode(), plain_float32():
        logits = torch.cat([network(part) for part in torch.split(rows, 500)])
        highest = logits.topk(2, 1).values
        close = highest[:, 0] - highest[:, 1] <= CLOSE * logits.abs().max()
        classes = logits.argmax(1)
        classes[close] = network.double()(rows[close].double()).argmax(1)
    return classes


def differing(found: Spans, rows: Tensor) -> int:
    with torch.inference_mode(), plain_float32():
        classes = torch.cat([found.classify(part) for part in torch.split(rows, 2_000)])
    return int((classes != decided(rows)).sum())


# ------------------------------------------------------------------------------------------------------------- the counts


def test_not_one_class_differs_from_float32_decided_by_float64() -> None:
    found = spans("bf16")
    assert str(found.proposer) == "bf16"
    assert differing(found, noisy(ROWS)) == 0
    assert 0 < found.judged <= 0.05 * found.seen
    assert found.seen == ROWS


def test_without_a_margin_classes_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test, with every row left to the proposer but the few that are audited: it can fail."""
    found, rows = spans("bf16"), noisy(ROWS)
    monkeypatch.setattr(Margin, "value", 0.0)
    monkeypatch.setattr(Margin, "see", lambda self, moved: False)
    assert differing(found, rows) > 0


@pytest.mark.parametrize("sampling", ["float32", "grid"])
def test_counts_are_those_of_float32(sampling: str) -> None:
    plain = Sampler(trained(), SIGMA, 10, 0, sampling=sampling)
    reduced = Sampler(trained(), SIGMA, 10, 0, sampling=sampling, reduced=("bf16",))
    for index, x in enumerate(digits()[:3]):
        assert reduced.certify(x, index, 0, 100, 2_300) == plain.certify(x, index, 0, 100, 2_300)


@pytest.mark.parametrize("batch", [7, 99, 500])
def test_counts_depend_neither_on_rows_of_a_pass_nor_on_the_arithmetic(batch: int) -> None:
    expected = certified(fresh(), [0, 1], n=1_037)
    for names in ((), ("fp16",), ("fp16", "bf16")):
        sampler = fresh(batch, reduced=names)
        assert certified(sampler, [1, 0], n=1_037) == expected
        told = sampler.arithmetic(images(1)[0])["proposer"]
        assert (told["arithmetic"], told["rows_per_pass"]) == (names[0] if names else "float32", batch)


def test_a_stopping_rule_sees_the_same_counts() -> None:
    class Looking(Stopping):
        def __init__(self) -> None:
            self.seen: list[tuple[int, int]] = []

        def enough(self, count: int, drawn: int) -> bool:
            self.seen.append((count, drawn))
            return drawn >= 10_000

    def looks(names: tuple[str, ...] | None) -> tuple[list[tuple[int, int]], Certificate]:
        stop = Looking()
        row = fresh(reduced=names).certify(images(1)[0], 0, 0, 100, 20_000, stop)
        return stop.seen, row

    plain = looks(None)
    assert looks(("bf16",)) == plain
    assert [drawn for _, drawn in plain[0]] == [5_000, 10_000]


@pytest.mark.parametrize(("most", "later"), [(60, 0), (60, 9), (3, 12)])
def test_counts_are_the_same_after_memory_ran_out(most: int, later: int) -> None:
    sampler = Sampler(Greedy(most, later), 0.5, 4, 0, 500, reduced=("bf16",))
    assert certified(sampler, [0, 1]) == certified(fresh(), [0, 1])
    assert sampler.arithmetic(images(1)[0])["proposer"]["rows_per_pass"] <= 500


def test_a_deep_network_counts_as_in_float32() -> None:
    model, x = calibrated(0), torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    sampler = Sampler(model, 0.5, 10, 0, reduced=("bf16",))
    assert sampler.certify(x, 0, 0, 50, 500) == Sampler(model, 0.5, 10, 0).certify(x, 0, 0, 50, 500)


# ------------------------------------------------------------------------------------------------------------- the margin


def test_where_the_lead_is_beyond_the_move_the_highest_logit_is_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(5_000, 10, generator=generator)
    proposed = exact + 0.05 * torch.randn(exact.shape, generator=generator)
    classes, lead = leads(proposed)
    safe, same = lead > moves(proposed, exact), classes == exact.argmax(1)
    assert same[safe].all()
    assert not same[~safe].all()
    assert torch.allclose(moves(exact + torch.randn(5_000, 1), exact), torch.zeros(1, dtype=torch.float64), atol=1e-5), "a shift of all"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(3))
def test_logits_that_overflow_never_lead(value: float, place: int) -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    logits[0, place] = value
    _, lead = leads(logits)
    assert lead.tolist() == [-1.0, 1.0]
    assert moves(logits, torch.zeros(2, 3)).tolist() == [0.0, 2.0]


def test_a_row_that_moves_further_widens_the_margin_and_the_image_is_counted_anew(exact: None) -> None:
    found = spans("bf16")
    margin, moved = found.margin.value, found.margin.moved
    assert margin >= LEAST * moved > 0
    found.margin = Margin(found.margin.found, floor=1e-4)  # as if the first images had said little
    again = []
    for rows in torch.split(noisy(500), 5):
        try:
            found.classify(rows)
        except Again:
            again.append(rows)
            assert LEAST * found.margin.moved <= found.margin.value
            found.classify(rows)
    assert again


def test_an_image_that_is_counted_anew_counts_the_same() -> None:
    sampler = Sampler(trained(), SIGMA, 10, 0, reduced=("bf16",))
    sampler.fit(digits())
    assert sampler._spans
    sampler._spans.margin = narrow = Margin(sampler._spans.margin.found)
    assert sampler.certify(digits()[0], 0, 0, 100, 1_000) == Sampler(trained(), SIGMA, 10, 0).certify(digits()[0], 0, 0, 100, 1_000)
    assert narrow.value > 0


class Drifting(nn.Module):
    """A network that is coarse in less than float32, for images that are brighter than those at hand."""

    def __init__(self, base: nn.Module, above: float) -> None:
        super().__init__()
        self.base, self.above = base, above

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        coarse = (x.flatten(1).mean(1) > self.above) & torch.tensor(x.dtype not in (torch.float32, torch.float64))
        return torch.where(coarse.unsqueeze(1), logits.flip(1), logits)


def test_an_arithmetic_that_moves_too_far_is_given_up_in_the_middle() -> None:
    base = Drifting(trained(), 0.5)
    sampler = Sampler(base, SIGMA, 10, 0, reduced=("bf16",))
    sampler.fit(digits()[:8])
    bright = digits()[0] * 0.2 + 0.8
    assert sampler.arithmetic(bright)["proposer"]["arithmetic"] == "bf16"
    assert sampler.certify(bright, 0, 0, 100, 1_000) == Sampler(base, SIGMA, 10, 0).certify(bright, 0, 0, 100, 1_000)
    told = sampler.arithmetic(bright)["proposer"]
    assert told["arithmetic"] == "float32"
    assert "it moves logits by" in told["given_up"]["bf16"]


class Alone(nn.Module):
    """Runs in float32 and float64 only."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError("this network does not run in less")
        return self.net(x)  # type: ignore[no-any-return]


def test_what_overflows_or_does_not_run_falls_back() -> None:
    base, x = Function(lambda x: x * 1e6), image(0.1, 0.5, 0.9)  # beyond the range of float16
    large = Sampler(base, 0.5, 3, 0, reduced=("fp16",))
    assert large.certify(x, 0, 0, 100, 1_000) == Sampler(base, 0.5, 3, 0).certify(x, 0, 0, 100, 1_000)
    told = large.arithmetic(x)["proposer"]
    assert told["arithmetic"] == "float32"
    assert "not finite" in told["given_up"]["fp16"]
    alone = Sampler(Alone(), 0.5, 4, 0, reduced=tuple(REDUCED)[:2])
    assert certified(alone, [0]) == certified(fresh(), [0])
    assert alone.arithmetic(images(1)[0])["proposer"]["arithmetic"] == "float32"


# ------------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("names", [(), ("bf16",)])
@pytest.mark.parametrize("name", sorted(WRONG.keys() - {"half"}))
def test_wrong_models_are_refused_as_without_a_proposer(name: str, names: tuple[str, ...]) -> None:
    test_certify.test_wrong_models_are_refused(name, reduced=names)


# ------------------------------------------------------------------------------------------------------------- the speed


def test_no_pass_waits_for_the_device(exact: None) -> None:
    """What the host waits for is the same for a span of one pass and of many."""
    rows = noisy(400)
    waits = []
    for batch in (400, 20):
        found = spans("bf16")
        found.proposer.rows = batch
        with Calls() as calls:
            found._propose(rows, 1)
        assert calls.waits == []
        with Calls() as calls:
            found.classify(rows)
        waits.append(calls.waits)
    assert waits[0] == waits[1]
    assert waits[0]


def test_passes_of_a_span_have_one_shape(exact: None) -> None:
    seen: list[int] = []
    found = spans("bf16")
    found.proposer.network.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    found.proposer.rows = 300
    rows = noisy(1_001)
    whole = found.proposer.logits(rows)
    assert seen == [251] * 4
    seen.clear()
    found.proposer.rows = 2_000
    assert torch.allclose(found.proposer.logits(rows), whole, atol=0.1)
    assert seen == [1_001]


def test_a_referee_alone_decides_as_network(exact: None) -> None:
    network = Network(trained(), 10, 500)
    network.referee_in_float64(digits()[0])
    rows = noisy(1_000)
    assert torch.equal(network.classify(rows), decided(rows))
