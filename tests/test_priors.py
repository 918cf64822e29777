"""A cell that asks the model of another: planned, shown, trained first and once, shared, and the same however it is carried out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench.cli import app
from bench.errors import BenchError, UsageError
from bench.matrix.plan import Cell, Request, make_plan
from bench.matrix.task import Options, Task
from bench.method import Prior, Survey
from bench.registry import Registry
from bench.spec import RunSpec, from_json, to_json
from bench.store.surveys import read

FEWER = ("train.images=every:1000", "train.batch=30", "certify.n=100", "certify.images=first:3")


def bench_run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    assert bench_run("new-method", "asks", "--folder", folder, "--with", "prior").exit_code == 0
    return folder / "asks.py"


def cells(plugin: Path, *methods: str, **fields: Any) -> list[Cell]:
    values: dict[str, Any] = {"sigmas": (0.5, 1.0), "seeds": (0, 1), "protocol": "smoke"} | fields
    return list(make_plan(Request(methods=methods, **values), Registry((plugin,))).cells)


# ------------------------------------------------------------------------------------------------------------- the plan


def test_the_key_of_the_other_training_is_in_ours_and_seeds_share_a_configuration(plugin: Path) -> None:
    found = cells(plugin, "asks")
    (plain,) = cells(plugin, "gaussian", sigmas=(0.25,), seeds=(1,))
    assert [cell.spec.depends for cell in found if cell.spec.seed == 1] == [plain.spec.key] * 2
    assert len({cell.spec.depends for cell in found}) == 2  # one for each seed
    assert len({cell.spec.cell for cell in found if cell.spec.sigma == 0.5}) == 1
    for cell in found:
        assert cell.prior is not None
        assert cell.prior.spec.key == cell.spec.depends
        assert from_json(RunSpec, json.dumps(to_json(cell.spec)), "spec") == cell.spec
    alone = dataclasses.replace(found[0].spec, depends="")
    assert alone.key != found[0].spec.key
    assert "depends" not in to_json(alone)
    with pytest.raises(ValueError, match="depends"):
        dataclasses.replace(alone, depends="nothing")


def test_what_the_user_changes_of_the_training_holds_for_both(plugin: Path) -> None:
    (cell,) = cells(plugin, "asks[copies=3]", sigmas=(0.5,), seeds=(0,), changes={"train.epochs": "2", "train.survey_copies": "7"})
    assert cell.prior is not None
    assert (cell.prior.spec.train.epochs, cell.prior.spec.train.survey_copies) == (2, 0)
    assert cell.spec.train.survey_copies == 7
    assert "copies" not in cell.prior.spec.hyperparameters
    text = Task.of(cell, plugin.parent, Options(device=torch.device("cpu")), (plugin,)).to_text()
    again = Task.from_text(text).cell()
    assert again.prior is not None
    assert again.prior.spec == cell.prior.spec
    other = dataclasses.replace(cell, spec=dataclasses.replace(cell.spec, depends="0" * 16))
    with pytest.raises(BenchError, match="another than planned"):
        Task.of(other, plugin.parent, Options(device=torch.device("cpu")), (plugin,)).cell()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"gaussian"', '"gausian"', "unknown method 'gausian'"),
        ('"gaussian"', '"asks"', "none may ask its own"),
        ('"gaussian", sigma=0.25', '"macer", sigma=0.3', "no preset for mnist at sigma 0.3"),
        ('"gaussian"', '"s*"', "names 8 rows"),
        ("        }\n", '            "more": Survey(copies=5, of=Prior(method="macer")),\n        }\n', "may ask one other model"),
    ],
)
def test_a_model_that_cannot_be_asked_is_told_before_anything_runs(plugin: Path, tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = tmp_path / "asks.py"
    path.write_text(plugin.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=reason):
        make_plan(Request(methods=["asks"], sigmas=(0.5,)), Registry((path,)))


def test_another_model_is_asked_once_and_at_the_start() -> None:
    wrongs: list[dict[str, Any]] = [{"first": 3}, {"every": 2}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="before the first step"):
            Survey(copies=1, of=Prior(method="gaussian"), **wrong)


# -------------------------------------------------------------------------------------------------------- carried out


def line(plugin: Path, results: Path, *more: object) -> list[object]:
    words = ["run", "--plugin", plugin, "--method", "asks", "--sigma", "0.5,1.0", "--protocol", "smoke", "--results", results]
    return words + [word for change in FEWER for word in ("--set", change)] + list(more)


def folders(results: Path) -> dict[str, Path]:
    return {f"{path.parent.name} {path.name[:4]}": path for path in results.glob("mnist/*/*")}


@pytest.fixture(scope="module")
def done(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("store") / "runs"
    planned = bench_run(*line(plugin, results, "--dry-run"))
    assert planned.exit_code == 0, planned.output
    assert "first: gaussian mnist sigma 0.25 seed 0 is trained, since its model is asked for by 2 cells" in " ".join(planned.output.split())
    lines = [row.split() for row in planned.output.splitlines() if row.startswith(("gaussian ", "asks "))]
    assert [word for words in lines for word in words if word in ("first", "missing")] == ["first", "missing", "missing"]
    result = bench_run(*line(plugin, results))
    assert result.exit_code == 0, result.output
    assert result.output.count("trained first") == 1
    return results


def test_it_is_trained_once_not_certified_and_asked_by_all(done: Path) -> None:
    there = folders(done)
    assert sorted(there) == ["asks.default 0.5-", "asks.default 1-se", "gaussian.default 0.25"]
    prior = there["gaussian.default 0.25"]
    assert not list(prior.glob("certify-*"))
    weights = json.loads((prior / "training.json").read_text())["weights_sha256"]
    answers = []
    for name in ("asks.default 0.5-", "asks.default 1-se"):
        facts, votes = read(there[name] / "survey-prior-0.jsonl", range(0, 60_000, 1000))
        assert (facts["model"], facts["sigma"], facts["copies"]) == (weights, 0.25, 10)
        assert all(sum(row.values()) == 10 for row in votes)
        answers.append(votes)
    assert answers[0] == answers[1]  # the same question of the same model


def test_readers_take_it_for_no_row_of_its_own(done: Path) -> None:
    status = bench_run("status", "--results", done)
    assert "1 trained" in status.output
    table = bench_run("table", "--results", done, "--protocol", "smoke").output
    assert "gaussian" not in table
    assert "asks: surveys of the training images drew at most 10 noisy copies of each" in " ".join(table.split())
    verified = bench_run("verify", done, "--complete")
    assert verified.exit_code == 0, verified.output
    planned = bench_run("run", "--method", "gaussian", "--sigma", 0.25, "--protocol", "smoke", "--results", done, "--dry-run", *(
        word for change in FEWER for word in ("--set", change)
    ))  # fmt: skip
    assert "certifying" in planned.output  # there is no more to do of it


def test_one_that_diverged_is_told(plugin: Path, tmp_path: Path) -> None:
    result = bench_run(*line(plugin, tmp_path / "runs", "--set", "train.lr=1e30"))
    assert result.exit_code == 1
    assert "which is asked, diverged" in " ".join(result.output.split())


@pytest.mark.slow
def test_side_by_side_gives_the_same_files(plugin: Path, done: Path, tmp_path: Path) -> None:
    """Both cells need it at once: one trains it, the other waits."""
    results = tmp_path / "runs"
    result = bench_run(*line(plugin, results, "--jobs", "2"))
    assert result.exit_code == 0, result.output
    assert result.output.count("trained first") == 1
    mine, theirs = folders(results), folders(done)
    assert sorted(mine) == sorted(theirs)
    for name, folder in mine.items():
        for file in ("weights.safetensors", "curve.csv", "training.json", *(path.name for path in folder.glob("survey-*"))):
            assert (folder / file).read_bytes() == (theirs[name] / file).read_bytes(), (name, file)
