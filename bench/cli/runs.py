"""`bench run`: plan, train, certify, continue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bench.cli.options as options
import bench.cli.studies as studies
from bench.cli.command import CERTIFICATION, CLUSTERS, OUTPUT, TRAINING, option, switch
from bench.cli.common import changes, check_folder, check_out, numbers, plugins, print_json, say, seeds, stop, words
from bench.cli.data import DataDir, check_data_dir
from bench.cli.devices import Devices, Precision, SyncBatchnorm, training_changes
from bench.cli.outcome import conclude, how_to_resume
from bench.cli.plots import check_picture
from bench.errors import BenchError, unknown

if TYPE_CHECKING:
    from bench.api.request import RunRequest
    from bench.api.study import Study


def run(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="STUDY", show_default=False, help="A .toml file that says what flags say; --save-study writes one."),
    ] = None,
    method: Annotated[
        list[str] | None,
        option(
            "--method",
            "NAME",
            "Rows: smoothmix means its default variant, smoothmix.eta1 another, 'smoothmix*' all rows of such names, 'mine[strength=0.5]' "
            "one with a change. Default: those of --plugin, else the paper's.",
        ),
    ] = None,
    dataset: Annotated[list[str] | None, option("--dataset", "NAME", "Data sets. Default: mnist.")] = None,
    sigma: Annotated[list[str] | None, option("--sigma", "S", "Noise levels, in pixels of [0, 1]. Default: the paper's.")] = None,
    seed: Annotated[
        list[str] | None, option("--seeds", "N", "5 means seeds 0 to 4; '0,3,4' or '3,' means just those. Default: the protocol's.")
    ] = None,
    protocol: Annotated[
        str, option("--protocol", "NAME", "How much is trained and certified: smoke, quick or full (the paper's).")
    ] = "quick",
    recipe: Annotated[
        str, option("--recipe", "NAME", "Hyperparameters where paper and code disagree: official (the code) or paper.")
    ] = "official",
    change: Annotated[
        list[str] | None,
        option(
            "--set",
            "NAME=X",
            "Change the training (train.epochs=3), the certification (certify.n=1000) or a hyperparameter that all rows have "
            "(step_size=0.5); --method changes that of one.",
        ),
    ] = None,
    plugin: options.Plugins = None,
    device: options.Device = "auto",
    batch: Annotated[int | None, option("--batch", "N", "Samples per certification pass; it never changes a count.", CERTIFICATION)] = None,
    micro_batch: Annotated[
        int | None, option("--micro-batch", "N", "Split training steps into pieces of N images, to save memory.", TRAINING)
    ] = None,
    devices_per_cell: Devices = None,
    precision: Precision = None,
    sync_batchnorm: SyncBatchnorm = False,
    no_graph: Annotated[bool, switch("--no-graph", "Do not use CUDA graphs for training steps.", TRAINING)] = False,
    data_dir: DataDir = None,
    jobs: Annotated[
        str | None,
        option(
            "--jobs",
            "N",
            "Cells at the same time, each in its own process; auto means one per GPU slot or core. Default: one by one, here.",
            CLUSTERS,
        ),
    ] = None,
    slots_per_gpu: Annotated[int, option("--slots-per-gpu", "N", "Cells that share a GPU under --jobs.", CLUSTERS)] = 1,
    timeout: Annotated[float | None, option("--timeout", "SEC", "Give up a cell after so many seconds.", CLUSTERS)] = None,
    executor: Annotated[
        str | None,
        option(
            "--executor",
            "NAME",
            "What runs the cells: local processes, a ray cluster, or slurm jobs, which are submitted and not waited for.",
            CLUSTERS,
        ),
    ] = None,
    address: Annotated[
        str | None, option("--address", "HOST", "HOST:PORT of a Ray cluster. Default: one on this machine.", CLUSTERS)
    ] = None,
    resources: Annotated[
        list[str] | None,
        option(
            "--resources",
            "NAME=X",
            "What a cell asks for, such as gpus=0.25,memory=16; METHOD:gpus=1 for one method. Names: cpus, gpus, memory (GB), and "
            "for Slurm minutes, partition, account, qos and constraint.",
            CLUSTERS,
        ),
    ] = None,
    cells_per_job: Annotated[int, option("--cells-per-job", "N", "Cells of a Slurm job, one after the other.", CLUSTERS)] = 1,
    emit: Annotated[
        str | None, option("--emit", "commands", "Print one shell command per cell, for any scheduler, and stop.", CLUSTERS)
    ] = None,
    results: options.Results = Path("results/runs"),
    dry_run: Annotated[bool, switch("--dry-run", "Print the plan and stop.")] = False,
    number: Annotated[int | None, option("--table", "N", "Run the rows and noise levels of table 4 to 11 of the paper.")] = None,
    rerun: Annotated[
        str | None, option("--rerun", "WHICH", "Compute diverged or all cells again; old folders are kept in DIR/.replaced.")
    ] = None,
    allow_changed_source: Annotated[
        bool, switch("--allow-changed-source", "Resume although the method's code has changed; recorded.", TRAINING)
    ] = False,
    skip_misclassified: options.SkipMisclassified = False,
    allow_other_data: Annotated[
        bool, switch("--allow-other-data", "Accept data files that are not the published ones; recorded.", TRAINING)
    ] = False,
    save_study: Annotated[Path | None, option("--save-study", "FILE", "Write what is asked for as a study file.", OUTPUT)] = None,
    plot: Annotated[
        Path | None, option("--plot", "FILE", "At the end, draw certified accuracy curves: .svg, .pdf or .png.", OUTPUT)
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train and certify every method at every noise level and seed, and print the table.

    Run the same command again to resume: finished cells are skipped, begun ones continue.

    Standard output is the table (or --json) alone; progress goes to standard error.

    A study file may say what to compute. Beside it, give only flags that say how and where, such as --jobs or --results.

    The paper is that of SmoothMix (Jeong et al. 2021), whose tables this suite began with.

    Exit codes: 0 all done, 1 some cells failed or diverged, 2 usage, 128 + signal when interrupted (130 for Ctrl-C).
    """
    from bench.api.request import Part, RunRequest
    from bench.executors.engine import Engine

    problems: list[str] = []
    wanted = changes(change, problems)
    if skip_misclassified:
        wanted.setdefault("certify.skip_misclassified", "true")
    training_changes(devices_per_cell, precision, sync_batchnorm, wanted, problems)
    part = Part(
        methods=words(method, "--method", problems),
        datasets=words(dataset, "--dataset", problems),
        sigmas=numbers(sigma, "--sigma", problems),
        seeds=seeds(seed, problems),
        protocol=protocol,
        recipe=recipe,
        changes=wanted,
        table=number,
    )
    request = RunRequest(
        parts=(part,),
        plugins=plugins(plugin, problems),
        results=results,
        engine=Engine(
            name=executor,
            address=address,
            jobs=jobs,
            slots_per_gpu=slots_per_gpu,
            timeout=timeout,
            resources=tuple(resources or ()),
            cells_per_job=cells_per_job,
            device=device,
        ),
        batch=batch,
        micro_batch=micro_batch,
        graph=not no_graph,
        rerun=rerun,
        allow_changed_source=allow_changed_source,
        allow_other_data=allow_other_data,
        data_dir=data_dir,
    )
    study, notes = (None, []) if file is None else studies.read(file, studies.typed(context), request, problems)
    request = study.request if study else request
    check_folder(request.results, problems)
    check_data_dir(request.data_dir, problems)
    check_out(save_study, "study.toml", problems, "--save-study")
    check_picture(plot, "--plot", problems)
    endless = {"--dry-run": dry_run, "--emit": bool(emit), "--executor slurm": request.engine.name == "slurm"}
    waits = [flag for flag, given in endless.items() if plot and given]
    problems += [f"--plot draws the end of a run, and {flag} does not wait for it; leave out --plot" for flag in waits]
    _carry_out(request, problems, dry_run, emit, plot, quiet, as_json, study, notes, save_study)


