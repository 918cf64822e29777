"""`bench run`: plan, train, certify, continue."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.common import Json, Plugins, Results, changes, check_folder, clock, guarded, numbers, print_json, seeds, stop, words
from bench.errors import BenchError, UsageError, nearest

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from bench.plan import Cell, Plan
    from bench.run import State
    from bench.store import Store

RERUN = ("diverged", "all")


def run(
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME[.VARIANT]",
            help="Methods, comma-separated or repeated; patterns ('NAME.*') work. Default: the nine rows of the paper's Table 4.",
        ),
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", metavar="NAME", help="Data sets. Default: mnist.")] = None,
    sigma: Annotated[
        list[str] | None,
        typer.Option("--sigma", metavar="S", help="Noise levels in pixels of [0, 1]. Default: the paper's for the data set."),
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            "--seeds", metavar="N|LIST", help="5 means seeds 0 to 4; a list (0,3,4 or 3,) means just those. Default: the protocol's."
        ),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="How much is trained and certified: smoke, quick or full.")] = "quick",
    recipe: Annotated[
        str, typer.Option("--recipe", help="Where paper and authors' code disagree: official (the code) or paper.")
    ] = "official",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a hyperparameter (step_size=0.5) or the protocol (train.epochs=3, certify.n=1000)."
        ),
    ] = None,
    plugin: Plugins = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    batch: Annotated[int | None, typer.Option("--batch", help="Samples per certification pass; never changes a count.")] = None,
    results: Results = Path("results/runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    rerun: Annotated[
        str | None,
        typer.Option("--rerun", metavar="diverged|all", help="Compute such cells again; the old folders are kept in DIR/.replaced."),
    ] = None,
    allow_changed_source: Annotated[
        bool, typer.Option("--allow-changed-source", help="Continue trainings begun with another source of their method; recorded.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    as_json: Json = False,
) -> None:
    """Train and certify the matrix method x sigma x seed. The same line again continues where it stopped.

    Exit codes: 0 all done, 1 some cells failed or diverged, 2 usage, 130 interrupted.
    """
    problems: list[str] = []
    sigmas = numbers(sigma, "--sigma", problems)
    chosen_seeds = seeds(seed, problems)
    wanted = changes(change, problems)
    check_folder(results, problems)
    if rerun is not None and rerun not in RERUN:
        problems.append(f"--rerun {rerun} is unknown{nearest(rerun, RERUN)}")
    if batch is not None and batch < 1:
        problems.append(f"--batch {batch} must be at least 1")

    import torch

    from bench.certify import ROWS
    from bench.plan import Plan, Request, make_plan
    from bench.registry import Registry
    from bench.run import Options, StopSignals, pick_device
    from bench.store import Store
    from leaderboard import layouts

    methods = words(method)
    try:
        chosen_device = pick_device(device)
    except BenchError as error:
        problems.append(str(error))
        chosen_device = torch.device("cpu")
    plan = Plan((), ())
    try:
        request = Request(
            methods=methods or layouts.load(4).rows,
            datasets=words(dataset) or ["mnist"],
            sigmas=sigmas,
            seeds=chosen_seeds,
            protocol=protocol,
            recipe=recipe,
            changes=wanted,
        )
        plan = make_plan(request, Registry(tuple(plugin or ())))
    except UsageError as error:
        problems += error.problems
    if problems:
        stop(problems)

    from rich.console import Console

    store = Store(results)
    console = Console(stderr=as_json, quiet=quiet, highlight=False, soft_wrap=True)
    states = {id(cell): _state(cell, store) for cell in plan.cells}
    again = [cell for cell in plan.cells if rerun == "all" or (rerun == "diverged" and states[id(cell)] == "diverged")]
    todo = [cell for cell in plan.cells if cell in again or states[id(cell)] not in ("done", "diverged")]
    seconds = guarded(lambda: _print_plan(console, plan, todo, states, store, chosen_device, protocol, recipe, detail=dry_run))
    if dry_run:
        if as_json:
            print_json(
                {
                    "results": str(results),
                    "cells": [_cell_json(c, store, states[id(c)]) | {"seconds": seconds.get(id(c))} for c in plan.cells],
                }
            )
        return

    from bench.cli.progress import Show
    from bench.errors import Interrupted
    from bench.run import execute, set_aside

    for cell in again:
        if moved := set_aside(cell, store):
            console.print(f"moved the old run to {moved}", markup=False)
    options = Options(device=chosen_device, batch=batch or ROWS, allow_changed_source=allow_changed_source)
    interrupted = 0
    with StopSignals().installed() as signals, Show(console, [seconds.get(id(c), 0.0) for c in todo]) as show:
        for number, cell in enumerate(todo):
            show.begin(number, cell.name)
            try:
                states[id(cell)] = execute(cell, store, options, show, signals)
            except (Interrupted, KeyboardInterrupt) as error:
                interrupted = error.signal_number if isinstance(error, Interrupted) else 2
                states[id(cell)] = _state(cell, store)
                break
            show.end(cell.name, states[id(cell)])
    tally = Counter(states.values())
    console.print(", ".join(f"{count} {state}" for state, count in sorted(tally.items())) + f" of {len(plan.cells)} cells", markup=False)
    if interrupted:
        console.print("interrupted; the same line again continues", markup=False)
    elif tally["diverged"]:
        console.print("diverged cells are not tried again unless you say --rerun diverged", markup=False)
    code = 128 + interrupted if interrupted else int(tally["done"] != len(plan.cells))
    if not code:
        console.print(
            f"next: bench table{'' if results == Path('results/runs') else f' --results {results}'} --protocol {protocol}", markup=False
        )
    if as_json:
        print_json({"results": str(results), "exit": code, "cells": [_cell_json(c, store, states[id(c)]) for c in plan.cells]})
    raise typer.Exit(code)


def _state(cell: Cell, store: Store) -> State:
    from bench.run import state_of

    try:
        return state_of(cell, store)
    except BenchError:
        return "failed"  # the attempt to continue it will say why


def _cell_json(cell: Cell, store: Store, state: str) -> dict[str, Any]:
    run = store.run(cell.spec)
    failure = run.failure() if state == "failed" else run.training() if state == "diverged" else None
    return {
        "row": cell.spec.row,
        "dataset": cell.spec.dataset,
        "sigma": cell.spec.sigma,
        "seed": cell.spec.seed,
        "key": cell.spec.key,
        "certification": cell.certify.key,
        "state": state,
        "path": str(run.path),
        "reason": failure.get("reason") if failure else None,
    }


def _print_plan(
    console: Console,
    plan: Plan,
    todo: list[Cell],
    states: dict[int, State],
    store: Store,
    device: torch.device,
    protocol: str,
    recipe: str,
    *,
    detail: bool,
) -> dict[int, float]:
    """Says what will be done and how long it may take; returns estimated seconds by cell."""
    from bench.run import estimate_seconds

    by_name = estimate_seconds(todo, store, device)
    seconds = {id(cell): by_name[cell.name] for cell in todo if cell.name in by_name}
    for note in plan.notes:
        console.print(f"note: {note}", markup=False)
    tally = Counter(states[id(cell)] for cell in plan.cells)
    rows = len({(c.spec.dataset, c.spec.row) for c in plan.cells})
    sigmas = len({c.spec.sigma for c in plan.cells})
    seed_count = len({c.spec.seed for c in plan.cells})
    console.print(
        f"{len(plan.cells)} cells: rows {rows}, noise levels {sigmas}, seeds {seed_count}; "
        f"protocol {protocol}, recipe {recipe}, device {device}",
        markup=False,
    )
    console.print(
        f"{tally['done']} done, {tally['diverged']} diverged, {len(todo)} to do; about {clock(sum(seconds.values()))}, from timed steps",
        markup=False,
    )
    console.print(f"results in {store.root}", markup=False)
    if detail:
        from rich.table import Table

        table = Table("row", "data set", "sigma", "seed", "state", "estimate", box=None, pad_edge=False)
        for cell in plan.cells:
            spec, estimate = cell.spec, seconds.get(id(cell))
            state = states[id(cell)]
            table.add_row(
                spec.row.replace("[", r"\["),
                spec.dataset,
                f"{spec.sigma:g}",
                str(spec.seed),
                state,
                "" if estimate is None else clock(estimate),
            )
        console.print(table)
    return seconds
