"""`bench show`: what a method is, or what a run was and what came of it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.common import Json, Plugins, Results, clock, guarded, plain, plugin_paths, print_json, print_rows, stop
from bench.errors import BenchError, nearest

if TYPE_CHECKING:
    from bench.registry import Loaded
    from bench.store.runs import Run


def show(
    what: Annotated[str, typer.Argument(metavar="METHOD|RUN", help="A method's name, or a run's key (its first digits do) or folder.")],
    plugin: Plugins = None,
    results: Results = Path("results/runs"),
    as_json: Json = False,
) -> None:
    """Show a method's hyperparameters, presets and cost, or what a run was and what came of it."""
    from bench.registry import Registry

    registry = Registry(plugin_paths(plugin))
    name, dot, variant = what.partition(".")
    if name in guarded(registry.entries):
        loaded = guarded(lambda: registry.load(name))
        if dot and variant not in loaded.cls.variants:
            stop([f"method {name!r} has no variant {variant!r}{nearest(variant, loaded.cls.variants)}"])
        _show_method(loaded, as_json)
        return
    from bench.store.runs import Store

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
    from bench.train.loop import line_of
    from bench.train.passes import pairs_per_image

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
    print_rows(fields)
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
    print_rows(rows)
    for line in sources:
        typer.echo(f"\n{line}")


def _show_run(run: Run, as_json: bool) -> None:
    from bench import rules
    from bench.rules.rule import drawn_words
    from bench.spec import canonical, to_json
    from bench.store.runs import Damaged
    from leaderboard.metrics import average_certified_radius, outcomes

    def work() -> dict[str, Any]:
        certifications, faults = [], run.faults()
        for c in run.begun():
            if isinstance(c, Damaged):
                certifications.append({"key": c.path.name.partition("-")[2], "damaged": c.reason})
                continue
            rule = rules.of(c.spec)
            item: dict[str, Any] = {"key": c.spec.key, "spec": to_json(c.spec), "rule": rule.words(), "alpha": rule.alpha}
            certifications.append(item)
            try:
                if faults:
                    raise faults[0]
                columns, total = c.standing().columns, len(c.expected())
            except BenchError as error:
                item["damaged"] = str(error)
                continue
            item["images"] = f"{len(columns)}/{total}"
            if len(columns) == total:
                o = outcomes(columns, rule.alpha, run.spec.sigma, c.spec)
                item["drawn"] = o.drawn
                if rule.acr != "none":
                    item[f"acr (alpha {rule.alpha})"] = average_certified_radius(o)
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
        f"{run.named.row} on {run.spec.dataset}, sigma {run.spec.sigma:g}, seed {run.spec.seed}; {run.spec.protocol}, {run.spec.recipe}"
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
        if "damaged" in item:
            typer.echo(plain(f"certification {item['key']}: damaged: {item['damaged']}"))
            continue
        n, acr = item["spec"]["n"], item.get(f"acr (alpha {item['alpha']})")
        told = f", ACR {acr:.4f} at alpha {item['alpha']:g}" if acr is not None else ""
        typer.echo(
            f"certification {item['key']}: {item['images']} images{told}, {item['rule']}, n = {n:,}{drawn_words(n, item.get('drawn'))}"
        )
    if data["environment"]:
        typer.echo(f"environment: {canonical(data['environment'])}")
    if data["curve"]:
        shown = data["curve"][:: max(1, len(data["curve"]) // 10)]
        typer.echo("training curve (some rows; all in curve.csv):")
        print_rows([{k: "" if v is None else f"{v:.4g}" for k, v in row.items()} for row in shown])


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
    from bench.evidence.records import check_curve
    from bench.files import disk

    check_curve(run.curve)
    rows = csv.DictReader((disk.read_if_there(run.curve) or b"").decode().splitlines())
    return [{name: float(value) if value else None for name, value in row.items()} for row in rows]
