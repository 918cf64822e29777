"""Tables for a terminal: as wide as it is."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from leaderboard.aggregate import Group
from leaderboard.tables.captions import TIE, clean, details, headline, legend, letters_of, sigma_text
from leaderboard.tables.cells import Cell, cells

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

HARD_SPACE = "\N{BRAILLE PATTERN BLANK}"  # rich strips real spaces at the end of a cell
NAME_WIDTH = 26


def terminal(groups: Sequence[Group], width: int, color: bool) -> str:
    """All groups; `render` says what the arguments are."""
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
        paragraphs = [details(group), legend(group, *signs), *group.notes, *(f"({c}) {note}" for note, c in letters_of(group).items())]
        if number:
            file.write("\n")
        console(width).print(Text(headline(group), style="bold"))
        for part, table in enumerate(_fitting(group, color, lambda table: wide(table) <= width)):
            if part:
                file.write("\n")
            console(max(width, wide(table))).print(table)
        for paragraph in filter(None, paragraphs):
            console(width).print(Text(clean(paragraph), style="dim"))
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

    letters = letters_of(group)
    grids = [cells(group, section) for section in group.sections]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("sigma", no_wrap=True)
    table.add_column("row", no_wrap=True)
    if group.show_trust:
        table.add_column("status", no_wrap=True)
    pads = []
    for number, metric in enumerate(group.metrics):
        pads.append(max(len(TIE * row[number].tied if color else _signs(row[number])) for grid in grids for row in grid))
        table.add_column(metric.heading + HARD_SPACE * pads[-1], justify="right", no_wrap=True)
    for section, grid in zip(group.sections, grids, strict=True):
        for number, (row, shown) in enumerate(zip(section.rows, grid, strict=True)):
            name = Text((_fold(row.label) if fold else clean(row.label)) + "".join(f" ({letters[note]})" for note in row.notes))
            numbers = [_rich_cell(cell, color, stacked, pad) for cell, pad in zip(shown, pads, strict=True)]
            trust = [Text(row.trust)] if group.show_trust else []
            end = number == len(section.rows) - 1
            table.add_row(sigma_text(section.sigma) if number == 0 else "", name, *trust, *numbers, end_section=end)
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
    for piece in re.split(r"(?<=,)|(?=\[)", clean(label)):
        if lines[-1] and len(lines[-1] + piece) > NAME_WIDTH:
            lines.append(" ")
        lines[-1] += piece
    return "\n".join(lines)


def _signs(cell: Cell) -> str:
    return "+" * cell.improves + "*" * cell.best + TIE * cell.tied
