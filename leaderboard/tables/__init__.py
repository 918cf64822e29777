"""Comparable groups as tables: for a terminal, in Markdown, LaTeX, CSV and JSON.

Every format shows the same cells. A row of which any seed is unfinished shows how far it is, and no mean.

cells.py     what stands in the places of a table
captions.py  the words around it
terminal.py, markup.py, data.py  the formats
render.py    one call for all of them
"""

from leaderboard.tables.captions import caption, conditions, headline
from leaderboard.tables.cells import Cell, cells
from leaderboard.tables.markup import escape_latex
from leaderboard.tables.render import render

__all__ = ["Cell", "caption", "cells", "conditions", "escape_latex", "headline", "render"]
