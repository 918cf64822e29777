"""When enough samples of an image have been drawn. Off by default; each rule keeps the guarantee of the certificate."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from bench.bounds import anytime_bounds, least_count
from bench.spec import CertifySpec

Stopping = Callable[[int, int], bool]
BLOCKS = 10
"""Blocks of noise between two looks at the counts: fixed, so that neither batch nor workers move the end."""


def stopping(spec: CertifySpec, sigma: float) -> Stopping | None:
    """Whether to stop at a count of the selected class among the samples drawn so far; None: never before spec.n.

    `curtailed`: nothing that the remaining samples may bring certifies at stop_alpha any more, so the image abstains as it would have.
    `confidence-sequence`: bounds that hold at every number of samples at once decide for each multiple of radius_step whether the
    radius is larger. They are wider than those of a fixed number of samples.
    """
    if spec.rule == "curtailed":
        needed = least_count(spec.n, spec.stop_alpha)
        return lambda count, drawn: count + (spec.n - drawn) < needed
    if spec.rule == "confidence-sequence":
        # No count of n samples reaches beyond this.
        best = float(anytime_bounds(np.array([spec.n]), np.array([spec.n]), spec.stop_alpha)[0][0])
        # The probabilities of the selected class at which the certified radius is a multiple of the step.
        ladder = np.array(
            list(itertools.takewhile(lambda p: p < best, (float(ndtr(k * spec.radius_step / sigma)) for k in itertools.count())))
        )

        def decided(count: int, drawn: int) -> bool:
            (lower,), (upper,) = anytime_bounds(np.array([count]), np.array([drawn]), spec.stop_alpha)
            return not bool(((ladder >= lower) & (ladder < upper)).any())

        return decided
    return None
