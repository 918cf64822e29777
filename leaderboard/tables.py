"""Comparable groups as tables: for a terminal, in Markdown, LaTeX, CSV and JSON.

Every format shows the same cells. A row of which any seed is unfinished shows how far it is, and no mean.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, nearest
from leaderboard.aggregate import Group, Row, Section
from leaderboard.layouts import ACR

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

EMPTY = "-"
HARD_SPACE = "\N{BRAILLE PATTERN BLANK}"  # rich strips real spaces at the end of a cell
NAME_WIDTH = 26
RULE = "correct and radius > r, exact radii"


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        mean, std: as printed; std is empty where there is none.
        improves: the mean is larger than the baseline's, exactly and as printed.
        best: no other row of the section prints a larger mean, and the mean is not 0.
    """

    mean: str
    std: str = ""
    improves: bool = False
    best: bool = False


def render(groups: Sequence[Group], format: str, *, width: int = 120, color: bool = False) -> str:
    """All groups in one format, ending in a line end.

    Args:
        format: terminal, markdown, latex, csv or json.
        width: characters per line of the terminal; digits are never cut to fit it.
        color: whether the terminal shows bold and underlined; without it, signs stand for both.

    Raises:
        BenchError: an unknown format, or no group.
    """
    formats: Mapping[str, Callable[[], str]] = {
        "terminal": lambda: _terminal(groups, width, color),
        "markdown": lambda: "\n".join(_markdown(group) for group in groups),
        "latex": lambda: "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(group) for group in groups),
        "csv": lambda: _csv(groups),
        "json": lambda: _json(groups),
    }
    if format not in formats:
        raise BenchError(f"unknown table format {format!r}{nearest(format, formats)}")
    if not groups:
        raise BenchError("there is nothing to show: no run fits")
    return formats[format]()


def cells(group: Group, section: Section) -> list[list[Cell]]:
    """The cells of a section, one list per row, in the order of `group.metrics`."""
    columns = [_column(section.rows, metric, group.baseline) for metric in group.metrics]
    return [[column[number] for column in columns] for number in range(len(section.rows))]


def _column(rows: Sequence[Row], metric: str, baseline: str) -> list[Cell]:
    decimals = 4 if metric == ACR else 2
    printed = {n: f"{row.stats[metric].mean:.{decimals}f}" for n, row in enumerate(rows) if row.stats}
    # One row alone is not the best of anything.
    best = max(map(float, printed.values())) if len(printed) > 1 else 0.0
    base = next((n for n, row in enumerate(rows) if row.label == baseline and n in printed), None)
    column = []
    for n, row in enumerate(rows):
        if n not in printed:
            column.append(Cell(row.status if metric == ACR else EMPTY))
            continue
        stat = row.stats[metric]
        improves = base is not None and stat.mean > rows[base].stats[metric].mean and printed[n] != printed[base]
        std = "" if stat.std is None else f"{stat.std:.{decimals}f}"
        column.append(Cell(printed[n], std, improves, best > 0 and float(printed[n]) == best))
    return column


def headline(group: Group) -> str:
    """What the table is about, in one line: data, protocol and what was changed of it, recipe, network, seeds."""
    changes = [f"{name}={value}" for name, value in _changes(group).items()]
    protocol = f"{group.protocol} ({', '.join(changes)})" if changes else group.protocol
    seeds = f"seed {group.seeds[0]}" if len(group.seeds) == 1 else f"{len(group.seeds)} seeds ({_spans(group.seeds)})"
    return _clean(f"{group.dataset}, protocol {protocol}, recipe {group.recipe}, network {group.train['arch']}, {seeds}")


