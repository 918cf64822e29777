"""What differs between models trained here, checkpoints and published logs when they become rows of a table.

Everything else is done in one way for all of them, in build.py. A `Rows` is made for one group.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from bench.errors import BenchError, counted
from bench.evidence.sources import compared, differs, names_of
from bench.logs import printed_collection, runs_of_table
from bench.spec import RunSpec, survey_limit, to_json
from bench.store.checkpoints import Checkpoint
from bench.store.copies import Traces, copies
from bench.store.imports import Import
from bench.store.presets import UNCHECKED, disagreement
from bench.store.subject import Certification, Source, Subject
from leaderboard import layouts
from leaderboard.aggregate.groups import Row, Seed
from leaderboard.aggregate.reading import data_notes, environment_notes
from leaderboard.aggregate.where import flat

UNKNOWN_TRAINING = "How these checkpoints were trained is not known here; what is a training of which row was said to `bench certify`."
NO_COUNTS = "Imported logs hold no counts: their radii are rounded as printed. Their run ids are no seeds, so runs are not paired."


Trainings = tuple[Sequence[Seed], list[str], str]
"""Of one row: its trainings, notes on them, and why it has no mean although all of them are done."""


@dataclass
class Rows:
    """How the trainings of one group become rows.

    Attributes:
        members: certifications of the group, begun or not.
        family: everything that was trained as they were, certified in this way or not.
        read: folder -> what the evidence of each member says.
        expected: the seeds that each row must have. mix: whether a row may average trainings of several versions of its method's code.
    """

    members: Sequence[Certification]
    family: Sequence[Subject]
    read: dict[Path, Seed]
    expected: Sequence[int | str]
    mix: bool

    @classmethod
    def conditions(cls, subject: Subject, changes: str = "") -> dict[str, Any]:
        """What rows share of a training. changes: of the protocol, in words."""
        raise NotImplementedError

    def configuration(self, subject: Subject) -> str:
        """What the trainings of one row have in common, besides the row's name."""
        return ""

    def trainings(self, name: str, found: Sequence[Subject]) -> Trainings:
        """Those of a row; of one that is there at another sigma only, none."""
        raise NotImplementedError

    def several(self, same: Sequence[Sequence[Subject]]) -> str:
        """Why a row stands several times, once for each of its configurations."""
        return ""

    def notes(self, rows: Sequence[tuple[float, Row]]) -> tuple[str, ...]:
        """What concerns the whole group. rows: with their sigmas."""
        whole = [member for member in self.members if self.read[member.subject.path].state != "damaged"]
        return (*environment_notes(whole), *data_notes(whole), *_one_network(rows))

    @property
    def mixed(self) -> bool:
        """Whether a row averages trainings of several versions of its method's code."""
        return False


