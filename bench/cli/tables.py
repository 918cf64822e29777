"""`bench table`: from stored evidence to a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import bench.cli.options as options
from bench.cli.command import OUTPUT, option, switch
from bench.cli.common import (
    check_alpha,
    check_out,
    deliver,
    existing_folder,
    filters,
    format_of,
    refuse,
    shows_color,
    use_plugins,
    width_of_terminal,
    words,
)
from bench.errors import unknown

if TYPE_CHECKING:
    from leaderboard.aggregate import Source

SOURCES = ("checkpoints", "imported", "runs")
MARKS = ("test", "paper", "none")
COMPATS = ("exact", "3sig")
From = Annotated[str | None, option("--from", "SOURCE", "Only runs, imported logs (imported) or certified checkpoints.")]


def table(
    dataset: options.Datasets = None,
    method: options.Methods = None,
    sigma: options.Sigmas = None,
    seed: options.Seeds = None,
    protocol: options.Protocols = None,
    recipe: options.Recipes = None,
    where: options.Where = None,
    alpha: options.Alpha = None,
    rule: options.ReadBy = None,
    format_: options.Format = None,
    out: options.Out = None,
    number: Annotated[int | None, option("--table", "N", "Table 4 to 11 of the SmoothMix paper, in its layout.", OUTPUT)] = None,
    against: Annotated[
        str | None, option("--against", "published", "With --table: also show the paper's values and the difference.", OUTPUT)
    ] = None,
    metric: Annotated[
        list[str] | None,
        option(
            "--metric", "NAME", "Columns, such as ACR,0.75,abstention; `bench list metrics` explains all. Default: ACR,accuracy.", OUTPUT
        ),
    ] = None,
    marks: Annotated[
        str | None,
        option(
            "--marks",
            "test|paper|none",
            "What is marked: the best ACRs by a test over images (default), larger numbers as in the paper, or none.",
            OUTPUT,
        ),
    ] = None,
    mix: Annotated[
        bool,
        switch(
            "--mix",
            "Put rows that are not comparable in one table, and average trainings of several versions of a method's code; footnotes say "
            "so, and nothing is marked in such a table.",
            OUTPUT,
        ),
    ] = False,
    constant: Annotated[bool, switch("--constant", "Add a row for the classifier that always says the commonest class.", OUTPUT)] = False,
    status: Annotated[
        bool, switch("--status", "Add a column that says what each row rests on, such as a log, evidence or checked weights.", OUTPUT)
    ] = False,
    compat: Annotated[
        str, option("--compat", "exact|3sig", "With --table: compare radii exactly, or rounded to 3 digits as the paper did.", OUTPUT)
    ] = "exact",
    source: From = None,
    results: options.Results = Path("results/runs"),
    plugin: Annotated[list[str] | None, options.plugin("a metric of yours, or of a method, to hold its rows against its presets")] = None,
) -> None:
    """Print tables of the average certified radius (ACR) and the certified accuracy of each row.

    A number is the mean over seeds, with the sample standard deviation. Runs that are not comparable, such as those of different
    protocols or sample sizes, stand in separate tables.
    """
    problems: list[str] = []
    chosen = filters(dataset, method, sigma, seed, protocol, recipe, problems)
    check_alpha(alpha, problems)
    form = format_of(format_, out, problems)
    check_out(out, "table.md", problems)
    problems += unknown("--against", against, ("published",)) + unknown("--from", source, SOURCES) + unknown("--compat", compat, COMPATS)
    columns = words(metric, "--metric", problems)
    if number is None:
        problems += [
            f"{flag} goes with --table" for flag, given in (("--against", against == "published"), ("--compat", compat == "3sig")) if given
        ]
    else:
        if chosen["datasets"] or chosen["methods"] or chosen["sigmas"]:
            problems.append("--table shows a whole table of the paper; leave out --dataset, --method and --sigma")
        if len(chosen["protocols"]) > 1 or len(chosen["recipes"]) > 1:
            problems.append("--table takes one --protocol and one --recipe")
        if columns or marks or mix or rule or status or constant:
            problems.append(
                "--table has the paper's columns, rows and rule; leave out --metric, --marks, --mix, --rule, --status, --constant"
            )
    problems += unknown("--marks", marks, MARKS)
    refuse(problems)
    if not (number is not None and against):
        existing_folder(results)

    use_plugins(plugin, "method", "data set", "metric", metrics=columns)

    from bench.store.runs import Store
    from leaderboard.aggregate import Filters, collect
    from leaderboard.metrics import DEFAULT
    from leaderboard.tables import render

    width = width_of_terminal(120)

    if number is not None:
        from leaderboard import formats, paper

        built = paper.build(
            number,
            Store(results),
            source=cast("Source | None", source),
            compat=cast(paper.Compat, compat),
            alpha=alpha,
            protocol=next(iter(chosen["protocols"]), None),
            recipe=next(iter(chosen["recipes"]), None),
            seeds=chosen["seeds"],
            where=where or (),
            empty=against is not None,
        )
        deliver(formats.render(paper.document(built, against=against is not None), form, width=width), out)
        return
    groups = collect(
        Store(results),
        Filters(**chosen).narrowed(where or ()),
        alpha=alpha,
        rule=rule,
        source=cast("Source | None", source),
        metrics=columns or (("all",) if form == "json" else DEFAULT),
        mix=mix,
    )
    color = form == "terminal" and out is None and shows_color()
    deliver(render(groups, form, marks=marks or "test", constant=constant, status=status, width=width, color=color), out)
