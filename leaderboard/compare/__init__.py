"""Is one row better than another? Two kinds of uncertainty, side by side and never pooled.

statistics.py   differences of two rows across seeds and across test images
rows.py         from a store to all differences of a row to others, corrected for their number
logs.py         a run of ours against imported logs, image by image
document.py     what is printed of both
"""

from leaderboard.compare.document import document
from leaderboard.compare.logs import Paired, compare_with_logs
from leaderboard.compare.rows import Report, compare, compare_groups

__all__ = ["Paired", "Report", "compare", "compare_groups", "compare_with_logs", "document"]
