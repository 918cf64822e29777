"""`bench run`: plan, train, certify, continue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import bench.cli.options as options
from bench.cli.common import (
    Json,
    Plugins,
    Results,
    changes,
    check_folder,
    guarded,
    numbers,
    plugins,
    print_json,
    seeds,
    stop,
    words,
)
from bench.cli.data import DataDir, check_data_dir
from bench.cli.devices import Devices, Precision, SyncBatchnorm, training_changes
from bench.errors import BenchError, nearest
from bench.spec import PROTOCOL_ALIASES

RERUN = ("diverged", "all")


def run(
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME[.VARIANT]",
            help="Methods, comma-separated or repeated; patterns ('NAME.*') work. Default: those of --plugin, or the rows of the paper's "
            "table for the data set (mnist: the nine of Table 4).",
        ),
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option("--dataset", metavar="NAME", help="Data sets. Default: mnist.")] = None,
    sigma: Annotated[
        list[str] | None,
        typer.Option("--sigma", metavar="S", help="Noise levels in pixels of [0, 1]. Default: the paper's for the data set."),
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            "--seeds", metavar="N|LIST", help="5 means seeds 0 to 4; a list (0,3,4 or 3,) means just those. Default: the protocol's."
        ),
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="How much is trained and certified: smoke, quick or full (paper).")] = "quick",
    recipe: Annotated[
        str, typer.Option("--recipe", help="Where paper and authors' code disagree: official (the code) or paper.")
    ] = "official",
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a hyperparameter (step_size=0.5) or the protocol (train.epochs=3, certify.n=1000)."
        ),
    ] = None,
    plugin: Plugins = None,
    device: options.Device = "auto",
    batch: Annotated[int | None, typer.Option("--batch", help="Samples per certification pass; never changes a count.")] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option("--micro-batch", metavar="K", help="Images per piece of a training step, to save memory."),
    ] = None,
    devices_per_cell: Devices = None,
    precision: Precision = None,
    sync_batchnorm: SyncBatchnorm = False,
    no_graph: Annotated[
        bool, typer.Option("--no-graph", help="On CUDA: take every training step eagerly, instead of replaying it as a CUDA graph.")
    ] = False,
    data_dir: DataDir = None,
    jobs: Annotated[
        str | None,
        typer.Option(
            "--jobs",
            metavar="auto|N",
            help="Cells side by side, each slot in a process of its own: a crash, a lack of memory or a hang costs one cell. auto: one per "
            "GPU slot, else one per core. Default: one after the other in this process.",
        ),
    ] = None,
    slots_per_gpu: Annotated[int, typer.Option("--slots-per-gpu", metavar="K", help="Cells that share a GPU under --jobs.")] = 1,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Give a cell up after this time; implies --jobs 1.")
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            metavar="local|ray|slurm",
            help="Who carries cells out: processes of this machine (as --jobs), a Ray cluster, or Slurm jobs, which are submitted and not "
            "waited for; --jobs then limits the cells or jobs at a time.",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Of a Ray cluster. Default: one of this machine alone.")
    ] = None,
    resources: Annotated[
        list[str] | None,
        typer.Option(
            "--resources",
            metavar="[METHOD:]NAME=VALUE,...",
            help="What a cell asks of a cluster: cpus, gpus (0.25 lets four share one under Ray), memory in GB; for Slurm also minutes, "
            "partition, account, qos and constraint.",
        ),
    ] = None,
    cells_per_job: Annotated[int, typer.Option("--cells-per-job", metavar="K", help="Cells of a Slurm job, one after the other.")] = 1,
    emit: Annotated[
        str | None,
        typer.Option("--emit", metavar="commands", help="Print one shell line per cell to be done, for any scheduler, and stop."),
    ] = None,
    results: Results = Path("results/runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    number: Annotated[
        int | None, typer.Option("--table", metavar="N", help="The rows and noise levels of table 4 to 11 of the paper.")
    ] = None,
    rerun: Annotated[
        str | None,
        typer.Option("--rerun", metavar="diverged|all", help="Compute such cells again; the old folders are kept in DIR/.replaced."),
    ] = None,
    allow_changed_source: Annotated[
        bool, typer.Option("--allow-changed-source", help="Continue trainings begun with another source of their method; recorded.")
    ] = False,
    skip_misclassified: Annotated[
        bool,
        typer.Option("--skip-misclassified", help="Certify: draw no more where the selected class is wrong; abstention is then unknown."),
    ] = False,
    allow_other_data: Annotated[
        bool, typer.Option("--allow-other-data", help="Take data files that are not the published ones; recorded, and tables tell.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print problems only.")] = False,
    as_json: Json = False,
) -> None:
    """Train and certify the matrix method x sigma x seed. The same line again continues where it stopped.

    Exit codes: 0 all done, 1 some cells failed or diverged, 2 usage, 128 + signal when interrupted (130 for Ctrl-C).
    """
    from bench.api.matrix import Matrix
    from bench.api.words import estimate_json, total_json
    from bench.executors.engine import Engine

    problems: list[str] = []
    protocol = PROTOCOL_ALIASES.get(protocol, protocol)
    methods = words(method, "--method", problems)
    datasets = words(dataset, "--dataset", problems)
    sigmas = numbers(sigma, "--sigma", problems)
    chosen_seeds = seeds(seed, problems)
    wanted = changes(change, problems)
    if skip_misclassified:
        wanted.setdefault("certify.skip_misclassified", "true")
    training_changes(devices_per_cell, precision, sync_batchnorm, wanted, problems)
    paths = plugins(plugin, problems)
    check_folder(results, problems)
    check_data_dir(data_dir, problems)
    if rerun is not None and rerun not in RERUN:
        problems.append(f"--rerun {rerun} is unknown{nearest(rerun, RERUN)}")
    if batch is not None and batch < 1:
        problems.append(f"--batch {batch} must be at least 1")
    if micro_batch is not None and micro_batch < 1:
        problems.append(f"--micro-batch {micro_batch} must be at least 1")
    if emit not in (None, "commands"):
        problems.append(f"--emit {emit} is unknown{nearest(emit, ['commands'])}")
    if emit and dry_run:
        problems.append(f"--dry-run prints the plan and --emit {emit} the lines that carry it out; give one of them")
    if emit and (as_json or jobs is not None):
        flag = "--json" if as_json else f"--jobs {jobs}"
        problems.append(f"--emit {emit} prints shell lines, which whoever takes them carries out side by side or not; leave out {flag}")
    engine = Engine(
        name=executor,
        address=address,
        jobs=jobs,
        slots_per_gpu=slots_per_gpu,
        timeout=timeout,
        resources=tuple(resources or ()),
        cells_per_job=cells_per_job,
        device=device,
    )
    problems += engine.problems() or engine.missing()
    if number is not None and (methods or datasets or sigmas):
        problems.append("--table says which methods, data set and noise levels; leave out --method, --dataset and --sigma")

    import torch
    from rich.console import Console

    from bench.api.planning import plan_of
    from bench.matrix import report
    from bench.matrix.cells import Options, check_options
    from bench.matrix.plan import Request
    from bench.store.runs import Store

    chosen_device = torch.device("cpu")
    try:
        chosen_device = engine.pick_device()
    except BenchError as error:
        problems.append(str(error))
    request = Request(
        methods=methods, datasets=datasets, sigmas=sigmas, seeds=chosen_seeds, protocol=protocol, recipe=recipe, changes=wanted
    )
    plan = plan_of(request, paths, number, problems, results)
    if not problems:
        problems = check_options(
            plan.cells, lambda cell: engine.device_of(cell, chosen_device), micro_batch, here=not engine.cluster
        ) + engine.problems_of(plan.cells, chosen_device)
    if problems:
        stop(problems)
    options = Options(
        device=chosen_device,
        batch=batch,
        micro_batch=micro_batch,
        graph=not no_graph,
        allow_changed_source=allow_changed_source,
        allow_other_data=allow_other_data,
        data_dir=data_dir,
    )
    submitted = executor == "slurm"

    console = Console(stderr=as_json or emit is not None, quiet=quiet, highlight=False, soft_wrap=True)
    matrix = Matrix(plan, Store(results), console, rerun, paths)
    if submitted and not emit:
        guarded(lambda: matrix.check_slurm(options, engine))
    missing = matrix.check_data(data_dir, allow_other=allow_other_data, read=not (dry_run or engine.cluster or emit))
    if missing and not dry_run:
        stop(missing)
    for sentence in missing:
        matrix.say(f"note: {sentence}")
    matrix.announce(options, protocol, recipe, detail=dry_run, isolated=engine.isolated)
    if dry_run:
        if as_json:
            cells = [matrix.as_json(cell) | estimate_json(matrix.estimates.get(cell.id)) for cell in plan.cells]
            print_json({"results": str(results), "cells": cells, "total": total_json(matrix.estimates.values())})
        return
    if emit:
        for line in matrix.lines(options, replace(engine, name=None, address=None, resources=())):
            typer.echo(line)
        return
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        stop([f"--results {results}: {error.strerror}"])
    code = guarded(lambda: matrix.submit(options, engine) if submitted else matrix.run(options, engine))
    if not code and not submitted:
        matrix.say(f"next: {report.line('table', (), results)} --protocol {protocol}")
    if as_json:
        print_json({"results": str(results), "exit": code, "cells": [matrix.as_json(cell) for cell in plan.cells]})
    raise typer.Exit(code)
