"""The rows of a certification against its spec, its data set, each other and the file of times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import rules
from bench.datasets import DatasetInfo
from bench.errors import Fault
from bench.evidence.columns import Columns
from bench.evidence.log import Lines, Log
from bench.files import disk
from bench.spec import CertifySpec

_SECONDS = rb"(?:0|[1-9]\d{0,9})\.\d{6}"
_INDEX = rb"(?:0|[1-9]\d{0,9})"
_TIMED = re.compile(rb"^(\d+),", re.MULTILINE)
_TIMES = re.compile(rb"(?:%s(?:,(?:%s|(?:0|[1-9]\d{0,9})?(?:\.\d{0,5})?))?\n)*+" % (_INDEX, _SECONDS))
"""Lines of `image,seconds`; one that a full disk cut short ends where it was cut."""


NO_TIMES = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Rows:
    """What the rows of a certification say.

    Attributes:
        columns: the rows that hold. line: I: where each stands in the log.
        images: of the certification that have a row, damaged ones included.
        faults: of rows, of the log and of the file of times.
        sha256: of the log. bound: whether a record says that these are all the rows, and of what, see `bench.evidence.binding`.
    """

    columns: Columns
    line: Lines
    images: int
    faults: tuple[Fault, ...]
    sha256: str = ""
    bound: bool = False


def read_times(path: Path) -> NDArray[np.int64]:
    """The images whose seconds a file of times tells, none where there is no file; a last line without an end is being written.

    Raises:
        Fault: unreadable, or not a file of times.
    """
    content = disk.read_if_there(path) or b""
    torn = len(content) - content.rfind(b"\n") - 1
    if torn and not (torn < 40 and _TIMES.fullmatch(content[-torn:] + b"\n")):
        raise Fault(path, content.count(b"\n") + 1, "its last line is not the beginning of an image and its seconds")
    content = content[: len(content) - torn]
    match = _TIMES.match(content)
    end = match.end() if match else 0
    if end < len(content):
        line = content[end : content.index(b"\n", end)][:40]
        raise Fault(path, content.count(b"\n", 0, end) + 1, f"{line.decode('ascii', 'replace')!r} is not an image and its seconds")
    return np.array(_TIMED.findall(content), dtype="S10").astype(np.int64)


def seconds_of(path: Path) -> dict[int, float]:
    """Image -> seconds that a file of times tells; of an image that was begun twice the last. A line that is damaged is no time."""
    seconds: dict[int, float] = {}
    for line in (disk.read_if_there(path) or b"").decode("ascii", "replace").splitlines():
        index, _, text = line.partition(",")
        try:
            value = float(text)
            if 0 <= value < 1e9:
                seconds[int(index)] = value
        except ValueError:
            continue
    return seconds


def check(
    path: Path, log: Log, timed: NDArray[np.int64], spec: CertifySpec, info: DatasetInfo, images: range, labels: tuple[int, ...] | None
) -> Rows:
    """Every row against what the certification says.

    Rows are written in the order of the selected images, so what a stopped certification leaves is a beginning of that order:
    images missing at its end are unfinished work, unless the file of times names them; one missing before is a fault. The first of
    those at the end may be named: its time is written before its row.

    Args:
        path: of the log, for faults.
        timed: images that the file of times names, read before the log was.
        images: those that the certification covers. labels: of all test images, None where they are not known.
    """
    columns, line, faults = log.columns, log.line, list(log.faults)
    places, rest = np.divmod(columns.index.astype(np.int64) - images.start, images.step)
    known = (rest == 0) & (places >= 0) & (places < len(images))
    first = np.ones(len(columns), dtype=np.bool_)
    ascending = bool(known.all()) and bool((places[1:] > places[:-1]).all())
    if not ascending:
        _, firsts, twins = np.unique(columns.index, return_index=True, return_inverse=True)
        first[:] = False
        first[firsts] = True
    counted = first & known

    label = columns.label if labels is None else _array(labels)[np.where(known, columns.index, 0)]
    size = (columns.n0 != spec.n0) | ~possible(columns, spec)
    before = places if ascending else np.maximum.accumulate(np.where(counted, places, -1))
    late = counted & (places < before)
    other = counted & (columns.label != label)
    wrong = counted & size
    beyond = counted & ~size & (columns.highest >= info.classes)
    bad = ~counted | late | other | wrong | beyond
    for at in np.flatnonzero(bad).tolist() if bad.any() else ():
        index, number = columns.index[at], int(line[at])
        if not first[at]:
            faults.append(Fault(path, number, f"image {index} already stands in line {line[firsts[twins[at]]]}"))
        elif not known[at]:
            faults.append(Fault(path, number, f"image {index} is not among {spec.images} of {info.test_size}"))
        if late[at]:
            faults.append(Fault(path, number, f"image {index} comes after image {images[int(before[at])]}"))
        if other[at]:
            faults.append(Fault(path, number, f"image {index} has label {columns.label[at]}, but label {label[at]} in {info.name}"))
        if wrong[at]:
            drawn, said = f"{columns.n0[at]} and {columns.n[at]}", f"{spec.n0} and {spec.n}"
            faults.append(Fault(path, number, f"counts add up to {drawn} samples, but the spec says {said}"))
        if beyond[at]:
            faults.append(Fault(path, number, f"class {columns.highest[at]}, but {info.name} has classes 0 to {info.classes - 1}"))
    faults.sort(key=lambda fault: fault.line or 1 << 62)

    there = places if ascending else np.sort(places[counted])
    faults += _gaps(path, there, timed, images, whole=not log.faults)
    if len(there) == len(images) and not log.faults and log.torn:
        faults.append(Fault(path, None, "after the last image stands a line without an end"))
    if bad.any():
        good = np.flatnonzero(~bad)
        columns, line = columns.take(good), line[good]
    return Rows(columns, line, len(there), tuple(faults))


def _gaps(path: Path, there: Lines, timed: NDArray[np.int64], images: range, *, whole: bool) -> Iterable[Fault]:
    """What is missing that must be there. there: the places of the rows among the images, ascending."""
    end = int(there[-1]) + 1 if len(there) else 0
    if within := end - len(there):
        gaps = np.flatnonzero(np.diff(there, prepend=-1) > 1)[:3]
        names = [images[place] for gap in gaps for place in range(int(there[gap - 1]) + 1 if gap else 0, int(there[gap]))[:3]]
        told = f"no valid row of {_some(names, within)}, though image {images[end - 1]} has one and rows are written in order"
        yield Fault(path, None, told)
    if not len(timed):
        return
    places, rest = np.divmod(timed - images.start, images.step)
    strange = (rest != 0) | (places < 0) | (places >= len(images))
    times = path.with_name("times.csv")
    for index in timed[strange][:1].tolist():
        yield Fault(times, None, f"image {index} is not one of the certification's")
    gone = np.unique(places[~strange & (places >= end)])
    if whole and len(gone) and gone.tolist() != [end]:
        told = _some([images[place] for place in gone[:3].tolist()], len(gone))
        anew = "" if len(there) else "; to count them anew, delete times.csv and finished.json too"
        yield Fault(path, None, f"no row of {told}, though times.csv says that it was certified{anew}")


def _some(names: Sequence[int], count: int) -> str:
    """`image 7`, or `images 7, 9, 12 and 40 more`."""
    told = ", ".join(map(str, names[:3])) + (f" and {count - 3} more" if count > 3 else "")
    return f"image{'s' if count > 1 else ''} {told}"


_ARRAYS: dict[int, tuple[tuple[int, ...], NDArray[np.int64]]] = {}
"""By identity: to hash ten thousand labels takes longer than to check a few rows."""


def _array(labels: tuple[int, ...]) -> NDArray[np.int64]:
    known = _ARRAYS.get(id(labels))
    if known is None or known[0] is not labels:
        if len(_ARRAYS) > 16:
            _ARRAYS.clear()
        known = _ARRAYS[id(labels)] = labels, np.array(labels)
    return known[1]


def possible(columns: Columns, spec: CertifySpec) -> NDArray[np.bool_]:
    """I: where the estimation samples are as many as the spec lets them be."""
    whole = columns.n == spec.n
    begun = (columns.n > 0) & (columns.n < spec.n)
    if begun.any():
        whole = whole | (begun & rules.of(spec).may_stop(columns.counts))
    if spec.skip_misclassified:
        whole = whole | ((columns.n == 0) & (columns.selected != columns.label))
    return np.asarray(whole)
