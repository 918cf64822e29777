"""From a store to the evidence table."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import BenchError, Fault, UsageError, as_fault, nearest_folder
from bench.spec import canonical, to_json
from bench.store.checkpoints import Checkpoint
from bench.store.copies import Traces, copies
from bench.store.imports import Import, ImportSpec, Printed, Published
from bench.store.runs import Run, Store
from bench.store.subject import Certification, Subject
from bench.store.verified import anything
from leaderboard.aggregate.build import groups_of, once_each
from leaderboard.aggregate.collect import unexpected_notes
from leaderboard.aggregate.reading import Reading, comparable, trusts_of
from leaderboard.aggregate.select import EVERYTHING, Filters
from leaderboard.aggregate.where import choose, choose_groups
from leaderboard.formats.values import picked
from leaderboard.frame.arguments import level, several, word
from leaderboard.frame.arguments import path as path_of
from leaderboard.frame.schema import CENSUS, LEFT_OUT, NOTES, Part, frame_of, images_of_counts


def load_results(
    path: str | os.PathLike[str] = "results/runs",
    *,
    where: str | Sequence[str] = (),
    alpha: float | None = None,
    rule: str | None = None,
    strict: bool = False,
) -> pd.DataFrame:
    """Everything that is finished in a results folder, as one table: a line per subject and image.

    A subject is anything that was certified: a model trained by `bench run`, a checkpoint certified by `bench certify`, a published log
    read by `bench import`. A subject that was certified in several ways has lines for each of them.

    Args:
        path: the results folder, such as `results/reference`.
        where: `KEY=VALUE`, or a list of them, as of `bench table --where`, for what no column tells: `train.epochs=30`, `changes=`
            (nothing was changed), `certify.images=all`, `steps=4`. Different keys must all fit; of a key that is given twice any
            value will do. Empty: everything. After `seed=1`, say `seeds=[1]` to `summary`, too.
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
        BenchError: no such folder, or one that holds no results at all; alpha or rule unknown; where fits nothing; with strict, anything
            that is left out.
    """
    root, alpha = path_of(path, "path"), None if alpha is None else level(alpha)
    Reading.asked(alpha, None if rule is None else word(rule, "rule"))
    try:
        there = root.is_dir()
    except (OSError, ValueError) as error:
        raise BenchError(f"{str(path)!r}: {error}") from None
    if not there:
        raise BenchError(f"{root}: there is no such folder{nearest_folder(root) or '; `bench run` fills results/runs'}")
    try:
        filters = EVERYTHING.narrowed(several(where, "where", str))
        found = read(Store(root), alpha, rule, filters=filters)
    except UsageError as error:
        raise UsageError([problem.removeprefix("--") for problem in error.problems]) from None
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


def read(
    store: Store,
    alpha: float | None = None,
    rule: str | None = None,
    only: Collection[tuple[str, str]] | None = None,
    filters: Filters = EVERYTHING,
) -> Found:
    """Reads a store.

    Args:
        only: the (run key, certification key) that are wanted, of runs alone; None: everything.
        filters: what of it is wanted; all runs still tell which seeds a row should have.

    Raises:
        UsageError: a filter that fits nothing. BenchError: the folder cannot be read. OSError.
    """
    walked = store.walk()
    keys = None if only is None else {key for key, _ in only}
    if keys is not None:
        walked = replace(walked, places=[place for place in walked.places if place.path.name.rpartition("-")[2] in keys])
    found = Found(Reading.asked(alpha, rule), notes=unexpected_notes(walked))
    subjects, faults = store.read(*(() if only is None else ("runs",)), walked=walked)
    for fault in faults:
        if keys is None or any(part.endswith(key) for part in fault.file.parts for key in keys):
            found.leave_out(str(fault.file), "damaged", fault.file, reason=str(fault))
    subjects = [subject for subject in subjects if keys is None or subject.key in keys]
    same, (takes, ways) = _same_weights(subjects), _chosen(subjects, filters, found.reading)
    wanted = []
    for subject in subjects:
        if only is None:
            begun = [*once_each(subject).values()]
        else:
            begun = [c for c in subject.certifications() if (subject.key, c.spec.key) in only]
        try:
            record, words, state = record_of(subject), words_of(subject), subject.state()
            reason = str((subject.failure() or {}).get("reason", ""))
        except BenchError as error:
            if takes(subject, None):
                found.leave_out(subject.name, "damaged", subject.path, reason=str(error))
            continue
        if other := same.get(subject.key):
            record["records"] |= {"training.json": record["records"]["training.json"] | {"weights_sha256": other}}
        own = [c for c in begun if ways is None or comparable(c).key in ways]
        if isinstance(subject, Run) and (own or not begun):
            found.runs.append([record["spec"], [to_json(c.spec) for c in own]])
        if not begun and takes(subject, None):
            state, reason = ("damaged", subject.damage) if subject.damage else (state, reason)
            found.leave_out(subject.name, state, subject.path, reason=reason, record=record)
        wanted += [(certification, record, words) for certification in begun if takes(subject, certification)]
    _read_certifications(wanted, alpha, found)
    return found


def _chosen(
    subjects: Sequence[Subject], filters: Filters, reading: Reading
) -> tuple[Callable[[Subject, Certification | None], bool], set[str] | None]:
    """Whether a subject is wanted, or one of its certifications; of what cannot be read so, nothing is known but its subject.

    And the keys of those certifications that runs which are not wanted have in common with others; None: any.

    Raises:
        UsageError: a filter that fits nothing.
    """
    if filters == EVERYTHING or not subjects:
        return lambda subject, certification: True, None
    chosen, rest = choose(filters.apply(subjects), filters.where)
    keys = {subject.key for subject in chosen}
    groups = choose_groups(groups_of(subjects, keys, (), reading, ())[0], rest, chosen) if rest else []
    members = [member for group in groups for member in group.members]
    paths = {path for member in members for path in (member.path, member.subject.path)}

    def takes(subject: Subject, certification: Certification | None) -> bool:
        known = rest and not (certification and reading.refuses(certification))
        return subject.key in keys and (not known or (certification or subject).path in paths)

    return takes, {comparable(member).key for member in members} if rest else None


_Wanted = tuple[Certification, dict[str, Any], dict[str, Any]]


def _read_certifications(wanted: Sequence[_Wanted], alpha: float | None, found: Found) -> None:
    """Reads what certifications hold, each with the record and the words of its subject. alpha: that was asked for, if any was."""
    answers = [_read_one(item, alpha, found.reading) for item in wanted]
    trusts = iter(trusts_of([item[0] for item, answer in zip(wanted, answers, strict=True) if isinstance(answer, Part)]))
    for (certification, record, _), answer in zip(wanted, answers, strict=True):
        if isinstance(answer, Part):
            found.parts.append(replace(answer, constants={**answer.constants, "status": str(next(trusts))}))
            continue
        state, done, told = answer
        try:
            own = _record_of_certification(certification)
        except BenchError:  # which the fault tells
            own = {"folder": str(certification.path), "certify": to_json(certification.spec), **UNREADABLE}
        fault = [str(told.file), told.line, told.reason] if isinstance(told, Fault) else None
        kept = None if isinstance(certification, Published) else record | own | {"status": [state, done, fault]}
        found.leave_out(certification.subject.name, state, certification.path, done=done, reason=str(told), record=kept)


def _read_one(item: _Wanted, alpha: float | None, reading: Reading) -> Part | tuple[str, int, Fault | str]:
    """The part; or state, images that are done and what to say of what is left out."""
    certification, record, words = item
    subject, spec = certification.subject, certification.spec
    if subject.damage:
        return "damaged", 0, subject.damage
    if isinstance(subject, Import) and alpha not in (None, subject.spec.alpha):
        return "refused", 0, f"the log was certified at alpha {subject.spec.alpha:g}, which cannot be changed"
    if reason := reading.refuses(certification):
        return "refused", 0, reason
    status = certification.status()
    if status.state != "done":
        return status.state, len(status.columns), status.fault or ""
    try:
        if isinstance(subject, Import):
            own = {"alpha": subject.spec.alpha, "record": canonical(record)}
            return Part(constants=words | own, images=_images_of_log(subject.spec, status.columns))
        kept = record | _record_of_certification(certification)
        o = reading.outcomes(certification, status.columns)
    except BenchError as error:
        return "damaged", 0, as_fault(error, certification.path)
    own = {"alpha": reading.alpha, "rule": reading.rule or spec.rule, "certification": spec.key, "record": canonical(kept)}
    return Part(constants=words | own, images=images_of_counts(status.columns, o))


def _images_of_log(spec: ImportSpec, data: Printed) -> dict[str, Any]:
    """The columns of a published log, by image."""
    unknown = np.full(len(data), -1)
    return {
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


UNREADABLE = {"certified": None, "labels": True, "bound": False, "finding": ""}
"""What a record holds of a certification that is damaged."""


def _same_weights(subjects: Sequence[Subject]) -> dict[str, str]:
    """Key of each training whose weights are those of an earlier one, though their file differs -> the recorded SHA-256 of the latter."""
    cells: dict[str, list[tuple[Subject, str]]] = defaultdict(list)
    for subject in sorted(subjects, key=lambda subject: (subject.seed or 0, subject.source, subject.training_name, subject.key)):
        recorded = (subject.training() or {}).get("weights_sha256")
        if recorded and isinstance(subject, Run):
            cells[subject.spec.cell].append((subject, recorded))
        elif recorded and isinstance(subject, Checkpoint) and subject.origin().row:
            cells[canonical([subject.dataset, subject.row, subject.sigma, subject.spec.arch])].append((subject, recorded))
    found: dict[str, str] = {}
    for members in cells.values():
        traces = [Traces(None if s.lacks("weights.safetensors") else s.weights, frozenset({recorded})) for s, recorded in members]
        found |= {members[place][0].key: members[first][1] for place, first in copies(traces).items()}
    return found


def record_of(subject: Subject) -> dict[str, Any]:
    """What a frame keeps of a subject."""
    return {"source": subject.source, "path": str(subject.path), "spec": to_json(subject.spec), "records": subject.told()}


def words_of(subject: Subject) -> dict[str, Any]:
    """The columns that all rows of a subject share."""
    names = ("dataset", "method", "variant", "row", "sigma", "seed", "protocol", "recipe", "source", "key")
    return picked(subject, *names) | {"training": subject.training_name}


def _record_of_certification(certification: Certification) -> dict[str, Any]:
    return {
        "folder": str(certification.path),
        "certify": to_json(certification.spec),
        "certified": certification.environment(),
        "labels": certification.labels() is not None,
        "bound": certification.bound,
        "finding": certification.finding() if anything() and certification.evidence.exists() else "",
    }
