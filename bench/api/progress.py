"""Live progress: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from bench.api.words import clock, plain

PLAIN_SECONDS = 30.0
PACE_SECONDS = 2.0
"""Of work, before its pace says more than the estimate."""


@dataclass
class _Work:
    """A cell in the works, and the phase that it is in since its first report of it.

    Attributes:
        since, first: when that report came and what was done by then; what a process does before its first step is nobody's pace.
        at, done: of the last report. left: seconds of the cell's estimate.
    """

    begun: float
    left: float
    phase: str = ""
    since: float = 0.0
    first: int = 0
    at: float = 0.0
    done: int = 0


class Show:
    """Shows where a matrix stands. The time left is the plan's estimate, scaled by how what was done compared with its own.

    Args:
        names: of the cells, in the order in which they are handed out. estimates: seconds of each. slots: cells side by side.
        certifying: how many of these seconds are for certification; all or none of them where a cell has one phase only.

    Attributes:
        numbers: places of the cells that are handed out now, where not all of them are.
    """

    def __init__(
        self, console: Console, names: Sequence[str], estimates: Sequence[float], slots: int = 1, certifying: Sequence[float] = ()
    ) -> None:
        self.console, self.names, self.estimates, self.slots = console, names, estimates, slots
        self.certifying = certifying or estimates
        self.numbers: Sequence[int] = range(len(names))
        self.live = console.is_terminal and not console.quiet
        self.works: dict[int, _Work] = {}
        self.untouched = sum(estimates)  # of the cells that are not begun
        self.foreseen = self.spent = 0.0  # seconds of what was done: as estimated, and as they were
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
        self.works[place] = _Work(time.monotonic(), self.estimates[place])
        if place not in self.tasks:
            self.untouched -= self.estimates[place]
            self.tasks[place] = self.bars.add_task(escape(plain(self.names[place])), total=None, note="")

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """Part of `bench.executors.Watch`."""
        place, now = self.numbers[number], time.monotonic()
        if place not in self.works:
            self.begin(number)
        work, training = self.works[place], phase == "training"
        later = self.certifying[place] if training else 0.0
        seconds = self.estimates[place] - later if training else self.certifying[place]  # as this phase was estimated
        seconds = 0.0 if phase == "surveying" else seconds  # a part of the training's
        if work.phase != phase:
            work.phase, work.since, work.first, work.at, work.done = phase, now, done, now, done
            # A whole training was estimated, but of a certification the images that were left.
            work.left = seconds * (1 - done / max(1, total) if training else 1) + later
        if seconds:
            gained = seconds * (done - work.done) / max(1, total if training else total - work.first)
            work.left -= gained
            self.foreseen += gained
            self.spent += now - work.at
        work.at, work.done = now, done
        alone = (now - work.since) * (total - done) / max(1, done - work.first) if not seconds else 0.0  # no estimate, as of a plug-in's
        text = f"about {clock(self._left() + alone / self.slots)} left"
        if self.live:
            self.bars.update(self.tasks[place], completed=done, total=total, note=phase)
            self.bars.update(self.whole, completed=self.ended, note=text)
        elif now - self.last_line > PLAIN_SECONDS:
            self.last_line = now
            self.say(f"{self._head(place)}: {phase} {done}/{total}, {text}")

    def _head(self, place: int) -> str:
        return f"[{place + 1}/{len(self.names)}] {self.names[place]}"

    def _left(self) -> float:
        """Seconds until all that was estimated is done, at the pace that was seen."""
        left = self.untouched + sum(work.left for work in self.works.values())
        return left * (self.spent / self.foreseen if self.spent > PACE_SECONDS and self.foreseen else 1.0) / self.slots

    def end(self, number: int, state: str) -> None:
        """A cell ended."""
        place = self.numbers[number]
        if place not in self.works:  # of what was done before it was delivered again, an engine may only tell that it is over
            self.begin(number)
        work, now = self.works.pop(place), time.monotonic()
        self.ended += 1
        self.say(f"{self._head(place)}: {state} in {clock(now - work.begun)}")
        self.bars.remove_task(self.tasks.pop(place))
        self.bars.update(self.whole, completed=self.ended)

    def say(self, text: str) -> None:
        """Part of `bench.executors.Watch`."""
        self.console.print(plain(text), markup=False)
