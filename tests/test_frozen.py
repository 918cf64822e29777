"""What the commands print of results/reference, byte for byte: no change of the code may move a printed number.

`python tests/test_frozen.py` writes tests/frozen anew, for a change that is meant to alter the words around the numbers; read its diff.
"""

from __future__ import annotations

from pathlib import Path

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
    "table-all.csv": (*TABLE, "--metric", "all", "--format", "csv"),
    "table-alpha-ties.txt": (*TABLE, "--alpha", "0.01", "--ties", "--protocol", "quick"),
    "table-mix.txt": (*TABLE, "--mix", "--metric", "ACR,0.75"),
    "table-4.txt": (*TABLE, "--table", "4", "--protocol", "quick", "--compat", "3sig"),
    "compare.txt": (*QUICK, "gaussian", "smoothmix*"),
    "compare.md": (*QUICK, "gaussian", "macer", "--format", "markdown"),
    "compare.csv": (*QUICK, "gaussian", "smoothadv", "--format", "csv"),
    "compare.json": (*QUICK, "gaussian", "stability", "--format", "json"),
    "compare-full.txt": ("compare", "--results", REFERENCE, "--protocol", "full", "gaussian", "consistency", "--sigma", "0.5"),
    "verify.txt": ("verify", REFERENCE),
    "list-runs.txt": ("list", "runs", "--results", REFERENCE),
    "list-runs.json": ("list", "runs", "--results", REFERENCE, "--json"),
}


def printed(words: tuple[str, ...]) -> str:
    """The exit code and what a command writes on standard output and on standard error."""
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})
    return f"exit {result.exit_code}\n{result.output}"


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_prints_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert printed(COMMANDS[name]) == (FROZEN / name).read_text(encoding="utf-8")


def test_nothing_else_is_frozen() -> None:
    assert {path.name for path in FROZEN.iterdir()} == set(COMMANDS)


if __name__ == "__main__":
    for name, words in COMMANDS.items():
        (FROZEN / name).write_text(printed(words), encoding="utf-8")
