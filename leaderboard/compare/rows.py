"""Row A against one or more rows B of a comparable group of the store.

Across seeds: the mean difference over all trainings of both rows, on the same test images (t-interval, exact permutation test).
Across images: the mean difference over all images like these, for the same trainings (sign flips and their inversion).
Every difference is B minus A: how much more B has than the row it is compared with.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from bench.errors import BenchError
from bench.spec import names_row
from bench.store.runs import Store
from leaderboard import layouts
from leaderboard.aggregate import Filters, Group, Row, Source, collect, require_one_source
from leaderboard.aggregate.where import conditions_of, flags, telling_apart
from leaderboard.compare import statistics
from leaderboard.compare.statistics import AccuracyDifference, ImageDifference, SeedDifference
from leaderboard.paper import RULES
from leaderboard.tables import conditions, headline


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two rows at one sigma."""

    sigma: float
    a: str
    b: str
    seeds: SeedDifference
    images: ImageDifference
    accuracies: tuple[AccuracyDifference, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Row A against one or more rows B.

    Attributes:
        title: data, training and certification that all rows share.
        rule: when an image counts as certified at a radius.
        notes: what a reader must know about the rows, and what was left out.
    """

    title: str
    source: Source
    rule: str
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]


def compare(
    store: Store,
    a: str,
    b: str | Sequence[str],
    *,
    dataset: str | None = None,
    sigmas: Sequence[float] = (),
    seeds: Sequence[int] = (),
    protocol: str | None = None,
    recipe: str | None = None,
    where: Sequence[str] = (),
    alpha: float | None = None,
    rule: str | None = None,
    source: Source | None = None,
) -> Report:
    """Row A against row B, or against every row that B names, as a list or as a pattern.

    Args:
        a, b: names of rows such as `smoothmix.eta5[steps=2]`; of rows that share a name, with their mark: `gaussian #1`.
        dataset: mnist unless it or `where` says another.
        sigmas: noise levels in pixels of [0, 1]; empty: all that both rows have. seeds: of runs; empty: those that each row has.
        where: words of `--where`, see `leaderboard.aggregate.where`.
        alpha: chance that a certificate is wrong, 0.001 unless given; imported logs have one of their own, which is fixed.
        rule: that reads counts; None: the one under which they were sampled.
        source: imported logs, our own runs or checkpoints from outside; None takes the one that the store has.

    Raises:
        BenchError: rows that are not there, not finished or not comparable; several sources without a choice.

    What is asked for by name and sigma must be finished; what a pattern or an open sigma brings along is left out and named.
    """
    bs = [b] if isinstance(b, str) else b
    filters = Filters(
        datasets=[dataset] if dataset else (),
        sigmas=sigmas,
        methods=[unmarked(word) for word in (a, *bs)],
        seeds=seeds,
        protocols=[protocol] if protocol else (),
        recipes=[recipe] if recipe else (),
    ).narrowed(where)
    filters = filters if filters.datasets else dataclasses.replace(filters, datasets=["mnist"])
    groups = collect(store, filters, alpha=alpha, rule=rule, source=source, metrics=())
    require_one_source(store, groups, ", which never mix")
    return compare_groups(groups, a, bs, filters.sigmas)


def unmarked(word: str) -> str:
    """The name of a row without the mark that tells it from others of that name."""
    return re.sub(r" #\d+$", "", word)


def compare_groups(
    groups: Sequence[Group], a: str, bs: Sequence[str], sigmas: Sequence[float] = (), choose: Callable[[Mapping[str, str]], str] = flags
) -> Report:
    """As `compare`, of groups that are read already.

    Args:
        bs: rows or patterns of rows B, at least one. choose: says how one of several groups is asked for.
    """
    b = " and ".join(bs)
    if a in bs:
        raise BenchError(f"{a} is compared with itself; name two rows")
    group, others = _one_group(groups, a, bs, choose)
    if group.rule and group.rule.acr != "ranked":
        raise BenchError(f"{a} and {b} were certified under {group.rule.name}, and ACRs are not compared then. {group.rule.acr_note}")
    chosen = _find(group, a)
    if len(chosen) > 1:
        raise BenchError(f"A must be one row, but {a!r} fits {', '.join(chosen)}; only B may be a pattern")
    notes = [*group.notes, *others]
    seconds = dict.fromkeys(label for word in bs for label in _find(group, word) if label != chosen[0])
    found = list(_pairs(group, chosen[0], [*seconds], bs, sigmas, notes))
    if not found:
        told = [f"there is nothing to compare {a} with {', '.join(bs)} at", *(n for n in notes if n.startswith("left out"))]
        raise BenchError("; ".join(told))
    pairs, radii = [(x, y) for _, x, y in found], layouts.of_dataset(group.dataset).radii
    across = statistics.with_holm([statistics.compare_seeds(x, y) for x, y in pairs])
    accuracies = [statistics.compare_accuracy(x, y, radii) for x, y in pairs]
    holm = iter(statistics.holm([one.p for of_pair in accuracies for one in of_pair]))
    accuracies = [tuple(dataclasses.replace(one, p_holm=next(holm)) for one in of_pair) for of_pair in accuracies]
    by_pair = zip(found, across, statistics.compare_images(pairs), accuracies, strict=True)
    return Report(
        title=title(group),
        source=cast("Source", group.source),
        rule=RULES["exact"],
        comparisons=tuple(
            Comparison(sigma=sigma, a=x.label, b=y.label, seeds=own, images=images, accuracies=of_pair)
            for (sigma, x, y), own, images, of_pair in by_pair
        ),
        notes=tuple(dict.fromkeys(notes)),
    )


def title(group: Group) -> str:
    """What all rows share, in one line."""
    return f"{headline(group)}; {' '.join(conditions(group)).rstrip('.')}"


def _find(group: Group, word: str) -> list[str]:
    """Labels that a word names, else those that it fits as a pattern or as a method's name."""
    named = [row.label for row in group.rows if word in (row.label, row.name)]
    fitting = [row.label for row in group.rows if names_row(word, row.name, row.method)]
    return list(dict.fromkeys(named or fitting))


def _one_group(groups: Sequence[Group], a: str, bs: Sequence[str], choose: Callable[[Mapping[str, str]], str]) -> tuple[Group, list[str]]:
    """The comparable group that holds all rows, and a note on others that do."""
    names = f"{a} and {' and '.join(bs)}"

    def labels(group: Group) -> str:
        return ", ".join(dict.fromkeys(row.label for row in group.rows))

    for word in (a, *bs):
        if not any(_find(group, word) for group in groups):
            there = ", ".join(map(labels, groups))
            raise BenchError(f"there is no {word} at the sigma, protocol and recipe asked for; there is {there}")
    both = [g for g in groups if (first := _find(g, a)[:1]) and all(set(_find(g, b)) - set(first) for b in bs)]
    if not both:
        where = "; ".join(f"{labels(group)} in {title(group)}" for group in groups)
        raise BenchError(f"{names} stand in no comparable group together, and rows of different groups are not compared: {where}")
    plain = [group for group in both if not group.conditions.get("changes")] or both
    if len(plain) > 1:
        apart = telling_apart([conditions_of(group) for group in plain])
        ways = "; ".join(f"{choose(chosen)} for {title(group)}" for group, chosen in zip(plain, apart, strict=True))
        raise BenchError(f"{names} stand together in {len(plain)} groups, which are not compared; choose one: {ways}")
    return plain[0], [f"another comparable group holds both rows as well: {title(group)}" for group in both if group is not plain[0]]


def _pairs(
    group: Group, a: str, bs: Sequence[str], words: Sequence[str], sigmas: Sequence[float], notes: list[str]
) -> Iterator[tuple[float, Row, Row]]:
    """(sigma, A, B); adds to the notes what was left out.

    Raises:
        BenchError: a row that was asked for by name and sigma is not there or not finished.
    """
    rows = {(section.sigma, row.label): row for section in group.sections for row in section.rows if _begun(row)}
    named = {row.label for row in rows.values() if {*words} & {row.label, row.name}}

    def usable(sigma: float, label: str) -> Row | None:
        row = rows.get((sigma, label))
        # A seed that only other rows have is no gap of this one.
        if row and not row.refused and all(seed.state in ("done", "missing") for seed in row.seeds):
            return row
        told = f"not finished ({row.status})" if row else "not there"
        if row and row.refused:
            told = f"a row of {row.refused}, which has no mean; `bench run --rerun all` trains it from one"
        problem = f"{label} at sigma {sigma:g} is {told}"
        if sigmas and (label == a or label in named):
            raise BenchError(f"{problem}; only finished rows are compared")
        notes.append(f"left out: {problem}")
        return None

    for sigma in sigmas or [section.sigma for section in group.sections]:
        if (first := usable(sigma, a)) is None:
            continue
        seconds = [row for label in bs if (row := usable(sigma, label))]
        if seconds:
            notes.extend(note for row in (first, *seconds) for note in row.notes)
            notes.extend(note for row in seconds if (note := _other_seeds(sigma, first, row)))
            yield from ((sigma, first, row) for row in seconds)


def _other_seeds(sigma: float, a: Row, b: Row) -> str:
    """A sentence where two rows of runs are means over different seeds."""
    x, y = ({int(seed.seed) for seed in row.seeds if seed.outcomes is not None and a.unit == "seed"} for row in (a, b))
    if x == y:
        return ""
    first, second, same = (", ".join(map(str, sorted(seeds))) for seeds in (x, y, x & y))
    how = f"--seeds {same.replace(' ', '')}{',' * (len(x & y) == 1)} compares equal seeds" if same else "they share no seed"
    return f"at sigma {sigma:g} {a.label} is a mean over seed {first}, {b.label} over seed {second}; {how}"


def _begun(row: Row) -> bool:
    return any(seed.state != "missing" for seed in row.seeds)
