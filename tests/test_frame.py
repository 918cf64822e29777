"""The evidence table: what it holds, that it gives the numbers of the commands, and what it refuses. No torch."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_logs import MANIFEST, write_log
from fake_store import CERTIFY, N, add, new_store, run_spec, write_evidence
from hypothesis import given, settings
from hypothesis import strategies as st
from test_foreign import foreign
from test_frozen import COMMANDS, printed

import bench
from bench.errors import BenchError
from bench.evidence.certificate import read_rows
from bench.files.writing import read_json, sha256, write_json
from bench.logs import import_logs
from bench.rules.bounds import certified_radius
from bench.spec import CertifySpec, canonical, to_json
from bench.store.runs import Store
from bench.verify import verify
from leaderboard import metrics
from leaderboard.aggregate import Filters, collect, with_constant
from leaderboard.compare import compare, document
from leaderboard.formats import render as written
from leaderboard.formats.values import as_csv
from leaderboard.frame.load import read
from leaderboard.frame.schema import COLUMNS, NULLABLE, WORDS
from leaderboard.tables import render

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
HALF = (N, N, 500, 500)
LESS = (500, 450, 300, 250)
OTHER = CertifySpec(n0=10, n=500, images="first:4")
STOPPED = CertifySpec(n0=10, n=N, images="first:4", rule="confidence-sequence")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


@pytest.fixture(scope="module")
def reference() -> pd.DataFrame:
    return bench.load_results(REFERENCE)


def read_logs(store: Store, tmp_path: Path) -> None:
    write_log(tmp_path / "logs/plain/noise_0.5_1", [0.5, 1.0, 0.0, 1.25])
    write_log(tmp_path / "logs/plain/noise_0.5_2", [0.25, 1.0, 0.5, 1.25])
    write_log(tmp_path / "logs/other/noise_0.5_1", [0.5, 0.75, 0.0, 0.125])
    import_logs(tmp_path / "logs", store.root, MANIFEST)


# ----------------------------------------------------------------------------------------------------------------- the table


def test_a_row_per_image_with_what_its_evidence_says(reference: pd.DataFrame) -> None:
    assert list(reference.columns) == list(COLUMNS)
    assert reference.attrs["left_out"] == []
    total = 0
    for run in Store(REFERENCE).runs():
        for certification in run.certifications():
            mine = reference[(reference["key"] == run.spec.key) & (reference["certification"] == certification.spec.key)]
            rows = sorted(read_rows(certification.evidence), key=lambda row: row.index)
            for name, field in (
                ("image", "index"),
                ("label", "label"),
                ("selected", "selected"),
                ("count", "count"),
                ("n0", "n0"),
                ("n", "n"),
            ):
                assert mine[name].tolist() == [getattr(row, field) for row in rows]
            others = [max([k for c, k in row.estimation.items() if c != row.selected], default=0) for row in rows]
            assert mine["runner_up"].tolist() == others
            radii = [row.radius(0.001, run.spec.sigma) for row in rows]
            assert mine["radius"].tolist() == [radius or 0.0 for radius in radii]
            assert mine["predicted"].tolist() == [-1 if radius is None else row.selected for row, radius in zip(rows, radii, strict=True)]
            assert mine["correct"].tolist() == [row.correct(0.001, run.spec.sigma) for row in rows]
            facts = {
                "dataset": "mnist",
                "row": run.spec.row,
                "sigma": run.spec.sigma,
                "seed": run.spec.seed,
                "source": "runs",
                "alpha": 0.001,
            }
            assert all((mine[name] == value).all() for name, value in facts.items())
            total += len(rows)
    assert len(reference) == total == 111_500


def test_types_are_the_same_for_every_store(store: Store, tmp_path: Path, reference: pd.DataFrame) -> None:
    read_logs(store, tmp_path)
    add(store, run_spec(), None)
    logs = bench.load_results(store.root)
    assert reference.dtypes.astype(str).to_dict() == logs.dtypes.astype(str).to_dict() == logs.iloc[:0].dtypes.astype(str).to_dict()
    assert {name for name, kind in logs.dtypes.items() if kind == "category"} == set(WORDS)
    assert {name for name, kind in logs.dtypes.items() if kind == "Int64"} == {*NULLABLE, "seed"}
    assert logs.memory_usage(deep=True).sum() < 400 * len(logs) + 100_000


def test_the_docstring_names_every_column() -> None:
    text = (inspect.getdoc(bench.load_results) or "").replace(". certification (", "\ncertification (")
    listed = [name.strip() for line in text.split("\n") if " (" in line for name in line.partition(" (")[0].split(",")]
    assert set(COLUMNS) <= set(listed)


def test_a_log_says_less(store: Store, tmp_path: Path) -> None:
    read_logs(store, tmp_path)
    frame = bench.load_results(store.root)
    assert frame[["count", "runner_up", "majority", "seed", "protocol", "recipe", "rule"]].isna().all(axis=None)
    abstained = frame["predicted"] == -1
    assert (abstained == frame["selected"].isna()).all()
    assert (frame.loc[abstained, "radius"] == 0).all()
    assert not frame.loc[abstained, "correct"].any()
    assert set(frame["status"]) == {"log"}
    assert sorted(set(frame["training"])) == ["1", "2"]


def test_what_is_unfinished_or_refused_is_named_and_nothing_else_is_hidden(store: Store, tmp_path: Path) -> None:
    read_logs(store, tmp_path)
    foreign(store, "a.pth")
    foreign(store, "b.pth", counts=(N,))
    add(store, run_spec())
    add(store, run_spec(seed=1), (N, N))
    add(store, run_spec(seed=2), None, failure=True)
    add(store, run_spec(seed=3), None, state="diverged")
    add(store, run_spec(seed=4), certify=CertifySpec(n0=10, n=N, images="first:4", rule="curtailed", stop_alpha=0.0001))
    broken = add(store, run_spec(seed=5))
    (broken.certification(CERTIFY).evidence).write_text("nonsense\n")
    (add(store, run_spec(seed=7), None, state="diverged").path / "failure.json").write_text("[]")
    torn = add(store, run_spec(seed=6))
    (torn.path / "spec.json").write_text("{")
    log = next((store.root / "imported").rglob("rows.tsv"))
    log.write_bytes(log.read_bytes().replace(b"1", b"2"))
    frame = bench.load_results(store.root)
    assert sorted(entry["state"] for entry in frame.attrs["left_out"]) == sorted(
        ["certifying", "certifying", "failed", "diverged", "refused", *["damaged"] * 4]
    )
    found = {(source, seed) for source, seed in zip(frame["source"], frame["seed"].fillna(-1), strict=True)}
    assert found == {("runs", 0), ("imported", -1), ("checkpoints", -1)}
    assert json.loads(json.dumps(frame.attrs)) == frame.attrs
    assert frame[frame["source"] == "runs"].attrs == frame.attrs
    with pytest.raises(BenchError):
        bench.load_results(store.root, strict=True)


@pytest.mark.parametrize("source", ["runs", "checkpoints"])
def test_a_damaged_record_of_a_certification_leaves_that_one_out(source: str, store: Store) -> None:
    run = add(store, run_spec(seed=1)) if source == "runs" else foreign(store, "b.pth")
    add(store, run_spec())
    file = next(run.path.glob("certify-*")) / "environment.json"
    file.write_text("[]")
    frame = bench.load_results(store.root)
    ((entry),) = frame.attrs["left_out"]
    assert entry["state"] == "damaged"
    assert str(file) in entry["reason"]
    assert set(frame["seed"]) == {0}
    assert bench.table(frame, "json") == render(collect(store, metrics=["all"]), "json")


def test_what_is_damaged_is_named_by_its_path_whatever_is_in_it(tmp_path: Path) -> None:
    store = new_store(tmp_path / "at 12:30, line 5: noon")
    add(store, run_spec())
    broken, other = add(store, run_spec(seed=1)), add(store, run_spec(seed=2))
    (broken.path / "training.json").write_text("{")
    (other.path / "spec.json").write_text("{")
    (store.root / "link").symlink_to(tmp_path)
    (foreign(store, "a.pth").path / "origin.json").write_text("[]")
    read_logs(store, tmp_path)
    log = next((store.root / "imported").rglob("rows.tsv"))
    log.write_bytes(b"")
    expected = {broken.certification(CERTIFY).path, other.path / "spec.json", store.root / "link", log}
    expected |= set((store.root / "checkpoints").rglob("origin.json"))
    assert {Path(entry["path"]) for entry in bench.load_results(store.root).attrs["left_out"]} == expected


def test_of_the_wanted_runs_all_that_is_damaged_is_named_and_of_others_nothing(store: Store) -> None:
    runs = [add(store, run_spec(seed=seed)) for seed in range(5)]
    (runs[1].path / "training.json").write_text("{")
    (runs[2].path / "spec.json").write_text("{")
    (runs[3].path / "certify-nothing").mkdir()
    (runs[3].path / "certify-nothing" / "spec.json").write_text("{")
    (runs[4].path / "spec.json").write_text("{")
    found = read(store, only=[(run.spec.key, CERTIFY.key) for run in runs[:4]])
    assert {Path(entry["path"]).parent for entry in found.left_out} == {runs[1].path, runs[2].path, runs[3].path / "certify-nothing"}
    assert len(found.left_out) == 3
    assert sorted(part.constants["seed"] for part in found.parts) == [0, 3]


def test_bad_folders_and_levels_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path, tmp_path / ("a" * 5000), f"{tmp_path}/\0"):
        with pytest.raises(BenchError, match=str(tmp_path)):
            bench.load_results(path)
    with pytest.raises(BenchError, match=r"alpha 0\.5"):
        bench.load_results(REFERENCE, alpha=0.5)


def test_alpha_is_applied_when_evidence_is_read(reference: pd.DataFrame) -> None:
    loose = bench.load_results(REFERENCE, alpha=0.05)
    assert (loose["radius"] >= reference["radius"]).all()
    assert (loose["radius"] > reference["radius"]).any()
    expected = collect(Store(REFERENCE), alpha=0.05)
    assert bench.table(loose) == render(expected, "terminal")
    both = pd.concat([reference, loose])
    assert len(bench.summary(both)) == 2 * len(bench.summary(reference))


def test_a_log_of_another_alpha_is_left_out(store: Store, tmp_path: Path) -> None:
    read_logs(store, tmp_path)
    assert len(bench.load_results(store.root, alpha=0.001)) == 12
    frame = bench.load_results(store.root, alpha=0.01)
    assert len(frame) == 0
    assert {entry["state"] for entry in frame.attrs["left_out"]} == {"refused"}


def test_a_rule_that_does_not_read_the_counts_leaves_them_out(store: Store) -> None:
    add(store, run_spec())
    add(store, run_spec(), certify=STOPPED)
    assert set(bench.load_results(store.root)["rule"]) == {"clopper-pearson", "confidence-sequence"}
    frame = bench.load_results(store.root, rule="confidence-sequence")
    assert set(frame["rule"]) == {"confidence-sequence"}
    assert [entry["state"] for entry in frame.attrs["left_out"]] == ["refused"]
    assert bench.table(frame) == render(collect(store, rule="confidence-sequence"), "terminal")
    assert bench.table(frame, "json") == render(collect(store, rule="confidence-sequence", metrics=["all"]), "json")
    with pytest.raises(BenchError, match="clopper-pearson"):
        bench.load_results(store.root, rule="cloper-pearson")


# ------------------------------------------------------------------------------------------------- the numbers of the commands

STATES = st.sampled_from(
    [(N, N, N, N), HALF, (N, 777, 0, 901), (N, N), (), None, "failed", "diverged", "training", "damaged", "broken", "broken early"]
)
RUNS = st.lists(
    st.tuples(
        st.sampled_from(["gaussian", "macer", "smoothmix.eta5"]),
        st.integers(0, 2),
        st.sampled_from([0.25, 0.5]),
        st.sampled_from(["quick", "full"]),
        st.sampled_from([CERTIFY, OTHER]),
        st.sampled_from(["a" * 64, "b" * 64]),
        STATES,
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda run: run[:4],
)


def fill(store: Store, runs: Sequence[tuple[Any, ...]]) -> None:
    for method, seed, sigma, protocol, certify, source, state in runs:
        spec = run_spec(method, seed, sigma, protocol=protocol)
        if state == "failed":
            add(store, spec, None, state=None, failure=True)
        elif state == "diverged":
            add(store, spec, None, state="diverged")
        elif state == "broken early":
            (add(store, spec, None).path / "training.json").write_text("{")
        elif state == "training":
            add(store, spec, None, state=None)
        else:
            counts = (N, N, N, N) if state in ("damaged", "broken") else state
            counts = None if counts is None else tuple(min(count, certify.n) for count in counts)
            run = add(store, spec, counts, certify=certify, environment={"method_sha256": source, "device": f"cpu {source[:1]}"})
            if state == "broken":
                (run.path / "training.json").write_text("{")
            if state == "damaged":
                evidence = run.certification(certify).evidence
                evidence.write_text(evidence.read_text().replace("7", "8", 1))


@given(runs=RUNS, where=st.sampled_from(["protocol=quick", "sigma=0.5", "certify.n=500", "method=smoothmix", "changes="]))
@settings(max_examples=15, deadline=None)
def test_a_frame_gives_the_tables_that_the_store_gives(
    runs: list[tuple[Any, ...]], where: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is finished, unfinished, failed, damaged or from another source: every metric, mixed or not."""
    store = new_store(tmp_path_factory.mktemp("store"))
    fill(store, runs)
    frame = bench.load_results(store.root)
    for mix in (False, True):
        assert bench.table(frame, "json", mix=mix) == render(collect(store, metrics=["all"], mix=mix), "json")
    for seeds in ((0,), (0, 1)):
        chosen = [run for run in runs if run[1] in seeds]
        if chosen and all(seed in {run[1] for run in runs} for seed in seeds):
            expected = render(collect(store, Filters(seeds=seeds)), "csv")
            assert bench.table(frame, "csv", seeds=seeds) == expected
            assert bench.table(frame, "csv", seeds=len(seeds)) == expected
    expected = outcome(lambda: render(collect(store, Filters().narrowed([where])), "csv"))
    assert outcome(lambda: bench.table(bench.load_results(store.root, where=where), "csv")) == expected


