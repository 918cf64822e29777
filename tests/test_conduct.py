"""`bench.run`: what the command does, from Python."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import Result

import bench
from bench.errors import UsageError
from bench.system.guards import SETTINGS

TINY: dict[str, Any] = {
    "protocol": "smoke",
    "device": "cpu",
    "quiet": True,
    "changes": {"train.images": "first:64", "train.batch": np.int64(32), "certify.images": "first:3", "certify.n": 200, "certify.n0": 20},
}


def evidence(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("evidence.jsonl"))}


def test_it_gives_the_evidence_of_the_command(tiny: Callable[..., Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny("--method", "gaussian", "--sigma", "0.25,0.5", "--seeds", "0,1").exit_code == 0
    frame = bench.run("gaussian", sigma=[0.25, 0.5], seeds=2, results=tmp_path / "mine", **TINY)
    assert evidence(tmp_path / "mine") == evidence(tmp_path / "runs")
    assert len(evidence(tmp_path / "mine")) == 4
    pd.testing.assert_frame_equal(frame, bench.load_results(tmp_path / "mine"))
    assert capsys.readouterr().out == ""


def test_what_is_there_is_not_computed_again_and_only_what_was_asked_for_is_returned(
    two_cells: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: Any) -> None:
        raise AssertionError("a finished cell was computed again")

    monkeypatch.setattr("bench.executors.here.run_cell", fail)
    for sigma in (0.25, [0.25, 0.5]):
        frame = bench.run(method=["gaussian"], sigma=sigma, results=two_cells, **TINY)
        assert sorted(set(frame["sigma"])) == (sigma if isinstance(sigma, list) else [sigma])


def test_a_cell_that_failed_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(PLUGIN)
    frame = bench.run(plugins=tmp_path / "bad.py", sigma=0.25, results=tmp_path / "runs", **TINY)
    assert len(frame) == 0
    ((entry),) = frame.attrs["left_out"]
    assert entry["state"] == "failed"
    assert "no luck" in entry["reason"]


PLUGIN = '''
"""Never works."""
from dataclasses import dataclass
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier

@dataclass(frozen=True, kw_only=True)
class Bad(Method):
    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        raise RuntimeError("no luck")
'''


@pytest.mark.parametrize(
    ("words", "problems"),
    [
        ({"method": "gausian"}, 1),
        ({"method": "gaussian", "sigma": -1.0, "batch": 0, "rerun": "some"}, 3),
        ({"method": "gaussian", "protocol": "quik", "recipe": "mine", "alpha": 0.5}, 3),
        ({"method": "gaussian", "device": "tpu"}, 1),
        ({"method": "gaussian", "jobs": 0}, 1),
        *(({"method": "gaussian", "seeds": seeds}, 1) for seeds in (0, -1, True, np.True_, 1.0, "1", [True], ["1"], [-1], None, 10**12)),
        ({"method": "gaussian", "sigma": "0.5", "seeds": 0, "alpha": "0.001", "batch": "4", "timeout": "1"}, 5),
        ({"method": [1], "dataset": [None], "protocol": None, "recipe": 5, "data_dir": 5}, 5),
        ({"method": None, "dataset": 1, "sigma": [True], "changes": "certify.n", "plugins": 3}, 5),
        ({"method": "gaussian", "changes": {"certify.n": "many"}}, 1),
        ({"plugins": "nowhere.py"}, 1),
    ],
)
def test_everything_that_is_wrong_is_told_before_anything_runs(words: dict[str, Any], problems: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        bench.run(results=tmp_path / "runs", **{**TINY, **words})
    assert len(caught.value.problems) >= problems
    assert not any(problem.startswith("--") for problem in caught.value.problems)
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def unusual() -> Iterator[dict[str, Any]]:
    """Settings that a user may have; they are put back."""
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_dtype(torch.float64)
    torch.backends.cudnn.benchmark = True
    yield {name: read() for name, (read, _) in SETTINGS.items()}
    for name, (_, write) in SETTINGS.items():
        write(before[name])


@pytest.mark.parametrize("fails", [False, True])
def test_torch_is_as_it_was(fails: bool, unusual: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    if fails:
        with pytest.raises(UsageError):
            bench.run("nothing", results=tmp_path / "runs", **TINY)
    else:
        assert len(bench.run("gaussian", sigma=0.5, results=tmp_path / "runs", **TINY)) == 3
    assert {name: read() for name, (read, _) in SETTINGS.items()} == unusual
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # type: ignore[index]  # noqa: NPY002


# A cell that takes minutes unless it is interrupted, and then one of seconds in the same process.
NOTEBOOK = """
import signal, sys, bench
words = dict(method="gaussian", sigma=0.5, protocol="smoke", device="cpu", quiet=True, results=sys.argv[1])
long = words | {"changes": {"train.epochs": 400, "certify.images": "first:3", "certify.n": 200}}
short = words | {"changes": {"train.images": "first:64", "certify.images": "first:3", "certify.n": 200}}
print("begin", flush=True)
try:
    bench.run(**long)
    print("never interrupted", flush=True)
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
print(len(bench.run(**short)), flush=True)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_is_raised_and_the_kernel_lives_on(times: int, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", NOTEBOOK, str(tmp_path / "runs")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "begin\n"
            wait_for(lambda: any((tmp_path / "runs").rglob("environment.json")), process)
            for _ in range(times):
                process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted True\n"
            assert process.stdout.readline() == "3\n"
            assert process.wait(120) == 0
        finally:
            process.kill()
    states = {entry["state"] for entry in bench.load_results(tmp_path / "runs").attrs["left_out"]}
    assert states == {"training"}


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
