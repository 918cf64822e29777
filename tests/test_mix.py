"""Rows that are not comparable: apart by default, together with every difference named when that is asked for."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_logs import MANIFEST, manifest, write_log
from fake_store import CERTIFY, N, add, new_store, run_spec, write_evidence
from typer.testing import Result

from bench.datasets import DATASETS
from bench.logs import import_logs
from bench.store.runs import Store
from leaderboard.aggregate import Group, collect
from leaderboard.tables import caption, render
from leaderboard.tables.marks import mark_ties


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def rows(group: Group) -> dict[str, tuple[str, ...]]:
    return {row.label: row.notes for section in group.sections for row in section.rows}


DIFFERENCES = {
    "images": ({"images": "500-503"}, "test images = 500-503"),
    "n": ({"n": 2000}, "n = 2,000"),
    "n0": ({"n0": 20}, "n0 = 20"),
    "seed": ({"seed": 1}, "sampling seed = 1"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_certifications_that_differ(store: Store, name: str) -> None:
    change, told = DIFFERENCES[name]
    add(store, run_spec())
    other = dataclasses.replace(CERTIFY, **change)  # type: ignore[arg-type]
    run = add(store, run_spec("macer"), None)
    labels = DATASETS["mnist"].test_labels()
    write_evidence(run.certification(other), (other.n,) * 4, [labels[index] for index in run.certification(other).expected()])
    assert len(collect(store)) == 2
    (group,) = collect(store, mix=True)
    (note,) = rows(group)["macer"]
    assert told in note
    (note,) = rows(group)["gaussian"]
    assert told not in note


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocol": "smoke"}, "protocol = smoke"),
        ({"recipe": "paper"}, "recipe = paper"),
        ({"changes": {"train.arch": "mlp"}, "train": {"arch": "mlp"}}, "network = mlp"),
        ({"train": {"lr": 0.123}}, "lr = 0.123"),
    ],
)
def test_trainings_that_differ(store: Store, changes: dict[str, Any], told: str) -> None:
    add(store, run_spec())
    add(store, run_spec("macer", **changes))
    assert len(collect(store)) == 2
    (group,) = collect(store, mix=True)
    assert told in " ".join(rows(group)["macer"])
    assert told not in " ".join(rows(group)["gaussian"])


def test_nothing_is_ranked_in_a_mixture_and_everything_is_told(store: Store) -> None:
    add(store, run_spec(), (N, N, 500, 500))
    add(store, run_spec("macer"), (N, N, N, N))
    add(store, run_spec("stability", protocol="smoke"), (N, N, N, 500))
    (group,) = collect(store, mix=True)
    text = render([group], "terminal")
    assert "+" not in text.replace("±", "")
    assert "*" not in text
    assert "protocol" not in caption(group).split(".")[0]
    assert "A mixture of 2 groups" in text
    for format in ("terminal", "markdown", "latex", "csv", "json"):
        assert "protocol = smoke" in render([group], format).replace("\\", "")
    lines = list(csv.DictReader(io.StringIO(render([group], "csv"))))
    assert {(line["row"], line["protocol"]) for line in lines} == {("gaussian", "quick"), ("macer", "quick"), ("stability", "smoke")}
    (data,) = json.loads(render([group], "json"))["groups"]
    assert data["mixed"] is True


def test_comparable_rows_are_ranked_with_or_without_the_flag(store: Store) -> None:
    add(store, run_spec())
    add(store, run_spec("macer"))
    assert render(collect(store), "csv") == render(collect(store, mix=True), "csv")


def test_imported_logs_stand_apart_and_mix_only_when_asked(store: Store, tmp_path: Path, bench: Callable[..., Result]) -> None:
    write_log(tmp_path / "logs/plain/noise_0.5_1", (0.7, 0.7, 0.7, 0.7))
    import_logs(tmp_path / "logs", store.root, MANIFEST, strict=True)
    add(store, run_spec())
    assert [group.source for group in collect(store)] == ["runs", "imported"]
    assert [group.source for group in collect(store, source="imported")] == ["imported"]
    (group,) = collect(store, mix=True)
    assert group.source == "both"
    (note,) = [n for n in rows(group)["plain"] if n.startswith("group")]
    assert "radii = rounded as printed" in note
    assert "source = imported logs of mine" in note
    result = bench("table", "--results", store.root, "--metric", "ACR,clean,bound,0.75")
    assert result.exit_code == 0, result.output
    assert "mnist, imported logs of mine, network lenet, 1 run" in result.output
    plain = next(line for line in result.output.splitlines() if line.split()[1:2] == ["plain"])
    assert plain.split()[2:] == ["0.7000", "-", "-", "-", "-", "0.00"]
    assert bench("table", "--results", store.root, "--alpha", "0.01").exit_code == 2
    assert bench("table", "--results", store.root, "--alpha", "0.01", "--from", "runs").exit_code == 0


def test_words_of_the_command(store: Store, bench: Callable[..., Result]) -> None:
    add(store, run_spec(), (N, N, 500, 500))
    add(store, run_spec("macer"), (N, N, N, 500))
    for words, code, told in (
        (("--metric", "all"), 0, "abstain"),
        (("--metric", "errors", "--metric", "cost"), 0, "t 95 %"),
        ((), 0, "Nothing is marked: not tested (4 images"),
        (("--marks", "test", "--mix"), 0, "not tested"),
        (("--marks", "test", "--metric", "clean"), 0, "not tested (there is no column ACR)"),
        (("--marks", "paper"), 0, "(no test)"),
        (("--marks", "tests"), 2, "--marks tests is unknown"),
        (("--metric", "clear"), 2, "did you mean 'clean'"),
        (("--metric", ""), 2, "--metric is empty"),
        (("--table", "4", "--metric", "ACR"), 2, "--table has the paper's columns"),
    ):
        result = bench("table", "--results", store.root, *words)
        assert result.exit_code == code, (words, result.output)
        assert told in result.output, (words, result.output)
    add(store, run_spec("stability", protocol="smoke"))
    result = bench("table", "--results", store.root, "--mix")
    assert result.exit_code == 0
    assert "not tested (rows of a mixture are not comparable)" in " ".join(result.output.split())


def test_a_method_of_several_sources_is_ranked_by_no_flag(store: Store) -> None:
    add(store, run_spec(), (N, N, 500, 500))
    add(store, run_spec("macer", seed=0), environment={"method_sha256": "a" * 64})
    add(store, run_spec("macer", seed=1), environment={"method_sha256": "b" * 64})
    add(store, run_spec(seed=1), (N, N, 500, 500))
    (group,) = collect(store)
    assert {row.label: row.status for row in group.sections[0].rows} == {"gaussian": "", "macer": "several versions"}
    (group,) = collect(store, mix=True)
    text = render([group], "terminal")
    assert "1.2316" in text
    assert not {"+", "*"} & set(text.replace("±", ""))
    assert "aaaaaaaa, bbbbbbbb" in text
    assert "not tested (rows of a mixture" in mark_ties(group).ties


def test_a_run_that_failed_before_training_has_no_source_to_mix(store: Store) -> None:
    add(store, run_spec())
    run = add(store, run_spec(seed=1), None, state=None, failure=True)
    (run.path / "environment.json").unlink()
    (group,) = collect(store)
    assert group.sections[0].rows[0].status == "1/2 seeds, 1 failed"


def test_of_an_unknown_data_set_no_size_is_claimed(store: Store, tmp_path: Path) -> None:
    write_log(tmp_path / "logs/plain/noise_0.5_1", (0.7, 0.7, 0.7, 0.7))
    toys = {"dataset": "toys", "classes": 10, "test images": 1000}
    import_logs(tmp_path / "logs", store.root, manifest("plain/noise_0.5_*", **toys), strict=True)
    (group,) = collect(store)
    assert "4 test images (first:4)" in caption(group)
    assert "of 4" not in caption(group)
