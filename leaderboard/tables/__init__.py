"""Comparable groups as tables. A row of which any seed is unfinished shows how far it is, and no mean.

captions.py  the words around a table
marks.py     which numbers are marked, and by which test
build.py     from groups to what is printed
"""

from collections.abc import Sequence

from leaderboard import formats
from leaderboard.aggregate import Group
from leaderboard.tables.build import caption, cells, document, records
from leaderboard.tables.captions import conditions, headline, sigma_text
from leaderboard.tables.marks import with_marks

__all__ = ["caption", "cells", "conditions", "document", "headline", "records", "render", "sigma_text", "with_marks"]


def render(groups: Sequence[Group], format: str, *, width: int = 120, color: bool = False) -> str:
    """All groups in one format; see `leaderboard.formats.render`."""
    return formats.render(document(groups), format, width=width, color=color)
