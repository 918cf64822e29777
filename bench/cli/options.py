"""Options and arguments that several commands have, so that each is declared and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _folder(word: str | Path) -> Path:
    """A path; an empty word, as of a shell's variable that was never set, is not the folder that one happens to be in."""
    if not str(word):
        typer.echo("bench: --results is empty; name a folder, or leave it out for the default (. is the current folder)", err=True)
        raise typer.Exit(2)
    return Path(word)


Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of the runs.", parser=_folder)]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="FILE", help="A .py file with a method, network, data set or metric of yours; several with commas."),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Key or folder of a run; `bench list runs` names them.")]
Certification = Annotated[
    str | None, typer.Option("--certification", metavar="KEY", help="Which one, if the run was certified several times.")
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

# ---- of commands that read results

Datasets = Annotated[list[str] | None, typer.Option("--dataset", metavar="NAME", help="Only these data sets.")]
Methods = Annotated[list[str] | None, typer.Option("--method", metavar="NAME[.VARIANT]", help="Only these rows; patterns work.")]
Sigmas = Annotated[list[str] | None, typer.Option("--sigma", metavar="S", help="Only these noise levels.")]
Seeds = Annotated[list[str] | None, typer.Option("--seeds", metavar="N|LIST", help="Only these seeds: 5 means 0 to 4, a list just those.")]
Protocols = Annotated[list[str] | None, typer.Option("--protocol", metavar="NAME", help="Only these protocols.")]
Recipes = Annotated[list[str] | None, typer.Option("--recipe", metavar="NAME", help="Only these recipes.")]
Alpha = Annotated[
    float | None, typer.Option("--alpha", metavar="A", help="Failure probability of each certificate, in (0, 1/2). Default: 0.001.")
]
ReadBy = Annotated[
    str | None,
    typer.Option(
        "--rule", metavar="NAME", help="The rule that reads counts. Default: of each certification, the one it was sampled under."
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="terminal, markdown, latex, html, csv or json. Default: by the ending of --out (.md, .tex, ...), else terminal.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to a file instead of the terminal.")]
