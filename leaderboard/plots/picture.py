"""From a store to what a picture shows, as numbers. Rows of several groups never share a picture; unfinished rows are named, not drawn."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError, UsageError, nearest
from bench.files import disk
from bench.rules.bounds import Floats
from bench.spec import canonical, names_row
from bench.store.runs import Run, Store
from leaderboard import layouts
from leaderboard.aggregate import EVERYTHING, Filters, Group, Source, collect, require_one_source
from leaderboard.aggregate.where import conditions_of, telling_apart
from leaderboard.metrics import ACR, Outcomes, average_certified_radius
from leaderboard.tables import conditions, headline

Kind = Literal["curves", "envelope", "pa", "tradeoff", "training"]
MAIN_TABLES = (4, 5, 6, 7)  # of the paper; 8 to 11 are ablations


@dataclass(frozen=True)
class Steps:
    """A right-continuous step function of a coordinate; `y[k]` holds from `x[k]` until before `x[k + 1]`."""

    x: Floats  # ascending
    y: Floats

    def at(self, x: Floats) -> Floats:
        """The values at places from `x[0]` up."""
        return self.y[np.searchsorted(self.x, x, side="right") - 1]


@dataclass(frozen=True)
class Band:
    """Mean over seeds, and the sample standard deviation (ddof=1), None for one seed."""

    x: Floats
    mean: Floats
    std: Floats | None


_NOTHING = Steps(np.zeros(1), np.zeros(1))


@dataclass(frozen=True)
class Seed:
    """What a picture needs of one finished seed: `terms` for training curves, the others for the rest.

    Attributes:
        acr: average certified radius, in pixels of [0, 1]; NaN for curves of a rule that gives none.
        steps: certified accuracy in % against radius; of kind `pa` against a threshold of the lower bound pA.
        terms: `loss` and the terms against epochs of the recipe's clock.
    """

    acr: float = 0.0
    steps: Steps = _NOTHING
    terms: Mapping[str, Steps] = field(default_factory=dict)


@dataclass(frozen=True)
class Points:
    """What a published table prints of a row, as (mean, std): certified accuracy in % by radius, and ACR. std is 0 where it prints none."""

    accuracy: Mapping[float, tuple[float, float]]
    acr: tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """A finished row at one noise level: its seeds, or of a published row the printed points."""

    label: str
    seeds: tuple[Seed, ...] = ()
    points: Points | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is drawn.

    Attributes:
        name: of the file, without suffix.
        headline: what the picture is about, in one line.
        notes: paragraphs below it.
        baseline: label of the row that is drawn grey.
        panels: noise level -> finished rows, ascending; an envelope has one, at the largest.
        best_of: the noise levels of which an envelope takes the best at each radius.
        chosen: what tells its group from those of other pictures, by key of `--where`.
    """

    kind: Kind
    name: str
    headline: str
    notes: tuple[str, ...]
    baseline: str
    panels: Mapping[float, tuple[Series, ...]]
    best_of: tuple[float, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)


# ---- numbers


def certified_steps(correct: NDArray[np.bool_], radius: Floats) -> Steps:
    """Share of ALL images, in %, that are correct with a radius strictly larger than r, as an exact function of r from 0 up."""
    x, count = np.unique(radius[correct & (radius > 0)], return_counts=True)
    left = count.sum() - np.concatenate([[0], np.cumsum(count)])
    return Steps(np.concatenate([[0.0], x]), 100 * left / len(radius))


def over_seeds(steps: Sequence[Steps]) -> Band:
    """Mean and deviation at every place where any seed has a step."""
    x = np.unique(np.concatenate([s.x for s in steps]))
    y = np.stack([s.at(x) for s in steps])
    return Band(x, y.mean(axis=0), y.std(axis=0, ddof=1) if len(steps) > 1 else None)


def envelope(trainings: Mapping[float, Sequence[Steps]]) -> tuple[tuple[Steps, ...], list[tuple[float, float]]]:
    """At each radius the noise level at which the mean over the trainings is the largest; the one before it where several are.

    Args:
        trainings: noise level -> certified accuracies of as many trainings, T, at each.

    Returns:
        T accuracies, whose mean is the envelope; (noise level, radius until before which it is taken), ascending, infinity at last.
    """
    x = np.unique(np.concatenate([s.x for steps in trainings.values() for s in steps]))
    y = np.stack([[s.at(x) for s in steps] for steps in trainings.values()])  # noise level, training, radius
    mean, parts, spans, start = y.mean(axis=1), [], [], 0
    while start < x.size:
        best = int(mean[:, start].argmax())
        worse = np.flatnonzero(mean[best, start:] < mean[:, start:].max(axis=0) - 1e-9)  # equal means may differ in the last bit
        end = start + int(worse[0]) if worse.size else x.size
        parts.append(y[best, :, start:end])
        spans.append((list(trainings)[best], float(x[end]) if end < x.size else math.inf))
        start = end
    return tuple(Steps(x, one) for one in np.concatenate(parts, axis=1)), spans


