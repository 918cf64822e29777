"""Help of every command in a narrow terminal, options that are given twice, and what becomes of an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from bench.cli import app
from bench.cli.command import MARK, Command
from bench.errors import BenchError, Interrupted, UsageError

WIDTH = 80


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, groups too."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


ALL = dict(commands(typer.main.get_command(app)))
LEAVES = [words for words, command in ALL.items() if not hasattr(command, "commands")]


def called(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_fits_a_narrow_terminal(words: tuple[str, ...]) -> None:
    """No line is longer than the terminal, and every flag, metavar and word of an explanation stands there whole."""
    status, text = called(*words, "--help")
    assert status == 0
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    shown = set(text.replace("│", " ").split())
    for param in ALL[words].params:
        assert {*param.opts} <= shown or param.param_type_name == "argument"
        assert {param.metavar} <= shown | {None, ""} or param.param_type_name == "argument"
        assert {*(param.help or "").replace(MARK, "[").split()} <= shown, param.name
    assert {*ALL[words].help.split()} <= shown


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_option_stands_in_a_panel_and_is_explained_in_a_sentence(words: tuple[str, ...]) -> None:
    assert "─ Options ─" not in called(*words, "--help")[1]
    for param in ALL[words].params:
        assert re.fullmatch(r"\S.*[.]|.*\.\.\.", param.help), param.help


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_an_option_of_one_value_is_refused_if_it_is_given_twice(words: tuple[str, ...]) -> None:
    """The second value would win without a word."""
    single = [p for p in ALL[words].params if p.param_type_name == "option" and not (p.multiple or p.is_flag)]
    for param in single:
        flag = max(param.opts, key=len)
        status, text = called(*words, flag, "1", f"{flag}=2")
        assert status == 2
        assert f"{flag} is given 2 times" in text


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_a_value_that_is_no_number_is_answered_in_a_sentence(words: tuple[str, ...]) -> None:
    """It names the flag, the value, and what the flag takes."""
    command = ALL[words]
    hints = get_type_hints(command.callback)
    for param in command.params:
        if param.param_type_name == "option" and {int, float} & {hints.get(param.name), *get_args(hints.get(param.name))}:
            flag = max(param.opts, key=len)
            status, text = called(*words, flag, "many")
            assert status == 2
            assert text.startswith(f"bench: {flag} many is not a ")
            assert {*param.help.replace(MARK, "[").rstrip(".").split()} <= {*text.split()}


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ("table --alpha 5%", "0.05"),
        ("table --alpha 0,05", "0.05"),
        ("run --batch 1,000", "1000"),
        ("run --batch 1e3", "1000"),
        ("tabel", "'table'"),
        ("data chek", "'check'"),
        ("list method", "'methods'"),
        ("table --metrics ACR", "'--metric'"),
        ("--versoin", "'--version'"),
        ("show --zzz", "bench show --help"),
        ("table --alpha", "Failure probability"),
        ("run --quiet=3", "no value"),
        ("compare gaussian", "B is missing"),
        ("list", "methods"),
        ("show a b", "(b)"),
    ],
)
def test_a_slip_is_answered_with_the_right_form(words: str, right: str) -> None:
    status, text = called(*words.split())
    assert status == 2
    assert re.fullmatch(r"bench: .*\n", text)
    assert right in text


@pytest.mark.parametrize("flag", ["--epochs", "--n", "--lr=0.1"])
def test_a_field_of_a_spec_as_a_flag_names_the_way_to_change_it(flag: str) -> None:
    status, text = called("run", flag, "3", "--dry-run")
    assert status == 2
    assert "--set" in text


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (BenchError("no such run"), 2, ["no such run"]),
        (UsageError(["first", "second", "first"]), 2, ["first", "second"]),
        (FileNotFoundError(2, "No such file or directory", "there"), 2, ["there: No such file or directory"]),
        (OSError(28, "No space left on device"), 2, ["[Errno 28] No space left on device"]),
        (Interrupted(15), 143, []),
    ],
)
def test_what_a_command_raises_becomes_its_sentences_and_an_exit_code(error: Exception, code: int, lines: list[str]) -> None:
    failing = typer.Typer()

    @failing.command(cls=Command)
    def fail() -> None:
        raise error

    result = CliRunner().invoke(failing, [])
    assert result.exit_code == code
    assert result.output.splitlines() == [f"bench: {line}" for line in lines]


def test_a_fault_of_the_code_is_no_sentence() -> None:
    failing = typer.Typer()

    @failing.command(cls=Command)
    def fail() -> None:
        raise ValueError("a fault")

    assert isinstance(CliRunner().invoke(failing, []).exception, ValueError)
