"""What `bench run` prints: its table and nothing else on standard output, and on standard error how it goes and what to type next."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_contract import GOOD
from typer.testing import Result

from bench.files.writing import read_json

Call = Callable[..., Result]


@pytest.fixture
def two(two_cells: Path, tmp_path: Path) -> Path:
    """The runs of two cells, where `tiny` puts its own."""
    shutil.copytree(two_cells, tmp_path / "runs")
    return tmp_path / "runs"


def test_standard_output_is_the_table_of_these_cells(bench: Call, tiny: Call, two: Path) -> None:
    result = tiny("--method", "gaussian,stability", "--sigma", "0.25")
    told = [line for line in result.stderr.splitlines() if ": ACR " in line]
    assert [line.split(":")[0] for line in told] == ["[1/1] stability sigma 0.25"], "each cell that was computed, and no other"
    assert result.stdout == bench("table", "--results", two, "--sigma", "0.25").stdout
    for line in (line.removeprefix("next: ") for line in result.stderr.splitlines() if line.startswith("next: ")):
        assert bench(*shlex.split(line.replace("table.md", str(two.parent / "table.md")))[1:], *_out(line, two)).exit_code == 0
    assert tiny("--method", "gaussian", "--sigma", "0.5").stdout == bench("table", "--results", two, "--sigma", "0.5").stdout


def _out(line: str, two: Path) -> list[str]:
    return ["--out", str(two.parent / "curves.svg")] if "plot" in line else []


def test_json_is_all_of_standard_output_and_holds_the_acr(bench: Call, tiny: Call, two: Path) -> None:
    cells = json.loads(tiny("--method", "gaussian", "--sigma", "0.25,0.5", "--json").stdout)["cells"]
    rows = json.loads(bench("table", "--results", two, "--format", "json").stdout)["groups"][0]["sections"]
    assert [cell["acr"] for cell in cells] == [section["rows"][0]["metrics"]["ACR"]["mean"] for section in rows]


def test_quiet_prints_problems_only(tiny: Call, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD.replace("return {", 'raise RuntimeError("no loss today")\n        return {'))
    result = tiny("--plugin", path, "--method", "mine,gaussian", "--sigma", "0.25", "--quiet")
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no loss today" in line
    assert "mine" in line
    again = tiny("--plugin", path, "--method", "mine,gaussian", "--sigma", "0.25", "--set", "train.batch=32")
    assert "gaussian" in again.stdout, "what is done is shown, though a cell failed"
    assert "mine" in again.stdout


def test_a_picture_of_the_cells_is_drawn(tiny: Call, two: Path) -> None:
    files = [two.parent / f"curves.{ending}" for ending in ("svg", "png")]
    for file in files:
        result = tiny("--method", "gaussian", "--sigma", "0.25", "--plot", file)
        assert f"wrote {file}" in result.stderr
    assert [file.read_bytes()[:5] for file in files] == [b"<?xml", b"\x89PNG\r"]


@pytest.mark.parametrize(
    "words",
    [
        ["--plot", "curves.txt"],
        ["--plot", "no/such/folder/c.svg"],
        ["--plot", "c.svg", "--dry-run"],
        ["--plot", "c.svg", "--emit", "commands"],
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_runs(tiny: Call, tmp_path: Path, words: list[str]) -> None:
    result = tiny("--method", "gaussian", "--sigma", "0.25", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert not (tmp_path / "runs").exists()


def test_what_is_stored_does_not_depend_on_who_watches(tiny: Call, two: Path, tmp_path: Path) -> None:
    """The rows of a cell that ran on its own are those of one that was watched; so is its training."""
    (watched,) = (path for path in two.rglob("training.json") if "0.25-" in str(path))
    assert tiny("--method", "gaussian", "--sigma", "0.25", "--rerun", "all", "--quiet").exit_code == 0
    again = next(path for path in two.rglob("training.json") if "0.25-" in str(path) and ".replaced" not in path.parts)
    old = next(path for path in two.rglob("training.json") if "0.25-" in str(path) and ".replaced" in path.parts)
    assert watched == again
    assert read_json(old) == read_json(again)
