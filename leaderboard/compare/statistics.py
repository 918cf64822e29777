"""Differences between two rows at one sigma, across seeds and across test images.

Seeds: Student, Welch (1947), Hedges (1981); images: see `leaderboard.flips`; several tests: Holm (1979).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from bench.errors import BenchError, counted
from bench.rules.bounds import Floats
from bench.spec import derive
from leaderboard.aggregate import Row
from leaderboard.flips import LEVEL, TIE, flip_each, reason_not_to_test, require_same_images

PERMUTATIONS = 100_000  # up to this many are enumerated, beyond it as many are drawn


@dataclass(frozen=True, kw_only=True)
class SeedDifference:
    """ACR of B minus ACR of A across trainings, in pixels of [0, 1]. What cannot be known is None.

    Attributes:
        std_a, std_b, std_difference: sample standard deviations (ddof=1); the last of paired differences only.
        low, high: 95 % t-interval of the mean difference; Welch's where runs are not paired.
        effect: paired, mean / std of the differences; unpaired, Hedges' g.
        p: exact two-sided permutation test (sign flips or labels); None where no p of 0.05 is within reach.
        p_least: the smallest p that so many runs can give.
        p_holm: p corrected over all tests of the call.
        note: what is missing, and what would do.
    """

    runs_a: tuple[str, ...]
    runs_b: tuple[str, ...]
    paired: bool
    mean_a: float
    mean_b: float
    std_a: float | None
    std_b: float | None
    difference: float
    std_difference: float | None = None
    low: float | None = None
    high: float | None = None
    effect: float | None = None
    p: float | None = None
    p_least: float | None = None
    p_holm: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageDifference:
    """radius * correct of B minus that of A across test images, averaged over the seeds first; pixels of [0, 1].

    Attributes:
        error: standard error of the mean difference.
        low, high: 95 %: the differences that the test does not reject; it speaks, as the test does, of these networks on other images.
        p: two-sided, by sign flips; not below 1 / 10,000.
        p_holm: p corrected over all tested pairs of the call.
        note: why nothing was tested; low, high, p and p_holm are None then.
        more_a, more_b, tie: shares of the images, in [0, 1].
    """

    images: int
    difference: float
    error: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    more_a: float
    more_b: float
    tie: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class AccuracyDifference:
    """Certified accuracy at a radius, in %; the difference in points.

    Attributes:
        p: McNemar's exact test over the images, for one training of each row only, at radii that any image reaches.
        p_holm: p corrected over all radii and pairs of the call.
    """

    radius: str
    accuracy_a: float
    accuracy_b: float
    difference: float
    p: float | None = None
    p_holm: float | None = None


def compare_seeds(a: Row, b: Row) -> SeedDifference:
    """Across finished trainings: paired by seed where both rows have the same seeds, else Welch. Holm's correction is not yet in it.

    Seeds of one number belong together; the run ids of imported logs and the numbers of checkpoints, which are words, do not.
    """
    x, y = (np.array([o.values.mean() for o in row.outcomes]) for row in (a, b))  # S each
    seeds_a, seeds_b = ([seed.seed for seed in row.seeds if seed.outcomes is not None] for row in (a, b))
    paired = set(seeds_a) == set(seeds_b) and all(isinstance(seed, int) for seed in seeds_a)
    if paired:
        y, seeds_b = y[[seeds_b.index(seed) for seed in seeds_a]], seeds_a
    std_a, std_b = (statistics.stdev(v.tolist()) if len(v) > 1 else None for v in (x, y))
    mean_a, mean_b = statistics.fmean(x.tolist()), statistics.fmean(y.tolist())
    runs_a, runs_b, difference = tuple(map(str, seeds_a)), tuple(map(str, seeds_b)), mean_b - mean_a
    known = SeedDifference(
        runs_a=runs_a, runs_b=runs_b, paired=paired, mean_a=mean_a, mean_b=mean_b, std_a=std_a, std_b=std_b, difference=difference
    )
    if std_a is None or std_b is None:
        who = "one training of each row" if len(x) == len(y) else f"one training of {(a if len(x) == 1 else b).label}"
        return dataclasses.replace(known, note=f"{who}: no seed uncertainty is known; {runs_needed(True)} paired seeds would allow a test")
    spread, df, effect, own = _paired(x, y) if paired else _unpaired(x, y)
    half = float(stats.t.ppf(1 - LEVEL / 2, df)) * spread
    least = least_p(len(x), len(y), paired)
    note, p = "", None
    if least > LEVEL:
        have = counted(len(x), "paired seed") if paired else f"{len(x)} and {len(y)} unpaired runs"
        more = f"{runs_needed(True)} paired seeds" + ("" if paired else f" or {runs_needed(False)} runs of each row")
        note = f"{have}: the smallest two-sided p is {least:.4g}, so nothing is tested; {more} would do"
    else:
        p = _permutation_p(x, y, paired)
    low, high = difference - half, difference + half
    return dataclasses.replace(known, std_difference=own, low=low, high=high, effect=effect, p=p, p_least=least, note=note)


def _paired(x: Floats, y: Floats) -> tuple[float, float, float | None, float | None]:
    """Standard error, degrees of freedom, effect and standard deviation of the differences."""
    differences = (y - x).tolist()
    std = statistics.stdev(differences)
    if std <= TIE:
        std = 0.0
    return std / math.sqrt(len(x)), len(x) - 1, statistics.fmean(differences) / std if std else None, std


def _unpaired(x: Floats, y: Floats) -> tuple[float, float, float | None, float | None]:
    """Welch's standard error and degrees of freedom, Hedges' g with its exact correction for small samples."""
    parts = [(statistics.variance(v.tolist()), len(v)) for v in (x, y)]
    parts = [(variance if variance > TIE**2 else 0.0, n) for variance, n in parts]
    square = sum(variance / n for variance, n in parts)
    whole = sum(n - 1 for _, n in parts)
    if not square:
        return 0.0, whole, None, None
    df = square**2 / sum((variance / n) ** 2 / (n - 1) for variance, n in parts)
    pooled = math.sqrt(sum(variance * (n - 1) for variance, n in parts) / whole)
    correction = math.exp(math.lgamma(whole / 2) - math.lgamma((whole - 1) / 2)) / math.sqrt(whole / 2)
    return math.sqrt(square), df, correction * (statistics.fmean(y.tolist()) - statistics.fmean(x.tolist())) / pooled, None


def _permutation_p(x: Floats, y: Floats, paired: bool) -> float:
    result = stats.permutation_test(
        (x, y),
        lambda x, y, axis: np.asarray(y.mean(axis=axis) - x.mean(axis=axis)),
        permutation_type="samples" if paired else "independent",
        n_resamples=PERMUTATIONS,
        batch=1000,
        rng=np.random.default_rng(derive(0, "permutations", len(x), len(y))),
    )
    return float(result.pvalue)


def least_p(runs_a: int, runs_b: int, paired: bool) -> float:
    """The smallest two-sided p that a permutation test of so many runs can give."""
    return min(1.0, 2 / (2**runs_a if paired else math.comb(runs_a + runs_b, runs_a)))


def runs_needed(paired: bool, tests: int = 1) -> int:
    """The least number of paired seeds, or of unpaired runs of each row, whose smallest p stays at 0.05 after `tests` tests."""
    return next(n for n in itertools.count(2) if tests * least_p(n, n, paired) <= LEVEL)


def with_holm(found: Sequence[SeedDifference]) -> list[SeedDifference]:
    """All of a call with Holm's correction over them, and a note where so many tests leave none within reach."""
    tests = sum(one.p is not None for one in found)
    result = []
    for one, p in zip(found, holm([one.p for one in found]), strict=True):
        if p is not None and one.p_least is not None and (least := tests * one.p_least) > LEVEL:
            kind = "paired seeds" if one.paired else "runs of each row"
            note = f"over {tests} tests Holm's smallest p is {min(1, least):.4g} where all are as strong; "
            one = dataclasses.replace(one, note=f"{note}{runs_needed(one.paired, tests)} {kind} would do")
        result.append(dataclasses.replace(one, p_holm=p))
    return result


