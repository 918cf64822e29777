"""Rows that another certification of the same run already holds, so that they are not counted again.

The counts of an image depend on the image, the seed and how it is sampled, not on which other images are certified. So a
certification of more images begins with what an earlier one of fewer images found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bench.errors import BenchError, counted
from bench.evidence.certificate import Certificate
from bench.evidence.rows import seconds_of
from bench.evidence.sources import differs
from bench.store.subject import Certification


def take_over(
    certification: Certification, weights_sha256: str, now: Mapping[str, Any], todo: Collection[int], say: Callable[[str], None]
) -> tuple[dict[int, tuple[Certificate, float]], list[dict[str, Any]]]:
    """Rows of other certifications of the run that are sampled alike. They are only read, under the checks that every reader makes.

    Args:
        now: what this certification is made with; rows that were counted on other test images are not taken.
        todo: images that are still to be counted.
        say: told of every certification that rows are taken from, and of one that is damaged.

    Returns:
        image -> its row and the seconds that it took; and what the rows were made with, where it is recorded and not as now.
    """
    rows: dict[int, tuple[Certificate, float]] = {}
    environments: list[dict[str, Any]] = []
    wanted = certification.spec
    for other in certification.subject.certifications():
        alike = dataclasses.replace(other.spec, images=wanted.images, changes=wanted.changes) == wanted
        if not alike or other.path == certification.path:
            continue
        try:
            found = [row for row in _rows(other, weights_sha256) if row.index in todo and row.index not in rows]
            before = other.environment() or {}
        except BenchError as error:
            say(f"nothing is taken over from {other.path.name}, which is damaged: {error}")
            continue
        if found and not differs(before, now, "data_md5"):
            seconds = seconds_of(other.path / "times.csv")
            rows |= {row.index: (row, seconds.get(row.index, 0.0)) for row in found}
            entries = [*before.get("history", []), {name: value for name, value in before.items() if name != "history"}]
            environments += [entry for entry in entries if entry and entry != now]
            say(f"{len(found):,} of {counted(len(certification.expected()), 'image', ',')} taken over from {other.path.name}")
    return rows, environments


def _rows(certification: Certification, weights_sha256: str) -> list[Certificate]:
    """Its finished rows.

    Raises:
        BenchError: a damaged record or row; rows of other weights.
    """
    if faults := certification.faults():
        raise faults[0]
    rows = certification.rows()
    if rows:
        dataclasses.replace(certification.binding(), weights_sha256=weights_sha256).read(certification.path)
    return rows