def details(group: Group) -> str:
    """How the numbers came about and what they mean."""
    train, certify = group.train, group.certify
    epochs = f"{train['epochs']} epoch{'s' if train['epochs'] != 1 else ''}"
    text = (
        f"Training: {epochs}, images {train['images']}. "
        f"Certification: n0 = {certify.n0:,}, n = {certify.n:,}, alpha = {group.alpha:g}, {certify.rule} bound, "
        f"{group.images:,} of {group.test_size:,} test images ({certify.images}), sampling seed {certify.seed}. "
        f"ACR: average certified radius over all images. Columns r: certified accuracy at r in % ({RULE})."
    )
    if any(stat.std is not None for section in group.sections for row in section.rows for stat in row.stats.values()):
        text += " ±: sample standard deviation over the seeds."
    return _clean(text)


def legend(group: Group, bold: str = "Bold", underlined: str = "Underlined") -> str:
    """What the marks mean, empty if there are none."""
    shown = [cell for section in group.sections for row in cells(group, section) for cell in row]
    sentences = []
    if any(cell.improves for cell in shown):
        sentences.append(f"{bold}: better than {group.baseline} at the same sigma.")
    if any(cell.best for cell in shown):
        sentences.append(f"{underlined}: best of the sigma and column.")
    return " ".join(sentences)


def caption(group: Group) -> str:
    """The whole caption as plain text."""
    return " ".join(filter(None, [f"{headline(group)}.", details(group), legend(group)]))


def _changes(group: Group) -> dict[str, Any]:
    return {**group.overrides, **{f"certify.{name}": value for name, value in group.certify.changes.items()}}


def _spans(numbers: Sequence[int]) -> str:
    """`0-4, 7` for 0, 1, 2, 3, 4, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 2 else ", ".join(map(str, span)) for span in spans)


def _clean(text: str) -> str:
    """One line without control characters: a name must not move the cursor or end a row."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _letters(group: Group) -> dict[str, str]:
    """Footnote -> its letter: a, b, ..., z, aa, ab, ..."""

    def letter(number: int) -> str:
        return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)

    return {note: letter(number) for number, note in enumerate(group.footnotes)}


# ---- terminal


