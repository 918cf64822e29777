"""Who computes a run: a claim file, made by exclusive creation and kept fresh by a heartbeat.

    RUN/claim-1.json    host, process, token, how far the work is; its modification time is the last heartbeat

A claim whose process is known to be dead, or whose heartbeat stopped, may be taken over: by creating `claim-2.json`, which at most one
process can. The highest number holds the run. The old holder, should it come back, finds a higher number or its own file gone
before the next thing it writes, and stops. Creation is link(2) of a finished file, which is exclusive on network file systems
too; ages are differences between two times of the same file system, so clocks of machines need not agree. No flock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.errors import BenchError, Fault
from bench.files import disk
from bench.spec import canonical, parse_json

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""Longer than a network file system keeps attributes, and twelve heartbeats."""
WIDTH = 1024
"""Bytes of a claim: written anew in place, so that it never grows."""
NUMBERED = re.compile(r"claim-([1-9]\d{0,8})\.json")
_HELD: dict[Path, Claim] = {}
"""Claims of this process by folder: what `guard` checks."""


class Claimed(BenchError):
    """Another process is computing the run."""


class Fenced(BenchError):
    """The run was taken over by another process, so this one must not write to it any more."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process behind a claim, as its file tells.

    Attributes:
        age: seconds since its last heartbeat.
        dead: it ran in this system and is gone. False: alive, or nobody here can know.
        phase, done, total, left: training or certifying; steps or images; seconds left of the phase.
    """

    host: str
    pid: int
    age: float
    dead: bool
    phase: str = ""
    done: int = 0
    total: int = 0
    left: float | None = None

    @property
    def stale(self) -> bool:
        """Its work may be taken over."""
        return self.dead or self.age > STALE_SECONDS

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Claim:
    """The right to compute a run, until it is released or taken over.

    Attributes:
        before: the holder that it was taken over from, None if there was none.
    """

    def __init__(self, folder: Path, number: int, handle: int, identity: dict[str, Any], before: Holder | None) -> None:
        self.folder, self.number, self.before = folder, number, before
        self._handle, self._identity = handle, identity
        self._work: tuple[str, int, int, float, int] | None = None
        self._done = 0
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()

    @property
    def path(self) -> Path:
        return _path(self.folder, self.number)

    def note(self, phase: str, done: int, total: int) -> None:
        """How far the work is; written with the next heartbeat."""
        if self._work is None or self._work[0] != phase:
            self._work = (phase, done, total, time.monotonic(), done)
        self._done = done

    def check(self) -> None:
        """Called before every write to the run.

        Raises:
            Fenced: another process took the run over. BenchError: its folder is gone.
        """
        try:
            handle = os.open(self.path, os.O_RDONLY)  # opening asks a network file system anew
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            if not self.folder.exists():
                raise BenchError(f"{self.folder} was deleted while it was being computed") from None
            raise Fenced(f"{self.folder} was taken over by another process; this one leaves it alone") from None
        try:
            same = os.path.samestat(os.fstat(handle), os.fstat(self._handle))
        finally:
            os.close(handle)
        if not same or _path(self.folder, self.number + 1).exists():
            raise Fenced(f"{self.folder} was taken over by another process; this one leaves it alone")

    def release(self) -> None:
        """Gives the run up, if it is still held."""
        self._ended.set()
        self._heart.join()
        with contextlib.suppress(BenchError, OSError):
            self.check()
            sweep(self.folder)
        os.close(self._handle)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                os.pwrite(self._handle, _text(self._identity | self._progress()), 0)
            except OSError:  # a full disk must not let the claim expire
                with contextlib.suppress(OSError):
                    os.utime(self._handle)

    def _progress(self) -> dict[str, Any]:
        if self._work is None:
            return {}
        phase, _, total, begun, first = self._work
        taken = self._done - first
        left = (time.monotonic() - begun) / taken * (total - self._done) if taken else None
        return {"phase": phase, "done": self._done, "total": total, "left": left}


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Claim]:
    """Claims a folder, which must exist, for the length of the block.

    Raises:
        Claimed: another process is at it.
    """
    claim = _acquire(folder)
    _HELD[folder] = claim
    try:
        yield claim
    finally:
        del _HELD[folder]
        claim.release()


def guard(path: Path) -> Path | None:
    """Called before a file is written.

    Returns:
        the folder above it that this process claimed, None if there is none.

    Raises:
        BenchError: as `Claim.check`.
    """
    for folder in path.parents:
        if claim := _HELD.get(folder):
            claim.check()
            return folder
    return None


def lost(folder: Path) -> BenchError | None:
    """Why this process may write to a folder no more that it claimed: what `guard` raises; None if it may, or if that cannot be told."""
    try:
        guard(folder / "spec.json")
    except BenchError as error:
        return error
    except OSError:
        pass
    return None


def holder(folder: Path, now: float | None = None) -> Holder | None:
    """Who claims a folder, None if nobody does. now: from `present`, for whoever looks at many folders; asked for here if None."""
    found = _numbered(folder)
    return _read(found[-1][1], present(folder) if now is None else now) if found else None


