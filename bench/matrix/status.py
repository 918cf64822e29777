"""Where every cell of a results folder stands, from any shell: what is on disk, who is at it, and what `bench run` has in hand."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bench.files import claims
from bench.matrix import report, slurm_queue
from bench.store.listing import COLUMNS, ORDER, Listing, Row, others
from bench.store.runs import Store, checkpoints
from bench.store.subject import Source

Alive = Literal["yes", "no", "unknown"]
UNFINISHED = ("missing", "training", "certifying", "failed")


def standings(store: Store) -> list[Row]:
    """The rows of `Listing`, and one for every cell that is planned and not begun, with the state that a person asks for.

    done; running (with `phase`, `done`, `total`, `left`: seconds of the phase); queued: a `bench run` that lives or a
    job will come to it;
    failed, oom, diverged, damaged (`reason`, `log`); interrupted: no process works on it; stale: one seems to, but was not heard of.
    `retry` is the line that continues a cell or tries it again.
    """
    planned, now = in_hand(store), claims.present(store.root)
    rows = []
    for row in Listing(store).rows():
        found = planned.pop(Path(row["path"]).relative_to(store.root).as_posix(), None)
        rows.append(_standing(store, now, row, *(found or (None, "no"))))
    blank = dict.fromkeys((*COLUMNS, "kind", "log"), "") | {"state": "missing", "images certified": "none", "reason": None, "epochs": 0}
    for cell, alive in planned.values():
        rows.append(_standing(store, now, blank | cell.names | {"path": str(store.root / cell.folder)}, cell, alive))
    return rows


def of_others(store: Store, source: Source) -> list[Row]:
    """The certifications of checkpoints, or imported logs, in the fields of `standings` besides their own; no line continues them."""
    blank = dict.fromkeys((*COLUMNS, "kind", "log"), "") | {"retry": None, "job": None}
    return [blank | row for row in others(store, source, store.walked)]


def in_hand(store: Store) -> dict[str, tuple[report.Planned, Alive]]:
    """By folder: every cell that was announced, and whether somebody will come to it."""
    matrices = report.matrices(store.root)
    jobs = slurm_queue.alive({cell.job for matrix in matrices for cell in matrix.cells} - {""})
    found: dict[str, tuple[report.Planned, Alive]] = {}
    for matrix in matrices:
        for cell in matrix.cells:
            alive: Alive = "yes" if matrix.alive else "no"
            if cell.job:
                alive = "unknown" if jobs is None else "yes" if cell.job in jobs else "no"
            if alive != "no" or cell.folder not in found:
                found[cell.folder] = (cell, alive)
    return found


def _standing(store: Store, now: float, row: Row, cell: report.Planned | None, alive: Alive) -> Row:
    more = cell is not None and cell.certification not in row.get("certifications", {})  # planned beyond what is on disk
    row = row | {"holder": None, "retry": None, "job": (cell.job if cell else "") or None}
    if row["state"] in UNFINISHED or (row["state"] == "done" and more):
        holder = claims.holder(Path(row["path"]), now)
        if holder and not holder.stale:
            at_work = {"phase": holder.phase, "done": holder.done, "total": holder.total, "left": holder.left}
            return row | {"state": "running", "reason": None, "holder": str(holder)} | at_work
        if holder and not holder.dead:
            row |= {"state": "stale", "holder": str(holder), "reason": f"{holder} was last heard of {holder.age:.0f} s ago"}
        elif row["state"] == "failed":
            row |= {"state": "oom" if row["kind"] == "oom" else "failed"}
        elif alive != "no":
            unsure = f"its job {row['job']} was submitted; Slurm cannot be asked here" if alive == "unknown" else None
            row |= {"state": "queued", "reason": unsure}
        else:
            row |= {"state": "interrupted", "reason": _left_off(row, more, holder)}
    if row["state"] not in ("done", "queued", "trained"):
        row["retry"] = _retry(store, row, cell)
    return row


def _left_off(row: Row, more: bool, holder: claims.Holder | None) -> str:
    """Where a cell stands that nobody is at. more: a certification of it was planned that is not on disk."""
    gone = f"{holder} is gone" if holder else f"its {'job ' + row['job'] if row['job'] else '`bench run`'} ended"
    if row["state"] == "missing":
        return f"not begun; {gone}"
    if row.get("own") == "training":
        kept = checkpoints(Path(row["path"]))
        return f"training stopped{', and its checkpoint is kept' if kept else ' before its first checkpoint'}; {gone}"
    if more:
        return f"trained, its certification not begun; {gone}"
    return gone if holder else "no process is working on it"


def _retry(store: Store, row: Row, cell: report.Planned | None) -> str | None:
    """The line that continues what is unfinished: the certification that was announced, unless it is done, or that furthest behind."""
    certifications = row.get("certifications", {})
    if cell and certifications.get(cell.certification, ["missing"])[0] == "done":
        cell = None
    behind = min(certifications, key=lambda key: ORDER.index(certifications[key][0]), default="")
    words = f"run {cell.words}" if cell else row.get("lines", {}).get(behind)
    if words is None:
        return None  # a damaged run does not say what it was, and there are certifications that no line asks for
    line = report.line(words, cell.plugins if cell else (), store.root)
    return line + (" --rerun diverged" if row["state"] == "diverged" else "")
