"""Is one row better than another? Two kinds of uncertainty, side by side and never pooled.

Across seeds: what another training of both rows would give on the same test images (t-interval, exact permutation test).
Across images: what another sample of test images would give for the same trainings (paired bootstrap).
Every difference is B minus A: how much more B has than the row it is compared with.
Seeds: Student, Welch (1947), Hedges (1981); images: Efron (1979), percentile interval; several tests: Holm (1979).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

from bench.errors import BenchError, nearest
from bench.imported import Import, imports, runs_of_table
from bench.spec import derive
from bench.store import Run, Store
from leaderboard import aggregate, layouts, metrics
from leaderboard.paper import RULES
from leaderboard.tables import headline

Source = Literal["imported", "runs"]
Floats = NDArray[np.float64]

LEVEL = 0.05  # of the tests; the intervals have 1 - LEVEL
RESAMPLES = 10_000
FEW_IMAGES = 500  # skewed simulated differences: the interval covers 93 % with 100 images, 94.4 % with 500, 94.6 % with 2,000
CHUNK = 2_000_000  # drawn images at a time: 16 MB per array
PERMUTATIONS = 100_000  # up to this many are enumerated, beyond it as many are drawn
TIE = 1e-12  # pixels: differences of this size are what the order of a sum leaves
MEANINGS = {
    "seeds": "Across seeds: the 95 % interval is where the difference would lie after another training of both rows, on these test images.",
    "images": "Across images: the 95 % interval is where the difference would lie on another sample of test images, for these trainings.",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """A finished row at one sigma: what its S trainings certify on I images.

    Attributes:
        label: the row's name and mark.
        runs: S, seeds (or run ids of imported logs), in order.
        seeded: whether runs of one name in two rows belong together: our seeds do, the run ids of imported logs do not.
        index: I, position in the test set, ascending.
        truth: I, true class.
        correct: S I, certified and the class is the label.
        radius: S I, certified L2 radius in pixels of [0, 1].
    """

    label: str
    runs: tuple[str, ...]
    seeded: bool = True
    index: NDArray[np.int64]
    truth: NDArray[np.int64]
    correct: NDArray[np.bool_]
    radius: Floats

    @property
    def values(self) -> Floats:
        """S I: the radius where the certified class is right, else 0; its mean over images is the ACR."""
        return np.where(self.correct, self.radius, 0.0)

    def accuracy(self, r: float) -> float:
        """Certified accuracy at radius r in %, the mean over the runs."""
        return 100 * float(self.beyond(r).mean())

    def beyond(self, r: float) -> NDArray[np.bool_]:
        """S I: correct with a radius strictly larger than r."""
        return self.correct & (self.radius > r)


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
        low, high: 95 % paired percentile bootstrap.
        p: two-sided, of the same bootstrap; not below 2 / 10,001.
        p_holm: p corrected over all pairs of the call.
        more_a, more_b, tie: shares of the images, in [0, 1].
    """

    images: int
    difference: float
    error: float
    low: float
    high: float
    p: float
    p_holm: float
    more_a: float
    more_b: float
    tie: float


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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two rows at one sigma."""

    sigma: float
    a: str
    b: str
    seeds: SeedDifference
    images: ImageDifference
    accuracies: tuple[AccuracyDifference, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Row A against one or more rows B.

    Attributes:
        title: data, training and certification that all rows share.
        rule: when an image counts as certified at a radius.
        notes: what a reader must know about the rows, and what was left out.
    """

    title: str
    source: Source
    rule: str
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


# ---- statistics


