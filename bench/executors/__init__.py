"""Who carries cells out: the interface that the conductor of a matrix and every executor share.

A task says in plain words what a cell is, so that another process or another machine can act on it; plug-ins travel as paths.
An executor takes tasks in order, as places become free, and yields an outcome for each. A new one needs `outcomes` and, where its
cells run, `bench.executors.here.carry_out`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from bench.matrix.task import Outcome, Task

if TYPE_CHECKING:
    from bench.system.signals import StopSignals


class Watch(Protocol):
    """Whoever wants to know how tasks go on; `number` is a task's place in the sequence."""

    def begin(self, number: int) -> None:
        """It was handed out."""

    def progress(self, number: int, phase: str, done: int, total: int, note: str = "") -> None:
        """`phase` is training or certifying; counts are steps or images. note: the same in words, if there is more to say."""

    def say(self, text: str) -> None:
        """One line that the user should see."""


class Executor(Protocol):
    """Carries tasks out, in one process or many."""

    def outcomes(self, tasks: Sequence[Task], watch: Watch, stop: StopSignals) -> Iterator[tuple[int, Outcome]]:
        """Each task's place and outcome, as they end.

        Raises:
            Interrupted: a signal came; it was passed on, every process has ended, and what was finished is on disk.
        """
