"""Own runs as groups of comparable rows.

What belongs together is decided by equality of specs, never by a path. A run that is trained (or training, failed,
diverged) without any certification stands, as unfinished, in every group of its training's family: what was asked for and is not
there must be seen. Where no run of the family is certified yet, the group is that of its protocol.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench import rules
from bench.datasets import DATASETS, facts_of
from bench.errors import BenchError, nearest
from bench.files.walk import Walk
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, Scalar, TrainSpec, canonical, parse_json, same_images, to_json
from bench.store.copies import Traces, copies, fingerprint
from bench.store.presets import disagreement
from bench.store.runs import Certification, Damaged, Run, Store
from bench.store.verified import Status, anything, recall
from leaderboard import layouts, metrics
from leaderboard.aggregate.groups import Group, Row, Section, Seed, row
from leaderboard.metrics import Cost

DAMAGED = "damaged"
TEST_FILES = "test files"
"""The condition of a group whose labels are only claimed: its test images are not the published ones."""


def groups_of_runs(
    runs: Sequence[Run], wanted: Set[str], seeds: Sequence[int], reading: Reading, words: Sequence[str], mix_sources: bool
) -> tuple[list[Group], list[str]]:
    """One group per family of trainings and way of certification, and what was left out because it cannot be read as asked.

    Args:
        runs: all of the store, each once; which seeds a row should have is seen from them. wanted: keys of those that are shown.
        seeds: the expected seeds; empty: those that any run of the group has.
        words: metrics, see `metrics.columns_of`.
        mix_sources: whether a row may average trainings from several sources of its method; such a group is a mixture.
    """
    left_out: dict[str, list[Certification]] = defaultdict(list)
    notes: list[str] = []
    groups = []
    for (family, _), members in _members(runs, wanted, notes).items():
        shown = [member for member in members if member.run.spec.key in wanted]
        if shown and (reason := reading.refuses(members[0].certification.spec)):
            left_out[reason] += [member.certification for member in shown]
        elif shown:
            expected = tuple(sorted(set(seeds) or {member.run.spec.seed for member in members}))
            with leaving_out(notes):
                groups.append(_group(family, _certified(members), shown, expected, reading, words, mix_sources))
    return _tell_apart(sorted(groups, key=_order)), [*unread(left_out), *notes]


@contextlib.contextmanager
def leaving_out(notes: list[str]) -> Iterator[None]:
    """A problem of one group is no problem of the others: it becomes a note, and the group is left out."""
    try:
        yield
    except BenchError as error:
        notes.append(f"a group is left out: {error}")


def read_runs(store: Store, walked: Walk | None = None) -> tuple[list[Run], list[str]]:
    """The runs whose specs are whole, and what is wrong with the others, and with certifications.

    A run that shows a spec and cannot be believed all the same stands among them as `damaged_run`, so that its seed is missed.

    Args:
        walked: what is in the store, if it is known.
    """
    runs: dict[str, Run] = {}
    damaged: list[str] = []
    for run in store.scan(walked):
        if isinstance(run, Damaged):
            damaged.append(run.reason)
        elif other := runs.get(run.spec.key):
            right, wrong = sorted((run, other), key=lambda found: found.path != store.run(found.spec).path)
            runs[run.spec.key] = right
            damaged.append(f"{wrong.path} holds the same run as {right.path}; move one of them away")
        elif faults := run.faults():
            if held := damaged_run(run, "; ".join(map(str, faults))):
                runs[run.spec.key] = held
            else:
                damaged += map(str, faults)
        else:
            runs[run.spec.key] = run
            damaged += [found.reason for found in run.begun() if isinstance(found, Damaged)]
    return list(runs.values()), damaged


def damaged_run(run: Run, reason: str) -> Run | None:
    """A run as its spec and its certifications alone, whose seed says what is wrong; None where its data set is not known."""
    try:
        begun = list(run.begun()) if run.info else []
    except BenchError:
        return None
    held = dataclasses.replace(run, seen={"": {}, DAMAGED: reason})
    assert held.seen is not None
    held.seen["certify-*"] = [found if isinstance(found, Damaged) else dataclasses.replace(found, run=held) for found in begun]
    return held


def damage(run: Run) -> str:
    """What is wrong with a `damaged_run`; empty for others."""
    return str((run.seen or {}).get(DAMAGED, ""))


@dataclass(frozen=True)
class Reading:
    """How counts are read.

    Attributes:
        alpha: chance that a certificate is wrong, in (0, 1/2).
        rule: None: of each certification, the one under which it was sampled.
    """

    alpha: float
    rule: str | None = None

    def refuses(self, certify: CertifySpec) -> str:
        """Why evidence is not read so; empty if it is."""
        try:
            rules.of(certify, self.rule).check(self.alpha)
        except BenchError as error:
            return str(error)
        return ""

    def notes(self, certify: CertifySpec) -> tuple[str, ...]:
        """What a reader must know of numbers that are read so."""
        note = rules.of(certify, self.rule).acr_note
        return (note,) if note else ()


def unread(left_out: Mapping[str, Sequence[Certification]]) -> list[str]:
    """A note for each reason why certifications were not read."""
    notes = []
    for reason, found in left_out.items():
        keys = ", ".join(sorted({certification.spec.key for certification in found}))
        notes.append(f"left out: certification {keys} ({found[0].spec.rule}): {reason}")
    return notes


@dataclass(frozen=True)
class _Family:
    """What trainings must share for their rows to be compared. A method's recipe may cut the batch, so it is not in it."""

    dataset: str
    protocol: str
    recipe: str
    train: str
    overrides: str
    facts: str  # of a data set that is none of the suite's, as its runs keep them

    def takes(self, run: Run, own: _Family) -> bool:
        """Whether a run fits: `--set train.batch=64` leaves no trace in a run whose batch is 64 anyway."""
        if dataclasses.replace(own, overrides="") != dataclasses.replace(self, overrides=""):
            return False
        mine, its = _overrides(run), parse_json(self.overrides)
        return mine.items() <= its.items() and all(getattr(run.spec.train, k.removeprefix("train."), None) == v for k, v in its.items())


