"""What `bench run` ends with: its table, its picture, and what to type next."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bench.cli.common import shows_color, width_of_terminal, write_file

if TYPE_CHECKING:
    from bench.api.matrix import Matrix
    from bench.api.request import RunRequest
    from leaderboard.aggregate import Group


def typed(without: str = "") -> str:
    """The command as it was typed, but for a flag and its value."""
    words, kept = iter(sys.argv[1:]), ["bench"]
    for word in words:
        if without and word == without:
            next(words, None)
        elif not (without and word.startswith(f"{without}=")):
            kept.append(word)
    return shlex.join(kept)


def how_to_resume(request: RunRequest) -> str:
    """Lines for after an interruption; --rerun would start over once more."""
    how = f"Run this command without --rerun {request.rerun} to resume" if request.rerun else "Run the same command again to resume"
    return f"{how}:\n  {typed(without='--rerun')}"


def conclude(matrix: Matrix, plot: Path | None, *, table: bool) -> None:
    """Prints the table of what is done, draws the picture, and says what to type next."""
    from bench.matrix.report import line
    from leaderboard.tables import render

    if not any(state == "done" for state in matrix.states.values()):
        return
    groups = matrix.groups() if table or plot else ()
    if table and groups:
        matrix.say("")
        typer.echo(render(groups, "terminal", width=width_of_terminal(120), color=shows_color()).rstrip("\n"))
        matrix.say("")
    if plot:
        _draw(matrix, plot, groups)
    plugins = [str(path) for path in matrix.request.plugins]
    root, protocol = matrix.store.root, f"--protocol {','.join(matrix.request.protocols)}"
    matrix.say(f"results in {root}")
    matrix.say(f"next: {line('table', plugins, root)} {protocol} --out table.md")
    if not plot:
        matrix.say(f"next: {line('plot curves', plugins, root)} {protocol}")


def _draw(matrix: Matrix, plot: Path, groups: Sequence[Group]) -> None:
    """A picture for each group that has a finished row; of several, each file bears a number."""
    from leaderboard import plots

    drawn = [group for group in groups if any(row.finished for section in group.sections for row in section.rows)]
    for number, group in enumerate(drawn, start=1):
        picture = plots.picture_of("curves", group)
        target = plot if len(drawn) == 1 else plot.with_stem(f"{plot.stem}-{number}")
        write_file(target, "--plot", plots.render(picture, target.suffix.lower()))
        matrix.say(f"wrote {target}: {picture.headline}")
