"""What every `bench run` has in hand, told in the results folder, so that any shell can tell a queued cell from a forgotten one.

    ROOT/.matrix/<id>.json    its cells and its process; its modification time is the last heartbeat

The file goes when all of its cells are done. That of a process that ended before stays, and says what was never begun, until a later
`bench run` takes all of its cells in hand. Where a batch system has the cells, the file names their jobs instead of a process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, Fault
from bench.files import claims, disk
from bench.files.writing import write_json
from bench.matrix import slurm_queue
from bench.spec import parse_json
from bench.store.runs import results_flag

FOLDER = ".matrix"
NAMES = ("key", "row", "data set", "sigma", "seed", "protocol", "recipe")
"""What a listing calls a cell by."""
PLAIN = re.compile(r"[A-Za-z0-9@%+=:,./_-]+(?: [A-Za-z0-9@%+=:,./_-]+)*")
"""Words that need no quotes, which nearly all are; taking ten thousand lines apart as a shell does takes a second."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A cell that a `bench run` has in hand.

    Attributes:
        folder: of its run, below the results folder. certification: key. names: row, data set, sigma, seed, as a listing shows them.
        words: after `bench run`, for this cell alone. plugins: files that it needs. seconds: estimated.
        job: of a batch system that has the cell, empty if none has.
    """

    folder: str
    certification: str
    names: dict[str, Any]
    words: str
    plugins: tuple[str, ...]
    seconds: float | None
    job: str = ""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """The cells of one `bench run`, in the order in which they are handed out.

    Attributes:
        alive: its process is still at it; what jobs are at is for the batch system to say.
    """

    path: Path
    cells: tuple[Planned, ...]
    alive: bool


@contextlib.contextmanager
def announced(root: Path, cells: Sequence[Planned], done: Collection[str]) -> Iterator[Path]:
    """Tells what is in hand for the length of the block; the file stays, unless the block removes it.

    Args:
        done: folders of the runs of the same matrix that need nothing more.

    A folder that cannot be written to is none of its concern: the first cell will say so.
    """
    path = root / FOLDER / f"{uuid.uuid4().hex}.json"
    with contextlib.suppress(OSError):
        _forget(root, {cell.folder for cell in cells} | set(done), path)
        write_json(path, claims.identity() | {"cells": [vars(cell) for cell in cells]})
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(claims.HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(path)

    heart = threading.Thread(target=beat, name="heartbeat", daemon=True)
    heart.start()
    try:
        yield path
    finally:
        ended.set()
        heart.join()


def handed_over(root: Path, cells: Sequence[Planned], done: Collection[str], path: Path | None = None) -> Path:
    """Tells which jobs of a batch system have which cells, for as long as anybody asks.

    Args:
        done: as of `announced`.
        path: what this told before, with fewer cells; it is replaced.
    """
    path = path or root / FOLDER / f"{uuid.uuid4().hex}.json"
    write_json(path, {"cells": [vars(cell) for cell in cells]})
    _forget(root, {cell.folder for cell in cells} | set(done), path)
    return path


def _forget(root: Path, mine: Collection[str], own: Path) -> None:
    """Removes the announcements of others who are gone and whose cells are all in hand now."""
    others = [matrix for matrix in matrices(root) if not matrix.alive and matrix.path != own]
    old = [matrix for matrix in others if set(mine).issuperset(cell.folder for cell in matrix.cells)]
    at_work = slurm_queue.alive({cell.job for matrix in old for cell in matrix.cells} - {""})
    for matrix in old:
        jobs = {cell.job for cell in matrix.cells} - {""}
        if not jobs or (at_work is not None and not jobs & at_work):
            matrix.path.unlink(missing_ok=True)


def line(words: str, plugins: Sequence[str], root: Path) -> str:
    """A `bench` of its own for one cell. words: after `bench`, quoted."""
    parts = [f"bench {words}"]
    parts += [f"--plugin {shlex.quote(plugin)}" for plugin in plugins]
    return " ".join(parts) + results_flag(root)


def withdraw(path: Path) -> None:
    """Removes an announcement whose cells are done."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()  # fails while there are others


def matrices(root: Path) -> list[Matrix]:
    """What was announced; a file that cannot be read is left out, since it decides nothing but words on a screen."""
    try:
        paths = [root / FOLDER / name for name, kind in disk.children(root / FOLDER).items() if name.endswith(".json") and kind == "file"]
    except Fault:
        paths = []
    now = claims.present(root) if paths else 0.0
    found = []
    for path in paths:
        with contextlib.suppress(BenchError, OSError, KeyError, TypeError, ValueError, AttributeError):
            data, age = parse_json(disk.read(path, disk.LIMITS["announcement"])), now - path.stat().st_mtime
            cells = tuple(_planned(cell) for cell in data["cells"])
            alive = "pid" in data and age < claims.STALE_SECONDS and not claims.is_dead(data)
            found.append(Matrix(path=path, cells=cells, alive=alive))
    return found


def _planned(data: dict[str, Any]) -> Planned:
    """A cell of an announcement; BenchError if it is not of a kind that this release writes, for people paste its words into a shell."""
    cell = Planned(**data | {"plugins": tuple(data["plugins"])})
    texts = (cell.folder, cell.certification, cell.words, *cell.plugins, cell.job)
    plain = all(name in NAMES and isinstance(value, str | int | float) for name, value in dict(cell.names).items())
    if not all(isinstance(text, str) and text.isprintable() for text in texts) or not plain:
        raise BenchError(f"{cell.folder!r} is not a cell")
    quoted = PLAIN.fullmatch(cell.words) or shlex.join(shlex.split(cell.words)) == cell.words
    if not quoted or Path(cell.folder).is_absolute() or ".." in Path(cell.folder).parts:
        raise BenchError(f"{cell.folder} with {cell.words!r} is not a cell of this folder")
    return cell
