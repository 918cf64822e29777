"""Pages for a terminal, in lines as wide as it is: no word and no number is ever broken."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from leaderboard.formats.columns import in_blocks, paragraph
from leaderboard.formats.page import EMPTY, Cell, Grid, Mark, Page, Text, clean, legend_of

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text as Styled

HARD_SPACE = "\N{BRAILLE PATTERN BLANK}"  # rich strips real spaces at the end of a cell
NAME_WIDTH = 26
SIGNS: dict[Mark, str] = {"bold": "+", "underlined": "*", "beyond": EMPTY}
IN_COLOR: dict[Mark, str] = {"bold": "Bold", "underlined": "Underlined", "beyond": EMPTY}


def render(pages: Sequence[Page], width: int, color: bool) -> str:
    """All pages, one below the other; `leaderboard.formats.render` says what the arguments are."""
    return "\n".join(_fitted(page, width, color) if page.fitted else _plain(page, width) for page in pages)


def _plain(page: Page, width: int) -> str:
    """Blank lines between the parts, but for the notes of a single table."""
    text, last = paragraph("".join(clean(cell.text) for cell in page.title), width), None
    for part in page.parts:
        near = page.label and isinstance(part, Text) and isinstance(last, Text)
        text += "\n" if near else "\n\n"
        text += _grid(part, width) if isinstance(part, Grid) else paragraph(clean(part.text) + legend_of(part, SIGNS), width)
        last = part
    return text + "\n"


def _grid(grid: Grid, width: int) -> str:
    """The table, in several blocks with the same first columns where it is too wide."""
    from tabulate import tabulate

    def table(chosen: Sequence[int], fold: bool) -> str:
        lines = [[f"{_fold(line[n].text) if fold else clean(line[n].text)}{_signs(line[n])}" for n in chosen] for line in grid.lines]
        align = ["left"] * grid.words + ["right"] * (len(chosen) - grid.words)
        return tabulate(lines, [grid.head[n] for n in chosen], tablefmt="simple", disable_numparse=True, colalign=align)

    def fits(chosen: Sequence[int]) -> bool:
        return max(map(len, table(chosen, fold=True).splitlines())) <= width

    every = range(len(grid.head))
    if max(map(len, (whole := table(every, fold=False)).splitlines())) <= width:
        return whole
    shown = [n for n in every if n < grid.words or any(line[n].text != EMPTY for line in grid.lines)]
    text = "\n\n".join(table(chosen, fold=True) for chosen in in_blocks(shown, grid.words, fits))
    empty = ", ".join(grid.head[n] for n in every if n not in shown)
    return f"{text}\n\n{paragraph(f'Not shown, since no row has a value: {empty}.', width)}" if empty else text


def _fitted(page: Page, width: int, color: bool) -> str:
    from rich.console import Console
    from rich.text import Text as Styled

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

    def fits(table: Table) -> bool:
        return wide(table) <= width

    console(width).print(Styled("".join(clean(cell.text) for cell in page.title), style="bold"))
    for part in page.parts:
        if isinstance(part, Grid):
            tables, dropped = _fitting(part, color, fits), []
            if len(tables) > 1 and (dropped := _beyond(part)):
                tables = _fitting(_part(part, [n for n in range(len(part.head)) if n not in dropped]), color, fits)
            for number, table in enumerate(tables):
                file.write("\n" * bool(number))
                console(max(width, wide(table))).print(table)
            if dropped:
                empty = ", ".join(part.head[n] for n in dropped)
                console(width).print(Styled(f"Not shown, since no row can be certified there: {empty}.", style="dim"))
        else:
            letter = f"({part.letter}) " if part.letter else ""
            for paragraph in filter(None, (part.text, legend_of(part, IN_COLOR if color else SIGNS))):
                console(width).print(Styled(letter + clean(paragraph), style="dim"))
    lines = file.getvalue().replace(HARD_SPACE, " ").split("\n")
    return "\n".join(line.rstrip() for line in lines)


def _fitting(grid: Grid, color: bool, fits: Callable[[Table], bool]) -> list[Table]:
    """First names fold, then deviations go below their means, then columns stand in several tables; digits are never cut."""
    for fold, stacked in ((False, False), (True, False), (True, True)):
        if fits(table := _rich_table(grid, color, fold=fold, stacked=stacked)):
            return [table]

    def part(chosen: Sequence[int]) -> Table:
        return _rich_table(_part(grid, chosen), color, fold=True, stacked=True)

    return [part(chosen) for chosen in in_blocks(range(len(grid.head)), grid.words, lambda chosen: fits(part(chosen)))]


def _beyond(grid: Grid) -> list[int]:
    """Columns in which every number is beyond the largest radius."""
    rows = [line for line in grid.lines if not line[grid.words].state]
    return [n for n in range(grid.words, len(grid.head)) if rows and all(line[n].beyond for line in rows)]


def _part(grid: Grid, chosen: Sequence[int]) -> Grid:
    """Some of the columns; the first of the numbers says how far an unfinished row is."""
    first = grid.words
    lines = [
        tuple(line[first] if place == first and line[first].state else line[n] for place, n in enumerate(chosen)) for line in grid.lines
    ]
    return dataclasses.replace(grid, head=tuple(grid.head[n] for n in chosen), lines=tuple(lines))


def _rich_table(grid: Grid, color: bool, *, fold: bool, stacked: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text as Styled

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    pads = [0] * grid.words
    for name in grid.head[: grid.words]:
        table.add_column(name, no_wrap=True)
    for number, name in enumerate(grid.head[grid.words :], start=grid.words):
        pads.append(0 if color else max(len(_signs(line[number])) for line in grid.lines))
        table.add_column(name + HARD_SPACE * pads[-1], justify="right", no_wrap=True)
    ends = [end - 1 for end in itertools.accumulate(grid.blocks)]
    for place, line in enumerate(grid.lines):
        names = [_fold(cell.text) if fold and n == 1 else clean(cell.text) for n, cell in enumerate(line[: grid.words])]
        words = [
            Styled(name + "".join(f" ({c})" for c in cell.letters), style="dim" if cell.grey and color else "")
            for name, cell in zip(names, line, strict=False)
        ]
        numbers = [_rich_cell(cell, color, stacked, pad) for cell, pad in zip(line, pads, strict=True)][grid.words :]
        table.add_row(*words, *numbers, end_section=place in ends)
    return table


def _rich_cell(cell: Cell, color: bool, stacked: bool, pad: int) -> Styled:
    from rich.text import Text as Styled

    style = " ".join(word for word, on in (("bold", cell.bold), ("underline", cell.underlined), ("dim", cell.grey)) if on and color)
    signs = "" if color else _signs(cell).ljust(pad, HARD_SPACE)
    mean = Styled().append(cell.text.replace(", ", "\n"), style=style)
    if not cell.std:
        return mean.append(signs)
    return mean.append(f"{signs}\n±{cell.std}{HARD_SPACE * pad}" if stacked else f"±{cell.std}{signs}")


def _fold(label: str) -> str:
    """A long row name over several lines, broken before its bracket and after its commas."""
    lines = [""]
    for piece in re.split(r"(?<=,)|(?=\[)", clean(label)):
        if lines[-1] and len(lines[-1] + piece) > NAME_WIDTH:
            lines.append(" ")
        lines[-1] += piece
    return "\n".join(lines)


def _signs(cell: Cell) -> str:
    return "+" * cell.bold + "*" * cell.underlined
