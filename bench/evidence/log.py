"""Lines of evidence as numbers, many at once.

`bench.evidence.certificate.from_line` says what a line must be. Here whole pieces of a log are read by arrays, which takes a
twentieth of the time and accepts nothing else: a line that the arrays do not take is given to `from_line`, which takes it or says why not.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import Fault
from bench.evidence.certificate import MAX_COUNT, MAX_LINE, Certificate, from_line
from bench.evidence.columns import Columns
from bench.files import disk

MOST_ROWS = 2_000_000
"""No test set is larger."""
MOST_FAULTS = 10_000
"""After so many lines that are none, the rest of a log is not read."""
FEW = 30
"""Lines; so few are sooner read one by one."""
NOTHING = Columns.of([])

_TAIL = b',"~crc":"xxxxxxxx"}'
"""How every line ends; the x are the check sum."""
_CRC = slice(len(_TAIL) - 10, len(_TAIL) - 2)
_PAIRS = rb'"0":0(?:,"0":0)*+'
_SHAPE = re.compile(rb'\{"index":0,"label":0,"n":\{((?:%s)?)\},"n0":\{(%s)\},"selected":0' % (_PAIRS, _PAIRS) + re.escape(_TAIL))
"""A line whose numbers are written as 0, and the digits of its check sum as x."""
_HEX = np.full(256, -1, dtype=np.int64)
_HEX[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)
_DIGITS = len(str(MAX_COUNT))
_TENS = 10 ** np.arange(_DIGITS, dtype=np.int64)

Lines = NDArray[np.int64]


@dataclass(frozen=True)
class Log:
    """What a log of evidence holds.

    Attributes:
        columns: its whole lines, in their order. line: I: where each stands, counted from 1.
        faults: of its other lines.
        torn: bytes behind the last line end: a line that is being written, or was when its writer ended.
        sha256: of all that was read.
    """

    columns: Columns
    line: Lines
    faults: tuple[Fault, ...]
    torn: int
    sha256: str = ""


EMPTY = Log(NOTHING, np.empty(0, dtype=np.int64), (), 0)


def read(path: Path, most: int = MOST_ROWS) -> Log:
    """Reads a log of evidence, as far as it was written when it was opened.

    Args:
        most: rows that it may have; what follows many more is not read.

    Raises:
        Fault: absent, unreadable, no regular file, or too large.
    """
    columns: list[Columns] = []
    lines: list[Lines] = []
    faults: list[Fault] = []
    rest, number, hashed = b"", 1, hashlib.sha256()
    with disk.opened(path) as (handle, status):
        for piece in disk.pieces(path, handle, status.st_size):
            hashed.update(piece)
            end = piece.rfind(b"\n") + 1
            if end:
                whole, rest = rest + piece[:end], piece[end:]
                found, line = _parse(whole, number, path, faults)
                columns.append(found)
                lines.append(line)
                number += whole.count(b"\n")
            else:
                rest += piece
            if number > min(most, MOST_ROWS) + MOST_FAULTS:
                faults.append(Fault(path, None, f"it has far more lines than images; what follows line {number - 1} was not read"))
                break
            if len(rest) > MAX_LINE:
                faults.append(Fault(path, number, f"a line longer than {MAX_LINE} bytes; what follows was not read"))
                break
            if len(faults) > MOST_FAULTS:
                faults.append(Fault(path, None, f"{MOST_FAULTS:,} lines are damaged; what follows line {number - 1} was not read"))
                break
    line = np.concatenate(lines) if lines else EMPTY.line
    return Log(Columns.join(columns) if columns else NOTHING, line, tuple(faults), len(rest), hashed.hexdigest())


def _parse(log: bytes, first: int, path: Path, faults: list[Fault]) -> tuple[Columns, Lines]:
    """The columns of whole lines, and their numbers, of which the first is `first`; adds to the faults."""
    count = log.count(b"\n")
    places, columns = by_arrays(log) if count > FEW else (EMPTY.line, NOTHING)
    if len(places) == count:
        return columns, np.arange(first, first + count)
    taken = set(places.tolist())
    others: list[tuple[int, Certificate]] = []
    for place, line in enumerate(log.split(b"\n")[:-1]):
        if place in taken:
            continue
        try:
            others.append((place, from_line(line + b"\n")))
        except ValueError as error:
            faults.append(Fault(path, first + place, reason_of(line + b"\n", error)))
            if len(faults) > MOST_FAULTS:
                break
    rows, where = Columns.of([row for _, row in others]), np.array([place for place, _ in others], dtype=np.int64)
    if not taken:
        return rows, first + where
    order = np.argsort(np.concatenate([places, where]))
    return Columns.join([columns, rows]).take(order), first + np.concatenate([places, where])[order]


def reason_of(line: bytes, error: ValueError) -> str:
    """The reason of a refused line; one whose check sum is right must have been written by something else."""
    body, comma, end = line.rpartition(b',"~crc":"')
    if comma and str(error).startswith("the check sum") and end == f'{zlib.crc32(body + b"}"):08x}"}}\n'.encode():
        return "not in canonical form: the check sum fits, but the suite writes this row in another way"
    return str(error)


def by_arrays(log: bytes) -> tuple[Lines, Columns]:
    """Of whole lines, those that `to_line` may have written: their places, counted from 0, and their columns.

    In the comments: N lines, R numbers, M lines that look right, P pairs of class and count.
    """
    text = np.frombuffer(log, dtype=np.uint8)
    ends = np.flatnonzero(text == 10)
    starts = np.concatenate([[0], ends[:-1] + 1])
    long = np.flatnonzero((ends - starts > len(_TAIL)) & (ends - starts < MAX_LINE))
    tails = text[ends[long, None] + np.arange(-len(_TAIL), 0)]  # N T
    nibbles = _HEX[tails[:, _CRC]]
    sums = (nibbles << np.arange(28, -4, -4)).sum(axis=1)

    masked = text.copy()
    masked[(ends[long, None] + np.arange(_CRC.start, _CRC.stop) - len(_TAIL)).ravel()] = ord("x")
    digit = (masked - 48) < 10
    digit[1:] &= masked[:-1] != ord("n")  # that of "n0" is no number
    before = np.concatenate([[False], digit[:-1]])
    first_digit = digit & ~before
    last_digit = np.flatnonzero(digit & ~np.concatenate([digit[1:], [False]]))  # R
    begins = np.flatnonzero(first_digit)  # R
    masked[first_digit] = 48
    shapes = masked[~digit | first_digit].tobytes().split(b"\n")
    known: dict[bytes, tuple[int, int]] = {}
    for shape in set(shapes):
        if match := _SHAPE.fullmatch(shape):
            known[shape] = (match[1].count(b":"), match[2].count(b":"))
    found = np.array([known.get(shape, (-1, -1)) for shape in shapes[:-1]], dtype=np.int64).reshape(-1, 2)

    good = np.zeros(len(ends), dtype=np.bool_)
    good[long] = (nibbles >= 0).all(axis=1)
    good &= found[:, 1] > 0
    lengths = last_digit - begins + 1
    owner = np.searchsorted(ends, begins)
    good[owner[(lengths > _DIGITS) | ((lengths > 1) & (text[begins] == 48))]] = False
    if not good.any():
        return EMPTY.line, NOTHING
    values = np.zeros(len(begins), dtype=np.int64)
    for place in range(min(int(lengths.max()), _DIGITS)):
        wide = lengths > place
        values[wide] += (text[last_digit[wide] - place].astype(np.int64) - 48) * _TENS[place]

    at = np.flatnonzero(good)  # M
    zero = np.searchsorted(begins, starts[at])  # M: where the numbers of each line begin
    of_n, of_n0 = found[at, 0], found[at, 1]
    index, label, selected = values[zero], values[zero + 1], values[zero + 2 + 2 * (of_n + of_n0)]
    n = _Counts.of(values, zero + 2, of_n)
    n0 = _Counts.of(values, zero + 2 + 2 * of_n, of_n0)
    right = (index <= MAX_COUNT) & (label <= MAX_COUNT) & n.right & n0.right
    right &= (n0.most == selected) & ((of_n > 0) | (selected != label))
    crc, view = zlib.crc32, memoryview(log)
    cuts = ends[at] - len(_TAIL)
    computed = [crc(b"}", crc(view[a:b])) for a, b in zip(starts[at].tolist(), cuts.tolist(), strict=True)]
    right &= np.array(computed, dtype=np.int64) == _spread(sums, long, len(ends))[at]
    kept = np.flatnonzero(right)
    parts = (index, label, selected, n.most, np.maximum(n.highest, n0.highest), *n.split(selected), n0.total, n.total)
    return at[kept], Columns(*(part[kept].astype(np.int32) for part in parts))


def _spread(values: Lines, places: Lines, length: int) -> Lines:
    spread = np.zeros(length, dtype=np.int64)
    spread[places] = values
    return spread


@dataclass(frozen=True)
class _Counts:
    """The pairs of class and count of one kind of samples, in M lines.

    Attributes:
        right: M: classes in the order of their names, counts from 1 up, none above MAX_COUNT, nor their sum.
        total, highest, most: M: samples; highest class; class of most samples, the lowest in a tie; -1 for none.
    """

    owner: Lines
    classes: Lines
    counts: Lines
    right: NDArray[np.bool_]
    total: Lines
    highest: Lines
    most: Lines

    @classmethod
    def of(cls, values: Lines, begin: Lines, pairs: Lines) -> _Counts:
        lines = len(begin)
        owner = np.repeat(np.arange(lines), pairs)  # P
        firsts = np.cumsum(pairs) - pairs
        place = begin[owner] + 2 * (np.arange(len(owner)) - firsts[owner])
        classes, counts = values[place], values[place + 1]
        wrong = (counts < 1) | (counts > MAX_COUNT) | (classes > MAX_COUNT)
        # Names are in the order of their text: "10" comes before "2".
        width = np.searchsorted(_TENS[1:], classes, side="right")  # digits after the first
        name = classes * _TENS[_DIGITS - 1 - width.clip(max=_DIGITS - 1)]
        same = owner[1:] == owner[:-1]
        wrong[1:] |= same & ~((name[:-1] < name[1:]) | ((name[:-1] == name[1:]) & (width[:-1] < width[1:])))
        bounded = np.minimum(counts, MAX_COUNT)
        total = np.bincount(owner, weights=bounded, minlength=lines).astype(np.int64)
        right = total <= MAX_COUNT
        right[owner[wrong]] = False
        highest, most = np.full(lines, -1, dtype=np.int64), np.full(lines, -1, dtype=np.int64)
        if len(owner):
            some, cut = pairs > 0, firsts[pairs > 0]
            kept = np.minimum(classes, MAX_COUNT)
            highest[some] = np.maximum.reduceat(kept, cut)
            most[some] = MAX_COUNT - np.maximum.reduceat(bounded * (MAX_COUNT + 1) + (MAX_COUNT - kept), cut) % (MAX_COUNT + 1)
        return cls(owner, classes, counts, right, total, highest, most)

    def split(self, selected: Lines) -> tuple[Lines, Lines]:
        """M: the count of a class of each line, and the largest of its other counts."""
        hit, lines = self.classes == selected[self.owner], len(selected)
        own = np.bincount(self.owner[hit], weights=self.counts[hit], minlength=lines).astype(np.int64)
        others = np.zeros(lines, dtype=np.int64)
        if len(self.owner):
            some = np.flatnonzero(np.diff(self.owner, prepend=-1))
            others[self.owner[some]] = np.maximum.reduceat(np.where(hit, 0, self.counts), some)
        return own, others
