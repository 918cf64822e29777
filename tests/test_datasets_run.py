"""Generated data sets and real Fashion-MNIST from `bench run` to their tables; interruptions; what tables say of the data."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import generated
import numpy as np
import pytest
import torch
from test_run import Quiet, results_of, stopped
from typer.testing import Result

from bench.data import load
from bench.datasets import DATASETS
from bench.datasets.tree import ImageTree
from bench.errors import BenchError
from bench.matrix.cells import run_cell
from bench.matrix.plan import Cell, Request, make_plan
from bench.matrix.task import Options
from bench.registry import Registry
from bench.spec import Scalar
from bench.store.runs import Store
from bench.system.signals import StopSignals

Call = Callable[..., Result]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol smoke of CIFAR-10 and ImageNet in seconds for all rows of their tables; images of ImageNet 64 pixels wide."""
    monkeypatch.setattr("bench.certify.ROWS", 50, raising=False)  # blocks of 500 rows would be mostly padding here
    own: Mapping[str, Scalar] = {"train.batch": 2, "certify.n0": 10, "certify.n": 40}
    cifar: Mapping[str, Scalar] = {**own, "train.arch": "cifar_resnet20", "train.images": "every:250", "certify.images": "every:5000"}
    imagenet: Mapping[str, Scalar] = {**own, "train.arch": "test_resnet", "train.images": "every:200", "certify.images": "every:25000"}
    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], protocols={"smoke": cifar}))
    big = dataclasses.replace(DATASETS["imagenet"], shape=(3, 64, 64), protocols={"smoke": imagenet})
    monkeypatch.setitem(DATASETS, "imagenet", big)


def finished(bench: Call, number: int, dataset: str, rows: int, runs: Path, *words: object) -> None:
    """Runs the rows of a published table, and looks at them in `bench table` and in the table's layout."""
    where = ("--results", runs)
    result = bench("run", "--dataset", dataset, "--protocol", "smoke", "--device", "cpu", "--allow-other-data", *where, *words)
    assert result.exit_code == 0, result.output
    assert f"{rows} done of {rows} cells" in result.output
    shown = bench("table", "--dataset", dataset, "--format", "json", *where)
    assert shown.exit_code == 0, shown.output
    groups = json.loads(shown.stdout)["groups"]
    assert len(groups) == 1
    found = [row for section in groups[0]["sections"] for row in section["rows"]]
    assert len(found) == rows
    table = bench("table", "--table", number, "--protocol", "smoke", "--format", "json", *where)
    assert table.exit_code == 0, table.output
    data = json.loads(table.stdout)
    assert all(entry["values"] for entry in data["entries"])
    assert len({(entry["row"], entry["sigma"]) for entry in data["entries"]}) == rows
    assert any(note.startswith(f"not the published {dataset} data") for note in data["notes"])
    again = bench("run", "--dataset", dataset, "--protocol", "smoke", "--device", "cpu", *where, *words)
    assert again.exit_code == 0, "a finished matrix needs no data"


@pytest.mark.usefixtures("short")
def test_cifar10_from_run_to_table_6(bench: Call, made: Path, tmp_path: Path) -> None:
    """All seven rows on ResNet-20."""
    finished(bench, 6, "cifar10", 7, tmp_path / "runs", "--sigma", "1", "--data-dir", made)
    for run in Store(tmp_path / "runs").runs():
        assert run.spec.train.augment == "crop-flip"
        environment = json.dumps(run.environment())
        assert "it has 1,000 training images, not 50,000" in environment
        assert str(made) not in environment


