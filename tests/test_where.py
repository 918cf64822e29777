"""`--where KEY=VALUE`, and what tells groups apart."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_store import CERTIFY, add, new_store, run_spec, write_evidence
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import Result

from bench.errors import BenchError, UsageError
from bench.store.runs import Store
from leaderboard import plots
from leaderboard.aggregate import Filters, Group, collect
from leaderboard.aggregate.where import conditions_of, flags, telling_apart
from leaderboard.frame import load_results, table
from leaderboard.tables import render

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three methods at two noise levels and seeds, a changed hyperparameter, another protocol, a longer training, another n."""
    found = new_store(tmp_path_factory.mktemp("where"))
    for row, sigma, seed in itertools.product(("gaussian", "macer", "smoothmix.eta5"), (0.5, 1.0), (0, 1)):
        run = add(found, run_spec(row, seed, sigma))
        if row != "macer":
            write_evidence(run.certification(dataclasses.replace(CERTIFY, n=500, changes={"n": 500})), (500,) * 4)
    add(found, run_spec("smoothmix.eta5", 0, changes={"steps": 2}))
    add(found, run_spec("smoothmix.eta1", 0, protocol="smoke"))
    add(found, run_spec("gaussian", 0, changes={"train.epochs": 3}))
    return found


def rows(groups: tuple[Group, ...]) -> set[tuple[Any, ...]]:
    """(row, sigma, epochs, n, protocol) of what was begun."""
    return {
        (row.name, section.sigma, *(group.conditions[name] for name in ("train.epochs", "certify.n", "protocol")))
        for group in groups
        for section in group.sections
        for row in section.rows
        if row.outcomes
    }


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        (["hyperparameters.steps=2"], lambda name, sigma, epochs, n, protocol: name == "smoothmix.eta5[steps=2]"),
        (["steps=2"], lambda name, *_: name == "smoothmix.eta5[steps=2]"),
        (["steps=2", "steps=8.0"], lambda name, sigma, *_: name.endswith("[steps=2]") or (name == "smoothmix.eta5" and sigma == 1)),
        (["strength=5.0", "sigma=1"], lambda name, sigma, *_: name == "smoothmix.eta5" and sigma == 1),
        (["row=smoothmix.*"], lambda name, *_: name.startswith("smoothmix")),
        (["method=smoothmix"], lambda name, *_: name.startswith("smoothmix")),
        (["variant=default"], lambda name, *_: "." not in name),
        (["mask_wrong=true"], lambda name, *_: name.startswith("smoothmix")),
        (["norm_limit=none"], lambda name, *_: True),
        (["norm_limit="], lambda name, *_: True),
        (["train.epochs=3"], lambda name, sigma, epochs, *_: epochs == 3),
        (["certify.n=500"], lambda name, sigma, epochs, n, protocol: n == 500),
        (["certify.n=500", "sigma=.5", "method=gaussian"], lambda name, s, e, n, p: (name, s, n) == ("gaussian", 0.5, 500)),
        (["changes="], lambda name, sigma, epochs, n, protocol: n != 500 and epochs != 3),
        (["changes=*n=500*"], lambda name, sigma, epochs, n, protocol: n == 500),
        (["protocol=smoke"], lambda name, sigma, epochs, n, protocol: protocol == "smoke"),
        (["network=lenet", "recipe=official", "dataset=mnist"], lambda *_: True),
    ],
)
def test_just_the_rows_that_fit_are_taken(store: Store, words: list[str], fits: Callable[..., bool]) -> None:
    every = rows(collect(store))
    assert len(every) > 10
    chosen = collect(store, Filters().narrowed(words))
    assert rows(chosen) == {row for row in every if fits(*row)}
    assert table(load_results(store.root, where=words), "csv") == render(chosen, "csv")


