"""What the tests read of the checkout beside the package."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "results").glob("*/README.md"), *DOCS.rglob("*.md")])


def text_of(page: str) -> str:
    """Of a page, by its path in docs."""
    return (DOCS / page).read_text(encoding="utf-8")


def flat(page: str) -> str:
    """The same without line breaks, for sentences."""
    return " ".join(text_of(page).split())


def script(path: str) -> ModuleType:
    """A file of the checkout that is in no package, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: str, holding: str, language: str = "python") -> list[str]:
    """The fenced blocks of a page in which these words stand."""
    return [block for block in re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL) if holding in block]
