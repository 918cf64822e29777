"""What the commands print of results/reference: no change of the code may move a number. The words around them may change.

`python tests/test_frozen.py` writes tests/frozen anew, which is needed where an output gets another shape; read its diff.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli import app

ROOT = Path(__file__).resolve().parent.parent
FROZEN = Path(__file__).resolve().parent / "frozen"
REFERENCE = "results/reference"
TABLE = ("table", "--results", REFERENCE)
QUICK = ("compare", "--results", REFERENCE, "--protocol", "quick")
COMMANDS = {
    "table.txt": TABLE,
    "table.md": (*TABLE, "--format", "markdown"),
    "table.csv": (*TABLE, "--format", "csv"),
    "table.json": (*TABLE, "--format", "json"),
    "table.tex": (*TABLE, "--format", "latex"),
    "table-full.txt": (*TABLE, "--protocol", "full"),
    "table-all.csv": (*TABLE, "--metric", "all", "--method", "gaussian,macer", "--format", "csv"),
    "table-alpha-ties.txt": (*TABLE, "--alpha", "0.01", "--marks", "test", "--protocol", "quick"),
    "table-mix.txt": (*TABLE, "--mix", "--metric", "ACR,0.25,0.75"),
    "table-4.txt": (*TABLE, "--table", "4", "--protocol", "quick", "--where", "certify.images=every:20", "--compat", "3sig"),
    "compare.txt": (*QUICK, "gaussian", "smoothmix*"),
    "compare.md": (*QUICK, "gaussian", "macer", "--format", "markdown"),
    "compare.csv": (*QUICK, "gaussian", "smoothadv", "--format", "csv"),
    "compare.json": (*QUICK, "gaussian", "stability", "--format", "json"),
    "compare-full.txt": ("compare", "--results", REFERENCE, "--protocol", "full", "gaussian", "consistency", "--sigma", "0.5"),
    "verify.txt": ("verify", REFERENCE),
    "list-runs.txt": ("list", "runs", "--results", REFERENCE),
    "list-runs.json": ("list", "runs", "--results", REFERENCE, "--json"),
}


def printed(words: tuple[str, ...], columns: int = 160) -> str:
    """The exit code and what a command writes on standard output and on standard error."""
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"})
    return f"exit {result.exit_code}\n{result.output}"


WORDS = {"status", "notes", "note", "footnotes", "caption", "title", "meaning", "rule", "heading", "best", "improves", "tied"}
"""Fields that hold words, or marks that say how numbers compare."""


def rows_of(text: str) -> list[tuple[list[str], list[str]]]:
    """The name and the numbers of each line of a table: of one with three decimal numbers at least, or with a state in their place."""
    found = []
    for line in text.split("\n"):
        plain = re.sub(r"<[^>]*>|\\\\[a-z]+|[{}|&*+$\\\\`~]", " ", line)
        numbers = re.findall(r"(?<![\w.])[-+]?\d+\.\d+", plain)
        if len(numbers) > 2 or re.search(r"\bmissing\b", plain):
            found.append((re.findall(r"[a-z][a-z0-9.-]+", plain)[:1], numbers))
    return found


def holds(new: Any, old: Any, path: str = "") -> None:
    """Asserts that new JSON values hold the old ones; objects may have got more fields."""
    if isinstance(old, dict):
        for name in old.keys() - WORDS:
            assert name in new, f"{path}.{name} is gone"
            holds(new[name], old[name], f"{path}.{name}")
    elif isinstance(old, list):
        assert len(new) == len(old), path
        for place, (one, other) in enumerate(zip(new, old, strict=True)):
            holds(one, other, f"{path}[{place}]")
    else:
        assert new == old, path


def compare(name: str, new: str, old: str) -> None:
    """Asserts that one output says the numbers of another."""
    (status, new), (before, old) = (text.split("\n", 1) for text in (new, old))
    assert status == before
    if name.endswith(".json"):
        holds(json.loads(new), json.loads(old))
    elif name.endswith(".csv"):
        holds(list(csv.DictReader(io.StringIO(new))), list(csv.DictReader(io.StringIO(old))))
    elif name == "verify.txt":
        assert set(re.findall(r"[\d,.]+\d", old)) <= set(re.findall(r"[\d,.]+\d", new))
    elif name == "list-runs.txt":
        assert new.split() == old.split()
    else:
        assert rows_of(old)
        assert rows_of(new) == rows_of(old)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_numbers_that_a_command_prints_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    compare(name, printed(COMMANDS[name]), (FROZEN / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMANDS)
def test_another_digit_is_seen(name: str) -> None:
    """Most of twenty numbers, taken evenly from the output, cannot be changed; the others stand in sentences."""
    text = (FROZEN / name).read_text(encoding="utf-8")
    there = list(re.finditer(r"\d+\.\d{2,}", text)) or list(re.finditer(r"\d+", text))
    chosen = there[:: max(1, len(there) // 20)]
    seen = 0
    for match in chosen:
        at = match.end() - 1
        try:
            compare(name, f"{text[:at]}{9 - int(text[at])}{text[at + 1 :]}", text)
        except AssertionError:
            seen += 1
    assert seen > len(chosen) / 2


def test_nothing_else_is_frozen() -> None:
    assert {path.name for path in FROZEN.iterdir()} == set(COMMANDS)


if __name__ == "__main__":
    for name, words in COMMANDS.items():
        (FROZEN / name).write_text(printed(words), encoding="utf-8")
