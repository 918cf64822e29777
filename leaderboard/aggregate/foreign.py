"""Certified checkpoints from outside as groups. The suite knows their counts but not their training, so they never stand beside own runs.

A row is what `bench certify --row` said, and its checkpoints are its trainings. Where nobody said a row, a checkpoint is averaged with no
other: files of different methods often have one name.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.files.walk import Walk
from bench.spec import canonical
from bench.store.checkpoints import Origin, Subject, scan
from bench.store.copies import Traces, copies
from bench.store.runs import Certification, Damaged, Store
from leaderboard import layouts
from leaderboard.aggregate.groups import UNITS, Group, Row, Section, Seed, row
from leaderboard.aggregate.runs import Reading, certification_notes, conditions_of_counts, fuller, leaving_out, read_seeds, traces, unread
from leaderboard.metrics import columns_of

UNKNOWN_TRAINING = "How these checkpoints were trained is not known here; what is a training of which row was said to `bench certify`."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One certification of a base classifier from outside.

    Attributes:
        certification: None where none was begun.
    """

    subject: Subject
    origin: Origin
    certification: Certification | None

    @property
    def dataset(self) -> str:
        return self.subject.spec.dataset

    @property
    def sigma(self) -> float:
        return self.subject.spec.sigma

    @property
    def row(self) -> str:
        return self.origin.label

    @property
    def method(self) -> str:
        """What stands before the first dot of the row."""
        return self.row.partition(".")[0]

    @property
    def name(self) -> str:
        """What a note calls it."""
        return self.origin.name or self.subject.spec.key


def read_checkpoints(store: Store, walked: Walk | None = None) -> tuple[list[Checkpoint], list[str]]:
    """The certifications whose specs and records are whole, and what is wrong with the others.

    Args:
        walked: what is in the store, if it is known.
    """
    found, damaged = [], []
    for subject in scan(store.root, walked):
        if isinstance(subject, Damaged):
            damaged.append(subject.reason)
            continue
        if faults := subject.faults():
            damaged += map(str, faults)
            continue
        origin, begun = subject.origin(), list(subject.begun())
        for certification in begun:
            if reason := certification.reason if isinstance(certification, Damaged) else _wrong(certification):
                damaged.append(reason)
            elif isinstance(certification, Certification):
                found.append(Checkpoint(subject=subject, origin=origin, certification=certification))
        if not begun:
            found.append(Checkpoint(subject=subject, origin=origin, certification=None))
    return found, damaged


def _wrong(certification: Certification) -> str:
    """Why a certification cannot be believed, before its evidence is read; empty if it can."""
    return "; ".join(map(str, certification.faults()))


def groups_of_checkpoints(checkpoints: Sequence[Checkpoint], reading: Reading, words: Sequence[str]) -> tuple[list[Group], list[str]]:
    """One group per data set, network, normalisation and way of certification, and what was left out because it cannot be read as asked.

    Args:
        words: metrics, see `metrics.columns_of`.
    """
    families: dict[str, list[Checkpoint]] = defaultdict(list)
    for checkpoint in checkpoints:
        families[canonical([checkpoint.dataset, _conditions_of_network(checkpoint)])].append(checkpoint)
    groups = []
    left_out: dict[str, list[Certification]] = defaultdict(list)
    notes: list[str] = []
    for _, family in sorted(families.items()):
        ways: dict[str, dict[str, tuple[Checkpoint, Certification]]] = defaultdict(dict)
        for checkpoint in family:
            if certification := checkpoint.certification:
                if reason := reading.refuses(certification.spec):
                    left_out[reason].append(certification)
                    continue
                same = ways[canonical(conditions_of_counts(certification, reading))]
                key = checkpoint.subject.spec.key
                same[key] = checkpoint, fuller(same[key][1], certification) if key in same else certification
        for _, members in sorted(ways.items()):
            with leaving_out(notes):
                groups.append(_group(list(members.values()), family, reading, words))
    return groups, [*unread(left_out), *notes]


def _conditions_of_network(checkpoint: Checkpoint) -> dict[str, Any]:
    spec = checkpoint.subject.spec
    source = f" (source {spec.source_sha256[:8]})" if spec.source_sha256 else ""
    network = {"network": f"{spec.arch}{source}", "normalisation": spec.normalization}
    return {"source": "checkpoints trained elsewhere, certified here"} | network


_Read = tuple[Checkpoint, Seed]


