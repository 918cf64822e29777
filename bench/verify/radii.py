"""Radii computed a second time, by another way than `bench.rules.bounds`, so that a fault there is seen.

`bench.rules.bounds` takes the beta quantile from scipy. Here the definition of Clopper and Pearson's bound is checked: the probability
of so many successes or more is alpha at the bound, summed term by term; the normal quantile is the standard library's.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from bench.errors import counted
from bench.rules import bounds
from bench.rules.rule import Counts, Rule

NEAR = 1e-9  # relative difference of two radii that are the same number
_QUANTILE = NormalDist().inv_cdf


def tail(count: NDArray[np.int64], n: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    """P[Binomial(n, p) >= count], summed term by term upwards from `count`.

    Args:
        count: above n * p, where the first term is among the largest. p: within (0, 1), one per count.
    """
    k = count.astype(np.float64)
    term = np.exp(gammaln(n + 1.0) - gammaln(k + 1) - gammaln(n - k + 1) + k * np.log(p) + (n - k) * np.log1p(-p))
    total = term.copy()
    odds = p / (1 - p)
    while (term > 1e-17 * total).any():
        term = term * odds * (n - k) / (k + 1)  # 0 beyond n
        total += term
        k = np.minimum(k + 1, n)
    return total


class Radii:
    """Recomputes radii and remembers which counts were right.

    Args:
        alpha: failure probability of each certificate, in (0, 1/2).
    """

    def __init__(self, alpha: float) -> None:
        bounds.check_alpha(alpha)
        self.alpha = alpha
        self.checked: dict[tuple[int, float], set[int]] = defaultdict(set)
        self.sequences: set[tuple[int, int, float]] = set()
        self.read: set[tuple[str, int, int, float]] = set()

    @property
    def distinct(self) -> int:
        """How many radii were recomputed."""
        return sum(map(len, self.checked.values())) + len(self.sequences)

    def faults_of(self, rule: Rule, counts: Iterable[tuple[int, int]], sigma: float) -> dict[tuple[int, int], str]:
        """Those (count, n) whose bound or radius is not that of its definition, or is read otherwise by the rule, and in what it differs.

        Args:
            rule: says by `recomputed` which definition applies: `tail`: bounds of a fixed n, by the tail of the binomial; `mixture`:
                bounds of all n at once.
            counts: of the selected class, of n.
        """
        keys = list(counts)
        if rule.recomputed == "mixture":
            found = {key: fault for key in keys if (fault := self.sequence_fault(*key, sigma))}
        else:
            by_n: dict[int, list[int]] = defaultdict(list)
            for count, n in keys:
                by_n[n].append(count)
            found = {(count, n): fault for n, same in by_n.items() for count, fault in self.faults(same, n, sigma).items()}
        new = [key for key in keys if (rule.name, *key, sigma) not in self.read]
        self.read.update((rule.name, *key, sigma) for key in new)
        if not new:
            return found
        count, n = np.array(new).T
        if rule.recomputed == "mixture":
            lower = bounds.anytime_bounds(count, n, self.alpha)[0]
        else:
            lower = np.array([bounds.lower_confidence_bound(*key, self.alpha) for key in new])
        read = rule.radii(Counts(count, n), self.alpha, sigma)
        for key, bound, radius in zip(new, lower.tolist(), read.tolist(), strict=True):
            right = sigma * _QUANTILE(bound) if 0.5 <= bound < 1 else math.nan
            if not (math.isnan(radius) and math.isnan(right)) and not math.isclose(radius, right, rel_tol=NEAR, abs_tol=NEAR * sigma):
                found.setdefault(
                    key, f"{key[0]} of {counted(key[1], 'sample')}: tables say radius {radius:.9g}, but the bound gives {right:.9g}"
                )
        return found

    def faults(self, counts: Iterable[int], n: int, sigma: float) -> dict[int, str]:
        """Counts whose radius by `bench.rules.bounds` is not that of the definition, and in what it differs; a count is told once.

        Args:
            counts: of the selected class, each within 0 .. n.
        """
        known = self.checked[n, sigma]
        new = np.array(sorted(set(counts) - known), dtype=np.int64)
        known.update(new.tolist())
        if not new.size:
            return {}
        bound = np.array([bounds.lower_confidence_bound(count, n, self.alpha) for count in new.tolist()])
        at_bound = np.zeros(len(new))
        inside = (new > n * bound) & (bound > 0)
        at_bound[inside] = tail(new[inside], n, bound[inside])
        # Up to n/2 successes, the chance of so many at p = 1/2 is at least 1/2 and so above any alpha.
        at_half = np.ones(len(new))
        upper = new > n / 2
        at_half[upper] = tail(new[upper], n, np.full(int(upper.sum()), 0.5))
        largest = sigma * _QUANTILE(self.alpha ** (1 / n)) if self.alpha ** (1 / n) > 0.5 else 0.0
        found = {}
        for count, p, chance, half in zip(new.tolist(), bound.tolist(), at_bound.tolist(), at_half.tolist(), strict=True):
            if fault := self._fault(count, n, sigma, p, chance, half, largest):
                found[count] = f"{count} of {counted(n, 'sample')}: {fault}"
        return found

    def sequence_fault(self, count: int, n: int, sigma: float) -> str | None:
        """What is wrong with the bound that holds at all sample sizes and its radius; None if nothing is.

        At the bound the mixture must be 1 / alpha times as likely as the bound itself.
        """
        self.sequences.add((count, n, sigma))
        bound = float(bounds.anytime_bounds(np.array([count]), np.array([n]), self.alpha)[0][0])
        at = f"{count} of {counted(n, 'sample')}"
        if count == 0:
            return None if bound == 0 else f"{at}: the lower bound is {bound:.9g}, not 0"
        mixture = math.lgamma(count + 0.5) + math.lgamma(n - count + 0.5) - math.lgamma(n + 1) - math.log(math.pi)
        ratio = mixture - count * math.log(bound) - (n - count) * math.log1p(-bound)
        if not math.isclose(ratio, -math.log(self.alpha), rel_tol=1e-6 + 1e-12 * n):
            return f"{at}: at the lower bound {bound:.9g} the logarithm of the ratio is {ratio:.9g}, not -log alpha"
        found = float(bounds.certified_radii(np.array([bound]), sigma)[0])
        radius = None if math.isnan(found) else found
        if (radius is None) != (bound < 0.5):
            return f"{at}: {'abstains' if radius is None else 'certifies'} at the lower bound {bound:.9g}"
        if radius is not None and not math.isclose(radius, sigma * _QUANTILE(bound), rel_tol=NEAR, abs_tol=NEAR * sigma):
            return f"{at}: radius {radius:.9g} is not sigma times the normal quantile of the bound {bound:.9g}"
        return None

    def _fault(self, count: int, n: int, sigma: float, bound: float, at_bound: float, at_half: float, largest: float) -> str | None:
        radius = bounds.certified_radius(count, n, self.alpha, sigma)
        # The logarithms of factorials that the sum starts from lose digits as n grows.
        right = bound == 0 if count == 0 else math.isclose(at_bound, self.alpha, rel_tol=1e-6 + 1e-13 * n)
        if not right:
            return f"so many or more have probability {at_bound:.9g} at the lower bound {bound:.9g}, not alpha {self.alpha:g}"
        if (radius is None) == (at_half <= self.alpha) and not math.isclose(at_half, self.alpha, rel_tol=NEAR):
            said = "abstains" if radius is None else f"certifies radius {radius:.9g}"
            return f"{said}, though so many or more have probability {at_half:.9g} at 1/2, and alpha is {self.alpha:g}"
        if radius is None:
            return None
        if not math.isclose(radius, sigma * _QUANTILE(bound), rel_tol=NEAR, abs_tol=NEAR * sigma):
            return f"radius {radius:.9g} is not sigma times the normal quantile of the bound, {sigma * _QUANTILE(bound):.9g}"
        if radius > largest * (1 + NEAR):
            return f"radius {radius:.9g} is above {largest:.9g}, the largest for n={n}, alpha={self.alpha:g}, sigma={sigma:g}"
        return None
