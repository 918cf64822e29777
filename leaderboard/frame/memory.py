"""From the evidence table back to runs, logs and checkpoints that never touch a disk: what the leaderboard makes groups of.

There is one way from evidence to a printed number. The commands give it what the store reads, and this module what a frame holds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.datasets import DATASETS, DatasetInfo, from_facts
from bench.errors import BenchError, nearest
from bench.evidence.columns import Columns
from bench.evidence.log import NOTHING
from bench.logs import Columns as LogColumns
from bench.logs import Import, ImportSpec
from bench.spec import CertifySpec, RunSpec, canonical, digest, from_json, parse_json
from bench.store.checkpoints import Origin, Subject, SubjectSpec
from bench.store.runs import Certification, Run, Standing, State
from leaderboard.aggregate.collect import ALPHA, finished
from leaderboard.aggregate.foreign import Checkpoint, groups_of_checkpoints
from leaderboard.aggregate.groups import Group
from leaderboard.aggregate.imported import groups_of_logs
from leaderboard.aggregate.runs import DAMAGED, Reading, groups_of_runs
from leaderboard.frame.arguments import seeds_of
from leaderboard.frame.schema import CENSUS, LEFT_OUT, NOTES, NULLABLE
from leaderboard.metrics import outcomes

NEEDED = ("image", "label", "selected", "predicted", "majority", "count", "runner_up", "n0", "n", "radius", "alpha", "rule", "record")
NO_CENSUS = (
    "the frame has lost its attrs, as pandas.concat, merge and files do: seeds of which it has no row are not missed, and nothing tells "
    "what was left out; seeds= says which seeds a row must have"
)
Record = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """One certification in a frame, or one that was left out of it.

    Attributes:
        reading: how its counts are read; None for a log.
        columns: its rows; None where it was left out.
    """

    record: Record
    reading: Reading | None = None
    columns: Columns | LogColumns | None = None

    @property
    def source(self) -> str:
        return str(self.record["source"])

    @property
    def seed(self) -> int | None:
        """Of a training of this suite."""
        return cast("int", self.record["spec"]["seed"]) if self.source == "runs" else None

    @property
    def place(self) -> tuple[Any, ...]:
        """What it shares with other trainings of its row: the configuration, and last how it was certified."""
        names = ("dataset", "method", "variant", "arch", "sigma", "protocol", "recipe")
        return (*(str(self.record["spec"].get(name)) for name in names), canonical(self.record.get("certify")))

    @property
    def certify(self) -> CertifySpec | None:
        """How it was certified; None where no certification was begun."""
        return _certify_spec(canonical(self.record["certify"])) if "certify" in self.record else None


@dataclass(frozen=True)
class HeldCertification(Certification):
    """A certification as a frame holds it; `held` is None for one that was never begun."""

    held: Held | None

    def begun(self) -> bool:
        return self.held is not None

    @property
    def bound(self) -> bool:
        return self.held is not None and bool(self.held.record["bound"])

    def finding(self) -> str:
        return str(self.held.record["finding"]) if self.held else ""

    def standing(self) -> Standing:
        if self.held is None:
            return Standing(self.run.state(), NOTHING)
        if isinstance(columns := self.held.columns, Columns):
            return Standing("done" if len(columns) == len(self.expected()) else "certifying", columns)
        state, done = self.held.record["standing"], self.held.record["done"]
        if state == "damaged":
            raise BenchError(self.held.record["reason"])
        return Standing(state, Columns(*[np.zeros(done, np.int32)] * len(dataclasses.fields(Columns))))

    def columns(self) -> Columns:
        return self.standing().columns

    def environment(self) -> dict[str, Any] | None:
        return self.held.record["certified"] if self.held else None

    def labels(self) -> tuple[int, ...] | None:
        # They were compared when the frame was made; here only whether they were counts.
        return () if self.held is None or self.held.record["labels"] else None


class _Held:
    """What a run and a checkpoint in a frame have in common."""

    path: Path
    spec: Any
    record: Record
    parts: tuple[Held, ...]

    @property
    def info(self) -> DatasetInfo:
        name, facts = self.record["spec"]["dataset"], self.record["facts"]
        return DATASETS[name] if name in DATASETS else from_facts(name, facts or {}, str(self.path))

    @property
    def weights(self) -> Path:
        """Whether two are the same was found when the frame was made. No file can have this name, so the disk is not asked for it."""
        return Path("\0")

    def state(self) -> State:
        return cast(State, self.record["state"])

    def training(self) -> dict[str, Any] | None:
        """What was recorded, but of weights that another seed has too, the SHA-256 of that seed's file."""
        known, same = self.record["training"], self.record.get("weights")
        return {**known, "weights_sha256": same} if known and same else known

    def timing(self) -> dict[str, Any] | None:
        return next((part.record["timing"] for part in self.parts if part.record.get("timing")), None)

    def environment(self) -> dict[str, Any] | None:
        return self.record.get("environment")

    def certification(self, spec: CertifySpec) -> Certification:
        held = next((part for part in self.parts if part.certify == spec), None)
        path = Path(held.record["folder"]) if held else self.path / f"certify-{spec.key}"
        return HeldCertification(path, spec, cast(Run, self), held)

    def certifications(self) -> Iterator[Certification]:
        for part in self.parts:
            if part.certify:
                yield self.certification(part.certify)


