"""The attack on the smoothed classifier: known true radii, a really trained network, and certificates that are false."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from bench.attacks import project_l2
from bench.certify import Sampler
from bench.certify.attack import Attacked, AttackSpec, Outcome, _find, _within, attack, summarise
from bench.cli import app
from bench.data import load
from bench.evidence.certificate import Certificate, to_line
from bench.matrix.resume import load_weights
from bench.smoothing import SmoothedClassifier, gather, log_soft_vote
from bench.store.runs import Store
from bench.store.subject import Certification

Call = Callable[..., Result]
SIGMA = 0.25


class Linear(nn.Module):
    """Class 1 where w.x + b > 0, |w| = 1: the true L2 radius of an image is |w.x + b| exactly, for every sigma."""

    def __init__(self, distance: float) -> None:
        super().__init__()
        direction = torch.randn(28 * 28, generator=torch.Generator().manual_seed(3))
        self.register_buffer("w", direction / direction.norm())
        self.w: Tensor
        self.b = distance - 0.5 * float(self.w.sum())  # a grey image lies `distance` on the side of class 1

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([-score, score], dim=1)


def grey(count: int = 1) -> Tensor:
    return torch.full((count, 1, 28, 28), 0.5)


def row(index: int, count: int, n: int = 1000, label: int = 1, selected: int = 1) -> Certificate:
    estimation = {c: k for c, k in ((selected, count), (1 - selected, n - count)) if k}
    return Certificate(index=index, label=label, selected=selected, selection={selected: 100}, estimation=estimation)


# ----------------------------------------------------------------------------------------------------- known radii


@pytest.mark.parametrize("distance", [0.5, 1.0])
def test_a_linear_model_breaks_just_outside_its_true_radius_and_not_inside(distance: float) -> None:
    base = Linear(distance)
    honest = Sampler(base, SIGMA, 2, 0).certify(grey()[0], 0, 1, 100, 1000)
    radius = honest.radius(0.001, SIGMA)
    assert radius is not None
    assert radius < distance
    spec = AttackSpec(eps=(0.85 * distance, 1.15 * distance), steps=4, samples=8)
    outcome = attack(base, grey(), [honest], SIGMA, 2, spec)
    clean, inside, outside = outcome.attacked
    assert [item.predict for item in (clean, inside, outside)] == [1, 1, 0]
    assert clean.distance == 0
    for item in (inside, outside):
        assert item.distance == pytest.approx(item.eps, rel=1e-5), "all of the way along w, and not beyond"
    assert [level.broken for level in outcome.levels] == [0, 0, 1]
    assert [level.survived for level in outcome.levels] == [1, 1, 0]
    assert outcome.contradictions == ()
    assert not outcome.refuted


def test_a_false_certificate_is_refuted() -> None:
    """Counts that claim a radius of 0.61 for images whose true radius is 0.3."""
    base, rows = Linear(0.3), [row(index, 1000) for index in range(4)]
    spec = AttackSpec(eps=(0.2, 0.5), steps=4, samples=8)
    outcome = attack(base, grey(4), rows, SIGMA, 2, spec)
    assert rows[0].radius(0.001, SIGMA) == pytest.approx(0.6158, abs=1e-4)
    assert [(level.inside, level.contradictions) for level in outcome.levels] == [(4, 0), (4, 0), (4, 4)]
    assert {item.eps for item in outcome.contradictions} == {0.5}
    assert outcome.p_value == pytest.approx(0.002**4)
    assert outcome.refuted


def test_a_point_never_leaves_the_ball_or_the_pixels() -> None:
    base, x = Linear(0.3), torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)).round()  # pixels at 0 and 1
    for eps, restarts in ((0.5, 0), (3.0, 2)):
        spec = AttackSpec(eps=(eps,), steps=5, samples=4, restarts=restarts)
        points = _find(base, x, torch.ones(3, dtype=torch.int64), [0, 1, 2], SIGMA, eps, spec)
        assert float((points - x).flatten(1).norm(dim=1).max()) <= eps * (1 + 1e-6)
        assert (float(points.min()), float(points.max())) == (0.0, 1.0)
        assert (points != x).flatten(1).any(1).all()


def test_starts_are_uniform_in_the_ball() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 1, 3)
    lengths = torch.stack([_within(image, 2.0, generator).norm() for _ in range(2000)])
    assert float(lengths.max()) <= 2 * (1 + 1e-6)
    assert float((lengths / 2).pow(3).mean()) == pytest.approx(0.5, abs=0.03)  # volume within is U[0, 1]


def test_more_starts_never_end_worse() -> None:
    torch.manual_seed(1)
    base = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 3))
    x, y = grey(2), torch.tensor([0, 1])
    one, more = (
        _find(base, x, y, [0, 1], SIGMA, 2.0, AttackSpec(eps=(2.0,), steps=3, samples=32, restarts=restarts)) for restarts in (0, 3)
    )
    noise = SmoothedClassifier(base, SIGMA, torch.Generator().manual_seed(0)).noise(x, 4000)
    g = SmoothedClassifier(base, SIGMA, torch.Generator())
    losses = [-gather(log_soft_vote(g.logits(point, noise)), y) for point in (x, one, more)]
    assert (losses[1] > losses[0]).all()
    assert (losses[2] > losses[1] - 0.005).all()
    assert torch.equal(project_l2(more, x, 2.0), more)


def test_images_that_are_certified_wrong_are_moved_from_their_class() -> None:
    """Label 0, certified as 1: the attack must look for class 0, not away from it, to contradict the certificate."""
    outcome = attack(Linear(0.3), grey(), [row(0, 1000, label=0)], SIGMA, 2, AttackSpec(eps=(0.5,), steps=4, samples=8))
    assert [item.predict for item in outcome.attacked] == [1, 0]
    assert len(outcome.contradictions) == 1
    assert [level.broken for level in outcome.levels] == [1, 1], "wrong from the start, however it is moved"


def test_the_same_seed_gives_the_same_outcome_and_another_another() -> None:
    base, rows = Linear(0.3), [row(0, 900), row(5, 800)]
    spec = AttackSpec(eps=(0.3,), steps=2, samples=4, restarts=1)
    one = attack(base, grey(2), rows, SIGMA, 2, spec)
    assert attack(base, grey(2), rows, SIGMA, 2, spec) == one
    assert attack(base, grey(2), rows, SIGMA, 2, dataclasses.replace(spec, seed=1)).attacked != one.attacked
    assert one.attacked[2].counts != one.attacked[3].counts, "images share no noise"
    assert attack(base, grey(1), rows[1:], SIGMA, 2, spec).attacked[0].counts == one.attacked[1].counts


# ------------------------------------------------------------------------------------------------------- the counting


def attacked(index: int, eps: float, predicted: int, *, radius: float | None = 1.0, counts: dict[int, int] | None = None) -> Attacked:
    found = counts if counts is not None else {predicted: 1000} if predicted >= 0 else {0: 500, 1: 500}
    return Attacked(index=index, label=1, certified=1, radius=radius, eps=eps, distance=eps, counts=found, predict=predicted)


def test_what_breaks_within_a_ball_breaks_within_larger_ones() -> None:
    points = [
        *(attacked(index, 0.0, 1) for index in range(4)),
        *(attacked(index, 2.0, predicted) for index, predicted in enumerate((0, 1, -1, 1))),
        *(attacked(index, 3.0, predicted) for index, predicted in enumerate((1, 1, 1, 0))),
    ]
    levels = summarise(points, AttackSpec(eps=(2.0, 3.0))).levels
    assert [(level.survived, level.undecided, level.broken) for level in levels] == [(1, 0, 0), (0.5, 0.25, 0.25), (0.25, 0.25, 0.5)]
    assert [(level.certified, level.inside) for level in levels] == [(1, 4), (0, 0), (0, 0)]


def outcome_of(contradicted: int, images: int) -> Outcome:
    points = [attacked(index, 0.5, 0 if index < contradicted else 1) for index in range(images)]
    return summarise(points, AttackSpec(eps=(0.5,)))


def test_failures_that_alpha_allows_refute_nothing() -> None:
    assert not outcome_of(0, 1000).refuted
    for contradicted, refuted in ((1, False), (2, False), (5, False), (7, True), (50, True)):
        outcome = outcome_of(contradicted, 1000)
        assert len(outcome.contradictions) == contradicted
        assert outcome.p_value == pytest.approx(float(binom.sf(contradicted - 1, 1000, 0.002)))
        assert outcome.refuted == refuted
    assert outcome_of(1, 4).refuted, "p = .008"


def test_a_contradiction_needs_significance_and_a_radius_above_eps() -> None:
    spec = AttackSpec(eps=(0.5,))
    for counts, number in (({0: 520, 1: 480}, 0), ({0: 560, 1: 440}, 1), ({0: 400, 1: 300, 2: 300}, 1), ({0: 300, 1: 400, 2: 300}, 0)):
        assert len(summarise([attacked(0, 0.5, 0, counts=counts)], spec).contradictions) == number, counts
    assert summarise([attacked(0, 0.5, 0, radius=0.5)], spec).contradictions == ()
    assert summarise([attacked(0, 0.5, 0, radius=None)], spec).contradictions == ()


def shares(n: int, parts: int, largest: int) -> Iterator[list[int]]:
    """All ways to share n samples among classes, whatever their order, none with more than `largest`."""
    if parts == 1:
        yield from [[n]] if n <= largest else []
        return
    for first in range(min(n, largest), -(-n // parts) - 1, -1):
        yield from ([first, *rest] for rest in shares(n - first, parts - 1, first))


@pytest.mark.parametrize(("classes", "n"), [(2, 100), (3, 60), (10, 24)])
def test_classes_that_tie_contradict_no_more_often_than_the_test_says(classes: int, n: int) -> None:
    """Exact: every outcome of n samples of classes that are equally likely. The certified class is likeliest, if not alone."""
    p_values, weights = [], []
    for counts in shares(n, classes, n):
        ways = math.factorial(n) // math.prod(map(math.factorial, counts))  # of samples, for one order of the classes
        orders = math.factorial(classes) // math.prod(math.factorial(times) for times in Counter(counts).values())
        for own, times in Counter(counts).items():
            place = counts.index(own)
            named = {1: own} | {2 + at: k for at, k in enumerate(counts) if at != place}
            p_values.append(attacked(0, 0.5, 1, counts=named).p_change())
            weights.append(ways * orders * times / classes / classes**n)
    assert sum(weights) == pytest.approx(1)
    for level in (0.001, 0.01, 0.05):
        chance = sum(weight for p, weight in zip(p_values, weights, strict=True) if p <= level)
        assert chance <= level, (level, chance / level)


@pytest.mark.parametrize("changes", [{"eps": ()}, {"eps": (0.0,)}, {"eps": (math.nan,)}, {"steps": 0}, {"restarts": -1}, {"alpha": 0.5}])
def test_attacks_are_checked(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        AttackSpec(**{"eps": (0.5,)} | changes)  # type: ignore[arg-type]
    assert AttackSpec(eps=(0.5, 0.25, 0.5)).eps == (0.25, 0.5)


# ------------------------------------------------------------------------------------------------ a network of our own


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A LeNet trained on 3,000 images of MNIST at sigma 0.5, and certified on ten test images with n = 1,000."""
    root = tmp_path_factory.mktemp("trained") / "runs"
    words = ["run", "--protocol", "smoke", "--device", "cpu", "--method", "gaussian", "--sigma", "0.5", "--results", str(root)]
    words += ["--set", "train.images=every:20", "--set", "certify.images=every:1000"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return Store(root)


def only(store: Store) -> Certification:
    return next(next(store.runs()).certifications())


FAST = ("--steps", "8", "--samples", "32", "--device", "cpu")


def test_a_trained_network_keeps_its_certificates_and_breaks_beyond(bench: Call, trained: Store, tmp_path: Path) -> None:
    run, out = next(trained.runs()), tmp_path / "points.csv"
    result = bench("attack", run.spec.key[:8], "--eps", "0.25,3", "--n", "500", *FAST, "--results", trained.root, "--csv", out, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    clean, quarter, three = data["levels"]
    assert clean["survived"] >= 0.7, "it has learned something"
    assert quarter["certified"] >= 0.3
    for level in data["levels"]:
        assert level["certified"] <= level["upper_bound"]
        assert level["survived"] <= level["upper_bound"] == 1 - level["broken"]
    assert quarter["inside"] >= 4
    assert clean["inside"] == data["attacked_inside"]
    assert data["contradictions"] == []
    assert three["survived"] <= clean["survived"] / 2
    assert three["broken"] >= 0.5
    with out.open() as file:
        points = list(csv.DictReader(file))
    assert len(points) == 30 == len(data["images"])
    assert {point["index"] for point in points} == {str(index) for index in range(0, 10_000, 1000)}
    for point in points:
        assert float(point["distance"]) <= float(point["eps"]) * (1 + 1e-5)
        assert sum(int(pair.partition(":")[2]) for pair in point["counts"].split()) == 500


def test_the_attack_is_stronger_than_chance(trained: Store) -> None:
    """At eps 2 the label's soft vote falls far below what a random direction of that length does to it."""
    run = next(trained.runs())
    training = run.training()
    assert training is not None
    base = load_weights(run, training["weights_sha256"], torch.device("cpu"))
    data = load("mnist", "test")
    indices = torch.arange(0, 10_000, 1000)
    x, y = data.images(indices), data.labels[indices]
    spec = AttackSpec(eps=(2.0,), steps=8, samples=32)
    points = _find(base, x, y, indices.tolist(), 0.5, 2.0, spec)
    generator = torch.Generator().manual_seed(9)
    aside = torch.randn(x.shape, generator=generator)
    aside = x + 2.0 * aside / aside.flatten(1).norm(dim=1)[:, None, None, None]
    g = SmoothedClassifier(base, 0.5, generator)
    noise = g.noise(x, 100)
    with torch.inference_mode():
        found, chance = (float(gather(log_soft_vote(g.logits(p, noise)), y).exp().mean()) for p in (points, aside))
    assert found < chance / 2


def test_forged_certificates_are_refuted_loudly(bench: Call, trained: Store) -> None:
    """Evidence that claims all samples for every image; the radius 1.23 is false for most."""
    certification = only(trained)
    before = certification.evidence.read_bytes()
    forged = [dataclasses.replace(r, estimation={r.selected: r.n}) for r in certification.rows()]
    certification.evidence.write_text("".join(map(to_line, forged)))
    record = (certification.path / "finished.json").read_bytes()
    (certification.path / "finished.json").unlink()
    try:
        result = bench("attack", certification.subject.path, "--eps", "1.2", "--n", "500", *FAST)
    finally:
        certification.evidence.write_bytes(before)
        (certification.path / "finished.json").write_bytes(record)
    assert result.exit_code == 1, result.output
    assert result.output.count("CONTRADICTION: image ") >= 2
    assert "is certified as class" in result.output
    assert "alpha does not explain it: the certificates are wrong" in result.output


def test_the_images_that_were_asked_for(bench: Call, trained: Store) -> None:
    run = next(trained.runs())
    result = bench("attack", run.path, "--eps", "0.1", "--images", "0-1999", "--steps", "1", "--samples", "2", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "2 images: 0-1999 of the certified every:1000" in result.output
    assert "no contradiction in" in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("RUN", "--eps", "zero"), "--eps zero is not a number"),
        (("RUN", "--eps", "0"), "--eps must be finite numbers greater than 0"),
        (("RUN", "--eps", "1", "--steps", "0"), "--steps 0 must be at least 1"),
        (("RUN", "--eps", "1", "--alpha", "1"), "--alpha 1.0 must lie between"),
        (("RUN", "--eps", "1", "--images", "1-9"), "--images 1-9 has none of the certified images, which are every:1000"),
        (("RUN", "--eps", "1", "--images", "few"), "--images=few is no selection"),
        (("RUN", "--eps", "1", "--device", "tpu"), "unknown device 'tpu'"),
        (("RUN", "--eps", "1", "--csv", "/nowhere/a.csv"), "--csv /nowhere/a.csv: there is no folder /nowhere"),
        (("RUN", "--eps", "1", "--certification", "zz"), "has no certification with key 'zz'"),
        (("zz", "--eps", "1"), "no run in"),
        (("EVIDENCE", "--eps", "1"), "holds no weights (evidence only)"),
    ],
)
def test_usage(bench: Call, trained: Store, words: tuple[str, ...], told: str) -> None:
    reference = Path(__file__).resolve().parent.parent / "results" / "reference" / "mnist" / "gaussian.default"
    places = {"RUN": next(trained.runs()).path, "EVIDENCE": next(reference.iterdir())}
    result = bench("attack", *(places.get(word, word) for word in words), "--results", trained.root)
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert isinstance(result.exception, SystemExit)
