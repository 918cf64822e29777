"""What forgers tried against the reader, each with records that fit each other; and broken files that ended commands."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_store import CERTIFY, add, run_spec
from typer.testing import Result

from bench.datasets import DATASETS, facts_of
from bench.files.writing import read_json, write_json
from bench.spec import canonical, to_json
from bench.store.runs import Run, Store
from bench.verify import verify
from leaderboard.aggregate import collect

Call = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "runs")
    for row in ("gaussian", "macer"):
        add(found, run_spec(row)).certification(CERTIFY).seal()
    return found


def named(store: Store, row: str) -> Run:
    return next(run for run in store.runs() if run.spec.method == row)


def shown(store: Store) -> dict[str, str]:
    return {row.name: row.seeds[0].state for group in collect(store) for section in group.sections for row in section.rows}


def test_no_hash_is_not_a_hash(store: Store) -> None:
    run = named(store, "gaussian")
    folder = run.certification(CERTIFY).path
    for path in (run.path / "training.json", folder / "subject.json", folder / "finished.json"):
        write_json(path, read_json(path) | {"weights_sha256": ""})
    assert verify(store.root).failures
    assert shown(store) == {"gaussian": "damaged", "macer": "done"}


@pytest.mark.parametrize("digits", [50, 400, 5000])
@pytest.mark.parametrize("file", ["spec.json", "training.json", "timing.json", "certify"])
def test_numbers_of_hundreds_of_digits_end_nothing(bench: Call, store: Store, file: str, digits: int) -> None:
    run = named(store, "gaussian")
    path = run.certification(CERTIFY).path / "spec.json" if file == "certify" else run.path / file
    known = path.read_text().strip()[1:-1] + "," if path.exists() else ""
    path.write_text(f'{{{known}"number":{"9" * digits}}}')
    assert any(fault.file == path for fault in verify(store.root).failures)
    assert shown(store)["macer"] == "done"
    for words in (("status",), ("list", "runs")):
        result = bench(*words, "--results", store.root)
        assert not result.exception or isinstance(result.exception, SystemExit), result.exception


def test_a_copy_elsewhere_hides_no_run(store: Store) -> None:
    run = named(store, "gaussian")
    copy = store.root / "aaa" / run.path.relative_to(store.root)
    copy.mkdir(parents=True)
    shutil.copy(run.path / "spec.json", copy)
    assert any("the same run" in fault.reason for fault in verify(store.root).failures)
    assert shown(store) == {"gaussian": "done", "macer": "done"}
    write_json(run.path / "training.json", read_json(run.path / "training.json") | {"steps": 7})
    assert shown(store) == {"gaussian": "damaged", "macer": "done"}


@pytest.mark.parametrize("name", ["imported", "checkpoints"])
def test_the_name_of_the_root_says_nothing(store: Store, name: str) -> None:
    renamed = Store(store.root.rename(store.root.with_name(name)))
    assert verify(renamed.root).failures == []
    assert shown(renamed) == {"gaussian": "done", "macer": "done"}


def test_runs_of_other_facts_share_no_table(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    facts = facts_of(DATASETS["mnist"])
    for row, size in (("gaussian", 10_000), ("macer", 12_000)):
        spec = dataclasses.replace(run_spec(row), dataset="elsewhere")
        run = store.run(spec)
        run.path.mkdir(parents=True)
        write_json(run.path / "spec.json", to_json(spec))
        write_json(run.path / "dataset.json", json.loads(canonical(facts)) | {"test_size": size})
        write_json(run.path / "training.json", {"state": "trained", "steps": run.steps(), "weights_sha256": f"{size:064x}"})
        certification = run.certification(CERTIFY)
        certification.begin(f"{size:064x}")
    assert len(collect(store)) == 2
    path = named(store, "macer").path / "dataset.json"
    wrong: tuple[dict[str, object], ...] = ({"like": {}}, {"classes": 999_999_999}, {"mean": [1e308, "x"]})
    for broken in wrong:
        write_json(path, read_json(path) | broken)
        assert verify(store.root).failures


def test_show_and_export_read_what_tables_read(bench: Call, store: Store) -> None:
    run = named(store, "gaussian")
    assert "ACR" in bench("show", run.spec.key, "--results", store.root).output
    write_json(run.path / "training.json", read_json(run.path / "training.json") | {"steps": 7})
    assert "ACR 0" not in bench("show", run.spec.key, "--results", store.root).output
    assert bench("export", run.spec.key, "--results", store.root, "--out", store.root.parent / "log.tsv").exit_code != 0
