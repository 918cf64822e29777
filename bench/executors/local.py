"""Side by side on this machine: a process per slot, so that a crash, a lack of memory or a hang costs one cell."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.errors import Interrupted, UsageError, counted
from bench.executors import Watch
from bench.matrix.cells import smaller_batch
from bench.matrix.task import Outcome, Task
from bench.store.runs import Store
from bench.store.work import record_failure
from bench.system.processes import WORKER, Child
from bench.system.signals import GRACE_SECONDS, StopSignals

START_SECONDS = 600.0
"""For the start of a worker, which imports torch from a disk that may be slow."""
LOG_BYTES = 16_384
"""Kept of what a cell prints."""
LAST_SECONDS = 1.0
"""What a worker gets beyond the grace before it is killed: all of it ends within 10 s of the first signal."""


Slot = Mapping[str, str]
"""A place for one process: what its environment says of threads and GPUs."""


def share_out(
    jobs: int | None, *, cells: int, cores: int, gpus: Sequence[str] = (), per_gpu: int = 1, threads: int | None = None, devices: int = 1
) -> list[Slot]:
    """The slots of a machine.

    The thread count of a slot depends on `jobs`, the machine and the size of the whole matrix, never on what is left to do: counts
    may depend on it, and the same command must give the same again.

    Args:
        jobs: cells side by side; None: one per GPU slot, else one per core, but no more than cells.
        gpus: names for CUDA_VISIBLE_DEVICES; none: the cores are shared out.
        threads: OMP_NUM_THREADS of the user, an upper limit.
        devices: GPUs (or CPU processes) of one cell; GPUs that are left over by a division stay idle.

    Raises:
        UsageError: more jobs than GPU slots.
    """
    groups = [",".join(gpus[start : start + devices]) for start in range(0, len(gpus) - devices + 1, devices)]
    places = len(groups) * per_gpu if gpus else max(1, cores // devices)
    if gpus and jobs is not None and jobs > places:
        by = f" / {devices} per cell" if devices > 1 else ""
        raise UsageError([f"--jobs {jobs} is more than {len(gpus)} GPUs{by} x {per_gpu} slots; raise --slots-per-gpu"])
    count = min(places, cells) if jobs is None else jobs
    each = max(1, cores // max(1, count))
    each = min(each, threads) if threads else each
    base = {"OMP_NUM_THREADS": str(each), "MKL_NUM_THREADS": str(each)}
    return [base | ({"CUDA_VISIBLE_DEVICES": groups[number % len(groups)]} if gpus else {}) for number in range(max(1, count))]


def slots_here(jobs: int | None, device: torch.device, per_gpu: int, cells: int, devices: int = 1) -> list[Slot]:
    """`share_out` of the machine that this process is on."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else [str(number) for number in range(torch.cuda.device_count())]
    return share_out(
        jobs,
        cells=cells,
        cores=cores_here(),
        gpus=names if device.type == "cuda" else (),
        per_gpu=per_gpu,
        threads=thread_limit(),
        devices=devices,
    )


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limit() -> int | None:
    """OMP_NUM_THREADS of the user."""
    word = os.environ.get("OMP_NUM_THREADS", "")
    return int(word) if word.isascii() and word.isdigit() and int(word) else None


