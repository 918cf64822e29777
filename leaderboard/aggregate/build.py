"""Subjects as groups of comparable rows: one way for all sources; in what these differ stands in sources.py.

What belongs together is decided by equality of specs, never by a path. A run that is trained (or training, failed, diverged) without any
certification stands, as unfinished, in every group of its training's family: what was asked for and is not there must be seen.
Where no run of the family is certified yet, the group is that of its protocol.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from bench.datasets import DATASETS, facts_of
from bench.errors import BenchError, nearest
from bench.spec import PROTOCOLS, Scalar, canonical
from bench.store.imports import Published
from bench.store.runs import Run
from bench.store.subject import Certification, Subject
from leaderboard import layouts
from leaderboard.aggregate.groups import UNITS, Group, Row, Section
from leaderboard.aggregate.reading import Reading, comparable, conditions_of, known_info, other_files, read_seeds
from leaderboard.aggregate.sources import ROWS
from leaderboard.metrics import columns_of


def groups_of(
    subjects: Sequence[Subject], wanted: Set[str], seeds: Sequence[int], reading: Reading, words: Sequence[str], mix: bool = False
) -> tuple[list[Group], list[str]]:
    """One group per family of trainings and way of certification, and what was left out because it cannot be read as asked.

    Args:
        subjects: all of the store, each once; which seeds a row should have is seen from them. wanted: keys of those that are shown.
        seeds: the expected seeds of runs; empty: those that any run of the group has.
        words: metrics, see `metrics.columns_of`.
        mix: whether a row may average trainings of several versions of its method's code; such a group is a mixture.

    Raises:
        BenchError: an unknown metric.
    """
    columns_of(words, (), 1)  # a word that is unknown is a problem of the call, not of each group
    left_out: dict[str, list[Certification]] = defaultdict(list)
    notes: list[str] = []
    groups = []
    for family in _families(subjects):
        if not any(subject.key in wanted for subject in family.subjects):
            continue
        for members in _ways(family, notes).values():
            shown = [member for member in members if member.subject.key in wanted]
            if shown and (reason := reading.refuses(members[0])):
                left_out[reason] += shown
            elif shown:
                begun = [member for member in members if member.begun()] or members[:1]
                certified = min(begun, key=lambda member: len(_asked(member)))  # what one of them has unasked, the group does not change
                every = {m.subject.seed for m in members if m.subject.seed is not None}
                expected = tuple(sorted(set(seeds) or every)) if every else ()
                try:
                    groups.append(_group(family, certified, shown, expected, reading, words, mix))
                except BenchError as error:  # a problem of one group is no problem of the others
                    notes.append(f"a group is left out: {error}")
    return _tell_apart(sorted(groups, key=_order)), [*_unread(left_out), *dict.fromkeys(notes)]


@dataclass(frozen=True)
class _Family:
    """Subjects that were trained under the same conditions. overrides: what was changed of the trainings of runs."""

    subjects: Sequence[Subject]
    overrides: Mapping[str, Scalar] = field(default_factory=dict)


def _families(subjects: Sequence[Subject]) -> Iterator[_Family]:
    by_conditions: dict[str, list[Subject]] = defaultdict(list)
    for subject in subjects:
        facts = facts_of(subject.info) if isinstance(subject, Run) and subject.dataset not in DATASETS else None
        by_conditions[canonical([subject.source, subject.dataset, ROWS[subject.source].conditions(subject), facts])].append(subject)
    for same in by_conditions.values():
        own = [_overrides(subject) for subject in same]
        for overrides in {canonical(one): one for one in own}.values():
            yield _Family([s for s, changes in zip(same, own, strict=True) if _takes(overrides, s, changes)], overrides)


def _overrides(subject: Subject) -> dict[str, Scalar]:
    changes = subject.named.changes if isinstance(subject, Run) else {}
    return {key: value for key, value in changes.items() if key.startswith("train.")}


def _takes(overrides: Mapping[str, Scalar], subject: Subject, own: Mapping[str, Scalar]) -> bool:
    """Whether a family takes a subject: `--set train.batch=64` leaves no trace in a run whose batch is 64 anyway."""
    asked = overrides.items()
    return own.items() <= asked and all(getattr(subject.spec.train, k.removeprefix("train."), None) == v for k, v in asked)


def _ways(family: _Family, notes: list[str]) -> dict[str, list[Certification]]:
    """Way of certification -> those of the family, begun or not; adds to the notes why there is none."""
    begun = [once_each(subject) for subject in family.subjects]
    specs = {way: c.spec for found in begun for way, c in found.items()}
    first = family.subjects[0]
    if isinstance(first, Run) and not specs:
        if first.spec.protocol not in PROTOCOLS:
            notes.append(f"{first.path}: protocol {first.spec.protocol!r} is unknown here{nearest(first.spec.protocol, PROTOCOLS)}")
            return {}
        spec = first.info.protocol(PROTOCOLS[first.spec.protocol]).certify
        specs = {spec.key: spec}
    ways: dict[str, list[Certification]] = defaultdict(list)
    for subject, own in zip(family.subjects, begun, strict=True):
        missed = isinstance(subject, Run) and not own
        found = {way: subject.certification(spec) for way, spec in specs.items()} if missed else own
        for way, certification in found.items():
            ways[way].append(certification)
    return ways


def once_each(subject: Subject) -> dict[str, Certification]:
    """Way of certification -> that of a subject; of two of the same images, the one with more rows, or a damaged one, which is told."""
    found: dict[str, Certification] = {}
    for certification in subject.certifications():
        way = _way(certification)
        found[way] = max(found[way], certification, key=_rows) if way in found else certification
    return found


def _asked(certification: Certification) -> dict[str, Scalar]:
    """What a certification changes of its protocol, as far as its record says that somebody asked for it."""
    asked = dict(getattr(certification.spec, "changes", {}))
    return asked | {"images": comparable(certification).images} if "images" in asked else asked


def _rows(certification: Certification) -> float:
    status = certification.status()
    return math.inf if status.fault else len(status.columns)


def _way(certification: Certification) -> str:
    """What evidence must share: the spec, and the test files where these are not the published ones."""
    if isinstance(certification, Published):
        return canonical(conditions_of(certification))
    return canonical([comparable(certification).key, other_files(certification)])


def _group(
    family: _Family,
    certified: Certification,
    members: Sequence[Certification],
    expected: tuple[int, ...],
    reading: Reading,
    words: Sequence[str],
    mix: bool,
) -> Group:
    """certified: one of the family that was begun, if any was, which tells the conditions of all. members: those that are shown."""
    first = members[0].subject
    layout, info = layouts.of_dataset(first.dataset), known_info(first)
    images = len(members[0].expected())
    if not images:
        size = f"the {info.test_size} test images" if info else "its images"
        raise BenchError(f"{members[0].path}: images={certified.spec.images} selects none of {size}")
    seeds = read_seeds(members, reading)
    read = {member.subject.path: seed for member, seed in zip(members, seeds, strict=True)}
    classes = info.classes if info else 1 + max((int(seed.outcomes.label.max()) for seed in seeds if seed.outcomes), default=0)
    metrics = columns_of(words, layout.radii, classes)
    kind = ROWS[first.source](members, family.subjects, read, expected, mix)

    cells: dict[float, dict[str, dict[str, list[Subject]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for subject in (member.subject for member in members):
        cells[subject.sigma][subject.row][kind.configuration(subject)].append(subject)
    methods = {member.subject.row: member.subject.method for member in members}

    def one(name: str, mark: str, found: Sequence[Subject], notes: Sequence[str]) -> Row:
        trainings, more, refused = kind.trainings(name, found)
        told, unit = (*notes, *more), UNITS[first.source]
        return Row(
            name=name, mark=mark, method=methods[name], seeds=tuple(trainings), images=images, refused=refused, unit=unit, notes=told
        ).measured(metrics)

    sections = []
    for sigma, names in sorted(cells.items()):
        rows = []
        for name in layout.in_order(methods):
            same = [found for _, found in sorted(names.get(name, {}).items())] or [[]]  # there at another sigma, so it is missed here
            if len(same) == 1:
                rows.append(one(name, "", same[0], []))
                continue
            note = f"{name} at sigma {sigma:g} stands {len(same)} times{kind.several(same)}"
            rows += [one(name, f"#{number}", found, [note]) for number, found in enumerate(same, start=1)]
        sections.append(Section(sigma=sigma, rows=tuple(rows)))
    changes = {**family.overrides, **{f"certify.{name}": value for name, value in _asked(certified).items()}}
    return Group(
        dataset=first.dataset,
        source=first.source,
        conditions=kind.conditions(first, ", ".join(f"{name}={value}" for name, value in changes.items()))
        | conditions_of(certified, reading),
        images=images,
        test_size=info.test_size if info else 0,
        seeds=expected,
        baseline=layout.baseline,
        metrics=metrics,
        sections=tuple(sections),
        mixed=kind.mixed,
        members=tuple(members),
        notes=(*reading.notes(certified), *kind.notes([(section.sigma, row) for section in sections for row in section.rows])),
    )


def _unread(left_out: Mapping[str, Sequence[Certification]]) -> Iterator[str]:
    """A note for each reason why certifications were not read."""
    for reason, found in left_out.items():
        keys = ", ".join(sorted({certification.spec.key for certification in found}))
        which = "" if isinstance(found[0], Published) else f"certification {keys} ({found[0].spec.rule}): "
        yield f"left out: {which}{reason}"


def _order(group: Group) -> str:
    first = (group.conditions.get(name) for name in ("protocol", "recipe", "changes", "normalisation"))
    return canonical([list(UNITS).index(group.source), group.dataset, *first, dict(group.conditions)])


def _tell_apart(groups: Sequence[Group]) -> list[Group]:
    """Adds a note where the training of tables differs that their protocol and changes call the same."""
    alike: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        plain = {name: value for name, value in group.conditions.items() if name != "network" and not name.startswith("train.")}
        rest = plain if "protocol" in plain else group.conditions  # nothing is known of the training of others
        alike[canonical([group.dataset, dict(rest)])].append(group)
    result = []
    for same in alike.values():
        fields = sorted({k for group in same for k, value in group.conditions.items() if value != same[0].conditions.get(k)})
        note = "another table has the same protocol but another training; here "
        for group in same:
            own = ", ".join(f"{k.removeprefix('train.')}={group.conditions.get(k)}" for k in fields)
            result.append(dataclasses.replace(group, notes=(*group.notes, note + own)) if fields else group)
    return result
