"""From a folder of logs into the result store: every file is checked before the first is written."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.datasets import DATASETS
from bench.errors import BenchError, UsageError, nearest
from bench.evidence import certification_log
from bench.evidence.certification_log import FieldRow, Refused
from bench.files.walk import IMPORTED
from bench.files.writing import write_atomically, write_json
from bench.logs.logmap import LogMap
from bench.spec import select_images, to_json
from bench.store.imports import Import, ImportSpec
from bench.store.runs import Store


@dataclass(frozen=True)
class Report:
    """What came of an import.

    Attributes:
        read: file -> its spec; these logs are in the store now, unless nothing was written.
        already: file -> key; they were there before.
        same: file -> the file with the same content, which was read or is there already.
        skipped: file -> why the map leaves it out.
        refused: the others; no part of them is in the store.
        written: False if `strict` and something was refused.
    """

    read: Mapping[str, ImportSpec]
    already: Mapping[str, str]
    same: Mapping[str, str]
    skipped: Mapping[str, str]
    refused: Sequence[Refused]
    written: bool

    @property
    def fruitless(self) -> bool:
        """Something was refused, and nothing of the rest is in the store."""
        return bool(self.refused) and not (self.read or self.already or self.same)


@dataclass(frozen=True)
class _Pending:
    file: str
    spec: ImportSpec
    data: bytes  # of rows.tsv
    labels: tuple[int, ...]


def import_logs(path: Path, root: Path, log_map: LogMap, *, strict: bool = False) -> Report:
    """Reads a folder of logs, or one log, into a store. Everything is checked before anything is written.

    Hidden files are left out; symbolic links are read only where they stay within the folder, and never followed to a folder.

    Args:
        path: the folder or file.
        root: the store's folder.
        strict: write nothing if any file is refused.

    Raises:
        UsageError: no such path, or no file in it.
        BenchError: a damaged import in the store.
        OSError: the store cannot be written.
    """
    refused: list[Refused] = []
    files = _walk(path, root / IMPORTED, refused)
    if not files and not refused:
        raise UsageError([f"there are no files in {path}"])
    work = _Work(log_map, root)
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    above = folder.parts[1:]
    for name, file in files:
        try:
            work.add(name, file, above)
        except Refused as error:
            refused.append(error)
        except OSError as error:
            refused.append(Refused(name, None, f"{error.strerror}", "unreadable"))
    pending, wrong = work.with_known_labels()
    refused += wrong
    bad = {error.file for error in wrong}
    for name, other in list(work.same.items()):
        if other in bad:
            del work.same[name]
            refused.append(Refused(name, None, f"same content as {other}, which is refused", "labels"))
    refused.sort(key=lambda error: error.file)
    written = not (strict and refused)
    if written:
        for log in pending:
            write_atomically(root / Import.place(log.spec) / "rows.tsv", log.data)
            write_json(root / Import.place(log.spec) / "spec.json", to_json(log.spec))
    return Report({log.file: log.spec for log in pending}, work.already, work.same, work.skipped, refused, written)


def shown(name: str) -> str:
    """A file name that is safe to print: control characters and bytes that are no text become escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in name)


def _walk(path: Path, store: Path, refused: list[Refused]) -> list[tuple[str, Path]]:
    """Name and path of every file, sorted; links that leave the folder go to `refused`."""
    if not path.exists():
        near = nearest(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise UsageError([f"there is no {path}{near}"])
    if not path.is_dir():
        return [(path.name, path)]
    top, found = path.resolve(), []

    def unreadable(error: OSError) -> None:
        name = Path(error.filename).relative_to(path).as_posix()
        refused.append(Refused(shown(name), None, f"{error.strerror}", "unreadable"))

    for folder, folders, names in os.walk(path, onerror=unreadable):
        place = Path(folder)
        links = [name for name in folders if (place / name).is_symlink()]
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in links and (place / n).resolve() != store.resolve())
        for name in sorted([*names, *links]):
            file = place / name
            if name.startswith("."):
                continue
            called = shown(file.relative_to(path).as_posix())
            if file.is_symlink() and not file.resolve().is_relative_to(top):
                refused.append(Refused(called, None, f"a link that leaves {path} is not followed", "link"))
            elif name in links:
                refused.append(Refused(called, None, "a link to a folder is not followed; its files are read where they are", "link"))
            else:
                found.append((called, file))
    return sorted(found)


