"""What is known of the data sets that published logs are of."""

from __future__ import annotations

from functools import cache as kept

from bench.datasets import DATASETS
from bench.errors import BenchError, nearest
from bench.logs.logmap import load_map


@kept
def sizes(dataset: str) -> tuple[int, int]:
    """Classes and test images of a data set: one of the suite's, or one that the map of published logs knows.

    Raises:
        BenchError: neither knows it.
    """
    if dataset in DATASETS:
        return DATASETS[dataset].classes, DATASETS[dataset].test_size
    known = load_map().sizes
    if dataset not in known:
        raise BenchError(f"unknown data set {dataset!r}{nearest(dataset, known)}")
    return known[dataset]
