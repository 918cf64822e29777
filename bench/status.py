"""Where every cell of a results folder stands, from any shell: what is on disk, who is at it, and what `bench run` has in hand."""

from __future__ import annotations

import shlex
from pathlib import Path

from bench import announce, claims
from bench.listing import COLUMNS, Listing, Row
from bench.store import DEFAULT_ROOT, Store

UNFINISHED = ("missing", "training", "certifying", "failed")


def standings(store: Store) -> list[Row]:
    """The rows of `Listing`, and one for every cell that is planned and not begun, with the state that a person asks for.

    done; running (with `phase`, `done`, `total`, `left`: seconds of the phase); queued: a `bench run` that lives will come to it;
    failed, oom, diverged, damaged (`reason`, `log`); interrupted: nobody is at it; stale: somebody seems to be, but was not heard of.
    `retry` is the line that continues a cell or tries it again.
    """
    planned: dict[str, tuple[announce.Planned, bool]] = {}
    for matrix in announce.matrices(store.root):
        for cell in matrix.cells:
            if matrix.alive or cell.folder not in planned:
                planned[cell.folder] = (cell, matrix.alive)
    rows = []
    for row in Listing(store).rows():
        found = planned.pop(Path(row["path"]).relative_to(store.root).as_posix(), None)
        rows.append(_standing(store, row, *(found or (None, False))))
    blank = dict.fromkeys(COLUMNS, "") | {
        "state": "missing",
        "images certified": "none",
        "reason": None,
        "kind": "",
        "log": "",
        "epochs": 0,
    }
    for cell, alive in planned.values():
        rows.append(_standing(store, blank | cell.names | {"path": str(store.root / cell.folder)}, cell, alive))
    return rows


def _standing(store: Store, row: Row, cell: announce.Planned | None, alive: bool) -> Row:
    more = cell is not None and cell.certification not in row.get("certifications", {})  # planned beyond what is on disk
    row = row | {"holder": None, "retry": None}
    if row["state"] in UNFINISHED or (row["state"] == "done" and more):
        holder = claims.holder(Path(row["path"]))
        if holder and not holder.stale:
            at_work = {"phase": holder.phase, "done": holder.done, "total": holder.total, "left": holder.left}
            return row | {"state": "running", "reason": None, "holder": str(holder)} | at_work
        if holder and not holder.dead:
            row |= {"state": "stale", "holder": str(holder), "reason": f"{holder} was last heard of {holder.age:.0f} s ago"}
        elif row["state"] == "failed":
            row |= {"state": "oom" if row["kind"] == "oom" else "failed"}
        elif alive:
            row |= {"state": "queued", "reason": None}
        else:
            begun = "not begun; its `bench run` ended" if row["state"] == "missing" or more else "nobody is at it"
            row |= {"state": "interrupted", "reason": f"{holder} is gone" if holder else begun}
    if row["state"] not in ("done", "queued"):
        row["retry"] = _retry(store, row, cell)
    return row


def _retry(store: Store, row: Row, cell: announce.Planned | None) -> str | None:
    words = cell.words if cell else next(iter(row.get("lines", {}).values()), None)
    if words is None:
        return None  # a damaged run does not say what it was
    line = f"bench run {words}"
    if cell and cell.plugin:
        line += f" --plugin {shlex.quote(cell.plugin)}"
    if store.root != DEFAULT_ROOT:
        line += f" --results {shlex.quote(str(store.root))}"
    return line + (" --rerun diverged" if row["state"] == "diverged" else "")
