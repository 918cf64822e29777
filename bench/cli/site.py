"""`bench site`: a results folder as a page to look at and to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import bench.cli.options as options
from bench.cli.command import OUTPUT, option
from bench.cli.common import check_alpha, check_folder, check_out, existing_folder, refuse, say, use_plugins, write_file
from bench.errors import counted


def site(
    results: Annotated[Path | None, typer.Argument(metavar="RESULTS", help="Folder of the results, as --results.")] = None,
    out: Annotated[
        Path, option("--out", "FILE", "An .html file, or a folder for hosting: index.html, its evidence, its earlier versions.", OUTPUT)
    ] = Path("leaderboard.html"),
    alpha: options.Alpha = None,
    title: Annotated[str, option("--title", "TEXT", "Title of the page. Default: its data sets.", OUTPUT)] = "",
    since: Annotated[Path | None, option("--since", "FILE", "Earlier page to compare with. Default: what --out replaces.", OUTPUT)] = None,
    why: Annotated[str, option("--why", "TEXT", "Why numbers moved, for the list of changes.", OUTPUT)] = "",
    folder: options.Results = Path("results/runs"),
    plugin: options.Presets = None,
) -> None:
    """Make one HTML page of the results: tables, curves, comparisons and every run.

    It opens from disk and needs no network. It shows what `bench table` shows:
    own runs, certified checkpoints and imported logs, each with its status.
    A page that takes the place of another lists every number that moved.
    """
    problems: list[str] = []
    check_alpha(alpha, problems)
    one_file = out.suffix.lower() in (".html", ".htm")
    check_out(out, "leaderboard.html", problems) if one_file else check_folder(out, problems, "--out")
    page = out if one_file else out / "index.html"
    if not one_file and out.is_dir() and any(out.iterdir()) and not page.is_file():
        problems.append(f"--out {out}: the folder holds something else than a page; name an empty or a new one")
    if results and folder != Path("results/runs"):
        problems.append(f"RESULTS {results} and --results {folder}: give one of the two")
    refuse(problems)
    results = existing_folder(results, "RESULTS") if results else existing_folder(folder)
    use_plugins(plugin, "method", "data set")

    from bench.store.runs import Store
    from leaderboard.site import changelog, earlier, read, render, write_folder

    store = Store(results)
    here = earlier(page) if page.is_file() else None
    before = earlier(since) if since else here
    content = read(store, alpha=alpha, title=title)
    data = content.data
    if before:
        data["changelog"] = changelog(before, data, why)
    if one_file:
        write_file(out, "--out", render(content).encode())
    else:
        write_folder(content, store, out, here)
    rows = sum(len(section["rows"]) for table in data["tables"] for section in table["sections"])
    size = f"{counted(len(data['tables']), 'table')}, {counted(rows, 'row')}, {page.stat().st_size / 1e6:.1f} MB"
    say(f"wrote {page}: version {data['version']}, {size}")
    if data["changelog"] and data["changelog"][0]["version"] == data["version"]:
        latest = data["changelog"][0]
        say(f"since version {latest['before']}:")
        for text in latest["moved"]:
            say(f"  {text}")
