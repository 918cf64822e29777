"""The CAT-RS and acr-weakness collections, from their logs to a table: the rows, their captions, and the published ACRs."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_store import add, run_spec
from typer.testing import Result

from bench.logs import load_manifest
from bench.registry import Registry
from bench.store.runs import Store

Call = Callable[..., Result]
Cell = tuple[str, str, float]  # data set, row, sigma

GOLDEN = os.environ.get("CERTBENCH_GOLDEN", "")
CATRS = {
    "cifar10": {0.25: 0.5616, 0.5: 0.7571, 1.0: 0.8148},
    "mnist": {0.25: 0.9331, 0.5: 1.6999, 1.0: 1.8306},
    "fashion-mnist": {0.25: 0.7566, 0.5: 1.2741, 1.0: 1.6068},
    "cifar100": {0.25: 0.3122, 0.5: 0.3684},
    "imagenet": {1.0: 1.0715},
}
FIGURES: dict[str, dict[Cell, float]] = {  # published ACRs, to four decimals
    "catrs-logs": {(dataset, "catrs", sigma): acr for dataset, acrs in CATRS.items() for sigma, acr in acrs.items()},
    "acr-weakness-logs": {("cifar10", "adaptive", sigma): acr for sigma, acr in {0.25: 0.5642, 0.5: 0.7603, 1.0: 0.8437}.items()},
}
MADE = {  # made-up logs where the collections have theirs -> images that abstain, radius of the others
    "catrs-logs/cifar10/noise_0.5/cat-rs/noise_0.5.tsv": (2_000, "0.625"),
    "catrs-logs/cifar10/noise_0.5/cohen/noise_0.5.tsv": (4_000, "0.5"),
    "acr-weakness-logs/cifar10/catrs/noise_0.5.tsv": (2_000, "0.75"),
    "acr-weakness-logs/cifar10/gaussian/noise_0.5.tsv": (5_000, "0.5"),
    "acr-weakness-logs/cifar10/ours/noise_0.5.tsv": (1_000, "1.0"),
}
ACRS = {  # what follows from them
    "catrs-logs": {"gaussian": 0.3, "catrs": 0.5},
    "acr-weakness-logs": {"gaussian": 0.25, "adaptive": 0.9, "catrs": 0.6},
}


def import_collection(bench: Call, folder: Path, root: Path) -> None:
    result = bench("import", folder, "--results", root, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["manifest"], report["refused"]) == (folder.name, [])


def table(bench: Call, root: Path, *options: str) -> list[dict[str, str]]:
    result = bench("table", "--results", root, "--metric", "ACR", "--marks", "none", "--format", "csv", *options)
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(result.stdout.splitlines()))


def wrong(bench: Call, root: Path, figures: dict[Cell, float]) -> dict[Cell, tuple[float | None, float]]:
    """The cells whose ACR in the table is not, to four decimals, the published one, with both."""
    lines = table(bench, root, "--from", "imported")
    found = {(line["dataset"], line["row"], float(line["sigma"])): float(line["mean"]) for line in lines if line["mean"]}
    both = {cell: (found.get(cell), acr) for cell, acr in figures.items()}
    return {cell: (acr, told) for cell, (acr, told) in both.items() if acr is None or abs(acr - told) > 0.5e-4 + 1e-9}


@pytest.fixture(scope="module")
def made_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up logs of both collections."""
    path = tmp_path_factory.mktemp("logs")
    for name, (abstain, radius) in MADE.items():
        rows = [f"{i}\t{i % 10}\t-1\t0.0\t0" if i < abstain else f"{i}\t{i % 10}\t{i % 10}\t{radius}\t1" for i in range(10_000)]
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n" + "".join(f"{row}\t0:00:01.286530\n" for row in rows))
    return path


@pytest.mark.parametrize("collection", FIGURES)
def test_every_row_is_of_a_method_of_the_suite(collection: str) -> None:
    registry = Registry()
    rows = {(line.spec.method, line.spec.variant, *line.spec.changes) for line in load_manifest(collection).lines if line.spec}
    assert {method for method, *_ in rows} <= registry.entries().keys()
    assert {rest for _, *rest in rows if rest != ["default"]} == set()
    assert ("catrs", "default") in rows
    assert (("adaptive", "default") in rows) == (collection == "acr-weakness-logs")


def test_their_rows_stand_in_one_kind_of_table_with_ours(bench: Call, made_logs: Path, tmp_path: Path) -> None:
    for collection in ACRS:
        import_collection(bench, made_logs / collection, tmp_path)
    for row in ("gaussian", "adaptive", "catrs"):
        add(Store(tmp_path), run_spec(row, dataset="cifar10"))
    found: dict[str, dict[str, float]] = {}
    lines = table(bench, tmp_path, "--dataset", "cifar10")
    for line in lines:
        found.setdefault(line["source"], {})[line["row"]] = float(line["mean"])
    assert {source: list(rows) for source, rows in found.items()} == {
        "own runs": ["gaussian", "adaptive", "catrs"],
        **{f"imported logs of {collection}": list(rows) for collection, rows in ACRS.items()},
    }
    for collection, acrs in ACRS.items():
        assert found[f"imported logs of {collection}"] == pytest.approx(acrs)
        of = [line for line in lines if line["source"].endswith(f" {collection}")]
        assert {(line["arch"], line["n0"], line["n"], line["images"], line["alpha"]) for line in of} == {
            ("resnet110", "100", "100000", "all", "0.001")
        }
    text = bench("table", "--from", "imported", "--dataset", "cifar10", "--results", tmp_path, "--marks", "none").stdout
    for collection in ACRS:
        assert f"cifar10, imported logs of {collection}, network resnet110, 1 run" in text
    assert "own runs" not in text
    mixed = bench("table", "--mix", "--dataset", "cifar10", "--results", tmp_path).stdout
    assert [sum(f" {row} (" in line for line in mixed.splitlines()) for row in ("gaussian", "adaptive", "catrs")] == [3, 2, 3]


@pytest.mark.parametrize("collection", FIGURES)
def test_the_published_acrs(collection: str, bench: Call, tmp_path: Path) -> None:
    if not GOLDEN or not (Path(GOLDEN) / collection).is_dir():
        pytest.skip(f"CERTBENCH_GOLDEN names no folder that holds {collection}")
    import_collection(bench, Path(GOLDEN) / collection, tmp_path)
    assert wrong(bench, tmp_path, FIGURES[collection]) == {}


@pytest.mark.parametrize("collection", FIGURES)
def test_a_wrong_acr_is_found(collection: str, bench: Call, made_logs: Path, tmp_path: Path) -> None:
    import_collection(bench, made_logs / collection, tmp_path)
    right: dict[Cell, float] = {("cifar10", row, 0.5): acr for row, acr in ACRS[collection].items()}
    assert wrong(bench, tmp_path, right) == {}
    for cell, acr in right.items():
        assert wrong(bench, tmp_path, right | {cell: round(acr + 1e-4, 4)}).keys() == {cell}
    assert wrong(bench, tmp_path, FIGURES[collection]).keys() == FIGURES[collection].keys()
