"""The rows of one certification."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import rules
from bench.columns import Columns
from bench.errors import BenchError
from bench.records import MAX_LINE, Certificate, from_line
from bench.store import Certification, possible
from bench.verify.radii import Radii
from bench.verify.report import Report


def verify_rows(certification: Certification, report: Report, radii: Radii) -> int:
    """Checks every line of the evidence; each failure goes to the report.

    Rows are written in the order of the selected images, so what a stopped certification leaves is a beginning of that order:
    images missing at its end are unfinished work, unless the file of times names them; one missing before is a failure. The first of
    those at the end may be named: its time is written before its row.

    Returns:
        images with a valid row.
    """
    path = certification.evidence
    if not path.exists():
        return 0
    info, spec, expected = certification.run.info, certification.spec, certification.expected()
    other: list[str] = []
    with contextlib.suppress(BenchError):  # a record that cannot be believed is told already, and switches nothing off
        other = certification.differences()
    labels = None if other else report.attempt(path, info.known_labels)
    if labels is None:
        reason = (
            f"it was certified on other test files: {other[0]}" if other else f"the published files of {info.name} are not on this machine"
        )
        report.unchecked.append(f"the labels of {path}: {reason}")
    lines_of: dict[int, int] = {}  # image -> line
    line_of_count: dict[tuple[int, int], int] = {}  # count of the selected class, of n -> the first line that has it
    damaged, read, last = 0, 0, -1

    for number, line in _lines(path, report):
        read += len(line)
        try:
            row = from_line(line)
        except ValueError as error:
            damaged += 1
            report.fail(path, _reason(line, error), number)
            continue
        index = row.index
        if index in lines_of:
            report.fail(path, f"image {index} already stands in line {lines_of[index]}", number)
            continue
        if index not in expected:
            report.fail(path, f"image {index} is not among {spec.images} of {info.test_size}", number)
            continue
        lines_of[index] = number
        if index < last:
            report.fail(path, f"image {index} comes after image {last}", number)
        last = max(last, index)
        if labels is not None and row.label != labels[index]:
            report.fail(path, f"image {index} has label {row.label}, but label {labels[index]} in {info.name}", number)
        if (n0 := row.n0) != spec.n0 or (row.n != spec.n and not possible(Columns.of([row]), spec)[0]):
            report.fail(path, f"counts add up to {n0} and {row.n} samples, but the spec says {spec.n0} and {spec.n}", number)
            continue
        if (highest := _highest_class(row)) >= info.classes:
            report.fail(path, f"class {highest}, but {info.name} has classes 0 to {info.classes - 1}", number)
        if row.n:
            line_of_count.setdefault((row.count, row.n), number)
    report.rows += len(lines_of)

    missing = [index for index in expected if index not in lines_of]
    if within := [index for index in missing if index < last]:
        report.fail(path, f"no valid row of {_some(within)}, though image {last} has one and rows are written in order")
    times = certification.path / "times.csv"
    timed = report.attempt(times, lambda: _timed(times)) or set()
    ahead = missing[len(within) :]
    if not damaged and (gone := sorted(timed.intersection(ahead))) and gone != ahead[:1]:
        report.fail(path, f"no row of {_some(gone)}, though times.csv says that it was certified")
    if not (missing or damaged) and path.stat().st_size != read:
        report.fail(path, "after the last image stands a line without an end")
    rule = rules.of(spec)
    if rule.recomputed is None:
        report.unchecked.append(f"the radii of {path}: there is no second way to compute those of rule {rule.name}")
    else:
        for key, fault in radii.faults_of(rule, line_of_count, certification.run.spec.sigma).items():
            report.fail(path, fault, line_of_count[key])
    return len(lines_of)


def _lines(path: Path, report: Report) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every finished line; a last one without an end was cut short by a crash, and is left out."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if line.endswith(b"\n"):
                    yield number, line
                elif len(line) > MAX_LINE:
                    report.fail(path, f"a line longer than {MAX_LINE} bytes; what follows was not read", number)
                    return
    except OSError as error:
        report.fail(path, f"cannot be read: {error.strerror}")


def _reason(line: bytes, error: ValueError) -> str:
    """The reason of a refused line; one whose check sum is right must have been written by something else."""
    body, comma, end = line.rpartition(b',"~crc":"')
    if comma and str(error).startswith("the check sum") and end == f'{zlib.crc32(body + b"}"):08x}"}}\n'.encode():
        return "not in canonical form: the check sum fits, but the suite writes this row in another way"
    return str(error)


def _highest_class(row: Certificate) -> int:
    return max([*row.selection, *row.estimation])


def _some(images: Sequence[int]) -> str:
    """`image 7`, or `images 7, 9, 12 and 40 more`."""
    told = ", ".join(map(str, images[:3])) + (f" and {len(images) - 3} more" if len(images) > 3 else "")
    return f"image{'s' if len(images) > 1 else ''} {told}"


def _timed(path: Path) -> set[int]:
    """Images that a file of times names."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    words = (line.partition(",")[0] for line in text.splitlines())
    return {int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 19}
