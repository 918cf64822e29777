"""What another noise level nearby leaves of a class's probability, in the worst case over all classifiers.

At a point x the noise is N(0, sigma^2 I), and a class has probability p. At a point x' in distance z the noise is N(0, tau^2 I).
Theorem 1 of the SmoothMix paper (appendix B) says that the smallest probability the class may have there is at most C / d in d dimensions,
however near the points are, if sigma and tau differ and stay as they are while d grows. For Gaussian noise the smallest
probability itself is known; here it stands beside the paper's two bounds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, ncx2, norm

from bench.errors import BenchError

KURTOSIS = 3.0
"""The fourth moment of standard normal noise."""


def worst_case(p: ArrayLike, sigma: ArrayLike, tau: ArrayLike, distance: ArrayLike, dimensions: ArrayLike) -> NDArray[np.float64]:
    """The smallest probability at x' of a class that has probability p at x, over all measurable classifiers: exact.

    By Neyman and Pearson's lemma the worst classifier gives the class where the ratio of the two densities is small. For
    tau > sigma that is a ball, for tau < sigma what lies outside of one, and for tau = sigma a half-space, which is the certificate of
    randomized smoothing itself: Phi(Phi^-1(p) - z / sigma).

    Args:
        p: probability of the class at x, in (0, 1). sigma, tau: standard deviations of the noise at x and x', greater than 0, in pixels
            of [0, 1]. distance: z, the L2 distance of the two points, at least 0. dimensions: d. They broadcast.

    Returns:
        probabilities; 0 where they are below the smallest float64.

    Raises:
        BenchError: a value outside of these ranges.
    """
    p, sigma, tau, z, d = _checked(p, sigma, tau, distance, dimensions)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.abs(tau**2 - sigma**2)
        # Both norms are measured from the ball's centre, which lies on the line through x and x'.
        at_x, at_other = (z * sigma / gap) ** 2, (z * tau / gap) ** 2
        ball = _cdf(_ppf(p, d, at_x) * sigma**2 / tau**2, d, at_other)
        outside = _sf(_isf(p, d, at_x) * sigma**2 / tau**2, d, at_other)
    half_space = norm.cdf(norm.ppf(p) - z / sigma)
    found: NDArray[np.float64] = np.select([tau > sigma, tau < sigma], [ball, outside], half_space)
    return found


def shell_bound(p: ArrayLike, sigma: ArrayLike, tau: ArrayLike, distance: ArrayLike, dimensions: ArrayLike) -> NDArray[np.float64]:
    """The bound that the paper's proof takes, equation (12): the probability of one classifier, a shell around x.

    The class is given to |u - x|^2 / d in [sigma^2 - k, sigma^2 + k], with k such that it has probability p at x.
    Arguments, values and errors as of `worst_case`, which is never above it.
    """
    p, sigma, tau, z, d = np.broadcast_arrays(*_checked(p, sigma, tau, distance, dimensions))
    low, high = np.zeros(p.shape), np.maximum(chi2.isf((1 - p) / 2, d) / d, 2.0)
    for _ in range(200):  # k / sigma^2 by bisection; the probability grows with it
        k = (low + high) / 2
        below = chi2.cdf(d * (1 + k), d) - chi2.cdf(d * np.maximum(1 - k, 0), d) < p
        low, high = np.where(below, k, low), np.where(below, high, k)
    scale, centre = d * sigma**2 / tau**2, (z / tau) ** 2
    found: NDArray[np.float64] = _cdf(scale * (1 + high), d, centre) - _cdf(scale * np.maximum(1 - high, 0), d, centre)
    return found


def constant(p: float, sigma: float, tau: float, epsilon: float, kurtosis: float = KURTOSIS) -> float:
    """C of Lemma 2: the probability at x' is at most C / d for every distance up to epsilon; it says something from d > C on.

    The appendix, as its text is at hand, has sigma^2 + tau^2 in the last two terms. Chebyshev's inequality, which it takes there, asks for
    the difference of the two, so |sigma^2 - tau^2| stands here. It makes C larger, never smaller.

    Args:
        kurtosis: the fourth moment of the noise, which has mean 0 and variance 1.
    """
    gap, eta = abs(tau**2 - sigma**2), math.sqrt(kurtosis - 1)
    if not gap:
        raise BenchError(f"sigma and tau are both {sigma:g}; the theorem is about two noise levels that differ")
    return max(
        4 * sigma**4 * eta**2 / (gap**2 * (1 - p)),
        6 * epsilon**2 / gap,
        (36 * tau**4 * eta**2 + 144 * tau**2 * epsilon**2) / gap**2,
    )


def largest_ratio(p: ArrayLike, dimensions: ArrayLike) -> NDArray[np.float64]:
    """The largest tau / sigma at which the class keeps more than 1/2 in every case, at the very same point (distance 0).

    Beyond it no certificate that knows only p can hold, whatever its radius.
    """
    p, d = np.asarray(p, np.float64), np.asarray(dimensions, np.float64)
    found: NDArray[np.float64] = np.sqrt(chi2.ppf(p, d) / chi2.ppf(0.5, d))
    return found


def limit(p: ArrayLike, a: ArrayLike) -> NDArray[np.float64]:
    """The worst case at distance 0 for tau = sigma (1 + a / sqrt(d)), as d grows: it does not vanish."""
    found: NDArray[np.float64] = np.asarray(norm.cdf(norm.ppf(np.asarray(p, np.float64)) - np.sqrt(2) * np.asarray(a, np.float64)))
    return found


def _checked(*values: ArrayLike) -> list[NDArray[np.float64]]:
    p, sigma, tau, z, d = (np.asarray(value, np.float64) for value in values)
    for name, value, fits, words in (
        ("p", p, (p > 0) & (p < 1), "between 0 and 1, both excluded"),
        ("sigma", sigma, (sigma > 0) & np.isfinite(sigma), "greater than 0"),
        ("tau", tau, (tau > 0) & np.isfinite(tau), "greater than 0"),
        ("distance", z, (z >= 0) & np.isfinite(z), "at least 0"),
        ("dimensions", d, (d >= 1) & (d == np.floor(d)), "a whole number of at least 1"),
    ):
        if not np.all(fits):
            raise BenchError(f"{name} {np.atleast_1d(value)[~np.atleast_1d(fits)][0]:g} must be {words}")
    return [p, sigma, tau, z, d]


def _noncentral(plain: Any, shifted: Any, x: Any, d: Any, centre: Any) -> Any:
    """A chi-squared function, noncentral where the centre is not 0: scipy's noncentral one is not for 0, nor for subnormal numbers."""
    away = centre >= np.finfo(np.float64).tiny
    return np.where(away, shifted(x, d, np.where(away, centre, 1.0)), plain(x, d))


def _cdf(x: Any, d: Any, centre: Any) -> Any:
    return _noncentral(chi2.cdf, ncx2.cdf, x, d, centre)


def _sf(x: Any, d: Any, centre: Any) -> Any:
    return _noncentral(chi2.sf, ncx2.sf, x, d, centre)


def _ppf(x: Any, d: Any, centre: Any) -> Any:
    return _noncentral(chi2.ppf, ncx2.ppf, x, d, centre)


def _isf(x: Any, d: Any, centre: Any) -> Any:
    return _noncentral(chi2.isf, ncx2.isf, x, d, centre)
