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


INNER: dict[str, Callable[[], nn.Module]] = {"soft": Soft, "hard": Hard}


def certify(
    model: nn.Module, *, images: int = 8, n0: int = 100, n: int = 1000, batch: int | None = None, sampling: str = "float32"
) -> None:
    sampler = Sampler(model, SIGMA, CLASSES, 0, batch, sampling)
    for index in range(images):
        sampler.certify(photo(index), index, 0, n0, n)


def refused(model: nn.Module, **settings: object) -> None:
    with pytest.raises(BenchError, match="the base classifier"):
        certify(model, **settings)  # type: ignore[arg-type]


class Averaging(nn.Module):
    """Answers for the mean of a pass, where `when` says so of the pass and the number of the call."""

    def __init__(self, inner: nn.Module, when: Callable[[Tensor, int], bool]) -> None:
        super().__init__()
        self.inner, self.when, self.calls = inner, when, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if not self.when(x, self.calls):
            return self.inner(x)  # type: ignore[no-any-return]
        return self.inner(x.mean(0, keepdim=True)).expand(len(x), CLASSES)  # type: ignore[no-any-return]


WHEN: dict[str, Callable[[Tensor, int], bool]] = {
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


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("inner", INNER)
def test_what_averages_over_a_pass_is_refused(inner: str, when: str) -> None:
    refused(Averaging(INNER[inner](), WHEN[when]))


class Sure(Soft):
    """Is never torn between classes, so that the referee is hardly asked."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 10 * (torch.arange(CLASSES) == 0)


def test_what_averages_over_ordinary_copies_of_one_image_is_refused() -> None:
    """It knows the noise level, and passes of other images or with more noise show nothing of it; a row alone does."""
    refused(Averaging(Sure(), lambda x, calls: len(x) > 100 and float(x.std(0).mean()) < 1.05 * SIGMA))


class Voting(Hard):
    """Where nearly all rows of a pass get one class, all do."""

    def forward(self, x: Tensor) -> Tensor:
        votes = super().forward(x)
        shares = votes.mean(0)
        return shares.round().expand_as(votes) if len(x) > 8 and float(shares.max()) > 0.9 else votes


def test_what_lets_the_copies_of_an_image_vote_is_refused() -> None:
    """Of an easy image, every copy gets the class of the most, so that nothing shows in the rows that count."""
    refused(Voting())


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("batch", [2, 7, 64, 1000])
def test_passes_of_the_size_that_was_asked_for_are_audited(inner: str, batch: int) -> None:
    refused(Averaging(INNER[inner](), lambda x, calls: len(x) == batch), batch=batch, n=2 * batch + 100)


def by_place(x: Tensor, inner: nn.Module) -> Tensor:
    return torch.cat([inner(x[:64]), inner(x[64:].mean(0, keepdim=True)).expand(len(x[64:]), CLASSES)]) if len(x) > 64 else inner(x)


def by_odd_place(x: Tensor, inner: nn.Module) -> Tensor:
    logits: Tensor = inner(x)
    logits[1::2] = logits[1::2].flip(1)
    return logits


def by_neighbour(x: Tensor, inner: nn.Module) -> Tensor:
    return inner((x + x.roll(1, 0)) / 2)  # type: ignore[no-any-return]


def by_likeness(x: Tensor, inner: nn.Module) -> Tensor:
    """Each row is averaged with those that seem to be copies of the same image."""
    flat = x.flatten(1)
    near = torch.cdist(flat, flat) < 1.7 * SIGMA * flat.shape[1] ** 0.5
    return inner((near.to(x.dtype) @ flat / near.sum(1, keepdim=True)).reshape(x.shape))  # type: ignore[no-any-return]


MATES = {"place": by_place, "odd place": by_odd_place, "neighbour": by_neighbour, "likeness": by_likeness}


class Mates(nn.Module):
    def __init__(self, inner: nn.Module, rule: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.inner, self.rule = inner, rule

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(x, self.inner)


@pytest.mark.parametrize("rule", MATES)
def test_what_depends_on_places_and_mates_is_refused(rule: str) -> None:
    refused(Mates(Soft(), MATES[rule]))
    if rule != "likeness":  # which changes no answer of this network
        refused(Mates(Hard(), MATES[rule]))


class Remembering(nn.Module):
    """Mixes the mean of earlier passes into every row; at once, or only where it is of the same image."""

    def __init__(self, inner: nn.Module, like: bool, slow: bool) -> None:
        super().__init__()
        self.inner, self.like, self.slow = inner, like, slow
        self.register_buffer("mean", torch.full((3, SIZE, SIZE), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        before, own = self.get_buffer("mean").to(x.dtype), x.mean(0)
        share = (0.01 if self.slow else 1.0) if not self.like or float((before - own).abs().mean()) < 0.1 else 0.0
        self.mean = 0.99 * before + 0.01 * own if self.slow else own
        return self.inner(x + share * 0.5 * (before - x))  # type: ignore[no-any-return]


class Bank(nn.Module):
    """Keeps the mean of the first rows that it saw near to each other, wherever, and then answers for the means.

    Args:
        since: rows that pass before it begins.
    """

    def __init__(self, inner: nn.Module, since: int) -> None:
        super().__init__()
        self.inner, self.since = inner, since
        self.kept: list[tuple[Tensor, int]] = []  # sums, and of how many

    def forward(self, x: Tensor) -> Tensor:
        self.since -= len(x)
        return self.inner(x if self.since >= 0 else torch.stack([self.answer(row) for row in x]))  # type: ignore[no-any-return]

    def answer(self, row: Tensor) -> Tensor:
        distances = [float((total / count - row).norm()) for total, count in self.kept]
        best = min(range(len(distances)), key=lambda k: distances[k], default=-1)
        if best < 0 or distances[best] > 1.2 * SIGMA * row.numel() ** 0.5:
            self.kept.append((row.clone(), 1))
            return row
        total, count = self.kept[best]
        if count == 20:
            return total / count
        self.kept[best] = total + row, count + 1
        return row


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("like", [False, True])
def test_what_remembers_earlier_passes_is_refused(like: bool, slow: bool) -> None:
    with pytest.raises(BenchError, match="the base classifier"):
        certify(Remembering(Soft(), like, slow))


def test_the_tensor_that_remembers_is_named() -> None:
    with pytest.raises(BenchError, match="its tensor 'mean' changes in a pass"):
        certify(Remembering(Soft(), like=False, slow=False))


@pytest.mark.parametrize("since", [0, 2_000])
def test_what_remembers_the_images_that_it_saw_is_refused(since: int) -> None:
    """Within an image its answers soon agree with each other; they differ from that before the image was seen."""
    refused(Bank(Soft(), since), images=5, n0=10, n=400)


class OneBefore(nn.Module):
    """Answers with the logits of the pass before."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = Hard(), torch.zeros(1, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        before, self.last = self.last, self.inner(x.mean(0, keepdim=True))
        return before.to(x.dtype).expand(len(x), CLASSES)


def test_what_answers_with_its_last_pass_is_refused() -> None:
    refused(OneBefore())


@pytest.mark.parametrize("sampling", ["float32", "grid"])
def test_audited_rows_are_like_those_that_count(sampling: str) -> None:
    """Same dtype, strides and grid: nothing in a row says whether it counts."""

    class Looking(Hard):
        def __init__(self) -> None:
            super().__init__()
            self.kinds: set[object] = set()

        def forward(self, x: Tensor) -> Tensor:
            if x.dtype == torch.float32:
                on_grid = bool(((x.double() * 65280).round() / 65280).float().equal(x))
                self.kinds.add((x.dtype, x.stride(), on_grid))
            return super().forward(x)

    model = Looking()
    certify(model, images=3, n0=10, sampling=sampling)
    assert len(model.kinds) == 1, model.kinds


# --------------------------------------------------------------------------------------------------------------------- honest ones


class FailsOnOne(nn.Module):
    """A `squeeze` too many."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Soft()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x).squeeze()
        return F.log_softmax(logits, 1)


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


class Rounding(Soft):
    """Moves logits with the size of a pass, as float32 does, only more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 1e-5 * (len(x) % 7))


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), CLASSES, dtype=x.dtype) + x.flatten(1)[:, :1] * 0


