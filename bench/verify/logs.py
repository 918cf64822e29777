"""Logs in the field's format: those that were imported, and single files, ours and others'."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, cast

from bench import fieldlog
from bench.bounds import certified_radius
from bench.datasets import DATASETS
from bench.errors import BenchError, nearest
from bench.fieldlog import Expected, Log
from bench.imported import load_map
from bench.imported.stored import Import, ImportSpec
from bench.spec import from_json
from bench.verify.radii import Radii
from bench.verify.report import Report, Unfinished, misplaced


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


def verify_import(folder: Path, report: Report) -> None:
    """Checks an imported log: its spec, its check sum, its images, labels and radii."""
    file = folder / "spec.json"
    if not file.exists():
        report.unfinished.append(Unfinished(folder, "an import that never came to its end; import the log again"))
        return
    report.imports += 1
    spec = cast(ImportSpec | None, report.attempt(file, lambda: from_json(cast(Any, ImportSpec), file.read_bytes(), str(file))))
    if spec is None:
        return
    if not folder.resolve().name.endswith(f"-{spec.key}"):
        report.fail(file, f"its key is {spec.key}, but the folder is {folder.resolve().name}")
    elif reason := misplaced(folder, report.top, spec.folder):
        report.fail(file, reason)
    stored = Import(folder, spec)
    rows = report.attempt(stored.file, stored.rows)
    if rows is None:
        return
    facts = LogFacts(dataset=spec.dataset, sigma=spec.sigma, alpha=spec.alpha, n=spec.n, images=spec.images)
    # The store keeps a log without its times; a column of zeros makes it a log of the field again, line by line.
    header, *lines = fieldlog.canonical(rows).decode("ascii").splitlines()
    data = "".join([f"{header}\ttime\n", *(f"{line}\t0\n" for line in lines)]).encode("ascii")
    try:
        sizes = _sizes(spec.dataset)
    except BenchError:  # only the map that it was imported by knew it: take the sizes that it needs at least
        highest = max((max(row.label, row.predict) for row in rows), default=0)
        sizes = highest + 1, max((row.index for row in rows), default=0) + 1
    log = report.attempt(stored.file, lambda: _parse(data, facts, stored.file, sizes))
    if log is not None:
        report.imported_rows += len(log.rows)


def verify_log(file: Path, facts: LogFacts) -> Report:
    """Checks one log file; where it has columns count and n, every radius is recomputed from them.

    Raises:
        BenchError: a data set that is not known.
        OSError: the file cannot be read.
    """
    sizes = _sizes(facts.dataset)
    report = Report(top=file, alpha=facts.alpha)
    data = fieldlog.load(file, name=str(file))
    log = report.attempt(file, lambda: _parse(data, facts, file, sizes))
    if log is None:
        return report
    report.log_rows = len(log.rows)
    if {"count", "n"} <= set(log.columns):
        _recompute(log, data, facts, file, report)
    return report


@cache
def _sizes(dataset: str) -> tuple[int, int]:
    """Classes and test images of a data set: one of the suite's, or one that the map of published logs knows.

    Raises:
        BenchError: neither knows it.
    """
    if dataset in DATASETS:
        return DATASETS[dataset].classes, DATASETS[dataset].test_size
    sizes = load_map().sizes
    if dataset not in sizes:
        raise BenchError(f"unknown data set {dataset!r}{nearest(dataset, sizes)}")
    return sizes[dataset]


def _parse(data: bytes, facts: LogFacts, file: Path, sizes: tuple[int, int]) -> Log:
    """The log, if it is entirely one of what is expected.

    Raises:
        BenchError: it is not.
    """
    classes, size = sizes
    cells = [line.split("\t") for line in data[:1000].decode("ascii", "replace").splitlines()[:3]]
    images = [facts.images] if facts.images else _selections(cells)
    n = facts.n or next((int(row[-1]) for row in cells[1:2] if tuple(cells[0]) == fieldlog.OURS and row[-1].isdigit()), 100_000)
    expected = Expected(classes=classes, test_size=size, images=images, n=n, alpha=facts.alpha, sigma=facts.sigma)
    log = fieldlog.parse(data, expected, name=str(file))
    if facts.dataset in DATASETS and (labels := DATASETS[facts.dataset].known_labels()) is not None:
        fieldlog.check_labels(log.rows, dict(enumerate(labels)), name=str(file))
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
