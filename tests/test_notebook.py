"""The notebook of the documentation runs from its first cell to its last, as it is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
RUN = "import sys; exec(compile(sys.stdin.read(), 'notebook', 'exec'), {'__name__': '__main__'})"


def cells() -> list[str]:
    """The sources of the code cells."""
    return ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_every_cell_runs() -> None:
    checked = "assert len(frame) == 111_500 and len(mine) == 20 and mine['correct'].any() and len(ran) == 5 and axes.get_lines()"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN],
        input="\n\n".join([*cells(), checked, "print('all ran')"]),
        cwd=NOTEBOOK.parent,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("all ran\n")


def test_it_stores_no_outputs_and_uses_the_whole_api() -> None:
    import bench

    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
    text = "\n".join(cells())
    assert all(f"bench.{name}(" in text for name in bench.__all__)