def compare_seeds(a: Evidence, b: Evidence) -> SeedDifference:
    """Across trainings: paired by seed where both rows have the same seeds, else Welch. Holm's correction is not yet in it."""
    x, y = a.values.mean(axis=1), b.values.mean(axis=1)  # S each
    paired = a.seeded and b.seeded and set(a.runs) == set(b.runs)
    if paired:
        y = y[[b.runs.index(run) for run in a.runs]]
    std_a, std_b = (statistics.stdev(v.tolist()) if len(v) > 1 else None for v in (x, y))
    mean_a, mean_b = statistics.fmean(x.tolist()), statistics.fmean(y.tolist())
    known = SeedDifference(
        runs_a=a.runs,
        runs_b=a.runs if paired else b.runs,
        paired=paired,
        mean_a=mean_a,
        mean_b=mean_b,
        std_a=std_a,
        std_b=std_b,
        difference=mean_b - mean_a,
    )
    if std_a is None or std_b is None:
        who = "one training of each row" if len(x) == len(y) else f"one training of {(a if len(x) == 1 else b).label}"
        return dataclasses.replace(known, note=f"{who}: no seed uncertainty is known; {runs_needed(True)} paired seeds would allow a test")
    spread, df, effect, own = _paired(x, y) if paired else _unpaired(x, y)
    half = float(stats.t.ppf(1 - LEVEL / 2, df)) * spread
    least = least_p(len(x), len(y), paired)
    note, p = "", None
    if least > LEVEL:
        have = f"{len(x)} paired seeds" if paired else f"{len(x)} and {len(y)} unpaired runs"
        more = f"{runs_needed(True)} paired seeds" + ("" if paired else f" or {runs_needed(False)} runs of each row")
        note = f"{have}: the smallest two-sided p is {least:.4g}, so nothing is tested; {more} would do"
    else:
        p = _permutation_p(x, y, paired)
    low, high = known.difference - half, known.difference + half
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
    def statistic(x: Floats, y: Floats, axis: int = -1) -> Floats:
        return np.asarray(y.mean(axis=axis) - x.mean(axis=axis))

    result = stats.permutation_test(
        (x, y),
        statistic,
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


def bootstrap_means(differences: Floats, resamples: int = RESAMPLES) -> Floats:
    """Means over resampled images, with the same resamples for every row of the array and in every call.

    Args:
        differences: P I, one row per pair, one column per image.

    Returns:
        P R: the mean of each pair in each of R resamples.
    """
    pairs, images = differences.shape
    rng = np.random.default_rng(derive(0, "bootstrap", images))
    means = np.empty((pairs, resamples))
    step = max(1, CHUNK // images)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(0, images, (size, images)) + images * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
        means[:, start : start + size] = differences @ counts.T.astype(np.float64) / images
    return means


def compare_images(pairs: Sequence[tuple[Evidence, Evidence]]) -> list[ImageDifference]:
    """Across test images: one result per pair (A, B), with Holm's correction over the pairs.

    Raises:
        BenchError: rows of different images, or of a single one.
    """
    if not pairs:
        return []
    first = pairs[0][0]
    for row in itertools.chain.from_iterable(pairs):
        if not (np.array_equal(row.index, first.index) and np.array_equal(row.truth, first.truth)):
            raise BenchError(f"{first.label} and {row.label} were certified on different test images, so they are not compared")
    if (images := len(first.index)) < 2:
        raise BenchError(f"{first.label} was certified on one image, and a comparison needs at least two")
    differences = np.stack([b.values.mean(axis=0) - a.values.mean(axis=0) for a, b in pairs])  # P I
    differences[np.abs(differences) <= TIE] = 0.0
    means = bootstrap_means(differences)
    ends = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2), axis=1)  # 2 P
    tail = np.minimum((means <= 0).sum(axis=1), (means >= 0).sum(axis=1))
    p = np.minimum(1.0, 2 * (1 + tail) / (1 + means.shape[1]))
    return [
        ImageDifference(
            images=images,
            difference=float(d.mean()),
            error=float(d.std(ddof=1)) / math.sqrt(images),
            low=float(ends[0, number]),
            high=float(ends[1, number]),
            p=float(p[number]),
            p_holm=corrected,
            more_a=float((d < 0).mean()),
            more_b=float((d > 0).mean()),
            tie=float((d == 0).mean()),
        )
        for number, (d, corrected) in enumerate(zip(differences, holm(p.tolist()), strict=True))
    ]


