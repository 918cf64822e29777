"""What stands in the places of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.aggregate import Group, Row, Section
from leaderboard.metrics import ACR, Metric

EMPTY = "-"


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        mean, std: as printed; std is empty where there is none.
        improves: the mean is better than the baseline's, exactly and as printed.
        best: no other row of the section prints a better mean, and the mean is not 0.
        tied: the row's ACR cannot be told from the best of the section.
    """

    mean: str
    std: str = ""
    improves: bool = False
    best: bool = False
    tied: bool = False


def cells(group: Group, section: Section) -> list[list[Cell]]:
    """The cells of a section, one list per row, in the order of `group.metrics`."""

    def ranked(metric: Metric) -> bool:
        return not group.mixed and not (metric.of_radii and group.rule and group.rule.acr != "ranked")

    columns = [_column(section.rows, metric, group.baseline, first=not n, ranked=ranked(metric)) for n, metric in enumerate(group.metrics)]
    return [[column[number] for column in columns] for number in range(len(section.rows))]


def _column(rows: Sequence[Row], metric: Metric, baseline: str, *, first: bool = True, ranked: bool = True) -> list[Cell]:
    """One cell per row; the first column says how far an unfinished row is."""
    sign = -1 if metric.better == "less" else 1
    printed = {n: f"{row.stats[metric.name].mean:.{metric.decimals}f}" for n, row in enumerate(rows) if metric.name in row.stats}
    values = [sign * float(text) for text in printed.values()]
    # One row alone is not the best of anything, and a column of zeros has no best.
    best = max(values) if len(values) > 1 and any(values) and ranked and metric.better else None
    base = next((n for n, row in enumerate(rows) if row.label == baseline and n in printed), None) if ranked and metric.better else None
    column = []
    for n, row in enumerate(rows):
        if n not in printed:
            column.append(Cell((row.status if first else "") or EMPTY))
            continue
        stat = row.stats[metric.name]
        improves = base is not None and sign * (stat.mean - rows[base].stats[metric.name].mean) > 0 and printed[n] != printed[base]
        std = "" if stat.std is None else f"{stat.std:.{metric.decimals}f}"
        best_here = best is not None and sign * float(printed[n]) == best
        column.append(Cell(printed[n], std, improves, best_here, tied=metric.name == ACR and row.tied))
    return column
