"""What the command line says to somebody who meets it for the first time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Call = Callable[..., Result]


@pytest.mark.parametrize(
    ("verb", "name", "form"),
    [
        (("table",), "t.tex", "latex"),
        (("table",), "t.md", "markdown"),
        (("table",), "t.csv", "csv"),
        (("table",), "t.JSON", "json"),
        (("table",), "t.txt", "terminal"),
        (("compare", "gaussian", "gaussian"), "c.md", "markdown"),
    ],
)
def test_a_file_has_the_format_of_its_suffix(
    bench: Call, two_cells: Path, tmp_path: Path, verb: tuple[str, ...], name: str, form: str
) -> None:
    by_suffix, by_name = tmp_path / name, tmp_path / "named"
    assert bench(*verb, "--results", two_cells, "--out", by_suffix).exit_code == 0
    assert bench(*verb, "--results", two_cells, "--out", by_name, "--format", form).exit_code == 0
    assert by_suffix.read_bytes() == by_name.read_bytes()
    other = tmp_path / "other.csv"
    bench(*verb, "--results", two_cells, "--out", other, "--format", "terminal")
    assert (other.read_bytes() == by_suffix.read_bytes()) == (form == "terminal"), "--format decides before the suffix does"
