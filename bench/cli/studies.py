"""A study file on the command line: which flags may stand beside it, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench.cli.common import stop, write_file

if TYPE_CHECKING:
    from bench.api.request import RunRequest
    from bench.api.study import Study


def typed(context: typer.Context) -> list[str]:
    """The flags that stand on the command line."""
    sources = {parameter.opts[0]: context.get_parameter_source(str(parameter.name)) for parameter in context.command.params}
    return [flag for flag, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def read(path: Path, given: Sequence[str], flags: RunRequest, problems: list[str]) -> tuple[Study, list[str]]:
    """A study whose request has those of the flags that say how and where, and which of them took the place of what the study says.

    Args:
        given: the flags beside it. flags: the request that they alone would make.
        problems: a flag that says what is computed is added to them, for a study says all of it: its name stands for one set of cells.
    """
    from bench.api import study

    found = study.read(path)
    request, notes = found.request, []
    for flag in given:
        key = flag.removeprefix("--")
        if key in study.OF_PARTS or key in study.SHORT or key == "plugin":
            problems.append(f"{flag}: what is computed stands in {path}; change it there, or leave out {flag}")
        elif key in study.OF_ALL or key in study.OF_ENGINE:
            request, before = study.with_key(request, key, flags, path.parent)
            if before:
                notes.append(f"{flag} takes the place of {before} in {path}")
    return replace(found, request=replace(request, rerun=flags.rerun)), notes


def save(path: Path, request: RunRequest) -> str:
    """Writes what is asked for as a study, and says so; exit 2 if another file is there, which may hold words of its own."""
    from bench.api.study import text_of

    text = text_of(request, path.parent).encode()
    if path.exists() and path.read_bytes() != text:
        stop([f"--save-study {path}: there is another file of that name; delete it first, or name a new one"])
    write_file(path, "--save-study", text)
    apart = f", but for --rerun {request.rerun}, which is for one time" if request.rerun else ""
    return f"wrote {path}; `bench run {path}` asks for the same{apart}"