@dataclass
class RowsOfRuns(Rows):
    """Of models trained here: a row has every seed that any run of the group has."""

    def __post_init__(self) -> None:
        known = names_of(m.subject.environment() or {} for m in self.members)
        self.sources: dict[Path, str] = {m.subject.path: _method_source(m.subject, known) for m in self.members}
        self.by_method, self.by_cell = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        cells: dict[tuple[float, str], list[Subject]] = defaultdict(list)
        for subject in (m.subject for m in self.members):
            if source := self.sources[subject.path]:
                self.by_method[subject.method].add(source)
                self.by_cell[subject.spec.cell].add(source)
            cells[subject.sigma, subject.spec.cell].append(subject)
        for found in cells.values():
            self.read |= _without_copies(found, self.read)

    @classmethod
    def conditions(cls, subject: Subject, changes: str = "") -> dict[str, Any]:
        spec = subject.spec
        # A method's recipe may cut the batch, so it is not in it.
        training = {f"train.{name}": value for name, value in sorted(vars(spec.train).items()) if name not in ("arch", "batch")}
        own = {"source": "own runs", "protocol": spec.protocol, "changes": changes, "recipe": spec.recipe, "network": spec.train.arch}
        return own | training

    def configuration(self, subject: Subject) -> str:
        return str(subject.spec.cell)

    def notes(self, rows: Sequence[tuple[float, Row]]) -> tuple[str, ...]:
        return (*super().notes(rows), *_surveys([member.subject for member in self.members]))

    def trainings(self, name: str, found: Sequence[Subject]) -> Trainings:
        by_seed = {subject.seed: self.read[subject.path] for subject in found}
        seeds = [by_seed.get(cast(int, number), Seed(seed=number, state="missing")) for number in self.expected]
        own = sorted({self.sources[subject.path] for subject in found} - {""})
        notes = [f"{name} at sigma {s.sigma:g}: {self.read[s.path].reason}" for s in found if self.read[s.path].reason]
        notes += [*_histories(found), *_names(found)]
        refused = ""
        if len(own) > 1:
            several = f"several versions of its method's code: {name} was trained from {', '.join(own)}"
            notes.append(several if self.mix else f"{several}; --mix shows its means all the same")
            refused = "" if self.mix else "several versions"
        elif own and (others := sorted(self.by_method[found[0].method] - {*own})):
            notes.append(f"trained from version {own[0]} of {found[0].method}'s code, others of the method here from {', '.join(others)}")
        return seeds, notes, refused

    def several(self, same: Sequence[Sequence[Subject]]) -> str:
        return f", since its settings differ: {_differences([found[0].spec for found in same])}"

    @property
    def mixed(self) -> bool:
        return self.mix and any(len(sources) > 1 for sources in self.by_cell.values())


class RowsOfCheckpoints(Rows):
    """Of checkpoints: the trainings of a row are those of which `bench certify --row` said so.

    Where nobody said a row, a checkpoint is averaged with no other: files of different methods often have one name.
    """

    @classmethod
    def conditions(cls, subject: Subject, changes: str = "") -> dict[str, Any]:
        spec = subject.spec
        code = spec.code_sha256 or spec.source_sha256
        source = f" (source {code[:8]})" if code else ""
        network = {"network": f"{spec.arch}{source}", "normalisation": spec.normalization}
        return {"source": "checkpoints trained elsewhere, certified here"} | network

    def configuration(self, subject: Subject) -> str:
        return "" if _row_said(subject) else subject.key

    def trainings(self, name: str, found: Sequence[Subject]) -> Trainings:
        """Numbered by file name and then weights; equal ones count once."""
        if not found:
            return [Seed(seed="only", state="missing")], [], ""
        found = sorted(found, key=lambda subject: (subject.training_name, subject.spec.weights_sha256))
        again = copies([self._traces(subject) for subject in found])
        by_training: dict[int, list[Subject]] = defaultdict(list)
        for place, subject in enumerate(found):
            by_training[again.get(place, place)].append(subject)
        seeds, notes = [], []
        for number, same in enumerate(by_training.values()):
            read = [self.read[subject.path] for subject in same]
            seed = next((seed for seed in read if seed.state == "done"), read[0])
            seeds.append(dataclasses.replace(seed, seed=str(number)))
            if len(same) > 1:
                notes.append(f"{' and '.join(subject.training_name for subject in same)} hold the same weights, which count once")
            notes += [seed.reason] if seed.reason else []
        here, first = {subject.path for subject in found}, (_row_said(found[0]), found[0].sigma)
        elsewhere = [s for s in self.family if s.path not in here and first[0] and (_row_said(s), s.sigma) == first]
        notes += [f"{other} is not certified in this way" for other in dict.fromkeys(s.training_name for s in elsewhere)]
        return seeds, [f"{name} at sigma {found[0].sigma:g}: {note}" for note in notes], ""

    def _traces(self, subject: Subject) -> Traces:
        """What tells a checkpoint from others; where its weights are gone, what was recorded of them."""
        own, said = traces(subject, self.read[subject.path]), cast(Checkpoint, subject).origin().tensors_sha256
        return Traces(own.weights, own.records | ({said} if said and not own.weights else set()))

    def several(self, same: Sequence[Sequence[Subject]]) -> str:
        return ": only `bench certify --row` makes checkpoints one row"

    def notes(self, rows: Sequence[tuple[float, Row]]) -> tuple[str, ...]:
        counts: dict[int, list[str]] = defaultdict(list)
        for sigma, row in rows:
            if row.seeds[0].state != "missing":
                counts[len(row.seeds)].append(f"{row.label} at sigma {sigma:g}")
        told = "; ".join(f"{count} of {', '.join(names)}" for count, names in sorted(counts.items()))
        differ = [f"The numbers of checkpoints differ, and each mean is over its own: {told}."] if len(counts) > 1 else []
        return (UNKNOWN_TRAINING, *differ, *super().notes(rows))


