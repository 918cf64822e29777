"""One run of ours against imported logs, image by image: is the model trained here one of theirs?

The same test images, certified with the same n: an image that is hard for one training is hard for another, so differences of pairs
are much smaller than those of means. Radii of the run are rounded as those of the logs are, because rounding does not average out
where many images reach the same, largest radius.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
from scipy import stats

from bench.errors import BenchError, Fault, counted, nearest
from bench.evidence.columns import Columns
from bench.logs import Import, ImportSpec
from bench.rules.bounds import Integers
from bench.spec import CertifySpec
from bench.store.imports import Printed
from bench.store.runs import Run, Store
from bench.store.subject import Certification
from leaderboard import layouts
from leaderboard.aggregate.collect import left_out
from leaderboard.aggregate.sources import runs_of_row
from leaderboard.flips import LEVEL, flip_each, reason_not_to_test
from leaderboard.formats.values import picked
from leaderboard.metrics import outcomes

SIGNIFICANT = 3  # digits of a radius in the field's logs, as a rule


@dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """ACR in pixels of [0, 1] or certified accuracy at a radius in %, of radii that are rounded as the logs' are.

    Attributes:
        metric: ACR or a radius.
        run: of the run. logs: K values, on the same images.
        difference: the run minus the mean of the logs. low, high: 95 % interval of it across images, by sign flips; None
            where too few images differ (`leaderboard.flips.reason_not_to_test`).
        predicted: half the width of the 95 % prediction interval for one more training on these images, from the logs (Student); None
            for a single log, and for logs that all have the same value.
    """

    metric: str
    run: float
    logs: tuple[float, ...]
    difference: float
    low: float | None
    high: float | None
    predicted: float | None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """A run and K logs on I images that all of them certified.

    Attributes:
        key, seed: of the run.
        runs: ids of the logs.
        n, alpha: of the certification. selection: which test images.
        acr_exact: ACR of the run in pixels of [0, 1], not rounded. error: standard error over the images of the difference of ACRs.
        metrics: the ACR, then certified accuracy at each radius that any image reaches.
        spread: the largest distance of one log's ACR from the mean of all; None for a single log.
        agreement, correlation: of the run with each log: share of images with the same answer, abstaining included; Pearson's
            correlation of radius where correct; None where one of the two does not vary.
        agreement_among, correlation_among: the same of each two logs.
    """

    dataset: str
    sigma: float
    row: str
    row_logs: str
    collection: str
    key: str
    seed: int
    protocol: str
    n: int
    alpha: float
    selection: str
    images: int
    runs: tuple[str, ...]
    acr_exact: float
    error: float
    metrics: tuple[MetricDifference, ...]
    spread: float | None
    agreement: tuple[float, ...]
    agreement_among: tuple[float, ...]
    correlation: tuple[float | None, ...]
    correlation_among: tuple[float | None, ...]
    notes: tuple[str, ...]

    @property
    def acr(self) -> MetricDifference:
        """The difference of the ACRs."""
        return self.metrics[0]

    @property
    def outside(self) -> tuple[str, ...]:
        """The metrics whose difference lies outside of the prediction interval."""
        return tuple(m.metric for m in self.metrics if m.predicted is not None and abs(m.difference) > m.predicted)

    @property
    def half_width(self) -> float | None:
        """Of the interval of the ACR across images: to the end that is farther from the difference; None where there is none."""
        low, high = self.acr.low, self.acr.high
        return None if low is None or high is None else max(high - self.acr.difference, self.acr.difference - low)

    @property
    def within(self) -> bool | None:
        """Whether the ACR's difference lies within the spread among the logs plus the paired interval; None where one is missing.

        Weaker than `outside`: run and logs share their images, so that the interval across images allows for what does not differ.
        """
        half = self.half_width
        return None if self.spread is None or half is None else abs(self.acr.difference) <= self.spread + half


def compare_with_logs(run: Run, row: str, root: Path) -> Paired:
    """A finished run against the imported logs of a row, on the run's test images, at the alpha of the logs.

    Args:
        row: name of the logs' row, such as `gaussian`; data set and sigma are the run's.
        root: folder that `bench import` filled.

    Raises:
        BenchError: no such logs, logs that are certified in another way, or that do not cover the run's images; an unfinished run.
    """
    logs, damaged = _logs(run, row, root)
    first = logs[0].spec
    chosen, notes = runs_of_row(logs)
    notes += left_out((fault.file, str(fault)) for fault in damaged)
    present = {name: log for name, log in chosen.items() if log}
    certification, columns = _certification(run, first)
    exact = outcomes(columns, first.alpha, run.spec.sigma, certification.spec)
    if len(exact.index) < 2:
        raise BenchError(f"{run.path} was certified on one image, and a comparison needs at least two")
    selected = columns.selected[np.argsort(columns.index, kind="stable")]
    printed, digits = _printing([row.radius_text for log in present.values() for row in log.rows()])
    radius = np.array([printed(r) for r in exact.radius.tolist()])
    index, label, predict = (x.astype(np.int64) for x in (exact.index, exact.label, np.where(exact.abstained, -1, selected)))
    trainings = [Printed(index, label, predict, radius), *(_on(log, index, label) for log in present.values())]
    if run.named.row != first.row:
        notes.append(f"the run is {run.named.row}, the logs are {first.row}")
    if run.spec.protocol != "full":
        notes.append(f"the run was trained by protocol {run.spec.protocol}, not by the full recipe")
    if changed := ", ".join(f"{name}={value}" for name, value in run.named.changes.items() if name.startswith("train.")):
        notes.append(f"the run was trained with {changed} instead of the recipe's")
    told = "which its accuracies feel where a radius rounds to the one asked for"
    notes.append(f"The run's radii are rounded to {digits}, as the logs print them, {told}; its exact ACR is {exact.values.mean():.4f}.")

    # 1 + K I, the run and then the logs: the radius where the certified class is right, else 0.
    values = np.stack([np.where(training.correct, training.radius, 0.0) for training in trainings])
    acrs = values[1:].mean(axis=1).tolist()
    reached = [r for r in layouts.of_dataset(run.spec.dataset).radii if values.max() > float(r)]
    by_metric = {"ACR": values} | {r: 100.0 * (values > float(r)) for r in reached}
    differences = np.stack([of[0] - of[1:].mean(axis=0) for of in by_metric.values()])
    found = flip_each(differences)
    untested = [reason_not_to_test(np.stack([of[0], of[1:].mean(axis=0)])) for of in by_metric.values()]
    ends = [
        (None, None) if reason else (low, high) for reason, low, high in zip(untested, found.low.tolist(), found.high.tolist(), strict=True)
    ]
    if untested[0]:
        notes.append(f"The ACR has no interval across images: {untested[0]}.")
    with_run = [(0, k) for k in range(1, len(values))]
    among = list(itertools.combinations(range(1, len(values)), 2))

    def agreement(a: int, b: int) -> float:
        return float((trainings[a].predict == trainings[b].predict).mean())

    def correlation(a: int, b: int) -> float | None:
        varied = np.ptp(values[a]) > 0 and np.ptp(values[b]) > 0
        return float(np.corrcoef(values[a], values[b])[0, 1]) if varied else None

    return Paired(
        **picked(run.spec, "dataset", "sigma", "key", "seed", "protocol"),
        **picked(first, "collection", "n", "alpha"),
        row=run.named.row,
        row_logs=first.row,
        selection=certification.spec.images,
        images=len(exact.index),
        runs=tuple(present),
        acr_exact=float(exact.values.mean()),
        error=float(differences[0].std(ddof=1)) / math.sqrt(len(exact.index)),
        metrics=tuple(
            MetricDifference(
                metric=name,
                run=float(of[0].mean()),
                logs=tuple(means := of[1:].mean(axis=1).tolist()),
                difference=float(difference.mean()),
                low=low,
                high=high,
                predicted=_predicted(means),
            )
            for (name, of), difference, (low, high) in zip(by_metric.items(), differences, ends, strict=True)
        ),
        spread=max(abs(acr - statistics.fmean(acrs)) for acr in acrs) if len(acrs) > 1 else None,
        agreement=tuple(agreement(*pair) for pair in with_run),
        agreement_among=tuple(agreement(*pair) for pair in among),
        correlation=tuple(correlation(*pair) for pair in with_run),
        correlation_among=tuple(correlation(*pair) for pair in among),
        notes=tuple(notes),
    )


def _logs(run: Run, row: str, root: Path) -> tuple[list[Import], list[Fault]]:
    """The imported logs of a row at the run's data set and sigma, and what is wrong with logs that are damaged."""
    whole, damaged = Store(root).read("imported")
    there = [log for log in whole if isinstance(log, Import) and (log.spec.dataset, log.spec.sigma) == (run.spec.dataset, run.spec.sigma)]
    if not there:
        told = f"{root} holds no imported log of {run.spec.dataset} at sigma {run.spec.sigma:g}"
        told += f", but damaged ones: {damaged[0]}" if damaged else ""
        raise BenchError(f"{told}; `bench import FOLDER --results {root}` reads the field's logs")
    found = [log for log in there if log.spec.row == row]
    if not found:
        names = sorted({log.spec.row for log in there})
        raise BenchError(f"no imported log at sigma {run.spec.sigma:g} is of row {row!r}{nearest(row, names)}")
    ways = {(log.spec.collection, log.spec.arch, log.spec.n0, log.spec.n, log.spec.alpha) for log in found}
    if len(ways) > 1:
        told = "; ".join(f"{c}: {arch}, n0={n0}, n={n}, alpha={alpha:g}" for c, arch, n0, n, alpha in sorted(ways))
        raise BenchError(f"the imported logs of {row} at sigma {run.spec.sigma:g} do not belong together: {told}")
    if found[0].spec.arch != run.spec.train.arch:
        raise BenchError(f"{run.path} is a {run.spec.train.arch}, but the logs are of {found[0].spec.arch}")
    return found, damaged


