"""What a store knows of a name that nothing at hand defines."""

from __future__ import annotations

from pathlib import Path

from bench.errors import BenchError
from bench.evidence.sources import came_from
from bench.store.runs import Store


def suggestion(root: Path, kind: str, name: str) -> str:
    """Where a name came from when a store's runs were made, as the end of a sentence; empty if none has it.

    Args:
        kind: method, data set or network.
    """
    if not root.is_dir():
        return ""
    for run in Store(root).runs():
        try:
            if name != {"method": run.spec.method, "data set": run.spec.dataset}.get(kind, run.spec.train.arch):
                continue
            told = came_from(run.environment() or {}, name)
        except BenchError:
            continue
        return told or f"; {root} has runs of it: --plugin names the file that defines it"
    return ""
