"""`bench new-method` and `bench check`: the way of a method into the suite."""

from __future__ import annotations

import keyword
import re
import shlex
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

import bench.cli.options as options
from bench.cli.command import option
from bench.cli.common import plain, plugins, refuse, stop
from bench.cli.data import DataDir, check_data_dir
from bench.errors import unknown
from bench.spec import NAME

SHOWN = ("index", "length", "ascent", "survey", "weights", "prior")
"""What a method may ask of the engine, beyond images, labels and noise."""


def new_method(
    name: Annotated[str, typer.Argument(help="The method's name; the file will be NAME.py.")],
    folder: Annotated[Path, option("--folder", None, "Where to write it.")] = Path(),
    abilities: Annotated[
        str | None, option("--with", "WORDS", f"What else the file shows, such as survey,weights: {', '.join(SHOWN)}.")
    ] = None,
) -> None:
    """Write NAME.py, a method that runs as it is, to start from."""
    from jinja2 import Environment

    from bench.registry import Registry

    path = folder / f"{name}.py"
    title = name.replace("_", " ").replace("-", " ").title()
    class_name = title.replace(" ", "")
    shown = [word.strip() for word in (abilities or "").split(",") if word.strip()]
    problems = [problem for word in shown for problem in unknown("--with", word, SHOWN)]
    source = (files("bench") / "assets" / "new_method.py.txt").read_text(encoding="utf-8")
    template = Environment(line_statement_prefix="%%", keep_trailing_newline=True).from_string(source)
    values = dict.fromkeys(shown, True) | {"year": date.today().year}
    taken = keyword.iskeyword(class_name) or re.search(rf"\b{class_name}\b", template.render(values))
    if not NAME.match(name) or not class_name.isidentifier() or name != name.lower() or taken:
        problems.append(f"{name!r} is no name for a method: lower case letters, digits, - and _, a letter first, such as my_method")
    elif name in Registry().entries():
        problems.append(f"there is already a method {name!r}; choose another name")
    if not folder.is_dir():
        problems.append(f"--folder {folder}: there is no such folder")
    elif path.exists():
        problems.append(f"{path} is already there, and is left as it is")
    refuse(problems)
    path.write_text(template.render(values, title=title, class_name=class_name), encoding="utf-8")
    typer.echo(f"wrote {path}; next:")
    word = shlex.quote(str(path))
    typer.echo(f"  bench check {word}")
    typer.echo(f"  bench run --plugin {word} --method {name} --protocol smoke")


def check(
    method: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A method, data set, network or metric: its name or its .py file.")],
    plugin: options.Plugins = None,
    data_dir: DataDir = None,
) -> None:
    """Check a method, data set or metric against its public contract; a network is loaded. Exit code 1 if a promise is broken."""
    from rich.console import Console

    from bench.contract import Result, check_dataset, check_metric
    from bench.contract import check as check_method
    from bench.registry import DATASET, KINDS, METHOD, METRIC, NETWORK, Registry

    as_file = method.endswith(".py") or "/" in method
    problems: list[str] = []
    extra = [*plugins(plugin, problems), *([Path(method)] if as_file else [])]
    name = Path(method).stem if as_file else method
    check_data_dir(data_dir, problems)
    refuse(problems)
    if as_file and not Path(method).is_file():
        stop([f"{method} is not a file; `bench new-method {name}` writes one"])

    registry = Registry(tuple(extra))
    found = [kind for kind in KINDS if name in registry.entries(kind)]
    results: list[Result] = []
    for kind in found or [METHOD]:
        if kind is METHOD:
            results += check_method(registry.load(name))
        elif kind is DATASET:
            results += check_dataset(registry.load_dataset(name), data_dir)
        else:
            registry.load_network(name) if kind is NETWORK else registry.load_metrics([name])
            results.append(Result(f"its file holds a {kind.word} of its name", None))
            results += [check_metric(name)] if kind is METRIC else []
    console = Console(highlight=False, soft_wrap=True)
    tried = [result for result in results if result.tried]
    for result in tried:
        mark = "[red]broken[/red]" if result.problem else "[green]holds [/green]"
        console.print(f"{mark}  {result.promise}")
        if result.problem:
            console.print(f"        {plain(result.problem)}", markup=False)
    broken = sum(result.problem is not None for result in tried)
    untried = f", {len(results) - len(tried)} were not tried" if len(tried) < len(results) else ""
    console.print(f"{name}: {len(tried) - broken} of {len(results)} promises hold{untried}", markup=False)
    raise typer.Exit(int(broken > 0))
