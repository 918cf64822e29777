"""`bench plot`: from stored evidence to a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

import bench.cli.options as options
from bench.cli.command import OUTPUT, option
from bench.cli.common import check_alpha, check_out, existing_folder, filters, plain, refuse, use_plugins, write_file
from bench.errors import counted, nearest, unknown

if TYPE_CHECKING:
    from leaderboard.aggregate import Source

KINDS = ("curves", "envelope", "pa", "tradeoff", "training")
SOURCES = ("checkpoints", "imported", "runs", "published")
SUFFIXES = (".svg", ".pdf", ".png")


def plot(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="curves: certified accuracy by radius. envelope: the best sigma at each radius. pa: certified accuracy by pA. "
            "tradeoff: ACR and certified accuracy at r = 0. training: the loss by step.",
        ),
    ],
    dataset: options.Datasets = None,
    method: options.Methods = None,
    sigma: options.Sigmas = None,
    seed: options.Seeds = None,
    protocol: options.Protocols = None,
    recipe: options.Recipes = None,
    where: options.Where = None,
    alpha: options.Alpha = None,
    rule: options.ReadBy = None,
    source: Annotated[
        str | None,
        option("--from", "SOURCE", "Only runs, imported logs (imported), certified checkpoints, or the paper's numbers (published)."),
    ] = None,
    out: Annotated[
        Path | None, option("--out", "FILE", "A .svg, .pdf or .png file. Default: a name such as curves-mnist-quick.svg.", OUTPUT)
    ] = None,
    results: options.Results = Path("results/runs"),
    plugin: options.Presets = None,
) -> None:
    """Draw curves of certified accuracy and other pictures of the results.

    Unfinished rows are left out and named. Runs that are not comparable are never drawn in one picture.
    """
    problems: list[str] = []
    chosen = filters(dataset, method, sigma, seed, protocol, recipe, problems)
    if kind not in KINDS:
        problems.append(f"there is no picture {plain(kind)!r}{nearest(kind, KINDS)}")
    problems += unknown("--from", source, SOURCES)
    check_alpha(alpha, problems)
    check_picture(out, "--out", problems)
    refuse(problems)
    if source != "published":
        existing_folder(results)

    use_plugins(plugin, "method", "data set")

    from bench.store.runs import Store
    from leaderboard import plots
    from leaderboard.aggregate import Filters
    from leaderboard.aggregate.where import flags

    found = plots.pictures(
        cast(plots.Kind, kind),
        Store(results),
        Filters(**chosen).narrowed(where or ()),
        source=cast("Source | Literal['published'] | None", source),
        alpha=alpha,
        rule=rule,
    )
    targets = [Path(f"{picture.name}.svg") for picture in found]
    if out is not None:  # one group has the name that was asked for; of several, each adds what tells it apart
        more = [picture.name.removeprefix(kind) if len(found) > 1 else "" for picture in found]
        targets = [out.with_name(f"{out.stem}{words}{out.suffix}") for words in more]
    made = [plots.render(p, target.suffix.lower()) for target, p in zip(targets, found, strict=True)]
    for target, data, picture in zip(targets, made, found, strict=True):
        write_file(target, "--out", data)
        rows = len({series.label for panel in picture.panels.values() for series in panel})
        levels = ", ".join(f"{s:g}" for s in picture.best_of or picture.panels)
        typer.echo(f"wrote {target}: {plain(picture.headline)}; {counted(rows, 'row')} at sigma {levels}")
        if len(found) > 1:
            typer.echo(f"this one alone: {plain(flags(picture.chosen))}")
        for note in picture.notes[1:]:
            typer.echo(plain(note))


def check_picture(path: Path | None, flag: str, problems: list[str]) -> None:
    """A picture to write, if there is one, can be written, and is of a kind that can be drawn."""
    check_out(path, "curves.svg", problems, flag)
    if path is not None and path.suffix.lower() not in SUFFIXES:
        problems.append(f"{flag} {path}: pictures are {', '.join(SUFFIXES)}")
