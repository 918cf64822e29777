"""Ctrl-C and its kin: work ends at the next safe place."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from bench.errors import Interrupted

GRACE_SECONDS = 8.0
"""From the first signal to the moment when a step or an image in the works is given up: it is done again, with the same noise."""


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a flag; a second one ends the process at once.

    What does not look at the flag within GRACE_SECONDS is interrupted where it is.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored. Threads but the main one hear none.

    Args:
        ends: whether a second signal ends the process; else it raises KeyboardInterrupt, as notebooks need it.
    """

    def __init__(self, *, ends: bool = True) -> None:
        self.received, self.ends = 0, ends

    def check(self) -> None:
        """Interrupted if a signal came."""
        if self.received:
            raise Interrupted(self.received)

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSignals]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.received and not self.ends:
                raise KeyboardInterrupt
            if self.received:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self.received = number
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

        def late(number: int, frame: FrameType | None) -> None:
            self.check()

        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handle) for number in numbers} | {signal.SIGALRM: signal.signal(signal.SIGALRM, late)}
        try:
            yield self
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
