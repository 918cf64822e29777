"""From the evidence table back to runs, logs and checkpoints that never touch a disk: what the leaderboard makes groups of.

There is one way from evidence to a printed number. The commands give it what the store reads, and this module what a frame holds.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import BenchError, Fault, nearest
from bench.evidence.columns import Columns
from bench.spec import CertifySpec, canonical, digest, from_json, parse_json
from bench.store.imports import Printed
from bench.store.runs import KINDS
from bench.store.subject import Certification, Source, Status, Subject
from leaderboard.aggregate.build import groups_of as groups_of_subjects
from leaderboard.aggregate.collect import finished, left_out
from leaderboard.aggregate.groups import UNITS, Group
from leaderboard.aggregate.reading import ALPHA, Reading
from leaderboard.aggregate.select import Filters
from leaderboard.frame.arguments import seeds_of
from leaderboard.frame.schema import CENSUS, LEFT_OUT, NOTES, NULLABLE
from leaderboard.metrics import outcomes

NEEDED = ("image", "label", "selected", "predicted", "majority", "count", "runner_up", "n0", "n", "radius", "alpha", "rule", "record")
NO_CENSUS = (
    "the frame has lost its attrs, as pandas.concat, merge and files do: seeds of which it has no row are not missed, and nothing tells "
    "what was left out; seeds= says which seeds a row must have"
)
SOURCES: Mapping[Source, type[Subject]] = {kind.source: kind for kind in KINDS.values()}
Record = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """One certification in a frame, or one that was left out of it.

    Attributes:
        reading: how its counts are read; of a log, how the whole frame is.
        columns: its rows; None where it was left out.
    """

    record: Record
    reading: Reading
    columns: Columns | Printed | None = None

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
    """A certification as a frame holds it."""

    held: Held

    def begun(self) -> bool:
        return True

    @property
    def bound(self) -> bool:
        return bool(self.held.record["bound"])

    def finding(self) -> str:
        return str(self.held.record["finding"])

    def status(self) -> Status:
        if isinstance(columns := self.held.columns, Columns):
            return Status("done" if len(columns) == len(self.expected()) else "certifying", columns)
        state, done, fault = self.held.record["status"]
        if state == "damaged":
            return Status(state, fault=Fault(Path(fault[0]), *fault[1:]) if fault else Fault(self.path, None, self.subject.damage))
        return Status(state, Columns(*[np.zeros(done, np.int32)] * len(dataclasses.fields(Columns))))

    def columns(self) -> Columns:
        return cast(Columns, self.status().sound().columns)

    def environment(self) -> dict[str, Any] | None:
        return cast("dict[str, Any] | None", self.held.record["certified"])

    def labels(self) -> tuple[int, ...] | None:
        # They were compared when the frame was made; here only whether they were counts.
        return () if self.held.record["labels"] else None


def groups_of(
    frame: pd.DataFrame, words: Sequence[str], seeds: int | Sequence[int] = (), mix: bool = False, methods: Sequence[str] = ()
) -> tuple[Group, ...]:
    """The groups of comparable rows of a frame, as `leaderboard.aggregate.collect` gives them of a store.

    What was left out of the frame stands in them as unfinished: all of it, as long as every subject of the folder is still in the frame;
    only what belongs to a row that is there, once the frame was filtered. A row needs every seed that any comparable run of the
    folder has, whether the frame was filtered or not.

    Args:
        words: metrics, see `leaderboard.metrics.columns_of`.
        seeds: the seeds that a row must have; runs with others are left out, as are logs and checkpoints, which have none.
        mix: rows of several groups share a table.
        methods: rows that are wanted, as of `leaderboard.aggregate.Filters`; empty: all.

    Raises:
        BenchError: a method that is not there; a frame without the columns that are needed, with rows that stand twice, or whose radii
            are not those of its counts.
    """
    if not isinstance(frame, pd.DataFrame):
        raise BenchError(f"a {type(frame).__name__} is not a frame; load_results gives one")
    seeds = seeds_of(seeds)
    census = parse_json(frame.attrs.get(CENSUS) or f'{{"alpha": {ALPHA}, "rule": null, "parts": -1, "left_out": [], "runs": []}}')
    asked = Reading(census["alpha"], census["rule"])
    try:
        held = _read(frame, asked)
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
    readings = sorted({part.reading for part in parts}, key=lambda reading: (reading.alpha, reading.rule or ""))
    read = {reading: [_subject(same) for same in _by_subject(parts, reading)] for reading in readings or [asked]}
    every = [subject for subjects in read.values() for subject in subjects]
    wanted = Filters(methods=methods).apply(every) if methods and every else every
    unread += _cut(wanted)
    for reading, subjects in read.items():
        subjects.sort(key=lambda subject: (list(UNITS).index(subject.source), subject.path))  # as a store has them
        here = {subject.key for subject in subjects}
        others = [_unseen(spec, certifies, reading) for spec, certifies in census["runs"] if digest(spec) not in here]
        shown = {subject.key for subject in wanted} & here
        found, notes = groups_of_subjects([*subjects, *others], shown, seeds, reading, words, mix)
        groups += found
        unread += notes
    groups.sort(key=lambda group: list(UNITS).index(group.source))
    if held and not groups:
        raise BenchError(f"nothing in the frame can be read so: {'; '.join(unread)}")
    rest = [entry for entry, part in told if not part.record]  # it stands in no row
    damaged = left_out((entry["path"], entry["reason"]) for entry in rest if entry["state"] == "damaged")
    refused = [f"left out: {entry['subject']}: {entry['reason']}" for entry in rest if entry["state"] != "damaged"]
    return finished(groups, [*unread, *damaged, *refused, *frame.attrs.get(NOTES, ())], mix)


def _cut(subjects: Sequence[Subject]) -> Iterator[str]:
    """A sentence on images that were filtered away, if any were: the frame was made of whole certifications."""
    every = [certification for subject in subjects for certification in subject.certifications()]
    held = [c for c in every if not (isinstance(c, HeldCertification) and c.held.columns is None)]
    left = {f"{len(c.status().columns)}/{len(c.expected())}": None for c in held if c.status().state == "certifying"}
    if left:
        told = f"images were filtered out of the frame ({', '.join(left)} are left), and a row that lacks images has no mean"
        yield f"{told}; bench.acr and bench.certified_accuracy are for a part"


def _by_subject(parts: Sequence[Held], reading: Reading) -> list[list[Held]]:
    """The parts of each subject that are read in one way, what was left out included.

    Raises:
        BenchError: one certification stands twice.
    """
    found: dict[str, list[Held]] = defaultdict(list)
    seen: set[str] = set()
    for part in parts:
        if part.reading == reading:
            subject = [part.source, part.record["spec"], part.record["records"].get("origin.json")]
            if (one := canonical([*subject, part.record.get("certify")])) in seen:
                raise BenchError(f"the frame holds {part.record['path']} twice with different records; load it once")
            seen.add(one)
            found[canonical([*subject, part.record["path"]])].append(part)  # a run may lie in several places, certified in other ways
    return list(found.values())


def _subject(parts: Sequence[Held]) -> Subject:
    """A subject whose records are those of the frame, so that no file of it is opened."""
    record = parts[0].record
    kind = SOURCES[record["source"]]
    seen: dict[str, Any] = {**record["records"], "": dict.fromkeys(record["records"], "file")}
    subject = kind(Path(record["path"]), from_json(kind.spec_type, canonical(record["spec"]), "frame"), seen)
    if isinstance(parts[0].columns, Printed):
        seen["rows.tsv"] = parts[0].columns
    seen["certify-*"] = [HeldCertification(Path(p.record["folder"]), p.certify, subject, p) for p in parts if p.certify]
    return subject


def _unseen(spec: Record, certifies: Sequence[Record], reading: Reading) -> Subject:
    """A run of the folder that is not in the frame: it says which seeds others should have."""
    record = {"source": "runs", "path": digest(spec), "spec": spec, "records": {"training.json": {"state": "trained"}}}
    begun = {"folder": record["path"], "certified": None, "labels": True, "bound": True, "finding": ""}
    return _subject([Held(record | begun | {"certify": certify}, reading) for certify in certifies] or [Held(record, reading)])


@lru_cache(maxsize=256)
def _certify_spec(text: str) -> CertifySpec:
    return from_json(CertifySpec, text, "frame")


def _read(frame: pd.DataFrame, asked: Reading) -> list[Held]:
    """The certifications in a frame, in the order of their first rows.

    Args:
        asked: how the frame was asked to be read.
    """
    if missing := [name for name in NEEDED if name not in frame.columns]:
        raise BenchError(f"the frame has no column {missing[0]!r}; keep the columns that load_results gave it")
    if frame["record"].isna().any():
        raise BenchError("the frame has rows without a record; keep the rows that load_results gave it")
    keys = ["record", "alpha", "rule"]
    values = {name: _numbers(frame, name) for name in NEEDED if name not in keys}
    held = []
    for places in frame.groupby(keys, sort=False, dropna=False, observed=True).indices.values():  # a log has no rule
        record, alpha, rule = frame.iloc[places[0]][keys]
        own = {name: column[places] for name, column in values.items()}
        held.append(_held(parse_json(record), float(alpha), "" if pd.isna(rule) else str(rule), asked, own))
    return held


def _numbers(frame: pd.DataFrame, name: str) -> NDArray[Any]:
    if name == "radius":
        return frame[name].to_numpy(dtype=np.float64)
    return frame[name].to_numpy(dtype=np.int64, na_value=-1) if name in NULLABLE else frame[name].to_numpy(dtype=np.int64)


def _held(record: Record, alpha: float, rule: str, asked: Reading, own: Mapping[str, NDArray[Any]]) -> Held:
    if "records" not in record:
        raise ValueError("a record of another release; load the results again")
    if record["source"] == "imported":
        order = np.argsort(own["image"], kind="stable")
        return Held(record, asked, Printed(*(own[name][order] for name in ("image", "label", "predicted", "radius"))))
    highest = np.maximum(own["label"], own["selected"])
    fields = {"index": own["image"], "highest": highest}
    fields |= {name: own[name] for name in ("label", "selected", "majority", "count", "runner_up", "n0", "n")}
    columns = Columns(**{name: column.astype(np.int32) for name, column in fields.items()})
    spec = _certify_spec(canonical(record["certify"]))
    reading = Reading(alpha, rule if rule in (asked.rule, None) or rule != spec.rule else None)
    o = outcomes(columns, alpha, record["spec"]["sigma"], spec, rule)
    if not np.array_equal(o.radius, own["radius"][np.argsort(own["image"], kind="stable")]):
        raise BenchError(
            f"the radii of {record['path']} are not those of its counts at alpha {alpha:g}; summaries and tables read counts, so leave "
            "radius as it was and work on a column of another name"
        )
    return Held(record, reading, columns)
