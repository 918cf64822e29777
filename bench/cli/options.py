"""Options and arguments that several commands have, so that each is declared and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.command import CERTIFICATION, COMMON, OUTPUT, option, switch
from bench.cli.common import stop


def _folder(word: str | Path) -> Path:
    """A path; an empty word, as of a shell's variable that was never set, is not the folder that one happens to be in."""
    if not str(word):
        stop(["--results is empty; name a folder, or leave it out for the default (. is the current folder)"])
    return Path(word)


Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of the results.", parser=_folder, rich_help_panel=COMMON)]


def plugin(what: str) -> Any:
    """`--plugin`, and what the file is for."""
    return option("--plugin", "FILE", f"Python file of {what}; repeatable.")


Plugins = Annotated[list[str] | None, plugin("a method, network or data set of yours")]
Models = Annotated[list[str] | None, plugin("a network or data set of yours")]
Presets = Annotated[list[str] | None, plugin("a method of yours, to hold its rows against its presets")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Key or folder of a run; `bench list runs` shows the keys.")]
Certification = Annotated[str | None, option("--certification", "KEY", "Which certification, if the run has several.")]
Device = Annotated[str, option("--device", "NAME", "auto, cpu or cuda.")]
SkipMisclassified = Annotated[
    bool, switch("--skip-misclassified", "Stop sampling an image whose selected class is wrong; abstention is then unknown.", CERTIFICATION)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Print problems only.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, switch("--json", "Print JSON instead of text.", OUTPUT)]

# ---- of commands that read results

Datasets = Annotated[list[str] | None, option("--dataset", "NAME", "Only these data sets.")]
Methods = Annotated[
    list[str] | None,
    option("--method", "NAME", "Only these rows: smoothmix means all its variants, 'smoothmix.eta1*' the rows of such names."),
]
Sigmas = Annotated[list[str] | None, option("--sigma", "S", "Only these noise levels.")]
Seeds = Annotated[list[str] | None, option("--seeds", "N", "Only these seeds: 5 means 0 to 4; '0,3,4' or '3,' means just those.")]
Protocols = Annotated[list[str] | None, option("--protocol", "NAME", "Only these protocols.")]
Recipes = Annotated[list[str] | None, option("--recipe", "NAME", "Only these recipes.")]
Where = Annotated[
    list[str] | None,
    option("--where", "KEY=VALUE", "Only rows whose spec says so, such as certify.n=10000 or hyperparameters.steps=4; repeatable."),
]
Alpha = Annotated[float | None, option("--alpha", "A", "Failure probability of each certificate. Default: 0.001.", CERTIFICATION)]
ReadBy = Annotated[
    str | None,
    option(
        "--rule",
        "NAME",
        "Rule that turns counts into radii; `bench list rules` explains them. Default: the one that the evidence was sampled under.",
        CERTIFICATION,
    ),
]
Format = Annotated[
    str | None,
    option("--format", "NAME", "terminal, markdown, latex, html, csv or json. Default: by the ending of --out, else terminal.", OUTPUT),
]
Out = Annotated[Path | None, option("--out", "FILE", "Write to this file instead of the terminal.", OUTPUT)]
