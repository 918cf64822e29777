"""From a folder of logs into the result store: every file is checked before the first is written."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.datasets import DATASETS
from bench.errors import BenchError, UsageError
from bench.evidence import certification_log
from bench.evidence.certification_log import Expected, Log, Refused
from bench.files.walk import IMPORTED
from bench.files.writing import write_atomically, write_json
from bench.logs.manifest import Claim, Line, Manifest, recognise
from bench.spec import to_json
from bench.store.imports import RUN, Import, ImportSpec
from bench.store.runs import Store


@dataclass
class Report:
    """What came of an import. Files are paths within what was imported.

    Attributes:
        manifest: the file or collection that says what the logs are.
        read: file -> its spec; these logs are in the store now, unless nothing was written.
        already: file -> key; they were there before.
        same: file -> the file with the same content, which was read or is there already.
        skipped: file -> why the manifest leaves it out.
        unnamed: files that no line of the manifest names.
        absent: lines of the manifest that name none of the files.
        refused: the others; no part of them is in the store.
        written: False if `strict` and something was refused or is unnamed.
    """

    manifest: str
    read: dict[str, ImportSpec] = field(default_factory=dict)
    already: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)
    absent: list[Line] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    written: bool = True

    @property
    def fruitless(self) -> bool:
        """Something was refused or unnamed, and nothing of the rest is in the store."""
        return bool(self.refused or self.unnamed) and not (self.read or self.already or self.same)


def import_logs(
    path: Path,
    root: Path,
    manifest: Manifest | None = None,
    *,
    strict: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Reads a folder of logs, or one log, into a store. Everything is checked before anything is written.

    Hidden files are left out; symbolic links are read only where they stay within the folder, and never followed to a folder.

    Args:
        path: the folder or file.
        root: the store's folder.
        manifest: what the logs are; None finds the known collection that they are of.
        strict: write nothing if any file is refused, or named by no line.
        progress: told how many files were read, and how many there are.

    Raises:
        UsageError: no such path, or no file in it.
        BenchError: no manifest was given and none is known; a damaged import in the store.
        OSError: the store cannot be written.
    """
    files, refused = find(path, root / IMPORTED)
    folder = path.resolve() if path.is_dir() else path.resolve().parent
    manifest = recognise(list(files.values()), folder) if manifest is None else manifest
    claims = manifest.claims(files.values(), folder)
    named = {claim.line.number for found in claims.values() for claim in found}
    absent = [line for line in manifest.lines if line.number not in named]
    report = Report(manifest.origin, refused=refused, absent=absent)
    work = _Work(root, report)
    for number, (name, file) in enumerate(files.items(), start=1):
        try:
            work.add(name, file, claims.get(file, []))
        except Refused as error:
            refused.append(error)
        except OSError as error:
            refused.append(Refused(name, None, f"{error.strerror}", "unreadable"))
        progress(number, len(files))
    work.refuse_other_labels()
    refused.sort(key=lambda error: error.file)
    report.written = not (strict and (refused or report.unnamed))
    for name, pending in sorted(work.pending.items()):
        report.read[name] = pending.spec
        if report.written:
            write_atomically(root / Import.place(pending.spec) / "rows.tsv", pending.data)
            write_json(root / Import.place(pending.spec) / "spec.json", to_json(pending.spec))
    return report


def find(path: Path, store: Path | None = None) -> tuple[dict[str, Path], list[Refused]]:
    """Every file below a folder by its name within it, as absolute paths, and the links that are not followed.

    Names are safe to print: control characters and bytes that are no text become escapes.

    Args:
        path: the folder; or one file, which is then the only one.
        store: a folder that is not looked into.

    Raises:
        UsageError: no such path, or nothing in it.
    """
    if not path.exists():
        raise UsageError([f"there is no {path}"])
    if not path.is_dir():
        return {path.name: path.resolve().parent / path.name}, []
    top, found, refused = path.resolve(), {}, []

    def refuse(file: Path, reason: str, kind: str) -> None:
        refused.append(Refused(_printable(file.relative_to(top)), None, reason, kind))

    for place, folders, names in os.walk(top, onerror=lambda error: refuse(Path(error.filename), f"{error.strerror}", "unreadable")):
        links = [name for name in folders if Path(place, name).is_symlink()]
        folders[:] = sorted(n for n in folders if n[0] != "." and n not in links and Path(place, n) != (store and store.resolve()))
        for file in (Path(place, name) for name in sorted([*names, *links]) if name[0] != "."):
            if file.is_symlink() and (file.name in links or not file.resolve().is_relative_to(top)):
                refuse(file, f"a link to a folder, or out of {path}, is not followed", "link")
            else:
                found[_printable(file.relative_to(top))] = file
    if not found and not refused:
        raise UsageError([f"there are no files in {path}"])
    return dict(sorted(found.items())), refused


def _printable(path: Path) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in path.as_posix())


@dataclass(frozen=True)
class _Pending:
    spec: ImportSpec
    log: Log
    data: bytes  # of rows.tsv


