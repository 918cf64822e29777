"""What a cell needs of a cluster: `--resources cpus=4,gpus=0.5`, for all methods or for those that a pattern names."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bench.errors import UsageError, nearest
from bench.executors.local import thread_limit
from bench.spec import names_row, replace_checked


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the scheduler of a cluster is asked for, per job.

    Attributes:
        gpus: a share of one for small networks, or whole ones. memory: in GB; 0: what the cluster gives unasked.
        minutes: limit of a Slurm job, which is requeued when it ends and continues. partition, account, qos, constraint: Slurm's words.
    """

    cpus: int = 1
    gpus: float = 0.0
    memory: float = 0.0
    minutes: int = 240
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ValueError(f"cpus={self.cpus} must be at least 1")
        if not (0 <= self.gpus < math.inf) or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus={self.gpus:g} must be a share between 0 and 1, or a whole number")
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory={self.memory:g} must be a number of GB from 0 up")
        if self.minutes < 1:
            raise ValueError(f"minutes={self.minutes} must be at least 1")


def resources_for(row: str, words: Sequence[str], default: Resources) -> Resources:
    """What a row of the table needs.

    Args:
        words: `cpus=4,gpus=0.5`, or `PATTERN:cpus=4` for rows whose name it matches; later ones add to earlier ones.

    Raises:
        UsageError: an unknown or impossible resource, one sentence each.
    """
    found = default
    for word in words:
        rest = word.rpartition(":")[2]
        changes = dict(part.partition("=")[::2] for part in rest.split(","))
        if not all(name and value for name, value in changes.items()):
            raise UsageError([f"--resources {word} is not of the form cpus=4,gpus=0.5 or METHOD:cpus=4,gpus=0.5"])
        changed, problems = replace_checked(found, changes, "--resources")
        if problems:
            raise UsageError(problems)
        if fits(row, word):
            found = changed
    return found


def fits(row: str, word: str) -> bool:
    """Whether `--resources` WORD speaks of a row: it names none, or means the row as --method does."""
    pattern, colon, _ = word.rpartition(":")
    return not colon or names_row(pattern, row, method_of(row))


def method_of(row: str) -> str:
    """The method's part of a row's name."""
    return row.partition(".")[0].partition("[")[0]


def unfit(rows: Collection[str], words: Sequence[str]) -> list[str]:
    """A sentence for each word of `--resources` that speaks of no row."""
    known = {*rows, *map(method_of, rows)}
    wrong = [word for word in words if not any(fits(row, word) for row in rows)]
    return [f"--resources {word} fits none of these cells{nearest(word.rpartition(':')[0], known)}" for word in wrong]


def threads_of(resources: Resources, slots: int = 1) -> int:
    """Threads of each of the cells that share a job: decided here and not on the machine of the job, since counts may depend on it."""
    limit = thread_limit()
    each = max(1, resources.cpus // slots)
    return min(each, limit) if limit else each


def whole_gpus(resources: Resources) -> int:
    """For a scheduler that knows no shares of GPUs.

    Raises:
        UsageError: a share.
    """
    if resources.gpus != int(resources.gpus):
        raise UsageError(
            [f"--resources gpus={resources.gpus:g}: Slurm gives whole GPUs; let cells share one with --cells-per-job and --slots-per-gpu"]
        )
    return int(resources.gpus)
