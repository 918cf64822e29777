"""A run that this process holds: what is read and written in its folder while it is computed.

A cell goes `hold` -> `Work.begin` -> `record_environment`, checkpoints -> `finish_training` -> rows of its certification -> its seal.
Every write first asks whether the run is still this process's (`bench.files.claims`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import claims, disk
from bench.files.writing import sha256, write_atomically, write_json
from bench.spec import CertifySpec
from bench.store.runs import Run, Store, checkpoints
from bench.store.subject import Certification, State

DIGEST = 64
"""Characters of a SHA-256, which a checkpoint stands behind."""


class Work:
    """The records of a run and of one of its certifications, for the process that claimed the run.

    Attributes:
        before: the holder that the run was taken over from, None if there was none.
    """

    def __init__(self, run: Run, certification: Certification, claim: claims.Claim) -> None:
        self.run, self.certification, self.before = run, certification, claim.before
        self.note: Callable[[str, int, int], None] = claim.note

    def begin(self) -> State:
        """How far the cell is. What is not over is made ready to be continued; what is done is sealed, where a kill came before that.

        Raises:
            BenchError: damaged evidence or records.
        """
        state = self.certification.status().sound().state
        if state == "done":
            self.certification.seal()
            self.run.forget_failure()
        elif state != "diverged":
            self.run.begin()
            if self.run.training():
                self._drop_checkpoints()  # the last training ended before it removed them
        return state

    @property
    def weights_sha256(self) -> str | None:
        """Of the finished training; None before that."""
        return (self.run.training() or {}).get("weights_sha256")

    def begun_with(self) -> dict[str, Any] | None:
        """What the training's checkpoint was made with; None if there is none."""
        return self.run.environment() if checkpoints(self.run.path) else None

    def record_environment(self, made_with: dict[str, Any]) -> None:
        """Writes what a training is made with, before its first checkpoint is written."""
        write_json(self.run.path / "environment.json", made_with)

    def save_checkpoint(self, payload: bytes) -> None:
        """Writes a checkpoint behind its SHA-256; the one before it is kept."""
        if self.run.checkpoint.exists():
            claims.guard(self.run.checkpoint)
            self.run.checkpoint.replace(self.run.older_checkpoint)
        write_atomically(self.run.checkpoint, hashlib.sha256(payload).hexdigest().encode() + payload)

    def checkpoints(self) -> Iterator[tuple[Path, bytes | None]]:
        """The checkpoints, the newest first; None for what is damaged."""
        for path in checkpoints(self.run.path):
            yield path, read_checkpoint(path)

    def continue_from(self, path: Path) -> None:
        """Removes a damaged checkpoint that is newer than this one, so that the next to be saved does not push it over this one."""
        if path != self.run.checkpoint:
            claims.guard(self.run.checkpoint)
            self.run.checkpoint.unlink(missing_ok=True)

    def finish_training(
        self, curve: str, weights: bytes, timing: dict[str, Any], steps: int, surveys: Mapping[str, str] | None = None
    ) -> None:
        """Writes the results of a training; it counts as finished once this returns. surveys: file name -> SHA-256 of each."""
        write_atomically(self.run.curve, curve.encode())
        write_atomically(self.run.weights, weights)
        write_json(self.run.path / "timing.json", timing)
        record = {"state": "trained", "steps": steps, "weights_sha256": sha256(self.run.weights)}
        write_json(self.run.path / "training.json", record | ({"surveys": dict(surveys)} if surveys else {}))
        self._drop_checkpoints()

    def diverge(self, reason: str) -> None:
        """Records that the training cannot be finished."""
        write_json(self.run.path / "training.json", {"state": "diverged", "reason": reason})

    def fail(self, kind: str, reason: str, trace: str) -> bool:
        """Records why this attempt came to nothing; whether that could be written.

        Raises:
            BenchError: this process lost the run, so that a write failed of something else than it seems.
        """
        if lost := claims.lost(self.run.path):
            raise lost
        try:
            self.run.fail(kind, reason, trace)
        except (OSError, BenchError):
            return False
        return True

    def _drop_checkpoints(self) -> None:
        for path in checkpoints(self.run.path):
            path.unlink()


@contextlib.contextmanager
def hold(run: Run, certify: CertifySpec) -> Iterator[Work]:
    """Claims a run for the length of the block.

    Raises:
        Claimed: another process is at it.
    """
    with run.claimed() as claim:
        yield Work(run, run.certification(certify), claim)


def read_checkpoint(path: Path) -> bytes | None:
    """What was saved; None if it is damaged."""
    content = disk.read(path)
    digest, payload = content[:DIGEST], content[DIGEST:]
    return payload if hashlib.sha256(payload).hexdigest().encode() == digest else None


def set_aside(run: Run, store: Store) -> Path | None:
    """Moves a run's folder out of the way so that it is computed again; nothing is deleted.

    Returns:
        where it now is, None if there was none.
    """
    if not run.path.exists():
        return None
    graveyard = store.root / ".replaced"
    graveyard.mkdir(parents=True, exist_ok=True)
    number = 1
    while (target := graveyard / f"{run.path.name}-{number}").exists():
        number += 1
    with run.claimed():
        run.path.rename(target)
        claims.sweep(target)
    return target


def seal(certification: Certification) -> None:
    """Writes the record that a kill kept a finished certification from, if nothing else is at it."""
    run = certification.subject
    with contextlib.suppress(BenchError, OSError):
        if certification.binding().open(certification.path) or run.failure():
            with run.claimed():
                certification.seal()
                run.forget_failure()


def record_failure(certification: Certification, kind: str, reason: str, trace: str = "", log: str = "") -> State:
    """Writes a failure that the cell's own process could not write.

    Args:
        log: the end of what the process printed.

    Returns:
        failed; or done, where it died after its last row.
    """
    run = certification.subject
    with contextlib.suppress(BenchError, OSError), run.claimed():  # the reason is printed all the same
        if kind in ("crash", "timeout") and certification.status().sound().state == "done":
            return "done"
        before = run.failure() or {}
        run.fail(kind, reason, trace or str(before.get("trace", "")), log)
    return "failed"
