"""All that a results folder holds: every file is checked, and nothing is stopped by the first failure."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from bench.binding import FINISHED, SUBJECT
from bench.checkpoints.stored import FOLDER as SUBJECTS
from bench.checkpoints.stored import Subject, SubjectSpec, subject, tensors_sha256
from bench.copies import Traces, copies, fingerprint
from bench.errors import BenchError
from bench.files import sha256
from bench.imported.stored import FOLDER
from bench.presets import disagreement
from bench.spec import CertifySpec, RunSpec, canonical, from_json, parse_json, select_images, to_json
from bench.store import Certification, Run, Store
from bench.verify.evidence import verify_rows
from bench.verify.logs import verify_import
from bench.verify.radii import Radii
from bench.verify.report import Evidence, Report, Unfinished, misplaced

RUN_FILES = ("spec.json", "training.json", "weights.safetensors", "curve.csv", "checkpoint.bin", "failure.json")
SUBJECT_FILE = "subject.json"
MAX_HEADER = 100 << 20  # bytes; the limit of the safetensors format


def verify(top: Path, *, alpha: float = 0.001, complete: bool = False) -> Report:
    """Checks every run, every base classifier from outside and every imported log in a folder.

    Args:
        top: a results root, a folder above or within one, or the folder of a run.
        alpha: failure probability at which radii are recomputed.
        complete: whether what is unfinished is a failure.

    Raises:
        BenchError: there is nothing to verify in it.
    """
    if top.resolve().name.startswith("certify-"):
        raise BenchError(f"{top} is one certification; name the folder of its run, {top.resolve().parent.name}")
    report, radii = Report(top=top, alpha=alpha), Radii(alpha)
    nothing = True
    for folder in _folders(report):
        nothing = False
        if _is_import(folder):
            verify_import(folder, report)
        elif (folder / SUBJECT_FILE).exists() or SUBJECTS in folder.resolve().parts[-4:-3]:
            _verify_subject(folder, report, radii)
        else:
            _verify_run(folder, report, radii)
    if nothing and not report.failures:
        raise BenchError(f"{top} holds no run, no certified checkpoint and no imported log")
    _find_copies(report)
    report.distinct = radii.distinct
    if complete:
        for item in report.unfinished:
            report.fail(item.path, f"unfinished: {item.reason}")
    return report


def _folders(report: Report) -> Iterator[Path]:
    """Folders of runs and imported logs, in order; hidden ones, such as runs that were set aside, are left out."""
    waiting, seen = [report.top], set()
    while waiting:
        folder = waiting.pop()
        if (real := folder.resolve()) in seen:
            continue
        seen.add(real)
        entries = report.attempt(folder, lambda folder=folder: sorted(folder.iterdir())) or []  # type: ignore[misc]
        names = {entry.name for entry in entries}
        certifications = any(entry.name.startswith("certify-") and entry.is_dir() for entry in entries)
        if names & {*RUN_FILES, SUBJECT_FILE, "rows.tsv"} or certifications:
            yield folder
        else:
            waiting += [entry for entry in reversed(entries) if entry.is_dir() and not entry.name.startswith(".")]


def _is_import(folder: Path) -> bool:
    return (folder / "rows.tsv").exists() or FOLDER in folder.resolve().parts[-4:-3]


def _verify_run(folder: Path, report: Report, radii: Radii) -> None:
    report.runs += 1
    file = folder / "spec.json"
    spec = report.attempt(file, lambda: from_json(RunSpec, file.read_bytes(), str(file)))
    if spec is None:
        return
    run = Run(folder, spec)
    if not folder.resolve().name.endswith(f"-{spec.key}"):
        report.fail(file, f"its key is {spec.key}, but the folder is {folder.resolve().name}")
    elif reason := misplaced(folder, report.top, Store(Path()).run(spec).path):
        report.fail(file, reason)
    training = report.attempt(folder / "training.json", run.training)
    for name, read in (("failure", run.failure), ("timing", run.timing), ("environment", run.differences)):
        report.attempt(folder / f"{name}.json", read)
    known = (info := report.attempt(file, lambda: run.info)) is not None
    if info and (told := disagreement(spec, info)):
        report.unchecked.append(f"{file}: {told.removeprefix('not checked: ')}")
    if run.curve.exists():
        report.attempt(run.curve, lambda: _check_curve(run.curve))
    if training and training["state"] == "trained":
        if known and training["steps"] != (steps := _steps(run)):
            report.fail(folder / "training.json", f"{training['steps']} steps, but the spec makes {steps}")
    elif not training and not (folder / "training.json").exists():
        failure = (folder / "failure.json").exists()
        report.unfinished.append(Unfinished(folder, "its training failed" if failure else "its training is not finished"))
    recorded = training.get("weights_sha256") if training else None
    weights = _verify_weights(run, recorded, report)
    if recorded:
        report.trainings.append((run, weights))
    folders = _certifications(folder)
    if recorded and not folders:
        report.unfinished.append(Unfinished(folder, "it is not certified"))
    for path in folders:
        _verify_certification(run, path, recorded, weights, known, report, radii)


def _verify_subject(folder: Path, report: Report, radii: Radii) -> None:
    """A base classifier that the suite did not train: what it is stands in subject.json, whose key binds sigma to the weights."""
    report.subjects += 1
    file = folder / SUBJECT_FILE
    spec = cast(SubjectSpec | None, report.attempt(file, lambda: from_json(cast(Any, SubjectSpec), file.read_bytes(), str(file))))
    if spec is None:
        return
    own = Subject(folder, spec)
    if not folder.resolve().name.endswith(f"-{spec.key}"):
        report.fail(file, f"its key is {spec.key}, but the folder is {folder.resolve().name}")
    elif reason := misplaced(folder, report.top, subject(Path(), spec).path):
        report.fail(file, reason)
    origin = report.attempt(own.origin_file, own.origin)
    known = report.attempt(file, lambda: own.info) is not None
    weights = own.weights.exists()
    if weights:
        report.weights += 1
        found = report.attempt(own.weights, lambda: sha256(own.weights))
        weights = found == spec.weights_sha256
        if found and not weights:
            report.fail(own.weights, f"SHA-256 is {found}, but {SUBJECT_FILE} says {spec.weights_sha256}")
        if weights and origin and (said := origin.tensors_sha256):
            tensors = report.attempt(own.weights, lambda: tensors_sha256(own.weights.read_bytes()))
            if tensors and tensors != said:
                report.fail(own.origin_file, f"tensors_sha256 is {said}, but that of {own.weights.name} is {tensors}")
    for path in _certifications(folder):
        _verify_certification(own, path, spec.weights_sha256, weights, known, report, radii)


def _find_copies(report: Report) -> None:
    """One training under several seeds of a configuration is a failure of each but the first."""
    counted: dict[Path, set[str]] = defaultdict(set)
    same: dict[tuple[str, str], list[Certification]] = defaultdict(list)
    for evidence in report.finished:
        same[evidence.certification.spec.key, evidence.sha256].append(evidence.certification)
    for (key, digest), found in same.items():
        if len(found) > 1 and fingerprint(found[0].columns(), key):
            for certification in found:
                counted[certification.run.path].add(digest)
    cells: dict[str, list[tuple[Run, bool]]] = defaultdict(list)
    for run, weights in sorted(report.trainings, key=lambda item: item[0].spec.seed):
        cells[run.spec.cell].append((run, weights))
    for members in cells.values():
        traces = [
            Traces(run.weights if weights else None, frozenset({str((run.training() or {})["weights_sha256"]), *counted[run.path]}))
            for run, weights in members
        ]
        for place, first in copies(traces).items():
            run, other = members[place][0], members[first][0]
            report.fail(run.path, f"seed {run.spec.seed} is the training of seed {other.spec.seed} again, which is {other.path}")


def _certifications(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("certify-*")) if path.is_dir()]


def _steps(run: Run) -> int:
    """Optimiser steps of a training: in each pass, the last batch may be smaller."""
    train = run.spec.train
    return train.epochs * math.ceil(len(select_images(train.images, run.info.train_size)) / train.batch)


def _check_curve(path: Path) -> None:
    """BenchError unless a training curve is a table of finite numbers, empty where a term was not yet there."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(rows[0]):
                raise BenchError(f"{path}: line {number} has {len(row)} columns, but the header has {len(rows[0])}")
            if wrong := [value for value in row if value and not math.isfinite(float(value))]:
                raise BenchError(f"{path}: line {number}: {wrong[0]} is not a finite number")
    except (ValueError, csv.Error) as error:
        raise BenchError(f"{path}: not a training curve: {error}") from None
    if len(rows) < 2:
        raise BenchError(f"{path}: not a training curve: it has no row")


