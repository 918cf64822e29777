"""How records are written and read: whole or not at all, on disk once a call returns, and never by a process that lost its run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from bench.errors import BenchError, Fault, clipped
from bench.files import claims, disk
from bench.spec import canonical, parse_json


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
        Fault: absent, unreadable, too large, or not an object.
    """
    return _object(path, disk.read(path))


def read_json_if_there(path: Path) -> dict[str, Any] | None:
    """As `read_json`; None where nothing has that name."""
    content = disk.read_if_there(path)
    return None if content is None else _object(path, content)


def _object(path: Path, content: bytes) -> dict[str, Any]:
    try:
        data = parse_json(content)
    except ValueError as error:
        raise Fault(path, None, clipped(str(error))) from None
    if not isinstance(data, dict):
        raise Fault(path, None, f"expected an object, found {type(data).__name__}")
    return data


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file of people's, wherever it is; of a stored one see `disk.sha256`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
