"""Brings the weights of runs whose evidence is here: from anywhere, since only those that the evidence names are taken."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.errors import BenchError, Fault, UsageError, nearest
from bench.evidence import records
from bench.files import claims, disk, fetch
from bench.files.writing import sync_folder
from bench.store.runs import Store
from bench.store.subject import Damaged, Subject
from bench.store.submission import limit_of

ENDING = ".safetensors"


def wanted(store: Store, keys: Sequence[str]) -> tuple[list[Subject], list[Fault]]:
    """The runs and checkpoints whose keys begin with some words; all that are trained if there are no words, and what cannot be read.

    Raises:
        UsageError: a word that is the beginning of no key, or of several.
    """
    there: list[Subject] = []
    faults: list[Fault] = []
    for found in store.scan("runs", "checkpoints"):
        if isinstance(found, Damaged):
            faults.append(found.fault)
        elif records.attempt(faults, found.path, partial(_recorded, found)):
            there.append(found)
    if not keys:
        return there, faults
    problems: list[str] = []
    chosen: dict[str, Subject] = {}  # by key, for two words may begin one
    for word in keys:
        same = [subject for subject in there if word and subject.key.startswith(word)]
        if len(same) != 1:
            told = nearest(word, [subject.key for subject in there])
            problems.append(f"{len(same) or 'no'} trained runs in {store.root} have a key that begins with {word!r}{told}")
        chosen |= {subject.key: subject for subject in same[:1]}
    if problems:
        raise UsageError(problems)
    return [*chosen.values()], []


def pull(
    subject: Subject, root: Path, where: str, *, limit: int, seconds: float, progress: Callable[[int], None] = lambda size: None
) -> int | None:
    """Writes the weights of a run into its folder, if they are those that its records name; otherwise nothing is left of them.

    They are looked for as in a results folder, and as KEY.safetensors.

    Args:
        root: of the store. where: a folder or an address.
        limit: bytes that weights may have where no list of a submission says how many they have. progress: told bytes as they come.

    Returns:
        how many bytes; None if the right ones were there before.

    Raises:
        BenchError: they are not there, too large, not whole or not the recorded ones; other weights are in the folder; the server
            does not answer; another process is at the run. OSError: they cannot be written.
    """
    recorded = _recorded(subject)
    if disk.there(subject.weights):
        if (found := disk.sha256(subject.weights)) == recorded:
            return None
        raise BenchError(f"{subject.weights}: SHA-256 is {found}, but {recorded} is recorded; move that file away")
    exact = limit_of(root, subject.weights)
    temporary = subject.path / f".{subject.weights.name}.{os.getpid()}.tmp"
    with subject.claimed():
        try:
            hashed, size = hashlib.sha256(), 0
            with temporary.open("wb") as file:
                for piece in _pieces(subject, where, limit if exact is None else exact, seconds):
                    claims.guard(subject.weights)
                    file.write(piece)
                    hashed.update(piece)
                    size += len(piece)
                    progress(len(piece))
                file.flush()
                os.fsync(file.fileno())
            if (found := hashed.hexdigest()) != recorded:
                raise BenchError(f"{where}: SHA-256 of what came for {subject.key} is {found}, but {recorded} is recorded; nothing is kept")
            temporary.replace(subject.weights)
            sync_folder(subject.path)
        finally:
            temporary.unlink(missing_ok=True)
    return size


def _recorded(subject: Subject) -> str | None:
    return (subject.training() or {}).get("weights_sha256")


def _pieces(subject: Subject, where: str, limit: int, seconds: float) -> Iterator[bytes]:
    """From the first place that has such a file."""
    places = (f"{subject.place(subject.spec).as_posix()}/{subject.weights.name}", f"{subject.key}{ENDING}")
    for name in places:
        try:
            yield from fetch.pieces(where, name, limit=limit, seconds=seconds)
        except fetch.NotThere:
            continue
        return
    raise BenchError(f"{where} has neither {places[0]} nor {places[1]}")