def _carry_out(
    request: RunRequest,
    problems: list[str],
    dry_run: bool,
    emit: str | None,
    plot: Path | None,
    quiet: bool,
    as_json: bool,
    study: Study | None,
    notes: Sequence[str],
    save_study: Path | None,
) -> None:
    """Plans and checks, and then prints the plan, prints the lines that carry it out, submits it or carries it out."""
    from rich.console import Console

    from bench.api.matrix import Matrix
    from bench.api.words import estimate_json, total_json

    engine, results = request.engine, request.results
    problems += unknown("--emit", emit, ["commands"])
    if emit and dry_run:
        problems.append(f"--dry-run prints the plan and --emit {emit} the lines that carry it out; give one of them")
    if emit and (as_json or engine.jobs is not None):
        flag = "--json" if as_json else f"--jobs {engine.jobs}"
        problems.append(f"--emit {emit} prints shell lines, which whoever takes them carries out side by side or not; leave out {flag}")
    plan, chosen = request.prepare(problems)
    matrix = Matrix(request, plan, chosen, Console(stderr=as_json or not dry_run, quiet=quiet, highlight=False, soft_wrap=True))
    submitted = engine.name == "slurm"
    if submitted and not emit:
        matrix.check_slurm()
    missing = matrix.check_data(read=not (dry_run or engine.cluster or emit))
    if missing and not dry_run:
        stop(missing)
    for sentence in (*missing, *notes):
        matrix.say(f"note: {sentence}")
    if save_study is not None:
        matrix.say(studies.save(save_study, request))
    matrix.announce(detail=dry_run)
    if dry_run:
        if as_json:
            cells = [matrix.as_json(cell) | estimate_json(matrix.estimates.get(cell.id)) for cell in plan.cells]
            print_json({"results": str(results), "cells": cells, "total": total_json(matrix.estimates.values())})
        return
    if emit:
        for text in matrix.lines():
            typer.echo(text)
        return
    try:
        results.mkdir(parents=True, exist_ok=True)
        if study:
            study.keep(results)
    except OSError as error:
        stop([f"--results {results}: {error.strerror}"])
    code = matrix.submit() if submitted else matrix.run(resume=how_to_resume(request))
    if as_json:
        print_json({"results": str(results), "exit": code, "cells": [matrix.as_json(cell) for cell in plan.cells]})
    if code < 128:
        try:
            conclude(matrix, plot, table=not (quiet or as_json))
        except BenchError as error:
            say(f"bench: {error}", err=True)
    if quiet:
        for cell in plan.cells:
            if reason := matrix.reasons.get(cell.id):
                say(f"bench: {cell.name}: {matrix.states[cell.id]}: {reason}", err=True)
    raise typer.Exit(code)
