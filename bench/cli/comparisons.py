"""`bench compare`: is one row better than another, across seeds and across test images."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

import bench.cli.options as options
from bench.cli.command import option
from bench.cli.common import (
    check_alpha,
    check_out,
    deliver,
    existing_folder,
    format_of,
    numbers,
    refuse,
    seeds,
    use_plugins,
    width_of_terminal,
    words,
)
from bench.cli.tables import SOURCES, From
from bench.errors import BenchError, unknown

if TYPE_CHECKING:
    from bench.store.runs import Store
    from leaderboard.aggregate import Source

KEY = re.compile(r"(?=.*\d)[0-9a-f]{4,64}")
"""How a run's key or its beginning is told from the name of a row."""


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The row to compare with, such as gaussian; or the key of a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other row; or several, such as macer,stability or 'smoothmix*'.")],
    logs: Annotated[
        Path | None, option("--logs", "DIR", "Where A is a run: folder of the imported logs. Default: that of --results.")
    ] = None,
    dataset: Annotated[str | None, option("--dataset", "NAME", "The data set. Default: mnist.")] = None,
    sigma: options.Sigmas = None,
    seed: options.Seeds = None,
    protocol: Annotated[str | None, option("--protocol", "NAME", "Only runs of this protocol.")] = None,
    recipe: Annotated[str | None, option("--recipe", "NAME", "Only runs of this recipe.")] = None,
    where: options.Where = None,
    alpha: options.Alpha = None,
    rule: options.ReadBy = None,
    source: From = None,
    format_: options.Format = None,
    out: options.Out = None,
    results: options.Results = Path("results/runs"),
    plugin: options.Presets = None,
) -> None:
    """Compare two rows across seeds and across test images, with intervals and tests.

    Where A is a run, it is compared with the imported logs of row B on the same test images: does it look like one of them?
    """
    problems: list[str] = []
    folder = Path(a).is_dir() and (Path(a).name != a or (Path(a) / "spec.json").is_file())  # not one that is called like a row
    of_run = logs is not None or folder or KEY.fullmatch(a) is not None
    given = {"--dataset": dataset, "--sigma": sigma, "--protocol": protocol, "--recipe": recipe, "--alpha": alpha, "--rule": rule}
    given |= {"--seeds": seed, "--where": where or None, "--from": source}
    if unused := [flag for flag, value in given.items() if of_run and value is not None]:
        problems.append(f"{', '.join(unused)}: A is a run, which says what is compared with logs; leave it out")
    sigmas, chosen, rows = numbers(sigma, "--sigma", problems), seeds(seed, problems), words([b], "B", problems)
    check_alpha(alpha, problems)
    problems += unknown("--from", source, SOURCES)
    form = format_of(format_, out, problems)
    check_out(out, "compare.md", problems)
    refuse(problems)
    if not folder:
        existing_folder(results)
    if logs is not None:
        existing_folder(logs, "--logs")

    use_plugins(plugin, "method", "data set")

    from bench.store.runs import Store
    from leaderboard import compare as comparing
    from leaderboard.formats import render

    store = Store(results)
    found: comparing.Report | comparing.Paired
    if KEY.fullmatch(b):
        raise BenchError(_rows_instead(store, a, b, of_run))
    if of_run:
        found = comparing.compare_with_logs(store.find(a), b, logs or existing_folder(results))
    else:
        found = comparing.compare(
            store,
            a,
            rows,
            dataset=dataset,
            sigmas=sigmas,
            seeds=chosen,
            protocol=protocol,
            recipe=recipe,
            where=where or (),
            alpha=alpha,
            rule=rule,
            source=cast("Source | None", source),
        )
    deliver(render(comparing.document(found), form, width=width_of_terminal(120)), out)


def _rows_instead(store: Store, a: str, b: str, of_run: bool) -> str:
    """What to say where B is a run: what can be compared, with the rows of the runs at hand."""
    run = store.find(b)
    first, told = store.find(a).row if of_run else a, f"B {b} is a run, of row {run.row}"
    if first == run.row:
        return f"{told}, and A is of the same row; `bench compare` compares two rows, or a run with the imported logs of a row"
    line = f"bench compare {shlex.join([first, run.row])} --sigma {run.sigma:g} --seeds {run.spec.seed}, --protocol {run.spec.protocol}"
    return f"{told}; two runs are compared as their rows: `{line}`"
