"""Options and arguments that several commands have, so that each is declared and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.command import CERTIFICATION, COMMON, OUTPUT


def _folder(word: str | Path) -> Path:
    """A path; an empty word, as of a shell's variable that was never set, is not the folder that one happens to be in."""
    if not str(word):
        typer.echo("bench: --results is empty; name a folder, or leave it out for the default (. is the current folder)", err=True)
        raise typer.Exit(2)
    return Path(word)


Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of the results.", parser=_folder, rich_help_panel=COMMON)]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Python file that defines a method, network, data set or metric of yours; repeatable.",
        rich_help_panel=COMMON,
    ),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Key or folder of a run; `bench list runs` shows the keys.")]
Certification = Annotated[
    str | None,
    typer.Option("--certification", metavar="KEY", help="Which certification, if the run has several.", rich_help_panel=COMMON),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.", rich_help_panel=COMMON)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.", rich_help_panel=OUTPUT)]

# ---- of commands that read results

Datasets = Annotated[list[str] | None, typer.Option("--dataset", metavar="NAME", help="Only these data sets.", rich_help_panel=COMMON)]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="NAME", help="Only these rows; patterns such as 'smoothmix*' work.", rich_help_panel=COMMON),
]
Sigmas = Annotated[list[str] | None, typer.Option("--sigma", metavar="S", help="Only these noise levels.", rich_help_panel=COMMON)]
Seeds = Annotated[
    list[str] | None,
    typer.Option("--seeds", metavar="N", help="Only these seeds: 5 means 0 to 4, and 0,3,4 means just those.", rich_help_panel=COMMON),
]
Protocols = Annotated[list[str] | None, typer.Option("--protocol", metavar="NAME", help="Only these protocols.", rich_help_panel=COMMON)]
Recipes = Annotated[list[str] | None, typer.Option("--recipe", metavar="NAME", help="Only these recipes.", rich_help_panel=COMMON)]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="KEY=VALUE",
        help="Only rows whose spec says so, such as certify.n=10000 or hyperparameters.steps=4; repeatable.",
        rich_help_panel=COMMON,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        metavar="A",
        help="Failure probability of each certificate. Default: 0.001.",
        rich_help_panel=CERTIFICATION,
    ),
]
ReadBy = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="NAME",
        help="Rule that turns counts into radii. Default: the one that the evidence was sampled under.",
        rich_help_panel=CERTIFICATION,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="terminal, markdown, latex, html, csv or json. Default: by the ending of --out, else terminal.",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write to this file instead of the terminal.", rich_help_panel=OUTPUT)
]
