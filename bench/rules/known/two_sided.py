"""Reads stored counts on two sides: pA from below, and the runner-up's pB from above; at large sigma the radii are larger.

The radius is that of Theorem 1 of Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML
2019), sigma / 2 (Phi^-1(pA) - Phi^-1(pB)). Their procedure puts 1 - pA for pB, which is far too much where an image's samples
fall on three classes or more.

Both bounds are Clopper and Pearson's; a tenth of alpha goes to pB. The number of classes needs no correction: the true runner-up is one
class, which no sample chose, its own upper bound fails with probability alpha / 10 at most, and the largest of all upper bounds is no
smaller.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from bench.rules.bounds import check_alpha, check_sigma, lower_confidence_bounds
from bench.rules.rule import Counts, Floats, Rule

SHARE = 0.1
"""Of alpha, for the bound on the runner-up (b)."""


class TwoSided(Rule):
    stored_as = "clopper-pearson"

    @classmethod
    def words(cls) -> str:
        return "two-sided bounds (pA, and pB of the runner-up)"

    def refusal(self, alpha: float) -> str:
        if self.spec.skip_misclassified:
            return f"rule {self.name} needs the counts of every image; these were certified with --skip-misclassified"
        return ""

    def bounds(self, counts: Counts, alpha: float) -> Floats:
        check_alpha(alpha)
        return lower_confidence_bounds(counts.count, counts.n, (1 - SHARE) * alpha)

    def radii(self, counts: Counts, alpha: float, sigma: float) -> Floats:
        check_sigma(sigma)
        if counts.runner_up is None:
            raise ValueError(f"rule {self.name} needs the counts of the runner-up, and there are none")
        lower, upper = self.bounds(counts, alpha), self.upper(counts, alpha)
        with np.errstate(invalid="ignore"):
            return np.where(lower > upper, sigma / 2 * (ndtri(lower) - ndtri(upper)), np.nan)

    def upper(self, counts: Counts, alpha: float) -> Floats:
        """I: upper bounds on pB, the probability of the runner-up; no larger than 1 - pA leaves."""
        assert counts.runner_up is not None
        # The classes of n samples: an upper bound on one is what a lower bound on the others leaves.
        own = 1 - lower_confidence_bounds(counts.n - counts.runner_up, counts.n, SHARE * alpha)
        return np.minimum(1 - self.bounds(counts, alpha), own)

    def formula(self, counts: Counts, alpha: float, sigma: float) -> str:
        lower, upper = self.bounds(counts, alpha)[0], self.upper(counts, alpha)[0]
        return (
            f"pB <= {upper:.6f} (pA at {1 - SHARE:g} alpha, pB at {SHARE:g} alpha and at most 1 - pA); "
            f"sigma / 2 * (Phi^-1(pA) - Phi^-1(pB)) = {sigma / 2:g} * ({ndtri(lower):.6f} - {ndtri(upper):.6f})"
        )


RULE = TwoSided
