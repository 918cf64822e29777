"""Single logs in the field's format, ours and others'."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from bench.datasets import DATASETS
from bench.evidence import certification_log
from bench.evidence.certification_log import Expected, Log
from bench.logs.reading import sizes
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
    known = sizes(facts.dataset)
    report = Report(top=file, alpha=facts.alpha)
    data = certification_log.load(file, name=str(file))
    log = report.attempt(file, lambda: _parse(data, facts, file, known))
    if log is None:
        return report
    report.log_rows = len(log.rows)
    if {"count", "n"} <= set(log.columns):
        _recompute(log, data, facts, file, report)
    return report


def _parse(data: bytes, facts: LogFacts, file: Path, known: tuple[int, int]) -> Log:
    """The log, if it is entirely one of what is expected.

    Raises:
        BenchError: it is not.
    """
    classes, size = known
    cells = [line.split("\t") for line in data[:1000].decode("ascii", "replace").splitlines()[:3]]
    images = [facts.images] if facts.images else _selections(cells)
    own = [row[-1] for row in cells[1:2] if tuple(cells[0]) == certification_log.OURS and re.fullmatch(r"[1-9][0-9]{0,9}", row[-1])]
    n = facts.n or (int(own[0]) if own and int(own[0]) <= MOST_SAMPLES else 100_000)
    expected = Expected(classes=classes, test_size=size, images=images, n=n, alpha=facts.alpha, sigma=facts.sigma)
    log = certification_log.parse(data, expected, name=str(file))
    if facts.dataset in DATASETS and (labels := DATASETS[facts.dataset].known_labels()) is not None:
        certification_log.check_labels(log.rows, dict(enumerate(labels)), name=str(file))
    return log


def _selections(cells: list[list[str]]) -> list[str]:
    """All images, or every k-th as the first two rows have it."""
    first = [row[0] for row in cells[1:]]
    if len(first) == 2 and first[0] == "0" and first[1].isdigit() and 1 < int(first[1]) < 10**8:
        return [f"every:{int(first[1])}", "all"]
    return ["all"]


def _recompute(log: Log, data: bytes, facts: LogFacts, file: Path, report: Report) -> None:
    """Every radius and abstention from the counts beside it."""
    radii = Radii(facts.alpha)
    lines = data.decode("ascii").splitlines()[1:]
    for number, (row, line) in enumerate(zip(log.rows, lines, strict=True), start=2):
        count, n = map(int, line.split("\t")[-2:])
        radius = certified_radius(count, n, facts.alpha, facts.sigma)
        at = f"{count} of {n} samples at alpha {facts.alpha:g} and sigma {facts.sigma:g}"
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
    counts: dict[int, dict[int, int]] = {}
    for number, line in enumerate(lines, start=2):
        count, n = map(int, line.split("\t")[-2:])
        counts.setdefault(n, {}).setdefault(count, number)
    for n, found in counts.items():
        for count, fault in radii.faults(found, n, facts.sigma).items():
            report.fail(file, fault, found[count])
    report.distinct = radii.distinct