def _certification(run: Run, log: ImportSpec) -> tuple[Certification, Columns]:
    """The run's finished certification that was made as the logs' were, and its rows; of several the one with the most images."""
    wanted = CertifySpec(n0=log.n0, n=log.n)
    fitting, seen = [], []
    for certification in run.certifications():
        spec, standing = certification.spec, certification.status().sound()
        seen.append(f"{spec.images} with n0={spec.n0}, n={spec.n}, {spec.rule} ({standing.state})")
        if standing.state == "done" and dataclasses.replace(spec, images="all", seed=0, changes={}) == wanted:
            fitting.append((certification, standing.columns))
    if not fitting:
        told = f"; there is {', '.join(seen)}" if seen else ""
        need = f"n0={log.n0}, n={log.n}, {wanted.rule}, as the logs have it"
        raise BenchError(f"{run.path} has no finished certification with {need}{told}")
    return max(fitting, key=lambda found: (len(found[1]), -found[0].spec.seed))


def _on(log: Import, index: Integers, label: Integers) -> Printed:
    """A log on some of its images."""
    data = log.columns()
    places = np.searchsorted(data.index, index).clip(max=len(data.index) - 1)
    if missing := index[data.index[places] != index][:1].tolist():
        raise BenchError(f"{log.spec.source} does not hold image {missing[0]}, which the run was certified on")
    if wrong := index[data.label[places] != label][:1].tolist():
        raise BenchError(f"{log.spec.source} gives image {wrong[0]} another label than the run: these are not the same test images")
    return Printed(data.index[places], data.label[places], data.predict[places], data.radius[places])


def _printing(texts: Sequence[str]) -> tuple[Callable[[float], float], str]:
    """How radii are rounded in logs, and the words for it."""
    numbers = [Decimal(text).as_tuple() for text in set(texts)]
    decimals = max(-int(number.exponent) for number in numbers)
    # Significant digits never end in a zero behind the first decimal; a fixed number of decimals sooner or later does.
    padded = any(number.exponent < -1 and number.digits[-1] == 0 for number in numbers if isinstance(number.exponent, int))
    if padded or any(len(number.digits) > SIGNIFICANT for number in numbers):
        return lambda radius: round(radius, decimals), counted(decimals, "decimal")
    return lambda radius: float(f"{radius:.{SIGNIFICANT}g}"), f"{SIGNIFICANT} significant digits"


def _predicted(acrs: Sequence[float]) -> float | None:
    """Half the width of Student's 95 % prediction interval for one more training; None where the logs show no spread to judge by."""
    if min(acrs) == max(acrs):
        return None
    quantile = float(stats.t.ppf(1 - LEVEL / 2, len(acrs) - 1))
    return quantile * statistics.stdev(acrs) * math.sqrt(1 + 1 / len(acrs))