class _Work:
    """The logs of one import on their way into a store.

    Args:
        root: the store's folder. A damaged import in it counts as none, so that it is written again.
        report: gets what becomes of each file.
    """

    def __init__(self, root: Path, report: Report) -> None:
        self.report = report
        self.stored = [entry for entry in Store(root).subjects(Import) if _intact(entry)]
        self.known = {(entry.spec.collection, entry.spec.sha256): entry.spec for entry in self.stored}
        self.places = {(*_place(entry.spec), entry.spec.run, entry.spec.images): entry.spec for entry in self.stored}
        self.pending: dict[str, _Pending] = {}

    def add(self, name: str, file: Path, claims: Sequence[Claim]) -> None:
        """Takes a file in, or says why it is left out.

        Raises:
            Refused: several lines name it, or it is not entirely what its line says.
            OSError: it cannot be read.
        """
        if not claims:
            self.report.unnamed.append(name)
            return
        if len(claims) > 1:
            lines = " and ".join(f"{claim.line.number} ({claim.line.path})" for claim in claims)
            raise Refused(name, None, f"lines {lines} of {self.report.manifest} name it; a log has one line", "two lines")
        (claim,) = claims
        line = claim.line
        if not line.spec:
            self.report.skipped[name] = line.skip
            return
        if not RUN.fullmatch(claim.run):
            told = (
                f"line {line.number} of {self.report.manifest} makes it run {claim.run!r}, which is no word of letters, digits, . - and _"
            )
            raise Refused(name, None, told, "run")
        data = certification_log.load(file, name=name)
        sha256 = hashlib.sha256(data).hexdigest()
        if twin := self.known.get((line.spec.collection, sha256)):
            own = claim.spec(twin.images, sha256, twin.rows_sha256)
            if twin == own and twin.images in line.images:
                self.report.already[name] = twin.key
            elif _place(twin) == _place(own) and twin.source != own.source:
                self.report.same[name] = twin.source
            else:
                where = f"{twin.row} at sigma {twin.sigma:g} on {twin.dataset}, run {twin.run}, n {twin.n}, alpha {twin.alpha:g}"
                told = f"same content as {twin.source}, which is {where}, while line {line.number} says otherwise"
                raise Refused(name, None, f"{told}; if the line is right, remove {Import.place(twin)} first", "same content")
            return
        s = line.spec
        expected = Expected(classes=line.classes, test_size=line.test_size, images=line.images, n=s.n, alpha=s.alpha, sigma=s.sigma)
        log = certification_log.parse(data, expected, name=name)
        rows = certification_log.canonical(log.rows)
        spec = claim.spec(log.images, sha256, hashlib.sha256(rows).hexdigest())
        other = self.places.setdefault((*_place(spec), spec.run, spec.images), spec)
        if other is not spec:
            reason = f"{spec.row} at sigma {spec.sigma:g}, run {spec.run}, is {other.source} already, whose content differs"
            raise Refused(name, None, reason, "same place")
        self.known[line.spec.collection, sha256] = spec
        self.pending[name] = _Pending(spec, log, rows)

    def refuse_other_labels(self) -> None:
        """Refuses the new logs whose labels are not those of their data set.

        Known are those that ship with the package, then those of the store, then what most of the new logs say: one wrong
        log must not make strangers of the right ones.
        """
        known: dict[str, tuple[dict[int, int], str]] = {}
        alike = Counter(_labels(pending) for pending in self.pending.values())
        for name, pending in sorted(self.pending.items(), key=lambda item: -alike[_labels(item[1])]):
            dataset = pending.spec.dataset
            if dataset not in known:
                known[dataset] = self._known_labels(dataset)
            labels, source = known[dataset]
            try:
                certification_log.check_labels(pending.log, labels, source=source)
                labels |= {row.index: row.label for row in pending.log.rows}
            except Refused as error:
                self.report.refused.append(error)
                del self.pending[name]
                for twin in [twin for twin, source in self.report.same.items() if source == pending.spec.source]:
                    del self.report.same[twin]
                    self.report.refused.append(Refused(twin, None, f"same content as {name}, which is refused", "label"))

    def _known_labels(self, dataset: str) -> tuple[dict[int, int], str]:
        """Labels known before this import, and where from."""
        if dataset in DATASETS and (labels := DATASETS[dataset].known_labels()) is not None:
            return dict(enumerate(labels)), "the data set"
        of_dataset = {entry.spec.images: entry for entry in self.stored if entry.spec.dataset == dataset}
        found = {row.index: row.label for entry in of_dataset.values() for row in entry.rows()}
        return found, "logs that were imported before" if found else "most other logs of the data set"


def _labels(pending: _Pending) -> tuple[object, ...]:
    return pending.spec.dataset, pending.spec.images, *(row.label for row in pending.log.rows)


def _place(spec: ImportSpec) -> tuple[object, ...]:
    return spec.collection, spec.dataset, spec.arch, spec.row, spec.sigma


def _intact(entry: Import) -> bool:
    try:
        entry.data()
    except BenchError:
        return False
    return True
