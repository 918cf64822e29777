"""How the suite opens what lies in a results folder, which anybody may have written: the only place that does.

A name in such a folder may be a file, and it may be a link to an endless one, a pipe that nobody writes to, a device, or a sparse file of
terabytes. So a file is opened without following a link and without waiting, what was opened is looked at (a regular file, no larger
than any of its kind), and no more is read than it then had.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from bench.errors import Fault

MIB = 1 << 20
LIMITS: Mapping[str, int] = {
    "claim": 64 << 10,
    "announcement": 24 * MIB,
    "environment.json": 4 * MIB,
    "failure.json": 4 * MIB,
    "curve.csv": 8 * MIB,
    "submission.json": 16 * MIB,
    "times.csv": 16 * MIB,
    "rows.tsv": 64 * MIB,
    "evidence.jsonl": 2048 * MIB,
    "survey": 2048 * MIB,
    "weights.safetensors": 16384 * MIB,
    "checkpoint.bin": 65536 * MIB,
    "checkpoint.older.bin": 65536 * MIB,
}
"""The largest size of a stored file in bytes, by its name; OTHERS holds for the rest. docs/notes/verification.md has the same table."""
OTHERS = MIB
SURVEY = re.compile(r"survey-[a-z0-9][a-z0-9_-]{0,63}-\d{1,9}\.jsonl\Z")
"""The names of the files of a run's surveys."""


def limit_of(name: str) -> int:
    """The largest size of a stored file of that name in bytes."""
    return LIMITS.get("survey" if SURVEY.match(name) else name, OTHERS)


Kind = Literal["file", "folder", "link", "pipe", "socket", "device"]
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_KINDS: Mapping[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def kind_of(mode: int) -> Kind:
    """What a file's mode says that it is."""
    return _KINDS.get(stat.S_IFMT(mode), "device")


@contextmanager
def opened(path: Path, limit: int | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file, open for reading, and what the system says of it.

    Args:
        limit: bytes; that of its name if None.

    Raises:
        Fault: it is absent, unreadable, no regular file or too large.
    """
    handle, status = _open(path, limit)
    try:
        yield handle, status
    finally:
        os.close(handle)


def _open(path: Path, limit: int | None) -> tuple[int, os.stat_result]:
    try:
        handle = os.open(path, _FLAGS)
    except OSError as error:
        raise _fault(path, error) from None
    status = os.fstat(handle)
    most = limit_of(path.name) if limit is None else limit
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return handle, status
    os.close(handle)
    if not stat.S_ISREG(status.st_mode):
        raise Fault(path, None, f"it is a {kind_of(status.st_mode)}, not a file")
    raise Fault(path, None, f"it has {status.st_size:,} bytes, and no such file has more than {most:,}")


def _fault(path: Path, error: OSError) -> Fault:
    if error.errno == errno.ELOOP:
        return Fault(path, None, "it is a link, which is not followed")
    if error.errno == errno.ENXIO:
        return Fault(path, None, "it is a socket or a device, not a file")
    return Fault(path, None, f"cannot be read: {error.strerror}", error.errno)


def pieces(path: Path, handle: int, size: int, length: int = 4 * MIB) -> Iterator[bytes]:
    """The first bytes of an open file, in pieces; fewer if it has become shorter.

    Raises:
        Fault: the disk does not give them.
    """
    left = size
    while left:
        try:
            piece = os.read(handle, min(left, length))
        except OSError as error:
            raise _fault(path, error) from None
        if not piece:
            return
        left -= len(piece)
        yield piece


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The content of a regular file that is not empty, without taking memory for it. Errors: see `opened`."""
    with opened(path) as (handle, status), mmap.mmap(handle, status.st_size, access=mmap.ACCESS_READ) as content:
        yield content


def read(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file. Args and errors: see `opened`."""
    handle, status = _open(path, limit)  # without the context, which takes as long as a small file
    try:
        return b"".join(pieces(path, handle, status.st_size))
    finally:
        os.close(handle)


def read_if_there(path: Path, limit: int | None = None) -> bytes | None:
    """As `read`; None where nothing has that name."""
    try:
        return read(path, limit)
    except Fault as fault:
        if absent(fault):
            return None
        raise


def absent(fault: Fault) -> bool:
    """Whether nothing has the name of the file."""
    return fault.errno == errno.ENOENT


def there(path: Path) -> bool:
    """Whether anything has this name, also a link to nothing."""
    return os.path.lexists(path)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a regular file. Errors: see `opened`."""
    hashed = hashlib.sha256()
    with opened(path) as (handle, status):
        for piece in pieces(path, handle, status.st_size):
            hashed.update(piece)
    return hashed.hexdigest()


def identity(status: os.stat_result) -> str:
    """What changes when a file is written, replaced or given another time."""
    return f"{status.st_dev:x} {status.st_ino:x} {status.st_size:x} {status.st_mtime_ns:x} {status.st_ctime_ns:x}"


def children(folder: Path) -> dict[str, Kind]:
    """What is in a folder, by name, in order; no link is followed.

    Raises:
        Fault: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: _kind(entry) for entry in entries}
    except OSError as error:
        raise _fault(folder, error) from None
    return dict(sorted(found.items()))


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_file(follow_symlinks=False):
        return "file"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if entry.is_symlink():
        return "link"
    try:
        return kind_of(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return "file"  # gone since; whoever opens it will say so
