"""What is printed, as plain data: pages of tables and sentences. Every format is made of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Mark = Literal["bold", "underlined", "beyond"]
EMPTY = "-"
"""Stands where there is no number."""


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: words, or a mean as printed. std: its deviation as printed, empty where there is none.
        bold, underlined: a mark, whose meaning the legend says.
        beyond: there is no number, since no image can reach the radius.
        state: the text says how far an unfinished row is. code: it is a name as one types it.
        grey: it belongs to no method; formats without colours show it like the others.
        letters: of its footnotes.
    """

    text: str
    std: str = ""
    bold: bool = False
    underlined: bool = False
    beyond: bool = False
    state: bool = False
    code: bool = False
    grey: bool = False
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table.

    Attributes:
        caption: what it shows, where the title of its page does not say it.
        words: how many of the first columns hold words; the others hold numbers.
        blocks: how many lines each block has, where lines stand in blocks.
    """

    head: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    words: int
    blocks: tuple[int, ...] = ()
    caption: str = ""

    def in_blocks(self, lines: Sequence[str]) -> list[Sequence[str]]:
        """Its lines, as a format writes them, block by block."""
        ends = list(itertools.accumulate(self.blocks or (len(lines),)))
        return [lines[start:end] for start, end in itertools.pairwise([0, *ends])]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph.

    Attributes:
        legend: what marks mean: each format has signs of its own for them.
        letter: of a footnote.
        about: it belongs to the caption of the table above.
    """

    text: str = ""
    legend: tuple[tuple[Mark, str], ...] = ()
    letter: str = ""
    about: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """A titled table with its notes, or a report of several tables.

    Attributes:
        label: by which LaTeX refers to the page's one table; empty for a report.
        fitted: a terminal fits the table to its width.
    """

    title: tuple[Cell, ...]
    parts: tuple[Grid | Text, ...]
    label: str = ""
    fitted: bool = False


@dataclass(frozen=True, kw_only=True)
class Document:
    """All that a command prints.

    Attributes:
        fields: columns of the CSV. lines: its lines, at full precision; what a line has besides the fields is not written.
        data: what JSON holds.
    """

    pages: tuple[Page, ...]
    fields: Sequence[str]
    lines: Sequence[Mapping[str, Any]]
    data: Mapping[str, Any]


def clean(text: str) -> str:
    """One line without control characters: a name must not move the cursor or end a row."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def marked_up(text: Text, signs: Mapping[Mark, str], escape: Callable[[str], str]) -> str:
    """A paragraph in a format that knows <sup>: its letter, its words and what the marks mean."""
    letter = f"<sup>{text.letter}</sup>" if text.letter else ""
    return " ".join(filter(None, [letter, escape(text.text), legend_of(text, signs, escape)]))


def legend_of(text: Text, signs: Mapping[Mark, str], escape: Callable[[str], str] = clean) -> str:
    """What the marks mean, in a format's own signs; nothing of a mark that the format does not show."""
    return " ".join(f"{signs[mark]}: {escape(meaning)}" for mark, meaning in text.legend if mark in signs)
