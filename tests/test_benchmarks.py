"""The scripts of benchmarks/ load and explain themselves; their figures are nobody's test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_loads(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, cwd=FOLDER.parent, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's answer; tests/test_graph.py has what a CPU can show")
def test_replayed_steps_equal_eager_ones_on_a_card() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "equality.py")], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
