"""Estimates of a run's cost, before it runs and without its data."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_recorder import CpuRecorder
from test_certify import silence
from test_run import attempt, cell
from torch import Tensor, nn
from typer.testing import Result

from bench.api.words import cost_columns, cost_total, memory
from bench.datasets import DATASETS
from bench.matrix import cost
from bench.matrix.cost import Estimate, estimate
from bench.method import Method
from bench.spec import PROTOCOLS
from bench.store.runs import Store
from bench.train.passes import Passes, pairs_per_image, passes_per_image
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.stability import Stability

Call = Callable[..., Result]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("method", "trained", "attacked", "at_once"),
    [
        (Gaussian(), 1, 0, 0),
        (Stability(), 2, 0, 0),
        (Consistency(), 2, 0, 0),
        (Macer(), 16, 0, 0),
        (SmoothAdv(copies=8), 8, 80, 8),
        (SmoothMix(copies=2, steps=4), 4, 8, 2),
        (SmoothMix(copies=1, steps=1, one_step=True), 2, 1, 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_passes_of_either_kind(method: Method, trained: int, attacked: int, at_once: int) -> None:
    assert passes_per_image(method, DATASETS["mnist"]) == Passes(trained=trained, kept=trained, attacked=attacked, at_once=at_once)


def test_bytes_that_autograd_keeps_are_counted_once_and_without_weights() -> None:
    weight = torch.rand(100, 100, requires_grad=True)

    def work(rows: int) -> None:
        hidden = (torch.rand(rows, 100) @ weight).exp()  # keeps its input and its result, 100 numbers each, and the weight
        (hidden * hidden).sum().backward()  # type: ignore[no-untyped-call]

    assert cost._bytes_per_row(work) == 2 * 100 * 4


def test_time_in_which_others_work_is_no_cost() -> None:
    assert cost._seconds(lambda: time.sleep(0.3), CPU) < 0.1


def test_the_paper_on_cifar10_is_estimated_without_its_data(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ("run", "--dry-run", "--protocol", "paper", "--dataset", "cifar10", "--device", "cpu", "--results", tmp_path / "runs")
    cost._network.cache_clear()
    text = bench(*words)
    assert text.exit_code == 0, text.output
    assert cost._network.cache_info().misses == 1, "each network is timed once for the whole matrix"
    assert "data set cifar10 is not here" in text.output
    assert "105 cells: rows 7, noise levels 3, seeds 5; protocol full" in text.output
    assert "device-hours, from timed passes on random images; memory up to" in text.output
    assert not (tmp_path / "runs").exists()

    found = json.loads(bench(*words, "--json").stdout)
    assert len(found["cells"]) == 105
    assert all(entry["device_seconds"] > 0 and entry["memory_bytes"] > 2**28 for entry in found["cells"])
    assert found["total"]["device_seconds"] == pytest.approx(sum(entry["device_seconds"] for entry in found["cells"]))
    assert found["total"]["memory_bytes"] == max(entry["memory_bytes"] for entry in found["cells"])
    seconds = {entry["row"]: entry["device_seconds"] for entry in found["cells"] if (entry["sigma"], entry["seed"]) == (0.5, 0)}
    pairs = {"gaussian": 1, "stability": 2, "consistency": 2, "macer": 16}  # all of one kind; certification costs all the same
    for row, count in pairs.items():
        expected = (count - 1) * (seconds["stability"] - seconds["gaussian"])
        assert seconds[row] - seconds["gaussian"] == pytest.approx(expected, rel=1e-6)
    assert seconds["smoothadv"] > seconds["smoothmix.eta5"] > seconds["consistency"]


def macer(batch: str, devices: str) -> Estimate:
    which = cell("macer", train__images="all", train__batch=batch, train__devices=devices)
    return estimate([which], Store(Path("nowhere")), CPU)[which.id]


def test_devices_share_the_time_and_the_memory() -> None:
    one, four = macer("256", "1"), macer("256", "4")
    assert four.device_seconds == one.device_seconds == one.seconds
    assert four.seconds == pytest.approx(one.seconds / 4)
    images = 60_000 * 28 * 28
    noise = 256 * 16 * 28 * 28 * 4
    weights = 431_080 * 4
    kept = [found.memory_bytes - images - noise - copies * weights for found, copies in ((one, 3), (four, 4))]
    assert kept[0] == pytest.approx(4 * kept[1], rel=1e-6)
    which = cell("macer", train__images="all", train__batch="256")
    pieces = estimate([which], Store(Path("nowhere")), CPU, micro_batch=32)[which.id]
    assert kept[0] == pytest.approx(8 * (pieces.memory_bytes - images - noise - 3 * weights), rel=1e-6)


def test_what_is_done_costs_nothing_more(tmp_path: Path) -> None:
    which, store = cell(), Store(tmp_path)
    before = estimate([which], store, CPU)[which.id]
    assert attempt(which, store) == "done"
    after = estimate([which], store, CPU)[which.id]
    assert before.device_seconds > 0
    assert after.device_seconds == 0
    assert estimate([which], store, CPU, anew={which.id})[which.id] == before


def test_a_plan_to_compute_all_again_tells_what_that_takes(tiny: Call) -> None:
    words = ("--method", "gaussian", "--sigma", "0.25")
    assert tiny(*words).exit_code == 0
    plan = json.loads(tiny(*words, "--dry-run", "--json", "--rerun", "all").stdout)
    assert plan["cells"][0]["state"] == "done"
    assert plan["total"]["device_seconds"] > 0


@pytest.fixture
def rows_passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """A clock that goes on by one with every row that enters a linear layer, in estimates too."""
    passed = 0

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        nonlocal passed
        if isinstance(module, nn.Linear):
            passed += len(given[0])

    def seconds(work: Callable[[], object], device: torch.device) -> float:
        before = passed
        work()
        return float(passed - before)

    monkeypatch.setattr(cost, "_seconds", seconds)
    monkeypatch.setattr(cost, "now", lambda device: float(passed))
    monkeypatch.setattr(cost, "ENOUGH_SECONDS", 64)
    timed = (cost._network, cost._certification)
    for cached in timed:
        cached.cache_clear()
    hook = nn.modules.module.register_module_forward_pre_hook(count)
    yield lambda: passed
    hook.remove()
    for cached in timed:
        cached.cache_clear()


@pytest.mark.parametrize("method", ["gaussian", "smoothmix"])
def test_an_estimate_is_what_a_cell_takes(
    tmp_path: Path, rows_passed: Callable[[], int], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """By a clock that nothing else on the machine moves. What is decided again in float64 is not foreseen, nor what is audited."""
    silence(monkeypatch)
    which = cell(method, train__images="first:128", certify__n="2000")
    expected = estimate([which], Store(tmp_path), CPU)[which.id].seconds
    begun = rows_passed()
    assert attempt(which, Store(tmp_path)) == "done"
    assert rows_passed() - begun == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("method", [Gaussian(), SmoothMix(copies=2, steps=2)], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("recorded", [False, True])
def test_steps_are_timed_as_a_training_takes_them(rows_passed: Callable[[], int], method: Method, recorded: bool) -> None:
    """By a clock that goes on with rows that Python sends through the network: a recording does, a replay does not."""
    info = DATASETS["mnist"]
    train = dataclasses.replace(info.train, batch=8)
    recorder = CpuRecorder(lambda: iter(())) if recorded else None
    found = cost.time_steps(method, train, info, CPU, recorder)
    rows = 2 * 8 * pairs_per_image(method, info)  # LeNet has two linear layers
    assert found == cost.Steps(eager=rows, usual=0 if recorded else rows, recording=rows if recorded else 0)
    per_epoch = math.ceil(60_000 / 8)
    once_an_epoch = 3 * rows if recorded else 0
    assert found.of(60_000, train) == train.epochs * (per_epoch * found.usual + once_an_epoch)
    assert found.of(8, train) == train.epochs * rows  # of an epoch's one step nothing is recorded


def test_words_of_an_estimate() -> None:
    found = Estimate(seconds=1800.0, certifying_seconds=600.0, device_seconds=3600.0, memory_bytes=3 * 2**30)
    assert cost_columns(found) == ("1", "3.0 GiB")
    assert cost_columns(None) == ("", "")
    assert memory(250 * 2**20) == "250 MiB"
    assert "in all 1 device-hours (2 cells could not be estimated)" in cost_total([found], 3)[0]
    assert cost_total([], 3) == []


def test_the_alias_of_a_protocol_is_no_protocol(bench: Call, tmp_path: Path) -> None:
    assert "paper" not in PROTOCOLS
    keys: list[Any] = []
    for protocol in ("paper", "full"):
        words = ("run", "--dry-run", "--json", "--method", "gaussian", "--protocol", protocol, "--results", tmp_path)
        keys.append([entry["key"] for entry in json.loads(bench(*words).stdout)["cells"]])
    assert keys[0] == keys[1]