@dataclass
class _Worker:
    """A process in a slot, and what it is at."""

    child: Child
    output: int
    plugins: tuple[Path, ...]
    number: int = -1  # of the task at hand; -1: idle
    begun: float = 0.0  # in the future until it says so
    asked: float = 0.0  # when it was told to stop
    outcome: Outcome | None = None
    trace: str = ""
    oom_kills: int = 0
    log: bytes = b""

    def tell(self, number: int) -> None:
        """Sends a signal to the worker."""
        self.asked = self.asked or time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            self.child.process.send_signal(number)

    def kill(self) -> None:
        """Ends the worker and whatever it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child.process.pid, signal.SIGKILL)
        self.child.process.wait()

    def hear(self, watch: Watch) -> None:
        """Takes in what it says."""
        for event in self.child.read() or ():
            if "say" in event:
                watch.say(event["say"])
            elif "progress" in event:
                watch.progress(self.number, *event["progress"])
            elif "begin" in event:
                self.begun = time.monotonic()
            elif "outcome" in event:
                self.outcome, self.trace = Outcome(**event["outcome"]), event["trace"]

    def take_log(self, watch: Watch) -> bool:
        """Takes in what it prints; whether there was anything."""
        try:
            data = os.read(self.output, 65_536)
        except BlockingIOError:
            return False
        self.log = (self.log + data)[-LOG_BYTES:]
        return bool(data)


class LocalExecutor:
    """One worker process per slot. A worker serves many cells, unless one fails; a plug-in's cells share one with no other method.

    Args:
        timeout: seconds that a cell may take once its worker is up; it then fails, and continues in the next run.
        command: starts a worker, see `bench.system.processes.Child`.
    """

    def __init__(self, slots: Sequence[Slot], timeout: float | None = None, command: Sequence[str] = WORKER) -> None:
        self.slots, self.timeout, self.command = slots, timeout, command
        self.workers: list[_Worker | None] = [None] * len(slots)
        self.selector = selectors.DefaultSelector()

    def outcomes(self, tasks: Sequence[Task], watch: Watch, stop: StopSignals) -> Iterator[tuple[int, Outcome]]:
        """As `bench.executors.Executor`."""
        waiting = deque(enumerate(tasks))
        retried: set[int] = set()
        try:
            while waiting or any(worker and worker.number >= 0 for worker in self.workers):
                stop.check()
                for place, worker in enumerate(self.workers):
                    if worker and worker.number < 0 and worker.child.process.poll() is not None:
                        self._retire(place)
                    if waiting and (worker is None or worker.number < 0):
                        self._hand_out(place, *waiting.popleft(), watch)
                self._pump(watch, 0.2)
                for place, worker in enumerate(self.workers):
                    if worker is None or worker.number < 0 or (outcome := self._outcome(worker, watch)) is None:
                        continue
                    number, worker.number = worker.number, -1
                    if outcome.state not in ("done", "diverged") or worker.asked:
                        self._retire(place)
                    if outcome.kind == "oom" and worker.child.process.returncode == -signal.SIGKILL and number not in retried:
                        retried.add(number)
                        task = tasks[number]
                        info = Store(task.results).run(task.spec).info
                        batch = smaller_batch(task.options.batch, info, task.options.device)
                        told = f"tried again with {counted(batch, 'sample')} per certification pass"
                        watch.say(f"{task.name}: {outcome.reason}; {told}")
                        waiting.appendleft((number, replace(task, options=replace(task.options, batch=batch), anew=False)))
                        continue
                    if outcome.state == "failed":
                        outcome = recorded(tasks[number], outcome, worker.trace, worker.log.decode(errors="replace"))
                    yield number, outcome
        except (Interrupted, KeyboardInterrupt) as error:
            self.stop_all(error.signal_number if isinstance(error, Interrupted) else signal.SIGINT, watch)
            raise
        finally:
            for place in range(len(self.workers)):
                self._retire(place)

    def _hand_out(self, place: int, number: int, task: Task, watch: Watch) -> None:
        worker = self.workers[place]
        if worker is None or worker.plugins != task.plugins:
            self._retire(place)
            worker = self._start(place, task.plugins)
        worker.number, worker.begun, worker.outcome, worker.log = number, time.monotonic() + START_SECONDS, None, b""
        worker.oom_kills = _oom_kills()
        worker.child.send(task=task.to_text())
        watch.begin(number)

    def _start(self, place: int, plugins: tuple[Path, ...]) -> _Worker:
        ours, theirs = os.pipe()
        # Ctrl-C is for this process, which passes it on.
        child = Child({"PYTHONUNBUFFERED": "1", **self.slots[place]}, theirs, own_session=True, command=self.command)
        os.close(theirs)
        os.set_blocking(ours, False)
        worker = self.workers[place] = _Worker(child, ours, plugins)
        self.selector.register(child.events, selectors.EVENT_READ, worker.hear)
        self.selector.register(ours, selectors.EVENT_READ, worker.take_log)
        return worker

    def _retire(self, place: int) -> None:
        if (worker := self.workers[place]) is None:
            return
        worker.kill()
        self.workers[place] = None
        self.selector.unregister(worker.child.events)
        self.selector.unregister(worker.output)
        worker.child.close()
        os.close(worker.output)

    def _pump(self, watch: Watch, seconds: float) -> None:
        """Reads what workers say, waiting for some time."""
        for key, _ in self.selector.select(seconds):
            key.data(watch)
        if not self.selector.get_map():
            time.sleep(seconds)

    def _outcome(self, worker: _Worker, watch: Watch) -> Outcome | None:
        """How the task of a worker ended, None while it has not."""
        code = worker.child.process.poll()
        if code is not None:  # what it still said is in the pipes
            worker.hear(watch)
        if code is not None or worker.outcome is not None:
            while worker.take_log(watch):
                pass
        if worker.outcome is not None:
            return worker.outcome
        now = time.monotonic()
        overdue = self.timeout is not None and now - worker.begun > self.timeout
        if code is None:
            if overdue and not worker.asked:
                worker.tell(signal.SIGTERM)
            elif worker.asked and now - worker.asked > GRACE_SECONDS + LAST_SECONDS:
                worker.kill()
            return None
        if worker.asked:
            reason = f"took longer than --timeout {self.timeout:g} s; run the same command again to continue it"
            return Outcome(state="failed", kind="timeout", reason=reason)
        if code == -signal.SIGKILL and _oom_kills() > worker.oom_kills:
            return Outcome(state="failed", kind="oom", reason="its process was killed by the system for want of memory")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code} in the middle"
        return Outcome(state="failed", kind="crash", reason=f"its process {how}")

    def stop_all(self, number: int, watch: Watch) -> None:
        """Passes a signal on and waits for the workers, but not for long."""
        signal.setitimer(signal.ITIMER_REAL, 0)  # the limit is kept here
        for worker in filter(None, self.workers):
            worker.tell(number)
        limit = time.monotonic() + GRACE_SECONDS + LAST_SECONDS
        while (
            any(worker and worker.number >= 0 and worker.child.process.poll() is None for worker in self.workers)
            and time.monotonic() < limit
        ):
            self._pump(watch, 0.1)


def recorded(task: Task, outcome: Outcome, trace: str = "", log: str = "") -> Outcome:
    """The outcome, with a failure written down that the cell's own process could not write; done where it died after the last row."""
    certification = Store(task.results).run(task.spec).certification(task.certify)
    state = record_failure(certification, outcome.kind, outcome.reason, trace, log)
    return outcome if state == "failed" else Outcome(state=state)


def _oom_kills() -> int:
    """How often this system killed a process for want of memory since it started; 0 where it does not tell."""
    try:
        words = Path("/proc/vmstat").read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0
