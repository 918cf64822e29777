"""Lists and paragraphs in a terminal of any width: no word is ever broken or cut."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence

GAP = 2
NARROW = 16
"""Characters below which a column of words is not wrapped, unless it is narrower by itself."""


def paragraph(text: str, width: int) -> str:
    """A text in lines of at most `width` characters, but for words that are longer."""
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False) if len(line) > width else line
        for line in text.split("\n")
    )


def listed(rows: Sequence[Mapping[str, str]], width: int) -> str:
    """Rows under the names of the first, in lines of at most `width` characters, but for words that are longer.

    Where they do not fit as they are, what is the same in all rows is said once above them; then words are wrapped; then columns stand in
    several blocks, each with the first column.
    """
    names = list(rows[0])
    cells = [names, *([row[name] for name in names] for row in rows)]
    if sum(_widths(cells)) + GAP * (len(names) - 1) <= width:
        return _block(cells, _widths(cells))
    above = ""
    same = [n for n in range(1, len(names)) if len(rows) > 1 and len({line[n] for line in cells[1:]}) == 1]
    if same:
        told = ", ".join(f"{names[n]} {cells[1][n]}" for n in same if cells[1][n])
        above = paragraph(f"in all rows: {told}", width) + "\n" if told else ""
        cells = [[text for n, text in enumerate(line) if n not in same] for line in cells]
    least = [min(natural, max(NARROW, word)) for natural, word in zip(_widths(cells), _widths(cells, _longest_word), strict=True)]
    blocks = []
    for chosen in in_blocks(range(len(least)), 1, lambda some: sum(least[n] + GAP for n in some) - GAP <= width):
        part = [[line[n] for n in chosen] for line in cells]
        blocks.append(_block(part, _shrunk(_widths(part), [least[n] for n in chosen], width)))
    return above + "\n\n".join(blocks)


def in_blocks(columns: Sequence[int], repeated: int, fits: Callable[[Sequence[int]], bool]) -> list[list[int]]:
    """Columns in blocks that fit, each with the first `repeated` columns and at least one more.

    Args:
        fits: whether such columns do side by side.
    """
    first = list(columns[:repeated])
    blocks = [first]
    for n in columns[repeated:]:
        if len(blocks[-1]) > repeated and not fits([*blocks[-1], n]):
            blocks.append(first)
        blocks[-1] = [*blocks[-1], n]
    return blocks


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _widths(cells: Sequence[Sequence[str]], of: Callable[[str], int] = len) -> list[int]:
    return [max(map(of, column)) for column in zip(*cells, strict=True)]


def _shrunk(widths: list[int], least: Sequence[int], width: int) -> list[int]:
    """The widest columns made narrower until all fit, or are as narrow as they can be."""
    over = sum(widths) + GAP * (len(widths) - 1) - width
    while over > 0 and (able := [n for n, size in enumerate(widths) if size > least[n]]):
        widths[max(able, key=lambda n: widths[n])] -= 1
        over -= 1
    return widths


def _block(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    lines = []
    for row in cells:
        parts = [paragraph(text, width).split("\n") for text, width in zip(row, widths, strict=True)]
        for texts in itertools.zip_longest(*parts, fillvalue=""):
            lines += [(" " * GAP).join(map(str.ljust, texts, widths)).rstrip()]
    return "\n".join(lines)
