"""From a store to a table of the paper."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.logs import Import, network_of_table, printed_collection, runs_of_table
from bench.rules.bounds import Floats
from bench.spec import PROTOCOLS, canonical
from bench.store.imports import Printed
from bench.store.runs import Run, Store
from leaderboard import layouts, metrics
from leaderboard.aggregate import Filters, Group, Row, Source, collect
from leaderboard.aggregate.collect import check_alpha_of_logs, first_of, left_out, no_such_filters
from leaderboard.aggregate.mix import say
from leaderboard.aggregate.reading import TEST_FILES, conditions_of_log
from leaderboard.aggregate.select import OWN
from leaderboard.aggregate.where import flags, parse, telling_apart
from leaderboard.metrics import Outcomes
from leaderboard.paper.printed import RULES, Compat, Entry, PaperTable
from leaderboard.tables import conditions


def build(
    number: int,
    store: Store,
    *,
    source: Source | None = None,
    compat: Compat = "exact",
    alpha: float | None = None,
    protocol: str | None = None,
    recipe: str | None = None,
    seeds: Sequence[int] = (),
    where: Sequence[str] = (),
    empty: bool = False,
) -> PaperTable:
    """A table of the paper from the store.

    Args:
        source: imported logs or our own runs; None takes the one that the store has.
        compat: `3sig` rounds radii to 3 significant digits, compares with >= and multiplies shares by 100 last, as the paper did (also of
            our own exact radii).
        alpha: chance that a certificate is wrong, 0.001 if None; imported logs have one of their own, which is fixed.
        protocol, recipe, seeds: which of our own runs, so any of them leaves imported logs out; full, official and all that any row
            of the table has, if not given.
        where: words of `--where`, which choose among certifications that differ from the protocol's; only our own runs have them.
        empty: whether a table is wanted that nothing in the store fills, for the paper's numbers alone.

    Raises:
        BenchError: no such table, nothing to fill it with, both sources and no choice, runs or logs that do not share a table.
    """
    if source == "checkpoints":
        raise BenchError("the paper's tables are filled by imported logs or our own runs; leave out --from checkpoints")
    layout = layouts.load(number)
    of_runs = bool(protocol or recipe or seeds or where)
    if of_runs and source == "imported":
        raise BenchError(no_such_filters("imported"))
    protocol, recipe = protocol or "full", recipe or "official"
    found_logs, damaged_logs = ([], []) if source == "runs" or of_runs else store.read("imported")
    logs = [log for log in found_logs if isinstance(log, Import) and _is_printed(log, layout)]
    found_runs, damaged = store.read("runs") if source != "imported" else ([], [])
    stored = [run for run in found_runs if isinstance(run, Run)]
    runs = [run for run in stored if _belongs(run, layout, protocol, recipe)]
    if logs and runs:
        raise BenchError(f"{store.root} holds imported logs and runs of its own for table {number}; say --from imported or --from runs")
    others = sorted({f"--protocol {r.spec.protocol} --recipe {r.spec.recipe}" for r in stored if r.spec.dataset == layout.dataset})
    hint = f"; there is {', '.join(others)}" if others else ""
    if not logs and not runs and not empty:
        known = f"runs of protocol {protocol} and recipe {recipe} on {layout.dataset}"
        hint += f"; left out: {first_of(broken)}" if (broken := [*damaged_logs, *damaged]) else ""
        raise BenchError(
            f"{store.root} holds nothing for table {number}: neither imported logs of {printed_collection()} nor {known}{hint}"
        )
    check_alpha_of_logs(logs, alpha)
    notes: list[str] = []
    apart = ""
    if logs:
        found = _of_logs(layout, logs, notes)
    elif runs:
        found, apart = _of_runs(layout, runs, store, seeds, where, alpha, notes)
    else:
        found = {}
        notes.append(f"Nothing in the store fills this table{hint}; the paper's numbers stand alone.")
    values = {place: [_values(o.correct, o.radius, compat) for o in trainings] for place, (trainings, _) in found.items()}
    entries = {}
    for p in layouts.values(number):
        own, (_, status) = values.get((p.sigma, p.row), []), found.get((p.sigma, p.row), ((), "missing"))
        entries[p.sigma, p.row, p.metric] = Entry(values=tuple(of(p.metric) for of in own), status=status, printed=p)
    kind: Source | Literal["nothing"] = "imported" if logs else "runs" if runs else "nothing"
    rule = f" Certified accuracy at r in %: {RULES[compat]}." if layout.radii else ""
    caption = f"Layout of Table {number} with {_ours(runs)}.{rule}" if runs else f"Table {number}. {layout.caption}{rule}"
    # With imported logs, what is wrong with a run is no matter of the table, and the other way round.
    notes += left_out((fault.file, str(fault)) for fault in (damaged_logs if logs else damaged))
    notes = list(dict.fromkeys(notes))
    return PaperTable(layout=layout, entries=entries, source=kind, compat=compat, caption=caption, notes=tuple(notes), apart=apart)


_Cells = dict[tuple[str, str], tuple[Sequence[Outcomes | Printed], str]]
"""(sigma, row) -> what each run says, none where any is missing; and what to say instead."""


def _belongs(run: Run, layout: layouts.Layout, protocol: str, recipe: str) -> bool:
    spec = run.named
    plain = not any(name.startswith("train.") for name in spec.changes)
    return (spec.dataset, spec.protocol, spec.recipe) == (layout.dataset, protocol, recipe) and spec.row in layout.labels and plain


def _is_printed(log: Import, layout: layouts.Layout) -> bool:
    """Run ids mean what the paper averages in its own collection only."""
    return (log.spec.dataset, log.spec.collection) == (layout.dataset, printed_collection())


def _of_logs(layout: layouts.Layout, logs: Sequence[Import], notes: list[str]) -> _Cells:
    """The runs that the paper averages; adds to the notes what differs between them."""
    names = {(row, float(sigma)): runs_of_table(layout.number, row, float(sigma)) for sigma in layout.sigmas for row in layout.rows}
    network = network_of_table(layout.number)
    by_place: dict[tuple[str, float, str], Import] = {}
    for log in logs:
        if log.spec.run not in names.get((log.spec.row, log.spec.sigma), ()) or network not in ("", log.spec.arch):
            continue  # of the collection, but not of this table
        place = log.spec.row, log.spec.sigma, log.spec.run
        if (other := by_place.setdefault(place, log)) is not log:
            raise BenchError(f"{log.path} and {other.path} hold the same run of {log.spec.row}; move one of them away")
    cells: _Cells = {}
    used: dict[str, list[Import]] = {}
    for sigma, row in itertools.product(layout.sigmas, layout.rows):
        wanted = names[row, float(sigma)]
        there = [by_place[place] for name in wanted if (place := (row, float(sigma), name)) in by_place]
        status = "" if there and len(there) == len(wanted) else f"{len(there)}/{len(wanted)} runs" if there else "missing"
        if len({canonical(conditions_of_log(log)) for log in there}) > 1:
            status = "not comparable"
        cells[sigma, row] = [] if status else [log.columns() for log in there], status
        used[f"{row} at sigma {sigma}"] = there
    notes.append(f"From imported logs ({printed_collection()}): they hold no counts, and their radii are rounded as printed.")
    every = [conditions_of_log(log) for there in used.values() for log in there]
    usual = max(every, key=every.count, default={})
    for name, there in used.items():
        for own in map(conditions_of_log, there):
            if differ := {key: value for key, value in own.items() if value != usual[key]}:
                others = say({key: usual[key] for key in differ})
                notes += [f"{name} is not comparable with the rows around it: {say(differ)} instead of {others}."]
    return cells


def _of_runs(
    layout: layouts.Layout,
    runs: Sequence[Run],
    store: Store,
    seeds: Sequence[int],
    where: Sequence[str],
    alpha: float | None,
    notes: list[str],
) -> tuple[_Cells, str]:
    """The rows of `collect`, so that what is no mean there is none here; adds to the notes what a reader must know.

    Returns:
        the cells, and which test images and samples they are of where the paper's are others.
    """
    spec = runs[0].spec
    filters = Filters(
        datasets=[spec.dataset], protocols=[spec.protocol], recipes=[spec.recipe], seeds=seeds, methods=sorted({r.named.row for r in runs})
    )
    if own := [name for name in parse(where) if name in OWN]:
        raise BenchError(f"--table and its flags say which rows; leave out --where {own[0]}={parse(where)[own[0]][0]}")
    paper = DATASETS[layout.dataset].protocol(PROTOCOLS["full"]).certify
    every = collect(store, filters.narrowed(where), alpha=alpha, source="runs", metrics=())
    groups = [g for g in every if where or not g.conditions["changes"]]
    groups = [g for g in groups if TEST_FILES not in g.conditions] or groups
    others = sorted({g.conditions["certify.rule"] for g in groups} - {paper.rule})
    groups = [g for g in groups if g.conditions["certify.rule"] == paper.rule]
    notes += [f"left out: certifications under {other}; the paper's are under {paper.rule}" for other in others]
    table = f"table {layout.number}"
    if len(groups) > 1:
        told = "runs of one protocol were trained or certified in several ways, which never share a table"
        raise BenchError(f"{table}: {told}{_ways(groups, spec.protocol)}")
    if not groups:
        raise BenchError(f"{table}: its runs were certified with --set certify.* only{_ways(every, spec.protocol)}")
    (group,) = groups
    by_place: dict[tuple[float, str], Row] = {}
    for section in group.sections:
        for row in section.rows:
            if by_place.setdefault((section.sigma, row.name), row) is not row and row.name in layout.labels:
                raise BenchError(f"{table}: {row.name} at sigma {section.sigma:g} was run with several settings; see `bench table`")
    wanted = itertools.product(layout.sigmas, layout.rows)
    places = {(sigma, name): by_place[float(sigma), name] for sigma, name in wanted if (float(sigma), name) in by_place}
    # Rows that the table does not show may have more seeds, which are no gap of those that it shows.
    shown = {seed.seed for row in places.values() for seed in row.seeds if seed.state != "missing"}
    expected: set[int | str] = {*seeds} or shown
    cells: _Cells = {}
    for place, whole in places.items():
        row = dataclasses.replace(whole, seeds=tuple(seed for seed in whole.seeds if seed.seed in expected))
        begun = any(seed.state != "missing" for seed in row.seeds)
        status = row.status if begun else "missing"
        cells[place] = () if status else row.outcomes, status
        notes += row.notes
    several = any(len(trainings) > 1 for trainings, _ in cells.values())
    notes[:0] = [*conditions(group), *(["±: sample standard deviation over the seeds."] if several else []), *group.notes]
    differ = {name: group.conditions[name] for name in ("certify.images", "certify.n0", "certify.n")}
    return cells, say({name: value for name, value in differ.items() if value != getattr(paper, name.removeprefix("certify."))})


def _ways(groups: Sequence[Group], protocol: str) -> str:
    """By what to choose one of several groups, or the only one, which was not certified as its protocol says."""
    facts = [{name: value for name, value in g.conditions.items() if name.startswith("certify.")} for g in groups]
    usual = PROTOCOLS[protocol].certify if protocol in PROTOCOLS else None
    if usual and len(facts) == 1:
        facts.append({name: getattr(usual, name.removeprefix("certify."), None) for name in facts[0]})
    ways = dict.fromkeys(flags(own) for own in telling_apart(facts)[: len(groups)] if own)
    return f"; choose one by {' or '.join(ways)}" if ways else ""


def _values(correct: NDArray[np.bool_], radius: Floats, compat: Compat) -> Callable[[str], float]:
    """Metric -> value over all images: ACR in pixels, accuracies in %."""
    if compat == "3sig":
        radius = np.array([float(f"{r:.3g}") for r in radius])

    def value(metric: str) -> float:
        if metric == metrics.ACR:
            return float((radius * correct).sum()) / len(radius)
        return _share(correct, radius, float(metric), compat)

    return value


def _share(correct: NDArray[np.bool_], radius: Floats, r: float, compat: Compat) -> float:
    if compat == "exact":
        return 100 * int(np.count_nonzero(correct & (radius > r))) / len(radius)
    # The paper's order of operations decides ties of its printed digits: 0.0035 * 100 prints as 0.4, 0.35 as 0.3.
    return int(np.count_nonzero(correct & (radius >= r))) / len(radius) * 100


def _ours(runs: Sequence[Run]) -> str:
    """`our runs: mnist, protocol quick, recipe official, seeds 0, 1`."""
    first = runs[0].spec
    seeds = ", ".join(map(str, sorted({run.spec.seed for run in runs})))
    return f"our runs: {first.dataset}, protocol {first.protocol}, recipe {first.recipe}, seeds {seeds}"
