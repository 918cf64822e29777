"""One call from a store to its groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench.bounds import check_alpha
from bench.errors import BenchError
from bench.imported import imports
from bench.store import Store
from leaderboard.aggregate.groups import Group, Source
from leaderboard.aggregate.imported import groups_of_logs
from leaderboard.aggregate.mix import mixed
from leaderboard.aggregate.runs import groups_of_runs, read_runs
from leaderboard.aggregate.select import EVERYTHING, Filters
from leaderboard.metrics import DEFAULT

ALPHA = 0.001
NO_SUCH_FILTERS = "imported logs have no protocol, recipe or seeds; leave out --protocol, --recipe and --seeds"


def collect(
    store: Store,
    filters: Filters = EVERYTHING,
    *,
    alpha: float | None = None,
    source: Source | None = None,
    metrics: Sequence[str] = DEFAULT,
    mix: bool = False,
) -> tuple[Group, ...]:
    """Reads a store into groups, one table each.

    Args:
        alpha: chance that a certificate is wrong, in (0, 1/2), 0.001 if None; imported logs have one of their own, which is fixed.
        source: own runs or imported logs; None: both, in groups of their own.
        metrics: words of `metrics.columns_of`.
        mix: rows of several groups share a table, and a row may average trainings from several sources of its method; each
            difference is a note.

    Raises:
        UsageError: a filter that fits nothing in the store.
        BenchError: an empty store, a run in two folders, alpha out of range, an unknown metric.

    A damaged run is left out and named in the notes of every group; a row with damaged evidence shows no mean.
    """
    try:
        check_alpha(ALPHA if alpha is None else alpha)
    except ValueError as error:
        raise BenchError(str(error)) from None
    runs, damaged = read_runs(store) if source != "imported" else ([], [])
    logs = list(imports(store.root)) if source != "runs" else []
    if logs and (filters.protocols or filters.recipes or filters.seeds):
        if not runs:
            raise BenchError(NO_SUCH_FILTERS)
        logs = []
    if not runs and damaged and not logs:
        raise BenchError(f"every run in {store.root} is damaged: {damaged[0]}")
    if not runs and not logs:
        what = "imported logs" if source == "imported" else "runs"
        way = "bench import` reads" if source == "imported" else "bench run` makes"
        raise BenchError(f"there are no {what} in {store.root}; `{way} some")
    chosen_runs, chosen_logs = filters.apply(runs, logs)
    wanted = {run.spec.key for run in chosen_runs}
    groups = groups_of_runs(runs, wanted, filters.seeds, ALPHA if alpha is None else alpha, metrics, mix)
    groups += groups_of_logs(chosen_logs, metrics, alpha)
    notes = tuple(f"left out, because it is damaged: {reason}" for reason in damaged)
    groups = [dataclasses.replace(group, notes=group.notes + notes) for group in groups]
    return tuple(mixed(groups) if mix else groups)
