"""`bench list`, `bench show`, `bench status`: what there is, and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.common import Json, Plugins, Results, clock, existing_folder, guarded, print_json

if TYPE_CHECKING:
    from bench.registry import Loaded
    from bench.store import Run


class What(StrEnum):
    """What `bench list` can list."""

    METHODS = "methods"
    DATASETS = "datasets"
    PROTOCOLS = "protocols"
    RUNS = "runs"


def list_(
    what: Annotated[What, typer.Argument(help="methods, datasets, protocols or runs.")],
    plugin: Plugins = None,
    results: Results = Path("results/runs"),
    as_json: Json = False,
) -> None:
    """List methods, data sets, protocols or runs. No method's code is run for it."""
    rows: list[dict[str, Any]]
    if what is What.METHODS:
        rows = guarded(lambda: _methods(tuple(plugin or ())))
    elif what is What.DATASETS:
        from bench.datasets import DATASETS

        rows = [
            {
                "name": d.name,
                "classes": d.classes,
                "image": "x".join(map(str, d.shape)),
                "sigmas": ", ".join(f"{s:g}" for s in d.sigmas),
                "summary": d.summary,
            }
            for d in DATASETS.values()
        ]
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
        existing_folder(results)
        rows = guarded(lambda: [_run_row(run) for run in _runs(results)])
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows)


def _methods(plugins: tuple[Path, ...]) -> list[dict[str, Any]]:
    from bench.registry import Registry

    rows = []
    for entry in Registry(plugins).entries().values():
        summary, variants = entry.describe()
        rows.append(
            {"name": entry.name, "variants": ", ".join(v for v in variants if v != "default"), "origin": entry.origin, "summary": summary}
        )
    return rows


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        typer.echo("none")
        return
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold", no_wrap=name in ("key", "row", "name", "field"))
    for row in rows:
        table.add_row(*(escape(str(value)) for value in row.values()))
    Console(highlight=False).print(table)


def _runs(results: Path) -> Iterator[Run]:
    from bench.store import Store

    return Store(results).runs()


def _run_row(run: Run) -> dict[str, Any]:
    spec = run.spec
    training = run.training()
    certified = ", ".join(f"{done}/{total}" for done, total in _progress(run)) or "none"
    return {
        "key": spec.key,
        "row": spec.row,
        "data set": spec.dataset,
        "sigma": f"{spec.sigma:g}",
        "seed": spec.seed,
        "protocol": spec.protocol,
        "recipe": spec.recipe,
        "training": training["state"] if training else "failed" if run.failure() else "unfinished",
        "images certified": certified,
    }


def _progress(run: Run) -> list[tuple[int, int]]:
    from bench.datasets import DATASETS

    size = DATASETS[run.spec.dataset].test_size
    return [(len(c.rows()), len(c.expected(size))) for c in run.certifications()]


def status(results: Results = Path("results/runs"), as_json: Json = False) -> None:
    """What is done, unfinished, failed and diverged in a results folder, with reasons."""
    existing_folder(results)

    def work() -> list[dict[str, Any]]:
        rows = []
        for run in _runs(results):
            row = _run_row(run)
            training, failure = run.training(), run.failure()
            progress = _progress(run)
            finished = bool(training) and bool(progress) and all(done == total for done, total in progress)
            state = (
                "diverged"
                if training and training["state"] == "diverged"
                else "failed"
                if failure
                else "done"
                if finished
                else "unfinished"
            )
            problem = training if state == "diverged" else failure if state == "failed" else None
            rows.append(row | {"state": state, "reason": problem["reason"] if problem else None, "path": str(run.path)})
        return rows

    rows = guarded(work)
    if as_json:
        print_json(rows)
        return
    tally = Counter(row["state"] for row in rows)
    typer.echo(f"{results}: {len(rows)} runs" + "".join(f", {count} {state}" for state, count in sorted(tally.items())))
    shown = [
        {k: row[k] for k in ("key", "row", "data set", "sigma", "seed", "protocol", "recipe", "state", "images certified")} for row in rows
    ]
    if shown:
        _print_rows([row for row in shown if row["state"] != "done"] or shown)
    for row in rows:
        if row["reason"]:
            typer.echo(f"{row['state']}: {row['path']}: {row['reason']}")


def show(
    what: Annotated[str, typer.Argument(metavar="METHOD|RUN", help="A method's name, or a run's key (its first digits do) or folder.")],
    plugin: Plugins = None,
    results: Results = Path("results/runs"),
    as_json: Json = False,
) -> None:
    """Show a method's hyperparameters, presets and cost, or what a run was and what came of it."""
    from bench.registry import Registry

    registry = Registry(tuple(plugin or ()))
    name = what.partition(".")[0]
    if name in guarded(registry.entries):
        _show_method(guarded(lambda: registry.load(name)), as_json)
        return
    from bench.errors import BenchError, nearest
    from bench.store import Store

    def find() -> Run:
        try:
            return Store(results).find(what)
        except BenchError as error:
            raise BenchError(f"{what!r} is no method{nearest(what, registry.entries())} And {error}") from None

    _show_run(guarded(find), as_json)


