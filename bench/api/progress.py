"""Live progress: bars on a terminal, a line a minute elsewhere, and how long the rest will take, as measured.

Whoever works tells a `Show` of every step or image. It reads a clock, and looks at no tensor: what a training tells of its loss was
read for its curve before. Between two looks nothing else is done, so a call costs a microsecond.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column

from bench.api.words import clock, plain

LINE_SECONDS = 60.0
"""From one line to the next, where there is no terminal."""
LOOK_SECONDS = 0.25
"""From one look at a work to the next, on a terminal."""
WHOLE_SECONDS = 1.0
"""From one look at all of them to the next."""
PACE_SECONDS = 3.0
"""Of measured work, before a word is said about the rest. A phase that some cell went through is known earlier."""
NOTE_WIDTH, LONG_NOTE_WIDTH = 24, 44
"""Characters beside a bar; the long one says what is left, too."""
NAMED = 3
"""Works that a line names."""


@dataclass
class _Work:
    """What is left of a cell that was begun.

    Attributes:
        left: weight of each of its phases; empty if it is not known.
        since, first: when the phase was first told of, and what was done by then; what a process does before its first step is
            nobody's pace.
        at, done: of the last report. units: weight of one step or image, by phase.
    """

    begun: float
    left: dict[str, float]
    phase: str = ""
    since: float = 0.0
    first: int = 0
    at: float = 0.0
    done: int = 0
    total: int = 0
    units: dict[str, float] = field(default_factory=dict)


@dataclass
class TimeLeft:
    """How long what is left will take, from the speed of what was done.

    Weights only say how long the same phase takes of one cell and of another. How long it takes is known once it was measured.

    Attributes:
        weights: of each cell's phases, `training` and `certifying` for instance, in the order in which they come; empty: not known.
        slots: cells side by side.
    """

    weights: Sequence[Mapping[str, float]]
    slots: int = 1
    works: dict[int, _Work] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    foreseen: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    measured: set[str] = field(default_factory=set)
    typical: list[float] = field(default_factory=list)  # seconds of ended cells without weights

    def begin(self, place: int, now: float) -> None:
        """A cell was handed out."""
        self.works[place] = _Work(now, dict(self.weights[place]))

    def report(self, place: int, phase: str, done: int, total: int, now: float) -> None:
        """So much of a phase is done."""
        work = self.works[place]
        if work.phase != phase:
            work.phase, work.since, work.first, work.at, work.done = phase, now, done, now, done
            names = list(work.left)
            for earlier in names[: names.index(phase)] if phase in names else ():
                work.left[earlier] = 0.0
            if phase not in work.units:
                # The weight of a training is of the whole, but of a certification of the images that were left.
                work.units[phase] = work.left.get(phase, 0.0) / max(1, total if phase == "training" else total - done)
                work.left[phase] = work.units[phase] * (total - done)
        gained = work.units[phase] * (done - work.done)
        if work.units[phase]:
            work.left[phase] -= gained
            self.foreseen[phase] += gained
            self.spent[phase] += now - work.at
            if self.foreseen[phase] and (done == total or self.spent[phase] >= PACE_SECONDS):
                self.measured.add(phase)
        work.at, work.done, work.total = now, done, total

    def end(self, place: int, now: float, *, typical: bool = True) -> float:
        """A cell ended; returns its seconds. typical: others may take as long."""
        seconds = now - self.works.pop(place).begun
        if typical and not self.weights[place]:
            self.typical.append(seconds)
        self.ended.add(place)
        return seconds

    def left(self, now: float) -> tuple[float, bool]:
        """Seconds until all cells are done, as far as they are known, and whether that is all of it."""
        parts, whole = [0.0], True
        for place, weights in enumerate(self.weights):
            if place in self.ended:
                continue
            work = self.works.get(place)
            if weights:
                left = {phase: weight for phase, weight in (work.left if work else weights).items() if weight > 0}
                known = [weight * self.spent[p] / self.foreseen[p] for p, weight in left.items() if p in self.measured]
                seconds, all_of_it = sum(known), len(known) == len(left)
            else:
                seconds, all_of_it = self._of_unknown(work, now)
            parts.append(seconds)
            whole &= all_of_it
        return max(sum(parts) / self.slots, max(parts)), whole

    def _of_unknown(self, work: _Work | None, now: float) -> tuple[float, bool]:
        """Of a cell without weights: as long as others like it took; before one ended, what is left of its phase at its own pace."""
        alone, measured = 0.0, False
        if work and work.done > work.first and work.at - work.since >= PACE_SECONDS:
            alone, measured = (work.at - work.since) * (work.total - work.done) / (work.done - work.first), True
        if work and work.phase not in ("training", "surveying", "prior"):
            return alone, measured
        if not self.typical:
            return alone, False
        usual = sum(self.typical) / len(self.typical)
        return max(usual - (now - work.begun if work else 0.0), alone), True

    def share(self) -> float:
        """Of all work, how much is done: by weight if all are known, else by cells."""
        if not all(self.weights) or not (whole := sum(sum(weights.values()) for weights in self.weights)):
            return len(self.ended) / max(1, len(self.weights))
        open_ = (self.works[p].left if p in self.works else w for p, w in enumerate(self.weights) if p not in self.ended)
        return min(1.0, max(0.0, 1 - sum(sum(weights.values()) for weights in open_) / whole))


class Show:
    """Shows where works stand: the cells of a matrix, or one count alone.

    Args:
        names: of the works, in the order in which they are handed out. weights, slots: see `TimeLeft`.

    Attributes:
        numbers: places of the works that are handed out now, where not all of them are.
    """

    def __init__(self, console: Console, names: Sequence[str], weights: Sequence[Mapping[str, float]], slots: int = 1) -> None:
        self.console, self.names = console, [plain(name) for name in names]
        self.time = TimeLeft(weights, slots)
        self.numbers: Sequence[int] = range(len(names))
        self.live = console.is_terminal and not console.quiet
        self.begun = self.lined = self.seen_whole = time.monotonic()
        self.looked: dict[int, tuple[str, float]] = {}  # by place: the phase, and when it was last looked at
        self.notes: dict[int, str] = {}
        width = console.width - max(map(len, self.names), default=0) - (NOTE_WIDTH if len(names) > 1 else LONG_NOTE_WIDTH) - 8
        name, note = (TextColumn(text, table_column=Column(no_wrap=True)) for text in ("{task.description}", "{task.fields[note]}"))
        bar, share = BarColumn(bar_width=max(4, min(30, width))), TaskProgressColumn()
        self.bars = Progress(name, bar, share, note, console=console, transient=True, refresh_per_second=4)
        self.whole = self.bars.add_task(f"0 of {len(names)} cells done", total=1.0, note="") if len(names) > 1 else None
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
        self.time.begin(place, time.monotonic())
        self.looked.pop(place, None)
        if place not in self.tasks:
            self.tasks[place] = self.bars.add_task(escape(self.names[place]), total=None, note="starting")

    def progress(self, number: int, phase: str, done: int, total: int, note: str = "") -> None:
        """Part of `bench.executors.Watch`."""
        place, now = self.numbers[number], time.monotonic()
        before, at = self.looked.get(place, ("", 0.0))
        if phase == before and now - at < LOOK_SECONDS and done < total:
            return
        self.looked[place] = phase, now
        if place not in self.time.works:
            self.begin(number)
        self.time.report(place, phase, done, total, now)
        self.notes[place] = note or f"{phase} {done}/{total}"
        if self.live:
            left = "" if self.whole is not None else self._left(now)
            self.bars.update(self.tasks[place], completed=done, total=total, note=", ".join(filter(None, (self.notes[place], left))))
            if now - self.seen_whole >= WHOLE_SECONDS:
                self._show_whole(now)
        elif now - self.lined >= LINE_SECONDS:
            self.lined = now
            self.say(f"{clock(now - self.begun)}: {self._line(now)}")

    def _left(self, now: float) -> str:
        seconds, whole = self.time.left(now)
        return f"{'about' if whole else 'over'} {clock(seconds)} left" if seconds >= 1 else ""

    def _show_whole(self, now: float) -> None:
        self.seen_whole = now
        if self.whole is not None:
            told = f"{len(self.time.ended)} of {len(self.names)} cells done"
            self.bars.update(self.whole, completed=self.time.share(), description=told, note=self._left(now))

    def _line(self, now: float) -> str:
        """Where all of it stands, in one line."""
        at_work = [place for place in self.time.works if place in self.notes]
        shares = {place: 100 * work.done // max(1, work.total) for place, work in self.time.works.items()}
        told = [f"{self.names[place]}: {self.notes[place]} ({shares[place]}%)" for place in at_work[:NAMED]]
        told += [f"{len(at_work) - NAMED} more at work"] if len(at_work) > NAMED else []
        count = [f"{len(self.time.ended)} of {len(self.names)} cells done"] if len(self.names) > 1 else []
        return "; ".join([*told, *count, *filter(None, [self._left(now)])])

    def end(self, number: int, told: str, *, done: bool = True) -> None:
        """A work ended. told: how. done: with all of its phases."""
        place, now = self.numbers[number], time.monotonic()
        if place not in self.time.works:  # of what was done before it was delivered again, an engine may only tell that it is over
            self.begin(number)
        seconds = self.time.end(place, now, typical=done)
        self.say(f"[{len(self.time.ended)}/{len(self.names)}] {self.names[place]}: {told}, {clock(seconds)}")
        self.bars.remove_task(self.tasks.pop(place))
        self.notes.pop(place, None)
        self._show_whole(now)

    def say(self, text: str) -> None:
        """Part of `bench.executors.Watch`."""
        self.console.print(plain(text), markup=False)


@contextlib.contextmanager
def counting(name: str, unit: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows one count on standard error.

    Args:
        name: what is done. unit: what is counted, such as `image`. console: another place.

    Yields:
        a function of how many are done and how many there are.
    """
    with Show(console or Console(stderr=True, highlight=False, soft_wrap=True), [name], [{unit: 1.0}]) as show:
        show.begin(0)
        yield lambda done, total: show.progress(0, unit, done, total)
