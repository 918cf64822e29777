"""One renderer per format: pages of tables and sentences as text. A new format is a file here and a line in `FORMATS`.

page.py      what is printed, as plain data
terminal.py, markdown.py, latex.py, html.py   pages
values.py    CSV and JSON, in full precision
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from bench.errors import BenchError, nearest
from leaderboard.formats import html, latex, markdown, terminal, values
from leaderboard.formats.page import Cell, Document, Grid, Page, Text, clean

__all__ = ["FORMATS", "Cell", "Document", "Grid", "Page", "Text", "clean", "render"]


class Format(NamedTuple):
    """How a document is written: the ending of such files, and a function of the document, the width and the colour of the terminal."""

    suffix: str
    render: Callable[[Document, int, bool], str]


FORMATS = {
    "terminal": Format(".txt", lambda document, width, color: terminal.render(document.pages, width, color)),
    "markdown": Format(".md", lambda document, *_: markdown.render(document.pages)),
    "latex": Format(".tex", lambda document, *_: latex.render(document.pages)),
    "html": Format(".html", lambda document, *_: html.render(document.pages)),
    "csv": Format(".csv", lambda document, *_: values.as_csv(document.fields, document.lines)),
    "json": Format(".json", lambda document, *_: values.as_json(document.data)),
}


def render(document: Document, format: str, *, width: int = 120, color: bool = False) -> str:
    """A document as text, ending in a line end.

    Args:
        format: one of `FORMATS`. Only csv and json have full precision.
        width: characters per line of the terminal; digits are never cut to fit it.
        color: whether the terminal shows bold and underlined; without it, signs stand for both.

    Raises:
        BenchError: an unknown format.
    """
    if format not in FORMATS:
        raise BenchError(f"unknown table format {format!r}{nearest(format, FORMATS)}")
    return FORMATS[format].render(document, width, color)
