"""Processes that the suite starts: what each has in common, and how one that serves another talks with it.

Commands go in as lines of JSON on standard input, events come back as lines of JSON on a file descriptor of their own; standard output
and error are the method's. `Child` is such a process as the one that started it sees it, `Parent` the other way round. What they say to
each other `bench.executors.worker` tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import bench

WORKER = (sys.executable, "-P", "-m", "bench.executors.worker")
"""-P: a folder of the user's that is named like one of ours must not be taken for it."""


def search_path() -> str:
    """PYTHONPATH with which a process finds the suite, also where it is a checkout that is not installed."""
    return os.pathsep.join(filter(None, [str(Path(bench.__file__).parent.parent), os.environ.get("PYTHONPATH")]))


class Child:
    """A process that was started: commands go in, events come back.

    Args:
        environment: beyond that of this process. output: where what it prints goes.
        own_session: whether it hears no Ctrl-C of this process's terminal.
        command: starts it; the number of the file descriptor of its events is added.

    Attributes:
        events: file descriptor to wait at.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        output: int = subprocess.DEVNULL,
        *,
        own_session: bool = False,
        command: Sequence[str] = WORKER,
    ) -> None:
        self.events, theirs = os.pipe()
        os.set_blocking(self.events, False)
        self.process = subprocess.Popen(
            [*command, str(theirs)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output if own_session else None,
            env=os.environ | {"PYTHONPATH": search_path()} | dict(environment),
            pass_fds=[theirs],
            start_new_session=own_session,
        )
        os.close(theirs)
        self._lines = b""

    def send(self, **command: Any) -> None:
        assert self.process.stdin
        with contextlib.suppress(OSError):  # one that is gone is noticed where its answer is waited for
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> list[dict[str, Any]] | None:
        """What it has said since; None if it will say nothing more."""
        ended = False
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.events, 65_536):
                self._lines += data
            ended = True
        *lines, self._lines = self._lines.split(b"\n")
        return None if ended and not lines else [json.loads(line) for line in lines]

    def close(self) -> None:
        """After its end."""
        os.close(self.events)
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()


class Parent:
    """The process that started this one. Standard input is kept from a method that reads its own: that finds it empty.

    Args:
        events: file descriptor.
        ended: called in a thread of its own when no more commands can come; `command` then answers None.
    """

    def __init__(self, events: int, ended: Callable[[], None]) -> None:
        self.ended = ended
        self._events = os.fdopen(events, "w")
        self._commands: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        requests = os.fdopen(os.dup(0), "rb")
        with open(os.devnull) as nothing:  # noqa: PTH123
            os.dup2(nothing.fileno(), 0)
        threading.Thread(target=self._listen, args=(requests,), daemon=True).start()

    def command(self) -> dict[str, Any] | None:
        """The next, which is waited for."""
        line = self._commands.get()
        return json.loads(line) if line else None

    def send(self, **event: Any) -> None:
        """Says something, unless nobody is there any more."""
        with contextlib.suppress(OSError, ValueError):
            self._events.write(json.dumps(event) + "\n")
            self._events.flush()

    def _listen(self, requests: IO[bytes]) -> None:
        for line in requests:
            self._commands.put(line)
        self.ended()
        self._commands.put(b"")
