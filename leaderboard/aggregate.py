"""From a store to comparable groups, their rows and their cells: mean and deviation over seeds.

What belongs together is decided by equality of specs, never by a path. A run that is trained (or training, failed,
diverged) without any certification stands, as unfinished, in every group of its training's family: what was asked for and is not
there must be seen. Where no run of the family is certified yet, the group is that of its protocol.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from bench.bounds import check_alpha
from bench.errors import BenchError, UsageError, nearest
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, Scalar, canonical, parse_json, to_json
from bench.store import Certification, Damaged, Run, Store
from leaderboard import layouts, metrics

SeedState = Literal["done", "certifying", "training", "missing", "failed", "diverged", "damaged"]


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One training of a row and its certification.

    Attributes:
        state: only `done` has values and enters a mean; `missing`: there is no such run.
        done: images certified.
        key: the run's key, empty for a missing one.
        reason: why it is damaged.
        values: metric -> value: `ACR` in pixels of [0, 1], `abstention` and the accuracies in %.
    """

    seed: int
    state: SeedState
    done: int = 0
    key: str = ""
    reason: str = ""
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Stat:
    """A metric over the seeds of a row; std is the sample standard deviation (ddof=1), None for one seed."""

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration at one sigma.

    Attributes:
        name: the row's name, e.g. `smoothmix.eta5[steps=2]`.
        mark: empty, or `#1`, `#2`, ... where several configurations have that name.
        stats: metric -> mean and deviation; empty unless every expected seed is done.
        notes: what a reader of the table must know about the row.
    """

    name: str
    mark: str
    method: str
    seeds: tuple[Seed, ...]
    images: int
    stats: Mapping[str, Stat]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name and mark."""
        return f"{self.name} {self.mark}".strip()

    @property
    def status(self) -> str:
        """Empty for a finished row, else what is there instead of a mean, e.g. `4/5 seeds`."""
        if self.stats:
            return ""
        if len(self.seeds) == 1:
            seed = self.seeds[0]
            words = {"training": "in training", "certifying": f"{seed.done}/{self.images} images"}
            return words.get(seed.state, seed.state)
        counts = {state: sum(s.state == state for s in self.seeds) for state in ("done", "diverged", "failed", "damaged")}
        bad = [f"{counts[state]} {state}" for state in ("diverged", "failed", "damaged") if counts[state]]
        return ", ".join([f"{counts['done']}/{len(self.seeds)} seeds", *bad])


