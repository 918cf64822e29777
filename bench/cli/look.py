"""`bench list`, `bench show`, `bench status`: what there is, and what came of it."""

from __future__ import annotations

import csv
import re
import time
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from bench.cli.common import Json, Plugins, Results, clock, existing_folder, guarded, plain, plugins, print_json, stop
from bench.errors import BenchError, nearest

if TYPE_CHECKING:
    from bench.registry import Loaded
    from bench.store import Run


ALPHA = 0.001  # of the ACR that `bench show` prints
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
        rows = guarded(lambda: _methods(_plugin_paths(plugin)))
    elif what is What.DATASETS:
        rows = guarded(lambda: _datasets(_plugin_paths(plugin)))
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
        rows = guarded(lambda: _run_rows(results) if what is What.RUNS else _checkpoint_rows(results))
    if as_json:
        print_json(rows)
    elif what in (What.RUNS, What.CHECKPOINTS) and rows:
        _print_listed(rows, what)
    else:
        _print_rows(rows)


def _plugin_paths(plugin: list[str] | None) -> tuple[Path, ...]:
    problems: list[str] = []
    paths = plugins(plugin, problems)
    if problems:
        stop(problems)
    return paths


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
        table.add_row(*(escape(plain(value)) for value in row.values()))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _run_rows(results: Path) -> list[dict[str, Any]]:
    """One row per run, damaged ones too."""
    from bench.listing import COLUMNS, Listing
    from bench.store import Store

    return [{name: row[name] for name in (*COLUMNS, "path", "reason")} for row in Listing(Store(results)).rows()]


def _checkpoint_rows(results: Path) -> list[dict[str, Any]]:
    """One row per certification of a base classifier from outside, damaged ones too."""
    from bench.checkpoints.listed import rows

    return rows(results)


def _print_listed(rows: list[dict[str, Any]], what: What) -> None:
    from bench.checkpoints import listed
    from bench.listing import COLUMNS

    columns = COLUMNS if what is What.RUNS else listed.COLUMNS
    _print_rows([{name: row[name] for name in columns} for row in rows])
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
    from bench.status import of_checkpoints, standings
    from bench.store import Store

    if watch and as_json:
        stop(["--watch and --json exclude each other; call --json as often as you like"])
    existing_folder(results)
    while True:
        rows = guarded(lambda: standings(Store(results)))
        certified = guarded(lambda: of_checkpoints(Store(results)))
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
    from bench.listing import COLUMNS

    tally = Counter(row["state"] for row in rows)
    typer.echo(f"{results}: {len(rows)} runs" + "".join(f", {count} {state}" for state, count in sorted(tally.items())))
    queued = [row for row in rows if row["state"] == "queued"]
    shown = [row for row in rows if row["state"] not in ("done", "queued")] + queued[:QUEUED_SHOWN]
    if rows:
        _print_rows([{name: row[name] for name in COLUMNS} for row in shown or rows])
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
    from bench.checkpoints.listed import STATES

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


def show(
    what: Annotated[str, typer.Argument(metavar="METHOD|RUN", help="A method's name, or a run's key (its first digits do) or folder.")],
    plugin: Plugins = None,
    results: Results = Path("results/runs"),
    as_json: Json = False,
) -> None:
    """Show a method's hyperparameters, presets and cost, or what a run was and what came of it."""
    from bench.registry import Registry

    registry = Registry(_plugin_paths(plugin))
    name, dot, variant = what.partition(".")
    if name in guarded(registry.entries):
        loaded = guarded(lambda: registry.load(name))
        if dot and variant not in loaded.cls.variants:
            stop([f"method {name!r} has no variant {variant!r}{nearest(variant, loaded.cls.variants)}"])
        _show_method(loaded, as_json)
        return
    from bench.store import Store

    def find() -> Run:
        try:
            return Store(results).find(what)
        except BenchError as error:
            raise BenchError(f"{what!r} is no method{nearest(what, registry.entries())} ({error})") from None

    _show_run(guarded(find), as_json)


