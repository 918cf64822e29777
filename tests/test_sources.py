"""Hashes of source text that comments and docstrings leave alone, and records that are compared by them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_store import add, run_spec
from test_run import Quiet, attempt, cell, plugin, stopped

from bench.evidence.sources import compared, differs
from bench.files.writing import write_json
from bench.registry import ROOT
from bench.store.runs import Store
from bench.system.sources import code
from leaderboard.aggregate import collect

PLAIN = """import os
X = "# not a comment"
def f(a):
    return a, f"{a!r:>{X}} # no"
class A:
    x: int = 3
    y = '''line
  # kept'''"""

SAID = '''# -*- coding: utf-8 -*-
"""A module.

More of it."""

import os  # why
X = "# not a comment"
"""About X."""  # and more

def f(a):  # of a
    """Of a.""" """And more."""

    # why
    return a, f"{a!r:>{X}} # no"  # "

class A:
    \'\'\'An A.\'\'\'

    x: int = 3  # [equation 1]
    y = \'\'\'line
  # kept\'\'\'
'''


def test_what_does_not_run_is_left_out() -> None:
    assert code(SAID.encode()) == code(PLAIN.encode()) == PLAIN
    assert code(SAID.replace("\n", "\r\n").encode()) == PLAIN
    for old, new in (("not a", "no"), ("a!r", "a!s"), ("int = 3", "int = 4"), ("# kept", "#  kept")):
        assert code(SAID.replace(old, new).encode()) != PLAIN


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_the_code_of_a_method_is_its_code(path: Path) -> None:
    """It compiles to the same, but for places and docstrings, which it has none of."""
    found = code(path.read_bytes())
    assert "# " not in found
    assert '"""' not in found
    if path.stem != "__init__":
        compile(found, str(path), "exec")


def test_text_that_is_no_python_counts_as_it_is() -> None:
    for source in (b"def (", b"\xff\xfe\x00", b'"""'):
        assert code(source) == source.decode("latin-1")


TEXT, CODE = "method_sha256", "method_code_sha256"


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({TEXT: "a"}, {TEXT: "a", CODE: "c"}, False),
        ({TEXT: "a"}, {TEXT: "b", CODE: "c"}, True),
        ({TEXT: "a", CODE: "c"}, {TEXT: "b", CODE: "c"}, False),
        ({TEXT: "a", CODE: "c"}, {TEXT: "b", CODE: "d"}, True),
        ({}, {TEXT: "b", CODE: "d"}, False),
        ({TEXT: "a"}, {}, True),
    ],
)
def test_records_of_both_releases_compare(before: dict[str, str], now: dict[str, str], told: bool) -> None:
    assert differs(before, now, TEXT) == told
    assert compared({TEXT: "a", CODE: "c", "data_md5": 1}) == {CODE: "c", "data_md5": 1}


@pytest.mark.parametrize(
    ("one", "two", "mixed"),
    [
        ({TEXT: "a" * 64, CODE: "c" * 64}, {TEXT: "b" * 64, CODE: "c" * 64}, False),
        ({TEXT: "a" * 64}, {TEXT: "a" * 64, CODE: "c" * 64}, False),
        ({TEXT: "a" * 64}, {TEXT: "b" * 64, CODE: "c" * 64}, True),
        ({TEXT: "a" * 64, CODE: "c" * 64}, {TEXT: "a" * 64, CODE: "d" * 64}, True),
    ],
)
def test_a_table_is_split_by_code_alone(tmp_path: Path, one: dict[str, str], two: dict[str, str], mixed: bool) -> None:
    store = Store(tmp_path)
    for seed, environment in enumerate((one, two)):
        add(store, run_spec(seed=seed), environment=environment)
    (group,) = collect(store)
    assert bool(group.sections[0].rows[0].stats) != mixed
    assert any("several versions of its method" in note for note in group.footnotes) == mixed


@pytest.mark.parametrize("release", ["this", "earlier"])
@pytest.mark.parametrize(
    ("old", "new", "refused"), [("STATE = []", "STATE = []  # why", {"earlier"}), ("STATE = []", "STATE = [0]", {"this", "earlier"})]
)
def test_a_comment_does_not_stop_a_resume(tmp_path: Path, release: str, old: str, new: str, refused: set[str]) -> None:
    """Of an earlier release only the text is known, so that a changed text is refused as it was then, and the same one goes on."""
    store = Store(tmp_path / "runs")
    stopped(cell("mine", plugin(tmp_path)), store, "training", 2)
    run = store.run(cell("mine", plugin(tmp_path)).spec)
    path = run.path / "environment.json"
    if release == "earlier":
        write_json(path, {name: value for name, value in json.loads(path.read_text()).items() if "_code_" not in name})
    report = Quiet()
    if refused & {release}:
        assert attempt(cell("mine", plugin(tmp_path, old, new)), store, report) == "failed"
        assert "begun with another method_sha256" in report.said[-1]
        return
    assert attempt(cell("mine", plugin(tmp_path, old, new)), store, report) == "done"
    assert "history" not in (store.run(run.spec).environment() or {})
    assert json.loads(path.read_text())["plugins"].keys() == {"mine.py"}
    assert str(tmp_path) not in path.read_text()
