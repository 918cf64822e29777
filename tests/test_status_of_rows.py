"""Every row of every table says what its numbers rest on; what is more than evidence comes from this user's own verification."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_store import CERTIFY, N, add, run_spec
from typer.testing import Result

from bench.evidence.binding import FINISHED
from bench.store.runs import Store
from bench.store.verified import LEVELS, Trust, recall, remember, weakest
from leaderboard.aggregate import collect
from leaderboard.tables import render

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def statuses(bench: Call, folder: Path) -> list[str]:
    """Those of the rows, in every form that shows them alike."""
    result = bench("table", "--results", folder, "--format", "json")
    assert result.exit_code == 0, result.output
    found = [row["status"] for group in json.loads(result.stdout)["groups"] for section in group["sections"] for row in section["rows"]]
    lines = csv.DictReader(io.StringIO(bench("table", "--results", folder, "--format", "csv", "--metric", "ACR").stdout))
    assert [line["status"] for line in lines] == found
    for form in ("terminal", "markdown", "latex"):
        assert all(word in bench("table", "--results", folder, "--format", form, "--status").stdout for word in (*found, "status"))
    return found


def test_verification_raises_the_status_and_a_change_lowers_it(bench: Call, two_cells: Path, tmp_path: Path, state: Path) -> None:
    folder = Path(shutil.copytree(two_cells, tmp_path / "runs"))
    assert statuses(bench, folder) == ["evidence", "evidence"]
    assert bench("verify", folder).exit_code == 0
    assert statuses(bench, folder) == ["weights checked", "weights checked"]
    recertified = bench("verify", folder, "--recertify", "6", "--device", "cpu")
    assert recertified.exit_code == 0, recertified.output
    assert statuses(bench, folder) == ["recertified on 3 images", "recertified on 3 images"]
    elsewhere = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert statuses(bench, elsewhere) == statuses(bench, folder), "it is the content that was verified, wherever it lies"

    first = next(Store(folder).runs())
    (certification,) = first.certifications()
    lines = certification.evidence.read_bytes().splitlines(keepends=True)
    kept = certification.evidence.read_bytes()
    certification.evidence.write_bytes(b"".join(lines[:-1]))
    (certification.path / FINISHED).unlink()
    assert statuses(bench, folder) == ["unfinished", "recertified on 3 images"]
    certification.evidence.write_bytes(kept)
    assert statuses(bench, folder)[0] == "recertified on 3 images, unbound"

    with first.weights.open("ab") as file:
        file.write(b"0")
    assert bench("verify", folder).exit_code == 1
    shutil.rmtree(state)
    assert statuses(bench, folder) == ["unfinished", "evidence"], "no number rests on a run with such weights"


def test_nothing_in_the_folder_raises_a_status(bench: Call, two_cells: Path, tmp_path: Path) -> None:
    """Whatever the state folder holds elsewhere; a failed verification makes void what was known."""
    folder = Path(shutil.copytree(two_cells, tmp_path / "runs"))
    assert bench("verify", folder).exit_code == 0
    shutil.copytree(tmp_path / "state", folder / "state")
    shutil.rmtree(tmp_path / "state")
    assert statuses(bench, folder) == ["evidence", "evidence"]
    run = next(Store(folder).runs())
    (certification,) = run.certifications()
    remember({certification.finding(): [0, 1]})
    assert statuses(bench, folder)[0] == "recertified on 2 images"
    kept = run.weights.read_bytes()
    run.weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert bench("verify", folder).exit_code == 1
    run.weights.write_bytes(kept)
    assert statuses(bench, folder) == ["evidence", "weights checked"]


def test_rows_of_every_kind_have_one(bench: Call, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    for seed in (0, 1):
        add(store, run_spec(seed=seed), (N, N - 1, N - seed, N)).certification(CERTIFY).seal()
    add(store, run_spec("macer"), (N,))
    (group,) = collect(store)
    assert {row.name: row.trust for row in group.sections[0].rows} == {"gaussian": "evidence", "macer": "unfinished"}
    assert "status" not in render([group], "terminal")
    (tmp_path / "state").write_text("")  # a file in the place of the folder
    assert statuses(bench, store.root) == ["evidence", "unfinished"]
    assert bench("verify", tmp_path / "runs").exit_code in (0, 1)


def test_what_is_kept_adds_up_and_broken_files_are_nothing(state: Path) -> None:
    remember({"a": [1, 2], "b": [], "c": [5]})
    remember({"a": [2, 3], "c": None})
    assert recall(["a", "b", "c", "d"]) == {"a": 3, "b": 0}
    (state / "verified.sqlite").write_bytes(b"nonsense" * 1000)
    assert recall(["a"]) == {}


def test_the_weakest_training_decides() -> None:
    order = [Trust(level=level, images=images) for level in LEVELS for images in ((1, 2) if level == "recertified" else (0,))]
    for number, status in enumerate(order):
        assert weakest(order[number:]) == status
    assert weakest([]) is None
    assert str(order[-2]) == "recertified on 1 image"
