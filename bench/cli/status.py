"""`bench status`: where every cell of a results folder stands."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.command import OUTPUT, switch
from bench.cli.common import clock, existing_folder, print_json, print_rows, say, stop
from bench.cli.list import Rows, print_reasons, tell_unexpected
from bench.errors import counted

WATCH_SECONDS = 2.0
QUEUED_SHOWN = 20
LOG_LINES = 5
HIDDEN = ("certifications", "lines", "own", "epochs", "source")  # from --json


def status(
    results: options.Results = Path("results/runs"),
    watch: Annotated[bool, switch("--watch", "Look again every two seconds, until Ctrl-C.", OUTPUT)] = False,
    as_json: options.Json = False,
) -> None:
    """Show which runs are done, running, queued or failed, why, and how to resume them.

    Checkpoints and imported logs are counted below the runs; --json lists them, each with its `file`.

    Exit codes: 0 nothing is damaged, 1 something is, 2 usage.
    """
    from rich.console import Console

    from bench.matrix.status import of_others, standings
    from bench.store.runs import Store

    if watch and as_json:
        stop(["--watch and --json exclude each other; call --json as often as you like"])
    existing_folder(results)
    while True:
        store = Store(results)
        rows, certified, logs = standings(store), of_others(store, "checkpoints"), of_others(store, "imported")
        if not watch:
            tell_unexpected(store)
        if as_json:
            print_json([{name: value for name, value in row.items() if name not in HIDDEN} for row in rows + certified + logs])
        else:
            if watch:
                Console().clear()
            _print_runs(results, rows)
            _print_others(results, "certified checkpoints", "certification", "checkpoints", certified)
            _print_others(results, "imported logs", "log", "logs", logs)
        if not watch:
            raise typer.Exit(int(any(row["state"] == "damaged" for row in rows + certified + logs)))
        try:
            time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _print_runs(results: Path, rows: Rows) -> None:
    from bench.store.listing import COLUMNS

    tally = Counter(row["state"] for row in rows)
    say(f"{results}: {counted(len(rows), 'run')}" + "".join(f", {count} {state}" for state, count in sorted(tally.items())))
    shown = [row for row in rows if row["state"] not in ("done", "queued")]
    shown += [row for row in rows if row["state"] == "queued"][:QUEUED_SHOWN]
    if rows:
        print_rows([{name: row[name] for name in COLUMNS} for row in shown or rows])
    if tally["queued"] > QUEUED_SHOWN:
        say(f"and {tally['queued'] - QUEUED_SHOWN} more queued")
    for row in shown:
        told = f"{_pace(row)}; {row['holder']}" if row["state"] == "running" else row["reason"]
        if told:
            say(f"{row['state']}: {row['path']}: {told}")
        for line in row["log"].splitlines()[-LOG_LINES:]:
            say(f"    | {line}")
        if row["retry"]:
            say(f"  {row['retry']}")


def _print_others(results: Path, title: str, unit: str, word: str, rows: Rows) -> None:
    """One line that counts certified checkpoints or imported logs, if there are any, and what is wrong with the damaged ones."""
    from bench.store.listing import OTHER_STATES
    from bench.store.runs import results_flag

    if rows:
        tally = Counter(row["state"] for row in rows)
        counts = ", ".join(f"{tally[state]} {state}" for state in OTHER_STATES if tally[state])
        say(f"{title}: {counted(len(rows), unit)}, {counts}; `bench list {word}{results_flag(results)}` names them")
        print_reasons(rows)


def _pace(row: dict[str, Any]) -> str:
    """`training, epoch 2 of 3 (step 70 of 120), about 40 s left of it`."""
    if not row["total"]:
        return "begins"
    share = f"image {row['done']} of {row['total']}"
    if row["phase"] == "training":
        epoch = min(row["epochs"], 1 + row["epochs"] * row["done"] // row["total"])
        share = f"epoch {epoch} of {row['epochs']} (step {row['done']} of {row['total']})" if row["epochs"] else f"step {row['done']}"
    left = "" if row["left"] is None else f", about {clock(row['left'])} left of it"
    return f"{row['phase']}, {share}{left}"
