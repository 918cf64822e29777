"""The paper's tables, rebuilt from what the store holds: imported logs or our own runs.

Source of the layouts and of the printed numbers: SmoothMix (Jeong et al., NeurIPS 2021), Tables 4 to 11.

printed.py   what such a table is
build.py     from a store to a table
document.py  what is printed of it
"""

from leaderboard.paper.build import build
from leaderboard.paper.document import document
from leaderboard.paper.printed import RULES, Compat, Entry, PaperTable, marks, unexplained

__all__ = ["RULES", "Compat", "Entry", "PaperTable", "build", "document", "marks", "unexplained"]
