"""The certifications of foreign base classifiers in a store, and how far each is. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.files import claims
from bench.files.walk import Walk
from bench.store.checkpoints import Subject, scan
from bench.store.runs import Certification, Damaged

COLUMNS = ("row", "file", "data set", "network", "sigma", "images", "n", "state", "images certified")
"""What people see of one."""
STATES = ("done", "running", "unfinished", "damaged")

Row = dict[str, Any]


def rows(root: Path, walked: Walk | None = None) -> list[Row]:
    """One row per certification, by row, data set, sigma and file; one too for a folder that is damaged, or in which none was begun.

    Besides COLUMNS: `key` of the base classifier, `n0`, `normalisation`, `path`, `reason` (of a damaged one) and `holder`. A process claims
    the base classifier, so all of its unfinished certifications are `running` while it is at one of them.

    Args:
        walked: what is in the store, if it is known.
    """
    now = claims.present(root)
    found = [row for item in scan(root, walked) for row in ([_damaged(item)] if isinstance(item, Damaged) else _of_subject(item, now))]
    return sorted(found, key=lambda row: tuple(str(row[name]) for name in ("row", "data set", "sigma", "file", "path")))


def _of_subject(subject: Subject, now: float) -> list[Row]:
    spec = subject.spec
    facts = _blank(subject.path) | {
        "data set": spec.dataset,
        "network": spec.arch,
        "sigma": f"{spec.sigma}",
        "key": spec.key,
        "normalisation": spec.normalization,
    }
    if faults := subject.faults():
        return [facts | {"state": "damaged", "reason": "; ".join(map(str, faults))}]
    origin = subject.origin()
    facts |= {"row": origin.label, "file": origin.name}
    holder = claims.holder(subject.path, now)
    if holder and not holder.stale:
        facts |= {"state": "running", "holder": str(holder)}
    return [facts | _standing(item) for item in subject.begun()] or [facts | {"images certified": "none"}]


def _standing(item: Certification | Damaged) -> Row:
    """What is known of one beside the facts of its base classifier."""
    if isinstance(item, Damaged):
        return {"path": str(item.path), "state": "damaged", "reason": item.reason}
    known: Row = {"path": str(item.path), "images": item.spec.images, "n": item.spec.n, "n0": item.spec.n0}
    try:
        standing, total = item.standing(), len(item.expected())
    except BenchError as error:
        return known | {"state": "damaged", "reason": str(error)}
    known["images certified"] = f"{len(standing.columns)}/{total}"
    return known | ({"state": "done", "holder": None} if standing.state == "done" else {})


def _damaged(item: Damaged) -> Row:
    return _blank(item.path) | {"state": "damaged", "reason": item.reason}


def _blank(path: Path) -> Row:
    hidden = {"key": "", "n0": "", "normalisation": "", "path": str(path), "reason": None, "holder": None}
    return dict.fromkeys(COLUMNS, "") | hidden | {"state": "unfinished"}
