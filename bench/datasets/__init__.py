"""Data sets: their facts and the paper's recipe for each, and how their files lie on disk. No torch: tables read this too.

A data set is a file in `bench/datasets/known`, an entry point of group `bench.datasets`, or a .py file; each holds one `DATASET`.
"""

from __future__ import annotations

import importlib
import pkgutil

from bench.datasets import known
from bench.datasets.info import DatasetInfo, facts_of, from_facts, recipe_train
from bench.datasets.source import Arrays, File, Listing, Source

__all__ = ["BUILT_IN", "DATASETS", "Arrays", "DatasetInfo", "File", "Listing", "Source", "facts_of", "from_facts", "recipe_train"]


def _known() -> dict[str, DatasetInfo]:
    modules = [importlib.import_module(f"{known.__name__}.{found.name}") for found in pkgutil.iter_modules(known.__path__)]
    return {module.DATASET.name: module.DATASET for module in modules}


DATASETS: dict[str, DatasetInfo] = _known()
"""By name: those of the suite, and those that the registry has loaded since, each because it was asked for."""

BUILT_IN = frozenset(DATASETS)
