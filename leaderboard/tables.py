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
from bench.spec import CertifySpec
from leaderboard.aggregate import Group, Row, Section
from leaderboard.metrics import ACR, Metric

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

EMPTY = "-"
HARD_SPACE = "\N{BRAILLE PATTERN BLANK}"  # rich strips real spaces at the end of a cell
NAME_WIDTH = 26
RULE = "correct and radius > r, {radii}"
TIE = "~"
TIED = "ACR not separable from the best of the sigma (paired bootstrap over test images, Holm's correction, 0.05)."
SAID = ("certify.n0", "certify.n", "certify.images", "certify.seed", "certify.rule")


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
        "latex": lambda: "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(group, n) for n, group in enumerate(groups, start=1)),
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
    ranked = not group.mixed
    columns = [_column(section.rows, metric, group.baseline, first=not n, ranked=ranked) for n, metric in enumerate(group.metrics)]
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


def headline(group: Group) -> str:
    """What the table is about, in one line: data, protocol and what was changed of it, recipe, network, seeds."""
    known = group.conditions
    changes = f" ({known['changes']})" if known.get("changes") else ""
    words = [f"{name} {known[name]}{changes if name == 'protocol' else ''}" for name in ("protocol", "recipe", "network") if name in known]
    source = [known["source"]] if group.source == "imported" and "source" in known else []
    return _clean(", ".join([group.dataset, *source, *words, *_trainings(group)]))


def _trainings(group: Group) -> list[str]:
    """`5 seeds (0-4)`, `5 runs`; nothing where rows differ in it."""
    if group.seeds:
        numbers = [seed for seed in group.seeds if isinstance(seed, int)]
        return [f"seed {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} seeds ({_spans(numbers)})"]
    counts = sorted({len(row.seeds) for section in group.sections for row in section.rows if row.finished})
    if group.mixed or not counts:
        return []
    return ["1 run" if counts == [1] else f"{' or '.join(map(str, counts))} runs"]


def details(group: Group) -> str:
    """How the numbers came about and what they mean."""
    meanings = [metric.meaning for metric in group.metrics if metric.meaning]
    if radii := [metric.heading for metric in group.metrics if metric.heading.startswith("r=")]:
        columns = "Columns r" if len(radii) > 1 else f"Column {radii[0]}"
        meanings.insert(1 if meanings else 0, f"{columns}: certified accuracy at r in % ({rule(group)}).")
    text = " ".join([*conditions(group), *dict.fromkeys(meanings)])
    if any(stat.std is not None for section in group.sections for row in section.rows for stat in row.stats.values()):
        text += f" ±: sample standard deviation over the {'runs' if group.source == 'imported' else 'seeds'}."
    return _clean(text)


def rule(group: Group) -> str:
    """When an image counts as certified at a radius."""
    radii = group.conditions.get("rounding", "as each row says")
    return RULE.format(radii="exact radii" if radii == "exact" else f"radii {radii}")


def conditions(group: Group) -> list[str]:
    """What all rows share of training and certification, in sentences."""
    known = group.conditions
    sentences = []
    if "train.epochs" in known and "train.images" in known:
        epochs = known["train.epochs"]
        sentences.append(f"Training: {epochs} epoch{'s' if epochs != 1 else ''}, images {known['train.images']}.")
    parts = [f"{word} = {known[name]:,}" for name, word in (("certify.n0", "n0"), ("certify.n", "n")) if name in known]
    parts += [f"alpha = {known['alpha']:g}"] if "alpha" in known else []
    parts += [f"{known['certify.rule']} bound"] if "certify.rule" in known else []
    if group.images and "certify.images" in known:
        of = f" of {group.test_size:,}" if group.test_size else ""
        parts.append(f"{group.images:,}{of} test images ({known['certify.images']})")
    parts += [f"sampling seed {known['certify.seed']}"] if "certify.seed" in known else []
    # Whatever else a certification may be told is unusual, and is said where it is not as usual.
    usual = {f"certify.{f.name}": f.default for f in dataclasses.fields(CertifySpec)}
    parts += [
        f"{name.removeprefix('certify.').replace('_', ' ')} {value}"
        for name, value in known.items()
        if name in usual and name not in SAID and value != usual[name]
    ]
    return [*sentences, f"Certification: {', '.join(parts)}."] if parts else sentences


