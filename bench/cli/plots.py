"""`bench plot`: from stored evidence to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

import bench.cli.options as options
from bench.cli.common import check_alpha, check_out, existing_folder, filters, guarded, numbers, plain, seeds, stop, use_plugins, write_file
from bench.errors import nearest

if TYPE_CHECKING:
    from leaderboard.aggregate import Source

KINDS = ("curves", "envelope", "pa", "tradeoff", "training")
SOURCES = ("checkpoints", "imported", "runs", "published")
SUFFIXES = (".svg", ".pdf", ".png")


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="curves|envelope|pa|tradeoff|training",
            help="Certified accuracy against radius; the best of all sigmas at each radius; against a threshold of pA; average certified "
            "radius against certified accuracy at r = 0; the loss and its terms.",
        ),
    ],
    dataset: options.Datasets = None,
    method: options.Methods = None,
    sigma: Annotated[
        list[str] | None, typer.Option("--sigma", metavar="S", help="Only these noise levels; several are several panels.")
    ] = None,
    seed: options.Seeds = None,
    protocol: options.Protocols = None,
    recipe: options.Recipes = None,
    alpha: options.Alpha = None,
    rule: options.ReadBy = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="imported|runs|checkpoints|published",
            help="Imported logs, own runs, what `bench certify` certified, or the paper's printed numbers.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="A .svg, .pdf or .png file. Default: such as curves-mnist-quick.svg, in this folder."),
    ] = None,
    results: options.Results = Path("results/runs"),
    plugin: options.Plugins = None,
) -> None:
    """Draw the finished rows of a results folder; what is unfinished is left out and named below the picture.

    Rows of different protocols, recipes, sample sizes or image subsets are never drawn in one picture. Needs matplotlib (extra `plot`).
    """
    problems: list[str] = []
    chosen = filters(dataset, method, protocol, recipe, problems)
    sigmas = numbers(sigma, "--sigma", problems)
    chosen_seeds = seeds(seed, problems)
    if kind not in KINDS:
        problems.append(f"there is no picture {plain(kind)!r}{nearest(kind, KINDS)}")
    if source is not None and source not in SOURCES:
        problems.append(f"--from {source} is unknown{nearest(source, SOURCES)}")
    check_alpha(alpha, problems)
    if out is not None:
        check_out(out, "curves.svg", problems)
        if out.suffix.lower() not in SUFFIXES:
            problems.append(f"--out {out}: pictures are {', '.join(SUFFIXES)}")
    if problems:
        stop(problems)
    if source != "published":
        existing_folder(results)

    use_plugins(plugin, "data set")

    from bench.store.runs import Store
    from leaderboard import plots
    from leaderboard.aggregate import Filters

    def work() -> tuple[Path, bytes, plots.Picture]:
        plots.require_matplotlib()
        picture = plots.build(
            cast(plots.Kind, kind),
            Store(results),
            Filters(sigmas=sigmas, seeds=chosen_seeds, **chosen),
            source=cast("Source | Literal['published'] | None", source),
            alpha=alpha,
            rule=rule,
        )
        target = out or Path(f"{picture.name}.svg")
        return target, plots.render(picture, target.suffix.lower()), picture

    target, data, picture = guarded(work)
    write_file(target, "--out", data)
    rows = len({series.label for panel in picture.panels.values() for series in panel})
    levels = ", ".join(f"{s:g}" for s in picture.best_of or picture.panels)
    typer.echo(f"wrote {target}: {plain(picture.headline)}; {rows} row{'s' if rows != 1 else ''} at sigma {levels}")
    for note in picture.notes[1:]:
        typer.echo(plain(note))
