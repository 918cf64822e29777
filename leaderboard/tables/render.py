"""One call for every format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.errors import BenchError, nearest
from leaderboard.aggregate import Group
from leaderboard.tables.data import as_csv, as_json
from leaderboard.tables.markup import latex, markdown
from leaderboard.tables.terminal import terminal


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
        "terminal": lambda: terminal(groups, width, color),
        "markdown": lambda: "\n".join(markdown(group) for group in groups),
        "latex": lambda: "% needs \\usepackage{booktabs}\n" + "\n".join(latex(group, n) for n, group in enumerate(groups, start=1)),
        "csv": lambda: as_csv(groups),
        "json": lambda: as_json(groups),
    }
    if format not in formats:
        raise BenchError(f"unknown table format {format!r}{nearest(format, formats)}")
    if not groups:
        raise BenchError("there is nothing to show: no run fits")
    return formats[format]()
