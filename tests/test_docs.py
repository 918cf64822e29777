"""The documentation builds without a broken link, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from pages import DOCS, PAGES, ROOT, blocks, text_of
from typer.testing import Result

import bench
from bench.cli import app


def test_the_site_builds() -> None:
    """Every link and anchor of a page leads somewhere."""
    pytest.importorskip("zensical")
    result = subprocess.run([sys.executable, ROOT / "tools" / "docs.py"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "griffe:" not in result.stdout + result.stderr, "a docstring names an argument that is not there"
    assert (ROOT / "build" / "site" / "leaderboard.html").is_file()
    commands = (ROOT / "build" / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert all(f"## `bench {name}`" in commands for name in verbs())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    """The files that it links to, the commands, and their flags."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)", text)
    assert not [link for link in links if not (page.parent / link).exists()]
    known = verbs()
    for line in re.findall(r"(?:^|`|&& |\$ )bench ([a-z][^`#&\n]*)", text, re.MULTILINE):
        verb, *words = line.split()
        assert verb in known, line
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known[verb], line


def verbs() -> dict[str, set[str]]:
    """Every command, with its flags and those of its own commands."""

    def flags(command: object) -> set[str]:
        own = {flag for parameter in command.params for flag in parameter.opts}  # type: ignore[attr-defined]
        return own.union(*(flags(sub) for sub in getattr(command, "commands", {}).values()))

    return {name: flags(command) | {"--help"} for name, command in typer.main.get_command(app).commands.items()}  # type: ignore[attr-defined]


def test_the_reference_has_the_whole_api() -> None:
    page = text_of("reference/python.md")
    named = set(re.findall(r"^::: \S+\.(\w+)$", page, re.MULTILINE))
    assert set(bench.__all__) <= named


def test_the_method_of_the_guide_is_that_of_new_method(bench: Callable[..., Result], tmp_path: Path) -> None:
    assert bench("new-method", "mine", "--folder", tmp_path).exit_code == 0
    (block,) = blocks("guide/extend.md", "class Mine(Method)")
    (short,) = blocks("../README.md", "def loss(")
    written = {line.strip() for line in (tmp_path / "mine.py").read_text(encoding="utf-8").splitlines()}
    assert {line.strip() for line in (block + short).splitlines()} <= written


def test_the_glossary_defines_a_term_once() -> None:
    terms = re.findall(r"^- \*\*(.+?)\*\*: ", text_of("glossary.md"), re.MULTILINE)
    assert len(terms) > 20
    assert len({term.lower() for term in terms}) == len(terms)


def test_the_site_has_every_page() -> None:
    listed = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8")))
    made = {"quickstart.md", "reference/commands.md", "changelog.md"}
    assert listed == made | {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_the_picture_is_what_its_command_draws(bench: Callable[..., Result], tmp_path: Path) -> None:
    """The command stands below it in the README."""
    image = pytest.importorskip("matplotlib.image")
    (line,) = re.findall(r"`bench (plot [^`]*) --out docs/curves.png`", (ROOT / "README.md").read_text(encoding="utf-8"))
    drawn = tmp_path / "curves.png"
    words = [str(ROOT / word) if word.startswith("results/") else word for word in line.split()]
    assert bench(*words, "--out", drawn).exit_code == 0
    mine, kept = (image.imread(path)[..., :3].mean(axis=-1) for path in (drawn, DOCS / "curves.png"))
    assert (DOCS / "curves.png").stat().st_size < 200_000
    assert abs(mine.shape[0] - kept.shape[0]) < 40
    assert abs(mine.shape[1] - kept.shape[1]) < 40
    height, width = (min(pair) for pair in zip(mine.shape, kept.shape, strict=True))
    assert abs(mine[:height, :width] - kept[:height, :width]).mean() < 0.02