def compare_images(pairs: Sequence[tuple[Row, Row]]) -> list[ImageDifference]:
    """Across test images: one result per pair (A, B), with Holm's correction over the pairs.

    Raises:
        BenchError: rows of different images, or of a single one.
    """
    if not pairs:
        return []
    rows = [*itertools.chain.from_iterable(pairs)]
    require_same_images(rows)
    if (images := len(rows[0].values)) < 2:
        raise BenchError(f"{rows[0].label} was certified on one image, and a comparison needs at least two")
    values = np.stack([[row.values for row in pair] for pair in pairs])  # P 2 I
    differences = values[:, 1] - values[:, 0]
    differences[np.abs(differences) <= TIE] = 0.0
    notes = [reason_not_to_test(pair) for pair in values]
    found = flip_each(differences)
    corrected = holm([None if note else p for note, p in zip(notes, found.p.tolist(), strict=True)])
    results = []
    for n, (d, note) in enumerate(zip(differences, notes, strict=True)):
        tested = {"low": float(found.low[n]), "high": float(found.high[n]), "p": float(found.p[n]), "p_holm": corrected[n]}
        results.append(
            ImageDifference(
                images=images,
                difference=float(d.mean()),
                error=float(d.std(ddof=1)) / math.sqrt(images),
                more_a=float((d < 0).mean()),
                more_b=float((d > 0).mean()),
                tie=float((d == 0).mean()),
                **{"note": f"not tested across images ({note})"} if note else tested,
            )
        )
    return results


def compare_accuracy(a: Row, b: Row, radii: Sequence[str]) -> tuple[AccuracyDifference, ...]:
    """Certified accuracy at each radius; McNemar's exact test where each row is one training. Not yet corrected."""

    def one(radius: str) -> AccuracyDifference:
        beyond = [np.stack([o.correct & (o.radius > float(radius)) for o in row.outcomes]) for row in (a, b)]  # S I each
        (x, y), p = (100 * float(found.mean()) for found in beyond), None
        if len(beyond[0]) == len(beyond[1]) == 1 and (x or y):
            only_a, only_b = (int(np.count_nonzero(one & ~two)) for one, two in (beyond, reversed(beyond)))
            p = float(stats.binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
        return AccuracyDifference(radius=radius, accuracy_a=x, accuracy_b=y, difference=y - x, p=p)

    return tuple(map(one, radii))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Corrected p values in the same order; None where there was no test."""
    tested = [value for value in p if value is not None]
    corrected = iter(multipletests(tested, alpha=LEVEL, method="holm")[1].tolist() if tested else ())
    return [None if value is None else next(corrected) for value in p]