def _show_method(loaded: Loaded, as_json: bool) -> None:
    import dataclasses
    import inspect
    import typing

    from bench.datasets import DATASETS
    from bench.spec import describe_type
    from bench.train import pairs_per_image

    cls = loaded.cls
    hints = typing.get_type_hints(cls)
    source = inspect.getsource(inspect.getmodule(cls) or cls)
    comments = {m[1]: m[2] for m in re.finditer(r"^    (\w+): [^#\n]*?  # (.+)$", source, re.M)}
    fields = []
    for f in dataclasses.fields(cls):
        symbol, colon, text = comments.get(f.name, "").partition(": ")
        if not colon or " " in symbol:
            symbol, text = "", comments.get(f.name, "")
        default = "" if f.default is dataclasses.MISSING else f.default
        fields.append({"field": f.name, "symbol": symbol, "type": describe_type(hints[f.name]), "default": default, "meaning": text})
    presets = [
        {"recipe": recipe, "variant": variant, "data set": dataset, "sigma": sigma}
        | {f.name: getattr(preset, f.name) for f in dataclasses.fields(cls)}
        | {"pairs/image": pairs_per_image(preset, DATASETS["mnist"])}
        for (recipe, variant, dataset, sigma), preset in cls.presets.items()
    ]
    sources = [
        " ".join(line.lstrip("# ").strip() for line in block.splitlines())
        for block in re.findall(r"^# Sources?:.*(?:\n# .*)*", source, re.M)
    ]
    if as_json:
        data = {"name": loaded.name, "doc": loaded.doc, "source_sha256": loaded.source_sha256, "variants": cls.variants, "fields": fields}
        print_json(data | {"preset_sources": sources, "presets": presets})
        return
    typer.echo(loaded.doc.strip())
    typer.echo(f"\nvariants: {', '.join(cls.variants)} (the first is the default)")
    typer.echo("\nhyperparameters (change one with --set FIELD=VALUE):")
    _print_rows(fields)
    if not presets:
        cost = pairs_per_image(cls(), DATASETS["mnist"])
        typer.echo(f"\nno presets: the defaults serve every data set and noise level; {cost:g} forward+backward pairs per training image")
        return
    varying = [k for k in presets[0] if len({repr(p[k]) for p in presets}) > 1 or k in ("recipe", "pairs/image")]
    typer.echo("\npresets (fields that vary among them; pairs/image = forward+backward pairs per training image):")
    _print_rows([{k: p[k] for k in varying} for p in presets])
    for line in sources:
        typer.echo(f"\n{line}")


def _show_run(run: Run, as_json: bool) -> None:
    import csv

    from bench.datasets import DATASETS
    from bench.spec import canonical, to_json
    from bench.store import read_json

    def work() -> dict[str, Any]:
        timing = run.path / "timing.json"
        curve = list(csv.DictReader(run.curve.read_text().splitlines())) if run.curve.exists() else []
        size = DATASETS[run.spec.dataset].test_size
        certifications = []
        for c in run.certifications():
            rows = c.rows()
            total = len(c.expected(size))
            item: dict[str, Any] = {"key": c.spec.key, "spec": to_json(c.spec), "images": f"{len(rows)}/{total}"}
            if len(rows) == total:
                radii = [row.radius(0.001, run.spec.sigma) if row.selected == row.label else None for row in rows]
                item["acr (alpha 0.001)"] = sum(r or 0.0 for r in radii) / total
            certifications.append(item)
        return {
            "path": str(run.path),
            "key": run.spec.key,
            "spec": to_json(run.spec),
            "training": run.training(),
            "failure": run.failure(),
            "timing": read_json(timing) if timing.exists() else None,
            "environment": run.environment(),
            "curve": curve,
            "certifications": certifications,
        }

    data = guarded(work)
    if as_json:
        print_json(data)
        return
    timing, training = data["timing"], data["training"]
    typer.echo(
        f"{run.spec.row} on {run.spec.dataset}, sigma {run.spec.sigma:g}, seed {run.spec.seed}; {run.spec.protocol}, {run.spec.recipe}"
    )
    typer.echo(f"key {run.spec.key} in {run.path}")
    state = training["state"] if training else "unfinished"
    cost = (
        f", {clock(timing['training_seconds'])}, {timing['images_per_second']:.0f} images/s, {timing['pairs_per_image']:g} pairs/image"
        if timing
        else ""
    )
    typer.echo(f"training: {state}{cost}")
    for problem in (data["failure"], training if state == "diverged" else None):
        if problem:
            typer.echo(f"reason: {problem['reason']}")
    typer.echo(f"train: {canonical(data['spec']['train'])}")
    typer.echo(f"hyperparameters: {canonical(data['spec']['hyperparameters'])}")
    for item in data["certifications"]:
        acr = item.get("acr (alpha 0.001)")
        typer.echo(f"certification {item['key']}: {item['images']} images" + ("" if acr is None else f", ACR {acr:.4f} at alpha 0.001"))
    if data["environment"]:
        typer.echo(f"environment: {canonical(data['environment'])}")
    if data["curve"]:
        shown = data["curve"][:: max(1, len(data["curve"]) // 10)]
        typer.echo("training curve (some rows; all in curve.csv):")
        _print_rows([{k: _short(v) for k, v in row.items()} for row in shown])


def _short(value: str) -> str:
    return f"{float(value):.4g}" if value else ""
