"""`bench site`: a results folder as a page to look at and to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench.cli.options as options
from bench.cli.command import OUTPUT
from bench.cli.common import check_alpha, check_out, existing_folder, guarded, say, stop, use_plugins, write_file


def site(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder of the runs.")] = Path("results/runs"),
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="HTML file to write.", rich_help_panel=OUTPUT)] = Path(
        "leaderboard.html"
    ),
    alpha: options.Alpha = None,
    title: Annotated[
        str, typer.Option("--title", metavar="TEXT", help="Title of the page. Default: its data sets.", rich_help_panel=OUTPUT)
    ] = "",
    plugin: options.Plugins = None,
) -> None:
    """Make one HTML page of the results: tables, curves, comparisons and every run.

    It opens from disk and needs no network. It shows what `bench table` shows:
    own runs, certified checkpoints and imported logs, each with its status.
    """
    problems: list[str] = []
    check_alpha(alpha, problems)
    check_out(out, "leaderboard.html", problems)
    if problems:
        stop(problems)
    existing_folder(results, "RESULTS")
    use_plugins(plugin, "data set")

    from bench.store.runs import Store
    from leaderboard.site import read, render

    content = guarded(lambda: read(Store(results), alpha=alpha, title=title))
    page = render(content).encode()
    write_file(out, "--out", page)
    tables = content.data["tables"]
    rows = sum(len(section["rows"]) for table in tables for section in table["sections"])
    say(f"wrote {out}: version {content.data['version']}, {len(tables)} tables, {rows} rows, {len(page) / 1e6:.1f} MB")