def legend(group: Group, bold: str = "Bold", underlined: str = "Underlined", tie: str = TIE) -> str:
    """What the marks mean, empty if there are none."""
    shown = [cell for section in group.sections for row in cells(group, section) for cell in row]
    sentences = []
    if any(cell.improves for cell in shown):
        sentences.append(f"{bold}: better than {group.baseline} at the same sigma.")
    if any(cell.best for cell in shown):
        sentences.append(f"{underlined}: best of the sigma and column.")
    if any(cell.tied for cell in shown):
        sentences.append(f"{tie}: {TIED}")
    return " ".join(sentences)


def caption(group: Group) -> str:
    """The whole caption as plain text."""
    return " ".join(filter(None, [f"{headline(group)}.", details(group), legend(group)]))


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

    def wide(table: Table) -> int:
        return console(10_000).measure(table).maximum

    for number, group in enumerate(groups):
        signs = (("Bold", "Underlined") if color else ("+", "*")) if legend(group) else ()
        paragraphs = [details(group), legend(group, *signs), *group.notes, *(f"({c}) {note}" for note, c in _letters(group).items())]
        if number:
            file.write("\n")
        console(width).print(Text(headline(group), style="bold"))
        for part, table in enumerate(_fitting(group, color, lambda table: wide(table) <= width)):
            if part:
                file.write("\n")
            console(max(width, wide(table))).print(table)
        for paragraph in filter(None, paragraphs):
            console(width).print(Text(_clean(paragraph), style="dim"))
    lines = file.getvalue().replace(HARD_SPACE, " ").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def _fitting(group: Group, color: bool, fits: Callable[[Table], bool]) -> list[Table]:
    """First names fold, then deviations go below their means, then columns stand in several tables; digits are never cut."""
    for fold, stacked in ((False, False), (True, False), (True, True)):
        if fits(table := _rich_table(group, color, fold=fold, stacked=stacked)):
            return [table]
    tables, rest = [], group.metrics
    while rest:
        # The most columns that fit, at least one, however narrow the terminal.
        for count in range(len(rest), 0, -1):
            part = dataclasses.replace(group, metrics=rest[:count])
            if fits(table := _rich_table(part, color, fold=True, stacked=True)):
                break
        tables.append(table)
        rest = rest[count:]
    return tables


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
        pads.append(max(len(TIE * row[number].tied if color else _signs(row[number])) for grid in grids for row in grid))
        table.add_column(metric.heading + HARD_SPACE * pads[-1], justify="right", no_wrap=True)
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
    signs = (TIE * cell.tied if color else _signs(cell)).ljust(pad, HARD_SPACE)
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
    return "+" * cell.improves + "*" * cell.best + TIE * cell.tied


def _sigma(sigma: float) -> str:
    return text if float(text := f"{sigma:.2f}") == sigma else repr(sigma)


# ---- Markdown and LaTeX


def _markdown(group: Group) -> str:
    from tabulate import tabulate

    def show(cell: Cell) -> str:
        mean = f"<u>{_md(cell.mean)}</u>" if cell.best else _md(cell.mean)
        mean = f"**{mean}**" if cell.improves else mean
        mean += "<sup>~</sup>" if cell.tied else ""
        return f"{mean} ± {cell.std}" if cell.std else mean

    letters = _letters(group)
    lines = _lines(group, show, lambda row: _md(_clean(row.label)) + "".join(f" <sup>{letters[note]}</sup>" for note in row.notes))
    align = ("left", "left", *("right" for _ in group.metrics))
    head = ["sigma", "row", *(metric.heading for metric in group.metrics)]
    table = tabulate(lines, head, tablefmt="pipe", disable_numparse=True, colalign=align)
    explained = legend(group, tie="<sup>~</sup>").replace("Bold", "**Bold**").replace("Underlined", "<u>Underlined</u>")
    parts = [f"**{_md(headline(group))}**", table, f"{_md(details(group))} {explained}".strip()]
    parts += [_md(_clean(note)) for note in group.notes]
    parts += [f"<sup>{c}</sup> {_md(_clean(note))}" for note, c in letters.items()]
    return "\n\n".join(parts) + "\n"