@dataclass(frozen=True)
class HeldRun(_Held, Run):
    """A run as a frame holds it."""

    record: Record = dataclasses.field(default_factory=dict, repr=False)
    parts: tuple[Held, ...] = dataclasses.field(default=(), repr=False)


@dataclass(frozen=True)
class HeldSubject(_Held, Subject):
    """A base classifier that was not trained here, as a frame holds it."""

    record: Record = dataclasses.field(default_factory=dict, repr=False)
    parts: tuple[Held, ...] = dataclasses.field(default=(), repr=False)

    def training(self) -> dict[str, Any]:
        return {"state": "trained", "weights_sha256": self.record.get("weights") or self.spec.weights_sha256}


@dataclass(frozen=True)
class HeldLog(Import):
    """An imported log as a frame holds it."""

    held: LogColumns

    def columns(self) -> LogColumns:
        return self.held


def groups_of(frame: pd.DataFrame, words: Sequence[str], seeds: Sequence[int] = (), mix: bool = False) -> tuple[Group, ...]:
    """The groups of comparable rows of a frame, as `leaderboard.aggregate.collect` gives them of a store.

    What was left out of the frame stands in them as unfinished: all of it, as long as every subject of the folder is still in the frame;
    only what belongs to a row that is there, once the frame was filtered. A row needs every seed that any comparable run of the
    folder has, whether the frame was filtered or not.

    Args:
        words: metrics, see `leaderboard.metrics.columns_of`.
        seeds: the seeds that a row must have; runs with others are left out, as are logs and checkpoints, which have none.
        mix: rows of several groups share a table.

    Raises:
        BenchError: a frame without the columns that are needed, with rows that stand twice, or whose radii are not those of its counts.
    """
    if not isinstance(frame, pd.DataFrame):
        raise BenchError(f"a {type(frame).__name__} is not a frame; load_results gives one")
    seeds = seeds_of(seeds)
    census = parse_json(frame.attrs.get(CENSUS) or f'{{"alpha": {ALPHA}, "rule": null, "parts": -1, "left_out": [], "runs": []}}')
    asked = Reading(census["alpha"], census["rule"])
    try:
        held = _read(frame, asked.rule)
    except (TypeError, ValueError, KeyError) as error:
        raise BenchError(f"the frame holds what load_results does not write ({type(error).__name__}: {error})") from None
    told = list(zip(frame.attrs.get(LEFT_OUT, ()), (Held(record or {}, asked) for record in census["left_out"]), strict=False))
    if len(held) != census["parts"]:
        places = {part.place[:end] for part in held for end in (None, -1)}
        told = [
            (entry, part) for entry, part in told if not part.record or part.place[: None if "certify" in part.record else -1] in places
        ]
    if seeds:
        there = {spec["seed"] for spec, _ in census["runs"]} | {part.seed for part in held}
        if unknown := [seed for seed in seeds if seed not in there]:
            raise BenchError(f"no run has seed {unknown[0]}{nearest(str(unknown[0]), map(str, there - {None}))}")
        held = [part for part in held if part.seed in seeds]
        told = [(entry, part) for entry, part in told if not part.record or part.seed in seeds]
    parts = [*held, *(part for _, part in told if part.record)]
    groups: list[Group] = []
    unread: list[str] = []
    if CENSUS not in frame.attrs and not seeds and any(part.source == "runs" for part in held):
        unread.append(NO_CENSUS)
    readings = sorted({part.reading for part in parts if part.reading} or {asked}, key=lambda reading: (reading.alpha, reading.rule or ""))
    for reading in readings:
        runs = sorted((_run(same) for same in _by_subject(parts, reading, "runs")), key=lambda run: run.path)  # as a store has them
        shown = {run.spec.key for run in runs}
        others = [_unseen(spec, certifies) for spec, certifies in census["runs"] if digest(spec) not in shown]
        found, notes = groups_of_runs([*runs, *others], shown, seeds, reading, words, mix)
        groups += found
        unread += notes
    logs = [HeldLog(Path(p.record["path"]), _log_spec(p), cast(LogColumns, p.columns)) for p in held if p.source == "imported"]
    groups += groups_of_logs(logs, words, None, unread)
    for reading in readings:
        subjects = _by_subject(parts, reading, "checkpoints")
        found, notes = groups_of_checkpoints([one for same in subjects for one in _checkpoints(same)], reading, words)
        groups += found
        unread += notes
    if held and not groups:
        raise BenchError(f"nothing in the frame can be read so: {'; '.join(unread)}")
    rest = [*(_note(entry) for entry, part in told if not part.record), *frame.attrs.get(NOTES, ())]
    return finished(groups, [*unread, *rest], mix)


