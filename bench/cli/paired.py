"""`bench compare RUN ROW --paired` as text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.cli.common import plain
from bench.cli.pager import Page

if TYPE_CHECKING:
    from leaderboard.compare import Accuracy, Paired

FOUND = ("difference", "low", "high", "predicted")

MEANING = (
    "95 % interval: of the mean difference on another sample of test images, for these trainings (paired bootstrap, 10,000 resamples). "
    "one more: where, around the mean of the logs, Student's 95 % prediction interval expects one more training on these images; "
    "- where they all have the same value."
)


def render(report: Paired, format: str) -> str:
    """The report as text, ending in a line end. Only csv and json have full precision."""
    if format == "json":
        data = {"schema": 1, "meaning": MEANING, "differences": "run - mean of logs", **dataclasses.asdict(report)}
        data |= {"half_width": report.half_width, "within": report.within, "outside": report.outside}
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if format == "csv":
        return _csv(report)
    page = Page(format)
    return page.whole(_parts(report, page))


def _parts(report: Paired, page: Page) -> Iterator[str]:
    count = len(report.runs)
    logs = f"{count} imported log{'s' if count > 1 else ''} of {report.row_logs} ({report.collection}: {', '.join(report.runs)})"
    run = f"run {report.key} of {report.row} (protocol {report.protocol}, seed {report.seed}) against {logs}"
    where = f"{report.dataset}, sigma {report.sigma:g}, {report.images:,} test images ({report.selection})"
    yield page.title("", f"{where}, n={report.n:,}, alpha={report.alpha:g}: {run}")
    metrics = [("ACR", 4, report.acr, report.acr_logs, report.difference, report.low, report.high, report.predicted)]
    metrics += [(f"accuracy at {a.radius}, %", 2, a.run, a.logs, a.difference, a.low, a.high, a.predicted) for a in report.accuracies]
    lines = [
        [
            *(name, f"{run:.{digits}f}", *_mean_and_range(values, digits), f"{difference:+.{digits}f}"),
            *(f"{low:+.{digits}f} to {high:+.{digits}f}", "-" if predicted is None else f"±{predicted:.{digits}f}"),
        ]
        for name, digits, run, values, difference, low, high, predicted in metrics
    ]
    yield page.table(("", "run", "logs", "lowest to highest", "run - logs", "95 % interval", "one more"), lines, 1)
    yield page.prose(MEANING)
    yield page.table(
        ("of two trainings", "run and each log", "lowest to highest", "two logs", "lowest to highest"),
        [
            ["same answer, % of images", *_shares(report.agreement), *_shares(report.agreement_among)],
            ["correlation of radii", *_known(report.correlation), *_known(report.correlation_among)],
        ],
        1,
    )
    yield page.prose("An answer is a class or to abstain. Correlation: Pearson, of the radius where the class is right, else 0.")
    yield page.prose(_verdict(report))
    yield from map(page.prose, report.notes)


def _verdict(report: Paired) -> str:
    if report.spread is None:
        return "One log shows no spread among trainings, so nothing is said about whether the run is one of them."
    limit, count = report.spread + report.half_width, len(report.runs)
    looks = sum(predicted is not None for predicted in (report.predicted, *(a.predicted for a in report.accuracies)))
    names = [name if name == "ACR" else f"accuracy at {name}" for name in report.outside]
    said = f"lies outside for {', '.join(names)}" if names else "lies inside everywhere"
    return (
        f"As one more training of the {count} logs' kind, the run {said}. That nothing lies outside would not prove that it is one: "
        f"{count} logs leave the interval wide, and of {looks} such looks one in twenty lies outside by chance. "
        f"The ACR's difference is {'within' if report.within else 'NOT within'} {limit:.4f}, the largest distance of a log from the mean "
        f"of the logs ({report.spread:.4f}) plus half the interval across images ({report.half_width:.4f})."
    )


def _mean_and_range(values: Sequence[float], digits: int) -> tuple[str, str]:
    return f"{statistics.fmean(values):.{digits}f}", f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def _shares(values: Sequence[float]) -> tuple[str, str]:
    return _mean_and_range([100 * value for value in values], 1) if values else ("-", "-")


def _known(values: Sequence[float | None]) -> tuple[str, str]:
    known = [value for value in values if value is not None]
    return _mean_and_range(known, 3) if known else ("-", "-")


def _csv(report: Paired) -> str:
    """One line per metric; what holds for all stands in every line."""
    file = io.StringIO()
    names = (
        "dataset",
        "sigma",
        "row",
        "key",
        "protocol",
        "seed",
        "row_logs",
        "collection",
        "selection",
        "images",
        "n",
        "alpha",
        "acr_exact",
    )
    shared = {name: getattr(report, name) for name in names} | {"runs": " ".join(report.runs), "note": " ".join(report.notes)}
    lines: list[dict[str, Any]] = [{"metric": "ACR", "run": report.acr, "logs": report.acr_logs} | _found(report)]
    lines += [{"metric": a.radius, "run": a.run, "logs": a.logs} | _found(a) for a in report.accuracies]
    lines += [
        {"metric": name, "logs": getattr(report, name)} for name in ("agreement", "agreement_among", "correlation", "correlation_among")
    ]
    writer = csv.DictWriter(file, (*names, "runs", "metric", "run", "logs", *FOUND, "note"), restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        values = {"logs": " ".join("" if value is None else repr(value) for value in line["logs"])}
        writer.writerow({name: "" if value is None else plain(value) for name, value in (shared | line | values).items()})
    return file.getvalue()


def _found(part: Paired | Accuracy) -> dict[str, Any]:
    return {name: getattr(part, name) for name in FOUND}
