"""Sampling stops once each of a few radii (certify.radii) is certified or hopeless: a tenth of the samples, but no ACR.

A radius r is certified by showing that pA, the probability of the selected class, lies above Phi(r / sigma). Looks at the counts are few
and fixed, and each radius, a rung, has a group-sequential test of its own at level alpha with an exact boundary: up to n samples an
error of a(n) = alpha sqrt(n / n_max) may be spent (Lan and DeMets 1983), and the chance of crossing comes from a recursion over the
looks (Jennison and Turnbull 2000, section 12.1.2; compare Voracek, arXiv 2406.17830). The result is the largest rung up to which all
are certified at the look where sampling stopped. Rungs need no correction for their number: only the first false one can be the first
false claim. Stopping because the next rung is hopeless needs none either: it only takes claims away.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom

from bench.errors import BenchError
from bench.rules.bounds import check_alpha, check_sigma
from bench.rules.rule import Counts, Floats, Rule, Stopping

if TYPE_CHECKING:
    from bench.spec import CertifySpec

STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30, 38, 48, 60, 75, 94, 118, 148, 185)
"""Looks, in multiples of the first one; from 5 on they grow by a quarter, and they go on so."""
HOPELESS = 0.02
"""The chance of ever certifying the next rung below which sampling stops."""


def looks(first: int, n: int) -> tuple[int, ...]:
    """Numbers of samples after which the counts are looked at: multiples of the first, ascending, and n at last."""
    steps = list(STEPS)
    while steps[-1] * first < n:
        steps.append(round(steps[-1] * 1.25))
    return (*(step * first for step in steps if step * first < n), n)


@lru_cache(maxsize=256)
def boundary(p: float, ends: tuple[int, ...], alpha: float) -> NDArray[np.int64]:
    """The least count at each look that certifies a probability above p; one above the samples where none does.

    Args:
        p: in (0, 1). ends: the looks.
        alpha: at most the chance that a class of probability p or less is at or above the boundary at any look.
    """
    alive, spent, before, least = np.ones(1), 0.0, 0, []
    for end in ends:
        # alive[k]: the chance of k samples on the class, none of the earlier looks having certified.
        alive = np.convolve(alive, binom.pmf(np.arange(end - before + 1), end - before, p))
        beyond = np.cumsum(alive[::-1])[::-1]
        found = np.flatnonzero(beyond <= alpha * math.sqrt(end / ends[-1]) - spent)
        count = int(found[0]) if found.size else len(alive)
        spent += float(beyond[count]) if found.size else 0.0
        alive = alive[:count]
        least.append(count if found.size else end + 1)
        before = end
    return np.array(least)


@dataclass(frozen=True)
class _Looks(Stopping):
    first: int

    def looks(self, n: int, block: int) -> Iterable[int]:
        if self.first % block:
            fits = -(-self.first // block) * block
            raise BenchError(f"certify.first_look={self.first} is no multiple of the {block} samples of a block; {fits} is")
        return looks(self.first, n)


class Rungs(Rule):
    stops = True
    takes_radii = True
    acr = "none"
    acr_note = (
        "Sampling stopped once each of a few radii was certified or hopeless. Radii are known at these only, from below, "
        "so no ACR can be read."
    )

    def __init__(self, spec: CertifySpec) -> None:
        super().__init__(spec)
        self.rungs = np.array(self.given_radii)
        self.ends = looks(spec.first_look, spec.n)

    @classmethod
    def check_spec(cls, spec: CertifySpec) -> None:
        super().check_spec(spec)
        if not spec.radii:
            raise ValueError(f"rule={cls.name} needs the radii to certify, such as radii=0,0.5,1")

    @classmethod
    def words(cls) -> str:
        return "group-sequential test of each radius (rungs)"

    def stop(self, sigma: float) -> Stopping:
        least, alpha = self._least(self.spec.stop_alpha, sigma), self.spec.stop_alpha
        reachable = int(np.count_nonzero(least[:, -1] <= self.ends[-1]))

        def enough(count: int, drawn: int) -> bool:
            at = self.ends.index(drawn)
            certified = int(np.cumprod(count >= least[:, at]).sum())
            return certified >= reachable or _chance(count, drawn, np.array(self.ends[at + 1 :]), least[certified, at + 1 :]) < HOPELESS

        check_alpha(alpha)
        return _Looks(enough, self.spec.first_look)

    def may_stop(self, counts: Counts) -> NDArray[np.bool_]:
        return np.isin(counts.n, self.ends)

    def bounds(self, counts: Counts, alpha: float) -> Floats:
        raise ValueError(f"rule {self.name} certifies radii and gives no bound on pA")

    def radii(self, counts: Counts, alpha: float, sigma: float) -> Floats:
        """A certified radius is the rung and the least bit more, for the test shows that pA is above the rung's probability."""
        least, ends = self._least(alpha, sigma), np.array(self.ends)
        at = np.searchsorted(ends, counts.n).clip(max=len(ends) - 1)
        certified = np.cumprod((counts.count >= least[:, at]) & (counts.n == ends[at]), axis=0).sum(0)
        reached = np.append(np.nan, np.nextafter(self.rungs, np.inf))
        return np.asarray(reached[certified])

    def _least(self, alpha: float, sigma: float) -> NDArray[np.int64]:
        """Boundaries, a row per rung and a column per look."""
        check_alpha(alpha)
        check_sigma(sigma)
        return np.array([boundary(float(ndtr(radius / sigma)), self.ends, alpha) for radius in self.rungs])


def _chance(count: int, drawn: int, ends: NDArray[np.int64], least: NDArray[np.int64]) -> float:
    """The largest chance of being at or above a later boundary, count and drawn given: beta-binomial with weights Beta(1/2, 1/2),
    by its normal approximation. It only decides when to give up, so it need not be exact."""
    a, b, more = count + 0.5, drawn - count + 0.5, (ends - drawn).astype(float)
    mean, variance = more * a / (a + b), more * a * b * (a + b + more) / ((a + b) ** 2 * (a + b + 1))
    return float(ndtr((count + mean + 0.5 - least) / np.sqrt(variance)).max(initial=0.0))


RULE = Rungs