def _note(entry: Mapping[str, Any]) -> str:
    """A sentence on what was left out and stands in no row."""
    damaged = entry["state"] == "damaged"
    return f"left out, because it is damaged: {entry['reason']}" if damaged else f"left out: {entry['subject']}: {entry['reason']}"


def _by_subject(parts: Sequence[Held], reading: Reading, source: str) -> list[list[Held]]:
    """The parts of each subject that are read in one way, what was left out included.

    Raises:
        BenchError: one certification stands twice.
    """
    found: dict[str, list[Held]] = defaultdict(list)
    for part in parts:
        if part.source == source and part.reading == reading:
            found[canonical([part.record["spec"], part.record.get("origin")])].append(part)
    for same in found.values():
        own = [canonical(part.record.get("certify")) for part in same]
        if len(set(own)) < len(own):
            raise BenchError(f"the frame holds {same[0].record['path']} twice with different records; load it once")
    return list(found.values())


def _run(parts: Sequence[Held]) -> HeldRun:
    record = parts[0].record
    seen = {DAMAGED: record["damage"]} if record.get("damage") else None
    return HeldRun(Path(record["path"]), from_json(RunSpec, canonical(record["spec"]), "frame"), seen, record=record, parts=tuple(parts))


def _unseen(spec: Record, certifies: Sequence[Record]) -> HeldRun:
    """A run of the folder that is not in the frame: it says which seeds others should have."""
    record = {"source": "runs", "path": digest(spec), "spec": spec, "facts": None, "state": "certifying", "training": {"state": "trained"}}
    begun = {"folder": record["path"], "certified": None, "labels": True, "bound": True, "finding": ""}
    return _run([Held(record | begun | {"certify": certify}) for certify in certifies] or [Held(record)])


