"""What was read once, kept in the user's own cache for the next time; never beside results, which travel.

What is kept is found by the identity of the file that it was read from (device, inode, size, times of content and of status), so that
a file that was written, replaced, copied or put back is read anew. The folder is BENCH_CACHE_DIR, else certbench/read in XDG_CACHE_HOME
or ~/.cache; BENCH_CACHE_DIR=off keeps nothing. It may be deleted at any time, and where it cannot be written to, or others can, nothing
is kept: only time is lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
import time
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.datasets.source import user_cache
from bench.errors import Fault
from bench.evidence import log as logs
from bench.evidence import rows
from bench.evidence.columns import pack, unpack
from bench.files import claims, disk

VARIABLE = "BENCH_CACHE_DIR"
LEAST = 100_000
"""Bytes; a smaller file is read fast enough."""
SETTLED_SECONDS = 2.0
"""A file that was changed within this time before it was read may change again without another time stamp."""
KEPT = re.compile(r"[0-9a-f]{40}")
DIGEST = 64
"""Digits of the SHA-256 in front of a log that is kept."""
DAYS = 60
"""After so long without being written anew, what is kept is deleted."""


def folder() -> Path | None:
    """Where things are kept; None: nowhere."""
    word = os.environ.get(VARIABLE, "")
    if word.lower() == "off":
        return None
    return _ready(Path(word).absolute() if word else user_cache().with_name("read"))


@cache
def _ready(place: Path) -> Path | None:
    """The folder, made if it is not there; None where what is in it is not this user's alone, or nothing can be."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or (hasattr(os, "getuid") and status.st_uid != os.getuid()):
            return None
        _forget_old(place)
    except OSError:
        return None
    return place


def _forget_old(place: Path) -> None:
    limit = time.time() - DAYS * 86_400
    with os.scandir(place) as entries:
        for entry in entries:
            own = KEPT.fullmatch(entry.name) or entry.name.startswith("tmp")
            if own and entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < limit:
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def get(key: str) -> bytes | None:
    """What was kept under a key; None where nothing was, or not whole."""
    if (place := folder()) is None:
        return None
    try:
        data = disk.read(place / _name(key), 1 << 30)
    except Fault:
        return None
    head, payload = data[:8], data[8:]
    return payload if head == b"%08x" % zlib.crc32(payload) else None


def put(key: str, payload: bytes) -> None:
    """Keeps something under a key, if it can be kept."""
    if (place := folder()) is None:
        return
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=place)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(b"%08x" % zlib.crc32(payload) + payload)
            Path(name).replace(place / _name(key))
        except OSError:
            Path(name).unlink()
            raise


def _name(key: str) -> str:
    return hashlib.blake2b(f"{_release()} {key}".encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


@cache
def _release() -> str:
    """Another release may read files differently, so each takes only what it kept itself."""
    here = Path(__file__).parents[1]
    rooms = ("evidence", "files", "logs", "rules", "spec", "store")
    sources = [path for room in rooms for path in sorted((here / room).rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def kept_log(path: Path, most: int) -> logs.Log:
    """As `log.read`, from the cache where it has it; an absent log is an empty one."""
    identity = _large(path)
    if identity and (payload := get(f"log {identity}")) and (columns := unpack(payload[DIGEST:])) is not None:
        return logs.Log(columns, np.arange(1, len(columns) + 1), (), 0, payload[:DIGEST].decode())
    try:
        log = logs.read(path, most)
    except Fault as fault:
        if disk.absent(fault):
            return logs.EMPTY
        raise
    if identity and not log.faults and not log.torn and _settled(path, identity):
        put(f"log {identity}", log.sha256.encode() + pack(log.columns))
    return log


def kept_times(path: Path) -> NDArray[np.int64]:
    """As `rows.read_times`, from the cache where it has it."""
    if (identity := _large(path)) and (payload := get(f"times {identity}")) is not None and len(payload) % 8 == 0:
        return np.frombuffer(payload, dtype=np.int64)
    times = rows.read_times(path)
    if identity and _settled(path, identity):
        put(f"times {identity}", times.tobytes())
    return times


def _large(path: Path) -> str:
    """The identity of a file that is worth keeping, else nothing."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return ""
    return disk.identity(status) if stat.S_ISREG(status.st_mode) and status.st_size >= LEAST else ""


def _settled(path: Path, identity: str) -> bool:
    """Whether a file is still what it was, and was not changed just now by the clock of its file system."""
    if folder() is None or _large(path) != identity:
        return False
    status = path.lstat()
    return max(status.st_mtime, status.st_ctime) < claims.present(path.parent) - SETTLED_SECONDS
