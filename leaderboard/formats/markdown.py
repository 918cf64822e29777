"""Pages in Markdown, with names as text whatever they mean there."""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard.formats.page import EMPTY, Cell, Grid, Mark, Page, clean, marked_up

SIGNS: dict[Mark, str] = {"bold": "**Bold**", "underlined": "<u>Underlined</u>", "beyond": EMPTY}
MARKUP = {c: f"\\{c}" for c in "\\`*_[]|~$#"}
PROSE = str.maketrans({**MARKUP, "<": r"\<", ">": r"\>"})
CAPTION = str.maketrans({**MARKUP, "&": "&amp;", "<": "&lt;", ">": "&gt;"})
HEAD = str.maketrans({"|": r"\|", "<": "&lt;"})


def render(pages: Sequence[Page]) -> str:
    """All pages, one below the other."""
    return "\n".join(map(_page, pages))


def _page(page: Page) -> str:
    escapes = CAPTION if page.label else PROSE
    parts = [f"**{''.join(_cell(cell, escapes) for cell in page.title)}**"]

    def escape(words: str) -> str:
        return clean(words).translate(escapes)

    parts += [_grid(part, escapes) if isinstance(part, Grid) else marked_up(part, SIGNS, escape) for part in page.parts]
    return "\n\n".join(parts) + "\n"


def _grid(grid: Grid, escapes: dict[int, str]) -> str:
    from tabulate import tabulate

    lines = [[_cell(cell, escapes) for cell in line] for line in grid.lines]
    align = ["left"] * grid.words + ["right"] * (len(grid.head) - grid.words)
    return tabulate(lines, [name.translate(HEAD) for name in grid.head], tablefmt="pipe", disable_numparse=True, colalign=align)


def _cell(cell: Cell, escapes: dict[int, str]) -> str:
    if cell.code:
        # In a code span nothing is markup but the bar, which would end the cell.
        return f"`{clean(cell.text).replace('`', chr(39))}`".replace("|", "\\|")
    text = clean(cell.text).translate(escapes)
    text = f"<u>{text}</u>" if cell.underlined else text
    text = f"**{text}**" if cell.bold else text
    return text + (f" ± {cell.std}" if cell.std else "") + "".join(f" <sup>{letter}</sup>" for letter in cell.letters)
