"""The certificate's arithmetic: known answers, bad input, exact coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import bdtrc, ndtr
from scipy.stats import binom

from bench.rules.bounds import certified_radius, least_count, lower_confidence_bound

LARGEST_RADIUS = [  # count = n, sigma 1: n, alpha, radius
    (100, 0.001, 1.500475024),
    (1_000, 0.001, 2.463262615),
    (10_000, 0.001, 3.198577515),
    (100_000, 0.001, 3.811456563),
    (1_000_000, 0.001, 4.346773699),
    (100_000, 0.01, 3.910510430),
]
BOUND = {  # n = 100,000, alpha = .001
    0: 0.0,
    1: 1.000500328579e-08,
    50_000: 0.495109042904,
    50_489: 0.499998948489,
    50_490: 0.500008948774,
    60_000: 0.595201047295,
    75_000: 0.745746842136,
    90_000: 0.897036496224,
    99_000: 0.988989340377,
    99_900: 0.998650992447,
    99_990: 0.999758677344,
    99_999: 0.999907669666,
    100_000: 0.999930924833,
}
LEAST_CERTIFYING = {100: 66, 1_000: 550, 10_000: 5_156, 100_000: 50_490}


@pytest.mark.parametrize(("n", "alpha", "radius"), LARGEST_RADIUS)
def test_largest_possible_radius(n: int, alpha: float, radius: float) -> None:
    assert certified_radius(n, n, alpha, 1.0) == pytest.approx(radius, rel=1e-9)
    assert lower_confidence_bound(n, n, alpha) == pytest.approx(alpha ** (1 / n), rel=1e-12)


@pytest.mark.parametrize(("count", "bound"), BOUND.items())
def test_bound_at_100_000_samples(count: int, bound: float) -> None:
    assert lower_confidence_bound(count, 100_000, 0.001) == pytest.approx(bound, rel=1e-9, abs=0)


def test_the_radius_that_a_three_digit_log_rounds_up() -> None:
    assert certified_radius(99_990, 100_000, 0.001, 0.5) == pytest.approx(1.745104, abs=5e-7)


@pytest.mark.parametrize(("n", "least"), LEAST_CERTIFYING.items())
def test_least_count_that_certifies(n: int, least: int) -> None:
    assert certified_radius(least - 1, n, 0.001, 1.0) is None
    assert 0 <= (certified_radius(least, n, 0.001, 1.0) or 0.0) < 0.02
    assert lower_confidence_bound(least - 1, n, 0.001) < 0.5 <= lower_confidence_bound(least, n, 0.001)


@pytest.mark.parametrize(("count", "n", "alpha"), [(1, 7, 0.05), (3, 7, 0.2), (66, 100, 0.001), (7, 7, 0.01), (940, 1000, 0.001)])
def test_bound_is_where_the_tail_has_mass_alpha(count: int, n: int, alpha: float) -> None:
    """The definition of Clopper and Pearson: P(Binomial(n, bound) >= count) = alpha, summed term by term."""
    p = lower_confidence_bound(count, n, alpha)
    tail = math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(count, n + 1))
    assert tail == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize(
    ("count", "n", "alpha", "sigma", "word"),
    [
        (-1, 100, 0.001, 1.0, "count"),
        (101, 100, 0.001, 1.0, "count"),
        (0, 0, 0.001, 1.0, "n 0"),
        (50, 100, 0.0, 1.0, "alpha"),
        (50, 100, 0.5, 1.0, "alpha"),
        (50, 100, -0.001, 1.0, "alpha"),
        (50, 100, math.nan, 1.0, "alpha"),
        (90, 100, 0.001, 0.0, "sigma"),
        (90, 100, 0.001, math.nan, "sigma"),
        (90, 100, 0.001, math.inf, "sigma"),
    ],
)
def test_impossible_values_are_refused(count: int, n: int, alpha: float, sigma: float, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        certified_radius(count, n, alpha, sigma)


@pytest.mark.parametrize("value", [99.0, 99.5, "99", None, True, math.nan])
def test_counts_are_whole_numbers(value: object) -> None:
    with pytest.raises(TypeError, match="whole numbers"):
        lower_confidence_bound(value, 100, 0.001)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="whole numbers"):
        lower_confidence_bound(1, value, 0.001)  # type: ignore[arg-type]


def test_numpy_counts_of_any_width_do_not_overflow() -> None:
    for kind in (np.int8, np.uint8, np.int16, np.int64):
        assert lower_confidence_bound(kind(100), kind(127), 0.001) == lower_confidence_bound(100, 127, 0.001)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------- coverage

PROBABILITIES = np.concatenate([np.linspace(0.0, 1.0, 200), [1e-6, 1 - 1e-6]])


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize("n", [100, 1_000, 10_000])
def test_exact_coverage(n: int, alpha: float) -> None:
    """For every p, the mass of the counts whose bound lies above p is at most alpha; no randomness. 9 x 202 = 1,818 cells."""
    assert len(PROBABILITIES) == 202
    bounds = np.array([lower_confidence_bound(count, n, alpha) for count in range(n + 1)])
    assert (np.diff(bounds) > 0).all()
    # the bound grows with the count, so the counts with bound > p are those from the first one on
    first = np.searchsorted(bounds, PROBABILITIES, side="right")
    mass = np.asarray(binom.sf(first - 1, n, PROBABILITIES))
    assert mass.max() <= alpha * (1 + 1e-9)
    assert mass.max() > 0.8 * alpha  # not vacuous, and not too careful: the worst p uses most of alpha


@pytest.mark.parametrize("n", [100, 1_000])
def test_the_coverage_test_sees_wrong_bounds(n: int) -> None:
    """Wald and Wilson bounds, the count plus one and a doubled alpha all break it."""
    alpha, z = 0.05, 1.6448536269514722
    share = np.arange(n + 1) / n
    wald = share - z * np.sqrt(share * (1 - share) / n)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    wilson = centre - z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    plus_one = np.array([lower_confidence_bound(min(n, count + 1), n, alpha) for count in range(n + 1)])
    doubled = np.array([lower_confidence_bound(count, n, 2 * alpha) for count in range(n + 1)])
    for bounds in (wald, wilson, plus_one, doubled):
        worst = max(float(binom.pmf(np.flatnonzero(bounds > p), n, p).sum()) for p in PROBABILITIES)
        assert worst > alpha * 1.1


# ------------------------------------------------------------------------------------------------------------ properties

counts = (st.integers(1, 20) | st.integers(1, 1_000_000_000)).flatmap(
    lambda n: st.tuples(st.integers(0, n) | st.sampled_from([0, n // 2, n - n // 9, n]), st.just(n))
)
alphas = st.floats(1e-12, 0.4999999)
QUIET = settings(deadline=None, derandomize=True)


@QUIET
@given(counts, alphas, st.floats(0.01, 10))
def test_a_radius_is_sigma_times_the_quantile_of_a_bound_below_the_observed_share(
    pair: tuple[int, int], alpha: float, sigma: float
) -> None:
    count, n = pair
    bound, radius = lower_confidence_bound(count, n, alpha), certified_radius(count, n, alpha, sigma)
    assert 0 <= bound <= 1
    if 0 < count < n:
        assert bound < count / n
        assert n > 200_000 or bdtrc(count - 1, n, bound) == pytest.approx(alpha, rel=1e-6)
    assert (radius is None) == (bound < 0.5) == (count < least_count(n, alpha))
    if radius is not None:
        assert 0 <= radius < math.inf
        assert ndtr(radius / sigma) == pytest.approx(bound, rel=1e-12)
        assert certified_radius(count, n, alpha, 2 * sigma) == 2 * radius


@QUIET
@given(counts, alphas, st.floats(1e-3, 0.9))
def test_fewer_votes_and_a_smaller_alpha_give_smaller_radii(pair: tuple[int, int], alpha: float, factor: float) -> None:
    count, n = pair
    radius = certified_radius(count, n, alpha, 1.0)
    for less in (certified_radius(max(0, count - 1), n, alpha, 1.0) if count else None, certified_radius(count, n, alpha * factor, 1.0)):
        assert less is None or (radius is not None and less < radius)