@dataclass(frozen=True)
class _Member:
    run: Run
    certification: Certification  # there or not


def _overrides(run: Run) -> dict[str, Scalar]:
    return {key: value for key, value in run.named.changes.items() if key.startswith("train.")}


def _family(run: Run) -> _Family:
    spec = run.spec
    facts = "" if spec.dataset in DATASETS else canonical(facts_of(run.info))
    return _Family(spec.dataset, spec.protocol, spec.recipe, _training(spec.train), canonical(_overrides(run)), facts)


@lru_cache(maxsize=256)
def _training(train: TrainSpec) -> str:
    return canonical({key: value for key, value in dataclasses.asdict(train).items() if key != "batch"})


def _certified(members: Sequence[_Member]) -> Certification:
    """One that was begun, which tells the conditions of all; where none was, one that was not."""
    return next((m.certification for m in members if m.certification.begun()), members[0].certification)


def _members(runs: Sequence[Run], wanted: Set[str], notes: list[str]) -> dict[tuple[_Family, str], list[_Member]]:
    """Family and way of certification -> runs, for the families of the runs whose key is wanted; adds to the notes what is left out."""
    certified = {run.spec.key: list(run.certifications()) for run in runs}
    own = {run.spec.key: _family(run) for run in runs}
    result: dict[tuple[_Family, str], list[_Member]] = defaultdict(list)
    for family in dict.fromkeys(own.values()):
        members = [run for run in runs if family.takes(run, own[run.spec.key])]
        if not any(run.spec.key in wanted for run in members):
            continue
        specs = {_way(c): c.spec for run in members for c in certified[run.spec.key]}
        if not specs:
            if family.protocol not in PROTOCOLS:
                told = f"{members[0].path}: protocol {family.protocol!r} is unknown here{nearest(family.protocol, PROTOCOLS)}"
                notes.append(told)
                continue
            spec = members[0].info.protocol(PROTOCOLS[family.protocol]).certify
            specs = {spec.key: spec}
        for run in members:
            ways = once_each(certified[run.spec.key]) or {way: run.certification(spec) for way, spec in specs.items()}
            for way, certification in ways.items():
                result[family, way].append(_Member(run, certification))
    return result


def once_each(certifications: Sequence[Certification]) -> dict[str, Certification]:
    """Way of certification -> the one of a run that is such."""
    found: dict[str, Certification] = {}
    for certification in certifications:
        way = _way(certification)
        found[way] = fuller(found[way], certification) if way in found else certification
    return found


def fuller(first: Certification, second: Certification) -> Certification:
    """Of two certifications of one model that name the same images, the one with more rows; a damaged one, so that it is told."""

    def rows(certification: Certification) -> float:
        try:
            return len(certification.columns())
        except BenchError:
            return math.inf

    return max(first, second, key=rows)


