"""The processes that help one to run a cell, as that one sees them."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.distributed.group import Group, Lost, check_fabric, joined, rendezvous
from bench.errors import BenchError
from bench.evidence.certificate import Certificate, from_line
from bench.spec import TrainSpec
from bench.system.processes import Child

POLL_SECONDS = 0.2
DEATH_SECONDS = 5.0
"""From a broken connection until it is known whose process has ended."""


def own_device(device: torch.device, rank: int) -> torch.device:
    """The device of one process: the GPU of its number, or the CPU that all share."""
    return torch.device("cuda", rank) if device.type == "cuda" else device


def check_devices(train: TrainSpec, device: torch.device, *, here: bool = True) -> None:
    """BenchError if a training cannot have the devices that it asks for.

    Args:
        here: on this machine, whose devices are counted.
    """
    if train.devices == 1:
        return
    check_fabric()
    if here and device.type == "cuda" and torch.cuda.device_count() < train.devices:
        raise BenchError(f"--devices-per-cell {train.devices}: this process sees {torch.cuda.device_count()} CUDA devices")
    if train.sync_batchnorm and device.type != "cuda":
        raise BenchError(f"--sync-batchnorm needs CUDA devices: torch does not synchronise batch norm on a {device.type}")


@contextlib.contextmanager
def threads_shared(devices: int, device: torch.device) -> Iterator[None]:
    """Inside, each of the processes that share a CPU gets its share of this one's threads."""
    before = torch.get_num_threads()
    if devices == 1 or device.type != "cpu":
        yield
        return
    torch.set_num_threads(max(1, before // devices))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Helper:
    """One helping process."""

    def __init__(self, rank: int, task: str) -> None:
        self.rank = rank
        self.child = Child({"OMP_NUM_THREADS": str(torch.get_num_threads())})  # a method prints the same in the first process
        self.child.send(help=task, rank=rank)
        self._said: deque[dict[str, Any]] = deque()

    def event(self, seconds: float) -> dict[str, Any] | None:
        """What it says next; None if it says nothing for so long.

        Raises:
            BenchError: it failed, or ended without a word.
        """
        while not self._said:
            if not select.select([self.child.events], [], [], seconds)[0]:
                return None
            if (events := self.child.read()) is None:
                raise BenchError(f"the process of device {self.rank} {_end_of(self.child.process)}")
            self._said += events
        event = self._said.popleft()
        if "error" in event:
            raise BenchError(f"device {self.rank}: {event['error']}")
        return event

    def end(self) -> None:
        self.child.process.kill()
        self.child.process.wait()
        self.child.close()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(DEATH_SECONDS)
    except subprocess.TimeoutExpired:
        return "says nothing any more"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Team:
    """The helpers of a cell. They start when they are first needed, keep nothing, and are killed when the block ends, however it ends.

    Args:
        task: the cell and its options, as `bench.matrix.task.Task` writes them; its results folder is that of the run.
        size: processes, this one included.
        check: raises if this process is to stop; called while it waits.
    """

    def __init__(self, task: str, size: int, device: torch.device, check: Callable[[], None]) -> None:
        self.task, self.size, self.device, self.check = task, size, device, check
        self.helpers: list[_Helper] = []

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *error: object) -> None:
        for helper in self.helpers:
            helper.end()
        self.helpers.clear()

    def _start(self) -> None:
        if not self.helpers:
            for rank in range(1, self.size):  # one by one, so that those that did start are ended if one does not
                self.helpers.append(_Helper(rank, self.task))

    def _send(self, **command: Any) -> None:
        self._start()
        for helper in self.helpers:
            helper.child.send(**command)

    def _event(self, helper: _Helper) -> dict[str, Any]:
        while (event := helper.event(POLL_SECONDS)) is None:
            self.check()
        return event

    @contextlib.contextmanager
    def training(self) -> Iterator[tuple[Group | None, torch.device]]:
        """Inside, all processes are one group: yields it (None if this one is alone) and this process's device. They train from `begin` on.

        Raises:
            BenchError: a helper failed or died; the sentence says which and of what.
        """
        if self.size == 1:
            yield None, self.device
            return
        store, group = rendezvous(self.size), Group(0, self.size)
        self._send(join=store.port)
        for helper in self.helpers:
            self._event(helper)  # it is ready
        try:
            with joined(group, self.device, store.port) as device:
                yield group, device
        except Lost as error:
            raise self._fault() or error from error

    def begin(self, checkpoint: Path | None) -> None:
        """Lets the helpers train, from a checkpoint if there is one."""
        self._send(train=None if checkpoint is None else str(checkpoint.absolute()))

    def _fault(self) -> BenchError | None:
        """Why the connection to a helper broke."""
        limit = time.monotonic() + DEATH_SECONDS
        while time.monotonic() < limit:
            for helper in self.helpers:
                try:
                    helper.event(POLL_SECONDS)
                except BenchError as error:
                    return error
        return None

    def rows(
        self, weights_sha256: str, images: Sequence[int], own: Iterator[tuple[Certificate, float]]
    ) -> Iterator[tuple[Certificate, float]]:
        """Evidence of images and the seconds that each took, in order. The processes count them in turn, this one first.

        Args:
            weights_sha256: of the run's weights. images: their indices.
            own: what this process counts, every `size`-th from the first on.

        Raises:
            BenchError: a helper failed or died.
        """
        self._start()
        for helper in self.helpers:
            helper.child.send(count=list(images[helper.rank :: self.size]), weights=weights_sha256)
        for place, index in enumerate(images):
            self.check()
            if not (rank := place % self.size):
                yield next(own)
                continue
            event = self._event(self.helpers[rank - 1])
            row = from_line(event["row"].encode())
            if row.index != index:
                raise BenchError(f"device {rank} counted image {row.index} where {index} was asked for")
            yield row, float(event["seconds"])
