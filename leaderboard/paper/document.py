"""What is printed of a table of the paper."""

from __future__ import annotations

import statistics
from typing import Literal

from leaderboard.formats import Cell, Document, Grid, Page, Text
from leaderboard.formats.values import picked
from leaderboard.paper.printed import RULES, PaperTable, marks, unexplained

FIELDS = ("table", "sigma", "row", "metric", "runs", "mean", "std", "status", "paper_mean", "paper_std", "rule", "notes")


def document(table: PaperTable, *, against: bool = False) -> Document:
    """The table in the paper's layout.

    Args:
        against: a line with the paper's values and one with the differences below each row.
    """
    notes = _notes(table, against)
    shared = {"table": table.layout.number, "rule": RULES[table.compat], "notes": " ".join(notes)}
    lines, entries = [], []
    for (sigma, row, metric), e in table.entries.items():
        place = {"sigma": sigma, "row": row, "metric": metric}
        entries.append(place | picked(e, "values", "text", "paper", "status"))
        found = {"mean": statistics.fmean(e.values) if e.values else None, "std": statistics.stdev(e.values) if len(e.values) > 1 else None}
        printed = {"status": e.status, "paper_mean": e.printed.mean, "paper_std": e.printed.std}
        lines.append(shared | place | {"runs": len(e.values)} | found | printed)
    data = {"table": table.layout.number, "caption": table.caption, "notes": notes, "source": table.source, "entries": entries}
    grid = _grid(table, against)
    legend = []
    if any(cell.bold or cell.underlined for line in grid.lines for cell in line):
        legend.append(Text(legend=_legend(table), about=True))
    texts = (*legend, *(Text(text=note) for note in notes))
    page = Page(title=(Cell(table.caption),), parts=(grid, *texts), label=f"certbench-paper-{table.layout.number}")
    return Document(pages=(page,), fields=FIELDS, lines=lines, data=data)


def _legend(table: PaperTable) -> tuple[tuple[Literal["bold", "underlined"], str], ...]:
    baseline = table.layout.labels[table.layout.baseline]
    return (("bold", f"better than {baseline}, where the paper marks it;"), ("underlined", "best of the column here."))


def _notes(table: PaperTable, against: bool) -> tuple[str, ...]:
    """The notes, with what is known of the paper's own numbers where they are shown or rebuilt."""
    if not against and table.source != "imported":
        return table.notes
    notes = list(table.notes)
    if against and table.apart:
        notes.append(
            f"The paper's numbers are of other test images or samples (here {table.apart}), so differences are not of training alone."
        )
    if table.compat == "exact" and table.layout.radii:
        notes.append("The paper counts radius >= r, radii rounded to 3 significant digits; --compat 3sig compares as it did.")
    notes += [deviation.text for deviation in table.layout.deviations]
    if table.source == "imported" and table.compat == "3sig":
        notes += [f"Not as printed, for no known reason: {place}." for place in unexplained(table)]
    return tuple(notes)


def _grid(table: PaperTable, against: bool) -> Grid:
    layout = table.layout
    if layout.columns == "metrics":
        head = ("sigma", "row", *layout.metrics)
        blocks = [(sigma, [(sigma, metric) for metric in layout.metrics]) for sigma in layout.sigmas]
    else:
        head = ("", layout.metrics[0], *(f"sigma = {sigma}" for sigma in layout.sigmas))
        blocks = [("", [(sigma, layout.metrics[0]) for sigma in layout.sigmas])]
    lines = []
    for title, places in blocks:
        for row, label in layout.labels.items():
            at = [(sigma, row, metric) for sigma, metric in places]
            entries = [table.entries.get(place) for place in at]
            shown = [Cell(e.text, "", *marks(table, place)) if e else Cell("") for place, e in zip(at, entries, strict=True)]
            lines.append((Cell(title if row == layout.rows[0] else ""), Cell(label), *shown))
            if against:
                lines.append((Cell(""), Cell("  paper"), *(Cell(e.paper if e else "") for e in entries)))
                lines.append((Cell(""), Cell("  difference"), *(Cell(e.difference if e else "") for e in entries)))
    return Grid(head=head, lines=tuple(lines), words=2)
