"""What the commands print fits the terminal: no line is longer, and no word is broken, cut or lost."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from fake_store import N, add, new_store, run_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bench.api.words import clock
from bench.cli import app
from bench.rules.bounds import certified_radius
from bench.store.runs import Store
from leaderboard.aggregate import collect
from leaderboard.formats import render
from leaderboard.formats.columns import GAP, NARROW, listed, paragraph
from leaderboard.tables import cells, document

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "results/reference"
COMMANDS = [
    f"table --results {REFERENCE}",
    f"table --results {REFERENCE} --protocol quick --metric ACR,abstention,quantiles,errors --status",
    f"table --results {REFERENCE} --table 4 --protocol quick --where certify.images=every:20 --against published",
    f"compare gaussian smoothmix* --results {REFERENCE} --protocol quick --sigma 0.5",
    f"status --results {REFERENCE}",
    f"run --dry-run --method gaussian,smoothmix --sigma 0.5 --results {REFERENCE}",
    f"list runs --results {REFERENCE}",
    "list methods",
    "list datasets",
    "list metrics",
    "list networks",
    "list protocols",
]
WORDS = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)
CELLS = st.lists(WORDS, max_size=6).map(" ".join)
ROWS = st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(*[CELLS] * n), min_size=1, max_size=5))


def printed(line: str, width: int) -> str:
    result = CliRunner().invoke(app, line.split(), env={"COLUMNS": str(width), "TERM": "dumb", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


def words(text: str) -> set[str]:
    """Words and numbers, without the lines of tables and what stands at the end of a word."""
    return {word for word in (part.rstrip(",:;.+*~") for part in text.replace("±", " ±").split()) if not re.fullmatch("[-─]*", word)}


@pytest.mark.parametrize("line", COMMANDS)
def test_what_is_printed_fits_and_holds_every_word(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    narrow, wide = printed(line, 80), printed(line, 1000)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow
    assert words(wide) <= words(narrow)


@settings(max_examples=40)
@given(ROWS, st.integers(20, 90))
def test_rows_fit_any_width_with_every_word(rows: list[tuple[str, ...]], width: int) -> None:
    names = [f"n{place}" for place in range(len(rows[0]))]
    text = listed([dict(zip(names, row, strict=True)) for row in rows], width)
    longest = max(len(word) for row in rows for word in (*" ".join(row).split(), "n0"))
    assert max(map(len, text.splitlines())) <= max(width, 2 * max(longest, NARROW) + GAP)
    found = Counter(text.replace(",", " ").split())
    for place in range(len(names)):
        column = [row[place] for row in rows]
        told_once = len(set(column)) == 1
        for word in " ".join(column[:1] if told_once else column).split():
            assert found[word]


@given(st.lists(WORDS).map(" ".join), st.integers(1, 60))
def test_a_paragraph_breaks_between_words_only(text: str, width: int) -> None:
    lines = paragraph(text, width).split("\n")
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or " " not in line for line in lines)


@given(st.floats(0, 1e10))
def test_a_duration_is_near_what_it_says(seconds: float) -> None:
    units = {"s": 1, "minutes": 60, "min": 60, "h": 3600, "days": 86400, "years": 365.25 * 86400}
    parts = re.findall(r"([\d,]+) (\w+)", clock(seconds))
    told = sum(float(number.replace(",", "")) * units[unit] for number, unit in parts)
    assert told == pytest.approx(seconds, rel=0.3, abs=0.5)
    assert len(clock(seconds)) <= 12


def test_a_radius_that_no_image_can_reach_shows_a_dash_and_csv_keeps_the_number() -> None:
    groups = collect(Store(ROOT / REFERENCE))
    radii = 0
    for group in groups:
        for section in group.sections:
            largest = certified_radius(group.conditions["certify.n"], group.conditions["certify.n"], 0.001, section.sigma) or 0
            for row, shown in zip(section.rows, cells(group, section), strict=True):
                for metric, cell in zip(group.metrics, shown, strict=True):
                    beyond = bool(row.stats) and metric.name != "ACR" and float(metric.name) >= largest
                    assert cell.beyond == beyond
                    radii += beyond
    shown_in = {name: render(document(groups), name) for name in ("markdown", "csv", "latex")}
    dashes = len(re.findall(r" -(?= \|)", shown_in["markdown"]))
    missing = sum(not row.stats for group in groups for section in group.sections for row in section.rows)
    assert dashes == radii + 6 * missing
    lines = list(csv.DictReader(io.StringIO(shown_in["csv"])))
    assert sum(line["mean"] == "0.0" for line in lines) >= radii
    assert len(re.findall(r" --(?= (?:&|\\\\))", shown_in["latex"])) == dashes


def test_csv_and_json_name_the_runs_that_a_number_is_of() -> None:
    groups = collect(Store(ROOT / REFERENCE))
    there = {run.key: run for run in Store(ROOT / REFERENCE).runs()}
    lines = list(csv.DictReader(io.StringIO(render(document(groups), "csv"))))
    assert {key for line in lines for key in line["keys"].split()} == there.keys()
    assert all(len(line["keys"].split()) == int(line["seeds_done"]) for line in lines)
    data = json.loads(render(document(groups), "json"))
    seeds = [seed for group in data["groups"] for section in group["sections"] for row in section["rows"] for seed in row["seeds"]]
    for seed in seeds:
        if seed["state"] == "done":
            assert any(found.spec.key == seed["certification"] for found in there[seed["key"]].certifications())


def test_an_unfinished_row_says_how_far_it_is_whatever_column_is_left_out(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    add(store, run_spec())
    add(store, run_spec("macer"), (N,))
    text = render(document(collect(store, metrics=["9.00", "ACR", "accuracy"])), "terminal", width=40)
    assert "Not shown" in text
    assert text.count("1/4 images") == text.count("sigma  row")
