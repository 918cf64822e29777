"""The certificate's arithmetic: pure functions of counts.

Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019
(procedure CERTIFY); the bound is Clopper and Pearson's (1934), one-sided.
"""

from __future__ import annotations

import math

from scipy.special import betaincinv, ndtri


def check_alpha(alpha: float) -> None:
    """ValueError unless alpha lies in (0, 1/2)."""
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} must lie between 0 and 0.5, both excluded; 0.001 is usual")


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
        raise ValueError(f"count {count} of n {n} samples is impossible: 0 <= count <= n and n >= 1")
    if count == 0:
        return 0.0
    return float(betaincinv(count, n - count + 1, alpha))


def certified_radius(count: int, n: int, alpha: float, sigma: float) -> float | None:
    """The certified L2 radius in pixels of [0, 1], or None for abstain.

    Args:
        count, n, alpha: as for `lower_confidence_bound`.
        sigma: noise level, finite and above 0.

    Returns:
        sigma * Phi^-1(pA) where the bound pA is at least 1/2, else None.

    Raises:
        ValueError, TypeError: as `lower_confidence_bound`, and for a sigma that is not positive.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma {sigma} must be a finite number greater than 0")
    bound = lower_confidence_bound(count, n, alpha)
    if not bound >= 0.5:
        return None
    return sigma * float(ndtri(bound))
