"""Sampling stops once every multiple of certify.radius_step is decided; a one-sided bound that holds at every number of samples.

In place of `confidence-sequence`, whose bounds are two-sided and so wider, though no certificate uses the upper one. Against each
probability q stands the beta-binomial mixture with weights Beta(1/2, 1/2) cut to (q, 1). Under a true probability of q or less its ratio to
q's likelihood is a nonnegative supermartingale that begins at 1, so it ever reaches 1 / alpha with probability at most alpha (Ville's
inequality). The lower bound is the least q at which it has not.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc, betaln, xlog1py, xlogy

from bench.rules.bounds import Integers, check_counts, least_not_excluded
from bench.rules.known.confidence_sequence import ConfidenceSequence
from bench.rules.rule import Floats


def lower_bounds(counts: Integers, n: Integers, alpha: float) -> Floats:
    """I: lower bounds on binomial probabilities that hold at all sample sizes at once, rounded down.

    Args:
        counts, n: I each; 0 <= count <= n, n >= 1.

    Raises:
        ValueError: impossible counts; alpha outside (0, 1/2).
    """
    check_counts(counts, n, alpha)
    k, total = counts.astype(np.float64), n.astype(np.float64)
    whole = betaln(k + 0.5, total - k + 0.5) - betaln(0.5, 0.5)

    def excluded(q: Floats) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore", invalid="ignore"):
            cut = np.log(betaincc(k + 0.5, total - k + 0.5, q)) - np.log(betaincc(0.5, 0.5, q))
        return np.asarray(whole + cut - xlogy(k, q) - xlog1py(total - k, -q) >= -math.log(alpha))

    return least_not_excluded(k, total, excluded)


class OneSidedSequence(ConfidenceSequence):
    recomputed = None

    def lower(self, counts: Integers, n: Integers, alpha: float) -> Floats:
        return lower_bounds(counts, n, alpha)


RULE = OneSidedSequence