class RowsOfLogs(Rows):
    """Of published logs: the runs of a row are those that the paper averages, where it says which."""

    @classmethod
    def conditions(cls, subject: Subject, changes: str = "") -> dict[str, Any]:
        return {"source": f"imported logs of {subject.spec.collection}", "network": subject.spec.arch}

    def trainings(self, name: str, found: Sequence[Subject]) -> Trainings:
        if not found:
            return [Seed(seed="only", state="missing")], [], ""
        chosen, notes = runs_of_row([subject for subject in found if isinstance(subject, Import)])
        return [self.read[log.path] if log else Seed(seed=run, state="missing") for run, log in chosen.items()], notes, ""

    def notes(self, rows: Sequence[tuple[float, Row]]) -> tuple[str, ...]:
        found = [(row, o) for _, row in rows for o in row.outcomes]
        for other, o in found:
            row, first = found[0]
            if not (np.array_equal(o.index, first.index) and np.array_equal(o.label, first.label)):
                raise BenchError(f"the imported logs of {row.name} and {other.name} cover different test images under one name")
        return (NO_COUNTS,)


ROWS: Mapping[Source, type[Rows]] = {"runs": RowsOfRuns, "imported": RowsOfLogs, "checkpoints": RowsOfCheckpoints}


def traces(subject: Subject, seed: Seed) -> Traces:
    """What tells a training from others."""
    records = {seed.counts, (subject.training() or {}).get("weights_sha256")} - {None}
    there = not subject.lacks(subject.weights.name) and subject.weights.exists()
    return Traces(subject.weights if there else None, frozenset(map(str, records)))


def runs_of_row(logs: Sequence[Import]) -> tuple[dict[str, Import | None], list[str]]:
    """Run id -> log of one row at one sigma: the runs that the paper averages, where it says which, else all; and notes on the choice.

    None: a run that the paper averages and that is not imported.

    Raises:
        BenchError: two different logs of one run.
    """
    name, sigma = logs[0].row, logs[0].sigma
    by_run: dict[str, Import] = {}
    for log in {log.spec.rows_sha256: log for log in reversed(logs)}.values():  # the same file in several folders is one run
        if (other := by_run.setdefault(log.spec.run, log)) is not log:
            raise BenchError(f"{log.path} and {other.path} hold the same run of {name}; move one of them away")
    by_run = dict(sorted(by_run.items()))
    listed = _listed(logs[0], name, sigma)
    chosen = listed or tuple(by_run)
    notes = []
    if unused := [run for run in by_run if run not in chosen]:
        notes.append(f"{name} at sigma {sigma:g}: of {len(by_run)} imported runs the {len(by_run) - len(unused)} that the paper averages")
    if missing := [run for run in listed if run not in by_run]:
        notes.append(f"{name} at sigma {sigma:g}: the paper also averages run {', '.join(missing)}, which is not imported")
    return {run: by_run.get(run) for run in chosen}, notes


def _listed(log: Import, name: str, sigma: float) -> tuple[str, ...]:
    """The runs that the first published table with this row averages; nothing is known of another collection."""
    if log.spec.collection != printed_collection():
        return ()
    tables = [number for number in layouts.numbers() if layouts.load(number).dataset == log.dataset]
    return next((runs for number in tables if (runs := runs_of_table(number, name, sigma))), ())