def outcome(work: Callable[[], str]) -> str:
    try:
        return work()
    except BenchError:
        return "refused"


def test_logs_and_checkpoints_give_the_tables_that_the_store_gives(store: Store, tmp_path: Path) -> None:
    read_logs(store, tmp_path)
    foreign(store, "a.pth")
    foreign(store, "b.pth", counts=HALF)
    foreign(store, "c.pth", counts=(N,))
    foreign(store, "d.pth", None, LESS, certify=OTHER)
    foreign(store, "e.pth", counts=None)
    add(store, run_spec(), environment={"data_differs": ["other training images"]})
    add(store, run_spec(), LESS, certify=OTHER)
    frame = bench.load_results(store.root)
    for mix, format in itertools.product((False, True), ("terminal", "markdown", "latex", "csv", "json")):
        assert bench.table(frame, format, metrics=["all"], mix=mix) == render(collect(store, metrics=["all"], mix=mix), format)
    constant = [with_constant(group) for group in collect(store, metrics=["all"])]
    assert bench.table(frame, "csv", metrics=["all"], constant=True) == render(constant, "csv")
    with pytest.raises(BenchError, match="mixture"):
        bench.table(frame, mix=True, constant=True)


def test_files_that_the_suite_did_not_write_are_noted(store: Store) -> None:
    run = add(store, run_spec())
    (run.path / "thoughts.txt").write_text("")
    frame = bench.load_results(store.root, strict=True)
    (note,) = frame.attrs["notes"]
    assert str(run.path / "thoughts.txt") in note
    assert note in bench.summary(frame)["notes"][0]
    assert bench.table(frame) == render(collect(store), "terminal")


