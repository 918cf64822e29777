"""The constant classifier as a row: what its ACR shows, a method has not earned."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench import rules
from bench.errors import BenchError
from bench.evidence.columns import Columns
from bench.spec import CertifySpec
from leaderboard.aggregate.groups import Group, Row, Section, Seed
from leaderboard.metrics import Outcomes, outcomes

NAME = "(constant classifier)"


def with_constant(group: Group) -> Group:
    """The group with a row at the end of each section for a classifier that says the commonest class everywhere.

    All its n samples agree, so it has the largest radius of the rule on every image of that class, and no image is without a certificate.
    Where no row is finished, nothing tells the labels, which a note says instead.

    Raises:
        BenchError: a mixed group, whose rows differ in n.
    """
    if group.mixed:
        raise BenchError("rows of a mixture differ in n, so there is no one constant classifier; leave out --mix or --constant")
    known = next((o for row in group.rows for o in row.outcomes), None)
    if known is None:
        return dataclasses.replace(group, notes=(*group.notes, "no constant classifier, because no row is finished to tell the labels"))
    return dataclasses.replace(group, sections=tuple(dataclasses.replace(s, rows=(*s.rows, _row(group, s, known))) for s in group.sections))


def _row(group: Group, section: Section, known: Outcomes) -> Row:
    classes, counts = np.unique(known.label, return_counts=True)
    commonest = int(classes[counts.argmax()])
    rule = group.rule or rules.named(rules.DEFAULT)  # under which the published logs were certified
    said = {name.removeprefix("certify."): value for name, value in group.conditions.items() if name.startswith("certify.")}
    spec = CertifySpec(**said | {"rule": rule.stored_as})
    images, share = known.index.size, counts.max() / known.index.size
    certified = {"selected": commonest, "majority": commonest, "highest": classes[-1], "count": spec.n, "runner_up": 0}
    columns = Columns(
        index=known.index.astype(np.int32),
        label=known.label.astype(np.int32),
        **{name: np.full(images, value, np.int32) for name, value in (certified | {"n0": spec.n0, "n": spec.n}).items()},
    )
    found = outcomes(columns, group.conditions["alpha"], section.sigma, spec, rule.name)
    found = dataclasses.replace(found, samples=None, drawn=None, dimension=known.dimension)
    note = f"class {commonest} everywhere, without a network: right on {share:.2%} of the images, "
    note += f"each with the largest radius, {found.radius[0]:.4f} at sigma {section.sigma:g}; it takes part in no ranking"
    seeds = (Seed(seed="computed", state="done", outcomes=found),)
    return Row(name=NAME, method="", seeds=seeds, images=group.images, unit="", constant=True, notes=(note,)).measured(group.metrics)