def _checkpoints(parts: Sequence[Held]) -> Iterator[Checkpoint]:
    record = parts[0].record
    spec = cast(SubjectSpec, from_json(cast(Any, SubjectSpec), canonical(record["spec"]), "frame"))
    subject = HeldSubject(Path(record["path"]), spec, record=record, parts=tuple(parts))
    origin, begun = Origin(**record["origin"]), list(subject.certifications())
    for certification in begun:
        yield Checkpoint(subject=subject, origin=origin, certification=certification)
    if not begun:
        yield Checkpoint(subject=subject, origin=origin, certification=None)


def _log_spec(part: Held) -> ImportSpec:
    return cast(ImportSpec, from_json(cast(Any, ImportSpec), canonical(part.record["spec"]), "frame"))


@lru_cache(maxsize=256)
def _certify_spec(text: str) -> CertifySpec:
    return from_json(CertifySpec, text, "frame")


def _read(frame: pd.DataFrame, asked: str | None) -> list[Held]:
    """The certifications in a frame, in the order of their first rows.

    Args:
        asked: the rule by which the frame was asked to be read, if any.
    """
    if missing := [name for name in NEEDED if name not in frame.columns]:
        raise BenchError(f"the frame has no column {missing[0]!r}; keep the columns that load_results gave it")
    if frame["record"].isna().any():
        raise BenchError("the frame has rows without a record; keep the rows that load_results gave it")
    codes, texts = pd.factorize(frame["record"])
    at, alphas = pd.factorize(frame["alpha"])
    by, names = pd.factorize(frame["rule"])
    codes = (codes * max(1, len(alphas)) + at) * (len(names) + 1) + by + 1  # by is -1 for logs
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1)).tolist()
    values = {name: _numbers(frame, name)[order] for name in NEEDED if name not in ("record", "alpha", "rule")}
    held = []
    for begin, end in itertools.pairwise([*starts, len(codes)]):
        rest, which = divmod(int(codes[order[begin]]), len(names) + 1)
        place, level = divmod(rest, len(alphas))
        own = {name: column[begin:end] for name, column in values.items()}
        held.append(_held(parse_json(texts[place]), float(alphas[level]), str(names[which - 1]) if which else "", asked, own))
    return held


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[Any]:
    if name == "radius":
        return frame[name].to_numpy(dtype=np.float64)
    return frame[name].to_numpy(dtype=np.int64, na_value=-1) if name in NULLABLE else frame[name].to_numpy(dtype=np.int64)


def _held(record: Record, alpha: float, rule: str, asked: str | None, own: Mapping[str, NDArray[Any]]) -> Held:
    if record["source"] == "imported":
        order = np.argsort(own["image"], kind="stable")
        return Held(record, None, LogColumns(*(own[name][order] for name in ("image", "label", "predicted", "radius"))))
    highest = np.maximum(own["label"], own["selected"])
    fields = {"index": own["image"], "highest": highest}
    fields |= {name: own[name] for name in ("label", "selected", "majority", "count", "runner_up", "n0", "n")}
    columns = Columns(**{name: column.astype(np.int32) for name, column in fields.items()})
    spec = _certify_spec(canonical(record["certify"]))
    reading = Reading(alpha, rule if rule in (asked, None) or rule != spec.rule else None)
    o = outcomes(columns, alpha, record["spec"]["sigma"], spec, rule)
    if not np.array_equal(o.radius, own["radius"][np.argsort(own["image"], kind="stable")]):
        raise BenchError(
            f"the radii of {record['path']} are not those of its counts at alpha {alpha:g}; summaries and tables read counts, so leave "
            "radius as it was and work on a column of another name"
        )
    return Held(record, reading, columns)
