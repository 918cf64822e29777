"""What evidence is worth: what it holds itself, and what this user's own `bench verify` found out about it.

The latter never lies beside results, where a forger could write it, but in the user's state folder, under a digest of the evidence and of
all that it is of: a changed file is another one, of which nothing is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, counted
from bench.evidence.binding import Binding
from bench.spec import digest

VARIABLE = "BENCH_STATE_DIR"
LEVELS = ("claimed", "log", "evidence", "weights checked", "recertified")
FILE = "verified.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS verified (key TEXT PRIMARY KEY, images TEXT NOT NULL)"


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What a number rests on.

    Attributes:
        level: one of LEVELS: `claimed`, labels that cannot be compared here; `log`, radii without counts; `evidence`, counts that fit their
            specs and labels; `weights checked`, they lie beside it and are the recorded ones; `recertified`, counted again from them.
        images: how many of them were counted again.
        bound: whether records say which weights and specs the counts are of, see `bench.evidence.binding`.
    """

    level: str
    images: int = 0
    bound: bool = True

    def __str__(self) -> str:
        word = f"recertified on {counted(self.images, 'image')}" if self.level == "recertified" else self.level
        return word if self.bound else f"{word}, unbound"

    @property
    def rank(self) -> tuple[int, int, bool]:
        """Orders them; the lowest of its trainings is that of a row."""
        return LEVELS.index(self.level), self.images, self.bound


def weakest(trusts: Iterable[Trust]) -> Trust | None:
    """That of the training of which least is known; None of none."""
    return min(trusts, key=lambda trust: trust.rank, default=None)


def key_of(binding: Binding, evidence_sha256: str) -> str:
    """What a finding is kept under."""
    return digest([*vars(binding).values(), evidence_sha256])


def folder() -> Path:
    """Where findings are kept: BENCH_STATE_DIR, or below XDG_STATE_HOME or ~/.local/state."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path(os.path.expanduser("~/.local/state"))  # noqa: PTH111 - it may have no home
    return base / "certbench"


def anything() -> bool:
    """Whether anything is kept."""
    return (folder() / FILE).is_file()


def recall(keys: Sequence[str]) -> Mapping[str, int]:
    """Key -> images that were counted again, 0 where only weights were checked; nothing of what was not verified."""
    path = folder() / FILE
    if not keys or not path.is_file():
        return {}
    with contextlib.suppress(sqlite3.Error, ValueError, OSError), _opened(path) as database:
        known = {key: len(json.loads(images)) for key, images in database.execute("SELECT key, images FROM verified")}
        return {key: known[key] for key in keys if key in known}
    return {}


def remember(found: Mapping[str, Iterable[int] | None]) -> None:
    """Keeps what a verification found.

    Args:
        found: key -> images that were counted again (on top of earlier ones), none where only weights were checked; None: it fails, and
            what was known of it is void.

    Raises:
        BenchError: the folder cannot be written to.
    """
    path = folder() / FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path) as database:
            database.execute(_TABLE)
            for key, images in found.items():
                if images is None:
                    database.execute("DELETE FROM verified WHERE key = ?", (key,))
                    continue
                before = database.execute("SELECT images FROM verified WHERE key = ?", (key,)).fetchone()
                every = sorted({*(json.loads(before[0]) if before else ()), *images})
                database.execute("INSERT OR REPLACE INTO verified VALUES (?, ?)", (key, json.dumps(every)))
    except (sqlite3.Error, ValueError, OSError) as error:
        raise BenchError(f"{path}: what was verified is not kept there: {error}; {VARIABLE} names another folder") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A database; what was changed inside is kept if nothing was raised."""
    database = sqlite3.connect(path, timeout=10)
    try:
        with database:
            yield database
    finally:
        database.close()
