"""From a request to cells: expansion, recipes, changes, and every problem at once."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.errors import UsageError
from bench.matrix.plan import Cell, Request, make_plan
from bench.registry import Registry
from leaderboard import layouts
from leaderboard.aggregate import Filters


def cells(*methods: str, **fields: object) -> tuple[Cell, ...]:
    return make_plan(Request(methods=methods, **fields), Registry()).cells  # type: ignore[arg-type]


def problems(*methods: str, **fields: object) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        cells(*methods, **fields)
    return caught.value.problems


def test_the_rows_of_table_4_by_sigma_and_seed() -> None:
    found = cells(*layouts.load(4).rows, seeds=range(5))
    assert len(found) == 9 * 3 * 5
    assert len({(c.spec.key, c.certify.key) for c in found}) == len(found)
    assert [c.spec.row for c in found if c.spec.sigma == 0.25 and c.spec.seed == 0] == [
        "gaussian", "stability", "smoothadv", "macer", "consistency",
        "smoothmix.eta1", "smoothmix.eta1-onestep", "smoothmix.eta5", "smoothmix.eta5-onestep",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "fields", "rows"),
    [
        (["smoothmix"], {}, ["smoothmix.eta5"]),  # the default variant
        (["st*"], {}, ["stability", "stability.two-copy"]),
        (["gaussian", "gaus*"], {}, ["gaussian"]),
        (["smoothmix.eta5*[copies=3]"], {}, ["smoothmix.eta5-onestep[copies=3]", "smoothmix.eta5[copies=3]"]),
        (["smoothmix", "smoothmix.eta5", "smoothmix.eta5*"], {}, ["smoothmix.eta5", "smoothmix.eta5-onestep"]),  # each once
        (["gaussian"], {"protocol": "full"}, ["gaussian"] * 5),  # a protocol has seeds of its own
        (["gaussian"], {"sigmas": (0.3,)}, ["gaussian"]),  # without presets any sigma will do
    ],
)
def test_rows_of_a_request(methods: list[str], fields: dict[str, object], rows: list[str]) -> None:
    assert sorted(c.spec.row for c in cells(*methods, **({"sigmas": (1.0,)} | fields))) == rows


@pytest.mark.parametrize("pattern", ["*", "smoothmix*", "*.*", "*one?tep", "s*y", "smoothmix.eta[15]", "[gm]a*"])
def test_a_pattern_means_the_rows_that_it_means_in_tables(pattern: str) -> None:
    every = [cell.spec.row for cell in cells("*", sigmas=(1.0,))]
    subjects: Any = [SimpleNamespace(source="runs", row=row, method=row.partition(".")[0]) for row in every]
    found = [cell.spec.row for cell in cells(pattern, sigmas=(1.0,))]
    assert found == [subject.row for subject in Filters(methods=[pattern]).apply(subjects)]
    assert found


@pytest.mark.parametrize("pattern", ["gaussian.*", "*mix", "zzz*"])
def test_a_pattern_of_no_row_is_refused_there_and_here(pattern: str) -> None:
    assert problems(pattern)
    subjects: Any = [SimpleNamespace(source="runs", row=row, method=row.partition(".")[0]) for row in ("gaussian", "smoothmix.eta5")]
    with pytest.raises(UsageError):
        Filters(methods=[pattern]).apply(subjects)


def test_a_change_of_one_row_alone_is_spelt_out() -> None:
    """Where --set cannot mean every row, the error says what would do."""
    (told,) = problems("gaussian", "smoothmix[copies=3]", sigmas=(1.0,), changes={"steps": "2"})
    (right,) = re.findall(r"--method '(\S+)'", told)
    assert [cell.spec.row for cell in cells("gaussian", right, sigmas=(1.0,))] == ["gaussian", "smoothmix.eta5[copies=3,steps=2]"]


def test_a_pattern_takes_the_variants_that_have_presets_and_says_which_do_not() -> None:
    plan = make_plan(Request(methods=("smoothmix.*",), sigmas=(0.25,)), Registry())
    assert [c.spec.variant for c in plan.cells] == ["eta5", "eta5-onestep", "eta1", "eta1-onestep"]
    assert plan.notes == tuple(f"smoothmix.eta1-norm{k} has no preset for mnist at sigma 0.25; there is sigma 1" for k in (2, 4, 6, 8))


def test_official_cuts_the_batch_and_paper_does_not() -> None:
    for recipe, batch, nesterov, lag in (("official", 64, False, 1), ("paper", 256, True, 0)):
        (cell,) = cells("smoothmix", sigmas=(1.0,), recipe=recipe, protocol="full", seeds=(0,))
        assert (cell.spec.train.batch, cell.spec.train.nesterov, cell.spec.train.lr_lag) == (batch, nesterov, lag)
    (cell,) = cells("smoothmix", sigmas=(1.0,), protocol="full", seeds=(0,), changes={"copies": "8"})
    assert cell.spec.train.batch == 32


def test_a_shortened_protocol_takes_one_batch_for_all_methods() -> None:
    assert {c.spec.train.batch for c in cells("*", sigmas=(1.0,))} == {32}


def test_changes_show_in_row_spec_and_key() -> None:
    (changed,) = cells("smoothmix", sigmas=(1.0,), changes={"step_size": "0.5", "train.epochs": "3", "certify.n": "1000"})
    assert changed.spec.row == "smoothmix.eta5[step_size=0.5]"
    assert changed.spec.changes == {"step_size": 0.5, "train.epochs": 3}
    assert changed.certify.changes == {"n": 1000}
    assert changed.method.step_size == 0.5  # type: ignore[attr-defined]
    assert (changed.spec.train.epochs, changed.certify.n) == (3, 1000)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"strength": "5", "train.epochs": "1", "certify.images": "every=100"}, (True, True)),  # the values that it has
        ({"certify.n": "1000"}, (True, False)),
        ({"step_size": "0.5"}, (False, True)),
    ],
)
def test_which_keys_a_change_makes_others(changes: dict[str, str], same: tuple[bool, bool]) -> None:
    plain, other = (cells("smoothmix", sigmas=(1.0,), changes=changed)[0] for changed in ({}, changes))
    assert (plain.spec.key == other.spec.key, plain.certify.key == other.certify.key) == same


def test_every_problem_is_told_at_once() -> None:
    found = problems(
        "gausian", "smoothmix.eta7", datasets=("mnits",), sigmas=(-1.0, float("nan")), protocol="qick", recipe="offical", seeds=(-1,)
    )
    assert len(found) == 8
    for part in ("'gaussian'?", "'eta5'?", "'mnist'?", "sigma -1.0", "sigma nan", "'quick'?", "'official'?", "seed -1"):
        assert sum(part in problem for problem in found) == 1, part


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"step_sise": "1"}, "did you mean 'step_size'?"),
        ({"steps": "many"}, "steps=many is wrong: it must be a whole number"),
        ({"steps": "0"}, "steps >= 1"),
        ({"clip": "maybe"}, "must be true or false"),
        ({"mix_loss": "k"}, "must be one of kl, cross-entropy"),
        ({"norm_limit": "-1"}, "norm_limit=-1.0 must be greater than 0"),
        ({"train.epoch": "1"}, "did you mean 'epochs'?"),
        ({"train.lr": "nan"}, "lr=nan is wrong: it must be a finite number"),
        ({"train.batch": "0"}, "batch=0 must be greater than 0"),
        ({"train.arch": "lenett"}, "did you mean 'lenet"),
        ({"certify.images": "some"}, "images=some is no selection"),
        ({"certify.images": "20000-30000"}, "selects none of the 10000 test images"),
        ({"certify.alpha": "0.01"}, "bench table --alpha"),
        ({"sertify.n": "1"}, "write name=value"),
    ],
)
def test_a_wrong_change_is_told(change: dict[str, str], part: str) -> None:
    (problem,) = problems("smoothmix", sigmas=(1.0,), changes=change)
    assert part in problem


def test_a_sigma_without_preset_is_refused() -> None:
    (problem,) = problems("macer", sigmas=(0.3,))
    assert problem == "macer.default has no preset for mnist at sigma 0.3; there is sigma 0.25, 0.5, 1"


def test_a_plugin_with_a_name_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "macer.py"
    path.write_text("")
    with pytest.raises(UsageError, match="already a method 'macer'"):
        make_plan(Request(methods=("macer",)), Registry((path,)))


def test_a_row_as_a_table_prints_it() -> None:
    (cell,) = cells("smoothmix.eta1[step_size=2.0,steps=4]", sigmas=(1.0,))
    assert cell.spec.row == "smoothmix.eta1[step_size=2.0,steps=4]"
    assert cell.method.steps == 4  # type: ignore[attr-defined]
    assert cell.spec.key == cells("smoothmix.eta1", sigmas=(1.0,), changes={"step_size": "2", "steps": "4"})[0].spec.key
    assert "did you mean 'steps'?" in problems("smoothmix.eta1[step=4]", sigmas=(1.0,))[0]
    assert "is not of the form name=value" in problems("smoothmix.eta1[steps=]", sigmas=(1.0,))[0]


@pytest.mark.parametrize("number", [4, 5, 8, 9, 10, 11])
def test_every_row_of_a_table_is_a_cell_of_that_name(number: int) -> None:
    layout = layouts.load(number)
    found = cells(*layout.rows, sigmas=[float(sigma) for sigma in layout.sigmas], protocol="full", seeds=(0,))
    assert {c.spec.row for c in found} == set(layout.rows)
    assert len(found) == len(layout.rows) * len(layout.sigmas)
