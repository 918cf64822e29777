"""The certificate's arithmetic: pure functions of counts.

Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019
(procedure CERTIFY); the bound is Clopper and Pearson's (1934), one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, betaln, ndtri, xlog1py, xlogy

Integers = NDArray[np.int32] | NDArray[np.int64]
Floats = NDArray[np.float64]
LARGEST_TABLE = 10_000_000  # samples; 80 MB


def check_alpha(alpha: float) -> None:
    """ValueError unless alpha lies in (0, 1/2)."""
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} must lie between 0 and 0.5, both excluded; 0.001 is usual")


def check_sigma(sigma: float) -> None:
    """ValueError unless sigma is finite and above 0."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma {sigma} must be a finite number greater than 0")


def lower_confidence_bound(count: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson lower bound on a binomial probability.

    Args:
        count: successes, 0 <= count <= n.
        n: trials, at least 1.
        alpha: the chance that the bound lies above the probability is at most alpha; in (0, 1/2).

    Returns:
        the alpha quantile of Beta(count, n - count + 1); 0 for count = 0.

    Raises:
        ValueError: a count outside 0..n, n < 1, alpha outside (0, 1/2).
        TypeError: a count that is not a whole number.
    """
    check_alpha(alpha)
    for value in (count, n):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"counts are whole numbers, not {value!r}")
    count, n = int(count), int(n)
    if n < 1 or not 0 <= count <= n:
        raise ValueError(f"count {count} of n {n} is impossible: 0 <= count <= n and n >= 1")
    if count == 0:
        return 0.0
    return float(betaincinv(count, n - count + 1, alpha))


def certified_radius(count: int, n: int, alpha: float, sigma: float) -> float | None:
    """The certified L2 radius of a fixed n, in pixels of [0, 1], or None for abstain.

    Args:
        count, n, alpha: as for `lower_confidence_bound`.
        sigma: noise level, finite and above 0.

    Returns:
        sigma * Phi^-1(pA) where the bound pA is at least 1/2, else None.

    Raises:
        ValueError, TypeError: as `lower_confidence_bound`, and for a sigma that is not positive.
    """
    check_sigma(sigma)
    bound = lower_confidence_bound(count, n, alpha)
    if not bound >= 0.5:
        return None
    return sigma * float(ndtri(bound))


def lower_confidence_bounds(counts: Integers, n: Integers, alpha: float) -> NDArray[np.float64]:
    """`lower_confidence_bound` of many counts, equal in every bit.

    Args:
        counts, n: I each.

    Raises:
        ValueError: as `lower_confidence_bound`.
    """
    check_counts(counts, n, alpha)
    if len(n) and (n == n[0]).all():
        return _bounds_of(counts, int(n[0]), alpha)
    result = np.empty(len(counts))
    for size in np.unique(n).tolist():
        mine = n == size
        result[mine] = _bounds_of(counts[mine], size, alpha)
    return result


def check_counts(counts: Integers, n: Integers, alpha: float) -> None:
    """ValueError as `lower_confidence_bound`, for counts and n of I images each."""
    check_alpha(alpha)
    if (wrong := np.flatnonzero((n < 1) | (counts < 0) | (counts > n))).size:
        lower_confidence_bound(int(counts[wrong[0]]), int(n[wrong[0]]), alpha)


def _bounds_of(counts: Integers, n: int, alpha: float) -> NDArray[np.float64]:
    if n > LARGEST_TABLE:
        distinct, where = np.unique(counts.astype(np.int64), return_inverse=True)
        return np.asarray(_bound(distinct, n, alpha)[where])
    table = _table(n, alpha)
    missing = counts[np.isnan(table[counts])]
    table[missing] = _bound(missing, n, alpha)
    return np.asarray(table[counts])


def _bound(counts: Integers, n: int, alpha: float) -> NDArray[np.float64]:
    k = counts.astype(np.float64)
    return np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, alpha), 0.0)  # betaincinv(0, ...) is not 0 but undefined


@lru_cache(maxsize=8)
def _table(n: int, alpha: float) -> NDArray[np.float64]:
    """Bounds by count, NaN where not yet computed: a leaderboard of many cells meets the same counts again and again."""
    return np.full(n + 1, np.nan)


def certified_radii(bounds: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """sigma * Phi^-1 of lower bounds pA, NaN where pA < 1/2 abstains; equal in every bit to `certified_radius`.

    Raises:
        ValueError: sigma is not finite and above 0.
    """
    check_sigma(sigma)
    return np.where(bounds >= 0.5, sigma * ndtri(np.maximum(bounds, 0.5)), np.nan)


def least_count(n: int, alpha: float) -> int:
    """The least count of n samples that certifies (n + 1 if none does): fewer abstain at this alpha.

    Raises:
        ValueError: as `lower_confidence_bound`.
    """
    low, high = -1, n + 1
    lower_confidence_bound(n, n, alpha)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lower_confidence_bound(middle, n, alpha) >= 0.5 else (middle, high)
    return high


def anytime_bounds(counts: Integers, n: Integers, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds on binomial probabilities that hold at all sample sizes at once, so that sampling may stop at any time for any reason.

    With probability at least 1 - alpha the probability lies between them after every number of samples. They are the p at which the
    beta-binomial mixture with weights Beta(1/2, 1/2) is 1 / alpha times as likely as p: a nonnegative martingale of mean 1 under the
    true p, which ever reaches 1 / alpha with probability at most alpha (Ville's inequality). The mixture is the wealth of a
    bettor on the outcomes, as in the betting bounds of Waudby-Smith and Ramdas (2024).

    Args:
        counts, n: I each; 0 <= count <= n, n >= 1.

    Returns:
        lower and upper bounds, I each, rounded outwards.

    Raises:
        ValueError: as `lower_confidence_bound`.
    """
    check_counts(counts, n, alpha)
    k, total = counts.astype(np.float64), n.astype(np.float64)
    return _anytime_lower(k, total, alpha), 1.0 - _anytime_lower(total - k, total, alpha)


def _anytime_lower(k: Floats, n: Floats, alpha: float) -> Floats:
    mixture = betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)
    return least_not_excluded(k, n, lambda p: mixture - (xlogy(k, p) + xlog1py(n - k, -p)) >= -math.log(alpha))


def least_not_excluded(k: Floats, n: Floats, excluded: Callable[[Floats], NDArray[np.bool_]]) -> Floats:
    """I: the least probability below k / n that is not excluded, rounded down; 0 where k is 0.

    Args:
        k, n: I each. excluded: I probabilities -> I, true below a limit and false above it.
    """
    low, high = np.zeros(len(k)), k / n
    for _ in range(60):  # a double has 52 bits; the lower end is always on the safe side
        middle = (low + high) / 2
        below = excluded(middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(k > 0, low, 0.0)
