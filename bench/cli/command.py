"""What every command has beyond what Typer gives it: help that fits the terminal, and no option that is silently overruled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bench.cli.common import stop
from bench.errors import BenchError, Interrupted, UsageError
from bench.spec import CertifySpec, TrainSpec

COMMON = "Common"
TRAINING = "Training"
CERTIFICATION = "Certification"
CLUSTERS = "Clusters"
OUTPUT = "Output"
PANELS = (COMMON, TRAINING, CERTIFICATION, CLUSTERS)
"""First in the help of a command; other panels follow, and the last is the output."""


def option(flag: str, metavar: str | None, help: str, panel: str = COMMON) -> Any:
    """An option with a value, for `Annotated`. metavar: what stands for the value; None: the name of its type."""
    return typer.Option(flag, metavar=metavar, help=help, rich_help_panel=panel)


def switch(flag: str, help: str, panel: str = COMMON) -> Any:
    """An option without a value, for `Annotated`."""
    return typer.Option(flag, metavar="", help=help, rich_help_panel=panel)


class Command(TyperCommand):
    """A command that refuses an option of one value if it is given twice, and whose help leaves line breaks to the terminal."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        paragraphs = (self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters in the order of their panels, without the names of Python's types."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: ""  # its own name, in the column before, says it
            elif param.name == "help":
                param.help, param.metavar, param.rich_help_panel = "Show this help and stop.", "", OUTPUT
        return sorted(params, key=_place)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; a problem becomes its sentence and exit code 2, a signal that stopped it 128 + its number."""
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            raise typer.Exit(128 + error.signal_number) from None
        except BrokenPipeError:  # whoever read the output has left
            raise
        except UsageError as error:
            stop(error.problems)
        except BenchError as error:
            stop([str(error)])
        except OSError as error:
            stop([f"{error.filename}: {error.strerror}" if error.filename else str(error)])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words of the command line.

        Raises:
            typer.Exit: exit code 2 if an option of one value is given twice, since the later one would win without a word; or for the
                name of a field that --set changes.
        """
        known = {name for param in self.get_params(ctx) for name in param.opts}
        if "--set" in known:
            _name_set([word.partition("=")[0] for word in args], known)
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        single = [p for p in order if p.param_type_name == "option" and not (p.multiple or p.is_flag or p.count)]
        for param, times in Counter(single).items():
            if times > 1:
                stop([f"{max(param.opts, key=len)} is given {times} times, but takes one value; keep the one that you mean"])
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """Commands, whose help says what that of a command says of itself."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, without the names of Python's types."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.name == "help":
                param.help, param.metavar = "Show this help and stop.", ""
        return params


def _place(param: Any) -> int:
    panel = getattr(param, "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else len(PANELS) + (panel == OUTPUT)


def _name_set(flags: Sequence[str], known: set[str]) -> None:
    """Says how a field of the training or certification is changed, if a flag has its name."""
    for flag in flags:
        for begin, spec in (("train", TrainSpec), ("certify", CertifySpec)):
            name = flag.removeprefix("--").replace("-", "_")
            if flag.startswith("--") and flag not in known and name in {field.name for field in fields(spec)}:
                stop([f"there is no option {flag}; write --set {begin}.{name}=VALUE"])