def present(folder: Path) -> float:
    """The present by the file system of a folder, which writes the times of heartbeats; by this machine where it may not be written to."""
    try:
        with tempfile.TemporaryFile(prefix=".clock-", dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()


def forget_dead(folder: Path) -> None:
    """Removes what a process left behind that died between its last row and the release of its claim: it names a machine."""
    found = _numbered(folder)
    if found and (last := _read(found[-1][1], 0.0)) and last.dead:
        for _, path in found:  # and no other: a process that lives may have claimed the folder since
            path.unlink(missing_ok=True)


def sweep_attempts(folder: Path) -> None:
    """Removes what processes left that were killed while they tried to claim a folder; of one that still tries its file must stay."""
    attempts = [*folder.glob(".claim.*.tmp")]
    now = present(folder) if attempts else 0.0
    for path in attempts:
        found = _read(path, now)
        if found and (found.stale or not found.pid):  # killed before it wrote who it is
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes all claims of a folder, for its holder."""
    for _, path in _numbered(folder):  # the lower ones first: while any stands, the highest must be the holder's
        path.unlink()


def identity() -> dict[str, Any]:
    """What tells this process from all others."""
    return {"host": platform.node(), "pid": os.getpid(), "system": _system(), "birth": _birth(os.getpid())}


def is_dead(data: dict[str, Any]) -> bool:
    """Whether a process, described by its `identity`, ran in this system and is gone."""
    return data.get("system") == _system() and isinstance(data.get("pid"), int) and _birth(data["pid"]) != data.get("birth")


def _acquire(folder: Path) -> Claim:
    mine = identity() | {"token": uuid.uuid4().hex, "started": time.time()}
    temporary = folder / f".claim.{mine['token']}.tmp"
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    try:
        os.write(handle, _text(mine))
        while True:
            now, found, before = os.fstat(handle).st_mtime, _numbered(folder), None
            number = found[-1][0] + 1 if found else 1
            if found and (before := _read(found[-1][1], now)) is None:
                continue  # released just now
            if before and not before.stale:
                heard = f"{before}, heartbeat {max(0.0, before.age):.0f} s ago"
                raise Claimed(f"{folder} is being computed by another process ({heard}); this one leaves it alone")
            if (exclusive := _publish(temporary, handle, _path(folder, number))) is None:
                os.utime(handle)  # its time is the clock that ages are measured by
                continue
            handle = exclusive
            break
    except BaseException:
        os.close(handle)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    claim = Claim(folder, number, handle, mine, before)
    for lower, path in _numbered(folder):
        if lower < number:
            # What was judged stale, or what a process made that came between; either way this one holds the highest number now.
            path.unlink(missing_ok=True)
    return claim


def _publish(temporary: Path, handle: int, path: Path) -> int | None:
    """Gives a finished file its name if nobody has it; returns the handle of the file behind the name, None if somebody was faster."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise Claimed(f"{path.parent} is being computed by another process; this one leaves it alone") from None
    except OSError:  # a file system without links
        return _create(path, handle)
    # The answer of a network file system may get lost, the link count not.
    return handle if os.fstat(handle).st_nlink == 2 else None


def _create(path: Path, handle: int) -> int | None:
    try:
        exclusive = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    except FileExistsError:
        return None
    os.pwrite(exclusive, os.pread(handle, WIDTH, 0), 0)
    os.close(handle)
    return exclusive


def _path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number}.json"


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """The claims in a folder, the lowest number first."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - once per cell that is looked at, of ten thousand
    except OSError:
        return []
    return sorted((int(match[1]), folder / name) for name in names if (match := NUMBERED.fullmatch(name)))


def _text(data: dict[str, Any]) -> bytes:
    return canonical(data).encode().ljust(WIDTH - 1) + b"\n"


def _read(path: Path, now: float) -> Holder | None:
    """A claim; None if it is gone. What cannot be read, because it is being written, says nothing but its age."""
    try:
        with disk.opened(path, 1 << 62) as (handle, status):
            age, text = now - status.st_mtime, os.read(handle, 4 * WIDTH)
    except (Fault, OSError):
        try:
            age, text = now - path.lstat().st_mtime, b""
        except OSError:
            return None
    try:
        data = parse_json(text)
        return Holder(
            host=str(data["host"]),
            pid=int(data["pid"]),
            age=age,
            dead=is_dead(data),
            phase=str(data.get("phase", "")),
            done=int(data.get("done", 0)),
            total=int(data.get("total", 0)),
            left=None if data.get("left") is None else float(data["left"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return Holder(host="an unknown host", pid=0, age=age, dead=False)


@cache
def _system() -> str:
    """What processes must share so that one can tell whether the other lives: the machine since its last start, and the process numbers."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), str(Path("/proc/self/ns/pid").readlink())]
    return " ".join(parts)


def _birth(pid: int) -> str | None:
    """When a process began, in a form that tells it from a later one of the same number; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return "unknown"
    return None if fields[0] in "ZX" else fields[19]
