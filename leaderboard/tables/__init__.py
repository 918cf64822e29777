"""Comparable groups as tables. A row of which any seed is unfinished shows how far it is, and no mean.

captions.py  the words around a table
marks.py     which numbers are marked, and by which test
build.py     from groups to what is printed
"""

import dataclasses
from collections.abc import Sequence

from leaderboard import formats
from leaderboard.aggregate import Group, with_constant
from leaderboard.tables.build import caption, cells, document, records
from leaderboard.tables.captions import conditions, headline, sigma_text
from leaderboard.tables.marks import with_marks

__all__ = ["caption", "cells", "conditions", "document", "headline", "records", "render", "sigma_text", "with_marks"]


def render(
    groups: Sequence[Group],
    format: str,
    *,
    marks: str = "test",
    constant: bool = False,
    status: bool = False,
    width: int = 120,
    color: bool = False,
) -> str:
    """All groups in one format, as `bench table` prints them.

    Args:
        groups: of `collect`.
        format: as of `leaderboard.formats.render`, like `width` and `color`.
        marks: as of `with_marks`.
        constant: whether each section ends with the constant classifier, which is never ranked.
        status: whether a column says what the numbers of each row rest on.

    Raises:
        BenchError: no group; an unknown format or mark; rows of different images; `constant` of a mixture.
    """
    marked = [with_marks(group, marks) for group in groups]
    marked = [with_constant(group) for group in marked] if constant else marked
    marked = [dataclasses.replace(group, show_trust=status) for group in marked]
    return formats.render(document(marked), format, width=width, color=color)
