"""The published tables as data: their layouts and their numbers.

Source: SmoothMix (Jeong et al., NeurIPS 2021), Tables 4 to 11, as printed.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.spec import names_row

ACR = "ACR"


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Where printed numbers are known not to come from the published logs as all others do.

    Attributes:
        rows, sigmas, metrics: the values concerned; an empty one means all of the table.
        of: what differs: `mean`, `std`, or both.
    """

    text: str
    rows: tuple[str, ...] = ()
    sigmas: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    of: tuple[str, ...] = ("mean", "std")

    def covers(self, place: tuple[str, str, str], what: str) -> bool:
        """Whether a (sigma, row, metric) and its mean or std are concerned."""
        chosen = zip(place, (self.sigmas, self.rows, self.metrics), strict=True)
        return what in self.of and all(not known or word in known for word, known in chosen)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one published table is laid out.

    Attributes:
        sigmas: noise levels, as printed.
        metrics: `ACR` or a radius such as `0.50`, in order of columns.
        columns: `metrics` (one block of rows per sigma) or `sigmas` (one block in all).
        seeds: trainings that each value averages.
        labels: row -> label as printed, in order of rows.
        breaks: rows before which the table leaves a gap.
        baseline: the row that bold compares with.
        bold: names or patterns of rows whose value is bold where it improves on the baseline.
        underline: whether the best value of each sigma and column is underlined.
    """

    number: int
    dataset: str
    sigmas: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: str
    seeds: int
    labels: Mapping[str, str]
    breaks: tuple[str, ...]
    baseline: str
    bold: tuple[str, ...]
    underline: bool
    caption: str
    deviations: tuple[Deviation, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Row names in order, e.g. `smoothmix.eta5-onestep`."""
        return tuple(self.labels)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Names of rows in the table's order; behind them, by name, those that it does not have."""
        place = {name: number for number, name in enumerate(self.rows)}
        return sorted(names, key=lambda name: (place.get(name, len(place)), name))

    @property
    def radii(self) -> tuple[str, ...]:
        """The metrics that are certified accuracies at a radius."""
        return tuple(metric for metric in self.metrics if metric != ACR)

    def may_be_bold(self, row: str) -> bool:
        """Whether the table sets a row bold where it improves on the baseline."""
        return any(names_row(word, row) for word in self.bold)


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed value; accuracies in %, digits as printed, `std` empty where the table prints none."""

    sigma: str
    row: str
    label: str
    metric: str
    mean: str
    std: str


def published_folder() -> Path:
    """Where the published tables are: `leaderboard/published` of an installed copy, `results/published` of a checkout.

    Raises:
        BenchError: in neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "published", package.parent / "results" / "published"):
        if (folder / "layouts.toml").is_file():
            return folder
    raise BenchError(f"the published tables are not in {package / 'published'}; install certbench again")


@cache
def _layouts() -> dict[str, dict[str, Any]]:
    return tomllib.loads((published_folder() / "layouts.toml").read_text(encoding="utf-8"))


def numbers() -> tuple[int, ...]:
    """Numbers of the published tables, ascending."""
    return tuple(sorted(int(name.removeprefix("table")) for name in _layouts()))


@cache
def load(number: int) -> Layout:
    """The layout of a published table.

    Raises:
        BenchError: no such table.
    """
    tables = _layouts()
    if (name := f"table{number}") not in tables:
        raise BenchError(f"there is no published table {number}; there is {numbers()[0]} to {numbers()[-1]}")
    data = _tuples(tables[name])
    deviations = tuple(Deviation(**_tuples(entry)) for entry in data.pop("deviations"))
    return Layout(number=number, labels=dict(data.pop("rows")), deviations=deviations, **data)


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def first_of(dataset: str) -> Layout | None:
    """The first published table of a data set, whose rows stand for its methods; None if there is none."""
    return next((layout for layout in map(load, numbers()) if layout.dataset == dataset), None)


def of_dataset(name: str) -> Layout:
    """The layout of the first published table of a data set; that of Table 4 for a data set that has none."""
    return first_of(name) or load(4)


@cache
def values(number: int) -> tuple[Published, ...]:
    """Every value of a published table, in the order of reading.

    Raises:
        BenchError: no such table.
    """
    load(number)
    with (published_folder() / f"table{number}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(Published(**row) for row in csv.DictReader(file))
