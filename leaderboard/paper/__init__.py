"""The paper's tables, rebuilt from what the store holds: imported logs or our own runs.

Source of the layouts and of the printed numbers: SmoothMix (Jeong et al., NeurIPS 2021), Tables 4 to 11.

printed.py     what such a table is
build.py       from a store to a table
deviations.py  where the paper's own numbers are known to differ from its logs
render.py      the table as text
"""

from leaderboard.paper.build import build
from leaderboard.paper.deviations import DEVIATIONS, Deviation, unexplained
from leaderboard.paper.printed import RULES, Compat, Entry, PaperTable, marks
from leaderboard.paper.render import render

__all__ = ["DEVIATIONS", "RULES", "Compat", "Deviation", "Entry", "PaperTable", "build", "marks", "render", "unexplained"]