def training_terms(run: Run) -> dict[str, Steps]:
    """Loss and terms of a training curve, `loss` first; a term is NaN in the epochs in which it was not yet there.

    Raises:
        BenchError: unreadable.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(disk.read(run.curve).decode())))
        names = [name for name in rows[0] if name not in ("epoch", "step", "lr")]
        epoch = np.array([float(row["epoch"]) for row in rows])
        values = {name: np.array([float(row[name] or "nan") for row in rows]) for name in sorted(names, key=lambda name: name != "loss")}
        if not all(np.isfinite(v).all() for v in (epoch, values["loss"])) or (np.diff(epoch) <= 0).any():
            raise ValueError("its epochs must ascend and its loss be finite")
    except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise BenchError(f"{run.curve} is no training curve: {error}") from None
    return {name: Steps(epoch, v) for name, v in values.items()}


# ---- from a store to a picture


def pictures(
    kind: Kind,
    store: Store,
    filters: Filters = EVERYTHING,
    *,
    source: Source | Literal["published"] | None = None,
    alpha: float | None = None,
    rule: str | None = None,
) -> tuple[Picture, ...]:
    """Reads a store into pictures, one for each group of comparable rows, each with a name of its own.

    Args:
        source: imported logs, our own runs, checkpoints from outside, or the paper's printed numbers, which need no store; None takes
            the one that the store has. Training curves are those of our own runs.
        alpha: chance that a certificate is wrong, 0.001 if None; imported logs have one of their own, which is fixed.
        rule: that reads counts; None: the one under which they were sampled.

    Raises:
        UsageError: a filter that fits nothing.
        BenchError: nothing to draw, an ACR that cannot be read, several sources and no choice.
    """
    if kind == "training":
        if source not in (None, "runs"):
            what = {"imported": "imported logs", "checkpoints": "checkpoints from outside"}.get(source, "published tables")
            raise BenchError(f"{what} have no training curves; leave out --from {source}")
        source = "runs"
    if source == "published" and kind not in ("curves", "tradeoff"):
        raise BenchError(f"a picture of kind {kind} needs every image, and printed numbers are means; leave out --from published")
    if source == "published":
        if alpha is not None or rule is not None or filters.of_runs or filters.where:
            raise BenchError("printed numbers are fixed; leave out --alpha, --rule, --protocol, --recipe, --seeds and --where")
        return (_of_published(kind, filters),)
    groups = collect(store, filters, alpha=alpha, rule=rule, source=source, metrics=("ACR",))
    require_one_source(store, groups)
    alike: dict[str, list[Group]] = defaultdict(list)
    for number, group in enumerate(groups):  # one training that was certified in several ways is drawn once
        alike[canonical(_facts(kind, group)) if kind == "training" else str(number)].append(group)
    apart = telling_apart([_facts(kind, same[0]) for same in alike.values()])
    found, empty = [], []
    for same, chosen in zip(alike.values(), apart, strict=True):
        try:
            picture = _of_training(store, same) if kind == "training" else picture_of(kind, same[0])
            found.append(dataclasses.replace(picture, chosen=chosen))
        except NothingToDraw as error:
            empty.append(NothingToDraw(f"not drawn: {headline(same[0])}: {error}") if len(apart) > 1 else error)
    if not found:
        raise empty[0]
    found[0] = dataclasses.replace(found[0], notes=(*found[0].notes, *map(str, empty)))
    return _named_apart(found)


def _facts(kind: Kind, group: Group) -> dict[str, Any]:
    """What tells a group from others; how it was certified is nothing to a training."""
    facts = conditions_of(group)
    if kind != "training":
        return facts
    return {k: value for k, value in facts.items() if not k.startswith("certify.") and k not in ("changes", "alpha", "rounding")}


def _named_apart(found: Sequence[Picture]) -> tuple[Picture, ...]:
    """Pictures whose names say what tells them apart, but for data set and protocol, which they say anyway."""
    named = []
    taken: Counter[str] = Counter()
    for picture in found:
        chosen = {name.rpartition(".")[2]: word for name, word in picture.chosen.items() if name not in ("dataset", "protocol")}
        words = [re.sub(r"[^\w.]+", "-", f"{name}-{word or 'none'}").strip("-") for name, word in chosen.items()]
        slug = "-".join([picture.name, *words])[:120]
        taken[slug] += 1
        named.append(dataclasses.replace(picture, name=f"{slug}-{taken[slug]}" if taken[slug] > 1 else slug))
    return tuple(named)


class NothingToDraw(BenchError):
    """No row of a group is finished."""


def picture_of(kind: Kind, group: Group) -> Picture:
    """The picture of one group.

    Raises:
        NothingToDraw: none of its rows is finished. BenchError: one of them cannot be drawn so.
    """
    left_out, panels = [], {}
    for section in group.sections:
        series = []
        for row in section.rows:
            if not row.finished:
                left_out.append(f"{row.label} at sigma {section.sigma:g} ({row.status})")
                continue
            acrs = [average_certified_radius(o) if o.has_acr or kind == "tradeoff" else math.nan for o in row.outcomes]
            steps = [certified_steps(o.correct, _bounds(row.label, o) if kind == "pa" else o.radius) for o in row.outcomes]
            series.append(Series(row.label, tuple(Seed(acr, one) for acr, one in zip(acrs, steps, strict=True))))
        panels[section.sigma] = tuple(series)
    if kind == "envelope":
        return _of_envelope(group, panels, left_out)
    return _picture(kind, group, [*conditions(group), _rule(kind, group, panels)], panels, left_out)


def _bounds(label: str, o: Outcomes) -> Floats:
    if o.bound is None:
        raise BenchError(f"{label} has no lower bound on pA of every image, because its evidence holds no counts or a part of them")
    return o.bound


def _of_envelope(group: Group, panels: Mapping[float, tuple[Series, ...]], left_out: list[str]) -> Picture:
    """One panel; a row that is unfinished at any noise level is left out, for its envelope would lie too low."""
    rows: dict[str, dict[float, Series]] = defaultdict(dict)
    for sigma, found in panels.items():
        for one in found:
            rows[one.label][sigma] = one
    series, said = [], []
    for label, levels in rows.items():
        if len(levels) < len(panels):
            continue  # named as unfinished where it is
        if len(sizes := {len(one.seeds) for one in levels.values()}) > 1:
            told = " or ".join(map(str, sorted(sizes)))
            raise BenchError(f"{label} has {told} {group.unit}s, and an envelope needs as many at each sigma")
        steps, spans = envelope({sigma: [seed.steps for seed in one.seeds] for sigma, one in levels.items()})
        series.append(Series(label, tuple(Seed(math.nan, one) for one in steps)))
        ends = [f"{sigma:g} {'beyond' if end == math.inf else f'below r = {end:.3f}'}" for sigma, end in spans]
        said.append(f"{label}: sigma {', '.join(ends)}.")
    text = "At each radius the noise level with the largest certified accuracy in the mean. It is no classifier: each radius has its own."
    about = [*conditions(group), text, _rule("curves", group, panels)]
    picture = _picture("envelope", group, about, {max(panels): tuple(series)}, left_out)
    return dataclasses.replace(picture, best_of=tuple(panels), notes=(picture.notes[0], *said, *picture.notes[1:]))


def _picture(kind: Kind, group: Group, about: Sequence[str], panels: Mapping[float, tuple[Series, ...]], left_out: list[str]) -> Picture:
    missing = [f"Left out, because unfinished: {', '.join(left_out)}."] if left_out else []
    drawn = {sigma: series for sigma, series in panels.items() if series}
    if not drawn:
        raise NothingToDraw(f"there is nothing to draw, because no row is finished: {', '.join(left_out)}")
    return Picture(
        kind=kind,
        name=f"{kind}-{group.dataset}-{group.conditions.get('protocol', group.source)}",
        headline=headline(group),
        notes=(" ".join(about), *missing, *dict.fromkeys((*group.notes, *group.footnotes))),
        baseline=group.baseline,
        panels=drawn,
    )


def _several(panels: Mapping[float, Sequence[Series]]) -> bool:
    return any(len(one.seeds) > 1 for series in panels.values() for one in series)


def _of_published(kind: Kind, filters: Filters) -> Picture:
    """The printed numbers of the main tables, which compare methods; those of the ablations stand apart from them."""
    known = list(dict.fromkeys(layouts.load(number).dataset for number in MAIN_TABLES))
    dataset = next(iter(filters.datasets), known[0])
    if dataset not in known or len(filters.datasets) > 1:
        raise BenchError(f"a picture of published numbers is of one data set{nearest(dataset, known)}")
    tables = [layouts.load(number) for number in MAIN_TABLES if layouts.load(number).dataset == dataset]
    rows = list(dict.fromkeys(row for table in tables for row in table.rows))
    sigmas = sorted({float(sigma) for table in tables for sigma in table.sigmas})
    problems = [f"no table has sigma {s:g}{nearest(f'{s:g}', [f'{k:g}' for k in sigmas])}" for s in filters.sigmas if s not in sigmas]
    named = {word: [row for row in rows if names_row(word, row, row.partition(".")[0])] for word in filters.methods}
    chosen = [row for row in rows if not named or any(row in found for found in named.values())]
    problems += [f"no table has row {word}{nearest(word, rows)}" for word, found in named.items() if not found]
    if problems:
        raise UsageError(problems)
    printed: dict[tuple[float, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    for p in (p for table in tables for p in layouts.values(table.number)):
        printed[float(p.sigma), p.row][p.metric] = float(p.mean), float(p.std or 0)
    panels: dict[float, tuple[Series, ...]] = {}
    for sigma, row in itertools.product(filters.sigmas or sigmas, chosen):
        of_row = printed[sigma, row]
        if accuracy := {float(metric): value for metric, value in of_row.items() if metric != ACR}:
            points = Points(dict(sorted(accuracy.items())), of_row.get(ACR))
            panels[sigma] = (*panels.get(sigma, ()), Series(row, points=points))
    if not panels:
        raise BenchError("there is nothing to draw: no table has these rows at these noise levels")
    several = any(table.seeds > 1 for table in tables)
    numbers = " and ".join(str(table.number) for table in tables)
    bars = f" {'Bars: ± sample standard deviation over the runs, as printed' if several else 'One run, so no bars'}."
    text = {"curves": "Certified accuracy as printed, at the radii of the table; between them the lines only lead the eye."}
    about = text.get(kind, "ACR against certified accuracy at r = 0, as printed.") + bars
    return Picture(
        kind=kind,
        name=f"{kind}-{dataset}-published",
        headline=f"{dataset}, as printed in Table{'s' if len(tables) > 1 else ''} {numbers} of the SmoothMix paper",
        notes=(about, *(deviation.text for table in tables for deviation in table.deviations)),
        baseline=tables[0].baseline,
        panels=panels,
    )


def _of_training(store: Store, groups: Sequence[Group]) -> Picture:
    """The training curves; a row counts as finished once all its seeds are trained, certified or not."""
    group = groups[0]
    runs = {run.spec.key: run for run in store.runs()}
    # One training that was certified in several ways stands in several groups, and is drawn once.
    expected = sorted({number for other in groups for number in other.seeds})
    rows: dict[float, dict[str, dict[int | str, str]]] = defaultdict(lambda: defaultdict(dict))
    for sigma, row in ((section.sigma, row) for other in groups for section in other.sections for row in section.rows):
        keys = rows[sigma][row.label]
        for seed in row.seeds:
            if seed.key and keys.setdefault(seed.seed, seed.key) != seed.key:
                raise BenchError(f"{row.label} at sigma {sigma:g} was run with several settings; see `bench table`")
    left_out: list[str] = []
    panels: dict[float, tuple[Series, ...]] = {}
    for sigma, labels in sorted(rows.items()):
        series = []
        for label, keys in labels.items():
            states = [_training_state(runs.get(keys.get(number, ""))) for number in expected]
            if set(states) != {"trained"}:
                bad = [f"{states.count(s)} {s}" for s in ("diverged", "failed", "damaged", "missing") if s in states]
                done = f"{states.count('trained')}/{len(states)} trained"
                left_out.append(f"{label} at sigma {sigma:g} ({', '.join([done, *bad])})")
                continue
            series.append(Series(label, tuple(Seed(terms=training_terms(runs[keys[number]])) for number in expected)))
        panels[sigma] = tuple(series)
    about = [*conditions(group)[:1], "Terms are weighted, and their sum is the loss; mean of each epoch."]
    about.append("Line: mean over the seeds. Band: ± sample standard deviation." if _several(panels) else "One seed, so no band.")
    return _picture("training", group, about, panels, left_out)


def _training_state(run: Run | None) -> str:
    if run is None:
        return "missing"
    try:
        training = run.training()
        return str(training["state"]) if training else "failed" if run.failure() else "training"
    except BenchError:
        return "damaged"


def _rule(kind: Kind, group: Group, panels: Mapping[float, Sequence[Series]]) -> str:
    radii, unit = "radii rounded as printed" if group.source == "imported" else "exact radii", group.unit
    texts = {
        "pa": "Share of all images that are certified right with a lower bound on pA above the threshold.",
        "tradeoff": f"ACR: average certified radius over all images ({radii}).",
    }
    text = texts.get(kind, f"Certified accuracy: share of all images that are correct with radius > r ({radii}).")
    mark, mean = ("bars", "") if kind == "tradeoff" else ("band", f"Line: mean over the {unit}s. ")
    if not _several(panels):
        return f"{text} One {unit}, so no {mark}."
    return f"{text} {mean}{mark.capitalize()}: ± sample standard deviation over the {unit}s."
