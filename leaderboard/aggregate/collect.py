"""One call from a store to its groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from bench import rules
from bench.errors import BenchError
from bench.files.walk import Walk
from bench.logs import read_imports
from bench.rules.bounds import check_alpha
from bench.store.runs import Store
from leaderboard.aggregate.foreign import groups_of_checkpoints, read_checkpoints
from leaderboard.aggregate.groups import Group, Source
from leaderboard.aggregate.imported import groups_of_logs
from leaderboard.aggregate.mix import mixed
from leaderboard.aggregate.runs import Reading, groups_of_runs, read_runs
from leaderboard.aggregate.select import EVERYTHING, Filters
from leaderboard.metrics import DEFAULT

ALPHA = 0.001
NAMES: Mapping[Source, str] = {"checkpoints": "certified checkpoints", "imported": "imported logs", "runs": "runs of its own"}
MISSING: Mapping[Source, str] = {
    "checkpoints": "certified checkpoints in {root}; `bench certify` makes some",
    "imported": "imported logs in {root}; `bench import` reads some",
    "runs": "runs in {root}; `bench run` makes some",
}
NO_SUCH_FILTERS = "imported logs have no protocol, recipe or seeds; leave out --protocol, --recipe and --seeds"


def collect(
    store: Store,
    filters: Filters = EVERYTHING,
    *,
    alpha: float | None = None,
    rule: str | None = None,
    source: Source | None = None,
    metrics: Sequence[str] = DEFAULT,
    mix: bool = False,
) -> tuple[Group, ...]:
    """Reads a store into groups, one table each.

    Args:
        alpha: chance that a certificate is wrong, in (0, 1/2), 0.001 if None; imported logs have one of their own, which is fixed.
        rule: that reads counts; None: of each certification, the one under which it was sampled.
        source: own runs, imported logs or checkpoints from outside; None: all of them, in groups of their own.
        metrics: words of `metrics.columns_of`.
        mix: rows of several groups share a table, and a row may average trainings from several sources of its method; each
            difference is a note.

    Raises:
        UsageError: a filter that fits nothing in the store.
        BenchError: an empty store, alpha out of range, an unknown metric or rule; nothing that can be read so.

    What is damaged, and what cannot be read so, is left out and named in the notes of every group; a row with damaged evidence shows no
    mean.
    """
    try:
        check_alpha(ALPHA if alpha is None else alpha)
        default = rule is None or rules.named(rule).name == rules.DEFAULT
    except ValueError as error:
        raise BenchError(str(error)) from None
    walked = store.walk()
    runs, damaged = read_runs(store, walked) if source in (None, "runs") else ([], [str(fault) for fault in walked.faults])
    logs, damaged_logs = read_imports(store.root, walked) if source in (None, "imported") else ([], [])
    checkpoints, damaged_checkpoints = read_checkpoints(store, walked) if source in (None, "checkpoints") else ([], [])
    every = [*damaged, *damaged_logs, *damaged_checkpoints]
    if (logs or checkpoints) and (filters.protocols or filters.recipes or filters.seeds):
        if not runs:
            raise BenchError(NO_SUCH_FILTERS if logs else NO_SUCH_FILTERS.replace(NAMES["imported"], NAMES["checkpoints"]))
        logs, checkpoints = [], []
    if not runs and not logs and not checkpoints:
        if every:
            what = "run" if damaged else "imported log" if damaged_logs else "certified checkpoint"
            raise BenchError(f"every {what} in {store.root} is damaged: {every[0]}")
        raise BenchError(f"there are no {MISSING[source or 'runs'].format(root=store.root)}")
    chosen_runs, chosen_logs, chosen_checkpoints = filters.apply(runs, logs, checkpoints)
    wanted = {run.spec.key for run in chosen_runs}
    reading = Reading(ALPHA if alpha is None else alpha, rule)
    groups, unread = groups_of_runs(runs, wanted, filters.seeds, reading, metrics, mix)
    if chosen_logs and not default:
        unread.append(f"left out: imported logs: they hold no counts that rule {rule} could read")
    else:
        groups += groups_of_logs(chosen_logs, metrics, alpha, unread)
    more, unread_too = groups_of_checkpoints(chosen_checkpoints, reading, metrics)
    groups += more
    unread += unread_too
    if unread and not groups:
        raise BenchError(f"nothing in {store.root} can be read so: {'; '.join(unread)}")
    notes = (*unread, *(f"left out, because it is damaged: {reason}" for reason in every), *unexpected_notes(walked))
    return finished(groups, notes, mix)


def finished(groups: Sequence[Group], notes: Sequence[str], mix: bool) -> tuple[Group, ...]:
    """The groups with notes that concern all of them; as one group per data set if they are to be mixed."""
    noted = [dataclasses.replace(group, notes=(*group.notes, *notes)) for group in groups]
    return tuple(mixed(noted) if mix else noted)


def unexpected_notes(walked: Walk) -> tuple[str, ...]:
    """A sentence on the files that the suite did not write, if there are any."""
    if not (found := walked.unexpected):
        return ()
    more = f", and {len(found) - 1} more; `bench verify` lists them" if len(found) > 1 else ""
    return (f"unexpected: {found[0]}{more}",)


def require_one_source(store: Store, groups: Sequence[Group], and_so: str = "") -> None:
    """BenchError where groups come from several sources; `and_so` says what that hinders."""
    if len(sources := sorted({group.source for group in groups})) > 1:
        held = " and ".join(NAMES[source] for source in sources if source != "both")
        raise BenchError(f"{store.root} holds {held}{and_so}; say {' or '.join(f'--from {source}' for source in sources)}")
