"""Tests of whether recorded and new counts come of one probability: their level holds, and lifts are found."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import hypergeom

from bench.verify.samples import Pair, difference, more_rows, more_samples

LEVEL = 0.01


def exactly(pairs: list[Pair]) -> float:
    """The chance of as large a sum, over every combination of counts."""
    rows = [[(k, float(hypergeom.pmf(k, 2 * n, a + b, n))) for k in range(max(0, a + b - n), min(n, a + b) + 1)] for a, b, n in pairs]
    observed = sum(a for a, _, _ in pairs)
    return sum(math.prod(p for _, p in some) for some in itertools.product(*rows) if sum(k for k, _ in some) >= observed)


@pytest.mark.parametrize(
    "pairs",
    [
        [(3, 1, 4)],
        [(2, 1, 4), (5, 2, 6)],
        [(4, 4, 4), (0, 0, 5), (3, 2, 5)],
        [(1, 0, 1), (1, 0, 1), (1, 0, 1)],
        [(7, 2, 9), (6, 5, 8), (9, 7, 12)],
    ],
    ids=str,
)
def test_the_sum_is_exact(pairs: list[Pair]) -> None:
    assert more_samples(pairs) == pytest.approx(exactly(pairs), rel=1e-9)


def test_the_sum_agrees_with_a_convolution_for_many_samples() -> None:
    rng, n = np.random.default_rng(0), 2_000
    p = rng.uniform(0.05, 0.95, 12)
    a, b = rng.binomial(n, p) + 3, rng.binomial(n, p)
    chance = np.ones(1)
    for one, two in zip(a.tolist(), b.tolist(), strict=True):
        chance = np.convolve(chance, hypergeom.pmf(np.arange(n + 1), 2 * n, one + two, n))
    pairs = [(one, two, n) for one, two in zip(a.tolist(), b.tolist(), strict=True)]
    assert more_samples(pairs) == pytest.approx(chance[a.sum() :].sum(), rel=1e-9)


def test_nothing_speaks_of_nothing() -> None:
    for pairs in ([], [(5, 5, 10)], [(10, 10, 10)] * 5, [(0, 0, 10)]):
        assert more_rows(pairs) == more_samples(pairs) == 1.0
    assert difference(5, 5, 10) == 1.0


def test_levels_hold_and_lifts_are_found() -> None:
    """Honest counts are accused at the level at most; rows that all moved up by a deviation are found."""
    rng, n, rows, trials = np.random.default_rng(1), 500, 30, 200
    accused, found = np.zeros(2), np.zeros(2)
    for _ in range(trials):
        p = rng.uniform(0.5, 0.999, rows)
        recorded, new = rng.binomial(n, p), rng.binomial(n, p)
        lifted = np.minimum(n, recorded + np.ceil(np.sqrt(n * p * (1 - p))).astype(int))
        for counts, tally in ((recorded, accused), (lifted, found)):
            pairs = [(a, b, n) for a, b in zip(counts.tolist(), new.tolist(), strict=True)]
            tally += [more_rows(pairs) < LEVEL, more_samples(pairs) < LEVEL]
    slack = 3 * math.sqrt(LEVEL / trials)
    assert (accused / trials <= LEVEL + slack).all(), accused

    assert (found / trials > 0.7).all(), found


def test_rows_that_all_go_up_by_one_sample_are_found() -> None:
    pairs = [(90_001 + k, 90_000 + k, 100_000) for k in range(20)]
    assert more_rows(pairs) == pytest.approx(2.0**-20)
    assert more_samples(pairs) > 0.1, "the sum alone would not see it"


def test_an_absurd_sum_has_no_chance() -> None:
    assert more_samples([(1000, 0, 1000)] * 50) == pytest.approx(0.0, abs=1e-12)