def _one_network(rows: Sequence[tuple[float, Row]]) -> list[str]:
    """Rows whose trainings came out the same: what tells them apart changed nothing."""
    found: dict[tuple[float, str], list[Row]] = defaultdict(list)
    for sigma, row in rows:
        for counts in {seed.counts for seed in row.seeds if seed.counts}:
            found[sigma, counts].append(row)
    alike = Counter((sigma, tuple(row.label for row in same)) for (sigma, _), same in found.items() if len(same) > 1)
    return [
        f"{' and '.join(labels)} at sigma {sigma:g} are one network: equal counts on every image ({counted(number, rows[0][1].unit)})"
        for (sigma, labels), number in alike.items()
    ]


def _row_said(subject: Subject) -> str | None:
    return cast(Checkpoint, subject).origin().row


def _method_source(subject: Subject, known: Mapping[str, str]) -> str:
    """The beginning of the hash of the method's code that a run was trained from; empty for one that failed before its first step.

    Args:
        known: hash of a text -> hash of its code; a text that is not in it is called by its own hash.
    """
    environment = subject.environment() or {}
    text = str(environment.get("method_sha256") or "unknown")
    return str(environment.get("method_code_sha256") or known.get(text, text))[:8] if environment or subject.training() else ""


def _without_copies(runs: Sequence[Subject], read: Mapping[Path, Seed]) -> dict[Path, Seed]:
    """Folder -> what stands instead of the seeds of a configuration that are copies of an earlier one."""
    runs = sorted(runs, key=lambda run: run.seed or 0)
    instead = {}
    for place, first in copies([traces(run, read[run.path]) for run in runs]).items():
        reason = f"seed {runs[place].seed} is left out, because it is the training of seed {runs[first].seed} again"
        instead[runs[place].path] = dataclasses.replace(read[runs[place].path], state="copy", outcomes=None, reason=reason)
    return instead


def _histories(runs: Sequence[Subject]) -> list[str]:
    """What changed while a run was trained."""
    words = {"method_sha256": "the method's code", "method_code_sha256": "the method's code"}
    words |= {"data_md5": "the data", "libraries": "library versions", "suite": "the suite's commit"}
    notes = []
    for run in runs:
        environment = run.environment() or {}
        history = environment.get("history") or []
        changed = sorted({words.get(key, key) for old in history for key in compared(old) if differs(old, environment, key)})
        if history:
            where = f"{run.row} at sigma {run.sigma:g}, seed {run.seed}"
            notes.append(f"{where}: changed while it was trained: {', '.join(changed) or 'its environment'}")
    return notes


def _names(runs: Sequence[Subject]) -> list[str]:
    """What is to be said of the names of a row's runs."""
    said = ((disagreement(run.spec, run.info, run.environment() or {}), run) for run in reversed(runs))
    found = {sentence: run for sentence, run in said if sentence}
    where = {sentence: "" if sentence.startswith(UNCHECKED) else f" at sigma {run.sigma:g}" for sentence, run in found.items()}
    return [f"{run.row}{where[sentence]}: {sentence}" for sentence, run in found.items()]


def _surveys(runs: Sequence[Subject]) -> list[str]:
    """How many copies a protocol let the surveys of methods draw, where it limits them."""
    rows: dict[int, list[str]] = defaultdict(list)
    for run in runs:
        if (run.training() or {}).get("surveys") and (limit := survey_limit(run.spec.train, str(run.protocol))):
            rows[limit].append(run.row)
    told = "{}: surveys of the training images drew at most {} noisy copies of each"
    return [told.format(", ".join(dict.fromkeys(names)), limit) for limit, names in rows.items()]


def _differences(specs: Sequence[RunSpec]) -> str:
    """`hyperparameters.steps: 4 in #1, 8 in #2`."""
    flats = [{k: v for k, v in flat(to_json(spec)).items() if k not in ("seed", "depends")} for spec in specs]
    names = sorted({name for one in flats for name in one if any(one.get(name) != other.get(name) for other in flats)})

    def say(name: str) -> str:
        return ", ".join(f"{one.get(name, 'unset')} in #{number}" for number, one in enumerate(flats, start=1))

    return "; ".join(f"{name}: {say(name)}" for name in names)
