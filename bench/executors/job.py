"""What the jobs of every cluster share: tasks come as text, outcomes leave as text, and each cell has a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

from bench.executors.local import LocalExecutor, share_out
from bench.matrix.task import Outcome, Task
from bench.spec import canonical
from bench.system.signals import StopSignals

LINE_SECONDS = 60.0
"""From one line on how far a cell is to the next."""


class Job:
    """Some cells, on the machine that this is called on.

    Args:
        texts: tasks, as `Task.to_text`. threads: of torch, per slot. timeout: seconds per cell.
        slots: cells side by side, on the GPUs that the scheduler gave to the job.
    """

    def __init__(self, texts: Sequence[str], threads: int, slots: int = 1, timeout: float | None = None) -> None:
        self.texts, self.threads, self.slots, self.timeout = tuple(texts), threads, slots, timeout
        self._executor: LocalExecutor | None = None

    def run(self, log: Callable[[str], object]) -> list[str]:
        """A line of JSON per task, in their order: its outcome, and what was said.

        Args:
            log: gets what was said at once.
        """
        tasks, found = [Task.from_text(text) for text in self.texts], {}
        for number, task in enumerate(tasks):
            if not task.results.is_dir():
                reason = f"{task.results} is not on {socket.gethostname()}; every machine must see the results folder at the same place"
                found[number] = Outcome(state="failed", kind="error", reason=reason)
        here = [number for number in range(len(tasks)) if number not in found]
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = shown.split(",") if shown and self.slots > 1 else ()  # one slot takes all that the job has
        devices = max((tasks[number].spec.train.devices for number in here), default=1)
        slots = share_out(
            self.slots,
            cells=len(here),
            cores=self.threads * self.slots,
            gpus=gpus,
            per_gpu=self.slots,
            devices=max(1, min(devices, len(gpus))),  # where the job got too few, each cell says so
        )
        watch = _Log(log, [tasks[number].name for number in here])
        self._executor = LocalExecutor(slots, self.timeout)
        for place, outcome in self._executor.outcomes([tasks[number] for number in here], watch, StopSignals()):
            found[here[place]] = outcome
            log(f"{tasks[here[place]].name}: {outcome.state}")
        return [canonical({**vars(found[number]), "said": watch.said}) for number in range(len(tasks))]

    def stop(self) -> None:
        """Lets the cells at work finish their row or step, write a checkpoint and release their claims, within 10 seconds."""
        if self._executor:
            self._executor.stop_all(signal.SIGTERM, _Log(str))


class _Log:
    """A watch for what the user should see; how far each cell is, a line a minute tells.

    Args:
        names: of the cells.
    """

    def __init__(self, log: Callable[[str], object], names: Sequence[str] = ()) -> None:
        self.log, self.names = log, names
        self.said: list[str] = []
        self.lined: dict[int, float] = {}

    def begin(self, number: int) -> None:
        pass

    def progress(self, number: int, phase: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self.lined.setdefault(number, now) >= LINE_SECONDS:
            self.lined[number] = now
            self.log(f"{self.names[number]}: {note or f'{phase} {done}/{total}'}")

    def say(self, text: str) -> None:
        self.said.append(text)
        self.log(text)
