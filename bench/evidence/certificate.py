"""What a certificate is: the counts of one image, and how they are written and read.

One line of JSON per image, each with a CRC-32 of its own, so that a torn or damaged line is seen. Counts are the
evidence; abstention, radius and correctness are derived from them when they are read and never stored.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import Fault, clipped
from bench.files import disk
from bench.rules.bounds import certified_radius
from bench.rules.rule import Counts, Rule
from bench.spec import canonical, parse_json

MAX_LINE = 1 << 20  # bytes; a row of 1000 classes takes some 20 kB
MAX_COUNT = 2**31 - 1  # of samples, and the highest class and image: what arrays of 32 bits hold


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """Evidence of one image.

    Attributes:
        index: position in the test set.
        label: true class.
        selected: the class with the most of the n0 selection samples (the lowest such class in a tie).
        selection: class -> count over the n0 selection samples, zeros left out.
        estimation: class -> count over the n estimation samples, zeros left out; empty where none were drawn.
    """

    index: int
    label: int
    selected: int
    selection: Mapping[int, int]
    estimation: Mapping[int, int]

    def __post_init__(self) -> None:
        for name in ("index", "label", "selected"):
            if type(getattr(self, name)) is not int or not 0 <= getattr(self, name) <= MAX_COUNT:
                raise ValueError(f"{name} {getattr(self, name)!r} is not a whole number from 0 to {MAX_COUNT}")
        for counts in (self.selection, self.estimation):
            if any(c < 0 or type(k) is not int or k <= 0 for c, k in counts.items()):
                raise ValueError("counts must be whole, positive and of classes from 0 up")
            if sum(counts.values()) > MAX_COUNT or max(counts, default=0) > MAX_COUNT:
                raise ValueError(f"a class, or a number of samples, is above {MAX_COUNT}")
        if not self.selection or not (self.estimation or self.selected != self.label):
            raise ValueError("counts of both kinds of samples are needed, but for an estimation that was skipped for a wrong class")
        if self.selected != min(self.selection, key=lambda c: (-self.selection[c], c)):
            raise ValueError(f"class {self.selected} is not the most frequent of the selection samples")

    @property
    def n0(self) -> int:
        return sum(self.selection.values())

    @property
    def n(self) -> int:
        return sum(self.estimation.values())

    @property
    def count(self) -> int:
        """Estimation samples that fell on the selected class."""
        return self.estimation.get(self.selected, 0)

    @property
    def runner_up(self) -> int:
        """Estimation samples that fell on the class with the most of the others."""
        return max((k for c, k in self.estimation.items() if c != self.selected), default=0)

    def radius(self, alpha: float, sigma: float, rule: Rule | None = None) -> float | None:
        """Certified radius of the selected class, None for abstain and where nothing was drawn.

        Args:
            rule: of the certification, which reads the counts; None: as `bounds.certified_radius` does.
        """
        if not self.estimation:
            return None
        if rule is None:
            return certified_radius(self.count, self.n, alpha, sigma)
        counts = Counts(np.array([self.count]), np.array([self.n]), np.array([self.runner_up]))
        (radius,) = rule.radii(counts, alpha, sigma).tolist()
        return None if np.isnan(radius) else float(radius)

    def correct(self, alpha: float, sigma: float) -> bool:
        """Certified as `bounds.certified_radius` does, and the class is the label."""
        return self.selected == self.label and self.radius(alpha, sigma) is not None


def to_line(row: Certificate) -> str:
    """One line of evidence with its check sum and line end."""
    body = {
        "index": row.index,
        "label": row.label,
        "selected": row.selected,
        "n0": {str(c): k for c, k in sorted(row.selection.items())},
        "n": {str(c): k for c, k in sorted(row.estimation.items())},
    }
    text = canonical(body)
    return f'{text[:-1]},"~crc":"{zlib.crc32(text.encode()):08x}"}}\n'


def from_line(line: bytes) -> Certificate:
    """The inverse of `to_line`.

    Raises:
        ValueError: anything that `to_line` would not have written.
    """
    if len(line) > MAX_LINE:
        raise ValueError(f"a line of {len(line)} bytes is longer than {MAX_LINE}")
    try:
        data = parse_json(line)
        row = Certificate(
            index=data["index"],
            label=data["label"],
            selected=data["selected"],
            selection={int(c): k for c, k in data["n0"].items()},
            estimation={int(c): k for c, k in data["n"].items()},
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(clipped(f"not a row of evidence ({type(error).__name__}: {error})")) from None
    if to_line(row).encode() != line:
        raise ValueError("the check sum does not fit the row")
    return row


def read_log(path: Path) -> bytes:
    """The finished lines of an evidence file; a last line that a crash cut short (no line end) was never finished.

    Raises:
        BenchError: absent, unreadable, or no file of evidence.
    """
    content = disk.read(path)
    return content[: content.rfind(b"\n") + 1]


def read_rows(path: Path) -> list[Certificate]:
    """Every finished row of an evidence file, in the order of writing.

    Raises:
        BenchError: a damaged, doubled or unreadable row, with file and line.
    """
    rows: list[Certificate] = []
    seen: dict[int, int] = {}
    *lines, _ = read_log(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = from_line(line + b"\n")
        except ValueError as error:
            raise Fault(path, number, str(error)) from None
        if row.index in seen:
            raise Fault(path, number, f"image {row.index} already stands in line {seen[row.index]}")
        seen[row.index] = number
        rows.append(row)
    return rows
