"""A process that carries out tasks, one after the other: `python -m bench.executors.worker EVENTS`.

Tasks come as lines on standard input, events leave as lines of JSON on the file descriptor EVENTS; standard output and error are the
method's own. At the end of the input the worker leaves: at once if it is idle or was told to stop before, else as after SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from bench.errors import BenchError, Interrupted
from bench.evidence.sources import compared
from bench.executors.here import Numbered, carry_out
from bench.matrix.cells import Options, pick_device
from bench.matrix.plan import Cell
from bench.matrix.task import Outcome, Task
from bench.registry import Registry
from bench.system.guards import settings_kept
from bench.system.processes import take_input
from bench.system.signals import GRACE_SECONDS, StopSignals

EVENT_SECONDS = 0.2  # between two reports of progress


def run_task(task: Task, report: Numbered, stop: StopSignals) -> Outcome:
    """Carries out a task in this process; what a worker of any executor calls.

    Raises:
        Interrupted: a signal came; what was finished is on disk.
    """
    try:
        cell = cell_of(task)
        options = from_words(task.options)
    except BenchError as error:
        report.say(f"{task.spec.row}: failed: {error}")
        return Outcome(state="failed", kind="error", reason=str(error))
    return carry_out(cell, task, options, report, stop)


def as_words(options: Options) -> dict[str, Any]:
    """Options as plain JSON values."""
    words = {name: str(value.absolute()) if isinstance(value, Path) else value for name, value in vars(options).items()}
    return words | {"device": options.device.type}


def from_words(words: Mapping[str, Any]) -> Options:
    """The inverse of `as_words`.

    Raises:
        BenchError: a device that is not here.
    """
    hints = typing.get_type_hints(Options)
    paths = {
        name: Path(value) for name, value in words.items() if Path in (hints[name], *typing.get_args(hints[name])) and value is not None
    }
    return Options(**dict(words) | paths | {"device": pick_device(words["device"])})


def cell_of(task: Task) -> Cell:
    """The cell that a task describes, its method and data set loaded by name or path.

    Raises:
        BenchError: the method or data set cannot be loaded, or the method is not the one that was planned with.
    """
    registry = Registry(task.plugins)
    with settings_kept():  # a plug-in's file may do anything when it is read, and the process goes on to other cells
        registry.load_dataset(task.spec.dataset)
        registry.load_network(task.spec.train.arch)
        loaded = registry.load(task.spec.method)
    sources = registry.sources(loaded, task.spec.dataset, task.spec.train.arch)
    if compared(sources) != compared(task.sources):
        raise BenchError(f"the code of {task.spec.method!r} was changed since the matrix was planned; start `bench run` again")
    return Cell(task.spec, task.certify, loaded.cls(**task.spec.hyperparameters), sources, task.presets_of, task.plugins)


class _Events:
    """A watch whose events go to another process, which may be gone."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.last = file, 0.0

    def send(self, **event: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.file.write(json.dumps(event) + "\n")
            self.file.flush()

    def begin(self, number: int) -> None:
        self.send(begin=number)

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        if (now := time.monotonic()) - self.last > EVENT_SECONDS or done == total:
            self.last = now
            self.send(progress=[phase, done, total])

    def say(self, text: str) -> None:
        self.send(say=text)


def main() -> None:
    """Works until the input ends."""
    events = _Events(os.fdopen(int(sys.argv[1]), "w"))
    requests = take_input()
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    busy = threading.Event()
    with StopSignals().installed() as stop:
        threading.Thread(target=_listen, args=(requests, tasks, busy, stop), daemon=True).start()
        try:
            while line := tasks.get():
                busy.set()
                events.begin(0)
                try:
                    outcome = run_task(Task.from_text(line), Numbered(events, 0), stop)
                    reason, trace = outcome.reason, ""
                except Interrupted:
                    raise
                except BaseException as error:
                    reason, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
                    outcome = Outcome(state="failed", kind="error", reason=reason)
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(Exception):
                        stream.flush()
                busy.clear()
                events.send(outcome=[outcome.state, outcome.kind, outcome.reason], trace=trace)
        except Interrupted as error:
            code = 128 + error.signal_number
        else:
            code = 0
    os._exit(code)  # threads that a method left behind must not keep the process


def _listen(requests: IO[bytes], tasks: queue.SimpleQueue[bytes], busy: threading.Event, stop: StopSignals) -> None:
    for line in requests:
        tasks.put(line)
    if stop.received:
        os._exit(128 + stop.received)
    if busy.is_set():  # whoever wants the results is gone, perhaps by force
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS + 2)
        os._exit(1)
    tasks.put(b"")


if __name__ == "__main__":
    main()
