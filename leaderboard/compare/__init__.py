"""Is one row better than another? Two kinds of uncertainty, side by side and never pooled.

statistics.py   differences of two rows across seeds and across test images
rows.py         from a store to all differences of a row to others, corrected for their number
logs.py         a run of ours against imported logs, image by image
document.py     what is printed of both
"""

from leaderboard.compare.document import document
from leaderboard.compare.logs import MetricDifference, Paired, compare_with_logs
from leaderboard.compare.rows import Comparison, Report, compare, mark_ties
from leaderboard.compare.statistics import (
    AccuracyDifference,
    Evidence,
    ImageDifference,
    SeedDifference,
    bootstrap_means,
    compare_accuracy,
    compare_images,
    compare_seeds,
    holm,
    least_p,
    runs_needed,
    separable_from_best,
)

__all__ = [
    "AccuracyDifference",
    "Comparison",
    "Evidence",
    "ImageDifference",
    "MetricDifference",
    "Paired",
    "Report",
    "SeedDifference",
    "bootstrap_means",
    "compare",
    "compare_accuracy",
    "compare_images",
    "compare_seeds",
    "compare_with_logs",
    "document",
    "holm",
    "least_p",
    "mark_ties",
    "runs_needed",
    "separable_from_best",
]