def compare_accuracy(a: Evidence, b: Evidence, radii: Sequence[str]) -> tuple[AccuracyDifference, ...]:
    """Certified accuracy at each radius; McNemar's exact test where each row is one training. Not yet corrected."""

    def one(radius: str) -> AccuracyDifference:
        r, p = float(radius), None
        x, y = a.accuracy(r), b.accuracy(r)
        if len(a.runs) == len(b.runs) == 1 and (x or y):
            only_a, only_b = (int(np.count_nonzero(v)) for v in (a.beyond(r) & ~b.beyond(r), b.beyond(r) & ~a.beyond(r)))
            p = float(stats.binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0
        return AccuracyDifference(radius=radius, accuracy_a=x, accuracy_b=y, difference=y - x, p=p)

    return tuple(map(one, radii))


def holm(p: Sequence[float | None]) -> list[float]:
    """Corrected p values in the same order; NaN where there was no test."""
    tested = [number for number, value in enumerate(p) if value is not None]
    result = [math.nan] * len(p)
    if tested:
        for number, value in zip(tested, multipletests([p[n] for n in tested], alpha=LEVEL, method="holm")[1], strict=True):
            result[number] = float(value)
    return result


def separable_from_best(rows: Sequence[Evidence]) -> tuple[str, ...]:
    """The labels of the rows of one section that CANNOT be separated from the best mean ACR, the best itself included, in order.

    Paired image bootstrap of each row against the best, Holm's correction over them at 0.05. It speaks of these trainings on
    another test sample, not of other trainings; that the best was chosen by the same images makes it separate a little too easily.

    Raises:
        BenchError: rows of different images.
    """
    if len(rows) < 2:
        return tuple(row.label for row in rows)
    best = max(rows, key=lambda row: float(row.values.mean()))
    others = [row for row in rows if row is not best]
    found = compare_images([(best, row) for row in others])
    tied = {id(row) for row, result in zip(others, found, strict=True) if result.p_holm > LEVEL} | {id(best)}
    return tuple(row.label for row in rows if id(row) in tied)


# ---- from a store to evidence


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A row at one sigma."""

    sigma: float
    label: str
    name: str
    method: str
    unfinished: str  # empty, or how far it is
    read: Callable[[], Evidence]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Shelf:
    """One comparable group."""

    title: str
    changed: bool  # whether its training or certification was changed of the protocol
    places: tuple[_Place, ...]
    notes: tuple[str, ...]

    def find(self, word: str) -> list[str]:
        """Labels that a word names, else those that it fits as a pattern or as a method's name."""
        named = [p.label for p in self.places if word in (p.label, p.name)]
        fitting = [p.label for p in self.places if any(x == word or fnmatchcase(x, word) for x in (p.label, p.name, p.method))]
        return list(dict.fromkeys(named or fitting))


def compare(
    store: Store,
    a: str,
    b: str,
    *,
    dataset: str = "mnist",
    sigmas: Sequence[float] = (),
    protocol: str | None = None,
    recipe: str | None = None,
    alpha: float | None = None,
    source: Source | None = None,
) -> Report:
    """Row A against row B, or against every row that the pattern B fits.

    Args:
        a, b: names of rows such as `smoothmix.eta5[steps=2]`; of rows that share a name, with their mark: `gaussian #1`.
        sigmas: noise levels in pixels of [0, 1]; empty: all that both rows have.
        alpha: chance that a certificate is wrong, 0.001 unless given; imported logs have one of their own, which is fixed.
        source: imported logs or our own runs; None takes the one that the store has.

    Raises:
        BenchError: rows that are not there, not finished or not comparable; imported logs and own runs without a choice.

    What is asked for by name and sigma must be finished; what a pattern or an open sigma brings along is left out and named.
    """
    if a == b:
        raise BenchError(f"{a} is compared with itself; name two rows")
    logs = [log for log in imports(store.root) if log.spec.dataset == dataset] if source != "runs" else []
    runs = source != "imported" and any(run.spec.dataset == dataset for run in store.runs())
    if logs and runs:
        raise BenchError(f"{store.root} holds imported logs and runs of its own, which never mix; say --from imported or --from runs")
    if source == "imported" and not logs:
        raise BenchError(f"{store.root} holds no imported logs of {dataset}; `bench import` reads them")
    if logs and (protocol or recipe):
        raise BenchError("imported logs have no protocol and no recipe of ours; leave out --protocol and --recipe")
    shelves = _of_logs(logs, (a, b), sigmas, alpha) if logs else _of_runs(store, (a, b), dataset, sigmas, protocol, recipe, alpha)
    shelf, others = _one_shelf(shelves, a, b)
    chosen = shelf.find(a)
    if len(chosen) > 1:
        raise BenchError(f"A must be one row, but {a!r} fits {', '.join(chosen)}; only B may be a pattern")
    notes = [*shelf.notes, *others]
    found = list(_pairs(shelf, chosen[0], [label for label in shelf.find(b) if label != chosen[0]], b, sigmas, notes))
    if not found:
        raise BenchError("; ".join([f"there is nothing to compare {a} with {b} at", *(n for n in notes if n.startswith("left out"))]))
    images = compare_images([(x, y) for _, x, y in found])
    if (count := images[0].images) < FEW_IMAGES:
        notes.append(f"{count} images are few: where differences are skewed, the interval across images covers a little less than 95 %.")
    radii = layouts.load(4).radii
    comparisons = [
        Comparison(sigma=sigma, a=x.label, b=y.label, seeds=compare_seeds(x, y), images=image, accuracies=compare_accuracy(x, y, radii))
        for (sigma, x, y), image in zip(found, images, strict=True)
    ]
    return Report(
        title=shelf.title,
        source="imported" if logs else "runs",
        rule=RULES["exact"],
        comparisons=tuple(_corrected(comparisons)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _corrected(comparisons: Sequence[Comparison]) -> Iterator[Comparison]:
    """With Holm's correction over the call, tests of seeds and of accuracies each on their own."""
    of_seeds = holm([c.seeds.p for c in comparisons])
    of_accuracies = iter(holm([x.p for c in comparisons for x in c.accuracies]))
    tests = sum(c.seeds.p is not None for c in comparisons)
    for c, p in zip(comparisons, of_seeds, strict=True):
        seeds = c.seeds
        if seeds.p is not None and seeds.p_least is not None:
            note = ""
            if tests * seeds.p_least > LEVEL:
                kind = "paired seeds" if seeds.paired else "runs of each row"
                note = f"over {tests} tests Holm's smallest p is {min(1, tests * seeds.p_least):.4g} where all are as strong; "
                note += f"{runs_needed(seeds.paired, tests)} {kind} would do"
            seeds = dataclasses.replace(seeds, p_holm=p, note=note)
        accuracies = tuple(
            dataclasses.replace(x, p_holm=value if x.p is not None else None)
            for x, value in zip(c.accuracies, of_accuracies, strict=False)  # the iterator goes on with the next comparison
        )
        yield dataclasses.replace(c, seeds=seeds, accuracies=accuracies)


def _one_shelf(shelves: Sequence[_Shelf], a: str, b: str) -> tuple[_Shelf, list[str]]:
    """The comparable group that holds both, and a note on others that do."""
    for word in (a, b):
        if not any(s.find(word) for s in shelves):
            there = ", ".join(dict.fromkeys(p.label for s in shelves for p in s.places))
            raise BenchError(f"there is no {word} at the sigma, protocol and recipe asked for; there is {there}")
    both = [s for s in shelves if s.find(a) and set(s.find(b)) - set(s.find(a)[:1])]
    if not both:
        where = "; ".join(f"{', '.join(dict.fromkeys(p.label for p in s.places))} in {s.title}" for s in shelves)
        raise BenchError(f"{a} and {b} stand in no comparable group together, and rows of different groups are not compared: {where}")
    plain = [s for s in both if not s.changed] or both
    if len(plain) > 1:
        told = "; ".join(s.title for s in plain)
        raise BenchError(f"{a} and {b} stand together in {len(plain)} groups; choose one by --protocol, --recipe or --results: {told}")
    return plain[0], [f"another comparable group holds both rows as well: {s.title}" for s in both if s is not plain[0]]


def _pairs(
    shelf: _Shelf, a: str, bs: Sequence[str], word: str, sigmas: Sequence[float], notes: list[str]
) -> Iterator[tuple[float, Evidence, Evidence]]:
    """(sigma, A, B); adds to the notes what was left out.

    Raises:
        BenchError: a row that was asked for by name and sigma is not there or not finished.
    """
    places = {(p.sigma, p.label): p for p in shelf.places}
    named = {p.label for p in shelf.places if word in (p.label, p.name)}

    def usable(sigma: float, label: str) -> _Place | None:
        place = places.get((sigma, label))
        if place and not place.unfinished:
            return place
        problem = f"{label} at sigma {sigma:g} is {f'not finished ({place.unfinished})' if place else 'not there'}"
        if sigmas and (label == a or label in named):
            raise BenchError(f"{problem}; only finished rows are compared")
        notes.append(f"left out: {problem}")
        return None

    for sigma in sigmas or sorted({p.sigma for p in shelf.places}):
        if (first := usable(sigma, a)) is None:
            continue
        seconds = [place for label in bs if (place := usable(sigma, label))]
        if seconds:
            mine = first.read()
            notes.extend(note for place in (first, *seconds) for note in place.notes)
            yield from ((sigma, mine, place.read()) for place in seconds)


def _of_runs(
    store: Store,
    words: Sequence[str],
    dataset: str,
    sigmas: Sequence[float],
    protocol: str | None,
    recipe: str | None,
    alpha: float | None,
) -> list[_Shelf]:
    groups = aggregate.collect(
        store,
        alpha=0.001 if alpha is None else alpha,
        datasets=[dataset],
        sigmas=sigmas,
        methods=[re.sub(r" #\d+$", "", word) for word in words],
        protocols=[protocol] if protocol else (),
        recipes=[recipe] if recipe else (),
    )
    runs = {run.spec.key: run for run in store.runs()}
    return [
        _Shelf(
            title=f"{headline(g)}; n0 = {g.certify.n0:,}, n = {g.certify.n:,}, alpha = {g.alpha:g}, "
            f"{g.images:,} of {g.test_size:,} test images ({g.certify.images})",
            changed=bool(g.overrides or g.certify.changes),
            places=tuple(_place(g, section.sigma, row, runs) for section in g.sections for row in section.rows if _there(row)),
            notes=g.notes,
        )
        for g in groups
    ]


def _there(row: aggregate.Row) -> list[aggregate.Seed]:
    return [seed for seed in row.seeds if seed.state != "missing"]


def _place(group: aggregate.Group, sigma: float, row: aggregate.Row, runs: Mapping[str, Run]) -> _Place:
    there = _there(row)
    missing = ", ".join(str(seed.seed) for seed in row.seeds if seed.state == "missing")
    note = f"{row.label} at sigma {sigma:g} has no run of seed {missing}, which others of its group have"
    return _Place(
        sigma=sigma,
        label=row.label,
        name=row.name,
        method=row.method,
        unfinished="" if all(seed.state == "done" for seed in there) else row.status,
        read=partial(_read_runs, group, row.label, [(seed.seed, runs[seed.key]) for seed in there]),
        notes=(*row.notes, note) if missing else row.notes,
    )


def _read_runs(group: aggregate.Group, label: str, runs: Sequence[tuple[int, Run]]) -> Evidence:
    found = [metrics.outcomes(run.certification(group.certify).rows(), group.alpha, run.spec.sigma) for _, run in runs]
    return Evidence(
        label=label,
        runs=tuple(str(seed) for seed, _ in runs),
        index=found[0].index,
        truth=found[0].label,
        correct=np.stack([o.correct for o in found]),
        radius=np.stack([o.radius for o in found]),
    )


def section_evidence(store: Store, group: aggregate.Group, section: aggregate.Section) -> tuple[Evidence, ...]:
    """The finished rows of a section of `aggregate.collect` with their images, in order: what `separable_from_best` takes.

    Raises:
        BenchError: evidence that was damaged since.
    """
    runs = {run.spec.key: run for run in store.runs()}
    return tuple(_place(group, section.sigma, row, runs).read() for row in section.rows if row.stats)


def _of_logs(logs: Sequence[Import], words: Sequence[str], sigmas: Sequence[float], alpha: float | None) -> list[_Shelf]:
    names, levels = {log.spec.row for log in logs}, {f"{log.spec.sigma:g}" for log in logs}
    for word in words:
        if not any(word in (log.spec.row, log.spec.method) or fnmatchcase(log.spec.row, word) for log in logs):
            raise BenchError(f"no imported log is of row {word!r}{nearest(word, names)}")
    for sigma in sigmas:
        if f"{sigma:g}" not in levels:
            raise BenchError(f"no imported log has sigma {sigma:g}{nearest(f'{sigma:g}', levels)}")
    own = sorted({log.spec.alpha for log in logs})
    if alpha is not None and own != [alpha]:
        raise BenchError(f"imported logs were certified at alpha {', '.join(map(str, own))}, and --alpha {alpha:g} cannot change that")
    groups: dict[str, dict[tuple[str, float], list[Import]]] = {}
    for log in logs:
        s = log.spec
        title = f"{s.dataset}, imported logs of {s.collection}, network {s.arch}; n0 = {s.n0:,}, n = {s.n:,}, alpha = {s.alpha:g}, "
        groups.setdefault(f"{title}test images {s.images}", {}).setdefault((s.row, s.sigma), []).append(log)
    return [
        _Shelf(
            title=title,
            changed=False,
            places=tuple(itertools.starmap(_log_place, ((sigma, row, same) for (row, sigma), same in sorted(cells.items())))),
            notes=(
                "Imported logs hold no counts: their radii are rounded as printed. Their run ids are no seeds, so runs are not paired.",
            ),
        )
        for title, cells in groups.items()
    ]


def _log_place(sigma: float, row: str, logs: Sequence[Import]) -> _Place:
    logs = list({log.spec.rows_sha256: log for log in reversed(logs)}.values())[::-1]  # the same file in several folders is one run
    tables = [table for table in layouts.numbers() if layouts.load(table).dataset == logs[0].spec.dataset]
    listed = next((runs for table in tables if (runs := runs_of_table(table, row, sigma))), ())  # of the first table that has the row
    by_run = {log.spec.run: log for log in logs}
    chosen = [by_run[run] for run in listed if run in by_run] or logs
    notes = []
    if len(chosen) < len(logs):
        notes.append(f"{row} at sigma {sigma:g}: of {len(logs)} imported runs the {len(chosen)} that the paper averages")
    if missing := [run for run in listed if run not in by_run]:
        notes.append(f"{row} at sigma {sigma:g}: the paper also averages run {', '.join(missing)}, which is not imported")
    return _Place(
        sigma=sigma,
        label=row,
        name=row,
        method=logs[0].spec.method,
        unfinished="",
        read=partial(_read_logs, row, chosen),
        notes=tuple(notes),
    )


def _read_logs(row: str, logs: Sequence[Import]) -> Evidence:
    found = [log.columns() for log in logs]
    for log, columns in zip(logs, found, strict=True):
        if not (np.array_equal(columns.index, found[0].index) and np.array_equal(columns.label, found[0].label)):
            raise BenchError(f"{log.path} and {logs[0].path} cover different test images, so they are no runs of one row")
    return Evidence(
        label=row,
        runs=tuple(log.spec.run for log in logs),
        seeded=False,
        index=found[0].index,
        truth=found[0].label,
        correct=np.stack([columns.correct for columns in found]),
        radius=np.stack([columns.radius for columns in found]),
    )
