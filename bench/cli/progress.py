"""Live progress: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from bench.cli.common import clock, plain

PLAIN_SECONDS = 30.0


class Show:
    """Shows where a matrix stands. The time left is the plan's estimate, scaled by how the finished cells compared with theirs.

    Args:
        names: of the cells, in the order in which they are handed out. estimates: seconds of each. slots: cells side by side.

    Attributes:
        numbers: places of the cells that are handed out now, where not all of them are.
    """

    def __init__(self, console: Console, names: Sequence[str], estimates: Sequence[float], slots: int = 1) -> None:
        self.console, self.names, self.estimates, self.slots = console, names, estimates, slots
        self.numbers: Sequence[int] = range(len(names))
        self.live = console.is_terminal and not console.quiet
        self.begun: dict[int, float] = {}  # of the cells in the works
        self.untouched = sum(estimates)  # of the cells that are not begun
        self.finished = self.spent = 0.0  # of the cells that ended: their estimates, their seconds
        self.ended = 0
        self.last_line = time.monotonic()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.whole = self.bars.add_task("all cells", total=max(1, len(names)), note="")
        self.tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.bars.stop()

    def begin(self, number: int) -> None:
        """Part of `bench.executors.Watch`."""
        place = self.numbers[number]
        self.begun[place] = time.monotonic()
        if place not in self.tasks:
            self.untouched -= self.estimates[place]
            self.tasks[place] = self.bars.add_task(escape(plain(self.names[place])), total=None, note="")

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Part of `bench.executors.Watch`."""
        place, now = self.numbers[number], time.monotonic()
        if place not in self.begun:
            self.begin(number)
        if self.live:
            self.bars.update(self.tasks[place], completed=done, total=total, note=phase)
            self.bars.update(self.whole, completed=self.ended, note=f"about {clock(self._left(now))} left")
        elif now - self.last_line > PLAIN_SECONDS:
            self.last_line = now
            self.say(f"{self._head(place)}: {phase} {done}/{total}, about {clock(self._left(now))} left")

    def _head(self, place: int) -> str:
        return f"[{place + 1}/{len(self.names)}] {self.names[place]}"

    def _left(self, now: float) -> float:
        pace = self.spent / self.finished if self.finished else 1.0
        at_work = sum(max(0.0, pace * self.estimates[place] - (now - begun)) for place, begun in self.begun.items())
        return (pace * self.untouched + at_work) / self.slots

    def end(self, number: int, state: str) -> None:
        """A cell ended."""
        place = self.numbers[number]
        if place not in self.begun:  # of what was done before it was delivered again, an engine may only tell that it is over
            self.begin(number)
        seconds = time.monotonic() - self.begun.pop(place)
        self.ended += 1
        self.finished += self.estimates[place]
        self.spent += seconds
        self.say(f"{self._head(place)}: {state} in {clock(seconds)}")
        self.bars.remove_task(self.tasks.pop(place))
        self.bars.update(self.whole, completed=self.ended)

    def say(self, text: str) -> None:
        """Part of `bench.executors.Watch`."""
        self.console.print(plain(text), markup=False)