@dataclass(frozen=True, kw_only=True)
class Section:
    """The rows of one noise level."""

    sigma: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that may stand in one table.

    Attributes:
        overrides: `train.*` fields that were changed of the protocol.
        train: the training that all rows share, as JSON; `batch` is left out, since a method's recipe may cut it.
        images: test images of a finished certification.
        seeds: those a complete row has.
        baseline: the row that others are compared with.
        metrics: `ACR` and radii such as `0.50`.
        notes: what concerns the whole table.
    """

    dataset: str
    protocol: str
    recipe: str
    overrides: Mapping[str, Scalar]
    train: Mapping[str, Any]
    certify: CertifySpec
    alpha: float
    images: int
    test_size: int
    seeds: tuple[int, ...]
    baseline: str
    metrics: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]

    @property
    def footnotes(self) -> tuple[str, ...]:
        """The notes of the rows, each once, in order."""
        return tuple(dict.fromkeys(note for section in self.sections for row in section.rows for note in row.notes))


def collect(
    store: Store,
    *,
    alpha: float = 0.001,
    datasets: Sequence[str] = (),
    sigmas: Sequence[float] = (),
    methods: Sequence[str] = (),
    protocols: Sequence[str] = (),
    recipes: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> tuple[Group, ...]:
    """Reads a store into groups, one table each.

    Args:
        alpha: chance that a certificate is wrong, in (0, 1/2).
        methods: row names, method names, or patterns of either; the other filters are exact. Empty: everything.
        seeds: the expected seeds; empty: those that any run of the group has, whatever the other filters show.

    Raises:
        UsageError: a filter that fits nothing in the store.
        BenchError: an empty store, a run in two folders, alpha out of range.

    A damaged run is left out and named in the notes of every group; a row with damaged evidence shows no mean.
    """
    try:
        check_alpha(alpha)
    except ValueError as error:
        raise BenchError(str(error)) from None
    runs, damaged = _read(store)
    if not runs and not damaged:
        raise BenchError(f"there are no runs in {store.root}; `bench run` makes some")
    places: dict[str, Run] = {}
    for run in runs:
        if (other := places.setdefault(run.spec.key, run)) is not run:
            raise BenchError(f"{run.path} and {other.path} hold the same run; move one of them away")
    if not runs:
        raise BenchError(f"every run in {store.root} is damaged: {damaged[0]}")
    chosen = _filter(runs, datasets, sigmas, methods, protocols, recipes, seeds)
    wanted = {run.spec.key for run in chosen}
    groups = []
    for (family, _), members in _members(runs, wanted).items():
        shown = [member for member in members if member.run.spec.key in wanted]
        if shown:
            expected = tuple(sorted(set(seeds) or {member.run.spec.seed for member in members}))
            groups.append(_group(family, members[0].certification.spec, shown, expected, alpha))
    notes = tuple(f"left out, because it is damaged: {reason}" for reason in damaged)
    return tuple(dataclasses.replace(group, notes=group.notes + notes) for group in _tell_apart(sorted(groups, key=_order)))


def _read(store: Store) -> tuple[list[Run], list[str]]:
    """The runs whose specs are whole, and what is wrong with the others."""
    runs, damaged = [], []
    for run in store.scan():
        if isinstance(run, Damaged):
            damaged.append(run.reason)
            continue
        try:
            run.check()
            runs.append(run)
        except BenchError as error:
            damaged.append(str(error))
    return runs, damaged


def _filter(
    runs: Sequence[Run],
    datasets: Sequence[str],
    sigmas: Sequence[float],
    methods: Sequence[str],
    protocols: Sequence[str],
    recipes: Sequence[str],
    seeds: Sequence[int],
) -> list[Run]:
    """The runs that fit all filters; each word must fit some run of the store."""
    problems = []
    exact: tuple[tuple[str, Sequence[Any], Callable[[RunSpec], Any]], ...] = (
        ("data set", datasets, lambda spec: spec.dataset),
        ("sigma", sigmas, lambda spec: spec.sigma),
        ("protocol", protocols, lambda spec: spec.protocol),
        ("recipe", recipes, lambda spec: spec.recipe),
        ("seed", seeds, lambda spec: spec.seed),
    )
    for what, words, field in exact:
        known = {field(run.spec) for run in runs}
        problems += [f"no run has {what} {_word(word)}{nearest(_word(word), map(_word, known))}" for word in words if word not in known]
    names = {name for run in runs for name in (run.spec.row, run.spec.method)}
    for word in methods:
        if not any(_fits(run.spec, word) for run in runs):
            problems.append(f"no run is of method {word!r}{nearest(word, names)}")
    if problems:
        raise UsageError(problems)
    found = [
        run
        for run in runs
        if all(not words or field(run.spec) in words for _, words, field in exact)
        and (not methods or any(_fits(run.spec, word) for word in methods))
    ]
    if not found:
        asked = [f"{what} {', '.join(map(_word, words))}" for what, words, _ in exact if words]
        asked += [f"method {', '.join(methods)}"] if methods else []
        raise BenchError(f"no run has all of: {'; '.join(asked)}; `bench list runs` names those there are")
    return found


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fits(spec: RunSpec, word: str) -> bool:
    # Equality first: the brackets of a row's name mean something else in a pattern.
    return any(name == word or fnmatchcase(name, word) for name in (spec.row, spec.method))


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
    train = {key: value for key, value in dataclasses.asdict(spec.train).items() if key != "batch"}
    return _Family(spec.dataset, spec.protocol, spec.recipe, canonical(train), canonical(_overrides(spec)))


def _members(runs: Sequence[Run], wanted: Set[str]) -> dict[tuple[_Family, str], list[_Member]]:
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
                raise BenchError(f"{members[0].path}: protocol {family.protocol!r} is unknown here{nearest(family.protocol, PROTOCOLS)}")
            spec = members[0].info.protocol(PROTOCOLS[family.protocol]).certify
            specs = {spec.key: spec}
        for run in members:
            for key in [c.spec.key for c in certified[run.spec.key]] or specs:
                result[family, key].append(_Member(run, run.certification(specs[key])))
    return result


def _group(family: _Family, certify: CertifySpec, members: Sequence[_Member], expected: tuple[int, ...], alpha: float) -> Group:
    info = members[0].run.info
    layout = layouts.load(4)
    images = len(members[0].certification.expected())
    if not images:
        raise BenchError(f"{members[0].certification.path}: images={certify.images} selects none of the {info.test_size} test images")
    read = {m.run.spec.key: _seed(m, alpha, layout.radii) for m in members}
    mixtures = _mixtures([m.run for m in members])

    cells: dict[float, dict[str, dict[str, list[Run]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for m in members:
        cells[m.run.spec.sigma][m.run.spec.row][m.run.spec.cell].append(m.run)
    methods = {m.run.spec.row: m.run.spec.method for m in members}
    place = {row: number for number, row in enumerate(layout.rows)}
    sections = []
    for sigma, names in sorted(cells.items()):
        rows = []
        for name in sorted(methods, key=lambda name: (place.get(name, len(place)), name)):
            if name not in names:  # there at another sigma, so it is missed here
                rows.append(_row(name, "", methods[name], [], expected, images, []))
                continue
            same = sorted(names[name].items())
            differ = _differences([runs[0].spec for _, runs in same])
            for number, (_, runs) in enumerate(same, start=1):
                damage = [f"{name} at sigma {sigma:g}: {read[r.spec.key].reason}" for r in runs if read[r.spec.key].reason]
                notes = [f"{name} at sigma {sigma:g} stands {len(same)} times, since its settings differ: {differ}"] if differ else []
                notes += damage + _notes(runs, mixtures)
                found = [read[run.spec.key] for run in runs]
                rows.append(_row(name, f"#{number}" if differ else "", runs[0].spec.method, found, expected, images, notes))
        sections.append(Section(sigma=sigma, rows=tuple(rows)))
    return Group(
        dataset=family.dataset,
        protocol=family.protocol,
        recipe=family.recipe,
        overrides=parse_json(family.overrides),
        train=parse_json(family.train),
        certify=certify,
        alpha=alpha,
        images=images,
        test_size=info.test_size,
        seeds=expected,
        baseline=layout.baseline,
        metrics=(layouts.ACR, *layout.radii),
        sections=tuple(sections),
        notes=(*_environments(members), *data_notes([m.certification for m in members])),
    )


def _row(name: str, mark: str, method: str, found: Sequence[Seed], expected: Sequence[int], images: int, notes: Sequence[str]) -> Row:
    by_seed = {seed.seed: seed for seed in found}
    seeds = tuple(by_seed.get(number, Seed(seed=number, state="missing", values={})) for number in expected)
    stats = {}
    if all(seed.state == "done" for seed in seeds):
        for metric in seeds[0].values:
            values = [seed.values[metric] for seed in seeds]
            # `statistics` is exact, so neither the order of the seeds nor equal values leave a trace in the last bit.
            std = statistics.stdev(values) if len(values) > 1 else None
            stats[metric] = Stat(mean=statistics.fmean(values), std=std, n=len(values))
    return Row(name=name, mark=mark, method=method, seeds=seeds, images=images, stats=stats, notes=tuple(notes))


def _seed(member: _Member, alpha: float, radii: Sequence[str]) -> Seed:
    """How far a run is, and its values if it is done."""
    run, certification = member.run, member.certification
    key, seed = run.spec.key, run.spec.seed
    try:
        standing = certification.standing()
        if not standing.rows:
            return Seed(seed=seed, state=standing.state, key=key, values={})
        o = metrics.outcomes(standing.rows, alpha, run.spec.sigma)
    except BenchError as error:
        return Seed(seed=seed, state="damaged", key=key, reason=str(error), values={})
    values = {}
    if standing.state == "done":
        values = {layouts.ACR: metrics.average_certified_radius(o), "abstention": 100 * metrics.abstention_rate(o)}
        values |= {r: 100 * metrics.certified_accuracy(o, float(r)) for r in radii}
    return Seed(seed=seed, state=standing.state, done=len(standing.rows), key=key, values=values)


def _mixtures(runs: Sequence[Run]) -> dict[str, str]:
    """Method -> note, for methods whose runs were trained from several sources."""
    sources: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        sources[run.spec.method].add(str((run.environment() or {}).get("method_sha256") or "unknown")[:8])
    return {
        method: f"a mixture of method sources: {method} was trained from {', '.join(sorted(hashes))}"
        for method, hashes in sources.items()
        if len(hashes) > 1
    }


def _environments(members: Sequence[_Member]) -> tuple[str, ...]:
    """Notes where evidence was counted under different conditions: counts repeat only on one device, thread count and library version."""
    fields: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "device": lambda e: e.get("device"),
        "threads": lambda e: e.get("threads"),
        "torch": lambda e: (e.get("libraries") or {}).get("torch"),
    }
    found: dict[str, set[str]] = defaultdict(set)
    for m in members:
        environment = m.certification.environment()
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


def _notes(runs: Sequence[Run], mixtures: Mapping[str, str]) -> list[str]:
    words = {"method_sha256": "the method's source", "data_md5": "the data", "libraries": "library versions", "suite": "the suite's commit"}
    notes = [mixtures[runs[0].spec.method]] if runs[0].spec.method in mixtures else []
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


def _order(group: Group) -> tuple[str, ...]:
    return (
        group.dataset,
        group.protocol,
        group.recipe,
        canonical(dict(group.overrides)),
        canonical(dict(group.train)),
        canonical(to_json(group.certify)),
    )


def _tell_apart(groups: Sequence[Group]) -> list[Group]:
    """Adds a note where the training of tables differs that their protocol and changes call the same."""
    alike: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in groups:
        alike[group.dataset, group.protocol, group.recipe, canonical(dict(group.overrides)), group.certify.key].append(group)
    result = []
    for same in alike.values():
        fields = sorted({k for group in same for k in group.train if group.train[k] != same[0].train.get(k)})
        note = "another table has the same protocol but another training; here "
        for group in same:
            own = ", ".join(f"{k}={group.train.get(k)}" for k in fields)
            result.append(dataclasses.replace(group, notes=(*group.notes, note + own)) if fields else group)
    return result
