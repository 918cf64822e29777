"""Single logs in the field's format, ours and others'."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from bench.datasets import DATASETS
from bench.errors import BenchError, counted, nearest
from bench.evidence import certification_log
from bench.evidence.certification_log import Expected, Log
from bench.rules.bounds import certified_radius
from bench.spec import MOST_SAMPLES
from bench.verify.radii import Radii
from bench.verify.report import Report


@dataclass(frozen=True, kw_only=True)
class LogFacts:
    """What a log file does not say of itself.

    Attributes:
        n: samples per image; None takes the log's own column n, or 100,000 where it has none.
        images: the selection that it must cover; None takes all or every k-th image, whichever its rows begin as.
    """

    dataset: str
    sigma: float
    alpha: float = 0.001
    n: int | None = None
    images: str | None = None


def verify_log(file: Path, facts: LogFacts) -> Report:
    """Checks one log file; where it has columns count and n, every radius is recomputed from them.

    Raises:
        BenchError: a data set that is not known.
        OSError: the file cannot be read.
    """
    if facts.dataset not in DATASETS:
        raise BenchError(f"unknown data set {facts.dataset!r}{nearest(facts.dataset, DATASETS)}")
    report = Report(top=file, alpha=facts.alpha)
    data = certification_log.load(file, name=str(file))
    log = report.attempt(file, lambda: _parse(data, facts, file))
    if log is None:
        return report
    report.log_rows = len(log.rows)
    if {"count", "n"} <= set(log.table.cells):
        _recompute(log, facts, file, report)
    return report


def _parse(data: bytes, facts: LogFacts, file: Path) -> Log:
    """The log, if it is entirely one of what is expected.

    Raises:
        BenchError: it is not.
    """
    info = DATASETS[facts.dataset]
    cells = [line.split("\t") for line in data[:1000].decode("ascii", "replace").splitlines()[:3]]
    images = [facts.images] if facts.images else _selections(cells)
    own = [row[-1] for row in cells[1:2] if tuple(cells[0]) == certification_log.OURS and re.fullmatch(r"[1-9][0-9]{0,9}", row[-1])]
    n = facts.n or (int(own[0]) if own and int(own[0]) <= MOST_SAMPLES else 100_000)
    expected = Expected(classes=info.classes, test_size=info.test_size, images=images, n=n, alpha=facts.alpha, sigma=facts.sigma)
    log = certification_log.parse(data, expected, name=str(file))
    if (labels := info.known_labels()) is not None:
        certification_log.check_labels(log, dict(enumerate(labels)))
    return log


def _selections(cells: list[list[str]]) -> list[str]:
    """All images, or every k-th as the first two rows have it."""
    first = [row[0] for row in cells[1:]]
    if len(first) == 2 and first[0] == "0" and first[1].isdigit() and 1 < int(first[1]) < 10**8:
        return [f"every:{int(first[1])}", "all"]
    return ["all"]


def _recompute(log: Log, facts: LogFacts, file: Path, report: Report) -> None:
    """Every radius and abstention from the counts beside it."""
    radii = Radii(facts.alpha)
    counts: dict[int, dict[int, int]] = {}
    lines = zip(log.table.lines, log.rows, map(int, log.table.cells["count"]), map(int, log.table.cells["n"]), strict=True)
    for number, row, count, n in lines:
        counts.setdefault(n, {}).setdefault(count, number)
        radius = certified_radius(count, n, facts.alpha, facts.sigma)
        at = f"{count} of {counted(n, 'sample')} at alpha {facts.alpha:g} and sigma {facts.sigma:g}"
        if radius is None:
            if row.predict != -1:
                report.fail(file, f"radius {row.radius_text}, but {at} must abstain", number)
        elif row.predict == -1:
            report.fail(file, f"abstained, but {at} certify radius {radius:.6g}", number)
        else:
            printed = Decimal(row.radius_text)
            unit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
            if not printed <= Decimal(radius) < printed + unit:
                report.fail(file, f"radius {row.radius_text}, but {at} certify {radius:.9g}, rounded down", number)
    for n, found in counts.items():
        for count, fault in radii.faults(found, n, facts.sigma).items():
            report.fail(file, fault, found[count])
    report.distinct = radii.distinct
