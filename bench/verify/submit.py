"""Makes a submission of results: what is incomplete, or would tell of the machine it comes from, is refused before anything is written."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError, Fault, counted
from bench.files import disk
from bench.files.walk import FILES, PLUGINS
from bench.files.writing import sync_folder
from bench.registry import code_of_plugin, files_of_plugin
from bench.spec import PROTOCOLS
from bench.store.runs import Run
from bench.store.subject import Subject
from bench.store.submission import WEIGHTS, Listed, Submission
from bench.verify.report import Report
from bench.verify.results import verify

LEFT_OUT = frozenset(("checkpoint.bin", "checkpoint.older.bin", "failure.json", WEIGHTS))
TEXTS = (".json", ".py")
_PATH = re.compile(r"""(?<![^"'\s=(,:])(/[^/\s"']+){2,}|(?<![A-Za-z])[A-Za-z]:[\\/]|file:/""")
_QUOTED_PATH = re.compile(r"""["'](/[^/\s"']+){2,}|["'][A-Za-z]:[\\/]|file:/""")


@dataclass(kw_only=True)
class Plan:
    """What would be handed in.

    Attributes:
        files: where each file lies, by its path in the submission. weights: of each subject likewise, whatever their size.
        missing: what is not complete, and what may not be handed in: it must be empty.
        remarks: what a reader of the submission will miss.
    """

    files: dict[str, Path] = field(default_factory=dict)
    weights: dict[str, Path] = field(default_factory=dict)
    subjects: list[Subject] = field(default_factory=list)
    missing: list[Fault] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def plan(results: Sequence[Path], plugins: Sequence[Path] = ()) -> Plan:
    """What a submission of some folders holds, each verified whole. Imported logs are not ours to hand in, and are left out.

    Args:
        results: results folders, folders within one, or folders of runs. plugins: files whose text goes along.

    Raises:
        BenchError: nothing is in a folder.
    """
    made = Plan()
    for top in results:
        report = verify(top, complete=True)
        extra = {str(fault) for fault in report.unexpected}  # which is left out
        made.missing += [failure for failure in report.failures if str(failure) not in extra]
        made.subjects += report.verified
        made.remarks += [f"left out: {counted(report.imports, 'imported log')} in {top}"] if report.imports else []
    for subject in made.subjects:
        _add(subject, made)
    if not made.subjects:
        raise BenchError(f"{', '.join(map(str, results))}: there is no run and no certified checkpoint in it")
    for path in plugins:
        _add_text(path, made)
    recorded = {name for subject in made.subjects for name, _ in subject.plugins()}
    if absent := sorted(recorded - {path.name for path in plugins}):
        made.remarks.append(f"only the SHA-256 of {', '.join(absent)} goes along; --plugin FILE adds the text")
    made.missing += [fault for path in made.files.values() if path.suffix in TEXTS and (fault := _private(path))]
    made.remarks += _seeds(made.subjects)
    return made


def _add(subject: Subject, made: Plan) -> None:
    """The files of a run or a checkpoint, under the place that its spec has in any results folder."""
    place = subject.place(subject.spec).as_posix()
    if f"{place}/{subject.spec_file}" in made.files:
        made.missing.append(Fault(subject.path, None, "it is in the results twice"))
    made.files |= {f"{place}/{name}": subject.path / name for name in _kept(subject.path, subject.what)}
    for found in subject.certifications():
        made.files |= {f"{place}/{found.path.name}/{name}": found.path / name for name in _kept(found.path, "certification")}
    if disk.there(subject.weights):
        made.weights[f"{place}/{WEIGHTS}"] = subject.weights


def _kept(folder: Path, what: str) -> Iterator[str]:
    return (name for name in disk.children(folder) if name in FILES[what] - LEFT_OUT)


def _add_text(path: Path, made: Plan) -> None:
    """A plug-in and its helpers, if runs have recorded just this code."""
    known = {code for subject in made.subjects for name, code in subject.plugins() if name == path.name}
    if known != {code_of_plugin(path)}:
        told = "runs were made with other code under its name" if known else "no run was made with a plug-in of its name"
        made.missing.append(Fault(path, None, told))
    for file in files_of_plugin(path):
        made.files[f"{PLUGINS}/{path.stem}/{file.relative_to(path.parent).as_posix()}"] = file


def _private(path: Path) -> Fault | None:
    """Where a text names a place on this machine; None if it does not."""
    home = str(Path.home())
    wanted = _QUOTED_PATH if path.suffix == ".py" else _PATH
    for number, line in enumerate(disk.read(path).decode("utf-8", "replace").splitlines(), start=1):
        found = wanted.search(line)
        at = found.start() if found else line.find(home) if home not in ("/", "/root") else -1
        if at >= 0:
            return Fault(path, number, f"it names a place on this machine, which goes into no submission: {line[at : at + 80].strip()!r}")
    return None


def _seeds(subjects: Sequence[Subject]) -> Iterator[str]:
    """Seeds that the protocol plans and nobody hands in, per configuration."""
    cells: dict[str, list[Run]] = defaultdict(list)
    for subject in subjects:
        if isinstance(subject, Run):
            cells[subject.named.cell].append(subject)
    for runs in cells.values():
        spec = runs[0].spec
        planned = set(PROTOCOLS[spec.protocol].seeds) if spec.protocol in PROTOCOLS else set()
        if absent := sorted(planned - {run.spec.seed for run in runs}):
            told = ", ".join(map(str, absent))
            yield f"{runs[0].row} {spec.dataset} sigma {spec.sigma:g}: protocol {spec.protocol} also plans seeds {told}"


def write(made: Plan, out: Path, *, largest: int, weights_at: str = "") -> tuple[Submission, Report]:
    """Writes a plan to a folder that is not there yet, verified as a maintainer will: all of it or nothing.

    Args:
        largest: bytes of the largest weights file that goes in; larger ones are listed as elsewhere.

    Raises:
        BenchError: what was written is not what was planned. OSError: it cannot be written.
    """
    sizes = {name: path.stat().st_size for name, path in made.weights.items()}
    inside = {name: path for name, path in made.weights.items() if sizes[name] <= largest}
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        files = {name: _copy(path, temporary / name) for name, path in sorted({**made.files, **inside}.items())}
        elsewhere = {name: Listed(bytes=sizes[name], sha256=disk.sha256(path)) for name, path in made.weights.items() if name not in inside}
        said = Submission(files=files, elsewhere=elsewhere, weights_at=weights_at)
        said.write(temporary)
        report = verify(temporary, complete=True)
        if report.failures:
            told = "; ".join(str(failure).replace(f"{temporary}/", "") for failure in report.failures[:3])
            raise BenchError(f"the submission does not verify, so it is not kept: {told}")
        temporary.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return said, report


def _copy(source: Path, target: Path) -> Listed:
    target.parent.mkdir(parents=True, exist_ok=True)
    hashed, size = hashlib.sha256(), 0
    with disk.opened(source) as (handle, status), target.open("wb") as file:
        for piece in disk.pieces(source, handle, status.st_size):
            file.write(piece)
            hashed.update(piece)
            size += len(piece)
        os.fsync(file.fileno())
    return Listed(bytes=size, sha256=hashed.hexdigest())
