"""From groups of comparable rows to what is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from bench import rules
from bench.errors import BenchError
from bench.evidence.certification_log import largest_radius
from bench.store.imports import Published
from bench.store.subject import Certification
from leaderboard.aggregate import Group, Row, Section
from leaderboard.formats import Cell, Document, Grid, Page, Text
from leaderboard.formats.page import EMPTY, Mark, legend_of
from leaderboard.formats.values import picked
from leaderboard.metrics import ACR, Metric, Outcomes
from leaderboard.tables.captions import details, fewer_seeds, headline, letters_of, rule, sigma_text

WORDS: dict[Mark, str] = {"bold": "Bold", "underlined": "Underlined"}
CONDITIONS = {
    **{name: name for name in ("source", "protocol", "changes", "recipe", "normalisation", "alpha", "rounding")},
    **{name: f"certify.{name}" for name in ("n0", "n", "images")},
    "arch": "network",
    "certify_seed": "certify.seed",
    "bound": "certify.rule",
}
"""Field of a record -> condition of the group."""
CSV_FIELDS = (
    *("dataset", "source", "protocol", "changes", "recipe", "arch", "normalisation", "n0", "n", "images", "image_count", "certify_seed"),
    *("bound", "alpha", "rounding", "sigma", "row", "metric", "seeds", "seeds_done", "drawn", "mean", "std", "tied"),
    *("improves", "best", "state", "status", "keys", "notes"),
)


def document(groups: Sequence[Group]) -> Document:
    """A table for each group. Every format shows the same cells; JSON gives accuracies and abstention in %, ACR in pixels of [0, 1].

    Raises:
        BenchError: no group.
    """
    if not groups:
        raise BenchError("there is nothing to show: no run fits")
    return Document(
        pages=tuple(page(group, number) for number, group in enumerate(groups, start=1)),
        fields=CSV_FIELDS,
        lines=[line for group in groups for line in records(group)],
        data={"schema": 1, "groups": [_data(group) for group in groups]},
    )


def cells(group: Group, section: Section) -> list[list[Cell]]:
    """The cells of a section, one list per row, in the order of `group.metrics`."""

    def ranked(metric: Metric) -> bool:
        return group.ranked and not group.mixed and not (metric.of_radii and group.rule and group.rule.acr != "ranked")

    columns = [_column(section.rows, metric, group.baseline, first=not n, ranked=ranked(metric)) for n, metric in enumerate(group.metrics)]
    return [[column[number] for column in columns] for number in range(len(section.rows))]


def _column(rows: Sequence[Row], metric: Metric, baseline: str, *, first: bool = True, ranked: bool = True) -> list[Cell]:
    """One cell per row; the first column says how far an unfinished row is.

    Bold: where it was tested, an ACR that cannot be told from the best; of ranked rows, better than the baseline, exactly and as printed.
    Underlined: no other row prints better, and it is not 0.
    """
    sign = -1 if metric.better == "less" else 1
    printed = {n: f"{row.stats[metric.name].mean:.{metric.decimals}f}" for n, row in enumerate(rows) if metric.name in row.stats}
    values = [sign * float(text) for n, text in printed.items() if not rows[n].constant]
    # One row alone is not the best of anything, and a column of zeros has no best.
    best = max(values) if len(values) > 1 and any(values) and ranked and metric.better else None
    base = next((n for n, row in enumerate(rows) if row.label == baseline and n in printed), None) if ranked and metric.better else None
    column = []
    for n, row in enumerate(rows):
        if n not in printed:
            column.append(Cell(row.status, state=True) if first and row.status else Cell(EMPTY))
            continue
        stat = row.stats[metric.name]
        better = base is not None and sign * (stat.mean - rows[base].stats[metric.name].mean) > 0 and printed[n] != printed[base]
        beyond = not stat.mean and _beyond(row, metric)
        cell = Cell(EMPTY if beyond else printed[n], beyond=beyond, grey=row.constant)
        if not row.constant and not beyond:
            bold = better or (metric.name == ACR and bool(row.tied))
            std = "" if stat.std is None else f"{stat.std:.{metric.decimals}f}"
            cell = dataclasses.replace(cell, std=std, bold=bold, underlined=best is not None and sign * float(printed[n]) == best)
        column.append(cell)
    return column


def _beyond(row: Row, metric: Metric) -> bool:
    """Whether a column is of certified accuracy at a radius that no image of any training of a row could reach."""
    if metric.heading != f"r={metric.name}" or metric.meaning:  # another metric, whatever it is called
        return False
    return all(float(metric.name) >= _largest(seed.certification, seed.outcomes) for seed in row.seeds if seed.outcomes)


def _largest(certification: Certification | None, found: Outcomes) -> float:
    """The radius of an image whose samples all agree, as the evidence was read; those of the constant classifier all do."""
    if certification is None:
        return float(found.radius.max())
    spec, sigma = certification.spec, certification.subject.sigma
    if isinstance(certification, Published):
        log = certification.subject.spec
        return largest_radius(log.n, log.alpha, sigma)
    return rules.of(spec, found.rule.name if found.rule else None).largest_radius(found.alpha or 0.001, sigma)


def page(group: Group, number: int = 1) -> Page:
    """The table of a group, the number-th of its document."""
    letters = letters_of(group)
    grids = [cells(group, section) for section in group.sections]
    lines = [
        (
            Cell("" if place else sigma_text(section.sigma)),
            Cell(row.label, letters=tuple(letters[note] for note in row.notes), grey=row.constant),
            *(Cell(row.trust, grey=row.constant),) * group.show_trust,
            *shown,
        )
        for section, grid in zip(group.sections, grids, strict=True)
        for place, (row, shown) in enumerate(zip(section.rows, grid, strict=True))
    ]
    grid = Grid(
        head=("sigma", "row", *("status",) * group.show_trust, *(metric.heading for metric in group.metrics)),
        lines=tuple(lines),
        words=2 + group.show_trust,
        blocks=tuple(len(section.rows) for section in group.sections),
    )
    marks: dict[Mark, str] = {
        "bold": group.ties or f"better than {group.baseline} at the same sigma (no test).",
        "underlined": "best of the sigma and column (no test).",
        "beyond": "beyond the largest radius that can be certified at this sigma.",
    }
    used = {mark for mark in marks for line in lines for cell in line if getattr(cell, mark)}
    words = details(group) + f" {group.ties}" * bool(group.ties and "bold" not in used)
    legend = tuple((mark, text) for mark, text in marks.items() if mark in used)
    notes = [Text(text=note) for note in (*fewer_seeds(group), *group.notes)] + [
        Text(text=note, letter=letter) for note, letter in letters.items()
    ]
    about = Text(text=words, legend=legend, about=True)
    return Page(title=(Cell(headline(group)),), parts=(grid, about, *notes), label=f"certbench-{number}", fitted=True)


def caption(group: Group) -> str:
    """The whole caption as plain text."""
    about = next(part for part in page(group).parts if isinstance(part, Text))
    return " ".join(filter(None, [f"{headline(group)}.", about.text, legend_of(about, WORDS)]))


def records(group: Group) -> Iterator[dict[str, Any]]:
    """One record per row and metric at full precision: what CSV and `bench.summary` are made of. A row without a mean has n = 0."""
    for section in group.sections:
        for row, marked in zip(section.rows, _marked(group, section), strict=True):
            known = {**group.conditions, **row.conditions}
            shared = {
                **{field: known.get(name) for field, name in CONDITIONS.items()},
                "dataset": group.dataset,
                "image_count": row.images,
                "sigma": section.sigma,
                "row": row.label,
                "seeds": " ".join(str(seed.seed) for seed in row.seeds),
                "seeds_done": sum(seed.state == "done" for seed in row.seeds),
                **picked(row, "method", "drawn", "tied"),
                "state": row.status or "done",
                "status": row.trust,
                "keys": " ".join(seed.certification.subject.key for seed in row.seeds if seed.certification and seed.outcomes),
                "notes": "; ".join([*group.notes, *row.notes]),
            }
            for metric in group.metrics:
                stat = row.stats.get(metric.name)
                found = {"mean": stat.mean, "std": stat.std, "n_seeds": stat.n} if stat else {"mean": None, "std": None, "n_seeds": 0}
                marks = {mark: None if names is None else metric.name in names for mark, names in marked.items()}
                yield shared | {"metric": metric.name, "heading": metric.heading} | found | marks


def _marks(group: Group) -> str:
    """What the marks say, as `--marks` calls it; `none` for a mixture, in which nothing is marked."""
    return "none" if group.mixed else "paper" if group.ranked else "test" if group.ties else "none"


def _marked(group: Group, section: Section) -> list[dict[str, list[str] | None]]:
    """For each row the names of the metrics that are marked as the paper marks them; None where another mark was asked for."""
    if _marks(group) != "paper":
        return [{"improves": None, "best": None} for _ in section.rows]
    return [
        {
            "improves": [metric.name for metric, cell in zip(group.metrics, shown, strict=True) if cell.bold],
            "best": [metric.name for metric, cell in zip(group.metrics, shown, strict=True) if cell.underlined],
        }
        for shown in cells(group, section)
    ]


def _data(group: Group) -> dict[str, Any]:
    return {
        "caption": caption(group),
        **picked(group, "dataset", "source", "conditions", "images", "test_size", "seeds", "baseline", "mixed"),
        "metrics": [picked(metric, "name", "heading", "decimals", "better", "meaning") for metric in group.metrics],
        "rule": rule(group),
        "sections": [
            {
                "sigma": section.sigma,
                "rows": [_row(row) | marked for row, marked in zip(section.rows, _marked(group, section), strict=True)],
            }
            for section in group.sections
        ],
        **picked(group, "notes", "footnotes", "ties"),
        "marks": _marks(group),
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "row": row.name,
        **picked(row, "label", "method"),
        "state": row.status or "done",
        "status": row.trust,
        "metrics": {name: dataclasses.asdict(stat) for name, stat in row.stats.items()},
        **picked(row, "tied", "constant", "conditions", "drawn"),
        "seeds": [
            picked(seed, "seed", "state", "done", "key", "reason")
            | {"certification": seed.certification.spec.key if seed.certification else None}
            | {"status": str(seed.trust) if seed.trust else None}
            for seed in row.seeds
        ],
        "notes": row.notes,
    }
