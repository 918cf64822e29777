"""Where the paper's numbers are known not to come from its published logs, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from leaderboard import layouts
from leaderboard.paper.table import PaperTable


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Where the paper's numbers are known not to come from its published logs as all others do.

    Attributes:
        rows, sigmas, metrics: the values concerned; an empty one means all of the table.
        of: what differs: `mean`, `std`, or both.
    """

    text: str
    rows: tuple[str, ...] = ()
    sigmas: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    of: tuple[Literal["mean", "std"], ...] = ("mean", "std")

    def covers(self, place: tuple[str, str, str], what: str) -> bool:
        """Whether a (sigma, row, metric) and its mean or std are concerned."""
        chosen = zip(place, (self.sigmas, self.rows, self.metrics), strict=True)
        return what in self.of and all(not known or word in known for word, known in chosen)


_CONSISTENCY = ("consistency",)
_GAUSSIAN = Deviation(rows=("gaussian",), text="The log of the paper's Gaussian row was not published.")
# Found by recomputing the tables from the published logs.
DEVIATIONS: Mapping[int, tuple[Deviation, ...]] = {
    4: (
        Deviation(
            rows=_CONSISTENCY, sigmas=("1.00",), text="Consistency at sigma 1.00: the paper averages 6 runs; the table names 5 logs."
        ),
    ),
    5: (
        Deviation(
            rows=_CONSISTENCY,
            sigmas=("0.50", "1.00"),
            of=("std",),
            text="Consistency: the paper's deviations at sigma 0.50 and 1.00 divide by n, not n - 1.",
        ),
        Deviation(
            rows=_CONSISTENCY,
            sigmas=("0.25",),
            text="Consistency: the paper's ACR at sigma 0.25 is 0.9279 ± 0.0003, that of the logs 0.9282 with another deviation.",
        ),
    ),
    6: (
        Deviation(
            rows=("gaussian",),
            text="The paper's Gaussian row is a log of 500 images, every other row 10,000; the Gaussian row fits alpha 0.01.",
        ),
        Deviation(rows=("smoothadv", "macer"), text="The SmoothAdv and MACER rows are models released by their authors."),
    ),
    7: (
        Deviation(rows=("smoothadv",), text="The paper's SmoothAdv rows are 427 images, not 500."),
        Deviation(rows=("gaussian",), text="The paper's Gaussian rows fit alpha 0.01."),
        Deviation(
            rows=_CONSISTENCY,
            metrics=layouts.load(7).radii,
            text="The paper's Consistency rows are cut to whole percents, not rounded: 34.8 is printed as 34.",
        ),
    ),
    **dict.fromkeys((8, 9, 10, 11), (_GAUSSIAN,)),
}


def unexplained(table: PaperTable) -> tuple[str, ...]:
    """Where the means or deviations of imported logs differ from the printed ones without a known reason, e.g. `0.25 gaussian ACR mean`."""
    known = DEVIATIONS.get(table.layout.number, ())
    return tuple(
        f"{' '.join(place)} {what}: {ours}, the paper prints {theirs}"
        for place, entry in table.entries.items()
        if entry.values
        for what, ours, theirs in (("mean", entry.mean, entry.printed.mean), ("std", entry.std, entry.printed.std))
        if ours != theirs and not any(deviation.covers(place, what) for deviation in known)
    )
