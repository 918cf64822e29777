"""How records are written and read: whole or not at all, on disk once a call returns, and never by a process that lost its run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from bench import claims
from bench.errors import BenchError
from bench.spec import canonical, parse_json

JSON_BYTES = 128 << 20
"""No record is larger: the largest tells of the cells of a `bench run`, 10,000 of them in 5 MB."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file so that a reader or a crash sees the old content or the new, never a part.

    Raises:
        BenchError: the file belongs to a run that this process claimed and lost.
    """
    make_folder(path.parent, claims.guard(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        claims.guard(path)
        temporary.replace(path)
    except (OSError, BenchError):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Removes what killed writes left in a folder and below it. What live processes are about to rename may vanish meanwhile."""
    claims.sweep_attempts(folder)
    for leftover in [*folder.rglob(".*.tmp")]:
        if not leftover.name.startswith(".claim."):
            leftover.unlink(missing_ok=True)


def make_folder(folder: Path, root: Path | None = None) -> None:
    """Makes a folder and those above it, each of which outlives a loss of power; not a root that is gone, which is FileNotFoundError."""
    missing = []
    while folder != root and not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Canonical JSON with a line end, atomically."""
    write_atomically(path, (canonical(value) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        BenchError: unreadable, or not an object.
    """
    try:
        data = parse_json(read_record(path))
    except ValueError as error:
        raise BenchError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise BenchError(f"{path}: expected an object, found {type(data).__name__}")
    return data


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) > JSON_BYTES:
                raise BenchError(f"{path} has more than {JSON_BYTES >> 20} MB, which no record of a run has")
            return file.read(size)
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None
