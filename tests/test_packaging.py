"""What ships, and that README, CI and package say the same."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_installed_package_holds_data_template_and_published_numbers() -> None:
    assets = files("bench") / "assets"
    names = {p.name for p in (assets / "mnist").iterdir()}
    assert names == {
        "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "NOTICE",
    }  # fmt: skip
    assert "Attribution-Share Alike 3.0" in (assets / "mnist" / "NOTICE").read_text()
    assert (assets / "new_method.py.txt").is_file()
    assert all((files(package) / "py.typed").is_file() for package in ("bench", "leaderboard"))  # the API's types are in both
    from leaderboard.layouts import numbers

    assert numbers() == (4, 5, 6, 7, 8, 9, 10, 11)


def test_readme_and_ci_run_the_same_test_command() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert len(commands) == 2, "two set-up commands: the main job and the tests"
    main, test = commands
    assert "pip install . && bench run --method smoothmix" in main
    assert test.endswith("pip install '.[dev]' && ruff check . && ruff format --check . && mypy && pytest")
    assert 'grep -m1 "^python3 -m venv .* pytest$" README.md' in (ROOT / ".ci" / "run").read_text()


def test_the_project_pins_nothing_and_names_no_index() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        assert "==" not in requirement
        assert "@" not in requirement
    assert any(r.startswith("torch>=2.10") for r in requires("certbench") or [])


@pytest.mark.slow
def test_a_built_wheel_runs_elsewhere(tmp_path: Path) -> None:
    """Builds the wheel, unpacks it away from the checkout, and runs a cell and its table from there."""
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    assert "leaderboard/published/layouts.toml" in names
    assert "leaderboard/published/logs/smoothmix-logs.csv" in names
    assert "bench/assets/mnist/train-images-idx3-ubyte.gz" in names
    assert not [n for n in names if n.startswith(("tests", "results", "docs"))]
    script = "import sys; sys.path.insert(0, 'site'); from bench.cli import app; import bench; assert 'site' in bench.__file__; app()"
    for words in (
        "run --method gaussian --sigma 0.25 --protocol smoke --set train.images=first:64,certify.images=first:2",
        "table --dataset mnist",
    ):
        result = subprocess.run([sys.executable, "-c", script, *words.split()], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert "gaussian" in result.stdout
