"""`bench list`, `bench status`: what there is, and where it stands."""

from __future__ import annotations

import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from bench.cli.common import Json, Plugins, Results, clock, existing_folder, guarded, plain, plugin_paths, print_json, print_rows, stop

if TYPE_CHECKING:
    from bench.store.runs import Store

WATCH_SECONDS = 2.0
QUEUED_SHOWN = 20
LOG_LINES = 5


class What(StrEnum):
    """What `bench list` can list."""

    METHODS = "methods"
    DATASETS = "datasets"
    PROTOCOLS = "protocols"
    RUNS = "runs"
    CHECKPOINTS = "checkpoints"


def list_(
    what: Annotated[What, typer.Argument(help="methods, datasets, protocols, runs or checkpoints: those that `bench certify` certified.")],
    plugin: Plugins = None,
    results: Results = Path("results/runs"),
    as_json: Json = False,
) -> None:
    """List methods, data sets, protocols, runs or certified checkpoints. No code of a method or a plug-in is run for it."""
    rows: list[dict[str, Any]]
    if what is What.METHODS:
        rows = guarded(lambda: _methods(plugin_paths(plugin)))
    elif what is What.DATASETS:
        rows = guarded(lambda: _datasets(plugin_paths(plugin)))
    elif what is What.PROTOCOLS:
        from bench.spec import PROTOCOLS

        rows = [
            {
                "name": p.name,
                "training": ", ".join(f"{k}={v}" for k, v in p.train.items()) or "the recipe's",
                "n0": p.certify.n0,
                "n": p.certify.n,
                "test images": p.certify.images,
                "seeds": ", ".join(map(str, p.seeds)),
                "summary": p.summary,
            }
            for p in PROTOCOLS.values()
        ]
    else:
        from bench.store.runs import Store

        existing_folder(results)
        store = Store(results)
        rows = guarded(lambda: _run_rows(store) if what is What.RUNS else _checkpoint_rows(store))
        _tell_unexpected(store)
    if as_json:
        print_json(rows)
    elif what in (What.RUNS, What.CHECKPOINTS) and rows:
        _print_listed(rows, what)
    else:
        print_rows(rows)


def _methods(paths: tuple[Path, ...]) -> list[dict[str, Any]]:
    from bench.registry import Registry

    rows = []
    for entry in Registry(paths).entries().values():
        summary, variants = entry.describe()
        rows.append(
            {"name": entry.name, "variants": ", ".join(v for v in variants if v != "default"), "origin": entry.origin, "summary": summary}
        )
    return rows


def _datasets(paths: tuple[Path, ...]) -> list[dict[str, Any]]:
    from bench.datasets import BUILT_IN, DATASETS
    from bench.registry import Registry

    rows = []
    for entry in Registry(paths).datasets().values():
        row: dict[str, Any] = {"name": entry.name, "classes": "", "image": "", "sigmas": "", "origin": entry.origin}
        if entry.name in BUILT_IN:
            info = DATASETS[entry.name]
            row |= {"classes": info.classes, "image": "x".join(map(str, info.shape)), "sigmas": ", ".join(f"{s:g}" for s in info.sigmas)}
            row |= {"summary": info.summary}
        else:
            row |= {"summary": entry.describe()[0]}
        rows.append(row)
    return rows


def _run_rows(store: Store) -> list[dict[str, Any]]:
    """One row per run, damaged ones too."""
    from bench.store.listing import COLUMNS, Listing

    return [{name: row[name] for name in (*COLUMNS, "path", "reason")} for row in Listing(store).rows()]


def _checkpoint_rows(store: Store) -> list[dict[str, Any]]:
    """One row per certification of a base classifier from outside, damaged ones too."""
    from bench.store.listed_checkpoints import rows

    return rows(store.root, store.walk())


def _tell_unexpected(store: Store) -> None:
    """A line on standard error if there are files that the suite did not write."""
    if found := (store.walked or store.walk()).unexpected:
        more = f", and {len(found) - 1} more; `bench verify` lists them" if len(found) > 1 else ""
        typer.echo(plain(f"unexpected: {found[0]}{more}"), err=True)


def _print_listed(rows: list[dict[str, Any]], what: What) -> None:
    from bench.store import listed_checkpoints
    from bench.store.listing import COLUMNS

    columns = COLUMNS if what is What.RUNS else listed_checkpoints.COLUMNS
    print_rows([{name: row[name] for name in columns} for row in rows])
    _print_reasons(rows)


def _print_reasons(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["reason"]:
            typer.echo(plain(f"{row['state']}: {row['path']}: {row['reason']}"))


def status(
    results: Results = Path("results/runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """What is done, running, queued, failed, interrupted or damaged in a results folder, why, and the line that retries it.

    Certifications of checkpoints are counted below the runs; --json has them behind the runs, with their `file`.

    Exit code 1 if anything is damaged.
    """
    from bench.matrix.status import of_checkpoints, standings
    from bench.store.runs import Store

    if watch and as_json:
        stop(["--watch and --json exclude each other; call --json as often as you like"])
    existing_folder(results)
    while True:
        store = Store(results)
        rows = guarded(lambda store=store: standings(store))  # type: ignore[misc]
        certified = guarded(lambda store=store: of_checkpoints(store))  # type: ignore[misc]
        if not watch:
            _tell_unexpected(store)
        if as_json:
            hidden = ("certifications", "lines", "own", "epochs", "source")
            print_json([{name: value for name, value in row.items() if name not in hidden} for row in rows + certified])
        else:
            if watch:
                click.clear()
            _print_status(results, rows)
            _print_certified(certified)
        if not watch:
            raise typer.Exit(int(any(row["state"] == "damaged" for row in rows + certified)))
        try:
            time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _print_status(results: Path, rows: list[dict[str, Any]]) -> None:
    from bench.store.listing import COLUMNS

    tally = Counter(row["state"] for row in rows)
    typer.echo(f"{results}: {len(rows)} runs" + "".join(f", {count} {state}" for state, count in sorted(tally.items())))
    queued = [row for row in rows if row["state"] == "queued"]
    shown = [row for row in rows if row["state"] not in ("done", "queued")] + queued[:QUEUED_SHOWN]
    if rows:
        print_rows([{name: row[name] for name in COLUMNS} for row in shown or rows])
    if len(queued) > QUEUED_SHOWN:
        typer.echo(f"and {len(queued) - QUEUED_SHOWN} more queued")
    for row in shown:
        if row["state"] == "running":
            typer.echo(plain(f"running: {row['path']}: {_pace(row)}; {row['holder']}"))
        elif row["reason"]:
            typer.echo(plain(f"{row['state']}: {row['path']}: {row['reason']}"))
        for line in row["log"].splitlines()[-LOG_LINES:]:
            typer.echo(f"    | {plain(line)}")
        if row["retry"]:
            typer.echo(f"  {plain(row['retry'])}")


def _print_certified(rows: list[dict[str, Any]]) -> None:
    """One line that counts the certifications of checkpoints, if there are any, and what is wrong with the damaged ones."""
    from bench.store.listed_checkpoints import STATES

    if rows:
        tally = Counter(row["state"] for row in rows)
        counts = ", ".join(f"{tally[state]} {state}" for state in STATES if tally[state])
        typer.echo(f"certified checkpoints: {len(rows)} certifications, {counts}; `bench list checkpoints` names them")
        _print_reasons(rows)


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
