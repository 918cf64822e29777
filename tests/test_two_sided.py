"""The rule `two-sided`: no more false certificates than alpha, exactly; and what it gains."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import binomtest, multinomial

import bench
from bench import rules
from bench.errors import BenchError
from bench.rules.bounds import certified_radii, lower_confidence_bounds
from bench.rules.known.two_sided import SHARE
from bench.rules.rule import Counts
from bench.spec import CertifySpec

Radii = Callable[[Counts, float], np.ndarray]
N = 60
SIGMA = 0.5
OUTCOMES = np.array([(a, b, N - a - b) for a, b in itertools.product(range(N + 1), repeat=2) if a + b <= N])
# Probabilities of the selected class and of two others: runners-up that are clear, tied, and above the selected class.
VECTORS = [(0.5, 0.3, 0.2), (0.45, 0.3, 0.25), (0.4, 0.3, 0.3), (0.36, 0.33, 0.31), (0.34, 0.33, 0.33), (0.3, 0.4, 0.3), (0.2, 0.79, 0.01)]
VECTORS += [(0.9, 0.07, 0.03), (0.9, 0.05, 0.05), (0.97, 0.02, 0.01), (0.99, 0.0099, 0.0001), (0.5, 0.5, 0.0), (0.6, 0.39, 0.01)]


def radii(counts: Counts, alpha: float) -> np.ndarray:
    return rules.of(CertifySpec(n0=1, n=N), "two-sided").radii(counts, alpha, SIGMA)


def false_share(radii: Radii, p: tuple[float, ...], alpha: float) -> float:
    """The exact probability that N samples certify more than the true radius of the class with p[0]."""
    a, b = p[0], max(p[1:])
    with np.errstate(divide="ignore"):
        true = SIGMA / 2 * (ndtri(a) - ndtri(b)) if a > b else -1.0
    counts = Counts(OUTCOMES[:, 0], np.full(len(OUTCOMES), N), OUTCOMES[:, 1:].max(1))
    claims = np.nan_to_num(radii(counts, alpha), nan=-1.0)
    return float(multinomial.pmf(OUTCOMES, N, p)[(claims >= 0) & (claims > true)].sum())


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
def test_no_more_false_certificates_than_alpha_exactly(alpha: float) -> None:
    """Every outcome of 60 samples over three classes, weighed by its probability: nothing is simulated."""
    found = [false_share(radii, p, alpha) for p in VECTORS]
    assert max(found) <= alpha
    assert max(found) > alpha / 20, "the test is near enough to the limit to see a fault"


def planted(lower_share: float, upper_share: float, other: Callable[[Counts], np.ndarray]) -> Radii:
    def faulty(counts: Counts, alpha: float) -> np.ndarray:
        lower = lower_confidence_bounds(counts.count, counts.n, lower_share * alpha)
        upper = np.minimum(1 - lower, 1 - lower_confidence_bounds(counts.n - other(counts), counts.n, upper_share * alpha))
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(lower > upper, SIGMA / 2 * (ndtri(lower) - ndtri(upper)), np.nan))

    return faulty


def runner_up(counts: Counts) -> np.ndarray:
    assert counts.runner_up is not None
    return counts.runner_up


def last_class(counts: Counts) -> np.ndarray:
    return np.asarray(counts.n - counts.count - runner_up(counts))


def test_planted_faults_are_seen() -> None:
    """All of alpha for each bound is no such fault: the worst of these vectors then reaches .92 alpha, for both seldom fail at once."""
    for faulty in (
        planted(1 - SHARE, SHARE, last_class),  # the upper bound of another class than the runner-up
        planted(2 * (1 - SHARE), 2 * SHARE, runner_up),  # alpha halved the wrong way
        planted(1 - SHARE, 9.0, runner_up),  # the shares exchanged, and not of alpha
    ):
        assert any(false_share(faulty, p, alpha) > alpha for p in VECTORS for alpha in (0.001, 0.01, 0.05))
    assert [false_share(planted(1 - SHARE, SHARE, runner_up), p, 0.05) for p in VECTORS] == [false_share(radii, p, 0.05) for p in VECTORS]


def test_no_more_false_certificates_than_alpha_with_the_class_selected_from_samples() -> None:
    """20,000 images with ten classes, n0 = 10, n = 500; the 99.9 % interval of the share of false certificates reaches down to alpha."""
    rng, images, n, alpha = np.random.default_rng(0), 20_000, 500, 0.05
    for p in ([0.2, 0.18, *[0.0775] * 8], [0.6, 0.3, *[0.0125] * 8], [0.12, *[0.88 / 9] * 9]):
        selected = rng.multinomial(10, p, images).argmax(1)
        counts = rng.multinomial(n, p, images)
        count = counts[np.arange(images), selected]
        counts[np.arange(images), selected] = -1
        claims = rules.of(CertifySpec(n0=10, n=n), "two-sided").radii(Counts(count, np.full(images, n), counts.max(1)), alpha, SIGMA)
        mine, others = np.array(p)[selected], np.array([max(np.delete(p, a)) for a in range(10)])[selected]
        true = np.where(mine > others, SIGMA / 2 * (ndtri(mine) - ndtri(others)), -1.0)
        false = int((np.nan_to_num(claims, nan=-2.0) > true).sum())
        assert binomtest(false, images).proportion_ci(0.999).low <= alpha


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))), st.sampled_from([0.001, 0.05]))
def test_it_is_never_below_one_bound_at_nine_tenths_of_alpha(drawn: tuple[int, int, int], alpha: float) -> None:
    """pB is capped by 1 - pA, so a count that one bound certifies is certified here, with no smaller radius."""
    n, count, other = drawn
    counts = Counts(np.array([count]), np.array([n]), np.array([min(other, n - count)]))
    one = certified_radii(lower_confidence_bounds(counts.count, counts.n, (1 - SHARE) * alpha), SIGMA)
    two = radii(counts, alpha)
    assert np.isnan(one) | (two >= one - 1e-12)


def test_counts_that_are_not_complete_are_refused() -> None:
    spec = CertifySpec(n0=1, n=10, skip_misclassified=True)
    with pytest.raises(BenchError):
        rules.of(spec, "two-sided").check(0.001)
    with pytest.raises(BenchError):
        rules.of(CertifySpec(n0=1, n=10, rule="curtailed"), "two-sided")
    with pytest.raises(ValueError, match="runner-up"):
        radii(Counts(np.array([9]), np.array([10])), 0.001)


def test_the_reference_read_on_two_sides() -> None:
    """Figures that were computed apart from this code, from the stored counts of the full Gaussian runs."""
    frame = bench.load_results(Path(__file__).parent.parent / "results" / "reference", rule="two-sided")
    full = frame[(frame.protocol == "full") & (frame.method == "gaussian")]
    found = {sigma: round(bench.acr(one.radius, one.correct), 4) for sigma, one in full.groupby("sigma")}
    assert found == {0.25: 0.8963, 0.5: 1.5394, 1.0: 1.7450}
    assert (full[full.sigma == 1].radius == 0).mean() == 0.008, "of 500 images, 4 abstain"