@pytest.mark.slow  # a tree of 50,000 files
@pytest.mark.usefixtures("short")
def test_imagenet_from_run_to_table_7(bench: Call, tmp_path: Path) -> None:
    """All four rows at both noise levels, on a tree with every class and all 50,000 test images."""
    generated.imagenet(tmp_path / "data")
    finished(bench, 7, "imagenet", 8, tmp_path / "runs", "--data-dir", tmp_path / "data")
    run = next(Store(tmp_path / "runs").runs())
    (certification,) = run.certifications()
    assert [(row.index, row.label) for row in certification.rows()] == [(0, 0), (25_000, 500)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "dataset", "rows"), [(6, "cifar10", 7), (7, "imagenet", 8)])
def test_the_smoke_protocol_as_it_is(bench: Call, made: Path, tmp_path: Path, number: int, dataset: str, rows: int) -> None:
    if dataset == "imagenet":
        made = generated.imagenet(tmp_path / "data")
    finished(bench, number, dataset, rows, tmp_path / "runs", "--data-dir", made, *(["--sigma", "1"] if dataset == "cifar10" else []))


TINY = ["--set", "train.images=first:64", "--set", "certify.images=first:3", "--set", "certify.n=200", "--protocol", "smoke"]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_real_fashion_mnist_by_data_dir_alone(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    words = ("--dataset", "fashion-mnist", "--method", "gaussian,macer", "--sigma", "0.5", "--results", tmp_path / "runs", *TINY)
    result = bench("run", *words, "--data-dir", DEBIAN)
    assert result.exit_code == 0, result.output
    assert "no published hyperparameters for fashion-mnist: those for mnist are taken" in " ".join(result.output.split())
    table = " ".join(bench("table", "--results", tmp_path / "runs").output.split())
    assert "not the published" not in table
    assert "no hyperparameters are published for fashion-mnist: those for mnist are taken" in table
    assert "the labels of fashion-mnist are not checked" in table
    monkeypatch.setenv("BENCH_DATA_DIR", str(DEBIAN))
    assert "not checked" not in bench("table", "--results", tmp_path / "runs").output
    (run, _) = Store(tmp_path / "runs").runs()
    (certification,) = run.certifications()
    assert [row.label for row in certification.rows()] == [9, 2, 1]
    labels = list(DATASETS["fashion-mnist"].test_labels())
    monkeypatch.setattr(type(run.info), "known_labels", lambda info: (5, *labels[1:]))
    with pytest.raises(BenchError, match="image 0 has label 9, but label 5 in fashion-mnist"):
        certification.rows()


def test_presets_of_another_data_set_are_told() -> None:
    plan = make_plan(Request(methods=("macer", "gaussian"), datasets=("svhn",), sigmas=(0.5,), protocol="smoke"), Registry())
    assert plan.notes == ("no published hyperparameters for svhn: those for cifar10 are taken",)
    assert [cell.presets_of for cell in plan.cells] == ["cifar10", ""]
    assert plan.cells[0].spec.hyperparameters["strength"] == 4.0
    with pytest.raises(BenchError, match=r"no preset for imagenet under recipe official; there is smoothmix\.eta5-onestep"):
        make_plan(Request(methods=("smoothmix",), datasets=("imagenet",), protocol="smoke"), Registry())


def options(data_dir: Path) -> Options:
    return Options(device=torch.device("cpu"), data_dir=data_dir, allow_other_data=True)


def cell(dataset: str, **changes: str) -> Cell:
    base = {"train.arch": "test_resnet", "train.images": "first:12", "train.batch": "4", "train.epochs": "2"}
    base |= {"certify.images": "first:2", "certify.n": "50", "certify.n0": "10"}
    request = Request(methods=("gaussian",), datasets=(dataset,), sigmas=(0.5,), protocol="smoke", changes=base | changes)
    return make_plan(request, Registry()).cells[0]


@pytest.fixture
def small_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of 3 classes that stands for ImageNet."""
    source = ImageTree(class_name=r"n\d{8}", classes=3, test_per_class=2)
    small = dataclasses.replace(DATASETS["imagenet"], classes=3, shape=(3, 32, 32), train_size=12, test_size=6, source=source, protocols={})
    monkeypatch.setitem(DATASETS, "imagenet", small)
    return generated.imagenet(tmp_path / "data", 4, classes=["n00000001", "n00000002", "n00000003"], per_class=2)


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet"])
@pytest.mark.parametrize("step", [2, 4])
def test_an_interrupted_training_sees_the_same_images(
    made: Path, small_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, step: int
) -> None:
    """Within an epoch, at its end and in the next, augmented: the results are byte for byte the same, and no process is left."""
    monkeypatch.setattr("bench.certify.ROWS", 50, raising=False)
    which, place = cell(dataset), {"cifar10": made, "imagenet": small_tree}[dataset]
    assert which.spec.train.augment != "none"
    interrupted, undisturbed = Store(tmp_path / "interrupted"), Store(tmp_path / "undisturbed")
    stopped(which, interrupted, "training", step, signal.SIGTERM, data_dir=place, allow_other_data=True)
    assert not multiprocessing.active_children()
    for store in (interrupted, undisturbed):
        assert run_cell(which, store, options(place), Quiet(), StopSignals()).state == "done"
        assert not multiprocessing.active_children()
    assert results_of(interrupted.root) == results_of(undisturbed.root)


def test_other_data_is_never_mixed_in(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a training nor a certification goes on with other files than it was begun with."""
    monkeypatch.setattr("bench.certify.ROWS", 50, raising=False)
    other = tmp_path / "other" / "cifar-10-batches-py"
    shutil.copytree(made / "cifar-10-batches-py", other)
    changed = generated.cifar_batch(np.arange(200) % 10, 77)
    (other / "data_batch_1").write_bytes(changed)
    (other / "test_batch").write_bytes(generated.cifar_batch(generated.balanced(10_000, 10), 78))
    which, store, report = cell("cifar10"), Store(tmp_path / "runs"), Quiet()
    stopped(which, store, "training", 2, data_dir=made, allow_other_data=True)
    assert run_cell(which, store, options(tmp_path / "other"), report, StopSignals()).state == "failed"
    assert "was begun with another data_md5" in report.said[-1]
    stopped(which, store, "certifying", 1, data_dir=made, allow_other_data=True)
    assert run_cell(which, store, options(tmp_path / "other"), report, StopSignals()).state == "failed"
    assert "holds evidence of other test images" in report.said[-1]
    assert run_cell(which, store, options(made), report, StopSignals()).state == "done"


def test_a_selection_beyond_the_images_that_are_there(made: Path, tmp_path: Path) -> None:
    report = Quiet()
    which = cell("cifar10", **{"train.images": "20000-20099"})
    assert run_cell(which, Store(tmp_path), options(made), report, StopSignals()).state == "failed"
    assert "images=20000-20099 selects none of the 1000 training images that are there" in report.said[-1]


def test_evidence_of_other_files_has_no_known_labels(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was certified on generated images is not checked against the labels of the real ones."""
    monkeypatch.setattr("bench.certify.ROWS", 50, raising=False)
    which, store = cell("cifar10"), Store(tmp_path)
    assert run_cell(which, store, options(made), Quiet(), StopSignals()).state == "done"
    monkeypatch.setattr(type(DATASETS["cifar10"]), "known_labels", lambda info: (0,) * 10_000)
    (certification,) = store.run(which.spec).certifications()
    assert certification.labels() is None
    wanted = load("cifar10", "test", made, allow_other=True).labels[:2].tolist()
    assert [row.label for row in certification.rows()] == wanted


def test_a_worker_that_outlives_its_run_does_not_hold_the_claim(tmp_path: Path) -> None:
    """Processes that decode images are copies of the one that holds the run; after a kill -9 of that one they live on for seconds."""
    run = Store(tmp_path).run(cell("cifar10").spec)
    reader, writer = os.pipe()
    with run.claimed():
        child = os.fork()
        if not child:
            os.write(writer, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(reader, 1)
    try:
        with run.claimed():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
