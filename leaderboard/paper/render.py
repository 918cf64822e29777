"""A table of the paper as text: for a terminal, in Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping

from bench.errors import BenchError, nearest
from leaderboard.paper.deviations import DEVIATIONS, unexplained
from leaderboard.paper.table import RULES, PaperTable, marks
from leaderboard.tables import escape_latex


def render(table: PaperTable, format: str, *, against: bool = False) -> str:
    """The table as text: terminal, markdown, latex, csv or json.

    Args:
        against: a line with the paper's values and one with the differences below each row.

    Raises:
        BenchError: an unknown format.
    """
    formats: Mapping[str, Callable[[], str]] = {
        "terminal": lambda: _grid(table, against, "simple"),
        "markdown": lambda: _grid(table, against, "pipe"),
        "latex": lambda: _latex(table, against),
        "csv": lambda: _csv(table, against),
        "json": lambda: _json(table, against),
    }
    if format not in formats:
        raise BenchError(f"unknown table format {format!r}{nearest(format, formats)}")
    return formats[format]()


def _legend(table: PaperTable, bold: str, best: str) -> list[str]:
    """What the marks mean, nothing where there are none."""
    if not any(any(marks(table, place)) for place in table.entries):
        return []
    return [f"{bold}: better than {table.layout.labels[table.layout.baseline]}, where the paper marks it; {best}: best of the column here."]


def _footnotes(table: PaperTable, against: bool) -> tuple[str, ...]:
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
    notes += [deviation.text for deviation in DEVIATIONS.get(table.layout.number, ())]
    if table.source == "imported" and table.compat == "3sig":
        notes += [f"Not as printed, for no known reason: {place}." for place in unexplained(table)]
    return tuple(notes)


def _lines(table: PaperTable, against: bool, mark: Callable[[str, bool, bool], str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of cells, in the paper's layout; `mark` dresses every text, with whether it is bold and underlined."""
    layout = table.layout

    def plain(text: str) -> str:
        return mark(text, False, False)

    by_sigma = layout.columns == "metrics"
    if by_sigma:
        header = ["sigma", "row", *layout.metrics]
        blocks = [(sigma, [(sigma, metric) for metric in layout.metrics]) for sigma in layout.sigmas]
    else:
        metric = layout.metrics[0]
        header = ["", f"{metric}", *(f"sigma = {sigma}" for sigma in layout.sigmas)]
        blocks = [("", [(sigma, metric) for sigma in layout.sigmas])]
    lines = []
    for title, places in blocks:
        for row, label in layout.labels.items():
            at = [(sigma, row, metric) for sigma, metric in places]
            entries = [table.entries.get(place) for place in at]
            shown = [mark(e.text, *marks(table, place)) if e else "" for place, e in zip(at, entries, strict=True)]
            lines.append([*map(plain, [title if row == layout.rows[0] else "", label]), *shown])
            if against:
                lines.append([*map(plain, ["", "  paper", *(e.paper if e else "" for e in entries)])])
                lines.append([*map(plain, ["", "  difference", *(e.difference if e else "" for e in entries)])])
    return [*map(plain, header)], lines


def _grid(table: PaperTable, against: bool, style: str) -> str:
    from tabulate import tabulate

    def mark(text: str, bold: bool, best: bool) -> str:
        if style == "simple":
            return f"{text}{'+' if bold else ''}{'*' if best else ''}"
        text = f"<u>{text}</u>" if best else text
        return f"**{text}**" if bold else text

    header, lines = _lines(table, against, mark)
    grid = tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=["left", "left", *["right"] * (len(header) - 2)])
    signs = ("+", "*") if style == "simple" else ("**Bold**", "<u>underlined</u>")
    between = "\n" if style == "simple" else "\n\n"  # Markdown makes one paragraph of lines
    return f"{table.caption}\n\n{grid}\n\n{between.join([*_legend(table, *signs), *_footnotes(table, against)])}\n"


def _latex(table: PaperTable, against: bool) -> str:
    def mark(text: str, bold: bool, best: bool) -> str:
        text = escape_latex(text)
        text = rf"\underline{{{text}}}" if best else text
        return rf"\textbf{{{text}}}" if bold else text

    header, lines = _lines(table, against, mark)
    body = [" & ".join(line) + r" \\" for line in [header, *lines]]
    rows = [r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    caption = escape_latex(" ".join([table.caption, *_legend(table, "Bold", "underlined"), *_footnotes(table, against)]))
    columns = "ll" + "r" * (len(header) - 2)
    head = [r"\begin{table}[ht]", r"\centering", rf"\caption{{{caption}}}", r"\footnotesize\setlength{\tabcolsep}{3pt}"]
    parts = [*head, rf"\begin{{tabular}}{{{columns}}}", *rows, r"\end{tabular}", r"\end{table}"]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts) + "\n"


def _csv(table: PaperTable, against: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "sigma", "row", "metric", "runs", "mean", "std", "status", "paper_mean", "paper_std", "rule", "notes"])
    notes = " ".join(_footnotes(table, against))
    for (sigma, row, metric), e in table.entries.items():
        mean = repr(statistics.fmean(e.values)) if e.values else ""
        std = repr(statistics.stdev(e.values)) if len(e.values) > 1 else ""
        writer.writerow(
            [
                table.layout.number,
                sigma,
                row,
                metric,
                len(e.values),
                mean,
                std,
                e.status,
                e.printed.mean,
                e.printed.std,
                RULES[table.compat],
                notes,
            ]
        )
    return text.getvalue()


def _json(table: PaperTable, against: bool) -> str:
    entries = [
        {"sigma": sigma, "row": row, "metric": metric, "values": e.values, "text": e.text, "paper": e.paper, "status": e.status}
        for (sigma, row, metric), e in table.entries.items()
    ]
    data = {
        "table": table.layout.number,
        "caption": table.caption,
        "notes": _footnotes(table, against),
        "source": table.source,
        "entries": entries,
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
