"""What every command has beyond what Typer gives it: help that fits the terminal, and no option that is silently overruled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bench.cli.common import stop
from bench.errors import BenchError, Interrupted, UsageError, nearest
from bench.spec import CertifySpec, TrainSpec

COMMON = "Common"
TRAINING = "Training"
CERTIFICATION = "Certification"
CLUSTERS = "Clusters"
OUTPUT = "Output"
MARK = "\\["
"""A bracket in a help text, which Rich would take for its own."""
PANELS = (COMMON, TRAINING, CERTIFICATION, CLUSTERS)
"""First in the help of a command; other panels follow, and the last is the output."""


def option(flag: str, metavar: str | None, help: str, panel: str = COMMON) -> Any:
    """An option with a value, for `Annotated`. metavar: what stands for the value; None: the name of its type."""
    return typer.Option(flag, metavar=metavar, help=help.replace("[", MARK), rich_help_panel=panel)


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
        with _told(self, ctx) as given:
            parsed: Any = self.make_parser(ctx).parse_args(args=list(args))
            given.update(parsed[0])
            single = [p for p in parsed[2] if p.param_type_name == "option" and not (p.multiple or p.is_flag or p.count)]
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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the words before the command's name; typer.Exit (2) if one is unknown."""
        if not args:
            return super().parse_args(ctx, args)  # shows the help
        with _told(self, ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names; typer.Exit (2) if there is none."""
        if args[0] not in self.commands:
            stop([f"there is no command {args[0]}{nearest(args[0], self.commands)}"])
        return super().resolve_command(ctx, args)


@contextmanager
def _told(command: Any, ctx: Any) -> Iterator[dict[str, Any]]:
    """Inside, an error of the option parser becomes a sentence and exit code 2.

    Yields:
        for the values as they were given, by parameter, once they are known.
    """
    given: dict[str, Any] = {}
    try:
        yield given
    except Exception as error:
        if not hasattr(error, "format_message"):  # what all errors of the parser have, and nothing else
            raise
        stop([_sentence(error, command.get_params(ctx), given, ctx.command_path)])


def _sentence(error: Any, params: Sequence[Any], given: Mapping[str, Any], command: str) -> str:
    """The thing, the value and the right one, of an error of the option parser."""
    name = getattr(error, "option_name", None)
    param = getattr(error, "param", None) or next((param for param in params if name in param.opts), None)
    if param is None:
        close = getattr(error, "possibilities", None)
        what = f"there is no option {name}" if name else error.format_message().rstrip(".")
        return f"{what}{nearest(name, close) if name and close else f'; `{command} --help` says what there is'}"
    flag = max(param.opts, key=len) if param.param_type_name == "option" else ""
    shown, meaning, value = f"{flag} {param.metavar or ''}".strip(), param.help.rstrip(".").replace(MARK, "["), given.get(param.name)
    if getattr(param, "is_flag", False):
        return f"{flag} takes no value: {meaning}"
    if value is None:
        return f"{flag} has no value; {shown}: {meaning}" if name else f"{shown} is missing: {meaning}"
    whole = "integer" in error.message
    return f"{flag} {value} is not a {'whole ' * whole}number{_meant(str(value), whole) or f'; {shown}: {meaning}'}"


def _meant(word: str, whole: bool) -> str:
    """The number that was perhaps meant by `5%`, `0,05`, `10,000` or `1e5`, as the end of a sentence."""
    try:
        number = float(word.removesuffix("%").replace(",", "" if whole else ".")) / (100 if word.endswith("%") else 1)
    except ValueError:
        return ""
    return "" if whole and not (number.is_integer() and abs(number) < 2**53) else f"; did you mean {int(number) if whole else number:.15g}?"


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