HONEST: dict[str, Callable[[], nn.Module]] = {
    "soft": Soft,
    "hard": Hard,
    "fails on one": FailsOnOne,
    "quiet": Quiet,
    "rounding": Rounding,
    "constant": Constant,
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
    """Nor does any certified row depend on what was audited before."""
    sampler = Sampler(Soft(), SIGMA, CLASSES, 0)
    rows = [sampler.certify(photo(index), index, 0, 100, 3_000) for index in range(5)]
    assert Sampler(Soft(), SIGMA, CLASSES, 0).certify(photo(3), 3, 0, 100, 3_000) == rows[3]
    silence(monkeypatch)
    assert [Sampler(Soft(), SIGMA, CLASSES, 0).certify(photo(index), index, 0, 100, 3_000) for index in range(5)] == rows


def test_random_generators_are_left_alone() -> None:
    states = random.getstate(), torch.random.get_rng_state()
    certify(Soft(), images=2)
    assert random.getstate() == states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_the_audit_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 images of 20,000 samples, under 1 % of the rows, the start included."""
    rows = {"all": 0}

    class Counting(Hard):
        def forward(self, x: Tensor) -> Tensor:
            rows["all"] += len(x) if x.dtype == torch.float32 else 0
            return super().forward(x)

    drawn = {"rows": 0}
    draw = NoisyCopies.draw

    def counted(copies: NoisyCopies, n: int) -> Tensor:
        drawn["rows"] += n
        return draw(copies, n)

    monkeypatch.setattr(NoisyCopies, "draw", counted)
    certify(Counting(), images=20, n=20_000)
    assert drawn["rows"] == 20 * 20_100
    assert 0 < rows["all"] - drawn["rows"] < 0.01 * drawn["rows"]
