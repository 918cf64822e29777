"""What a training takes: seconds of its steps and of the attacks in them, and the largest memory."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.smoothing import SmoothedClassifier, now


class Stopwatch:
    """Adds up the seconds of steps and of the attacks in them.

    On CUDA the device itself notes the time of what passes through it (events), and no step waits for that. A step that is recorded as
    a graph notes the times of each of its replays; those of the last one before `read` count.

    Attributes:
        seconds, attack_seconds: of the steps that have been read.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = self.attack_seconds = 0.0
        self._noted: list[list[Any]] = []
        self._seen: list[list[Any]] = []  # events that a graph may still record

    @contextlib.contextmanager
    def timed(self, g: SmoothedClassifier) -> Iterator[None]:
        """Notes when the block begins and ends, and when each attack of `g` in it does. A block that raises leaves no note."""
        marks: list[Any] = [self._mark()]
        g.mark = lambda: marks.append(self._mark())
        try:
            yield
        finally:
            g.mark = None
        self._noted.append([*marks, self._mark()])

    def read(self) -> None:
        """Adds up what was noted; on CUDA the device must have come so far."""
        for begun, *attacks, ended in self._noted:
            self.seconds += self._between(begun, ended)
            self.attack_seconds += sum(self._between(a, b) for a, b in zip(attacks[::2], attacks[1::2], strict=True))
        if self._noted:
            self._seen, self._noted = self._noted, []

    def forget(self) -> None:
        """Drops what was noted and not read."""
        self._noted.clear()

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return now(self.device)
        recorded = torch.cuda.is_current_stream_capturing()  # then it is for the replays to note
        event = torch.cuda.Event(enable_timing=True, external=recorded)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, begun: Any, ended: Any) -> float:
        return float(begun.elapsed_time(ended) / 1e3 if self.device.type == "cuda" else ended - begun)


class PeakMemory:
    """The largest memory in use since it was made: of the device on CUDA, else of the process, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that since the process began
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with contextlib.suppress(OSError, StopIteration, ValueError):
            line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
