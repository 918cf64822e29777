"""Rows are compared with the labels of their data set, whatever a record says of the training; only other test files prevent it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fake_store import CERTIFY, LABELS, N, add, run_spec, write_evidence

from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.files.writing import write_json
from bench.store.runs import Store
from bench.store.subject import Certification, Subject
from bench.verify import verify
from leaderboard.aggregate import collect

OTHER = "t10k-images-idx3-ubyte is not the published file: its MD5 is 0, not 1"
PUBLISHED = {file.name: file.md5 for file in DATASETS["mnist"].source.files if file.split == "test"}  # type: ignore[union-attr]
COUNTS = (N - 10, N - 20, N - 30, N - 40)
FORGED = tuple((label + 1) % 10 for label in LABELS)


def relabelled(store: Store, training: dict[str, Any], certification: dict[str, Any], **settings: Any) -> Certification:
    """Evidence with labels of its own, beside records of the data."""
    run = add(store, run_spec(**settings), None, environment={"method_sha256": "a" * 64, **training})
    found = run.certification(CERTIFY)
    write_evidence(found, COUNTS, FORGED)
    write_json(found.path / "environment.json", certification)
    return found


def wrong(store: Store, what: Certification | Subject) -> bool:
    """Whether verify names it and no mean of a table is made of it; both must agree."""
    named = any(
        what.path in (failure.file, *failure.file.parents) for failure in verify(store.root).failures if "steps" not in failure.reason
    )
    try:
        shown = any(row.stats for group in collect(store) for section in group.sections for row in section.rows)
    except BenchError:
        shown = False
    assert named != shown
    return named


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.mark.parametrize(
    "said", [[""], [" "], ["\u200b", OTHER], "", " ", OTHER, {}, {"a": 1}, [1], [None], None, True, 0, ["-"], [[OTHER]]]
)
@pytest.mark.parametrize("beside", ["training", "certification"])
def test_what_says_nothing_is_refused(store: Store, said: object, beside: str) -> None:
    records = {"training": {}, "certification": {}, beside: {"data_differs": said}}
    found = relabelled(store, records["training"], records["certification"])
    assert wrong(store, found.subject)
    assert {found.subject.path, found.path} & {f.file.parent for f in verify(store.root).failures if f.file.name == "environment.json"}
    if beside == "certification":
        with pytest.raises(BenchError, match="data_differs"):
            found.labels()


def test_other_training_files_leave_labels_compared(store: Store) -> None:
    found = relabelled(store, {"data_differs": [OTHER]}, {})
    assert found.labels() is not None
    assert wrong(store, found)


def test_files_that_are_the_published_ones_do_not_differ(store: Store) -> None:
    assert wrong(store, relabelled(store, {}, {"data_differs": [OTHER], "data_md5": PUBLISHED}))


def test_evidence_of_other_test_files_shares_no_table(store: Store) -> None:
    """It is claimed: its labels cannot be compared. Rows of the same other files may stand side by side."""
    changed = PUBLISHED | {"t10k-images-idx3-ubyte": "0" * 32}
    claimed = relabelled(store, {}, {"data_differs": [OTHER], "data_md5": changed})
    assert not wrong(store, claimed)
    assert any(OTHER in reason for reason in verify(store.root).unchecked)
    relabelled(store, {}, {"data_differs": [OTHER], "data_md5": changed}, row="macer")
    relabelled(store, {}, {"data_differs": [OTHER + "2"]}, row="stability")
    add(store, run_spec("consistency"), COUNTS)
    groups = collect(store)
    assert sorted(sorted(row.name for row in group.sections[0].rows) for group in groups) == [
        ["consistency"],
        ["gaussian", "macer"],
        ["stability"],
    ]
    trust = {row.name: row.trust for group in groups for row in group.sections[0].rows}
    assert trust == {name: "evidence, unbound" if name == "consistency" else "claimed, unbound" for name in trust}
    assert [group.conditions.get("test files") for group in groups if group.sections[0].rows[0].name == "consistency"] == [None]


def test_a_run_that_is_not_certified_stands_beside_those_that_are(store: Store) -> None:
    relabelled(store, {}, {"data_differs": [OTHER]})
    add(store, run_spec("macer"), None)
    (group,) = collect(store)
    assert [row.status for row in group.sections[0].rows] == ["", "0/4 images"]


def test_certifications_know_where_their_data_come_from(store: Store) -> None:
    found = relabelled(store, {}, {"data_differs": [OTHER]})
    assert found.differences() == [OTHER]
    assert dataclasses.replace(found, path=found.path.with_name("none")).differences() == []
