"""Builds the site of the documentation in build/site: `python tools/docs.py`. A broken link or anchor is an error.

The pages of docs/ are copied to build/docs. More are made there: the leaderboard of results/reference, by `bench site`; the reference of
the commands, by Typer from the commands themselves; and a page of the notebook. Zensical then builds the site from all of them, by
zensical.toml. It takes the reference of the Python API from the docstrings, without importing them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "docs"


def main() -> int:
    """Exit code: 0 where the site was built without a warning."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    shutil.copy(ROOT / "CHANGELOG.md", PAGES / "changelog.md")
    for page in PAGES.rglob("*.md"):
        page.write_text(page.read_text(encoding="utf-8").replace("quickstart.ipynb)", "quickstart.md)"), encoding="utf-8")
    (PAGES / "quickstart.md").write_text(page_of(PAGES / "quickstart.ipynb"), encoding="utf-8")
    commands = (PAGES / "reference" / "commands.md").relative_to(ROOT)
    leaderboard = ("-c", "from bench.cli import app; app()", "site", "results/reference", "--out", str(PAGES / "leaderboard.html"))
    typer = ("-m", "typer", "bench.cli", "utils", "docs", "--name", "bench", "--title", "Commands", "--output", str(commands))
    zensical = ("-m", "zensical", "build", "--strict", "--clean")
    for words in (leaderboard, typer, zensical):
        result = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
        if result.returncode:
            return result.returncode
    print(f"wrote {ROOT / 'build' / 'site' / 'index.html'}")
    return 0


def page_of(notebook: Path) -> str:
    """The notebook as Markdown: its texts, and its code in fences."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text for cell, text in zip(cells, texts, strict=True))


if __name__ == "__main__":
    sys.exit(main())
