"""`bench submit` and `bench pull`: results handed in, and weights brought in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench.cli.options as options
from bench.cli.command import OUTPUT, option
from bench.cli.common import existing_folder, plugin_paths, refuse, say
from bench.errors import BenchError, counted

SHOWN = 20
MB = 10**6


def submit(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS", help="A results folder, a folder within one, or run folders.")],
    out: Annotated[Path, option("--out", "DIR", "New folder to write.", OUTPUT)],
    plugin: Annotated[list[str] | None, option("--plugin", "FILE", "Plug-in file that goes along; repeatable.", OUTPUT)] = None,
    weights_up_to: Annotated[float, option("--weights-up-to", "MB", "Leave out weights files above this size.", OUTPUT)] = 5,
    weights_at: Annotated[str | None, option("--weights-at", "URL", "Where the weights that are left out can be found.", OUTPUT)] = None,
) -> None:
    """Write results as a folder to hand in, with check sums.

    It is checked first: every planned image, every record, every radius. What is missing is named, and then nothing is written.

    Exit codes: 0 written, 1 something is missing, 2 usage.
    """
    from bench.registry import DATASET, NETWORK, kinds_in
    from bench.store.submission import check_address
    from bench.verify import submit as engine

    problems = []
    try:
        if out.exists() or out.is_symlink():
            problems.append(f"--out {out} is already there; name a new folder")
        elif not out.parent.is_dir() or not out.name:
            problems.append(f"--out {out}: there is no folder {out.parent}")
        elif inside := [folder for folder in results if out.resolve().is_relative_to(folder.resolve())]:
            problems.append(f"--out {out} lies in {inside[0]}, which would then hold these results twice; name a folder outside it")
        if weights_at is not None:
            check_address(weights_at)
    except (ValueError, OSError) as error:
        problems.append(f"--out {out}: {error.strerror}" if isinstance(error, OSError) else f"--weights-at: {error}")
    if not 0 <= weights_up_to < 1e6:
        problems.append(f"--weights-up-to {weights_up_to} must lie between 0 and a million MB")
    refuse(problems)
    plugins = plugin_paths(plugin)
    plan = engine.plan([existing_folder(folder, "RESULTS") for folder in results], plugins)
    for fault in plan.missing[:SHOWN]:
        say(f"missing: {fault}")
    if plan.missing:
        say(f"{counted(len(plan.missing), 'thing', '8,')} missing or not to be handed in; nothing is written")
        raise typer.Exit(1)
    said, report = engine.write(plan, out, largest=round(weights_up_to * MB), weights_at=weights_at or "")
    for remark in plan.remarks:
        say(f"note: {remark}")
    size = sum(listed.bytes for listed in said.files.values())
    say(f"{out}: {counted(len(said.files), 'file')}, {size / MB:.2f} MB")
    trainings, rows = counted(report.runs + report.subjects, "training", "8,"), counted(report.rows, "row", ",")
    say(f"{trainings}, {report.weights:,} of them with weights, {rows}")
    if said.elsewhere:
        left = sum(listed.bytes for listed in said.elsewhere.values())
        hint = (
            f"they are to lie at {weights_at}" if weights_at else "--weights-at says where they lie; without them no count can be repeated"
        )
        say(f"{counted(len(said.elsewhere), 'file', '8,')} of weights left out, {left / MB:.2f} MB: {hint}")
    again = bool(report.weights or said.elsewhere)
    code = [out / "plugins" / path.stem / path.name for path in plugins if again and {NETWORK, DATASET} & {*kinds_in(path)}]
    flags = "".join(f" --plugin {path}" for path in code)
    say(f"whoever takes it in runs: bench verify {out} --complete{' --recertify 66' if again else ''}{flags}")
    if code:
        say(f"      which imports {', '.join(path.name for path in code)}: read it first")


def pull(
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="Keys of runs, or their beginnings. Default: all.")] = None,
    where: Annotated[str, option("--from", "PLACE", "A folder or a URL (http, https or file).")] = "",
    results: options.Results = Path("results/runs"),
    timeout: Annotated[float, option("--timeout", "SEC", "Give up when the server is silent for so long.")] = 30,
    limit: Annotated[float, option("--limit", "MB", "Largest file to fetch, where no list of a submission says it.")] = 1000,
) -> None:
    """Fetch the weights of runs whose evidence is here.

    With them, certify, predict, attack and verify --recertify work. Weights are looked for
    as in a results folder, then as KEY.safetensors. They are kept only if their SHA-256 is the one that the
    evidence names.

    Exit codes: 0 all are there, 1 some are not, 2 usage.
    """
    from rich.console import Console
    from rich.progress import Progress

    from bench.files import fetch
    from bench.store import pull as engine
    from bench.store.runs import Store
    from bench.store.submission import check_address

    problems = []
    if not where:
        problems.append("--from is needed: the folder or the address that has the weights")
    if not 0 < timeout < 1e6:
        problems.append(f"--timeout {timeout} must be a number of seconds above 0")
    if not 0 < limit < 1e6:
        problems.append(f"--limit {limit} must lie between 0 and a million MB")
    try:
        if fetch.is_address(where):
            check_address(where)
        elif where:
            fetch.folder_of(where)
    except (ValueError, BenchError) as error:
        problems.append(f"--from: {error}")
    refuse(problems)
    existing_folder(results)
    chosen, faults = engine.wanted(Store(results), keys or [])
    for fault in faults:
        say(f"not read: {fault}")
    failed = 0
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for subject in chosen:
            task = bar.add_task(subject.key, total=None)
            try:
                size = engine.pull(
                    subject,
                    results,
                    where,
                    limit=round(limit * MB),
                    seconds=timeout,
                    progress=lambda more, task=task: bar.advance(task, more),  # type: ignore[misc]
                )
                say(f"{subject.key}: {'its weights are there' if size is None else f'{size / MB:.2f} MB, as recorded'}")
            except (BenchError, OSError) as error:
                failed += 1
                say(f"{subject.key}: {error}")
            bar.remove_task(task)
    say(f"{len(chosen) - failed} of {counted(len(chosen), 'run')} in {results} with weights")
    raise typer.Exit(int(bool(failed or faults)))