def weights(metadata: dict[str, str]) -> bytes:
    """A file of one tensor, always the same."""
    header = canonical({"__metadata__": metadata, "weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(range(16))


def one_training_as_two_seeds(store: Store) -> None:
    for seed, counts in enumerate((LESS, HALF)):
        run = add(store, run_spec(seed=seed), None)
        run.weights.write_bytes(weights({"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}))
        write_json(run.path / "training.json", read_json(run.path / "training.json") | {"weights_sha256": sha256(run.weights)})
        write_evidence(run.certification(CERTIFY), counts)


def one_training_as_two_checkpoints(store: Store) -> None:
    """As an earlier release left them."""
    for name, counts in (("a.pth", LESS), ("b.pth", HALF)):
        content = weights({"name": name})
        own = foreign(store, name, counts=counts, weights_sha256=hashlib.sha256(content).hexdigest())
        own.weights.write_bytes(content)
        write_json(own.origin_file, {"name": name, "row": "mine"})


def test_a_frame_never_asks_the_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And knows trainings that are one and the same."""
    one_training_as_two_seeds(store)
    one_training_as_two_checkpoints(store)
    add(store, run_spec("macer", seed=0))
    add(store, run_spec("macer", seed=1), HALF)
    foreign(store, "c.pth")
    frame = bench.load_results(store.root)
    expected = bench.table(frame, "json")
    assert expected == render(collect(store, metrics=["all"]), "json")
    assert set(bench.summary(frame[frame["row"] == "gaussian"])["status"]) == {"1/2 seeds, 1 copy"}
    assert "hold the same weights" in expected
    shutil.rmtree(store.root)
    for name in ("open", "stat", "lstat", "scandir"):
        monkeypatch.setattr(os, name, partial(forbidden, store.root, getattr(os, name)))
    with pytest.raises(AssertionError):
        store.root.exists()
    assert bench.table(frame, "json") == expected


def forbidden(root: Path, call: Callable[..., Any], path: Any, *words: Any, **options: Any) -> Any:
    """A call of the system that is not made for what lies in a folder."""
    assert not str(path).startswith(str(root))
    return call(path, *words, **options)


@pytest.mark.parametrize("rows", [("gaussian",), ()])
def test_published_logs_alone_and_beside_runs_have_a_summary(rows: Sequence[str], store: Store, tmp_path: Path) -> None:
    read_logs(store, tmp_path)
    for row in rows:
        add(store, run_spec(row))
    frame = bench.load_results(store.root)
    assert set(bench.summary(frame)["row"]) == {"plain", "other", *rows}
    assert bench.table(frame) == render(collect(store), "terminal")


def test_two_logs_of_one_run_are_both_refused_and_hide_no_other(store: Store, tmp_path: Path) -> None:
    read_logs(store, tmp_path)
    write_log(tmp_path / "again/plain/noise_0.5_2", [0.25, 1.0, 0.5, 1.5])
    import_logs(tmp_path / "again", tmp_path / "elsewhere", MANIFEST)
    shutil.copytree(tmp_path / "elsewhere", store.root, dirs_exist_ok=True)
    folders = {str(path.parent) for path in (store.root / "imported").glob("*/plain/0.5-2-*/spec.json")}
    frame = bench.load_results(store.root)
    assert len(folders) == 2
    assert {entry["path"] for entry in frame.attrs["left_out"]} == folders
    assert set(frame["row"].astype(str) + " " + frame["training"].astype(str)) == {"plain 1", "other 1"}
    assert set(bench.summary(frame)["status"]) == {"done"}
    assert bench.table(frame) == render(collect(store), "terminal")
    assert {str(failure.file) for failure in verify(store.root).failures} == folders


def test_joined_frames_with_two_logs_of_one_run_say_that_they_are_left_out(store: Store, tmp_path: Path) -> None:
    read_logs(store, tmp_path)
    write_log(tmp_path / "again/plain/noise_0.5_2", [0.25, 1.0, 0.5, 1.5])
    import_logs(tmp_path / "again", tmp_path / "elsewhere", MANIFEST)
    frames = [bench.load_results(store.root), bench.load_results(tmp_path / "elsewhere")]
    with pytest.raises(BenchError, match="same run"):
        bench.summary(pd.concat(frames))
    add(store, run_spec())
    (notes,) = set(bench.summary(pd.concat([*frames, bench.load_results(store.root).query("source == 'runs'")]))["notes"])
    assert "same run" in notes


@pytest.mark.parametrize("name", ["table.txt", "table.md", "table.tex", "table.csv", "table.json"])
def test_the_reference_gives_what_the_command_prints(name: str, reference: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    format = {"txt": "terminal", "md": "markdown", "tex": "latex"}.get(name[6:], name[6:])
    assert printed(COMMANDS[name], 120) == f"exit 0\n{bench.table(reference, format)}".rstrip("\n") + "\n"


def test_a_summary_has_the_means_of_the_table(reference: pd.DataFrame) -> None:
    found = bench.summary(reference, metrics=["ACR", "r=0.5", 1.0, "abstention"])
    lines = list(csv.DictReader(io.StringIO(render(collect(Store(REFERENCE), metrics=["ACR", "0.5", "1.0", "abstention"]), "csv"))))
    assert len(found) == len(lines)
    words = {"ACR": "ACR", "0.50": "r=0.5", "1.00": "1", "abstention": "abstention"}
    for row, line in zip(found.to_dict("records"), lines, strict=True):
        assert (row["row"], row["sigma"], row["metric"]) == (line["row"], float(line["sigma"]), words[line["metric"]])
        assert (row["status"], str(row["n0"]), str(row["samples"])) == (line["state"], line["n0"], line["n"])
        assert np.isnan(row["mean"]) if not line["mean"] else row["mean"] == float(line["mean"])


def test_a_summary_is_what_pandas_gives(store: Store) -> None:
    """A second way to the same number: groupby and aggregate."""
    for seed, counts in enumerate([(N, N, N, N), HALF, (N, 777, 612, 901)]):
        add(store, run_spec(seed=seed), counts)
    frame = bench.load_results(store.root)
    values = (frame["radius"] * frame["correct"]).groupby(frame["seed"]).mean()
    shares = 100 * (frame["correct"] & (frame["radius"] > 0.5)).groupby(frame["seed"]).mean()
    found = bench.summary(frame).set_index("metric")
    for metric, expected in (("ACR", values), ("r=0.5", shares)):
        assert found.loc[metric, "mean"] == pytest.approx(expected.mean(), rel=1e-12)
        assert found.loc[metric, "std"] == pytest.approx(expected.std(ddof=1), rel=1e-12)
        assert found.loc[metric, "n"] == 3


def lines_of(found: pd.DataFrame) -> str:
    lines = [{str(name): None if pd.isna(value) else value for name, value in line.items()} for line in found.to_dict("records")]
    return as_csv(list(found.columns), lines)


def test_a_comparison_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    frame = bench.load_results("results/reference", where="protocol=quick")
    found = bench.compare(frame, "gaussian", "smoothmix*")
    words = ("compare", "gaussian", "smoothmix*", "--protocol", "quick", "--results", "results/reference", "--format", "csv")
    assert printed(words) == f"exit 0\n{lines_of(found)}"
    half = bench.compare(frame[frame["sigma"] == 0.5], "gaussian", "smoothmix.eta5")  # of one test there is nothing to correct
    where = (found["sigma"] == 0.5) & (found["b"] == "smoothmix.eta5")
    pd.testing.assert_frame_equal(half.drop(columns="p_holm"), found[where].drop(columns="p_holm").reset_index(drop=True))
    assert half["p_holm"].equals(half["p"])


def test_what_a_comparison_leaves_out_is_named(store: Store) -> None:
    for row, seed in itertools.product(("gaussian", "macer", "smoothmix.eta5"), range(2)):
        add(store, run_spec(row, seed=seed), LESS if seed else HALF)
    add(store, run_spec("smoothmix.eta1"), (N,))
    add(store, run_spec("gaussian", changes={"train.epochs": 3}))
    frame = bench.load_results(store.root)
    for b in ("smoothmix*", "macer"):
        report = compare(store, "gaussian", b)
        found = bench.compare(frame, "gaussian", b)
        assert lines_of(found) == written(document(report), "csv")
        assert found.attrs["notes"] == list(report.notes)
    assert any("smoothmix.eta1" in note for note in bench.compare(frame, "gaussian", "smoothmix*").attrs["notes"])
    assert set(bench.compare(frame, "gaussian", ["macer", "smoothmix*"])["b"]) == {"macer", "smoothmix.eta5"}
    assert set(bench.compare(frame, "gaussian", "macer", seeds=1)["runs_a"]) == {"0"}


def test_what_cannot_be_compared_is_refused(reference: pd.DataFrame) -> None:
    for b in ("gaussian", "macre", ["macer", "macre"], [], 5, ["macer", None]):
        with pytest.raises(BenchError):
            bench.compare(reference, "gaussian", b)  # type: ignore[arg-type]
    for frame in (reference.iloc[:0].copy(), reference[reference["image"] < 5000]):
        with pytest.raises(BenchError):
            bench.compare(frame, "gaussian", "macer")


def typed(error: pytest.ExceptionInfo[BenchError]) -> list[str]:
    """The ways to choose that an error names."""
    return re.findall(r"bench\.load_results.*?(?= for mnist)", str(error.value))


@pytest.mark.parametrize(("use", "groups"), [(bench.plot_curves, 4), (partial(bench.compare, a="gaussian", b="macer"), 3)])
def test_what_is_said_of_several_groups_chooses_one_of_them(use: Callable[..., Any], groups: int, store: Store) -> None:
    """A comparison prefers those of which nothing was changed."""
    for row, protocol in itertools.product(("gaussian", "macer"), ("quick", "smoke")):
        add(store, run_spec(row, protocol=protocol), HALF)
        write_evidence(add(store, run_spec(row)).certification(OTHER), LESS)
        add(store, run_spec(row, train={"epochs": 3}), HALF)
    frame = bench.load_results(store.root)
    with pytest.raises(BenchError) as error:
        use(frame)
    ways = typed(error)
    assert len(ways) == groups
    for way in ways:
        use(eval(way.replace("...", repr(str(store.root)))))


# ---------------------------------------------------------------------------------------------------------------- filtering


def test_a_filtered_frame_shows_what_the_filtered_command_shows(reference: pd.DataFrame) -> None:
    quick = reference[(reference["protocol"] == "quick") & reference["method"].isin(["gaussian", "smoothmix"])]
    expected = collect(Store(REFERENCE), Filters(protocols=["quick"], methods=["gaussian", "smoothmix"]))
    assert bench.table(quick) == render(expected, "terminal")


def test_a_seed_that_was_filtered_away_is_missed_unless_it_is_not_wanted(store: Store) -> None:
    for row, seed in itertools.product(("gaussian", "macer"), range(3)):
        add(store, run_spec(row, seed=seed), HALF if seed else (N, N, N, N))
    frame = bench.load_results(store.root)
    some = frame[(frame["row"] == "macer") & (frame["seed"] < 2)]
    assert set(bench.summary(some)["status"]) == {"2/3 seeds"}
    assert bench.summary(some)["mean"].isna().all()
    assert bench.table(some, seeds=[0, 1]) == render(collect(store, Filters(methods=["macer"], seeds=[0, 1])), "terminal")


def test_a_frame_that_lost_what_it_knew_of_seeds_says_so(store: Store, tmp_path: Path) -> None:
    for row, seed in itertools.product(("gaussian", "macer"), range(2)):
        add(store, run_spec(row, seed=seed))
    frame = bench.load_results(store.root)
    some = frame[(frame["row"] == "macer") & (frame["seed"] < 1)]
    assert not bench.summary(some)["notes"].str.contains("seeds=").any()
    some.to_csv(tmp_path / "frame.csv")
    lost = pd.read_csv(tmp_path / "frame.csv")
    assert bench.summary(lost)["notes"].str.contains("seeds=").all()
    assert "seeds=" in bench.table(lost, "markdown")
    assert not bench.summary(lost, seeds=[0])["notes"].str.contains("seeds=").any()


def test_a_filtered_frame_still_knows_an_unfinished_seed_of_its_row_but_not_of_others(store: Store) -> None:
    add(store, run_spec(seed=0))
    add(store, run_spec(seed=1), (N,))
    add(store, run_spec("macer"))
    add(store, run_spec("stability"), (N,))
    frame = bench.load_results(store.root)
    assert bench.summary(frame, ["ACR"])["row"].tolist() == ["gaussian", "stability", "macer"]
    found = bench.summary(frame[frame["method"] == "gaussian"], ["ACR"])
    assert found[["row", "status"]].values.tolist() == [["gaussian", "1/2 seeds"]]


def test_a_part_of_the_images_has_no_mean(reference: pd.DataFrame) -> None:
    some = reference[(reference["protocol"] == "quick") & (reference["image"] < 5000)]
    found = bench.summary(some)
    assert set(found["status"]) == {"250/500 images"}
    assert found["mean"].isna().all()


@pytest.mark.parametrize("kind", ["runs", "logs", "checkpoints"])
def test_images_that_were_filtered_away_are_missed_whatever_is_filtered(kind: str, store: Store, tmp_path: Path) -> None:
    if kind == "logs":
        read_logs(store, tmp_path)
    for seed in range(2):
        if kind == "runs":
            add(store, run_spec(seed=seed), LESS if seed else HALF)
        elif kind == "checkpoints":
            foreign(store, f"{seed}.pth", counts=LESS if seed else HALF)
    frame = bench.load_results(store.root)
    assert not bench.summary(frame)["notes"].str.contains("filtered").any()
    found = bench.summary(frame[frame["image"] % 3 > 0])
    assert set(found["status"]) == {"2/4 images"}
    assert found["mean"].isna().all()
    assert found["notes"].str.contains("2/4").all()


def test_frames_can_be_joined_sorted_and_written(store: Store, tmp_path: Path, reference: pd.DataFrame) -> None:
    read_logs(store, tmp_path)
    foreign(store, "a.pth", counts=HALF)
    frames = [reference[reference["protocol"] == "full"], bench.load_results(store.root)]
    joined = pd.concat(frames)
    assert len(bench.summary(joined)) == sum(len(bench.summary(frame)) for frame in frames)
    joined.to_csv(tmp_path / "frame.csv", index=False)
    for other in (joined.sample(frac=1, random_state=0), joined.reset_index(), pd.read_csv(tmp_path / "frame.csv"), joined.astype(object)):
        pd.testing.assert_frame_equal(bench.summary(other), bench.summary(joined), check_dtype=False)


def test_rows_that_stand_twice_are_refused(reference: pd.DataFrame) -> None:
    with pytest.raises(BenchError, match="two certificates"):
        bench.summary(pd.concat([reference, reference]))


def test_radii_that_are_not_those_of_the_counts_are_refused(reference: pd.DataFrame) -> None:
    changed = reference.assign(radius=2 * reference["radius"])
    for use in (bench.summary, bench.table, bench.plot_curves):
        with pytest.raises(BenchError, match="radius"):
            use(changed)
    assert bench.acr(changed["radius"], changed["correct"]) == 2 * bench.acr(reference["radius"], reference["correct"])


@pytest.mark.parametrize("name", ["record", "count", "alpha"])
def test_a_frame_of_something_else_is_refused(name: str, reference: pd.DataFrame) -> None:
    with pytest.raises(BenchError, match=name):
        bench.summary(reference.drop(columns=name))


def test_an_unknown_metric_or_format_is_refused(reference: pd.DataFrame) -> None:
    with pytest.raises(BenchError, match="'ACR'"):
        bench.summary(reference, ["ACRR"])
    with pytest.raises(BenchError, match="markdown"):
        bench.table(reference, "markdwn")


def test_one_metric_is_a_list_of_one(reference: pd.DataFrame) -> None:
    for one in ("ACR", 0.123456789):
        pd.testing.assert_frame_equal(bench.summary(reference, one), bench.summary(reference, [one]))
        assert bench.table(reference, metrics=one) == bench.table(reference, metrics=[one])
    assert set(bench.summary(reference, 0.123456789)["metric"]) == {"0.123456789"}


def test_what_is_of_the_wrong_kind_is_told(reference: pd.DataFrame) -> None:
    for other in (None, "results/reference", 5):
        with pytest.raises(BenchError, match="frame"):
            bench.summary(other)  # type: ignore[arg-type]
    for seeds in (0, 99, "1", ["1"], [0.0], [True], None):
        with pytest.raises(BenchError, match="seed"):
            bench.summary(reference, seeds=seeds)  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="metrics"):
        bench.summary(reference, None)  # type: ignore[arg-type]
    for column, value in (("record", 5), ("record", "{}"), ("record", '{"source":"runs","spec":{}}'), ("alpha", "x"), ("count", "many")):
        with pytest.raises(BenchError):
            bench.summary(reference.assign(**{column: value}))
    for wrong in (5, None):
        with pytest.raises(BenchError, match="format"):
            bench.table(reference, wrong)  # type: ignore[arg-type]
    for words in ({"alpha": "0.001"}, {"alpha": True}, {"rule": 5}):
        with pytest.raises(BenchError, match=next(iter(words))):
            bench.load_results(REFERENCE, **words)
    with pytest.raises(BenchError, match="None"):
        bench.load_results(None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------------ numbers

SAMPLES = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.lists(SAMPLES, min_size=1, max_size=20), st.floats(1e-6, 0.49), st.floats(0.01, 10))
@settings(deadline=None)
def test_radii_of_arrays_are_those_of_numbers(samples: list[tuple[int, int]], alpha: float, sigma: float) -> None:
    counts, sizes = (np.array(values) for values in zip(*samples, strict=True))
    expected = [certified_radius(k, n, alpha, sigma) or 0.0 for k, n in samples]
    assert bench.certified_radius(counts, sizes, alpha, sigma).tolist() == expected
    assert [bench.certified_radius(k, n, alpha, sigma) for k, n in samples] == expected


def test_radii_of_the_frame_are_those_of_its_counts(reference: pd.DataFrame) -> None:
    found = bench.certified_radius(reference["count"], reference["n"], reference["alpha"], reference["sigma"])
    pd.testing.assert_series_equal(found, reference["radius"])


def test_shapes_broadcast_and_nothing_drawn_certifies_nothing() -> None:
    assert bench.certified_radius(np.array([[0], [100]]), [100, 200], 0.001, 0.5).shape == (2, 2)
    assert bench.certified_radius(0, 0, 0.001, 0.5) == 0.0
    assert isinstance(bench.certified_radius(99, 100, 0.001, 0.5), float)
    assert bench.certified_radius([], [], 0.001, 0.5).tolist() == []
    assert bench.certified_radius([], 100, 0.001, [0.5]).shape == (0,)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((101, 100, 0.001, 0.5), ValueError),
        ((-1, 100, 0.001, 0.5), ValueError),
        ((99, 100, 0.5, 0.5), ValueError),
        ((99, 100, float("nan"), 0.5), ValueError),
        ((99, 100, 0.001, 0.0), ValueError),
        ((99, 100, 0.001, float("nan")), ValueError),
        ((99.5, 100, 0.001, 0.5), TypeError),
        (("99", 100, 0.001, 0.5), TypeError),
        ((True, 100, 0.001, 0.5), TypeError),
        (([1, 2, 3], [4, 5], 0.001, 0.5), ValueError),
        ((pd.Series([1, None], dtype="Int64"), 100, 0.001, 0.5), ValueError),
    ],
)
def test_impossible_counts_are_refused(words: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        bench.certified_radius(*words)


EVIDENCE = st.lists(st.tuples(st.floats(0, 4), st.booleans()), min_size=1, max_size=50)


@given(EVIDENCE, st.lists(st.floats(0, 4), max_size=5))
def test_acr_and_accuracy_are_those_of_tables(rows: list[tuple[float, bool]], at: list[float]) -> None:
    radius, correct = (np.array(values) for values in zip(*rows, strict=True))
    index = np.arange(len(rows), dtype=np.int32)
    o = metrics.Outcomes(index, index, correct, radius == 0, radius)
    assert bench.acr(radius, correct) == metrics.average_certified_radius(o)
    expected = [metrics.certified_accuracy(o, r) for r in at]
    assert [bench.certified_accuracy(radius, correct, r) for r in at] == expected
    assert bench.certified_accuracy(list(radius), pd.Series(correct, dtype="boolean"), at).tolist() == expected


@pytest.mark.parametrize(
    ("radius", "correct"),
    [([], []), ([1.0], [True, False]), ([-1.0], [True]), ([float("nan")], [True]), ([1.0], [0.5]), ([1.0], [2]), ([[1.0]], [[True]])],
)
def test_what_is_no_evidence_is_refused(radius: list[Any], correct: list[Any]) -> None:
    with pytest.raises(ValueError):
        bench.acr(radius, correct)
    with pytest.raises(ValueError):
        bench.certified_accuracy(radius, correct, 0.5)


@pytest.mark.parametrize("at", [-0.1, float("inf"), [0.5, float("nan")], "half"])
def test_a_radius_is_a_number_from_0_up(at: Any) -> None:
    with pytest.raises(ValueError):
        bench.certified_accuracy([1.0], [True], at)


# ------------------------------------------------------------------------------------------------------------------- curves


def test_curves_are_the_certified_accuracies(reference: pd.DataFrame) -> None:
    from matplotlib.figure import Figure

    some = reference[(reference["protocol"] == "quick") & (reference["sigma"] == 0.5) & reference["method"].isin(["gaussian", "macer"])]
    axes = bench.plot_curves(some, axes=Figure().subplots())
    drawn = {line.get_label(): line for line in axes.get_lines()}
    assert {"gaussian", "macer"} <= drawn.keys()
    steps = [line for line in axes.get_lines() if line.get_drawstyle() == "steps-post"]
    for method, line in zip(("gaussian", "macer"), steps, strict=True):
        mine = some[some["method"] == method]
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert y.tolist() == pytest.approx((100 * bench.certified_accuracy(mine["radius"], mine["correct"], x)).tolist())
        assert len(x) > 20


def test_curves_of_what_is_not_comparable_are_refused(reference: pd.DataFrame) -> None:
    with pytest.raises(BenchError, match="protocol"):
        bench.plot_curves(reference)
    with pytest.raises(BenchError, match="empty"):
        bench.plot_curves(reference.iloc[:0].copy())


# ------------------------------------------------------------------------------------------------------------------ imports


def ask(code: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_bench_loads_nothing_and_reading_loads_no_torch() -> None:
    heavy = "[m for m in ('torch', 'pandas', 'scipy', 'numpy', 'matplotlib') if m in sys.modules]"
    assert ask(f"import sys, bench; dir(bench); print({heavy})") == "[]"
    code = f"import sys, bench; f = bench.load_results('results/reference'); bench.table(f); bench.summary(f); print({heavy})"
    assert ask(code) == "['pandas', 'scipy', 'numpy']"


def test_import_bench_is_quick() -> None:
    """The best of five, since other work on the machine counts too."""
    code = "import time; t = time.perf_counter(); import bench; print(time.perf_counter() - t)"
    assert min(float(ask(code)) for _ in range(5)) < 0.1


def test_no_module_bears_the_name_of_a_function() -> None:
    """The import of such a module would put it in the function's place."""
    modules = {path.stem for folder in ("bench", "leaderboard") for path in (ROOT / folder).rglob("*.py")}
    assert not modules & set(bench.__all__)
    assert all(callable(getattr(bench, name)) for name in bench.__all__)
    assert set(bench.__all__) <= set(dir(bench))
    with pytest.raises(AttributeError):
        bench.nothing  # type: ignore[attr-defined]  # noqa: B018
