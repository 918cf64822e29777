"""What the commands share: words into lists, problems into exit code 2."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from bench.api.words import clock as clock
from bench.api.words import plain as plain
from bench.errors import nearest, nearest_folder, unknown
from bench.spec import PROTOCOL_ALIASES

if TYPE_CHECKING:
    from bench.registry import Registry

T = TypeVar("T")


def stop(problems: Iterable[str], code: int = 2) -> NoReturn:
    """Prints every problem on a line of its own and ends with exit code 2."""
    for problem in dict.fromkeys(problems):
        say(f"bench: {problem}", err=True)
    raise typer.Exit(code)


def refuse(problems: Sequence[str]) -> None:
    """As `stop`, if there is any problem."""
    if problems:
        stop(problems)


BETWEEN_WORDS = r",(?![^\[]*\])"  # not within brackets
BETWEEN_CHANGES = BETWEEN_WORDS + r"(?!\s*[\d.]+\s*(?:,|$))"  # nor before a bare number, which is more of a list such as 0,0.5,1


def words(values: Sequence[str] | None, flag: str, problems: list[str], between: str = BETWEEN_WORDS) -> list[str]:
    """Comma-separated and repeated values as one list, in order, without repeats. A flag that is given but empty is a problem."""
    parts = [part.strip() for value in values or () for part in re.split(between, value)]
    found = list(dict.fromkeys(part for part in parts if part))
    if values and not found:
        problems.append(f"{flag} is empty; give it a value, or leave it out for the default")
    return found


def check_value(value: T | None, check: Callable[[T], object], problems: list[str]) -> None:
    """What a check says of the value of a flag, if one is given, is a problem; it begins with the flag's name."""
    try:
        if value is not None:
            check(value)
    except ValueError as error:
        problems.append(f"--{error}")


def check_alpha(alpha: float | None, problems: list[str]) -> None:
    """A failure probability lies in (0, 1/2), if one is given."""
    from bench.rules import bounds

    check_value(alpha, bounds.check_alpha, problems)


def numbers(values: Sequence[str] | None, flag: str, problems: list[str]) -> list[float]:
    """Words as finite numbers; what is none becomes a problem."""
    result = []
    for word in words(values, flag, problems):
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII):
            result.append(float(word))
        else:
            problems.append(f"{flag} {word} is not a number; write it as 0.25")
    return result


def seeds(values: Sequence[str] | None, problems: list[str]) -> list[int]:
    """`5` means 0..4; `0,3,4`, a repeated flag, or `3,` mean just those seeds."""
    chosen = []
    for word in words(values, "--seeds", problems):
        if not (word.isascii() and word.isdigit() and len(word) < 19):
            problems.append(f"--seeds {word} is not a whole number from 0 up; write 5 for seeds 0 to 4, or a list such as '0,3,4'")
        else:
            chosen.append(int(word))
    as_count = len(chosen) == 1 and len(values or ()) == 1 and "," not in (values or ("",))[0]
    if as_count and chosen[0] > 100_000:
        problems.append(f"--seeds {chosen[0]} asks for more than 100000 seeds; write '{chosen[0]},' for that one seed")
        return []
    if as_count and chosen[0] == 0:
        problems.append("--seeds 0 asks for no seed, since N means seeds 0 to N - 1; write '0,' for seed 0 alone")
        return []
    return list(range(chosen[0])) if as_count else chosen


def filters(
    dataset: Sequence[str] | None,
    method: Sequence[str] | None,
    sigma: Sequence[str] | None,
    seed: Sequence[str] | None,
    protocol: Sequence[str] | None,
    recipe: Sequence[str] | None,
    problems: list[str],
) -> dict[str, Any]:
    """The flags that choose among runs, as keywords of `leaderboard.aggregate.Filters`."""
    return {
        "datasets": words(dataset, "--dataset", problems),
        "methods": words(method, "--method", problems),
        "protocols": [PROTOCOL_ALIASES.get(name, name) for name in words(protocol, "--protocol", problems)],
        "recipes": words(recipe, "--recipe", problems),
        "sigmas": numbers(sigma, "--sigma", problems),
        "seeds": seeds(seed, problems),
    }


def changes(values: Sequence[str] | None, problems: list[str]) -> dict[str, str]:
    """`name=value` words as a dict; a name given twice with two values is a problem."""
    result: dict[str, str] = {}
    for word in words(values, "--set", problems, BETWEEN_CHANGES):
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            problems.append(f"--set {word} is not of the form name=value, such as step_size=0.5 or train.epochs=3")
        elif result.setdefault(name, value) != value:
            problems.append(f"--set {name} is given twice: {result[name]} and {value}")
    return result


def check_folder(folder: Path, problems: list[str], flag: str = "--results") -> None:
    """A folder to write must be, or be creatable as, a writable folder; nothing is written to find out."""
    place = folder
    try:
        while not place.exists() and place.parent != place:
            place = place.parent
    except OSError as error:
        problems.append(f"{flag} {folder}: {error.strerror}")
        return
    if not place.is_dir():
        problems.append(f"{flag} {folder}: {place} is a file, not a folder")
    elif not os.access(place, os.W_OK | os.X_OK):
        problems.append(f"{flag} {folder}: {place} cannot be written to")


