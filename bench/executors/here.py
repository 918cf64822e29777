"""In this process, one cell after the other: nothing to start, but a crash takes the rest of the matrix with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bench.errors import BenchError
from bench.executors import Watch
from bench.matrix.cells import run_cell
from bench.matrix.plan import Cell
from bench.matrix.task import Outcome, Task, pick_device
from bench.store.runs import Store
from bench.store.work import set_aside
from bench.system.guards import kind_of
from bench.system.signals import StopSignals


class Here:
    """Carries tasks out in order.

    Args:
        cells: the cells of the tasks by `Cell.id`, so that no method is loaded twice.
    """

    def __init__(self, cells: Mapping[tuple[str, str], Cell]) -> None:
        self.cells = cells

    def outcomes(self, tasks: Sequence[Task], watch: Watch, stop: StopSignals) -> Iterator[tuple[int, Outcome]]:
        """As `bench.executors.Executor`."""
        for number, task in enumerate(tasks):
            stop.check()
            watch.begin(number)
            yield number, carry_out(task, Numbered(watch, number), stop, self.cells[task.spec.key, task.certify.key])


class Numbered:
    """A watch as the report of one of its tasks."""

    def __init__(self, watch: Watch, number: int) -> None:
        self.watch, self.number, self.say = watch, number, watch.say

    def progress(self, phase: str, done: int, total: int, note: str = "") -> None:
        self.watch.progress(self.number, phase, done, total, note)


def carry_out(task: Task, report: Numbered, stop: StopSignals, cell: Cell | None = None) -> Outcome:
    """Carries a task out in this process; what a worker of any executor calls.

    Args:
        cell: of the task; loaded if None.

    Raises:
        Interrupted: a signal came; what was finished is on disk.
    """
    store = Store(task.results)
    try:
        pick_device(task.options.device.type)
        cell = cell or task.cell()
        if task.anew and (moved := set_aside(store.run(cell.spec), store)):
            report.say(f"moved the old run to {moved}")
    except (BenchError, OSError) as error:
        report.say(f"{task.name}: failed: {error}")
        return Outcome(state="failed", kind=kind_of(error), reason=str(error))
    return run_cell(cell, store, task.options, report, stop)