def _terminal(groups: Sequence[Group], width: int, color: bool) -> str:
    from rich.console import Console
    from rich.text import Text

    file = io.StringIO()

    def console(width: int) -> Console:
        return Console(
            file=file,
            width=width,
            force_terminal=color,
            color_system="standard" if color else None,
            legacy_windows=False,
            highlight=False,
            _environ={},
        )

    for number, group in enumerate(groups):
        # First names fold, then deviations go below their means; after that the table outgrows the width, since rich would cut digits.
        for fold, stacked in ((False, False), (True, False), (True, True)):
            table = _rich_table(group, color, fold=fold, stacked=stacked)
            if (wide := console(10_000).measure(table).maximum) <= width:
                break
        signs = (("Bold", "Underlined") if color else ("+", "*")) if legend(group) else ()
        paragraphs = [details(group), legend(group, *signs), *group.notes, *(f"({c}) {note}" for note, c in _letters(group).items())]
        if number:
            file.write("\n")
        console(width).print(Text(headline(group), style="bold"))
        console(max(width, wide)).print(table)
        for paragraph in filter(None, paragraphs):
            console(width).print(Text(_clean(paragraph), style="dim"))
    lines = file.getvalue().replace(HARD_SPACE, " ").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def _rich_table(group: Group, color: bool, *, fold: bool, stacked: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    letters = _letters(group)
    grids = [cells(group, section) for section in group.sections]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("sigma", no_wrap=True)
    table.add_column("row", no_wrap=True)
    pads = []
    for number, metric in enumerate(group.metrics):
        pads.append(0 if color else max(len(_signs(row[number])) for grid in grids for row in grid))
        table.add_column(_heading(metric) + HARD_SPACE * pads[-1], justify="right", no_wrap=True)
    for section, grid in zip(group.sections, grids, strict=True):
        for number, (row, shown) in enumerate(zip(section.rows, grid, strict=True)):
            name = Text((_fold(row.label) if fold else _clean(row.label)) + "".join(f" ({letters[note]})" for note in row.notes))
            numbers = [_rich_cell(cell, color, stacked, pad) for cell, pad in zip(shown, pads, strict=True)]
            end = number == len(section.rows) - 1
            table.add_row(_sigma(section.sigma) if number == 0 else "", name, *numbers, end_section=end)
    return table


def _rich_cell(cell: Cell, color: bool, stacked: bool, pad: int) -> Text:
    from rich.text import Text

    style = " ".join(word for word, on in (("bold", cell.improves), ("underline", cell.best)) if on and color)
    signs = "" if color else _signs(cell).ljust(pad, HARD_SPACE)
    mean = Text().append(cell.mean.replace(", ", "\n"), style=style)
    if not cell.std:
        return mean.append(signs)
    if stacked:
        return mean.append(f"{signs}\n±{cell.std}{HARD_SPACE * pad}")
    return mean.append(f"±{cell.std}{signs}")


def _fold(label: str) -> str:
    """A long row name over several lines, broken before its bracket and after its commas."""
    lines = [""]
    for piece in re.split(r"(?<=,)|(?=\[)", _clean(label)):
        if lines[-1] and len(lines[-1] + piece) > NAME_WIDTH:
            lines.append(" ")
        lines[-1] += piece
    return "\n".join(lines)


def _signs(cell: Cell) -> str:
    return "+" * cell.improves + "*" * cell.best


def _heading(metric: str) -> str:
    return metric if metric == ACR else f"r={metric}"


def _sigma(sigma: float) -> str:
    return text if float(text := f"{sigma:.2f}") == sigma else repr(sigma)


# ---- Markdown and LaTeX


def _markdown(group: Group) -> str:
    from tabulate import tabulate

    def show(cell: Cell) -> str:
        mean = f"<u>{_md(cell.mean)}</u>" if cell.best else _md(cell.mean)
        mean = f"**{mean}**" if cell.improves else mean
        return f"{mean} ± {cell.std}" if cell.std else mean

    letters = _letters(group)
    lines = _lines(group, show, lambda row: _md(_clean(row.label)) + "".join(f" <sup>{letters[note]}</sup>" for note in row.notes))
    align = ("left", "left", *("right" for _ in group.metrics))
    head = ["sigma", "row", *map(_heading, group.metrics)]
    table = tabulate(lines, head, tablefmt="pipe", disable_numparse=True, colalign=align)
    explained = legend(group).replace("Bold", "**Bold**").replace("Underlined", "<u>Underlined</u>")
    parts = [f"**{_md(headline(group))}**", table, f"{_md(details(group))} {explained}".strip()]
    parts += [_md(_clean(note)) for note in group.notes]
    parts += [f"<sup>{c}</sup> {_md(_clean(note))}" for note, c in letters.items()]
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~$#" else c for c in escaped)


def _latex(group: Group) -> str:
    def show(cell: Cell) -> str:
        mean = rf"\textbf{{{escape_latex(cell.mean)}}}" if cell.improves else escape_latex(cell.mean)
        mean = rf"\underline{{{mean}}}" if cell.best else mean
        return rf"{mean} $\pm$ {cell.std}" if cell.std else mean

    letters = _letters(group)
    lines = _lines(
        group, show, lambda row: escape_latex(row.label) + "".join(rf"\textsuperscript{{{letters[note]}}}" for note in row.notes)
    )
    rows = [" & ".join(line) + r" \\" for line in lines]
    ends = [len(section.rows) for section in group.sections]
    body = []
    for length in ends:
        body += [r"\midrule", *rows[:length]]
        rows = rows[length:]
    notes = [escape_latex(note) for note in group.notes] + [rf"\textsuperscript{{{c}}} {escape_latex(note)}" for note, c in letters.items()]
    return "\n".join(
        [
            r"\begin{table}[ht]",
            r"\centering",
            rf"\caption{{{escape_latex(caption(group))}}}",
            r"\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{ll{'r' * len(group.metrics)}}}",
            r"\toprule",
            " & ".join([r"$\sigma$", "row", *(escape_latex(_heading(metric)) for metric in group.metrics)]) + r" \\",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip {note}" for note in notes),
            r"\end{table}",
            "",
        ]
    )


_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "ε": r"$\varepsilon$",
    "η": r"$\eta$",
    "∞": r"$\infty$",
    **{c: f"\\{c}" for c in "$&#%_"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is, without control characters."""
    # pdflatex stops at characters that its fonts lack, so those outside ASCII are spelled out.
    return "".join(_TEX.get(c, c if c.isascii() else f"U+{ord(c):04X}") for c in _clean(text))


def _lines(group: Group, show: Callable[[Cell], str], name: Callable[[Row], str]) -> list[list[str]]:
    """One list of texts per row: sigma (in the first row of its section only), name, metrics."""
    return [
        ["" if number else _sigma(section.sigma), name(row), *map(show, shown)]
        for section in group.sections
        for number, (row, shown) in enumerate(zip(section.rows, cells(group, section), strict=True))
    ]


# ---- CSV and JSON: full precision

CSV_FIELDS = (
    *("dataset", "protocol", "changes", "recipe", "arch", "n0", "n", "images", "image_count", "certify_seed", "bound", "alpha"),
    *("sigma", "row", "metric", "seeds", "seeds_done", "mean", "std", "state", "notes"),
)


def _csv(groups: Iterable[Group]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for group in groups:
        certify = group.certify
        changes = ";".join(f"{name}={value}" for name, value in _changes(group).items())
        fields = [group.dataset, group.protocol, changes, group.recipe, group.train["arch"], certify.n0, certify.n, certify.images]
        fields += [group.images, certify.seed, certify.rule, group.alpha]
        for section in group.sections:
            for row in section.rows:
                done = sum(seed.state == "done" for seed in row.seeds)
                seeds = " ".join(str(seed.seed) for seed in row.seeds)
                notes = "; ".join([*group.notes, *row.notes])
                for metric in (*group.metrics, "abstention"):
                    stat = row.stats.get(metric)
                    numbers = (stat.mean, stat.std) if stat else (None, None)
                    line = [*fields, section.sigma, row.label, metric, seeds, done, *numbers, row.status or "done", notes]
                    writer.writerow([_field(value) for value in line])
    return file.getvalue()


def _field(value: object) -> str:
    if isinstance(value, str):
        text = _clean(value)
        # A spreadsheet would run such a text as a formula.
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return "" if value is None else repr(value)


def _json(groups: Iterable[Group]) -> str:
    """Accuracies and abstention in %, ACR in pixels of [0, 1]."""
    data = {"schema": 1, "groups": [_group(group) for group in groups]}
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _group(group: Group) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(group) if field.name not in ("sections", "notes", "certify")]
    return {
        "caption": caption(group),
        **{name: getattr(group, name) for name in names},
        "certify": dataclasses.asdict(group.certify),
        "rule": {"bound": group.certify.rule, "accuracy": RULE},
        "sections": [
            {
                "sigma": section.sigma,
                "rows": [_row(row, shown, group) for row, shown in zip(section.rows, cells(group, section), strict=True)],
            }
            for section in group.sections
        ],
        "notes": group.notes,
        "footnotes": group.footnotes,
    }


def _row(row: Row, shown: Sequence[Cell], group: Group) -> dict[str, Any]:
    return {
        "row": row.name,
        "label": row.label,
        "method": row.method,
        "status": row.status or "done",
        "metrics": {name: dataclasses.asdict(stat) for name, stat in row.stats.items()},
        "improves": [metric for metric, cell in zip(group.metrics, shown, strict=True) if cell.improves],
        "best": [metric for metric, cell in zip(group.metrics, shown, strict=True) if cell.best],
        "seeds": [dataclasses.asdict(seed) for seed in row.seeds],
        "notes": row.notes,
    }
