"""Which rows of a table cannot be told from the best of them: a test of all pairs of rows across test images.

Each pair's summed difference of radius * correct is divided by the root of its sum of squares, which orders as Student's t does. The
largest of these over all pairs is compared with what it is when every image's differences get a random sign, one for all pairs: single-step
max-T (Westfall and Young, "Resampling-Based Multiple Testing", 1993). All pairs count, because the same images choose the best row. For
two rows that may be exchanged within images it is exact; for several it holds as far as differences average out over images.

It speaks of these networks on other images, not of methods: of those only more trainings tell.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.errors import BenchError, nearest
from bench.spec import derive
from leaderboard.aggregate import Group, Section
from leaderboard.compare.statistics import CHUNK, LEVEL, TIE, Evidence, Floats, require_same_images

MARKS = ("paper", "test", "none")
FLIPS = 9_999
SEED = 0
LEAST_IMAGES = 500
"""Fewer images are not tested; where most of them tie, nor are fewer that differ: few skewed differences reject too often."""

TIED = (
    f"ACR not separable from the best of the sigma at {LEVEL:g} (sign flips over test images, max-T over all pairs of rows; {FLIPS:,} "
    f"flips, seed {SEED}); it speaks of these networks on other images, not of methods."
)


def pair_tests(values: Floats, flips: int = FLIPS, seed: int = SEED) -> Floats:
    """p of each pair of rows, corrected for all pairs: B B, symmetric.

    Args:
        values: B I, contributions to the ACR of B rows, at least 2, on I images, in pixels of [0, 1], averaged over seeds first.
        flips: random signs of all images besides those that were observed; no p is below 1 / (flips + 1). seed: decides them.
    """
    rows, images = values.shape
    centred = values - values.mean(axis=0)  # what all rows share cancels in every difference, and would only cost digits
    first, second = np.triu_indices(rows, 1)
    square = np.array([np.square(centred[a] - centred[b]).sum() for a, b in zip(first, second, strict=True)])
    root = np.sqrt(np.where(square > images * TIE**2, square, np.inf))  # rows that are equal differ by 0
    total = centred.sum(axis=1)
    seen = np.abs(total[first] - total[second]) / root
    rng = np.random.default_rng(derive(seed, "flips", images))
    exceeded = np.ones(len(seen))
    step = max(1, CHUNK // images)
    for start in range(0, flips, step):
        drawn = rng.integers(0, 256, (min(step, flips - start), -(-images // 8)), dtype=np.uint8)
        signs = 2.0 * np.unpackbits(drawn, axis=1, count=images) - 1
        flipped = signs @ centred.T
        largest = (np.abs(flipped[:, first] - flipped[:, second]) / root).max(axis=1)
        exceeded += (largest[:, None] >= seen - 1e-9).sum(axis=0)
    p = np.ones((rows, rows))
    p[first, second] = p[second, first] = exceeded / (flips + 1)
    return p


def reason_not_to_test(values: Floats) -> str:
    """Why so many images that differ so seldom say too little; empty where they are tested.

    Args:
        values: as of `pair_tests`.
    """
    rows, images = values.shape
    if images < LEAST_IMAGES:
        return f"{images} images; at least {LEAST_IMAGES} are needed"
    first, second = np.triu_indices(rows, 1)
    differ = np.mean([np.count_nonzero(np.abs(values[a] - values[b]) > TIE) for a, b in zip(first, second, strict=True)])
    if differ < min(images / 2, LEAST_IMAGES):
        return f"two rows differ on {differ:.0f} of {images:,} images on average; at least {LEAST_IMAGES} are needed where most tie"
    return ""


def with_marks(group: Group, marks: str) -> Group:
    """The group with the marks asked for.

    Args:
        marks: `paper`: better than the baseline and best, as the paper marks them, without a test; `test`: see `mark_ties`; `none`.

    Raises:
        BenchError: another word; as `mark_ties`.
    """
    if marks not in MARKS:
        raise BenchError(f"marks {marks!r} is unknown{nearest(marks, MARKS)}")
    return group if marks == "paper" else dataclasses.replace(mark_ties(group) if marks == "test" else group, ranked=False)


def mark_ties(group: Group) -> Group:
    """The group with `tied` set for the finished rows of each section, and `ties` saying how they were tested, or why they were not.

    Under a rule whose ACR is not ranked nothing is set.

    Raises:
        BenchError: a mixed group, whose rows are not ranked; rows of different images.
    """
    if group.mixed:
        raise BenchError("rows of a mixture are not ranked, so there are no ties to mark; leave out --mix or --marks test")
    if group.rule and group.rule.acr != "ranked":
        return group  # its notes say why
    sections, untested = [_marked(section) for section in group.sections], dict[str, list[str]]()
    for section, reason in sections:
        if reason:
            untested.setdefault(reason, []).append(f"{section.sigma:g}")
    tested = any(row.tied is not None for section, _ in sections for row in section.rows)
    told = [TIED] if tested else []
    for reason, sigmas in untested.items():
        where = f" at sigma {', '.join(sigmas)}" if tested or len(untested) > 1 else ""
        told.append(f"{'Not' if told else 'not'} tested{where} ({reason}).")
    return dataclasses.replace(group, sections=tuple(section for section, _ in sections), ties=" ".join(told))


def _marked(section: Section) -> tuple[Section, str]:
    """The section with its ties, and why it was not tested; empty where it was, and where there is nothing to compare."""
    found = [Evidence.of(row) for row in section.rows if row.finished and not row.constant]
    if len(found) < 2:
        return section, ""
    require_same_images(found)
    values = np.stack([row.values.mean(axis=0) for row in found])
    if reason := reason_not_to_test(values):
        return section, reason
    apart = pair_tests(values)[int(values.mean(axis=1).argmax())] <= LEVEL
    tied = {row.label: not far for row, far in zip(found, apart.tolist(), strict=True)}
    return dataclasses.replace(section, rows=tuple(dataclasses.replace(row, tied=tied.get(row.label)) for row in section.rows)), ""
