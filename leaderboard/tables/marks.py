"""Which numbers of a table are marked: what cannot be told from the best, what the paper marks, or none."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.errors import BenchError, nearest
from leaderboard.aggregate import Group, Section
from leaderboard.flips import DRAWN, LEAST_DIFFERING, LEVEL, differing, flip_pairs, reason_not_to_test, require_same_images
from leaderboard.metrics import ACR

MARKS = ("test", "paper", "none")
TIED = (
    f"the ACR cannot be told from the best of its sigma at {LEVEL:g}, by sign flips over test images (max-T over all pairs of the rows "
    f"shown, {DRAWN}), which speaks of these networks on other images, not of methods"
)


def with_marks(group: Group, marks: str) -> Group:
    """The group with the marks asked for.

    Args:
        marks: `test`: see `mark_ties`; `paper`: better than the baseline and best, as the paper marks them, without a test; `none`.

    Raises:
        BenchError: another word; as `mark_ties`.
    """
    if marks not in MARKS:
        raise BenchError(f"marks {marks!r} is unknown{nearest(marks, MARKS)}")
    return group if marks == "paper" else dataclasses.replace(mark_ties(group) if marks == "test" else group, ranked=False)


def mark_ties(group: Group) -> Group:
    """The group with `tied` set for the finished rows of each section, and `ties` saying how they were tested, or why they were not.

    Raises:
        BenchError: rows of different images.
    """
    if reason := _nothing_to_test(group):
        return dataclasses.replace(group, ties=_untested(reason))
    sections, untested = [_marked(section) for section in group.sections], dict[str, list[str]]()
    for section, reason in sections:
        if reason:
            untested.setdefault(reason, []).append(f"{section.sigma:g}")
    reasons = [f"at sigma {', '.join(sigmas)}: {reason}" for reason, sigmas in untested.items()]
    if any(row.tied is not None for section, _ in sections for row in section.rows):
        told = "; not tested ".join([TIED, *reasons]) + "."
    else:
        told = _untested("; ".join(untested if len(untested) == 1 else reasons))
    return dataclasses.replace(group, sections=tuple(section for section, _ in sections), ties=told)


def _untested(reason: str) -> str:
    return f"Nothing is marked: not tested ({reason})."


def _nothing_to_test(group: Group) -> str:
    if group.mixed:
        return "rows of a mixture are not comparable"
    if all(metric.name != ACR for metric in group.metrics):
        return "there is no column ACR"
    return f"ACRs are not compared under {group.rule.name}" if group.rule and group.rule.acr != "ranked" else ""


def _marked(section: Section) -> tuple[Section, str]:
    """The section with its ties, and why it was not tested; empty where it was."""
    found = [row for row in section.rows if row.finished and not row.constant]
    if len(found) < 2:
        return section, "one finished row" if found else "no finished row"
    require_same_images(found)
    values = np.stack([row.values for row in found])  # B I
    if reason := reason_not_to_test(values):
        return section, reason
    best = int(values.mean(axis=1).argmax())
    apart = (flip_pairs(values)[best] <= LEVEL) & (differing(values, values[best]) >= LEAST_DIFFERING)
    tied = {row.label: not far for row, far in zip(found, apart.tolist(), strict=True)}
    return dataclasses.replace(section, rows=tuple(dataclasses.replace(row, tied=tied.get(row.label)) for row in section.rows)), ""