def write_file(path: Path, flag: str, content: bytes) -> None:
    """Writes a file that a flag names, whole or not at all, where a link leads to; exit 2 if that fails."""
    from bench.files.writing import write_atomically

    try:
        write_atomically(Path(os.path.realpath(path)), content)
    except OSError as error:
        stop([f"{flag} {path}: {error.strerror}"])


def existing_folder(folder: Path, flag: str = "--results") -> Path:
    """The results folder for reading, as a flag names it; exit 2 if there is none."""
    try:
        found = folder.is_dir()
    except OSError as error:
        stop([f"{flag} {folder}: {error.strerror}"])
    if not found:
        hint = "; `bench import` fills one with logs" if flag == "--logs" else "; `bench run` fills results/runs"
        default = "; the default, results/runs, is there" if flag == "--results" and Path("results/runs").is_dir() else ""
        stop([f"{flag} {folder}: there is no such folder{nearest_folder(folder) or default or hint}"])
    return folder


def check_out(out: Path | None, example: str, problems: list[str], flag: str = "--out") -> None:
    """A file to write, if one is named, is absent or a plain one, and has a folder to stand in, in which one may write."""
    try:
        if out is None:
            return
        if not out.name or out.is_dir():
            problems.append(f"{flag} {out} is a folder; name a file in it, such as {out / example}")
        elif not out.parent.is_dir():
            problems.append(f"{flag} {out}: there is no folder {out.parent}")
        elif out.exists() and not out.is_file():
            problems.append(f"{flag} {out} is a pipe or a device; name a plain file or a new one")
        elif not os.access(out.parent, os.W_OK | os.X_OK):
            problems.append(f"{flag} {out}: {out.parent} cannot be written to")
    except (OSError, ValueError) as error:
        problems.append(f"{flag} {plain(out)}: {error}")


def format_of(named: str | None, out: Path | None, problems: list[str]) -> str:
    """The format that --format names, or else the ending of the file; terminal where neither does."""
    from leaderboard.formats import FORMATS

    if named is not None:
        problems += unknown("--format", named, FORMATS)
        return named
    endings = {format.suffix: name for name, format in FORMATS.items()}
    ending = out.suffix.lower() if out else ""
    if ending and ending not in endings:
        problems.append(f"--out {out}: no format has the ending {ending}, and no --format is named{nearest(ending, endings)}")
    return endings.get(ending, "terminal")


def deliver(text: str, out: Path | None) -> None:
    """Prints a text, or writes it to a file and says so."""
    if out is None:
        typer.echo(text.rstrip("\n"))
        return
    write_file(out, "--out", (text.rstrip("\n") + "\n").encode())
    typer.echo(f"wrote {out}")


def plugins(values: Sequence[str] | None, problems: list[str]) -> tuple[Path, ...]:
    """Paths of plug-in files. A value that names a file is that file, commas and all."""
    found: list[str] = []
    for value in values or ():
        # os.path says no to what cannot be a path, where pathlib raises.
        found += [value] if os.path.isfile(value) else words([value], "--plugin", problems)  # noqa: PTH113
    return tuple(map(Path, dict.fromkeys(found)))


def plugin_paths(plugin: list[str] | None) -> tuple[Path, ...]:
    """Paths of plug-in files; exit 2 if a flag names none."""
    problems: list[str] = []
    paths = plugins(plugin, problems)
    refuse(problems)
    return paths


def use_plugins(plugin: list[str] | None, *kinds: str, metrics: Sequence[str] = ()) -> Registry | None:
    """Makes what plug-ins define known to this command; exit 2 if one cannot be used.

    Args:
        kinds: those that the command knows: method, network, data set or metric.
        metrics: words of --metric, which a package may define.
    """
    if not plugin and not metrics:
        return None
    from bench.registry import KINDS, Registry

    registry = Registry(plugin_paths(plugin))
    if plugin:
        registry.use(*(kind for kind in KINDS if kind.word in kinds))
    registry.load_metrics(metrics)
    return registry


def say(text: object, *, err: bool = False) -> None:
    """Prints a line without control characters, on standard error if `err`."""
    typer.echo(plain(text), err=err)


def say_some(before: str, lines: Sequence[object], most: int, more: str = "", after: str = "") -> None:
    """Prints the first of many lines, and how many there are besides."""
    for line in lines[:most]:
        say(f"{before}{line}")
    if len(lines) > most:
        say(f"{before}{more}{len(lines) - most} more{after}")


def width_of_terminal(otherwise: int) -> int:
    """Characters of a line: what COLUMNS says, or the terminal; `otherwise` where the output is no terminal."""
    return shutil.get_terminal_size((otherwise, 24)).columns


def shows_color() -> bool:
    """Whether the output is a terminal, and NO_COLOR is not set."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Rows as a table without lines, under the names of the first, as wide as the terminal."""
    from leaderboard.formats.columns import listed

    texts = [{name: plain(value) for name, value in row.items()} for row in rows]
    typer.echo(listed(texts, width_of_terminal(160)) if rows else "none")


def say_long(text: str) -> None:
    """Prints a sentence in lines as wide as the terminal."""
    from leaderboard.formats.columns import paragraph

    typer.echo(paragraph(plain(text), width_of_terminal(160)))


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # the name of a file that is no text
        text = json.dumps(value, indent=2, allow_nan=False)
    typer.echo(text)