def test_a_seed_is_one_that_a_row_must_have(store: Store) -> None:
    groups = collect(store, Filters(protocols=["quick"]).narrowed(["seed=1"]))
    assert {seed.seed for group in groups for section in group.sections for row in section.rows for seed in row.seeds} == {1}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["certify.m=1"], "did you mean 'certify.n'"),
        (["hyperparameter.steps=1"], "did you mean 'hyperparameters.steps'"),
        (["certify.n=10"], "there is 500, 1000"),
        (["steps=7"], "no row has that; there is none, 2, 4, 8"),
        (["sigma=2"], "no run has sigma 2"),
        (["sigma=x"], "'x' is no sigma"),
        (["method=gausian"], "did you mean 'gaussian'"),
        (["n"], "not of the form KEY=VALUE"),
        (["=n"], "not of the form KEY=VALUE"),
        (["method=gaussian", "steps=2"], "field 'steps'"),
        (["steps=2", "row=gaussian"], "no row has all of: hyperparameters.steps=2, row=gaussian"),
        (["certify.n=500", "changes=train.epochs=3"], "no row has all of: certify.n=500, changes=train.epochs=3"),
    ],
)
def test_what_fits_nothing_is_refused(store: Store, words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("[", r"\[")):
        collect(store, Filters().narrowed(words))
    with pytest.raises(UsageError, match=told.replace("[", r"\[")):
        load_results(store.root, where=words)


def test_evidence_that_the_rule_cannot_read_is_told_before_what_fits_it(store: Store) -> None:
    with pytest.raises(BenchError, match="sampled under rungs"):
        collect(store, Filters().narrowed(["certify.n=500"]), rule="rungs")


def test_one_thing_is_said_once(bench: Call, store: Store) -> None:
    for command in (["table"], ["plot", "curves"], ["compare", "gaussian", "macer"]):
        result = bench(*command, "--results", store.root, "--sigma", "1", "--where", "sigma=0.5")
        assert (result.exit_code, "give one of the two" in result.output) == (2, True), result.output


# ---- what tells groups apart


@given(st.lists(st.fixed_dictionaries({name: st.integers(0, 2) for name in ("dataset", "protocol", "a", "b")}), max_size=8))
def test_told_apart_each_fits_itself_alone(facts: list[dict[str, int]]) -> None:
    unique = list({tuple(sorted(own.items())): own for own in facts}.values())
    for own, chosen in zip(unique, telling_apart(unique), strict=True):
        assert [other for other in unique if all(str(other[name]) == word for name, word in chosen.items())] == [own]
    assert telling_apart([{"dataset": "x", "n": None}]) == [{}]


def test_the_flags_that_are_named_choose_one_group(store: Store) -> None:
    groups = collect(store)
    facts = [conditions_of(group) for group in groups]
    assert len(groups) >= 4
    for group, chosen in zip(groups, telling_apart(facts), strict=True):
        (found,) = collect(store, Filters().narrowed(shlex.split(flags(chosen))[1::2]))
        assert conditions_of(found) == conditions_of(group)


# ---- pictures and comparisons


def test_each_group_has_a_picture(bench: Call, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = bench("plot", "curves", "--results", store.root)
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "curves-mnist-quick-epochs-1-n-1000.svg",
        "curves-mnist-quick-epochs-3.svg",
        "curves-mnist-quick-n-500.svg",
        "curves-mnist-smoke.svg",
    ]
    assert result.output.count("this one alone: --where") == 4
    result = bench("plot", "curves", "--results", store.root, "--out", "mine.png", "--where", "certify.n=1000")
    assert "wrote mine-mnist-smoke.png" in result.output
    assert [flags(picture.chosen) for picture in plots.pictures("curves", store)].count("--where protocol=smoke") == 1


def test_trainings_are_drawn_once_however_they_were_certified(store: Store) -> None:
    for run in store.runs():
        run.curve.write_text("epoch,step,lr,loss\n1,1,0.1,2.0\n")
    assert sorted(picture.name for picture in plots.pictures("training", store)) == [
        "training-mnist-quick-epochs-1",
        "training-mnist-quick-epochs-3",
        "training-mnist-smoke",
    ]


def test_compare_says_by_what_to_choose(bench: Call, store: Store, tmp_path: Path) -> None:
    other = new_store(tmp_path)
    for protocol in ("quick", "smoke"):
        for row in ("gaussian", "macer"):
            add(other, run_spec(row, protocol=protocol))
    line = ("compare", "gaussian", "macer", "--results", other.root)
    result = bench(*line)
    assert (result.exit_code, "--where protocol=smoke" in result.output) == (2, True), result.output
    assert bench(*line, "--where", "protocol=smoke").exit_code == 0