def _show_method(loaded: Loaded, as_json: bool) -> None:
    import dataclasses
    import inspect
    import typing

    from bench.datasets import DATASETS
    from bench.spec import describe_type
    from bench.train import line_of, pairs_per_image

    cls = loaded.cls
    hints = typing.get_type_hints(cls)
    source = inspect.getsource(inspect.getmodule(cls) or cls)
    comments = dict(re.findall(r"^    (\w+): [^#\n]*?  # (.+)$", source, re.M))
    fields = []
    for f in dataclasses.fields(cls):
        parts = re.fullmatch(r"(?:(\S+): )?(.*?)(?: \[([^\[\]]*)\])?", comments.get(f.name, ""))
        symbol, meaning, origin = parts.groups("") if parts else ("", "", "")
        default = "" if f.default is dataclasses.MISSING else f.default
        fields.append(
            {
                "field": f.name,
                "symbol": symbol,
                "type": describe_type(hints[f.name]),
                "default": default,
                "meaning": meaning,
                "source": origin,
            }
        )
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
        try:
            cost = f"{pairs_per_image(cls(), DATASETS['mnist']):g} forward+backward pairs per training image"
        except (Exception, SystemExit) as error:
            cost = f"its loss fails, see `bench check` ({type(error).__name__}: {error}{line_of(error, cls())})"
        typer.echo(f"\nno presets: the defaults serve every data set and noise level; {plain(cost)}")
        return
    typer.echo("\npresets (pairs = forward+backward pairs per training image; settings: what is not the default above):")
    defaults = {field["field"]: field["default"] for field in fields}
    rows = [
        {
            **{name: preset[name] for name in ("recipe", "variant", "data set", "sigma")},
            "pairs": f"{preset['pairs/image']:g}",
            "settings": ", ".join(f"{k}={v}" for k, v in preset.items() if k in defaults and v != defaults[k]) or "-",
        }
        for preset in presets
    ]
    _print_rows(rows)
    for line in sources:
        typer.echo(f"\n{line}")


def _show_run(run: Run, as_json: bool) -> None:
    from bench.spec import canonical, to_json
    from leaderboard.metrics import average_certified_radius, outcomes

    def work() -> dict[str, Any]:
        certifications = []
        for c in run.certifications():
            columns, total = c.standing().columns, len(c.expected())
            item: dict[str, Any] = {"key": c.spec.key, "spec": to_json(c.spec), "images": f"{len(columns)}/{total}"}
            if len(columns) == total:
                item[f"acr (alpha {ALPHA})"] = average_certified_radius(outcomes(columns, ALPHA, run.spec.sigma, c.spec))
            certifications.append(item)
        return {
            "path": str(run.path),
            "key": run.spec.key,
            "spec": to_json(run.spec),
            "training": run.training(),
            "failure": run.failure(),
            "timing": run.timing(),
            "environment": run.environment(),
            "curve": _read_curve(run),
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
    typer.echo(f"training: {training['state'] if training else 'unfinished'}")
    if timing:
        typer.echo(f"speed: {_speed(timing)}")
    for problem in (data["failure"], training if training and training["state"] == "diverged" else None):
        if problem:
            typer.echo(f"reason: {problem['reason']}")
    typer.echo(f"train: {canonical(data['spec']['train'])}")
    typer.echo(f"hyperparameters: {canonical(data['spec']['hyperparameters'])}")
    for item in data["certifications"]:
        acr = item.get(f"acr (alpha {ALPHA})")
        typer.echo(f"certification {item['key']}: {item['images']} images" + ("" if acr is None else f", ACR {acr:.4f} at alpha {ALPHA}"))
    if data["environment"]:
        typer.echo(f"environment: {canonical(data['environment'])}")
    if data["curve"]:
        shown = data["curve"][:: max(1, len(data["curve"]) // 10)]
        typer.echo("training curve (some rows; all in curve.csv):")
        _print_rows([{k: "" if v is None else f"{v:.4g}" for k, v in row.items()} for row in shown])


def _speed(timing: dict[str, Any]) -> str:
    """A run's timing.json in words; one of an earlier release has fewer entries."""
    parts = [
        clock(timing["training_seconds"]),
        f"{timing['images_per_second']:.0f} images/s",
        f"{timing['pairs_per_image']:g} pairs/image",
    ]
    per_epoch, share, peak = (
        value if isinstance(value := timing.get(name), int | float) else None
        for name in ("seconds_per_epoch", "attack_share", "peak_memory_bytes")
    )
    if per_epoch is not None:
        parts.append(f"{clock(per_epoch)} per epoch")
    if share is not None:
        parts.append(f"{share:.0%} of it in the attack")
    if peak is not None:
        parts.append(f"at most {peak / 2**30:.2f} GiB of memory")
    return ", ".join(parts)


def _read_curve(run: Run) -> list[dict[str, float | None]]:
    """Rows of curve.csv; BenchError if it is damaged."""
    if not run.curve.exists():
        return []
    try:
        rows = list(csv.DictReader(run.curve.read_text().splitlines(), strict=True))
        return [{name: float(value) if value else None for name, value in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise BenchError(f"{run.curve}: not a training curve: {error}") from None
