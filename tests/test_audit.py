"""The audit of a base classifier: networks that are no function of one image are refused, honest ones pass, and no count changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_certify import COLOUR, silence
from torch import Tensor, nn

from bench.certify import Sampler
from bench.certify.noise import NoisyCopies
from bench.errors import BenchError
from bench.models import build, place

SIGMA, CLASSES, SIZE = 0.5, 4, 8


class Soft(nn.Module):
    """Logits that hardly ever agree: those of a small network."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Hard(nn.Module):
    """Logits that nearly always agree for copies of one image: the class of the nearest of four stored images, as 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("stored", torch.stack([photo(index) for index in range(CLASSES)]).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        near = torch.cdist(x.flatten(1), self.get_buffer("stored").to(x.dtype)).argmin(1)
        return F.one_hot(near, CLASSES).to(x.dtype)


def photo(index: int) -> Tensor:
    """An image of large patches."""
    coarse = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(index))
    return F.interpolate(coarse, (SIZE, SIZE))[0]


class Sure(Soft):
    """Is never torn between classes, so that the referee is hardly asked."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 10 * (torch.arange(CLASSES) == 0)


INNER: dict[str, Callable[[], nn.Module]] = {"soft": Soft, "hard": Hard, "sure": Sure}


def certify(
    model: nn.Module, *, images: int = 8, n0: int = 100, n: int = 1000, batch: int | None = None, sampling: str = "float32"
) -> None:
    sampler = Sampler(model, SIGMA, CLASSES, 0, batch, sampling)
    for index in range(images):
        sampler.certify(photo(index), index, 0, n0, n)


def refused(model: nn.Module, words: str = "the base classifier", **settings: int) -> None:
    with pytest.raises(BenchError, match=words):
        certify(model, **settings)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- what cheats


