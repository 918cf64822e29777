"""Several groups in one table, each difference named. Nothing is ranked in such a table."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bench.rules.rule import drawn_words
from leaderboard.aggregate.groups import Group, Row, Section
from leaderboard.metrics import Metric

WORDS = {
    "certify.n0": "n0",
    "certify.n": "n",
    "certify.images": "test images",
    "certify.seed": "sampling seed",
    "certify.rule": "bound",
    "certify.precision": "precision of the certification",
    "train.images": "training images",
    "train.precision": "precision of the training",
    "rounding": "radii",
}


def mixed(groups: Sequence[Group]) -> list[Group]:
    """One group per data set; where groups come together, every row says in what it differs from the others."""
    by_dataset: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_dataset[group.dataset].append(group)
    return [same[0] if len(same) == 1 else _merge(same) for same in by_dataset.values()]


def say(conditions: Mapping[str, Any]) -> str:
    """`protocol quick, n = 1,000`."""

    def one(name: str, value: Any) -> str:
        shown = "none" if value in ("", None) else f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        return f"{WORDS.get(name, name.removeprefix('train.'))} = {shown}"

    return ", ".join(one(name, value) for name, value in conditions.items())


def _merge(groups: Sequence[Group]) -> Group:
    names = dict.fromkeys(name for group in groups for name in group.conditions)
    absent = object()
    values = {name: [group.conditions.get(name, absent) for group in groups] for name in names}
    shared = {name: found[0] for name, found in values.items() if all(value == found[0] for value in found)}
    sizes = {(group.images, group.test_size) for group in groups}

    def own(group: Group) -> dict[str, Any]:
        rest = {name: value for name, value in group.conditions.items() if name not in shared}
        return rest if len(sizes) == 1 else rest | {"image count": group.images}

    def take(row: Row, group: Group, number: int) -> Row:
        conditions = own(group)
        few = drawn_words(group.conditions["certify.n"], row.drawn) if "certify.n" in group.conditions else ""
        note = "; ".join([f"group {number}: {say(conditions)}", *([f"n{few}"] if few else []), *group.notes])
        return dataclasses.replace(row, conditions=conditions, notes=(note, *row.notes))

    rows: dict[float, list[Row]] = defaultdict(list)
    for number, group in enumerate(groups, start=1):
        for section in group.sections:
            rows[section.sigma] += [take(row, group, number) for row in section.rows]
    metrics: dict[str, Metric] = {metric.name: metric for group in groups for metric in group.metrics}
    sources = {group.source for group in groups}
    return Group(
        dataset=groups[0].dataset,
        source=groups[0].source if len(sources) == 1 else "both",
        conditions=shared,
        images=groups[0].images if len(sizes) == 1 else 0,
        test_size=groups[0].test_size,
        seeds=groups[0].seeds if len({group.seeds for group in groups}) == 1 else (),
        baseline=groups[0].baseline,
        metrics=tuple(metrics.values()),
        sections=tuple(Section(sigma=sigma, rows=tuple(found)) for sigma, found in sorted(rows.items())),
        mixed=True,
        notes=(f"A mixture of {len(groups)} groups of rows that are not comparable, so nothing is ranked; each row names its own group.",),
    )