def _md(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~$#" else c for c in escaped)


def _latex(group: Group, number: int) -> str:
    def show(cell: Cell) -> str:
        mean = rf"\textbf{{{escape_latex(cell.mean)}}}" if cell.improves else escape_latex(cell.mean)
        mean = rf"\underline{{{mean}}}" if cell.best else mean
        mean += r"\textsuperscript{\textasciitilde}" if cell.tied else ""
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
            rf"\label{{tab:certbench-{number}}}",
            r"\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{ll{'r' * len(group.metrics)}}}",
            r"\toprule",
            " & ".join([r"$\sigma$", "row", *(escape_latex(metric.heading) for metric in group.metrics)]) + r" \\",
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
    # Two hyphens are a flag such as --mix, not a dash.
    return "".join(_TEX.get(c, c if c.isascii() else f"U+{ord(c):04X}") for c in _clean(text)).replace("--", "-{}-")


def _lines(group: Group, show: Callable[[Cell], str], name: Callable[[Row], str]) -> list[list[str]]:
    """One list of texts per row: sigma (in the first row of its section only), name, metrics."""
    return [
        ["" if number else _sigma(section.sigma), name(row), *map(show, shown)]
        for section in group.sections
        for number, (row, shown) in enumerate(zip(section.rows, cells(group, section), strict=True))
    ]


# ---- CSV and JSON: full precision

CSV_FIELDS = (
    *("dataset", "source", "protocol", "changes", "recipe", "arch", "n0", "n", "images", "image_count", "certify_seed", "bound", "alpha"),
    *("rounding", "sigma", "row", "metric", "seeds", "seeds_done", "mean", "std", "tied", "state", "notes"),
)
CONDITIONS = {
    "source": "source",
    "protocol": "protocol",
    "changes": "changes",
    "recipe": "recipe",
    "arch": "network",
    "n0": "certify.n0",
    "n": "certify.n",
    "images": "certify.images",
    "certify_seed": "certify.seed",
    "bound": "certify.rule",
    "alpha": "alpha",
    "rounding": "rounding",
}


def _csv(groups: Iterable[Group]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for group in groups:
        for section in group.sections:
            for row in section.rows:
                known = {**group.conditions, **row.conditions}
                shared = {
                    **{field: known.get(name) for field, name in CONDITIONS.items()},
                    "dataset": group.dataset,
                    "image_count": row.images,
                    "sigma": section.sigma,
                    "row": row.label,
                    "seeds": " ".join(str(seed.seed) for seed in row.seeds),
                    "seeds_done": sum(seed.state == "done" for seed in row.seeds),
                    "tied": row.tied,
                    "state": row.status or "done",
                    "notes": "; ".join([*group.notes, *row.notes]),
                }
                for metric in group.metrics:
                    stat = row.stats.get(metric.name)
                    numbers = {"metric": metric.name, "mean": stat.mean, "std": stat.std} if stat else {"metric": metric.name}
                    writer.writerow({name: _field(value) for name, value in (shared | numbers).items()})
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
    return {
        "caption": caption(group),
        "dataset": group.dataset,
        "source": group.source,
        "conditions": dict(group.conditions),
        "images": group.images,
        "test_size": group.test_size,
        "seeds": group.seeds,
        "baseline": group.baseline,
        "mixed": group.mixed,
        "metrics": [
            {"name": m.name, "heading": m.heading, "decimals": m.decimals, "better": m.better, "meaning": m.meaning} for m in group.metrics
        ],
        "rule": rule(group),
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
        "improves": [metric.name for metric, cell in zip(group.metrics, shown, strict=True) if cell.improves],
        "tied": row.tied,
        "conditions": dict(row.conditions),
        "best": [metric.name for metric, cell in zip(group.metrics, shown, strict=True) if cell.best],
        "seeds": [{name: getattr(seed, name) for name in ("seed", "state", "done", "key", "reason")} for seed in row.seeds],
        "notes": row.notes,
    }
