"""`bench list`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.common import existing_folder, plugin_paths, print_json, print_rows, refuse, say
from bench.errors import unknown

if TYPE_CHECKING:
    from bench.store.runs import Store

Rows = list[dict[str, Any]]
STORED = ("runs", "checkpoints", "logs")
WHAT = ("methods", "datasets", "networks", "metrics", "protocols", "rules", *STORED)
ACCURACY = "r: certified accuracy in % at the radii of the data set's tables; write a radius such as 0.75 instead for that one."
"""Captions of tables say it with the rule and the rounding of radii."""


def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="methods, datasets, networks, metrics, protocols, rules, runs, certified checkpoints or imported logs."
        ),
    ],
    plugin: Annotated[list[str] | None, options.plugin("a method, network, data set or metric of yours")] = None,
    results: options.Results = Path("results/runs"),
    as_json: options.Json = False,
) -> None:
    """List methods, data sets, networks, metrics, protocols, rules, runs, checkpoints or logs.

    No plug-in's code is run.
    """
    refuse(unknown("WHAT", what, WHAT))
    if what in STORED:
        from bench.store.runs import Store

        existing_folder(results)
        store = Store(results)
        rows, columns = _stored(store, what)
        tell_unexpected(store)
    else:
        rows = _known(what, plugin_paths(plugin))
        columns = tuple(rows[0])
    if as_json:
        print_json(rows)
        return
    print_rows([{name: row.get(name, "") for name in columns} for row in rows])
    print_reasons(rows)


def _known(what: str, plugins: tuple[Path, ...]) -> Rows:
    """A row per method, data set, network, metric, protocol or rule."""
    from bench import rules
    from bench.datasets import BUILT_IN, DATASETS
    from bench.registry import DATASET, METRIC, NETWORK, Registry
    from bench.spec import PROTOCOLS

    rows: Rows = []
    if what == "methods":
        for entry in Registry(plugins).entries().values():
            summary, variants = entry.describe()
            told = ", ".join(v for v in variants if v != "default")
            rows.append({"name": entry.name, "variants": told, "origin": entry.origin, "summary": summary})
    elif what == "datasets":
        for dataset in Registry(plugins).entries(DATASET).values():
            info = DATASETS[dataset.name] if dataset.name in BUILT_IN else None
            row: dict[str, Any] = {"name": dataset.name, "classes": info.classes if info else ""}
            row |= {"image": "x".join(map(str, info.shape)) if info else ""}
            row |= {"sigmas": ", ".join(f"{s:g}" for s in info.sigmas) if info else "", "origin": dataset.origin}
            rows.append(row | {"summary": info.summary if info else dataset.describe()[0]})
    elif what in ("networks", "metrics"):
        from leaderboard.metrics import METRICS

        for entry in Registry(plugins).entries(NETWORK if what == "networks" else METRIC).values():
            own = what == "metrics" and entry.name in METRICS
            told = METRICS[entry.name][0](("0.5",), 2)[0].meaning or ACCURACY if own else entry.describe()[0]
            rows.append({"name": entry.name, "origin": entry.origin, "summary": told})
    elif what == "rules":
        rows = [{"name": name, "summary": summary} for name, summary in rules.summaries().items()]
    else:
        for p in PROTOCOLS.values():
            training = ", ".join(f"{k}={v}" for k, v in p.train.items()) or "the recipe's"
            samples = {"n0": p.certify.n0, "n": p.certify.n, "test images": p.certify.images}
            rows.append({"name": p.name, "training": training, **samples, "seeds": ", ".join(map(str, p.seeds)), "summary": p.summary})
    return rows


def _stored(store: Store, what: str) -> tuple[Rows, tuple[str, ...]]:
    """A row per run, certification of a checkpoint or imported log, damaged ones too; and the columns that are printed of them."""
    from bench.store import listing

    if what == "runs":
        named = (*listing.COLUMNS, "path", "reason")
        return [{name: row[name] for name in named} for row in listing.Listing(store).rows()], listing.COLUMNS
    return listing.others(store, "imported" if what == "logs" else "checkpoints", store.walk()), listing.OTHERS


def tell_unexpected(store: Store) -> None:
    """A line on standard error if there are files that the suite did not write."""
    if found := (store.walked or store.walk()).unexpected:
        more = f", and {len(found) - 1} more; `bench verify {store.root}` lists them" if len(found) > 1 else ""
        say(f"unexpected: {found[0]}{more}", err=True)


def print_reasons(rows: Rows) -> None:
    """Why rows are in their states, below the table."""
    for row in rows:
        if row.get("reason"):
            say(f"{row['state']}: {row['path']}: {row['reason']}")
