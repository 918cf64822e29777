"""Metrics: what stands in the columns of a table.

outcomes.py   the evidence of one training
metric.py     what a metric is, the registry, and words into columns
known.py      the metrics of the suite, one function each
"""

from leaderboard.metrics import known
from leaderboard.metrics.known import ACR, abstention_rate, average_certified_radius, certified_accuracy
from leaderboard.metrics.metric import METRICS, Metric, columns_of, defined_in, metric
from leaderboard.metrics.outcomes import Cost, Outcomes, outcomes

METRICS.update(defined_in(known))
DEFAULT = (ACR, "accuracy")

__all__ = [
    "ACR",
    "DEFAULT",
    "METRICS",
    "Cost",
    "Metric",
    "Outcomes",
    "abstention_rate",
    "average_certified_radius",
    "certified_accuracy",
    "columns_of",
    "defined_in",
    "metric",
    "outcomes",
]