def _way(certification: Certification) -> str:
    """What evidence must share: the spec, and the test files where these are not the published ones."""
    return canonical([comparable(certification).key, other_files(certification)])


def comparable(certification: Certification) -> CertifySpec:
    """The spec of a certification, under which equal images have equal texts."""
    spec, size = certification.spec, certification.run.info.test_size
    images = same_images(spec.images, size)
    changes = {**spec.changes, "images": images} if "images" in spec.changes else spec.changes
    return spec if images == spec.images else dataclasses.replace(spec, images=images, changes=changes)


def other_files(certification: Certification) -> list[str]:
    """What makes its test files others than the published ones; nothing where that cannot be read, which is told of its row."""
    try:
        return certification.differences()
    except BenchError:
        return []


def _group(
    family: _Family,
    certified: Certification,
    members: Sequence[_Member],
    expected: tuple[int, ...],
    reading: Reading,
    words: Sequence[str],
    mix_sources: bool,
) -> Group:
    info = members[0].run.info
    layout = layouts.of_dataset(family.dataset)
    images = len(members[0].certification.expected())
    if not images:
        raise BenchError(
            f"{members[0].certification.path}: images={certified.spec.images} selects none of the {info.test_size} test images"
        )
    columns = metrics.columns_of(words, layout.radii, info.classes)
    seeds = read_seeds([(m.certification, m.run.spec.seed) for m in members], reading)
    read = {m.run.spec.key: seed for m, seed in zip(members, seeds, strict=True)}
    source_of = {m.run.spec.key: _source(m.run) for m in members}
    by_method, by_cell = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for m in members:
        if source := source_of[m.run.spec.key]:
            by_method[m.run.spec.method].add(source)
            by_cell[m.run.spec.cell].add(source)

    cells: dict[float, dict[str, dict[str, list[Run]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for m in members:
        cells[m.run.spec.sigma][m.run.named.row][m.run.spec.cell].append(m.run)
    methods = {m.run.named.row: m.run.spec.method for m in members}
    for found in [found for names in cells.values() for same in names.values() for found in same.values()]:
        read |= _without_copies(found, read)

    def one(name: str, mark: str, found: Sequence[Run], notes: Sequence[str]) -> Row:
        by_seed = {run.spec.seed: read[run.spec.key] for run in found}
        seeds = [by_seed.get(number, Seed(seed=number, state="missing")) for number in expected]
        own = sorted({source_of[run.spec.key] for run in found} - {""})
        mixture = f"a mixture of method sources: {name} was trained from {', '.join(own)}" if len(own) > 1 else ""
        if mixture and not mix_sources:
            notes = [*notes, f"{mixture}; --mix shows its means all the same"]
        elif mixture:
            notes = [*notes, mixture]
        elif others := sorted(by_method[methods[name]] - {*own}) if own else []:
            notes = [*notes, f"trained from source {own[0]} of {methods[name]}, other rows from {', '.join(others)}"]
        return row(
            name=name,
            mark=mark,
            method=methods[name],
            seeds=seeds,
            images=images,
            metrics=columns,
            notes=notes,
            refused="several sources" if mixture and not mix_sources else "",
        )

    sections = []
    for sigma, names in sorted(cells.items()):
        rows = []
        for name in layout.in_order(methods):
            same = sorted(names.get(name, {}).items())
            if not same:  # there at another sigma, so it is missed here
                rows.append(one(name, "", [], []))
            differ = _differences([found[0].spec for _, found in same])
            for number, (_, found) in enumerate(same, start=1):
                damage = [f"{name} at sigma {sigma:g}: {read[r.spec.key].reason}" for r in found if read[r.spec.key].reason]
                notes = [f"{name} at sigma {sigma:g} stands {len(same)} times, since its settings differ: {differ}"] if differ else []
                notes += [*damage, *_histories(found), *_names(found)]
                rows.append(one(name, f"#{number}" if differ else "", found, notes))
        sections.append(Section(sigma=sigma, rows=tuple(rows)))
    return Group(
        dataset=family.dataset,
        source="runs",
        conditions=_conditions(family, certified, reading),
        images=images,
        test_size=info.test_size,
        seeds=expected,
        baseline=layout.baseline,
        metrics=columns,
        sections=tuple(sections),
        mixed=mix_sources and any(len(sources) > 1 for sources in by_cell.values()),
        notes=(
            *reading.notes(certified.spec),
            *certification_notes([m.certification for m in members if read[m.run.spec.key].state != "damaged"]),
        ),
    )


def _conditions(family: _Family, certified: Certification, reading: Reading) -> dict[str, Any]:
    train = parse_json(family.train)
    changes = parse_json(family.overrides) | {f"certify.{name}": value for name, value in comparable(certified).changes.items()}
    return {
        "source": "own runs",
        "protocol": family.protocol,
        "changes": ", ".join(f"{name}={value}" for name, value in changes.items()),
        "recipe": family.recipe,
        "network": train["arch"],
        **{f"train.{name}": value for name, value in train.items() if name != "arch"},
        **conditions_of_counts(certified, reading),
    }


def conditions_of_counts(certification: Certification, reading: Reading) -> dict[str, Any]:
    """What rows share of a certification whose counts are there. `test files` only where they are not the published ones."""
    spec = comparable(certification)
    own = {f"certify.{f.name}": getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "changes"}
    other = {TEST_FILES: "; ".join(found)} if (found := other_files(certification)) else {}
    return own | other | {"certify.rule": reading.rule or spec.rule, "alpha": reading.alpha, "rounding": "exact"}


def read_seeds(certifications: Sequence[tuple[Certification, int | str]], reading: Reading) -> list[Seed]:
    """What the evidence of trainings says, each with the seed or word that it goes by."""
    seeds = [_seed(certification, seed, reading) for certification, seed in certifications]
    done = [place for place, seed in enumerate(seeds) if seed.outcomes is not None]
    keys = {place: certifications[place][0].finding() for place in done} if anything() else {}
    known = recall(list(keys.values()))
    for place in done:
        trust = trust_of(certifications[place][0], known.get(keys.get(place, "")))
        seeds[place] = dataclasses.replace(seeds[place], trust=trust)
    return seeds


def trust_of(certification: Certification, images: int | None) -> Status:
    """What the numbers of a finished certification rest on.

    Args:
        images: how many this user counted again; None: it was not verified with weights.
    """
    if certification.labels() is None:
        return Status(level="claimed", bound=certification.bound)
    level = "evidence" if images is None else "recertified" if images else "weights checked"
    return Status(level=level, images=images or 0, bound=certification.bound)


def _seed(certification: Certification, seed: int | str, reading: Reading) -> Seed:
    """How far a training is, and its outcomes if it is done."""
    run = certification.run
    key = run.spec.key
    if reason := damage(run):
        return Seed(seed=seed, state="damaged", key=key, reason=reason)
    try:
        standing = certification.standing()
        done = len(standing.columns)
        if standing.state != "done":
            return Seed(seed=seed, state=standing.state, done=done, key=key)
        outcomes = metrics.outcomes(standing.columns, reading.alpha, run.spec.sigma, certification.spec, reading.rule)
        timing = run.timing() or {}
    except BenchError as error:
        return Seed(seed=seed, state="damaged", key=key, reason=str(error))
    cost = Cost(pairs=timing.get("pairs_per_image"), seconds=timing.get("training_seconds"))
    counts = fingerprint(standing.columns, comparable(certification).key)
    return Seed(seed=seed, state="done", done=done, key=key, counts=counts, outcomes=outcomes, cost=cost)


def traces(run: Run, seed: Seed) -> Traces:
    """What tells a training from others."""
    records = {seed.counts, (run.training() or {}).get("weights_sha256")} - {None}
    return Traces(run.weights if run.weights.exists() else None, frozenset(map(str, records)))


def _without_copies(runs: Sequence[Run], read: Mapping[str, Seed]) -> dict[str, Seed]:
    """Key -> what stands instead of the seeds of a configuration that are copies of an earlier one."""
    runs = sorted(runs, key=lambda run: run.spec.seed)
    instead = {}
    for place, first in copies([traces(run, read[run.spec.key]) for run in runs]).items():
        key, numbers = runs[place].spec.key, (runs[place].spec.seed, runs[first].spec.seed)
        reason = "seed {} is left out, because it is the training of seed {} again".format(*numbers)
        instead[key] = dataclasses.replace(read[key], state="copy", outcomes=None, reason=reason)
    return instead


def _source(run: Run) -> str:
    """The beginning of the hash of the method's source that a run was trained from; empty for one that failed before its first step."""
    environment = run.environment()
    return str((environment or {}).get("method_sha256") or "unknown")[:8] if environment or run.training() else ""


def certification_notes(certifications: Sequence[Certification]) -> tuple[str, ...]:
    """What is unusual about the machines and the data behind evidence."""
    return (*_environments(certifications), *data_notes(certifications))


def _environments(certifications: Sequence[Certification]) -> tuple[str, ...]:
    """Notes where evidence was counted under different conditions: counts repeat only on one device, thread count and library version."""
    fields: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "device": lambda e: e.get("device"),
        "threads": lambda e: e.get("threads"),
        "torch": lambda e: (e.get("libraries") or {}).get("torch"),
    }
    found: dict[str, set[str]] = defaultdict(set)
    for certification in certifications:
        environment = certification.environment()
        for entry in [environment, *environment.get("history", [])] if environment else []:
            for name, field in fields.items():
                found[name].add(str(field(entry)))
    return tuple(f"certified under different {name}: {', '.join(sorted(values))}" for name, values in found.items() if len(values) > 1)


def data_notes(certifications: Sequence[Certification]) -> tuple[str, ...]:
    """What is unusual about the data behind evidence: other files than the published ones, labels unchecked, another data set's presets."""
    notes = []
    for c in certifications:
        name, environment = c.run.spec.dataset, c.run.environment() or {}
        if differences := c.run.differences() + c.differences():
            more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
            notes.append(f"not the published {name} data: {differences[0]}{more}")
        elif c.begun() and c.labels() is None:
            notes.append(f"the labels of {name} are not checked: its published files are not on this machine")
        if presets_of := environment.get("presets_of"):
            notes.append(f"no hyperparameters are published for {name}: those for {presets_of} are taken")
    return tuple(dict.fromkeys(notes))


def _histories(runs: Sequence[Run]) -> list[str]:
    """What changed while a run was trained."""
    words = {"method_sha256": "the method's source", "data_md5": "the data", "libraries": "library versions", "suite": "the suite's commit"}
    notes = []
    for run in runs:
        environment = run.environment() or {}
        history = environment.get("history") or []
        changed = sorted({words.get(key, key) for old in history for key in old if old[key] != environment.get(key)})
        if history:
            where = f"{run.named.row} at sigma {run.spec.sigma:g}, seed {run.spec.seed}"
            notes.append(f"{where}: changed while it was trained: {', '.join(changed) or 'its environment'}")
    return notes


def _names(runs: Sequence[Run]) -> list[str]:
    """What is to be said of the names of a row's runs."""
    found = {sentence: run for run in reversed(runs) if (sentence := disagreement(run.spec, run.info))}
    return [f"{run.named.row} at sigma {run.spec.sigma:g}: {sentence}" for sentence, run in found.items()]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _differences(specs: Sequence[RunSpec]) -> str:
    """`hyperparameters.steps: 4 in #1, 8 in #2`; empty for one spec."""
    flats = [{k: v for k, v in _flat(to_json(spec)).items() if k != "seed"} for spec in specs]
    names = sorted({name for flat in flats for name in flat if any(flat.get(name) != other.get(name) for other in flats)})
    absent = object()

    def say(name: str) -> str:
        values = [flat.get(name, absent) for flat in flats]
        return ", ".join(f"{'unset' if v is absent else v} in #{number}" for number, v in enumerate(values, start=1))

    return "; ".join(f"{name}: {say(name)}" for name in names) if len(specs) > 1 else ""


def _order(group: Group) -> str:
    return canonical([group.dataset, *(group.conditions[name] for name in ("protocol", "recipe", "changes")), dict(group.conditions)])


def _tell_apart(groups: Sequence[Group]) -> list[Group]:
    """Adds a note where the training of tables differs that their protocol and changes call the same."""
    alike: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        rest = {name: value for name, value in group.conditions.items() if name != "network" and not name.startswith("train.")}
        alike[canonical([group.dataset, rest])].append(group)
    result = []
    for same in alike.values():
        fields = sorted({k for group in same for k, value in group.conditions.items() if value != same[0].conditions.get(k)})
        note = "another table has the same protocol but another training; here "
        for group in same:
            own = ", ".join(f"{k.removeprefix('train.')}={group.conditions.get(k)}" for k in fields)
            result.append(dataclasses.replace(group, notes=(*group.notes, note + own)) if fields else group)
    return result