class _Work:
    """The logs of one import on their way into a store.

    Args:
        log_map: what paths mean.
        root: the store's folder.
    """

    def __init__(self, log_map: LogMap, root: Path) -> None:
        self.map = log_map
        self.stored = [entry for entry in Store(root).subjects(Import) if entry.spec.collection == log_map.collection]
        self.by_content = {entry.spec.sha256: entry for entry in self.stored}
        self.pending: dict[str, _Pending] = {}  # by SHA-256 of the file
        self.places = {_place(entry.spec): entry.spec for entry in self.stored}
        self.already: dict[str, str] = {}
        self.same: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def add(self, name: str, file: Path, above: Sequence[str]) -> None:
        """Takes a file in, or says why it is left out.

        Raises:
            Refused: it cannot be placed, or is not entirely what its place says.
            OSError: it cannot be read.
        """
        placed = self.map.place(name, above)
        if placed.skip:
            self.skipped[name] = placed.skip
            return
        data = certification_log.load(file, name=name)
        sha256 = hashlib.sha256(data).hexdigest()
        stored = self.by_content.get(sha256)
        twin = stored.spec if stored else self.pending[sha256].spec if sha256 in self.pending else None
        if twin and (twin.dataset, twin.arch, twin.row, twin.sigma) != placed.place[:-1]:
            where = f"{twin.row} at sigma {twin.sigma:g}"
            reason = f"same content as {twin.source}, which is {where}, while the path says {placed.row} at sigma {placed.sigma:g}"
            raise Refused(name, None, reason, "same content")
        if stored and stored.spec.source == placed.source:
            own = placed.spec(stored.spec.collection, stored.spec.images, sha256, stored.spec.rows_sha256)
            if own != stored.spec:
                reason = f"it was imported under another map, as {stored.path}; remove that folder to import it anew"
                raise Refused(name, None, reason, "same content")
        if stored and self._intact(stored):
            if stored.spec.source == placed.source:
                self.already[name] = stored.spec.key
            else:
                self.same[name] = stored.spec.source
            return
        if sha256 in self.pending:
            self.same[name] = self.pending[sha256].file
            return
        if (other := self.places.get(placed.place)) and other.sha256 != sha256:
            reason = f"{placed.row} at sigma {placed.sigma:g}, run {placed.run}, is {other.source} already, whose content differs"
            raise Refused(name, None, reason, "same place")
        classes, size = self.map.sizes[placed.dataset]
        expected = certification_log.Expected(
            classes=classes, test_size=size, images=placed.images, n=placed.n, alpha=placed.alpha, sigma=placed.sigma
        )
        log = certification_log.parse(data, expected, name=name)
        rows = certification_log.canonical(log.rows)
        own = placed.spec(self.map.collection, log.images, sha256, hashlib.sha256(rows).hexdigest())
        if stored and stored.spec.rows_sha256 == own.rows_sha256:
            own = stored.spec  # damaged on disk: written again in the same place
        self.places[placed.place] = own
        self.pending[sha256] = _Pending(name, own, rows, tuple(row.label for row in log.rows))

    def _intact(self, entry: Import) -> bool:
        try:
            entry.data()
        except BenchError:
            return False
        return True

    def with_known_labels(self) -> tuple[list[_Pending], list[Refused]]:
        """The logs whose labels agree with what is known of their data set, and the others.

        Known is what ships with the package, then what the store holds, then what most of the new logs say: one
        wrong log must not make strangers of the right ones.
        """
        known: dict[str, tuple[dict[int, int], str]] = {}
        groups: dict[tuple[str, str, tuple[int, ...]], list[_Pending]] = defaultdict(list)
        for log in self.pending.values():
            groups[log.spec.dataset, log.spec.images, log.labels].append(log)
        good, refused = [], []
        for (dataset, images, labels), logs in sorted(groups.items(), key=lambda item: -len(item[1])):
            if dataset not in known:
                known[dataset] = self._labels(dataset)
            sure, source = known[dataset]
            indices = select_images(images, self.map.sizes[dataset][1])
            rows = [FieldRow(index, label, -1, "") for index, label in zip(indices, labels, strict=True)]
            for log in logs:
                try:
                    certification_log.check_labels(rows, sure, name=log.file, source=source or "most other logs of the data set")
                except Refused as error:
                    refused.append(error)
                else:
                    good.append(log)
            if good and good[-1] is logs[-1]:
                sure |= dict(zip(indices, labels, strict=True))
        return sorted(good, key=lambda log: log.file), refused

    def _labels(self, dataset: str) -> tuple[dict[int, int], str]:
        """Labels known before this import, and where from."""
        if dataset in DATASETS and (labels := DATASETS[dataset].known_labels()) is not None:
            return dict(enumerate(labels)), "the data set"
        found: dict[int, int] = {}
        selections = {entry.spec.images: entry for entry in self.stored if entry.spec.dataset == dataset and self._intact(entry)}
        for entry in selections.values():
            found |= {row.index: row.label for row in entry.rows()}
        return found, "logs that were imported before" if found else ""


def _place(spec: ImportSpec) -> tuple[str, str, str, float, str]:
    return spec.dataset, spec.arch, spec.row, spec.sigma, spec.run
