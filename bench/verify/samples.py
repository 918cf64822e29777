"""Exact tests of whether two counts, each of as many samples, come of one probability; over several rows too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, fisher_exact, hypergeom

Pair = tuple[int, int, int]
"""A recorded count, one found again, and the number of samples of each."""
DEVIATIONS, MORE = 14, 40
"""Where the distribution of a sum is cut: what lies beyond so many standard deviations, and so many counts, is far below any level."""


def difference(recorded: int, found: int, n: int) -> float:
    """p of Fisher's exact test, two-sided: given the sum of both counts, either is hypergeometric."""
    return float(fisher_exact(np.array([[recorded, n - recorded], [found, n - found]])).pvalue)


def more_rows(pairs: Sequence[Pair]) -> float:
    """p of the one-sided sign test: so many of the rows that differ record more than was found."""
    higher, lower = (sum(sign * (a - b) > 0 for a, b, _ in pairs) for sign in (1, -1))
    return float(binomtest(higher, higher + lower, alternative="greater").pvalue) if higher else 1.0


def more_samples(pairs: Sequence[Pair]) -> float:
    """p of the one-sided test on the sum of the recorded counts, given the sum of both counts of each row.

    Given these, the recorded counts are independent and hypergeometric, whatever the probabilities of the rows. Their sum is the product of
    their characteristic functions.
    """
    parts, observed, variance, widest = [], 0, 0.0, 0
    for a, b, n in pairs:
        total, middle = a + b, (a + b) // 2
        spread = total * (2 * n - total) / (4 * (2 * n - 1))  # the variance of a hypergeometric count
        reach = int(DEVIATIONS * spread**0.5) + MORE
        counts = np.arange(max(total - n, 0, middle - reach), min(total, n, middle + reach) + 1)
        parts.append((counts - middle, hypergeom.pmf(counts, 2 * n, total, n)))
        observed, variance, widest = observed + a - middle, variance + spread, max(widest, reach)
    if observed <= 0 or not parts:
        return 1.0
    # Half a count is lost wherever a sum is odd, so the centre may lie that far from 0 for every row.
    half = int(DEVIATIONS * variance**0.5) + widest + len(parts) + MORE
    if observed >= half:
        return 0.0
    length = 1 << (2 * half).bit_length()
    product = np.ones(length // 2 + 1, dtype=complex)
    for places, chances in parts:
        row = np.zeros(length)
        row[places % length] = chances
        product *= np.fft.rfft(row)
    chance = np.fft.irfft(product, length)
    return float(np.clip(chance[observed : length // 2].sum(), 0.0, 1.0))
