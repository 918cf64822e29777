"""One image of one certification, from the counts of its noisy copies to its share of a table's numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from bench.cli.common import say, say_long
from bench.errors import BenchError, counted, nearest

if TYPE_CHECKING:
    from bench.rules.rule import Rule
    from bench.store.subject import Certification, Subject

SHOWN_CLASSES = 10


def trace(subject: Subject, image: int, key: str | None, alpha: float | None, rule: str | None) -> list[dict[str, Any]]:
    """What each certification of a subject says of a test image, as JSON.

    Args:
        key: the beginning of the key of one certification; None: all that have the image.
        alpha, rule: how the counts are read; None: as the certification was made to be.

    Raises:
        BenchError: no such certification or image, evidence that is damaged, or a rule that does not read such counts.
    """
    from bench.store.subject import Certification

    if faults := subject.faults():
        raise faults[0]
    begun = [found for found in subject.begun() if isinstance(found, Certification)]
    chosen = [found for found in begun if found.spec.key.startswith(key or "")]
    if not chosen:
        raise BenchError(f"{subject.path} has no certification {key or ''}{nearest(key or '', [found.spec.key for found in begun])}")
    having = [found for found in chosen if image in found.expected()]
    if not having:
        told = ", ".join(dict.fromkeys(f"{found.spec.images} of {subject.info.test_size:,}" for found in chosen))
        close = min((index for found in chosen for index in found.expected()), key=lambda index: abs(index - image))
        raise BenchError(f"--image {image} was not certified; the certified test images are {told}, the nearest is {close}")
    return [_traced(found, image, alpha, rule) for found in having]


def _traced(certification: Certification, image: int, alpha: float | None, wanted: str | None) -> dict[str, Any]:
    import numpy as np

    from bench import rules
    from bench.evidence.columns import Columns
    from bench.files import disk

    certification.status().sound()
    row = next((row for row in certification.rows() if row.index == image), None)
    if row is None:
        raise BenchError(f"image {image} is not certified yet in {certification.path}; run the command that made it again to resume")
    rule, sigma = rules.of(certification.spec, wanted), certification.subject.sigma
    alpha = rule.alpha if alpha is None else alpha
    rule.check(alpha)
    text = disk.read(certification.evidence).decode()
    lines = [number for number, line in enumerate(text.splitlines(), 1) if re.search(rf'"index":{image}[,}}]', line)]
    found: dict[str, Any] = {"certification": certification.spec.key, "file": str(certification.evidence), "line": lines[-1]}
    found |= {"image": image, "label": row.label, "selected": row.selected, "n0": row.n0, "n": row.n, "count": row.count}
    found |= {"selection": dict(row.selection), "estimation": dict(row.estimation), "sigma": sigma, "alpha": alpha, "rule": rule.name}
    bound = radius = None
    formula = ""
    if row.n:
        counts = Columns.of([row]).counts
        bound = None if rule.takes_radii else float(rule.bounds(counts, alpha)[0])
        radius = float(rule.radii(counts, alpha, sigma)[0])
        radius = None if np.isnan(radius) else radius
        formula = "" if radius is None else rule.formula(counts, alpha, sigma)
    right = row.selected == row.label and radius is not None
    images = len(certification.expected())
    adds = None if rule.acr == "none" else radius if right else 0.0
    found |= {"bound": bound, "radius": radius, "formula": formula}
    return found | {"correct": right, "adds": adds, "images": images}


def say_trace(subject: Subject, found: dict[str, Any]) -> None:
    """The same in sentences."""
    from bench import rules

    rule = rules.named(found["rule"])
    alpha, bound, radius = found["alpha"], found["bound"], found["radius"]
    say_long(f"test image {found['image']} of {subject.dataset}, label {found['label']}")
    say(f"   evidence: {found['file']}, line {found['line']}")
    say_long(
        f"1. selection: of {_samples(found['n0'])}, {_votes(found['selection'])}; "
        f"so the selected class is {found['selected']}, which is {'' if found['selected'] == found['label'] else 'not '}the label"
    )
    if not found["n"]:
        say_long("2. estimation: skipped, since the selected class is wrong (--skip-misclassified)")
    else:
        say_long(f"2. estimation: of {found['n']:,} further ones, {_votes(found['estimation'])}")
        gives = "none, only whether each given radius is certified, from" if bound is None else f"pA >= {bound:.6f}, from"
        say_long(f"3. bound: {gives} {found['count']:,} of {found['n']:,} ({rule.words()}, alpha {alpha:g})")
        say_long(f"4. radius: {_radius(rule, found['formula'], radius)}")
    if found["adds"] is None:
        say_long(f"5. table: {rule.acr_note}")
    else:
        total = f"the sum over {counted(found['images'], 'image', ',')}, divided by {found['images']:,}, is the ACR"
        say_long(f"5. table: it adds {found['adds']:.4f}; {total} of this run (a table has the mean over seeds)")
    if found["correct"]:
        say_long(f"   it counts as certified at every r {'up to' if rule.takes_radii else 'below'} this radius")


def _radius(rule: type[Rule], formula: str, radius: float | None) -> str:
    from bench.rules.rule import Rule

    if radius is None:
        return f"none, abstain{': the bound is not above 1/2' if rule.radii is Rule.radii else ''}"
    return f"{formula} = {radius:.6f}" if formula else f"{radius:.6f}"


def _samples(n: int) -> str:
    return counted(n, "noisy copy", ",")


def _votes(counts: dict[int, int]) -> str:
    """`99,950 fell on class 9, 50 on class 7`, the most first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {'fell ' if not place else ''}on class {c}" for place, (c, count) in enumerate(ordered[:SHOWN_CLASSES])]
    rest = sum(count for _, count in ordered[SHOWN_CLASSES:])
    return ", ".join([*parts, *([f"{rest:,} on others"] if rest else [])])
