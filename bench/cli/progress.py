"""Live progress: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from bench.cli.common import clock, plain

PLAIN_SECONDS = 30.0


class Show:
    """Shows where a matrix stands. The time left is the plan's estimate, scaled by how the finished cells compared with theirs.

    Args:
        estimates: seconds per cell, in order.
    """

    def __init__(self, console: Console, estimates: Sequence[float]) -> None:
        self.console = console
        self.estimates = estimates
        self.live = console.is_terminal and not console.quiet
        self.number = 0
        self.begun = self.cell_begun = self.last_line = time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.whole = self.bars.add_task("all cells", total=max(1, len(estimates)), note="")
        self.cell = self.bars.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> Self:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.bars.stop()

    def begin(self, number: int, name: str) -> None:
        """A cell starts."""
        self.number, self.name = number, name
        self.cell_begun = time.monotonic()
        self.bars.reset(self.cell, description=escape(plain(name)), total=None, visible=True, note="")

    def progress(self, phase: str, done: int, total: int) -> None:
        """Part of `bench.run.Report`."""
        now = time.monotonic()
        if self.live:
            self.bars.update(self.cell, completed=done, total=total, note=phase)
            self.bars.update(self.whole, completed=self.number, note=f"about {clock(self._left(now))} left")
        elif now - self.last_line > PLAIN_SECONDS:
            self.last_line = now
            self.say(f"[{self.number + 1}/{len(self.estimates)}] {self.name}: {phase} {done}/{total}, about {clock(self._left(now))} left")

    def _left(self, now: float) -> float:
        finished = sum(self.estimates[: self.number])
        pace = (self.cell_begun - self.begun) / finished if finished else 1.0
        current = max(0.0, self.estimates[self.number] * pace - (now - self.cell_begun))
        return current + pace * sum(self.estimates[self.number + 1 :])

    def end(self, name: str, state: str) -> None:
        """A cell ended."""
        seconds = time.monotonic() - self.cell_begun
        self.say(f"[{self.number + 1}/{len(self.estimates)}] {name}: {state} in {clock(seconds)}")
        self.bars.update(self.whole, completed=self.number + 1)

    def say(self, text: str) -> None:
        """Part of `bench.run.Report`."""
        self.console.print(plain(text), markup=False)
