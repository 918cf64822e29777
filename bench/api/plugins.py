"""Plug-ins from Python, as `--plugin` of the commands takes them."""

from __future__ import annotations

import os
from pathlib import Path

from bench.registry import KINDS, Registry


def use_plugins(*files: str | os.PathLike[str]) -> None:
    """Makes what .py files define known in this process: data sets, networks and metrics by name, and a method's presets to tables.

    To train with a method, give its file to `bench.run(plugins=...)`.

    Raises:
        BenchError: a file that cannot be imported, or whose content is not what it should be. UsageError: one that is no plug-in.
    """
    Registry(tuple(map(Path, files))).use(*KINDS)