def _verify_weights(run: Run, recorded: str | None, report: Report) -> bool:
    """Whether weights are there and are those that the run recorded."""
    if not run.weights.exists():
        return False
    report.weights += 1
    before = len(report.failures)
    if recorded:
        found = report.attempt(run.weights, lambda: sha256(run.weights))
        if found and found != recorded:
            report.fail(run.weights, f"SHA-256 is {found}, but training.json says {recorded}")
    metadata = report.attempt(run.weights, lambda: _metadata(run.weights))
    if metadata is not None:
        own = to_json(run.spec)
        if differing := _differences(metadata.get("spec"), own):
            told = "; ".join(f"{name} {theirs!r} there, {ours!r} in spec.json" for name, theirs, ours in differing)
            report.fail(run.weights, f"they are those of another run: {told}")
        elif metadata.get("key") != run.spec.key:
            report.fail(run.weights, f"they are those of run {metadata.get('key')}, not {run.spec.key}")
    return recorded is not None and len(report.failures) == before


def _metadata(path: Path) -> dict[str, Any]:
    """What the header of a safetensors file says of the run that wrote it; the tensors are not read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, path.stat().st_size - 8):
            raise BenchError(f"{path}: not a safetensors file: a header of {length} bytes is impossible")
        header = file.read(length)
    try:
        metadata = parse_json(parse_json(header)["__metadata__"]["certbench"])
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{path}: its header does not say which run it belongs to ({type(error).__name__}: {error})") from None
    if not isinstance(metadata, dict):
        raise BenchError(f"{path}: its header does not say which run it belongs to: {metadata!r}")
    return metadata


def _differences(theirs: object, ours: object, name: str = "") -> list[tuple[str, object, object]]:
    """Where two JSON values differ: the name of the innermost entry and both values."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return [] if canonical(theirs) == canonical(ours) else [(name or "spec", theirs, ours)]
    return [
        difference
        for key in sorted({*theirs, *ours})
        for difference in _differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
    ]


