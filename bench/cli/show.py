"""`bench show`: what a method is, or what a run was and what came of it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.command import CERTIFICATION, option
from bench.cli.common import check_alpha, clock, existing_folder, print_json, print_rows, refuse, say, say_long, stop, use_plugins
from bench.cli.trace import say_trace, trace
from bench.errors import BenchError, UsageError, counted, lies_here, nearest
from bench.files import disk

if TYPE_CHECKING:
    from bench.method import Method
    from bench.registry import Loaded
    from bench.store.runs import Run
    from bench.store.subject import Certification, Subject


def show(
    what: Annotated[str, typer.Argument(metavar="METHOD|RUN", help="A method's name, or a run's folder, key or first digits of the key.")],
    image: Annotated[
        int | None,
        option(
            "--image", "N", "Trace test image N of a run or certified checkpoint: counts, bound and radius, step by step.", CERTIFICATION
        ),
    ] = None,
    certification: options.Certification = None,
    alpha: options.Alpha = None,
    rule: options.ReadBy = None,
    plugin: Annotated[list[str] | None, options.plugin("a method to show, or of the data set of a run")] = None,
    results: options.Results = Path("results/runs"),
    as_json: options.Json = False,
) -> None:
    """Show what a method's hyperparameters are, or what a run was and what came of it.

    With --image it traces one number: from the counts of an image to its radius and what it adds to the table.
    """
    problems = [f"--image {image} must be a whole number from 0 up"] if image is not None and image < 0 else []
    of_image = {"--certification": certification, "--alpha": alpha, "--rule": rule}
    problems += [f"{flag} goes with --image" for flag, value in of_image.items() if image is None and value is not None]
    check_alpha(alpha, problems)
    refuse(problems)
    from bench.registry import Registry
    from bench.store.checkpoints import Checkpoint
    from bench.store.runs import DEFAULT_ROOT, Run, Store

    registry = use_plugins(plugin, "data set") or Registry(())
    name, dot, variant = what.partition(".")
    if image is None and name in registry.entries():
        loaded = registry.load(name)
        if dot and variant not in loaded.cls.variants:
            stop([f"method {name!r} has no variant {variant!r}{nearest(variant, loaded.cls.variants)}"])
        data = _method(loaded)
        print_json(data) if as_json else _print_method(loaded, data)
        return

    if results != DEFAULT_ROOT:
        existing_folder(results)
    store = Store(results)
    try:
        subject: Subject = store.find(what) if disk.there(Path(what) / "spec.json") else store.named(what, Run, Checkpoint)
    except BenchError as error:
        if image is not None or isinstance(error, UsageError) or re.fullmatch(r"[0-9a-f]*\d[0-9a-f]*|.*/.*", what):  # a key or a folder
            raise
        raise BenchError(f"{what!r} is no method{lies_here(what) or nearest(what, registry.entries())} ({error})") from None
    if image is not None:
        traced = trace(subject, image, certification, alpha, rule)
        if as_json:
            print_json(traced)
            return
        for place, found in enumerate(traced):
            if place:
                say("")
            if len(traced) > 1:
                say_long(f"certification {found['certification']}")
            say_trace(subject, found)
        return
    data = _run(subject)
    print_json(data) if as_json else _print_run(subject, data)


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
        | {"pairs/image": _pairs(preset, place[2])}
        for place, preset in cls.presets.items()
    ]
    blocks = re.findall(r"^# Sources?:.*(?:\n# .*)*", source, re.M)
    sources = [" ".join(line.lstrip("# ").strip() for line in block.splitlines()) for block in blocks]
    named = {"name": loaded.name, "doc": loaded.doc, "source_sha256": loaded.source_sha256, "variants": cls.variants}
    return named | {"fields": fields, "preset_sources": sources, "presets": presets}


def _pairs(method: Method, dataset: str = "mnist") -> float:
    """Forward and backward passes per training image, on average over a training."""
    from bench.datasets import DATASETS
    from bench.train.passes import pairs_per_image

    return pairs_per_image(method, DATASETS[dataset])


def _print_method(loaded: Loaded, data: dict[str, Any]) -> None:
    from bench.train.loop import line_of

    typer.echo(loaded.doc.strip())
    say("")
    if len(loaded.cls.variants) > 1:
        say(f"variants: {', '.join(loaded.cls.variants)} (the first is the default)")
        say("")
    if data["fields"]:
        typer.echo("hyperparameters (change one with --set FIELD=VALUE):")
        print_rows(data["fields"])
    else:
        typer.echo("no hyperparameters")
    say("")
    if not data["presets"]:
        method = loaded.cls()
        try:
            cost = f"{_pairs(method):g} forward+backward pairs per training image"
        except (Exception, SystemExit) as error:  # whatever a stranger's loss raises
            cost = f"its loss fails, see `bench check` ({type(error).__name__}: {error}{line_of(error, method)})"
        say(f"no presets: the defaults serve every data set and noise level; {cost}")
        return
    say("presets (pairs = forward+backward pairs per training image, on average; settings: what is not the default above):")
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


def _run(run: Subject) -> dict[str, Any]:
    """What --json prints of a run or a certified checkpoint.

    Raises:
        BenchError: a record of the training that is damaged; a damaged certification is an entry of its own.
    """
    from bench.spec import to_json
    from bench.store.listing import command
    from bench.store.runs import Run, results_flag
    from bench.store.subject import Damaged

    faults, begun = run.faults(), list(run.begun())
    certifications = [
        {"key": c.path.name.partition("-")[2], "damaged": c.reason} if isinstance(c, Damaged) else _certification(c, faults) for c in begun
    ]
    made: list[Any] = [c.spec for c in begun if not isinstance(c, Damaged)] or [None]
    return {
        "path": str(run.path),
        "key": run.key,
        "commands": [f"bench run {command(run.spec, one)}{results_flag(_root(run))}" for one in made] if isinstance(run, Run) else [],
        "spec": to_json(run.spec),
        "training": run.training(),
        "surveys": {name: _survey(run, name) for name in run.names() if disk.SURVEY.match(name)},
        "failure": run.failure(),
        "timing": run.timing(),
        "environment": run.environment(),
        "curve": _read_curve(run) if isinstance(run, Run) else [],
        "certifications": certifications,
    }


def _root(run: Subject) -> Path:
    """The results folder that it stands in."""
    return run.path.parents[len(run.place(run.spec).parts) - 1]


def _survey(run: Subject, name: str) -> dict[str, Any]:
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
    item["first_image"] = c.expected()[0]
    if len(columns) == total:
        o = outcomes(columns, rule.alpha, c.subject.sigma, c.spec)
        item["drawn"] = o.drawn
        if rule.acr != "none":
            item[f"acr (alpha {rule.alpha})"] = average_certified_radius(o)
    return item


def _print_run(run: Subject, data: dict[str, Any]) -> None:
    from bench.spec import PROTOCOLS

    training, spec = data["training"], data["spec"]
    seed = "" if run.seed is None else f", seed {run.seed}"
    say_long(f"{run.row} on {run.dataset}, sigma {run.sigma:g}{seed}")
    told = {"protocol": run.protocol, "recipe": run.recipe, "network": spec.get("train", spec).get("arch"), "key": run.key}
    told |= {"folder": data["path"], "training": _trained(data)}
    for problem in (data["failure"], training if training and training.get("state") == "diverged" else None):
        if problem:
            told["reason"] = problem["reason"]
    for name, value in told.items():
        if value:
            say(f"{name:9} {value}")
    for name, facts in data["surveys"].items():
        asked = facts.get("damaged") or f"{counted(facts['copies'], 'copy')} of each training image before epoch {facts['epoch']}"
        say(f"survey {name}: {asked}")
    for command in dict.fromkeys(data["commands"]):
        say(f"command   {command}{'' if run.protocol in PROTOCOLS else ' (its protocol is unknown here)'}")
    _print_certifications(run, data["certifications"])
    for title, values in (("hyperparameters", spec.get("hyperparameters")), ("training settings", spec.get("train"))):
        if values:
            say_long(f"{title}: {_words(values)}")
    if environment := data["environment"]:
        flat = {name: f"({_words(value)})" if isinstance(value, dict) else value for name, value in environment.items()}
        say_long(f"computed on: {_words(flat)}")
    if curve := data["curve"]:
        say("")
        say("training curve (some rows; all in curve.csv):")
        print_rows([{k: _number(k, v) for k, v in row.items()} for row in curve[:: max(1, len(curve) // 10)]])


def _trained(data: dict[str, Any]) -> str:
    training, timing = data["training"], data["timing"]
    state = training.get("state", "elsewhere") if training else "unfinished"
    return f"{state}, {_speed(timing)}" if timing else str(state)


def _print_certifications(run: Subject, items: list[dict[str, Any]]) -> None:
    """A table of the certifications that can be told apart by n, images and seed, and how one image of them is traced."""
    from bench.rules.rule import drawn_words
    from bench.store.runs import results_flag

    say("")
    if not items:
        say("no certification yet")
        return
    say("certifications:")
    rows = []
    alphas = {item["alpha"] for item in items if "alpha" in item}
    whole = [item for item in items if "damaged" not in item]
    for item in whole:
        spec, acr = item["spec"], item.get(f"acr (alpha {item['alpha']})")
        rows.append(
            {
                "key": item["key"],
                "images": f"{item['images']} ({spec['images']})",
                "n": f"{spec['n']:,}{drawn_words(spec['n'], item.get('drawn'))}",
                "n0": spec["n0"],
                "seed": spec["seed"],
                "rule": spec["rule"],
                **({"alpha": f"{item['alpha']:g}"} if len(alphas) > 1 else {}),
                "ACR": "-" if acr is None else f"{acr:.4f}",
            }
        )
    if rows:
        print_rows(rows)
        if len(alphas) == 1:
            say(f"ACR at alpha {min(alphas):g}")
    for item in items:
        if "damaged" in item:
            say(f"certification {item['key']}: damaged: {item['damaged']}")
    if whole:
        say(f"one image, step by step: bench show {run.key}{results_flag(_root(run))} --image {whole[0]['first_image']}")
    say("")


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _number(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if name in ("epoch", "step") else f"{value:.4g}"


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

    check_curve(run.curve)
    rows = csv.DictReader((disk.read_if_there(run.curve) or b"").decode().splitlines())
    return [{name: float(value) if value else None for name, value in row.items()} for row in rows]
