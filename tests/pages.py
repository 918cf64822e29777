"""What the tests read of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "results").glob("*/README.md"), *DOCS.rglob("*.md")])


def text_of(page: str) -> str:
    """Of a page, by its path in docs."""
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, holding: str, language: str = "python") -> list[str]:
    """The fenced blocks of a page in which these words stand."""
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL) if holding in block]
