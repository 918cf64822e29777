"""`bench compare RUN ROW --paired` as text."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.cli.page import Page

if TYPE_CHECKING:
    from leaderboard.compare import Paired

MEANING = (
    "The 95 % interval is that of the mean difference on another sample of test images, for these trainings (paired bootstrap, 10,000 "
    "resamples). It says nothing of another training; the spread among the logs does."
)


def render(report: Paired, format: str) -> str:
    """The report as text, ending in a line end. Only csv and json have full precision."""
    if format == "json":
        data = {"schema": 1, "meaning": MEANING, "differences": "run - mean of logs", **dataclasses.asdict(report)}
        data |= {"half_width": report.half_width, "within": report.within}
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
    lines = [
        [
            "ACR",
            f"{report.acr:.4f}",
            *_mean_and_range(report.acr_logs, 4),
            f"{report.difference:+.4f}",
            _interval(report.low, report.high, 4),
        ],
        *(
            [f"accuracy at {a.radius}, %", f"{a.run:.2f}", *_mean_and_range(a.logs, 2), f"{a.difference:+.2f}", _interval(a.low, a.high, 2)]
            for a in report.accuracies
        ),
    ]
    yield page.table(("", "run", "logs", "lowest to highest", "run - logs", "95 % interval"), lines, 1)
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
    if report.spread is None or report.predicted is None:
        return "One log shows no spread among trainings, so nothing is said about whether the run is one of them."
    limit = report.spread + report.half_width
    word = "within" if report.within else "NOT within"
    inside = "within" if abs(report.difference) <= report.predicted else "NOT within"
    return (
        f"The ACR differs by {report.difference:+.4f}, {word} {limit:.4f}: the largest distance of a log from the mean of the logs, "
        f"{report.spread:.4f}, plus half the interval, {report.half_width:.4f}. It is {inside} ±{report.predicted:.4f}, where Student's "
        f"95 % prediction interval of these {len(report.runs)} logs expects one more training."
    )


def _mean_and_range(values: Sequence[float], digits: int) -> tuple[str, str]:
    return f"{statistics.fmean(values):.{digits}f}", f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def _shares(values: Sequence[float]) -> tuple[str, str]:
    return _mean_and_range([100 * value for value in values], 1) if values else ("-", "-")


def _known(values: Sequence[float | None]) -> tuple[str, str]:
    known = [value for value in values if value is not None]
    return _mean_and_range(known, 3) if known else ("-", "-")


def _interval(low: float, high: float, digits: int) -> str:
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def _csv(report: Paired) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("metric", "run", *report.runs, "difference", "low", "high"))
    writer.writerow(("ACR", *map(repr, (report.acr, *report.acr_logs, report.difference, report.low, report.high))))
    for a in report.accuracies:
        writer.writerow((a.radius, *map(repr, (a.run, *a.logs, a.difference, a.low, a.high))))
    writer.writerow(("agreement", "", *map(repr, report.agreement), "", "", ""))
    writer.writerow(("correlation", "", *("" if value is None else repr(value) for value in report.correlation), "", "", ""))
    return file.getvalue()
