"""Images as tensors: small data sets in memory, large ones decoded by worker processes. Nothing is downloaded here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from bench.data.images import Images
from bench.data.memory import Split
from bench.data.stream import Stream
from bench.datasets import DATASETS, Arrays, DatasetInfo
from bench.datasets.check import Checked, read_checked
from bench.errors import BenchError, nearest

TRIED = 100

__all__ = ["Images", "Split", "Stream", "load", "of"]


@cache
def load(name: str, split: str, data_dir: Path | None = None, *, allow_other: bool = False) -> Images:
    """A split (`train` or `test`) of a data set, checked.

    Args:
        data_dir: the folder to look in; None: those of BENCH_DATA_DIR and the user's cache.
        allow_other: also files that are not the published ones; `Images.differences` says so.

    Raises:
        BenchError: unknown data set, or files that are missing, damaged or do not fit it.
    """
    if name not in DATASETS:
        raise BenchError(f"unknown data set {name!r}{nearest(name, DATASETS)}")
    info = DATASETS[name]
    data = of(info, read_checked(info, split, data_dir, allow_other=allow_other))
    if isinstance(data, Stream):  # of many files some are tried, so that a damaged collection is noticed before a long training
        data.images(torch.linspace(0, len(data) - 1, min(TRIED, len(data))).long())
    return data


def of(info: DatasetInfo, checked: Checked) -> Images:
    """The tensors of what was read."""
    if isinstance(checked.split, Arrays):
        return Split.of(checked.split, checked.differences)
    return Stream.of(checked.split, checked.differences, info.shape)
