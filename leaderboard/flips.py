"""Sign flips: whether rows differ on test images, as tables and comparisons ask it.

Where two rows are equal, an image's difference is as likely to have the other sign. So a summed difference is held against what it is when
images get random signs, the same for all rows: exact for two rows that may be exchanged within images. Moving all differences by d tests
whether the true one is d; the interval holds all d that are not rejected. Of one flip the largest such d is the larger of two means, over
the images that it turned and over those that it left: Hartigan, "Using subsample values as typical values", 1969.

All of it speaks of these networks on other images, not of methods: of those only more trainings tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError, counted
from bench.rules.bounds import Floats, Integers
from bench.spec import derive

if TYPE_CHECKING:
    from leaderboard.aggregate import Row


LEVEL = 0.05  # of the tests; the intervals have 1 - LEVEL
FLIPS = 9_999
SEED = 0
CHUNK = 2_000_000  # drawn signs at a time: 16 MB per array
TIE = 1e-10  # pixels: differences of this size are what the order of a sum and `summable` leave
LEAST_IMAGES = 100
LEAST_WHERE_MOST_TIE = 500
LEAST_DIFFERING = 50
"""Nothing is tested on fewer images, or on fewer that differ: rows of equal means, but skewed differences, then look unequal too often."""

DRAWN = f"{FLIPS:,} flips, seed {SEED}"


@dataclass(frozen=True, eq=False)
class Flipped:
    """What the flips of P differences say, P each.

    Attributes:
        p: two-sided, of each difference on its own; not below 1 / (flips + 1).
        low, high: ends of the interval with 1 - LEVEL, infinite where so few images can reject nothing. It holds 0 where p > LEVEL.
    """

    p: Floats
    low: Floats
    high: Floats


def signs_of(images: int, flips: int, seed: int) -> Iterator[Floats]:
    """Random signs, F I in parts: the same in every call."""
    rng = np.random.default_rng(derive(seed, "flips", images))
    step = max(1, CHUNK // images)
    for start in range(0, flips, step):
        drawn = rng.integers(0, 256, (min(step, flips - start), -(-images // 8)), dtype=np.uint8)
        yield np.unpackbits(drawn, axis=1, count=images).astype(np.float64) * 2 - 1


def summable(values: Floats) -> Floats:
    """Values rounded by at most 1e-15 of their largest possible sum, so that all sums of a row are exact in any order: N I.

    A matrix product adds in an order that depends on the number of threads and on the other rows. Of such values it gives the same.
    """
    _, exponent = np.frexp(np.abs(values).max(axis=-1, keepdims=True) * values.shape[-1])
    step = np.ldexp(1.0, exponent - 52)
    return np.asarray(np.round(values / step) * step)


def flip_each(differences: Floats, flips: int = FLIPS, seed: int = SEED) -> Flipped:
    """Each difference on its own.

    Args:
        differences: P I, one row per pair of rows, in pixels of [0, 1] or in points; averaged over seeds first.
        flips: random signs of all images besides those that were observed. seed: decides them.
    """
    differences, images = summable(differences), differences.shape[1]
    square = np.square(differences).sum(axis=1)
    root = np.sqrt(np.where(square > images * TIE**2, square, np.inf))
    total = differences.sum(axis=1)
    exceeded = np.ones(len(total))
    ends = []
    for signs in signs_of(images, flips, seed):
        flipped, kept = signs @ differences.T, (images + signs.sum(axis=1)[:, None]) / 2
        exceeded += (np.abs(flipped) / root >= np.abs(total) / root - 1e-9).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            pair = np.stack([(total - flipped) / 2 / (images - kept), (total + flipped) / 2 / kept])
        whole = (kept == 0) | (kept == images)  # such a flip rejects no difference at all
        ends.append(np.stack([np.where(whole, -np.inf, pair.min(axis=0)), np.where(whole, np.inf, pair.max(axis=0))]))
    low, high = np.sort(np.concatenate(ends, axis=1), axis=1)
    least = math.floor(LEVEL * (flips + 1) + 1e-9)  # flips that must not reject, for a p above LEVEL
    edge = np.full(len(total), np.inf)
    return Flipped(exceeded / (flips + 1), low[least - 1] if least else -edge, high[-least] if least else edge)


def flip_pairs(values: Floats, flips: int = FLIPS, seed: int = SEED) -> Floats:
    """p of each pair of rows, corrected for all pairs: B B, symmetric.

    Each pair's sum is divided by the root of its sum of squares, which orders as Student's t does, and held against the largest of all
    pairs: single-step max-T (Westfall and Young, "Resampling-Based Multiple Testing", 1993). All pairs count, because the same images
    choose the best row. Of two rows it is the p of `flip_each`; for several it holds as far as differences average out over images.

    Args:
        values: B I, contributions to the ACR of B rows, at least 2, on I images, in pixels of [0, 1], averaged over seeds first.
        flips, seed: as of `flip_each`.
    """
    rows, images = values.shape
    centred = summable(values - values.mean(axis=0))  # what all rows share cancels in every difference, and would only cost digits
    first, second = np.triu_indices(rows, 1)
    square = np.array([np.square(centred[a] - centred[b]).sum() for a, b in zip(first, second, strict=True)])
    root = np.sqrt(np.where(square > images * TIE**2, square, np.inf))  # rows that are equal differ by 0
    total = centred.sum(axis=1)
    seen = np.abs(total[first] - total[second]) / root
    exceeded = np.ones(len(seen))
    for signs in signs_of(images, flips, seed):
        flipped = signs @ centred.T
        largest = (np.abs(flipped[:, first] - flipped[:, second]) / root).max(axis=1)
        exceeded += (largest[:, None] >= seen - 1e-9).sum(axis=0)
    p = np.ones((rows, rows))
    p[first, second] = p[second, first] = exceeded / (flips + 1)
    return p


def reason_not_to_test(values: Floats) -> str:
    """Why so many images that differ so seldom say too little; empty where they are tested.

    Args:
        values: as of `flip_pairs`.
    """
    rows, images = values.shape
    if images < LEAST_IMAGES:
        return f"{counted(images, 'image')}; at least {LEAST_IMAGES} are needed"
    first, second = np.triu_indices(rows, 1)
    differ = np.mean([differing(values[a], values[b]) for a, b in zip(first, second, strict=True)])
    told = f"two rows differ on {differ:.0f} of {images:,} images" + " on average" * (rows > 2)
    if images < LEAST_WHERE_MOST_TIE and differ < images / 2:
        return f"{told}; where most tie, at least {LEAST_WHERE_MOST_TIE} images are needed"
    return f"{told}; at least {LEAST_DIFFERING} are needed" if differ < LEAST_DIFFERING else ""


def differing(a: Floats, b: Floats) -> Integers:
    """On how many images, the last axis, two rows differ."""
    return np.asarray((np.abs(a - b) > TIE).sum(axis=-1))


def require_same_images(rows: Sequence[Row]) -> None:
    """Raises BenchError for finished rows that were certified on different test images."""
    first = rows[0].outcomes[0]
    for row in rows:
        own = row.outcomes[0]
        if not (np.array_equal(own.index, first.index) and np.array_equal(own.label, first.label)):
            raise BenchError(f"{rows[0].label} and {row.label} were certified on different test images, so they are not compared")
