"""In this process, one cell after the other: nothing to start, but a crash takes the rest of the matrix with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.errors import BenchError
from bench.executors import Watch
from bench.matrix.cells import Options, attempt, set_aside
from bench.matrix.plan import Cell
from bench.matrix.task import Outcome, Task
from bench.store.runs import Store
from bench.system.guards import kind_of
from bench.system.signals import StopSignals


class Here:
    """Carries tasks out in order.

    Args:
        cells: the cells of the tasks by `Cell.id`, so that no method is loaded twice.
    """

    def __init__(self, cells: Mapping[tuple[str, str], Cell], options: Options) -> None:
        self.cells, self.options = cells, options

    def outcomes(self, tasks: Sequence[Task], watch: Watch, stop: StopSignals) -> Iterator[tuple[int, Outcome]]:
        """As `bench.executors.Executor`."""
        for number, task in enumerate(tasks):
            stop.check()
            watch.begin(number)
            yield number, carry_out(self.cells[task.spec.key, task.certify.key], task, self.options, Numbered(watch, number), stop)


class Numbered:
    """A watch as the report of one of its tasks."""

    def __init__(self, watch: Watch, number: int) -> None:
        self.watch, self.number, self.say = watch, number, watch.say

    def progress(self, phase: str, done: int, total: int) -> None:
        self.watch.progress(self.number, phase, done, total)


def carry_out(cell: Cell, task: Task, options: Options, report: Numbered, stop: StopSignals) -> Outcome:
    """Sets an old folder aside if the task says so, and attempts the cell.

    Raises:
        Interrupted: a signal came.
    """
    store = Store(task.results)
    try:
        if task.anew and (moved := set_aside(cell, store)):
            report.say(f"moved the old run to {moved}")
    except (BenchError, OSError) as error:
        report.say(f"{cell.name}: failed: {error}")
        return Outcome(state="failed", kind=kind_of(error), reason=str(error))
    return attempt(cell, store, options, report, stop)
