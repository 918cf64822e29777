"""A method, a network, a data set and a metric, each one file outside the package, through the commands from run to table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TINY
from pages import blocks
from test_contract import GOOD
from typer.testing import Result

from bench import models
from bench.datasets import BUILT_IN, DATASETS
from bench.store.runs import Store
from leaderboard.metrics import METRICS

Call = Callable[..., Result]

NETWORK = '''"""A small network behind a shrinkage that depends on the noise level, as a denoiser does."""

import torch
from torch import nn

from mine_layers import Shrink


def build(info, sigma):
    torch.manual_seed(0)
    return nn.Sequential(Shrink(sigma), nn.Flatten(), nn.Linear(info.shape[1] * info.shape[2], info.classes))


NETWORK = build
'''
LAYERS = '''"""Beside the plug-in."""

from torch import nn


class Shrink(nn.Module):
    def __init__(self, sigma):
        super().__init__()
        self.keep = 0.25 / (0.25 + sigma**2)  # the best linear estimate of a pixel of variance 0.25

    def forward(self, x):
        return 0.5 + self.keep * (x - 0.5)
'''
DATASET = '''"""Half of MNIST's test images."""

import dataclasses

from bench.datasets import DATASETS, Arrays, Source

MNIST = DATASETS["mnist"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Half(Source):
    def find(self, roots):
        return MNIST.source.find(roots)

    def read(self, folder, split):
        whole = MNIST.source.read(folder, split)
        return whole if split == "train" else Arrays(whole.pixels[::2].copy(), whole.labels[::2].copy(), {"half": "1"})


DATASET = dataclasses.replace(MNIST, name="mine", summary="half", test_size=5000, source=Half(), like="mnist")
'''
METRIC = '''"""The largest certified radius."""

from leaderboard.metrics import metric


@metric("mine", decimals=3)
def largest(o):
    """mine: the largest radius that is certified and right."""
    return float(o.radius[o.correct].max(initial=0.0))
'''
FILES = {"method": GOOD, "network": NETWORK, "data set": DATASET, "metric": METRIC}
RUN = {"method": (), "network": ("--set", "train.arch=mine"), "data set": ("--dataset", "mine"), "metric": ()}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[Callable[[], None]]:
    """Forgets what plug-ins defined, as the next command of a shell does."""
    networks, metrics = set(models.ARCHITECTURES), set(METRICS)

    def forget() -> None:
        for name in set(DATASETS) - BUILT_IN:
            del DATASETS[name]
        for name in set(models.ARCHITECTURES) - networks:
            del models.ARCHITECTURES[name], models.OUTSIDE[name]
        for name in set(METRICS) - metrics:
            del METRICS[name]

    yield forget
    forget()


@pytest.mark.parametrize("kind", FILES)
def test_one_file_goes_through_all_commands(bench: Call, tmp_path: Path, forgotten: Callable[[], None], kind: str) -> None:
    path, runs = tmp_path / "mine.py", tmp_path / "runs"
    path.write_text(FILES[kind])
    (tmp_path / "mine_layers.py").write_text(LAYERS)
    dataset = "mine" if kind == "data set" else "mnist"

    def call(*words: object, code: int = 0, plugin: bool = True) -> str:
        forgotten()
        result = bench(*words, *(("--plugin", path) if plugin else ()))
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return " ".join(result.output.split())

    assert "promises hold" in call("check", path, plugin=False)
    listed = {"method": "methods", "network": "networks", "data set": "datasets", "metric": "metrics"}[kind]
    assert "mine" in {row["name"]: row for row in json.loads(bench("list", listed, "--plugin", path, "--json").stdout)}
    rows = ("mine" if kind == "method" else "stability", "gaussian")
    words = [*TINY, "--results", runs, "--sigma", "0.5", "--method", rows[0], *RUN[kind]]
    call("run", *words, "--method", rows[1])
    other, run = sorted(Store(runs).runs(), key=lambda run: run.spec.method == rows[0])
    assert {"method": run.spec.method, "network": run.spec.train.arch, "data set": run.spec.dataset}.get(kind, "mine") == "mine"
    record = run.environment() or {}
    assert record.get("plugins", {}).keys() == (set() if kind == "metric" else {"mine.py"})
    assert ("network_code_sha256" in record) == (kind == "network")
    assert str(tmp_path) not in json.dumps(record)

    again = call("verify", runs, "--recertify", "2")
    assert "2 rows" in again, again
    told = call("table", "--results", runs, "--metric", "ACR,mine" if kind == "metric" else "ACR", "--format", "csv")
    assert "mine" in told
    assert "B - A" in call("compare", *rows, "--dataset", dataset, "--results", runs)
    call("plot", "curves", "--results", runs, "--out", tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").exists()
    (certification,) = run.certifications()
    attack = ("--eps", "0.1", "--steps", "1", "--samples", "2", "--n", "20", "--certification", certification.spec.key)
    assert "robust" in call("attack", run.path, *attack)
    images = ("--images", "first:2", "--n", "100", "--n0", "10")
    call("certify", run.path, *images, "--results", runs)
    call("certify", other.weights, "--sigma", "0.25", "--dataset", dataset, "--arch", run.spec.train.arch, *images, "--results", runs)
    call("table", "--results", runs, "--from", "checkpoints")

    # Without the flag nothing is imported, and what is missing is said.
    call("table", "--results", runs, plugin=False)
    missing = call("verify", runs, "--recertify", "2", code=1 if kind in ("network", "data set") else 0, plugin=False)
    if kind in ("network", "data set"):
        assert f"its {kind} mine is not known; it came from mine.py" in missing
    if kind == "metric":
        assert "there is no metric 'mine'" in call("table", "--results", runs, "--metric", "mine", code=2, plugin=False)
    else:
        said = call("run", *words, code=2, plugin=False)
        assert "it came from mine.py (SHA-256 of its code: " in said
    assert "mine" not in {*DATASETS, *models.ARCHITECTURES, *METRICS}


def test_the_denoiser_and_the_metric_of_the_documentation(bench: Call, tmp_path: Path) -> None:
    """The network is another for another noise level, and so is its checkpoint."""
    path, runs = tmp_path / "denoised.py", tmp_path / "runs"
    (text,) = blocks("guide/extend.md", "NETWORK = ")
    (metric,) = blocks("guide/extend.md", "@metric")
    path.write_text(text)
    for sigma in ("0.25", "0.5"):
        words = ("--dataset", "mnist", "--sigma", sigma, "--images", "first:2", "--n", "100", "--n0", "10", "--results", runs)
        result = bench("certify", "denoised", "--plugin", path, *words)
        assert result.exit_code == 0, result.output
        assert "normalisation none" in result.output
    keys = {folder.name for folder in (runs / "checkpoints" / "mnist" / "denoised").iterdir()}
    assert len(keys) == 2
    (tmp_path / "largest.py").write_text(metric)
    table = bench("table", "--results", runs, "--metric", "largest", "--plugin", tmp_path / "largest.py")
    assert table.exit_code == 0, table.output
    assert "largest: the largest radius that is certified and right." in " ".join(table.output.split())
    bad = tmp_path / "other.py"
    bad.write_text(text.replace("import torch", "import absent_layers", 1))
    result = bench("certify", "other", "--plugin", bad, "--dataset", "mnist", "--sigma", "0.5", "--results", runs)
    assert result.exit_code == 2
    assert "cannot be imported: ModuleNotFoundError" in result.output
