"""Sampling stops once every multiple of certify.radius_step is decided; wider bounds, which hold at every number of samples at once.

Bounds that hold wherever sampling stops decide for each multiple whether the radius is larger: see `bench.rules.bounds.anytime_bounds`.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bench.rules.bounds import Integers, anytime_bounds
from bench.rules.rule import Acr, Counts, Floats, Recomputed, Rule, Stopping


class ConfidenceSequence(Rule):
    stops = True
    acr: ClassVar[Acr] = "shown"
    acr_note = (
        "Sampling stopped once each multiple of the radius step was decided, so an easier image may stop earlier, with a smaller radius: "
        "ACR and quantiles of radii are nearly blind here and are not ranked. Certified accuracies at those multiples are what it is for."
    )
    recomputed: ClassVar[Recomputed | None] = "mixture"

    def stop(self, sigma: float) -> Stopping:
        alpha, step, n = self.spec.stop_alpha, self.spec.radius_step, np.array([self.spec.n])
        best = float(self.lower(n, n, alpha)[0])  # no count of n samples reaches beyond this
        # The probabilities of the selected class at which the certified radius is a multiple of the step.
        ladder = np.array(list(itertools.takewhile(lambda p: p < best, (float(ndtr(k * step / sigma)) for k in itertools.count()))))

        def decided(count: int, drawn: int) -> bool:
            counts = np.array([count]), np.array([drawn])
            lower, upper = self.lower(*counts, alpha)[0], anytime_bounds(*counts, alpha)[1][0]  # an upper bound only ends the wait
            return not bool(((ladder >= lower) & (ladder < upper)).any())

        return Stopping(decided)

    def may_stop(self, counts: Counts) -> NDArray[np.bool_]:
        return np.ones(len(counts.n), dtype=np.bool_)

    def lower(self, counts: Integers, n: Integers, alpha: float) -> Floats:
        """I: lower bounds that hold at every number of samples."""
        return anytime_bounds(counts, n, alpha)[0]

    def bounds(self, counts: Counts, alpha: float) -> Floats:
        return self.lower(counts.count, counts.n, alpha)


RULE = ConfidenceSequence
