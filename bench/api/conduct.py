"""Training and certification from Python, as `bench run` does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from rich.console import Console

from bench.api import study
from bench.api.matrix import Matrix
from bench.api.request import Part, RunRequest
from bench.errors import BenchError, UsageError
from bench.executors.engine import Engine
from bench.spec import Scalar, scalar_word
from bench.store.runs import Store
from bench.system.guards import as_before
from bench.system.signals import StopSignals
from leaderboard.frame.arguments import level, number, path, seeds_of, several, whole, word
from leaderboard.frame.load import read

T = TypeVar("T")


def run(
    method: str | Sequence[str] = (),
    *,
    dataset: str | Sequence[str] = (),
    sigma: float | Sequence[float] = (),
    seeds: int | Sequence[int] = (),
    protocol: str = "quick",
    recipe: str = "official",
    changes: Mapping[str, Scalar] | None = None,
    plugins: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    results: str | os.PathLike[str] = "results/runs",
    device: str = "auto",
    batch: int | None = None,
    micro_batch: int | None = None,
    graph: bool = True,
    data_dir: str | os.PathLike[str] | None = None,
    jobs: int | str | None = None,
    timeout: float | None = None,
    rerun: str | None = None,
    allow_changed_source: bool = False,
    allow_other_data: bool = False,
    alpha: float = 0.001,
    quiet: bool = False,
) -> pd.DataFrame:
    """Train and certify the matrix method x sigma x seed, as the command `bench run`, and return its evidence.

    What is in the results folder already is not computed again, so the same call resumes where an earlier one stopped.

    Interrupting it (Ctrl-C; the stop button of a notebook) ends the work at the next safe place, within seconds, with everything that was
    finished on disk; then KeyboardInterrupt is raised, and the kernel lives on. A second interrupt raises it at once; no finished row
    is lost then either. Run the same call again to resume.

    Afterwards torch's settings (threads, deterministic algorithms, gradient mode, precision, default dtype and device) and the random
    generators of torch, NumPy and Python are as they were.

    Args:
        method: rows such as `gaussian` or `smoothmix.eta5`; patterns work. Empty: those of the plug-ins, or the rows of the paper's table.
        dataset: empty: mnist.
        sigma: noise levels in pixels of [0, 1]; empty: the paper's for the data set.
        seeds: a number N means seeds 0 to N - 1, a list just those; empty: the protocol's.
        protocol: smoke, quick or full.
        recipe: official or paper.
        changes: of hyperparameters or of the protocol, as `{"train.epochs": 3, "certify.n": 1000}`.
        plugins: .py files with methods, networks or data sets of yours.
        results: the results folder; made if it is not there.
        device: auto, cpu or cuda.
        batch: samples per certification pass.
        micro_batch: images per piece of a training step.
        graph: on CUDA, replay training steps as a graph where they can be.
        data_dir: where the data sets are.
        jobs: cells side by side, each in a process of its own; `auto` for as many as there is room. None: one by one, in this process.
        timeout: seconds after which a cell is given up; each cell then has a process of its own.
        rerun: `diverged` or `all` computes such cells again.
        allow_changed_source: as of the command.
        allow_other_data: as of the command.
        alpha: at which the counts of the frame are read.
        quiet: print problems only.

    Returns:
        the finished cells, with the columns of `bench.load_results`. Cells that failed or diverged are named in `frame.attrs["left_out"]`.

    Raises:
        UsageError: everything that is wrong with the request, before anything ran. KeyboardInterrupt: it was interrupted.
    """
    problems: list[str] = []

    def checked(check: Callable[[], T], otherwise: T) -> T:
        try:
            return check()
        except BenchError as error:
            problems.append(str(error))
        return otherwise

    limit = checked(lambda: None if timeout is None else number(timeout, "timeout"), None)
    part = Part(
        methods=checked(lambda: several(method, "method", str), []),
        datasets=checked(lambda: several(dataset, "dataset", str), []),
        sigmas=checked(lambda: [number(one, "sigma") for one in several(sigma, "sigma", Real)], []),
        seeds=checked(lambda: seeds_of(seeds), []),
        protocol=checked(lambda: word(protocol, "protocol"), "quick"),
        recipe=checked(lambda: word(recipe, "recipe"), "official"),
        changes=checked(lambda: _words(changes), {}),
    )
    request = RunRequest(
        parts=(part,),
        plugins=tuple(map(Path, checked(lambda: several(plugins, "plugins", (str, os.PathLike)), []))),
        results=checked(lambda: path(results, "results"), Path()),
        engine=Engine(jobs=None if jobs is None else str(jobs), timeout=limit, device=device),
        batch=checked(lambda: None if batch is None else whole(batch, "batch", 1), None),
        micro_batch=checked(lambda: None if micro_batch is None else whole(micro_batch, "micro_batch", 1), None),
        graph=graph,
        rerun=rerun,
        allow_changed_source=allow_changed_source,
        allow_other_data=allow_other_data,
        data_dir=checked(lambda: None if data_dir is None else path(data_dir, "data_dir"), None),
    )
    checked(lambda: level(alpha), alpha)
    return _carry_out(request, problems, alpha, quiet)


def run_study(
    file: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] | None = None,
    device: str | None = None,
    jobs: int | str | None = None,
    alpha: float = 0.001,
    quiet: bool = False,
) -> pd.DataFrame:
    """Train and certify what a study file asks for, as the command `bench run FILE`, and return its evidence.

    Args:
        file: a TOML file, of which docs/guide/studies.md says what may stand in it; `bench run ... --save-study FILE` writes one.
        results: the results folder, in place of what the study says; None: what it says. device, jobs: likewise, as of `run`.
        alpha: at which the counts of the frame are read.
        quiet: print problems only.

    Returns:
        as `run`.

    Raises:
        UsageError: everything that is wrong with the study, before anything ran. KeyboardInterrupt: it was interrupted.
    """
    found = study.read(path(file, "file"))
    request, engine = found.request, found.request.engine
    if engine.name == "slurm":
        raise BenchError(f"{found.path}: executor slurm submits jobs and does not wait for them; use the command `bench run {found.path}`")
    engine = replace(engine, device=device or engine.device, jobs=engine.jobs if jobs is None else str(jobs))
    request = replace(request, engine=engine, results=request.results if results is None else path(results, "results"))
    return _carry_out(request, [], level(alpha), quiet, found)


def _carry_out(request: RunRequest, problems: Sequence[str], alpha: float, quiet: bool, found: study.Study | None = None) -> pd.DataFrame:
    """Plans, checks, computes and reads. problems: what was wrong with the words of the request. found: the study that it is from."""
    with as_before():
        try:
            plan, options = request.prepare(problems)
        except UsageError as error:
            raise UsageError([problem.removeprefix("--") for problem in error.problems]) from None
        matrix = Matrix(request, plan, options, Console(quiet=quiet, highlight=False, soft_wrap=True))
        if missing := matrix.check_data(read=True):
            raise UsageError(missing)
        matrix.announce()
        request.results.mkdir(parents=True, exist_ok=True)
        if found:
            found.keep(request.results)
        if matrix.run(StopSignals(ends=False), "Run the same call again to resume.") >= 128:
            raise KeyboardInterrupt("interrupted; run the same call again to resume")
    return read(Store(request.results), alpha, only={cell.id for cell in plan.cells}).frame()


def _words(changes: Any) -> dict[str, str]:
    """Changes as the command takes them; BenchError unless they are a dict."""
    if not isinstance(changes or {}, Mapping):
        raise BenchError(f'changes {changes!r} is not a dict such as {{"train.epochs": 3}}')
    return {str(name): scalar_word(getattr(value, "item", lambda value=value: value)()) for name, value in (changes or {}).items()}
