"""Command lines in forks of one process that has imported everything: real processes, without three seconds of imports each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Of a second or so: the architecture is that of tests/crash.py.
SIZES = {"train.arch": "tiny", "train.images": "first:320", "train.batch": "16", "certify.images": "first:20", "certify.n": "400"}
WORDS = ["run", "--protocol", "smoke", "--device", "cpu"]
LIMIT = 300.0


def memory_folder() -> Path | None:
    """Where syncing costs nothing, so that tests of syncing are fast."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


class Command:
    """A command line at work."""

    def __init__(self, forks: Forks, pid: int, out: Path) -> None:
        self.forks, self.pid, self._out = forks, pid, out

    @property
    def output(self) -> str:
        return self._out.read_text()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, below 0 if a signal ended it."""
        return int(self.forks.ask(wait=self.pid))


class Forks:
    """Starts command lines; see `serve` of tests/crash.py."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        self.server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "crash.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"COLUMNS": "400"},
        )
        assert self.server.stdout
        assert self.server.stdout.readline().startswith(b"wrote")

    def ask(self, **order: Any) -> Any:
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps(order).encode() + b"\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, *words: str | Path, settings: dict[str, dict[str, Any]] | None = None, checkpoint_seconds: float = 0.02) -> Command:
        """A command line in a process of its own. settings: module -> name -> value, for that process."""
        self.count += 1
        out = self.folder / f"out-{self.count}"
        order = {"words": [str(word) for word in words], "out": str(out), "set": settings or {}, "checkpoint_seconds": checkpoint_seconds}
        return Command(self, self.ask(**order), out)

    def run(self, results: Path, *words: str | Path, changes: dict[str, str] | None = None, **fields: Any) -> Command:
        """`bench run` of a tiny cell."""
        sets = [part for name, value in (SIZES | (changes or {})).items() for part in ("--set", f"{name}={value}")]
        usual = {"--method": "gaussian", "--sigma": "0.25"}
        missing = [part for name, value in usual.items() if name not in words for part in (name, value)]
        return self.start(*WORDS, *missing, *sets, "--results", results, *words, **fields)

    def close(self) -> None:
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=memory_folder())


def until(condition: Callable[[], Any], what: str) -> None:
    """Waits for something that another process does."""
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.005)


def rows(results: Path) -> int:
    """Finished rows of all certifications."""
    return sum(path.read_bytes().count(b"\n") for path in results.rglob("evidence.jsonl"))


def kill(command: Command) -> None:
    command.send(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL


def descendants(pid: int) -> list[int]:
    """All processes that a process started, and those that these did."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(place.parent.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found