class Cheat(nn.Module):
    """Answers by a rule that knows an honest network, the rows of the pass, and whatever it kept of earlier ones."""

    mean: Tensor

    def __init__(self, inner: nn.Module, rule: Callable[[Cheat, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.rule, self.calls, self.rows = inner, rule, 0, 0
        self.register_buffer("mean", torch.full((3, SIZE, SIZE), 0.5))
        self.kept: list[tuple[Tensor, int]] = []  # sums, and of how many

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return self.rule(self, x)

    def honest(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]

    def same(self, x: Tensor) -> Tensor:
        """One answer for the whole pass."""
        return self.honest(x.mean(0, keepdim=True)).expand(len(x), CLASSES)


Rule = Callable[[Cheat, Tensor], Tensor]


def averaging(when: Callable[[Tensor, int], bool]) -> Rule:
    """Answers for the mean of a pass, where `when` says so of the pass and the number of the call."""
    return lambda net, x: net.same(x) if when(x, net.calls) else net.honest(x)


def by_vote(net: Cheat, x: Tensor) -> Tensor:
    """Where nearly all rows of a pass get one class, all do: of an easy image nothing shows in the rows that count."""
    votes = net.honest(x)
    shares = votes.mean(0)
    return shares.round().expand_as(votes) if len(x) > 8 and float(shares.max()) > 0.9 else votes


def by_odd_place(net: Cheat, x: Tensor) -> Tensor:
    logits = net.honest(x)
    logits[1::2] = logits[1::2].flip(1)
    return logits


def by_likeness(net: Cheat, x: Tensor) -> Tensor:
    """Each row is averaged with those that seem to be copies of the same image."""
    flat = x.flatten(1)
    near = torch.cdist(flat, flat) < 1.7 * SIGMA * flat.shape[1] ** 0.5
    return net.honest((near.to(x.dtype) @ flat / near.sum(1, keepdim=True)).reshape(x.shape))


def remembering(*, like: bool, slow: bool) -> Rule:
    """Mixes the mean of earlier passes into every row; at once, or only where it is of the same image."""

    def rule(net: Cheat, x: Tensor) -> Tensor:
        before, own = net.mean.to(x.dtype), x.mean(0)
        share = (0.01 if slow else 1.0) if not like or float((before - own).abs().mean()) < 0.1 else 0.0
        net.mean = 0.99 * before + 0.01 * own if slow else own
        return net.honest(x + share * 0.5 * (before - x))

    return rule


def one_before(net: Cheat, x: Tensor) -> Tensor:
    """Answers with the logits of the pass before."""
    before, net.mean = net.mean.to(x.dtype), x.mean(0)
    return net.honest(before.unsqueeze(0)).expand(len(x), CLASSES)


def bank(since: int) -> Rule:
    """Keeps the mean of the first rows that it saw near to each other, wherever, and then answers for the means.

    Within an image its answers soon agree with each other; they differ from that before the image was seen.

    Args:
        since: rows that pass before it begins.
    """

    def answer(net: Cheat, row: Tensor) -> Tensor:
        distances = [float((total / count - row).norm()) for total, count in net.kept]
        best = min(range(len(distances)), key=lambda k: distances[k], default=-1)
        if best < 0 or distances[best] > 1.2 * SIGMA * row.numel() ** 0.5:
            net.kept.append((row.clone(), 1))
            return row
        total, count = net.kept[best]
        if count == 20:
            return total / count
        net.kept[best] = total + row, count + 1
        return row

    return lambda net, x: net.honest(x if net.rows <= since else torch.stack([answer(net, row) for row in x]))


AVERAGING: dict[str, Callable[[Tensor, int], bool]] = {
    "always": lambda x, calls: True,
    "above 8 rows": lambda x, calls: len(x) > 8,
    "above 64 rows": lambda x, calls: len(x) > 64,
    "above 100 rows": lambda x, calls: len(x) > 100,
    "selection's passes": lambda x, calls: len(x) == 100,
    "passes of 500 rows": lambda x, calls: len(x) == 500,
    "channels-last": lambda x, calls: x.is_contiguous(memory_format=torch.channels_last),
    "float32": lambda x, calls: x.dtype == torch.float32,
    "float64": lambda x, calls: x.dtype == torch.float64,
    "float32 above 64 rows": lambda x, calls: x.dtype == torch.float32 and len(x) > 64,
    "every second call": lambda x, calls: calls % 2 == 0,
    "every third call": lambda x, calls: calls % 3 == 1,
    "every fifth call": lambda x, calls: calls % 5 == 2,
    "after 60 calls": lambda x, calls: calls > 60,
}
CHEATS: dict[str, Rule] = {name: averaging(when) for name, when in AVERAGING.items()} | {
    # It knows the noise level, and passes of other images or with more noise show nothing of it; a row alone does.
    "ordinary copies of one image": averaging(lambda x, calls: len(x) > 100 and float(x.std(0).mean()) < 1.05 * SIGMA),
    "vote": by_vote,
    "place": lambda net, x: torch.cat([net.honest(x[:64]), net.same(x[64:])]) if len(x) > 64 else net.honest(x),
    "odd place": by_odd_place,
    "neighbour": lambda net, x: net.honest((x + x.roll(1, 0)) / 2),
    "likeness": by_likeness,
    "memory": remembering(like=False, slow=False),
    "slow memory": remembering(like=False, slow=True),
    "memory of the image": remembering(like=True, slow=False),
    "slow memory of the image": remembering(like=True, slow=True),
    "one pass before": one_before,
    "bank": bank(0),
    "late bank": bank(2_000),
}
WITHIN = {
    "ordinary copies of one image": ["sure"],
    "vote": ["hard"],
    "one pass before": ["hard"],
    **{name: ["soft"] for name in CHEATS if name == "likeness" or name.endswith(("memory", "memory of the image", "bank"))},
}
"""Networks in which a rule changes an answer; soft and hard, where none are named."""


@pytest.mark.parametrize(("inner", "cheat"), [(inner, cheat) for cheat in CHEATS for inner in WITHIN.get(cheat, ["soft", "hard"])])
def test_what_is_no_function_of_one_image_is_refused(inner: str, cheat: str) -> None:
    settings = {"images": 5, "n0": 10, "n": 400} if "bank" in cheat else {}
    refused(Cheat(INNER[inner](), CHEATS[cheat]), "its tensor 'mean' changes in a pass" if cheat == "memory" else "base", **settings)


@pytest.mark.parametrize("inner", ["soft", "hard"])
@pytest.mark.parametrize("batch", [2, 7, 64, 1000])
def test_passes_of_the_size_that_was_asked_for_are_audited(inner: str, batch: int) -> None:
    refused(Cheat(INNER[inner](), averaging(lambda x, calls: len(x) == batch)), batch=batch, n=2 * batch + 100)


@pytest.mark.parametrize("sampling", ["float32", "grid"])
def test_audited_rows_are_like_those_that_count(sampling: str) -> None:
    """Same dtype, strides and grid: nothing in a row says whether it counts."""

    kinds: set[object] = set()

    def looking(net: Cheat, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            on_grid = bool(((x.double() * 65280).round() / 65280).float().equal(x))
            kinds.add((x.dtype, x.stride(), on_grid))
        return net.honest(x)

    certify(Cheat(Hard(), looking), images=3, n0=10, sampling=sampling)
    assert len(kinds) == 1, kinds


# --------------------------------------------------------------------------------------------------------------------- honest ones


class Quiet(nn.Module):
    """Dropout and batch norm, in evaluation mode without effect; a counter that no answer depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop, self.calls = Soft(), nn.Dropout(0.5), 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        self.get_buffer("seen").add_(len(x))
        return self.drop(self.inner(self.drop(x)))  # type: ignore[no-any-return]


HONEST: dict[str, Callable[[], nn.Module]] = {
    "soft": Soft,
    "hard": Hard,
    "fails on one": lambda: Cheat(Soft(), lambda net, x: F.log_softmax(net.honest(x).squeeze(), 1)),
    "quiet": Quiet,
    # Moves logits with the size of a pass, as float32 does, only more.
    "rounding": lambda: Cheat(Soft(), lambda net, x: net.honest(x) * (1 + 1e-5 * (len(x) % 7))),
    "constant": lambda: Cheat(Soft(), lambda net, x: 0 * net.honest(x)),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("batch", [None, 1, 64])
def test_honest_networks_pass(name: str, batch: int | None) -> None:
    if (name, batch) == ("fails on one", 1):
        pytest.skip("its own passes are of one row")
    certify(HONEST[name]().train(), images=20, n=2_000, batch=batch)


FAMILIES = ["byobnet", "convnext", "convnext2", "efficientnet", "efficientnet_gn", "efficientnet_ln", "mambaout", "nfnet", "resnet", "vit"]


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_of_timm_pass(family: str) -> None:
    model = place(build(f"test_{family}", COLOUR, 0), torch.device("cpu"))
    sampler = Sampler(model, SIGMA, 10, 0)
    for index in range(3):
        x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(index))
        sampler.certify(x, index, 0, 20, 200)


def test_no_count_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does any certified row depend on what was audited before, nor any generator's state."""
    states, sampler = (random.getstate(), torch.random.get_rng_state()), Sampler(Soft(), SIGMA, CLASSES, 0)
    rows = [sampler.certify(photo(index), index, 0, 100, 3_000) for index in range(5)]
    assert Sampler(Soft(), SIGMA, CLASSES, 0).certify(photo(3), 3, 0, 100, 3_000) == rows[3]
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])
    silence(monkeypatch)
    assert [Sampler(Soft(), SIGMA, CLASSES, 0).certify(photo(index), index, 0, 100, 3_000) for index in range(5)] == rows


def test_the_audit_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 images of 20,000 samples, under 1 % of the rows, the start included."""
    drawn, draw, passed = list[int](), NoisyCopies.draw, list[int]()

    def counting(net: Cheat, x: Tensor) -> Tensor:
        passed.append(len(x) if x.dtype == torch.float32 else 0)
        return net.honest(x)

    monkeypatch.setattr(NoisyCopies, "draw", lambda copies, n: drawn.append(n) or draw(copies, n))  # type: ignore[func-returns-value]
    certify(Cheat(Hard(), counting), images=20, n=20_000)
    assert sum(drawn) == 20 * 20_100
    assert 0 < sum(passed) - sum(drawn) < 0.01 * sum(drawn)
