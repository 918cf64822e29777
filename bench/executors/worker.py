"""A process that computes for another one: `python -m bench.executors.worker EVENTS`, see `bench.system.processes`.

    {"task": TEXT}                     carry out a cell -> begin, progress, say, and at last outcome; then the next
    {"help": TEXT, "rank": N}          from now on be number N of the processes that share a cell, see `bench.executors.helper`

At the end of the input the worker leaves: at once if it is idle, helps, or was told to stop before, else as after SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from functools import partial

from bench.errors import BenchError, Interrupted
from bench.executors.helper import help_with
from bench.executors.here import Numbered, carry_out
from bench.matrix.task import Outcome, Task
from bench.system.processes import Parent
from bench.system.signals import GRACE_SECONDS, StopSignals

EVENT_SECONDS = 0.2  # between two reports of progress


class _Events:
    """A watch whose events go to another process."""

    def __init__(self, parent: Parent) -> None:
        self.parent, self.last = parent, 0.0

    def begin(self, number: int) -> None:
        self.parent.send(begin=number)

    def progress(self, number: int, phase: str, done: int, total: int, note: str = "") -> None:
        if (now := time.monotonic()) - self.last > EVENT_SECONDS or done == total:
            self.last = now
            self.parent.send(progress=[phase, done, total, note])

    def say(self, text: str) -> None:
        self.parent.send(say=text)


def main() -> None:
    """Works until the input ends."""
    busy, code = threading.Event(), 0
    with StopSignals().installed() as stop:
        parent = Parent(int(sys.argv[1]), partial(_ended, busy, stop))
        try:
            while command := parent.command():
                if "help" in command:
                    help_with(Task.from_text(command["help"]), command["rank"], parent)
                busy.set()
                _carry_out(command["task"], parent, stop)
                busy.clear()
        except Interrupted as error:
            code = 128 + error.signal_number
    os._exit(code)  # threads that a method left behind must not keep the process


def _carry_out(text: str, parent: Parent, stop: StopSignals) -> None:
    watch, trace = _Events(parent), ""
    watch.begin(0)
    try:
        outcome = carry_out(Task.from_text(text), Numbered(watch, 0), stop)
    except Interrupted:
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        outcome, trace = Outcome(state="failed", kind="error", reason=reason), traceback.format_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    parent.send(outcome=vars(outcome), trace=trace)


def _ended(busy: threading.Event, stop: StopSignals) -> None:
    if stop.received:
        os._exit(128 + stop.received)
    if busy.is_set():  # whoever wants the results is gone, perhaps by force
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS + 2)
        os._exit(1)


if __name__ == "__main__":
    main()
