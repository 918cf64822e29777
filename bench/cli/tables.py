"""`bench table`: from stored evidence to a table."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

import bench.cli.options as options
from bench.cli.common import (
    check_alpha,
    check_out,
    deliver,
    existing_folder,
    filters,
    format_of,
    guarded,
    numbers,
    seeds,
    stop,
    use_plugins,
    words,
)
from bench.errors import nearest

if TYPE_CHECKING:
    from leaderboard.aggregate import Source

SOURCES = ("checkpoints", "imported", "runs")
MARKS = ("test", "paper", "none")
COMPATS = ("exact", "3sig")
From = Annotated[
    str | None,
    typer.Option("--from", metavar="imported|runs|checkpoints", help="Imported logs, our own runs, or what `bench certify` certified."),
]


def table(
    dataset: options.Datasets = None,
    method: options.Methods = None,
    sigma: options.Sigmas = None,
    seed: options.Seeds = None,
    protocol: options.Protocols = None,
    recipe: options.Recipes = None,
    alpha: options.Alpha = None,
    rule: options.ReadBy = None,
    format_: options.Format = None,
    out: options.Out = None,
    number: Annotated[int | None, typer.Option("--table", metavar="N", help="Table 4 to 11 of the paper, in its layout.")] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="published", help="With --table: the paper's values and the difference.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Columns: ACR, accuracy, a radius such as 0.75, clean, abstention, quantiles, median, classes, bound, pa, budget, "
            "norms, cost, errors or all. Default: ACR,accuracy.",
        ),
    ] = None,
    marks: Annotated[
        str | None,
        typer.Option(
            "--marks",
            metavar="test|paper|none",
            help="Bold is, by default (test), an ACR that cannot be told from the best, by a test over images; paper: better and best, "
            "without a test.",
        ),
    ] = None,
    mix: Annotated[
        bool, typer.Option("--mix", help="Let rows that are not comparable share a table, each difference a footnote; nothing is ranked.")
    ] = False,
    constant: Annotated[
        bool, typer.Option("--constant", help="A row for the constant classifier: the commonest class everywhere; never ranked.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="What each row rests on: claimed, log, evidence, weights checked, or recertified on K images.")
    ] = False,
    compat: Annotated[str, typer.Option("--compat", help="With --table: exact, or 3sig as the paper compared radii.")] = "exact",
    source: From = None,
    results: options.Results = Path("results/runs"),
    plugin: options.Plugins = None,
) -> None:
    """Average certified radius and certified accuracy per row: mean and sample standard deviation over seeds.

    Rows of different protocols, recipes, sample sizes or image subsets stand in separate tables, each with a caption that says which;
    imported logs and certified checkpoints in tables of their own.
    """
    problems: list[str] = []
    chosen = filters(dataset, method, protocol, recipe, problems)
    sigmas = numbers(sigma, "--sigma", problems)
    chosen_seeds = seeds(seed, problems)
    check_alpha(alpha, problems)
    form = format_of(format_, out, problems)
    if out is not None:
        check_out(out, "table.md", problems)
    for flag, value, known in (("--against", against, ("published",)), ("--from", source, SOURCES), ("--compat", compat, COMPATS)):
        if value is not None and value not in known:
            problems.append(f"{flag} {value} is unknown{nearest(value, known)}")
        elif number is None and flag != "--from" and value not in (None, "exact"):
            problems.append(f"{flag} goes with --table")
    if number is not None and (chosen["datasets"] or chosen["methods"] or sigmas):
        problems.append("--table shows a whole table of the paper; leave out --dataset, --method and --sigma")
    if number is not None and (len(chosen["protocols"]) > 1 or len(chosen["recipes"]) > 1):
        problems.append("--table takes one --protocol and one --recipe")
    columns = words(metric, "--metric", problems)
    if number is not None and (columns or marks or mix or rule or status or constant):
        problems.append("--table has the paper's columns, rows and rule; leave out --metric, --marks, --mix, --rule, --status, --constant")
    if marks is not None and marks not in MARKS:
        problems.append(f"--marks {marks} is unknown{nearest(marks, MARKS)}")
    if problems:
        stop(problems)
    if not (number is not None and against):
        existing_folder(results)

    use_plugins(plugin, "data set", "metric", metrics=columns)

    from bench.store.runs import Store
    from leaderboard.aggregate import Filters, collect, with_constant
    from leaderboard.formats import render
    from leaderboard.metrics import DEFAULT
    from leaderboard.tables import document, with_marks

    def paper_table() -> str:
        from leaderboard import paper

        built = paper.build(
            number or 0,
            Store(results),
            source=cast("Source | None", source),
            compat=cast(paper.Compat, compat),
            alpha=alpha,
            protocol=next(iter(chosen["protocols"]), None),
            recipe=next(iter(chosen["recipes"]), None),
            seeds=chosen_seeds,
            empty=against is not None,
        )
        return render(paper.document(built, against=against is not None), form)

    def work() -> str:
        groups = collect(
            Store(results),
            Filters(sigmas=sigmas, seeds=chosen_seeds, **chosen),
            alpha=alpha,
            rule=rule,
            source=cast("Source | None", source),
            metrics=columns or (("all",) if form == "json" else DEFAULT),
            mix=mix,
        )
        groups = tuple(with_marks(group, marks or "test") for group in groups)
        groups = tuple(map(with_constant, groups)) if constant else groups
        groups = tuple(dataclasses.replace(group, show_trust=status) for group in groups)
        terminal = form == "terminal" and out is None
        width = os.get_terminal_size().columns if terminal and sys.stdout.isatty() else 120
        return render(document(groups), form, width=width, color=terminal and sys.stdout.isatty() and "NO_COLOR" not in os.environ)

    deliver(guarded(work if number is None else paper_table), out)