def _group(
    members: Sequence[tuple[Checkpoint, Certification]], family: Sequence[Checkpoint], reading: Reading, words: Sequence[str]
) -> Group:
    """Args: members: of the group. family: all of the same network, certified in this way or not."""
    checkpoint, certification = members[0]
    info, layout = checkpoint.subject.info, layouts.of_dataset(checkpoint.dataset)
    images, metrics = len(certification.expected()), columns_of(words, layout.radii, info.classes)
    read = read_seeds([(certification, checkpoint.name) for checkpoint, certification in members], reading)
    cells: dict[float, dict[str, dict[str, list[_Read]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for (checkpoint, _), seed in zip(members, read, strict=True):
        alone = "" if checkpoint.origin.row else checkpoint.subject.spec.key
        cells[checkpoint.sigma][checkpoint.row][alone].append((checkpoint, seed))
    names = {checkpoint.row: checkpoint.method for checkpoint, _ in members}

    def one(name: str, mark: str, seeds: Sequence[Seed], notes: Sequence[str]) -> Row:
        unit = UNITS["checkpoints"]
        return row(name=name, mark=mark, method=names[name], seeds=seeds, images=images, metrics=metrics, notes=notes, unit=unit)

    sections = []
    for sigma, found in sorted(cells.items()):
        rows = []
        for name in layout.in_order(names):
            same = sorted(found.get(name, {}).items())
            if not same:  # there at another sigma, so it is missed here
                rows.append(one(name, "", [Seed(seed="only", state="missing")], []))
            several = f"{name} at sigma {sigma:g} stands {len(same)} times: only `bench certify --row` makes checkpoints one row"
            for number, (alone, trainings) in enumerate(same, start=1):
                seeds, notes = _trainings(trainings, [] if alone else family)
                mark, more = (f"#{number}", [several]) if len(same) > 1 else ("", [])
                rows.append(one(name, mark, seeds, [*more, *(f"{name} at sigma {sigma:g}: {note}" for note in notes)]))
        sections.append(Section(sigma=sigma, rows=tuple(rows)))
    return Group(
        dataset=checkpoint.dataset,
        source="checkpoints",
        conditions=_conditions_of_network(checkpoint) | conditions_of_counts(certification, reading),
        images=images,
        test_size=info.test_size,
        seeds=(),
        baseline=layout.baseline,
        metrics=metrics,
        sections=tuple(sections),
        notes=(
            UNKNOWN_TRAINING,
            *reading.notes(certification.spec),
            *_numbers(sections),
            *certification_notes([c for (_, c), seed in zip(members, read, strict=True) if seed.state != "damaged"]),
        ),
    )


def _trainings(found: Sequence[_Read], family: Sequence[Checkpoint]) -> tuple[list[Seed], list[str]]:
    """The checkpoints of a row, numbered by file name and then weights; equal ones count once. And notes on them.

    Args:
        family: among which those of the row that are not certified in this way are named.
    """
    found = sorted(found, key=lambda item: (item[0].name, item[0].subject.spec.weights_sha256))
    again = copies([_traces(*item) for item in found])
    by_training: dict[int, list[_Read]] = defaultdict(list)
    for place, item in enumerate(found):
        by_training[again.get(place, place)].append(item)
    seeds, notes = [], []
    for number, same in enumerate(by_training.values()):
        seed = next((seed for _, seed in same if seed.state == "done"), same[0][1])
        seeds.append(dataclasses.replace(seed, seed=str(number)))
        if len(same) > 1:
            notes.append(f"{' and '.join(checkpoint.name for checkpoint, _ in same)} hold the same weights, which count once")
        notes += [seed.reason] if seed.reason else []
    here, first = {checkpoint.subject.path for checkpoint, _ in found}, found[0][0]
    elsewhere = [c for c in family if (c.origin.row, c.sigma) == (first.origin.row, first.sigma) and c.subject.path not in here]
    notes += [f"{name} is not certified in this way" for name in dict.fromkeys(checkpoint.name for checkpoint in elsewhere)]
    return seeds, notes


def _traces(checkpoint: Checkpoint, seed: Seed) -> Traces:
    """What tells a checkpoint from others; where its weights are gone, what was recorded of them."""
    own = traces(checkpoint.subject, seed)
    said = checkpoint.origin.tensors_sha256
    return Traces(own.weights, own.records | ({said} if said and not own.weights else set()))


def _numbers(sections: Sequence[Section]) -> list[str]:
    """A note where rows have different numbers of checkpoints."""
    counts: Mapping[int, list[str]] = defaultdict(list)
    for section in sections:
        for r in section.rows:
            if r.seeds[0].state != "missing":
                counts[len(r.seeds)].append(f"{r.label} at sigma {section.sigma:g}")
    told = "; ".join(f"{count} of {', '.join(rows)}" for count, rows in sorted(counts.items()))
    return [f"The numbers of checkpoints differ, and each mean is over its own: {told}."] if len(counts) > 1 else []
