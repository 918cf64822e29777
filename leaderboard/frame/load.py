"""From a store to the evidence table."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import rules
from bench.errors import BenchError
from bench.files.walk import Walk
from bench.logs import Import, read_imports
from bench.spec import canonical, to_json
from bench.store.checkpoints import Subject
from bench.store.copies import Traces, copies
from bench.store.runs import Certification, Run, Store
from bench.store.verified import anything, recall
from leaderboard import metrics
from leaderboard.aggregate.collect import ALPHA, unexpected_notes
from leaderboard.aggregate.foreign import Checkpoint, read_checkpoints
from leaderboard.aggregate.runs import DAMAGED, Reading, damage, read_runs, trust_of
from leaderboard.frame.arguments import level, word
from leaderboard.frame.arguments import path as path_of
from leaderboard.frame.schema import CENSUS, LEFT_OUT, NOTES, Part, facts_to_keep, frame_of, images_of_counts


def load_results(
    path: str | os.PathLike[str] = "results/runs", *, alpha: float | None = None, rule: str | None = None, strict: bool = False
) -> pd.DataFrame:
    """Everything that is finished in a results folder, as one table: a row per subject and image.

    A subject is anything that was certified: a model trained by `bench run`, a checkpoint certified by `bench certify`, a published log
    read by `bench import`. A subject that was certified in several ways has rows for each of them.

    Args:
        path: the results folder, such as `results/reference`.
        alpha: chance that one certificate is wrong, in (0, 1/2); 0.001 if None. Counts are read at it. A published log has an alpha of its
            own, which cannot be changed, so a log with another one is left out.
        rule: how counts are read; None: by the rule under which they were sampled. What the rule cannot read is left out.
        strict: raise instead of leaving anything out.

    Returns:
        a DataFrame with a plain index and these columns. "Category" columns hold words, "Int64" is pandas' type of whole numbers that may
        be missing (NA). What a published log does not say is missing.

        dataset (category): such as mnist.
        method, variant (category): of the row. Of a checkpoint, what stands before and after the first dot of its row.
        row (category): the name in tables, such as smoothmix.eta5[steps=2].
        sigma (float64): noise level in pixels of [0, 1].
        seed (Int64): of the training; missing for logs and checkpoints.
        training (category): what tells the trainings of a row apart: the seed, the run id of a log, the name of a checkpoint.
        protocol, recipe (category): of the training; missing for logs and checkpoints.
        source (category): runs (trained here), checkpoints (certified here), imported (published logs), model (`SmoothedClassifier`).
        status (category): what the row rests on, as of `bench table --status`: claimed, log, evidence, weights checked, recertified.
        rule (category): by which the counts are read; missing for logs.
        alpha (float64): chance that a certificate is wrong.
        n0 (int64): samples that chose the class. For logs: as the collection says.
        image (int64): position in the test set.
        label (int64): true class.
        selected (Int64): class with the most of the n0 samples; for a log, missing where it abstained.
        predicted (int64): the certified class, -1 where it abstained.
        majority (Int64): class with the most of the n samples; missing for logs and where none were drawn.
        count (Int64): samples on the selected class, of n; missing for logs.
        runner_up (Int64): samples on the most frequent other class; missing for logs.
        n (int64): samples that counted the class, as drawn. For logs: as the collection says.
        radius (float64): certified L2 radius in pixels of [0, 1]; 0 where it abstained. For logs: rounded, as printed.
        correct (bool): certified, and the predicted class is the label.
        key (category): of the trained model, the checkpoint or the log. certification (category): of how it was certified.
        record (category): JSON text of what else is known: specs, versions, device. `summary`, `table` and `plot_curves` need it.

        `frame.attrs["notes"]` is a list of sentences that hold for the whole folder, such as on files that the suite did not write.
        `frame.attrs["left_out"]` is a list of what is unfinished or refused: dicts with `subject`, `state` (such as certifying, failed,
        damaged, refused), `done` (images that are certified), `reason` and `path`. Filtering keeps both. `pandas.concat` drops them, unless
        both frames have the same.

    Raises:
        BenchError: no such folder, or one that holds no results at all; alpha or rule unknown; with strict, anything that is left out.
    """
    root, alpha = path_of(path, "path"), None if alpha is None else level(alpha)
    try:
        if rule is not None:
            rules.named(word(rule, "rule"))
    except ValueError as error:
        raise BenchError(str(error)) from None
    try:
        there = root.is_dir()
    except (OSError, ValueError) as error:
        raise BenchError(f"{str(path)!r}: {error}") from None
    if not there:
        raise BenchError(f"{root}: there is no such folder; `bench run` fills results/runs")
    found = read(Store(root), alpha, rule)
    if not found.parts and not found.left_out:
        raise BenchError(f"{root} holds no results; name the folder that `bench run`, `bench certify` or `bench import` filled")
    if strict and found.left_out:
        first = found.left_out[0]
        more = f", and {len(found.left_out) - 1} more" if len(found.left_out) > 1 else ""
        raise BenchError(f"{first['subject']} is {first['state']}{first['reason'] and ': '}{first['reason']}{more}")
    return found.frame()


@dataclass
class Found:
    """What was read of a store.

    Attributes:
        reading: how counts were read.
        parts: the finished certifications.
        left_out: the others, as in `frame.attrs`, each with its `record`.
        runs: (spec, specs of its certifications) of every run, as JSON values: they say which seeds a row should have.
        notes: sentences on the whole folder.
    """

    reading: Reading
    parts: list[Part] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    runs: list[list[Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def frame(self) -> pd.DataFrame:
        """The table."""
        told = [{name: value for name, value in entry.items() if name != "record"} for entry in self.left_out]
        records = [entry["record"] for entry in self.left_out]
        census = canonical(
            {"alpha": self.reading.alpha, "rule": self.reading.rule, "parts": len(self.parts), "left_out": records, "runs": self.runs}
        )
        return frame_of(self.parts, {LEFT_OUT: told, NOTES: list(self.notes), CENSUS: census})

    def leave_out(self, subject: str, state: str, path: Path, *, done: int = 0, reason: str = "", record: Any = None) -> None:
        """Names something that is not in the table."""
        self.left_out.append({"subject": subject, "state": state, "done": done, "reason": reason, "path": str(path), "record": record})

    def leave_out_damaged(self, reasons: Sequence[str], walked: Walk, keys: Collection[str] | None = None) -> None:
        """Names what is damaged, each by the file or folder that its reason begins with. keys: of the runs that are wanted; None: all."""
        there = _paths(walked)
        for reason in reasons:
            path = max((path for path in there if reason.startswith(path)), key=len, default=str(walked.top))
            if keys is None or any(path in _paths(walked, key) for key in keys):
                self.leave_out(path, "damaged", Path(path), reason=reason)


def _paths(walked: Walk, key: str = "") -> set[str]:
    """All that reasons may begin with: folders, what is in them, and what may not be there. key: of a run; empty: of everything."""
    found = set() if key else {str(fault.file) for fault in walked.faults}
    for place in walked.places:
        if place.path.name.endswith(key):
            inner = {f"{place.path / folder / name}" for folder, names in place.inner.items() for name in names}
            found |= {str(place.path), *(str(place.path / name) for name in place.names), *inner}
    return found


def read(store: Store, alpha: float | None = None, rule: str | None = None, only: Collection[tuple[str, str]] | None = None) -> Found:
    """Reads a store.

    Args:
        only: the (run key, certification key) that are wanted, of runs alone; None: everything.

    Raises:
        BenchError: the folder cannot be read. OSError.
    """
    known = ALPHA if alpha is None else alpha
    walked = store.walk()
    found = Found(Reading(known, rule), notes=unexpected_notes(walked))
    _read_runs(store, walked, known, rule, only, found)
    if only is None:
        _read_logs(store, walked, alpha, rule, found)
        _read_checkpoints(store, walked, known, rule, found)
    return found


def _read_runs(store: Store, walked: Walk, alpha: float, rule: str | None, only: Collection[tuple[str, str]] | None, found: Found) -> None:
    runs, damaged = read_runs(store, walked)
    keys = None if only is None else {key for key, _ in only}
    if keys is not None:
        runs = [run for run in runs if run.spec.key in keys]
    found.leave_out_damaged(damaged, walked, keys)
    same = _same_weights([(run.spec.cell, run) for run in sorted(runs, key=lambda run: run.spec.seed)])
    wanted = []
    for run in runs:
        name = f"{run.spec.row} {run.spec.dataset} sigma {run.spec.sigma:g} seed {run.spec.seed}"
        begun = [c for c in run.certifications() if only is None or (run.spec.key, c.spec.key) in only]
        try:
            record, words = _record_of_run(run) | {"weights": same.get(run.spec.key)}, _words_of_run(run)
            wrong = damage(run)
            state, reason = (DAMAGED, wrong) if wrong else (run.state(), str((run.failure() or {}).get("reason", "")))
        except BenchError as error:
            found.leave_out(name, "damaged", run.path, reason=str(error))
            continue
        found.runs.append([record["spec"], [to_json(c.spec) for c in begun]])
        if not begun:
            found.leave_out(name, state, run.path, reason=reason, record=record)
        wanted += [(certification, name, record, words) for certification in begun]
    _read_certifications(wanted, alpha, rule, found)


_Wanted = tuple[Certification, str, dict[str, Any], dict[str, Any]]


def _read_certifications(wanted: Sequence[_Wanted], alpha: float, rule: str | None, found: Found) -> None:
    """Reads what certifications hold, each with its name, its record and its words."""
    answers = [_read_one(item, alpha, rule) for item in wanted]
    read_ones = [place for place, answer in enumerate(answers) if isinstance(answer, Part)]
    keys = {place: wanted[place][0].finding() for place in read_ones} if anything() else {}
    known = recall(list(keys.values()))
    for place, ((certification, name, record, _), answer) in enumerate(zip(wanted, answers, strict=True)):
        if isinstance(answer, Part):
            status = str(trust_of(certification, known.get(keys.get(place, ""))))
            found.parts.append(replace(answer, constants={**answer.constants, "status": status}))
            continue
        state, done, reason = answer
        try:
            own = _record_of_certification(certification)
        except BenchError:  # which `reason` tells
            own = {"folder": str(certification.path), "certify": to_json(certification.spec), **UNREADABLE}
        kept = record | own | {"standing": state, "done": done, "reason": reason}
        found.leave_out(name, state, certification.path, done=done, reason=reason, record=kept)


def _read_one(item: _Wanted, alpha: float, rule: str | None) -> Part | tuple[str, int, str]:
    """The part; or state, images that are done and reason of what is left out."""
    certification, _, record, words = item
    spec = certification.spec
    if reason := damage(certification.run):
        return DAMAGED, 0, reason
    if reason := Reading(alpha, rule).refuses(spec):
        return "refused", 0, reason
    try:
        standing = certification.standing()
        if standing.state != "done":
            return standing.state, len(standing.columns), ""
        kept = record | _record_of_certification(certification)
        kept |= {"timing": certification.run.timing()}
        if not len(standing.columns):
            return "refused", 0, f"images={spec.images} selects no test image"
        o = metrics.outcomes(standing.columns, alpha, certification.run.spec.sigma, spec, rule)
    except BenchError as error:
        return "damaged", 0, str(error)
    own = {"alpha": alpha, "rule": rule or spec.rule, "certification": spec.key, "record": canonical(kept)}
    return Part(constants=words | own, images=images_of_counts(standing.columns, o))


UNREADABLE = {"certified": None, "labels": True, "bound": False, "finding": ""}
"""What a record holds of a certification that is damaged."""


def _same_weights(trainings: Sequence[tuple[str, Run]]) -> dict[str, str]:
    """Key of each training whose weights are those of an earlier one, though their file differs -> the recorded SHA-256 of the latter.

    Args:
        trainings: each with what it shares with those that it is compared with.
    """
    cells: dict[str, list[tuple[Run, str]]] = defaultdict(list)
    for cell, run in trainings:
        if recorded := (run.training() or {}).get("weights_sha256"):
            cells[cell].append((run, recorded))
    found: dict[str, str] = {}
    for members in cells.values():
        traces = [Traces(None if run.lacks("weights.safetensors") else run.weights, frozenset({recorded})) for run, recorded in members]
        found |= {members[place][0].spec.key: members[first][1] for place, first in copies(traces).items()}
    return found


def _record_of_run(run: Run) -> dict[str, Any]:
    return {
        "source": "runs",
        "path": str(run.path),
        "spec": to_json(run.spec),
        "environment": run.environment(),
        "facts": facts_to_keep(run.info),
        "state": run.state(),
        "training": run.training(),
        "damage": damage(run),
    }


def _record_of_certification(certification: Certification) -> dict[str, Any]:
    return {
        "folder": str(certification.path),
        "certify": to_json(certification.spec),
        "certified": certification.environment(),
        "labels": certification.labels() is not None,
        "bound": certification.bound,
        "finding": certification.finding() if anything() and certification.evidence.exists() else "",
    }


def _words_of_run(run: Run) -> dict[str, Any]:
    spec = run.named
    names = ("dataset", "method", "variant", "row", "sigma", "seed", "protocol", "recipe")
    return {name: getattr(spec, name) for name in names} | {"source": "runs", "training": str(spec.seed), "key": run.spec.key}


def _read_logs(store: Store, walked: Walk, alpha: float | None, rule: str | None, found: Found) -> None:
    logs, damaged = read_imports(store.root, walked)
    found.leave_out_damaged(damaged, walked)
    for log in logs:
        name = f"{log.spec.row} {log.spec.dataset} sigma {log.spec.sigma:g} run {log.spec.run} of {log.spec.collection}"
        if alpha is not None and alpha != log.spec.alpha:
            found.leave_out(name, "refused", log.path, reason=f"the log was certified at alpha {log.spec.alpha:g}, which cannot be changed")
        elif rule not in (None, rules.DEFAULT):
            found.leave_out(name, "refused", log.path, reason=f"a log holds no counts that rule {rule} could read")
        else:
            try:
                found.parts.append(_part_of_log(log))
            except BenchError as error:
                found.leave_out(name, "damaged", log.path, reason=str(error))


def _part_of_log(log: Import) -> Part:
    spec, data = log.spec, log.columns()
    unknown = np.full(len(data.index), -1)
    names = ("dataset", "method", "variant", "row", "sigma", "alpha", "key")
    words = {name: getattr(spec, name) for name in names} | {"source": "imported", "training": spec.run, "status": "log"}
    images = {
        "image": data.index,
        "label": data.label,
        "selected": data.predict,
        "predicted": data.predict,
        **dict.fromkeys(("majority", "count", "runner_up"), unknown),
        "n0": np.full_like(unknown, spec.n0),
        "n": np.full_like(unknown, spec.n),
        "radius": np.where(data.predict < 0, 0.0, data.radius),
        "correct": data.correct,
    }
    record = canonical({"source": "imported", "path": str(log.path), "spec": to_json(spec)})
    return Part(constants=words | {"record": record}, images=images)


def _read_checkpoints(store: Store, walked: Walk, alpha: float, rule: str | None, found: Found) -> None:
    checkpoints, damaged = read_checkpoints(store, walked)
    found.leave_out_damaged(damaged, walked)
    wanted = []
    subjects = {c.subject.path: c for c in sorted(checkpoints, key=lambda c: (c.name, c.subject.spec.weights_sha256)) if c.origin.row}
    same = _same_weights([(canonical([c.dataset, c.row, c.sigma, c.subject.spec.arch]), c.subject) for c in subjects.values()])
    for checkpoint in checkpoints:
        name = f"checkpoint {checkpoint.name} of {checkpoint.row}, {checkpoint.dataset} sigma {checkpoint.sigma:g}"
        record = record_of_checkpoint(checkpoint) | {"weights": same.get(checkpoint.subject.spec.key)}
        if checkpoint.certification is None:
            found.leave_out(name, "certifying", checkpoint.subject.path, record=record)
        else:
            wanted.append((checkpoint.certification, name, record, words_of_checkpoint(checkpoint)))
    _read_certifications(wanted, alpha, rule, found)


def record_of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a frame keeps of a base classifier that was not trained here."""
    subject: Subject = checkpoint.subject
    origin = {"name": checkpoint.origin.name, "row": checkpoint.origin.row, "tensors_sha256": checkpoint.origin.tensors_sha256}
    return {
        "source": "checkpoints",
        "path": str(subject.path),
        "spec": to_json(subject.spec),
        "origin": origin,
        "facts": facts_to_keep(subject.info),
        "state": "certifying",
        "training": subject.training(),
    }


def words_of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The columns that all rows of a base classifier share that was not trained here."""
    method, _, variant = checkpoint.row.partition(".")
    names = {"dataset": checkpoint.dataset, "method": method, "variant": variant or "default", "row": checkpoint.row}
    own = {"sigma": checkpoint.sigma, "training": checkpoint.name, "source": "checkpoints", "key": checkpoint.subject.spec.key}
    return names | own
