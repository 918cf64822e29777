"""A table of the paper with our numbers, and which of them it marks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from leaderboard import layouts
from leaderboard.aggregate import Source

Compat = Literal["exact", "3sig"]
RULES = {
    "exact": "correct and radius > r, radii as exact as the evidence",
    "3sig": "correct and radius >= r, radii rounded to 3 significant digits, as in the paper",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One value of a table.

    Attributes:
        values: one per run that it averages, ACR in pixels or accuracy in %; empty where any of them is not there.
        status: what is there instead, e.g. `2/5 runs`.
        printed: the paper's value.
    """

    values: tuple[float, ...]
    status: str
    printed: layouts.Published

    @property
    def mean(self) -> str:
        """To the paper's digits; empty where a run is missing."""
        return f"{statistics.fmean(self.values):.{self._decimals}f}" if self.values else ""

    @property
    def std(self) -> str:
        """Sample standard deviation (ddof=1) to the paper's digits; empty for one run."""
        return f"{statistics.stdev(self.values):.{self._decimals}f}" if len(self.values) > 1 else ""

    @property
    def text(self) -> str:
        """As the paper prints it."""
        return _join(self.mean, self.std) if self.values else self.status

    @property
    def paper(self) -> str:
        """What the paper prints."""
        return _join(self.printed.mean, self.printed.std)

    @property
    def difference(self) -> str:
        """Mean minus the paper's, both to the paper's digits."""
        return f"{float(self.mean) - float(self.printed.mean):+.{self._decimals}f}" if self.values else ""

    @property
    def _decimals(self) -> int:
        return len(self.printed.mean.partition(".")[2])


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper with our numbers.

    Attributes:
        entries: (sigma, row, metric), as the layout writes them -> entry.
        apart: test images and samples where ours are not the paper's, such as `test images = every:20`; else empty.
        notes: what a reader must know about where the numbers come from.
    """

    layout: layouts.Layout
    entries: Mapping[tuple[str, str, str], Entry]
    source: Source | Literal["nothing"]
    compat: Compat
    caption: str
    notes: tuple[str, ...]
    apart: str = ""


def marks(table: PaperTable, place: tuple[str, str, str]) -> tuple[bool, bool]:
    """Whether a value is bold and underlined by the rules of its table.

    Bold: a row that may be bold prints more than the baseline. Underlined: no row prints more, and it is not 0.
    """
    sigma, row, metric = place
    layout = table.layout
    printed = {r: float(e.mean) for (s, r, m), e in table.entries.items() if (s, m) == (sigma, metric) and e.values}
    if row not in printed:
        return False, False
    base = printed.get(layout.baseline)
    bold = layout.may_be_bold(row) and base is not None and printed[row] > base
    best = layout.underline and len(printed) > 1 and printed[row] == max(printed.values()) > 0
    return bold, best


def unexplained(table: PaperTable) -> tuple[str, ...]:
    """Where the means or deviations of imported logs differ from the printed ones without a known reason, e.g. `0.25 gaussian ACR mean`."""
    return tuple(
        f"{' '.join(place)} {what}: {ours}, the paper prints {theirs}"
        for place, entry in table.entries.items()
        if entry.values
        for what, ours, theirs in (("mean", entry.mean, entry.printed.mean), ("std", entry.std, entry.printed.std))
        if ours != theirs and not any(deviation.covers(place, what) for deviation in table.layout.deviations)
    )


def _join(mean: str, std: str) -> str:
    return f"{mean} ± {std}" if std else mean
