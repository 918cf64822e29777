"""All that a results folder holds, as everybody reads it, with what takes time: check sums of weights, and radii computed in two ways.

Nothing is stopped by the first failure. What fails here and not in a table is named in docs/notes/verification.md.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from bench import rules
from bench.errors import BenchError, Fault, counted
from bench.evidence import records
from bench.evidence.rows import Rows
from bench.files import disk
from bench.files.walk import walk
from bench.store.checkpoints import Checkpoint, tensors_sha256
from bench.store.copies import Traces, copies, fingerprint
from bench.store.imports import Import, doubled
from bench.store.presets import UNCHECKED, disagreement
from bench.store.runs import Run, Store
from bench.store.subject import Certification, Damaged, Subject
from bench.verify.radii import Radii
from bench.verify.report import Evidence, Report, Unfinished
from bench.verify.submission import check as check_submission


def verify(top: Path, *, alpha: float = 0.001, complete: bool = False) -> Report:
    """Checks every run, every base classifier from outside and every imported log in a folder.

    Args:
        top: a results root, a folder above or within one, or the folder of a run.
        alpha: failure probability at which radii are recomputed.
        complete: whether it is to hold every planned image, records that bind every row, and nothing else: what is unfinished, unbound
            or unexpected is a failure.

    Raises:
        BenchError: there is nothing to verify in it.
    """
    if top.resolve().name.startswith("certify-"):
        raise BenchError(f"{top} is one certification; name the folder of its run, {top.resolve().parent.name}")
    report, radii = Report(top=top, alpha=alpha), Radii(alpha)
    found = walk(top)
    report.unexpected += found.unexpected
    logs: list[Import] = []
    for place in found.places:
        if place.begun and not place.complete:
            report.unfinished.append(Unfinished(place.path, "an import that never came to its end; import the log again"))
        elif place.begun:
            subject = Store(top).of_place(place)
            report.count(place.what)
            if isinstance(subject, Damaged):
                report.add([subject.fault, *(fault for fault in place.faults if fault.file != subject.fault.file)])
            elif not isinstance(subject, Import):
                _verify_subject(subject, report, radii)
            elif not report.add(subject.faults()):
                report.imported_rows += len(subject.columns())
                logs.append(subject)
    report.add(doubled(logs).values())
    report.add(found.faults)
    if not report.failures and not any(place.begun for place in found.places):
        raise BenchError(f"{top} holds no run, no certified checkpoint and no imported log")
    _find_copies(report)
    for folder in found.submissions:
        check_submission(folder, report)
    report.unfinished += [item for key, item in report.uncertified.items() if key not in report.asked]
    report.distinct = radii.distinct
    if complete:
        for item in report.unfinished:
            report.fail(item.path, f"unfinished: {item.reason}")
        for evidence in report.finished:
            if not evidence.bound:
                report.fail(evidence.certification.path, "unbound: no record says of which weights and specs its rows are")
        report.add(report.unexpected)
    return report


def _verify_subject(run: Subject, report: Report, radii: Radii) -> None:
    """A run or a checkpoint, and its certifications."""
    before = len(report.failures)
    report.verified.append(run)
    if (other := report.places.setdefault(run.key, run.path)) != run.path:
        report.fail(run.path, f"it holds the same run as {other}; move one of them away")
    damaged = report.add(run.faults())
    training, known, environment = None, False, None
    with contextlib.suppress(BenchError):  # which was told
        training, known = run.training(), run.info is not None
        environment = run.environment()
    if training is None and not disk.there(run.path / "training.json"):
        failed = disk.there(run.path / "failure.json")
        report.unfinished.append(Unfinished(run.path, "its training failed" if failed else "its training is not finished"))
    recorded = (training or {}).get("weights_sha256")
    weights = _verify_weights(run, recorded, damaged, report) and len(report.failures) == before
    if isinstance(run, Run):
        if known and (told := disagreement(run.spec, run.info, environment or {})):
            report.unchecked.append(f"{run.path / 'spec.json'}: {told.removeprefix(UNCHECKED)}")
        if recorded and not damaged:
            report.trainings.append((run, weights))
    for name, expected in ((training or {}).get("surveys") or {}).items():
        file = run.path / name
        if disk.there(file) and (found := report.attempt(file, partial(disk.sha256, file))) and found != expected:
            report.fail(file, f"SHA-256 is {found}, but training.json says {expected}")
    begun = report.attempt(run.path, lambda: list(run.begun())) or []
    if isinstance(run, Run):
        report.asked.add(run.spec.depends)
    if recorded and not begun:
        report.uncertified[run.key] = Unfinished(run.path, "it is not certified")
    for certification in begun:
        report.certifications += 1
        if isinstance(certification, Damaged):
            report.add([certification.fault])
        elif known:
            _verify_certification(certification, weights, damaged, report, radii)


def _verify_weights(run: Subject, recorded: str | None, damaged: bool, report: Report) -> bool:
    """Whether weights are there and are those that the run recorded."""
    if not disk.there(run.weights):
        return False
    report.weights += 1
    before = len(report.failures)
    try:
        records.tensors(run.weights)
    except Fault:  # which was told, and its length may be anything
        return False
    if recorded:
        found = report.attempt(run.weights, lambda: disk.sha256(run.weights))
        if found and found != recorded:
            told = "training.json" if isinstance(run, Run) else run.spec_file
            report.fail(run.weights, f"SHA-256 is {found}, but {told} says {recorded}")
    if isinstance(run, Checkpoint) and not damaged and len(report.failures) == before and (said := run.origin().tensors_sha256):
        with disk.mapped(run.weights) as content:
            tensors = report.attempt(run.weights, lambda: tensors_sha256(content))
        if tensors and tensors != said:
            report.fail(run.origin_file, f"tensors_sha256 is {said}, but that of {run.weights.name} is {tensors}")
    return recorded is not None and len(report.failures) == before


def _verify_certification(certification: Certification, weights: bool, damaged: bool, report: Report, radii: Radii) -> None:
    """Its records, its rows, and every radius. damaged: what is wrong with its run was told, and nothing rests on it."""
    before = len(report.failures)
    report.add(certification.faults(damaged=damaged))
    rows = report.attempt(certification.evidence, certification.read)
    if rows is None:
        return
    run = certification.subject
    if rows.images and certification.labels() is None:
        other = certification.differences()
        absent = f"the published files of {run.info.name} are not on this machine"
        told = f"it was certified on other test files: {other[0]}" if other else absent
        report.unchecked.append(f"the labels of {certification.evidence}: {told}")
    report.add(rows.faults)
    report.rows += rows.images
    _recompute(certification, rows, report, radii)
    if len(report.failures) > before or damaged:
        return
    total = len(certification.expected())
    if rows.images == total:
        report.finished.append(Evidence(certification, total, weights, rows.sha256, rows.bound))
    else:
        report.unfinished.append(Unfinished(certification.path, f"{rows.images} of {counted(total, 'image')} certified"))


def _recompute(certification: Certification, rows: Rows, report: Report, radii: Radii) -> None:
    """Every radius in another way, once for each distinct count."""
    columns, rule = rows.columns, rules.of(certification.spec)
    if rule.recomputed is None:
        told = f"there is no second way to compute those of rule {rule.name}"
        report.unchecked.append(f"the radii of {certification.evidence}: {told}")
        return
    taken = np.flatnonzero(columns.n > 0)
    pairs, firsts = np.unique(np.stack([columns.count[taken], columns.n[taken]]), axis=1, return_index=True)
    lines = {(count, n): line for (count, n), line in zip(pairs.T.tolist(), rows.line[taken[firsts]].tolist(), strict=True)}
    faults = radii.faults_of(rule, lines, certification.subject.spec.sigma)
    report.add(Fault(certification.evidence, lines[key], fault) for key, fault in faults.items())


def _find_copies(report: Report) -> None:
    """One training under several seeds of a configuration is a failure of each but the first."""
    cells: dict[str, list[tuple[Run, bool]]] = defaultdict(list)
    for run, weights in sorted(report.trainings, key=lambda item: item[0].spec.seed):
        cells[run.named.cell].append((run, weights))
    several = {run.path for members in cells.values() if len(members) > 1 for run, _ in members}
    counted: dict[Path, set[str]] = defaultdict(set)
    for certification in (evidence.certification for evidence in report.finished):
        if certification.subject.path in several and (trace := fingerprint(certification.columns(), certification.spec.key)):
            counted[certification.subject.path].add(trace)
    for members in cells.values():
        traces = [
            Traces(run.weights if weights else None, frozenset({str((run.training() or {})["weights_sha256"]), *counted[run.path]}))
            for run, weights in members
        ]
        for place, first in copies(traces, None).items():
            run, other = members[place][0], members[first][0]
            report.fail(run.path, f"seed {run.spec.seed} is the training of seed {other.spec.seed} again, which is {other.path}")
