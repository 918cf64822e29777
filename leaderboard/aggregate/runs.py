"""Own runs as groups of comparable rows.

What belongs together is decided by equality of specs, never by a path. A run that is trained (or training, failed,
diverged) without any certification stands, as unfinished, in every group of its training's family: what was asked for and is not
there must be seen. Where no run of the family is certified yet, the group is that of its protocol.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.errors import BenchError, nearest
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, Scalar, TrainSpec, canonical, parse_json, to_json
from bench.store import Certification, Damaged, Run, Store
from bench.walk import Walk
from leaderboard import layouts, metrics
from leaderboard.aggregate.groups import Group, Row, Section, Seed, row
from leaderboard.metrics import Cost


def groups_of_runs(
    runs: Sequence[Run],
    wanted: Set[str],
    seeds: Sequence[int],
    alpha: float,
    words: Sequence[str],
    mix_sources: bool,
    left_out: list[BenchError] | None = None,
) -> list[Group]:
    """One group per family of trainings and way of certification.

    Args:
        runs: all of the store; which seeds a row should have is seen from them. wanted: keys of those that are shown.
        seeds: the expected seeds; empty: those that any run of the group has.
        words: metrics, see `metrics.columns_of`.
        mix_sources: whether a row may average trainings from several sources of its method; such a group is a mixture.
        left_out: gets why a group is left out; None: that is raised.
    """
    places: dict[str, Run] = {}
    for run in runs:
        if (other := places.setdefault(run.spec.key, run)) is not run:
            raise BenchError(f"{run.path} and {other.path} hold the same run; move one of them away")
    groups = []
    for (family, _), members in _members(runs, wanted, left_out).items():
        shown = [member for member in members if member.run.spec.key in wanted]
        if shown:
            expected = tuple(sorted(set(seeds) or {member.run.spec.seed for member in members}))
            with leaving_out(left_out):
                groups.append(_group(family, members[0].certification.spec, shown, expected, alpha, words, mix_sources))
    return _tell_apart(sorted(groups, key=_order))


@contextlib.contextmanager
def leaving_out(left_out: list[BenchError] | None) -> Iterator[None]:
    """A problem of one group is no problem of the others: it is kept in the list, if there is one, and the group is left out."""
    try:
        yield
    except BenchError as error:
        if left_out is None:
            raise
        left_out.append(error)


def read_runs(store: Store, walked: Walk | None = None) -> tuple[list[Run], list[str]]:
    """The runs whose specs and records are whole, and what is wrong with the others, and with certifications.

    Args:
        walked: what is in the store, if it is known.
    """
    runs: dict[str, Run] = {}
    damaged: list[str] = []
    for run in store.scan(walked):
        if isinstance(run, Damaged):
            damaged.append(run.reason)
        elif faults := run.faults():
            damaged += map(str, faults)
        elif other := runs.get(run.spec.key):
            damaged.append(f"{run.path} holds the same run as {other.path}")
        else:
            runs[run.spec.key] = run
            damaged += [found.reason for found in run.begun() if isinstance(found, Damaged)]
    return list(runs.values()), damaged


@dataclass(frozen=True)
class _Family:
    """What trainings must share for their rows to be compared. A method's recipe may cut the batch, so it is not in it."""

    dataset: str
    protocol: str
    recipe: str
    train: str
    overrides: str

    def takes(self, run: Run, own: _Family) -> bool:
        """Whether a run fits: `--set train.batch=64` leaves no trace in a run whose batch is 64 anyway."""
        if (own.dataset, own.protocol, own.recipe, own.train) != (self.dataset, self.protocol, self.recipe, self.train):
            return False
        mine, its = _overrides(run.spec), parse_json(self.overrides)
        return mine.items() <= its.items() and all(getattr(run.spec.train, k.removeprefix("train.")) == v for k, v in its.items())


@dataclass(frozen=True)
class _Member:
    run: Run
    certification: Certification  # there or not


def _overrides(spec: RunSpec) -> dict[str, Scalar]:
    return {key: value for key, value in spec.changes.items() if key.startswith("train.")}


def _family(run: Run) -> _Family:
    spec = run.spec
    return _Family(spec.dataset, spec.protocol, spec.recipe, _training(spec.train), canonical(_overrides(spec)))


@lru_cache(maxsize=256)
def _training(train: TrainSpec) -> str:
    return canonical({key: value for key, value in dataclasses.asdict(train).items() if key != "batch"})


