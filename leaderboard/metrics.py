"""Numbers of one certification: pure functions of its certificates.

Source: Cohen, Rosenfeld and Kolter, ICML 2019 (certified accuracy); Zhai et al., "MACER", ICLR 2020 (average certified radius).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bench.bounds import certified_radius
from bench.errors import BenchError
from bench.records import Certificate

# Unit radii by (count, n, alpha): a leaderboard of many cells meets the same counts again and again.
_unit_radius = lru_cache(maxsize=1 << 18)(certified_radius)


@dataclass(frozen=True)
class Outcomes:
    """What the certificates of I images say at one alpha and sigma.

    Attributes:
        index: I, position in the test set, ascending.
        label: I, true class.
        correct: I, certified and the class is the label.
        abstained: I, no class is certified.
        radius: I, certified L2 radius in pixels of [0, 1], float64, not rounded; 0 where it abstained.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    correct: NDArray[np.bool_]
    abstained: NDArray[np.bool_]
    radius: NDArray[np.float64]


def outcomes(rows: Sequence[Certificate], alpha: float, sigma: float) -> Outcomes:
    """The certificates as arrays, ordered by image.

    Args:
        alpha: chance that a certificate is wrong, in (0, 1/2).
        sigma: noise level, in pixels of [0, 1].

    Raises:
        BenchError: no certificate, or two of one image.
        ValueError: alpha or sigma out of range.
    """
    if not rows:
        raise BenchError("there are no certificates, and nothing has no average")
    table = np.array([(r.index, r.label, r.selected, r.count, r.n) for r in rows], dtype=np.int64)
    table = table[np.argsort(table[:, 0])]
    index, label, selected = table[:, 0], table[:, 1], table[:, 2]
    if (doubled := index[1:][np.diff(index) == 0]).size:
        raise BenchError(f"image {doubled[0]} has two certificates, and each image counts once")
    pairs, where = np.unique(table[:, 3:], axis=0, return_inverse=True)
    unit = [_unit_radius(count, n, alpha, 1.0) for count, n in pairs.tolist()]
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma {sigma} must be a finite number greater than 0")
    where = where.reshape(-1)  # numpy 2.0 gives it another shape
    abstained = np.array([value is None for value in unit])[where]
    radius = sigma * np.array([value or 0.0 for value in unit])[where]
    return Outcomes(index, label, (selected == label) & ~abstained, abstained, radius)


def average_certified_radius(o: Outcomes) -> float:
    """ACR: the mean over ALL images of the radius where the certified class is right, 0 where it is wrong or abstained."""
    return math.fsum(o.radius[o.correct].tolist()) / _images(o)


def certified_accuracy(o: Outcomes, r: float) -> float:
    """Share of all images, in [0, 1], that are right with a radius strictly larger than r (L2, pixels of [0, 1]).

    Raises:
        BenchError: r is no finite number from 0 up, or there is no image.
    """
    if not (math.isfinite(r) and r >= 0):
        raise BenchError(f"radius {r} must be a finite number from 0 up, such as 0.5")
    return int(np.count_nonzero(o.correct & (o.radius > r))) / _images(o)


def abstention_rate(o: Outcomes) -> float:
    """Share of all images, in [0, 1], where no class is certified.

    Raises:
        BenchError: there is no image.
    """
    return int(np.count_nonzero(o.abstained)) / _images(o)


def _images(o: Outcomes) -> int:
    if not o.index.size:
        raise BenchError("there are no certificates, and nothing has no average")
    return int(o.index.size)
