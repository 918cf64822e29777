"""What every process that the suite starts, here or by a scheduler, has in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import bench


def search_path() -> str:
    """PYTHONPATH with which a process finds the suite, also where it is a checkout that is not installed."""
    return os.pathsep.join(filter(None, [str(Path(bench.__file__).parent.parent), os.environ.get("PYTHONPATH")]))


def take_input() -> IO[bytes]:
    """Standard input, kept from a method that reads its own: that finds it empty."""
    requests = os.fdopen(os.dup(0), "rb")
    with open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    return requests