def _members(runs: Sequence[Run], wanted: Set[str], left_out: list[BenchError] | None) -> dict[tuple[_Family, str], list[_Member]]:
    """Family and key of the certification -> runs, for the families of the runs whose key is wanted."""
    certified = {run.spec.key: list(run.certifications()) for run in runs}
    own = {run.spec.key: _family(run) for run in runs}
    result: dict[tuple[_Family, str], list[_Member]] = defaultdict(list)
    for family in dict.fromkeys(own.values()):
        members = [run for run in runs if family.takes(run, own[run.spec.key])]
        if not any(run.spec.key in wanted for run in members):
            continue
        specs = {c.spec.key: c.spec for run in members for c in certified[run.spec.key]}
        if not specs:
            if family.protocol not in PROTOCOLS:
                told = f"{members[0].path}: protocol {family.protocol!r} is unknown here{nearest(family.protocol, PROTOCOLS)}"
                with leaving_out(left_out):
                    raise BenchError(told)
                continue
            spec = members[0].info.protocol(PROTOCOLS[family.protocol]).certify
            specs = {spec.key: spec}
        for run in members:
            for key in [c.spec.key for c in certified[run.spec.key]] or specs:
                result[family, key].append(_Member(run, run.certification(specs[key])))
    return result


def _group(
    family: _Family,
    certify: CertifySpec,
    members: Sequence[_Member],
    expected: tuple[int, ...],
    alpha: float,
    words: Sequence[str],
    mix_sources: bool,
) -> Group:
    info = members[0].run.info
    layout = layouts.of_dataset(family.dataset)
    images = len(members[0].certification.expected())
    if not images:
        raise BenchError(f"{members[0].certification.path}: images={certify.images} selects none of the {info.test_size} test images")
    columns = metrics.columns_of(words, layout.radii, info.classes)
    seeds = read_seeds([(m.certification, m.run.spec.seed) for m in members], alpha)
    read = {m.run.spec.key: seed for m, seed in zip(members, seeds, strict=True)}
    source_of = {m.run.spec.key: _source(m.run) for m in members}
    by_method, by_cell = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for m in members:
        if source := source_of[m.run.spec.key]:
            by_method[m.run.spec.method].add(source)
            by_cell[m.run.spec.cell].add(source)

    cells: dict[float, dict[str, dict[str, list[Run]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for m in members:
        cells[m.run.spec.sigma][m.run.spec.row][m.run.spec.cell].append(m.run)
    methods = {m.run.spec.row: m.run.spec.method for m in members}

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
                rows.append(one(name, f"#{number}" if differ else "", found, [*notes, *damage, *_histories(found)]))
        sections.append(Section(sigma=sigma, rows=tuple(rows)))
    return Group(
        dataset=family.dataset,
        source="runs",
        conditions=_conditions(family, certify, alpha),
        images=images,
        test_size=info.test_size,
        seeds=expected,
        baseline=layout.baseline,
        metrics=columns,
        sections=tuple(sections),
        mixed=mix_sources and any(len(sources) > 1 for sources in by_cell.values()),
        notes=certification_notes([m.certification for m in members if read[m.run.spec.key].state != "damaged"]),
    )


def _conditions(family: _Family, certify: CertifySpec, alpha: float) -> dict[str, Any]:
    train = parse_json(family.train)
    changes = parse_json(family.overrides) | {f"certify.{name}": value for name, value in certify.changes.items()}
    return {
        "source": "own runs",
        "protocol": family.protocol,
        "changes": ", ".join(f"{name}={value}" for name, value in changes.items()),
        "recipe": family.recipe,
        "network": train["arch"],
        **{f"train.{name}": value for name, value in train.items() if name != "arch"},
        **conditions_of_counts(certify, alpha),
    }


def conditions_of_counts(certify: CertifySpec, alpha: float) -> dict[str, Any]:
    """What rows share of a certification whose counts are there."""
    own = {f"certify.{f.name}": getattr(certify, f.name) for f in dataclasses.fields(certify) if f.name != "changes"}
    return own | {"alpha": alpha, "rounding": "exact"}


def read_seeds(certifications: Sequence[tuple[Certification, int | str]], alpha: float) -> list[Seed]:
    """What the evidence of trainings says, each with the seed or word that it goes by."""
    return [_seed(certification, seed, alpha) for certification, seed in certifications]


def _seed(certification: Certification, seed: int | str, alpha: float) -> Seed:
    """How far a training is, and its outcomes if it is done."""
    run = certification.run
    key = run.spec.key
    try:
        certification.spec.check_alpha(alpha)
    except BenchError as error:
        raise BenchError(f"{certification.path}: {error}") from None
    try:
        standing = certification.standing()
        done = len(standing.columns)
        if standing.state != "done":
            return Seed(seed=seed, state=standing.state, done=done, key=key)
        outcomes = metrics.outcomes(standing.columns, alpha, run.spec.sigma, certification.spec)
        timing = run.timing() or {}
    except BenchError as error:
        return Seed(seed=seed, state="damaged", key=key, reason=str(error))
    cost = Cost(pairs=timing.get("pairs_per_image"), seconds=timing.get("training_seconds"))
    return Seed(seed=seed, state="done", done=done, key=key, outcomes=outcomes, cost=cost)


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
        elif c.path.exists() and c.labels() is None:
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
            where = f"{run.spec.row} at sigma {run.spec.sigma:g}, seed {run.spec.seed}"
            notes.append(f"{where}: changed while it was trained: {', '.join(changed) or 'its environment'}")
    return notes


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
