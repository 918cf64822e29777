"""Plug-ins from Python, as `--plugin` of the commands takes them."""

from __future__ import annotations

import os
from pathlib import Path

from bench.registry import DATASET, METRIC, NETWORK, Registry


def use_plugins(*files: str | os.PathLike[str]) -> None:
    """Makes the data sets, networks and metrics of .py files known by name in this process. Methods go to `bench.run(plugins=...)`.

    Raises:
        BenchError: a file that cannot be imported, or whose content is not what it should be. UsageError: one that is no plug-in.
    """
    Registry(tuple(map(Path, files))).use(DATASET, NETWORK, METRIC)
