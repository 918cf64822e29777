"""One call from a store to its groups."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from bench.errors import BenchError
from bench.files.walk import Walk
from bench.store.imports import Import
from bench.store.runs import Store
from bench.store.subject import Source
from leaderboard.aggregate.build import groups_of
from leaderboard.aggregate.groups import Group
from leaderboard.aggregate.mix import mixed
from leaderboard.aggregate.reading import Reading
from leaderboard.aggregate.select import EVERYTHING, Filters
from leaderboard.aggregate.where import choose, choose_groups
from leaderboard.metrics import DEFAULT

NAMES: Mapping[Source, str] = {"checkpoints": "certified checkpoints", "imported": "imported logs", "runs": "runs of its own"}
MISSING: Mapping[Source, str] = {
    "checkpoints": "certified checkpoints in {root}; `bench certify` makes some",
    "imported": "imported logs in {root}; `bench import` reads some",
    "runs": "runs in {root}; `bench run` makes some",
}


def no_such_filters(source: Source) -> str:
    """What to say to a filter that only runs have."""
    return f"{NAMES[source]} have no protocol, recipe or seeds; leave out --protocol, --recipe and --seeds"


def check_alpha_of_logs(logs: Sequence[Import], alpha: float | None) -> None:
    """BenchError where another alpha was asked for than that of the logs."""
    own = sorted({log.spec.alpha for log in logs})
    if alpha is not None and logs and own != [alpha]:
        told = ", ".join(map(str, own))
        raise BenchError(f"imported logs were certified at alpha {told}, and --alpha {alpha:g} cannot change that; see --from runs")


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
        mix: rows of several groups share a table, and a row may average trainings of several versions of its method's
            code; each difference is a note.

    Raises:
        UsageError: a filter that fits nothing in the store.
        BenchError: an empty store, alpha out of range, an unknown metric or rule; nothing that can be read so.

    What is damaged, and what cannot be read so, is left out and named in the notes of every group; a row with damaged evidence shows no
    mean.
    """
    reading = Reading.asked(alpha, rule)
    walked = store.walk()
    found, faults = store.read(*([source] if source else ()), walked=walked)
    if filters.of_runs and found:
        runs = [subject for subject in found if subject.source == "runs"]
        if not runs:
            raise BenchError(no_such_filters(found[0].source))
        found = runs
    if not found:
        if faults:
            raise BenchError(f"nothing in {store.root} can be read: {first_of(faults)}")
        raise BenchError(f"there are no {MISSING[source or 'runs'].format(root=store.root)}")
    chosen, rest = choose(filters.apply(found), filters.where)
    check_alpha_of_logs([subject for subject in chosen if isinstance(subject, Import)], alpha)
    groups, unread = groups_of(found, {subject.key for subject in chosen}, filters.seeds, reading, metrics, mix)
    if unread and not groups:
        raise BenchError(f"nothing in {store.root} can be read so: {'; '.join(unread)}")
    groups = choose_groups(groups, rest, chosen)
    notes = (*unread, *left_out((fault.file, str(fault)) for fault in faults), *unexpected_notes(walked))
    return finished(groups, notes, mix)


def finished(groups: Sequence[Group], notes: Sequence[str], mix: bool) -> tuple[Group, ...]:
    """The groups with notes that concern all of them; as one group per data set if they are to be mixed."""
    noted = [dataclasses.replace(group, notes=(*group.notes, *notes)) for group in groups]
    return tuple(mixed(noted) if mix else noted)


def unexpected_notes(walked: Walk) -> tuple[str, ...]:
    """A sentence on the files that the suite did not write, if there are any."""
    return (f"unexpected: {first_of(walked.unexpected)}",) if walked.unexpected else ()


def left_out(told: Iterable[tuple[object, str]]) -> list[str]:
    """A sentence for each reason why files are not read. told: file, and the sentence that begins with it."""
    found: dict[str, list[str]] = defaultdict(list)
    for file, sentence in told:
        found[sentence.removeprefix(str(file))].append(sentence)
    return [f"left out: {first_of(same)}" for same in found.values()]


def first_of(found: Sequence[object]) -> str:
    """The first of several, and how many more there are."""
    return f"{found[0]}" + (f", and {len(found) - 1} more such; `bench verify` lists them" if len(found) > 1 else "")


def require_one_source(store: Store, groups: Sequence[Group], and_so: str = "") -> None:
    """BenchError where groups come from several sources; `and_so` says what that hinders."""
    if len(sources := sorted({group.source for group in groups})) > 1:
        held = " and ".join(NAMES[source] for source in sources if source != "both")
        raise BenchError(f"{store.root} holds {held}{and_so}; say {' or '.join(f'--from {source}' for source in sources)}")
