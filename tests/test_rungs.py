"""The rule `rungs`: its boundary exactly, its errors by simulation, how it stops and is read."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binomtest

from bench import rules
from bench.errors import BenchError
from bench.rules.known.rungs import boundary, looks
from bench.rules.rule import Counts, Rule
from bench.spec import CertifySpec

SIGMA = 0.5


def rungs(radii: str = "0,0.25,0.5,0.75,1", n: int = 10_000, **fields: Any) -> Rule:
    return rules.of(CertifySpec(n0=100, n=n, rule="rungs", radii=radii, **fields))


def test_the_looks_are_those_of_the_plan() -> None:
    assert looks(500, 100_000)[:6] == (500, 1000, 1500, 2000, 2500, 3000)
    assert looks(500, 100_000)[6:] == (
        *(4000, 5000, 6000, 7500, 9500, 12000, 15000, 19000, 24000, 30000, 37500, 47000, 59000, 74000, 92500),
        100_000,
    )
    assert looks(500, 400) == (400,)
    assert looks(7, 1_000_000)[-1] == 1_000_000


@pytest.mark.parametrize("p", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.4])
def test_the_boundary_by_every_sequence_of_samples(p: float, alpha: float) -> None:
    """All 2^12 sequences, weighed by their probability: no recursion. One count less at any look would spend more than is allowed."""
    ends = (3, 5, 8, 12)
    least = boundary(p, ends, alpha)
    samples = np.array(list(itertools.product([0, 1], repeat=ends[-1])))
    weight = p ** samples.sum(1) * (1 - p) ** (ends[-1] - samples.sum(1))
    counts = np.array([samples[:, :end].sum(1) for end in ends])

    def spent(least: np.ndarray, look: int) -> float:
        return float(weight[(counts[: look + 1] >= least[: look + 1, None]).any(0)].sum())

    for look, end in enumerate(ends):
        assert spent(least, look) <= alpha * np.sqrt(end / ends[-1]) + 1e-12
        lower = least.copy()
        lower[look] -= 1
        assert spent(lower, look) > alpha * np.sqrt(end / ends[-1])


@pytest.mark.parametrize("radius", [0.0, 0.5, 1.0])
def test_no_more_than_alpha_of_the_rungs_are_false(radius: float) -> None:
    """100,000 images whose class has exactly the probability of a rung, every look counted; alpha .01; the 99.9 % interval."""
    rule, alpha, images = rungs("0,0.5,1"), 0.01, 100_000
    rng, count, drawn = np.random.default_rng(0), np.zeros(images, np.int64), 0
    false = np.zeros(images, np.bool_)
    for end in looks(500, 10_000):
        count, drawn = count + rng.binomial(end - drawn, ndtr(radius / SIGMA), images), end
        false |= np.nan_to_num(rule.radii(Counts(count, np.full(images, drawn)), alpha, SIGMA), nan=-1.0) > radius
    interval = binomtest(int(false.sum()), images).proportion_ci(0.999)
    assert interval.low <= alpha
    assert interval.high > alpha / 2, "and it spends what it may"


def test_sampling_stops_where_all_is_certified_or_the_next_rung_is_hopeless() -> None:
    rule = rungs("0,0.5,1", stop_alpha=0.001)
    stop = rule.stop(SIGMA)
    assert stop
    assert stop.enough(500, 500)
    assert not stop.enough(487, 500), "the last rung may come"
    assert stop.enough(470, 500), "the last is hopeless"
    assert stop.enough(200, 500), "and here the first is"
    out_of_reach = rungs("0,0.5,5").stop(SIGMA)
    assert out_of_reach
    assert out_of_reach.enough(500, 500), "no count of n samples reaches the last rung, so nothing waits for it"


def test_a_rung_counts_as_larger_than_its_radius_and_no_more() -> None:
    radii = rungs("0,0.5").radii(Counts(np.array([100, 300, 500, 10_000]), np.array([500, 500, 500, 10_000])), 0.001, SIGMA)
    assert np.isnan(radii[0])
    assert 0 < radii[1] < 1e-300
    assert (radii[2:] > 0.5).all()
    assert radii[2:] == pytest.approx(0.5, abs=1e-15)


def test_counts_at_no_look_are_not_its_own_and_certify_nothing() -> None:
    rule, counts = rungs(), Counts(np.array([501, 500, 10_000]), np.array([501, 500, 10_000]))
    assert rule.may_stop(counts).tolist() == [False, True, True]
    assert np.isnan(rule.radii(counts, 0.001, SIGMA)).tolist() == [True, False, False]


def test_settings_that_make_no_sense_are_refused() -> None:
    for radii in ("", "0,0", "1,0.5", "-1,0", "x", "0,nan", "0,inf", ","):
        with pytest.raises(ValueError, match="radii"):
            CertifySpec(n0=1, n=10, rule="rungs", radii=radii)
    spec = CertifySpec(n0=1, n=10_000, rule="rungs", radii="0.00,.50")
    assert spec.radii == "0,0.5"
    assert spec.key == CertifySpec(n0=1, n=10_000, rule="rungs", radii="0,0.5").key
    stop = rules.of(spec).stop(SIGMA)
    assert stop
    close = CertifySpec(n0=1, n=10_000, rule="rungs", radii="0.1234561,0.1234562")
    assert close.radii == "0.1234561,0.1234562", "no radius is rounded to another"
    assert "every radius" in rules.needless_radii(rules.DEFAULT, "1")
    assert not rules.needless_radii("rungs", "1")
    assert not rules.needless_radii(rules.DEFAULT, "")
    with pytest.raises(BenchError, match="520"):
        list(stop.looks(10_000, 40))
