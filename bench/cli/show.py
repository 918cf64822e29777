"""`bench show`: what a method is, or what a run was and what came of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.common import clock, guarded, plugin_paths, print_json, print_rows, say, stop
from bench.errors import BenchError, nearest
from bench.files.walk import SURVEY

if TYPE_CHECKING:
    from bench.method import Method
    from bench.registry import Loaded
    from bench.store.runs import Run
    from bench.store.subject import Certification


def show(
    what: Annotated[str, typer.Argument(metavar="METHOD|RUN", help="A method's name, or a run's folder, key or first digits of the key.")],
    plugin: options.Plugins = None,
    results: options.Results = Path("results/runs"),
    as_json: options.Json = False,
) -> None:
    """Show what a method's hyperparameters are, or what a run was and what came of it."""
    from bench.registry import Registry
    from bench.store.runs import Store

    registry = Registry(plugin_paths(plugin))
    name, dot, variant = what.partition(".")
    if name in guarded(registry.entries):
        loaded = guarded(lambda: registry.load(name))
        if dot and variant not in loaded.cls.variants:
            stop([f"method {name!r} has no variant {variant!r}{nearest(variant, loaded.cls.variants)}"])
        data = _method(loaded)
        print_json(data) if as_json else _print_method(loaded, data)
        return

    def find() -> Run:
        try:
            return Store(results).find(what)
        except BenchError as error:
            raise BenchError(f"{what!r} is no method{nearest(what, registry.entries())} ({error})") from None

    run = guarded(find)
    data = guarded(lambda: _run(run))
    print_json(data) if as_json else _print_run(run, data)


# ---- a method


def _method(loaded: Loaded) -> dict[str, Any]:
    """What --json prints: fields with symbol, meaning and source of each from the comment behind it, and presets with their cost."""
    import dataclasses
    import inspect
    import typing

    from bench.spec import describe_type

    cls = loaded.cls
    hints = typing.get_type_hints(cls)
    source = inspect.getsource(inspect.getmodule(cls) or cls)
    comments = dict(re.findall(r"^    (\w+): [^#\n]*?  # (.+)$", source, re.M))
    fields = []
    for f in dataclasses.fields(cls):
        parts = re.fullmatch(r"(?:(\S+): )?(.*?)(?: \[([^\[\]]*)\])?", comments.get(f.name, ""))
        symbol, meaning, origin = parts.groups("") if parts else ("", "", "")
        told = {"type": describe_type(hints[f.name]), "default": "" if f.default is dataclasses.MISSING else f.default}
        fields.append({"field": f.name, "symbol": symbol, **told, "meaning": meaning, "source": origin})
    presets = [
        dict(zip(("recipe", "variant", "data set", "sigma"), place, strict=True))
        | {f.name: getattr(preset, f.name) for f in dataclasses.fields(cls)}
        | {"pairs/image": _pairs(preset)}
        for place, preset in cls.presets.items()
    ]
    blocks = re.findall(r"^# Sources?:.*(?:\n# .*)*", source, re.M)
    sources = [" ".join(line.lstrip("# ").strip() for line in block.splitlines()) for block in blocks]
    named = {"name": loaded.name, "doc": loaded.doc, "source_sha256": loaded.source_sha256, "variants": cls.variants}
    return named | {"fields": fields, "preset_sources": sources, "presets": presets}


def _pairs(method: Method) -> float:
    """Forward and backward passes per training image."""
    from bench.datasets import DATASETS
    from bench.train.passes import pairs_per_image

    return pairs_per_image(method, DATASETS["mnist"])


def _print_method(loaded: Loaded, data: dict[str, Any]) -> None:
    from bench.train.loop import line_of

    typer.echo(loaded.doc.strip())
    say("")
    say(f"variants: {', '.join(loaded.cls.variants)} (the first is the default)")
    typer.echo("\nhyperparameters (change one with --set FIELD=VALUE):")
    print_rows(data["fields"])
    say("")
    if not data["presets"]:
        method = loaded.cls()
        try:
            cost = f"{_pairs(method):g} forward+backward pairs per training image"
        except (Exception, SystemExit) as error:  # whatever a stranger's loss raises
            cost = f"its loss fails, see `bench check` ({type(error).__name__}: {error}{line_of(error, method)})"
        say(f"no presets: the defaults serve every data set and noise level; {cost}")
        return
    say("presets (pairs = forward+backward pairs per training image; settings: what is not the default above):")
    defaults = {field["field"]: field["default"] for field in data["fields"]}
    print_rows(
        [
            {
                **{name: preset[name] for name in ("recipe", "variant", "data set", "sigma")},
                "pairs": f"{preset['pairs/image']:g}",
                "settings": ", ".join(f"{k}={v}" for k, v in preset.items() if k in defaults and v != defaults[k]) or "-",
            }
            for preset in data["presets"]
        ]
    )
    for line in data["preset_sources"]:
        typer.echo(f"\n{line}")


# ---- a run