def _verify_certification(run: Run, folder: Path, recorded: str | None, weights: bool, known: bool, report: Report, radii: Radii) -> None:
    report.certifications += 1
    before = len(report.failures)
    file = folder / "spec.json"
    spec = report.attempt(file, lambda: from_json(CertifySpec, file.read_bytes(), str(file)))
    if spec is None:
        return
    certification = run.certification(spec)
    if folder.name != certification.path.name:
        report.fail(file, f"its key is {spec.key}, but the folder is {folder.name}")
        return
    report.attempt(folder / "environment.json", certification.differences if known else certification.environment)
    if certification.evidence.exists() or (folder / SUBJECT).exists():
        report.attempt(folder / SUBJECT, lambda: certification.binding().read(folder))
        if recorded is None:
            report.fail(folder, "there is evidence, but no finished training whose weights it could be of")
    if not known:
        return
    total = len(certification.expected())
    rows = verify_rows(certification, report, radii)
    if len(report.failures) > before:
        return
    if rows == total:
        digest = sha256(certification.evidence)
        bound = report.attempt(certification.evidence, lambda: certification.binding().holds(folder, digest))
        if bound is not None:
            report.finished.append(Evidence(certification, total, weights, digest, bound))
    elif (folder / FINISHED).exists():
        report.fail(folder / FINISHED, f"it says that the certification was finished, but there are {rows} of {total} rows")
    else:
        report.unfinished.append(Unfinished(folder, f"{rows} of {total} images are certified"))
