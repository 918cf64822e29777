"""The name of a row follows from the values of its runs, whatever their specs claim."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from fake_store import N, add, run_spec
from pages import script
from test_contract import GOOD

from bench.datasets import DATASETS
from bench.matrix.plan import Request, make_plan
from bench.registry import Registry
from bench.spec import PROTOCOLS, RECIPES, RunSpec
from bench.store.listing import Listing
from bench.store.presets import changes_of, disagreement
from bench.store.runs import Store
from bench.verify import verify
from leaderboard.aggregate import Filters, collect

ROOT = Path(__file__).parent.parent
MNIST = DATASETS["mnist"]


def test_the_table_of_presets_is_that_of_the_methods() -> None:
    written = script("tools/presets.py")
    assert written.FILE.read_text() == written.text(), "python tools/presets.py"


@pytest.mark.parametrize(("protocol", "recipe"), list(itertools.product(PROTOCOLS, RECIPES)))
def test_what_a_plan_says_was_changed_is_what_its_values_show(protocol: str, recipe: str) -> None:
    """For every row of every data set, as it is and with changes of all kinds."""
    registry = Registry()
    for name, changes in itertools.product(DATASETS, ({}, {"train.epochs": "7", "train.batch": "24", "copies": "3"}, {"copies": "2"})):
        methods = ["*"] if not changes else ["smoothmix*", "consistency*", "macer*"]
        found = make_plan(Request(methods=methods, datasets=(name,), protocol=protocol, recipe=recipe, changes=changes), registry).cells
        assert len(found) > 3
        for cell in found:
            assert changes_of(cell.spec, DATASETS[name]) == dict(cell.spec.changes), cell.name
            assert disagreement(cell.spec, DATASETS[name], {}) is None


FORGED: dict[str, dict[str, Any]] = {
    "smoothmix.eta5[steps=2]": {"hyperparameters": {"steps": 2}},
    "smoothmix.eta5[copies=unset]": {},
    "smoothmix.eta5[more=1]": {"hyperparameters": {"more": 1}},
    "smoothmix.eta5": {"changes": {"steps": 2}, "hyperparameters": {"steps": 4}},
    "smoothmix.eta5[step_size=2.0]": {"changes": {"step_size": 3.0}, "hyperparameters": {"step_size": 2.0}},
}


@pytest.mark.parametrize("name", FORGED)
def test_a_row_is_named_by_its_values(tmp_path: Path, name: str) -> None:
    spec = run_spec("smoothmix.eta5", **FORGED[name])
    if name.endswith("unset]"):
        spec = dataclasses.replace(spec, hyperparameters={k: v for k, v in spec.hyperparameters.items() if k != "copies"})
    store = Store(tmp_path / "runs")
    run = add(store, spec)
    (group,) = collect(store)
    (row,) = group.sections[0].rows
    assert row.name == name
    assert any("its spec says" in note for note in row.notes)
    assert Listing(store).row(run.path)["row"] == name
    assert any(str(run.path / "spec.json") in reason for reason in verify(store.root).unchecked)
    assert collect(store, Filters(methods=[name]))


def test_a_batch_that_is_not_the_protocols_stands_in_a_table_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add(store, run_spec("smoothmix.eta5"))
    add(store, run_spec("macer", train={"batch": 64}))
    assert sorted(str(group.conditions["changes"]) for group in collect(store)) == ["", "train.batch=64"]


def test_a_plug_in_is_not_checked(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    run = add(store, run_spec("strangers", hyperparameters={"x": 1}))
    other = add(store, run_spec("gaussian", sigma=0.3))
    (group,) = collect(store)
    rows = {row.name: row.notes for section in group.sections for row in section.rows if row.outcomes}
    assert any("not checked" in note for note in rows["strangers"])
    assert rows["gaussian"] == ()
    unchecked = verify(store.root).unchecked
    assert any(str(run.path) in reason for reason in unchecked)
    assert not any(str(other.path) in reason for reason in unchecked)


@pytest.mark.parametrize(
    ("changes", "claimed"), [({}, {}), ({"strength": "3"}, {"strength": 3.0}), ({"strength": "3"}, {}), ({}, {"strength": 3.0})]
)
def test_a_plug_in_that_is_loaded_is_checked(tmp_path: Path, changes: dict[str, str], claimed: dict[str, float]) -> None:
    """For runs of the same code; of other code its presets say nothing."""
    file = tmp_path / "learner.py"
    file.write_text(GOOD)
    registry = Registry((file,))
    (cell, *_) = make_plan(Request(methods=["learner"], changes=changes, protocol="smoke"), registry).cells
    spec = dataclasses.replace(cell.spec, changes=claimed)
    code = registry.load("learner").code_sha256
    told = disagreement(spec, MNIST, {"method_code_sha256": code})
    assert (told is None) == (dict(cell.spec.changes) == claimed)
    for other in ({}, {"method_code_sha256": "0" * 64}):
        assert "not checked" in str(disagreement(spec, MNIST, other))
        assert ("--rerun all" in str(disagreement(spec, MNIST, other))) == bool(other), "the file was edited"


def test_one_note_says_that_a_plug_in_is_not_checked(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    for sigma, seed in itertools.product((0.25, 0.5, 1.0), (0, 1)):
        add(store, run_spec("strangers", sigma=sigma, seed=seed))
    (group,) = collect(store)
    assert sum("not checked" in note for note in group.footnotes) == 1


def test_two_values_under_one_name_are_two_rows(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    for seed, steps in enumerate((10, 4)):
        add(store, run_spec("smoothadv", seed=seed, hyperparameters={"steps": steps}), (N, N - 1, N, N))
    (group,) = collect(store)
    assert [row.label for row in group.sections[0].rows] == ["smoothadv", "smoothadv[steps=4]"]


def test_a_name_needs_no_more_than_the_facts(tmp_path: Path) -> None:
    unknown: RunSpec = dataclasses.replace(run_spec(), dataset="nowhere")
    assert Store(tmp_path).run(unknown).named == unknown
    assert changes_of(dataclasses.replace(run_spec(), recipe="another"), MNIST) is None