def _run(run: Run) -> dict[str, Any]:
    """What --json prints.

    Raises:
        BenchError: a record of the training that is damaged; a damaged certification is an entry of its own.
    """
    from bench.spec import to_json
    from bench.store.subject import Damaged

    faults = run.faults()
    certifications = [
        {"key": c.path.name.partition("-")[2], "damaged": c.reason} if isinstance(c, Damaged) else _certification(c, faults)
        for c in run.begun()
    ]
    return {
        "path": str(run.path),
        "key": run.spec.key,
        "spec": to_json(run.spec),
        "training": run.training(),
        "surveys": {name: _survey(run, name) for name in run.names() if SURVEY.match(name)},
        "failure": run.failure(),
        "timing": run.timing(),
        "environment": run.environment(),
        "curve": _read_curve(run),
        "certifications": certifications,
    }


def _survey(run: Run, name: str) -> dict[str, Any]:
    """What was asked in a survey, or what is wrong with its file."""
    from bench.store.surveys import facts

    try:
        return facts(run.path / name)
    except BenchError as error:
        return {"damaged": str(error)}


def _certification(c: Certification, faults: list[Any]) -> dict[str, Any]:
    """One of a run's certifications; `faults` are those of the run."""
    from bench import rules
    from bench.spec import to_json
    from leaderboard.metrics import average_certified_radius, outcomes

    rule = rules.of(c.spec)
    item: dict[str, Any] = {"key": c.spec.key, "spec": to_json(c.spec), "rule": rule.words(), "alpha": rule.alpha}
    try:
        if faults:
            raise faults[0]
        columns, total = c.status().sound().columns, len(c.expected())
    except BenchError as error:
        return item | {"damaged": str(error)}
    item["images"] = f"{len(columns)}/{total}"
    if len(columns) == total:
        o = outcomes(columns, rule.alpha, c.subject.sigma, c.spec)
        item["drawn"] = o.drawn
        if rule.acr != "none":
            item[f"acr (alpha {rule.alpha})"] = average_certified_radius(o)
    return item


def _print_run(run: Run, data: dict[str, Any]) -> None:
    from bench.rules.rule import drawn_words
    from bench.spec import canonical

    spec, training = run.spec, data["training"]
    say(f"{run.named.row} on {spec.dataset}, sigma {spec.sigma:g}, seed {spec.seed}; {spec.protocol}, {spec.recipe}")
    say(f"key {spec.key} in {run.path}")
    say(f"training: {training['state'] if training else 'unfinished'}")
    if data["timing"]:
        say(f"speed: {_speed(data['timing'])}")
    for problem in (data["failure"], training if training and training["state"] == "diverged" else None):
        if problem:
            say(f"reason: {problem['reason']}")
    for name, facts in data["surveys"].items():
        told = facts.get("damaged") or f"{facts['copies']} copies of each training image before epoch {facts['epoch']}"
        say(f"survey {name}: {told}")
    for name in ("train", "hyperparameters"):
        say(f"{name}: {canonical(data['spec'][name])}")
    for item in data["certifications"]:
        if "damaged" in item:
            say(f"certification {item['key']}: damaged: {item['damaged']}")
            continue
        n, acr = item["spec"]["n"], item.get(f"acr (alpha {item['alpha']})")
        told = f", ACR {acr:.4f} at alpha {item['alpha']:g}" if acr is not None else ""
        say(f"certification {item['key']}: {item['images']} images{told}, {item['rule']}, n = {n:,}{drawn_words(n, item.get('drawn'))}")
    if data["environment"]:
        say(f"environment: {canonical(data['environment'])}")
    if curve := data["curve"]:
        say("training curve (some rows; all in curve.csv):")
        print_rows([{k: "" if v is None else f"{v:.4g}" for k, v in row.items()} for row in curve[:: max(1, len(curve) // 10)]])


def _speed(timing: dict[str, Any]) -> str:
    """A run's timing.json in words; one of an earlier release has fewer entries."""
    parts = [
        clock(timing["training_seconds"]),
        f"{timing['images_per_second']:.0f} images/s",
        f"{timing['pairs_per_image']:g} pairs/image",
    ]
    later: dict[str, Callable[[Any], str]] = {
        "seconds_per_epoch": lambda v: f"{clock(v)} per epoch",
        "survey_passes_per_image": lambda v: f"{v:.3g} forward passes/image in surveys",
        "attack_share": lambda v: f"{v:.0%} of it in the attack",
        "peak_memory_bytes": lambda v: f"at most {v / 2**30:.2f} GiB of memory",
    }
    parts += [told(timing[name]) for name, told in later.items() if isinstance(timing.get(name), int | float)]
    return ", ".join(parts)


def _read_curve(run: Run) -> list[dict[str, float | None]]:
    """Rows of curve.csv; BenchError if it is damaged."""
    from bench.evidence.records import check_curve
    from bench.files import disk

    check_curve(run.curve)
    rows = csv.DictReader((disk.read_if_there(run.curve) or b"").decode().splitlines())
    return [{name: float(value) if value else None for name, value in row.items()} for row in rows]
