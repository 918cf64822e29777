"""Cells on a real Ray cluster of two machines, both on the loopback device of this one: same bytes, and a machine that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from forks import ROOT, SIZES, until
from test_contract import GOOD
from test_run import results_of
from typer.testing import Result

from bench.errors import BenchError
from bench.executors import ray as executor

if not find_spec("ray"):
    pytest.skip("Ray is not installed: pip install 'certbench[ray]'", allow_module_level=True)

Call = Callable[..., Result]
TOKEN = "a-token-of-these-tests-and-no-other-cluster"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": TOKEN, "COLUMNS": "400"}
LINE = [sys.executable, "-c", "from bench.cli import app; app()", "run", "--protocol", "smoke", "--device", "cpu"]


class Cluster:
    """See tests/ray_cluster.py."""

    def __init__(self) -> None:
        line = [sys.executable, str(ROOT / "tests" / "ray_cluster.py")]
        self.process = subprocess.Popen(
            line, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.address = self.answer()

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def kill_one(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.answer() == "killed"

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def test_a_machine_without_gpus_plans_for_a_cluster_that_has_them(bench: Call, tmp_path: Path) -> None:
    words = ["run", "--protocol", "smoke", "--method", "gaussian", "--executor", "ray", "--device", "cuda", "--devices-per-cell", "3"]
    result = bench(*words, "--results", tmp_path / "runs", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "to do" in result.output


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (None, "--executor ray: no Ray could be started on this machine: no raylet"),
        ("h:1", "--address h:1: no Ray cluster answers: no raylet"),
    ],
)
def test_a_ray_that_does_not_start_is_told_in_the_words_of_the_line(
    monkeypatch: pytest.MonkeyPatch, address: str | None, told: str
) -> None:
    import ray

    def init(**settings: object) -> None:
        raise RuntimeError("no\nraylet")

    monkeypatch.setattr(executor, "_knock", lambda address: None)
    monkeypatch.setattr(executor, "prepare", lambda address: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BenchError) as caught:
        executor.connect(address, None)
    assert str(caught.value) == told


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    yield found
    found.close()


def start(results: Path, *words: str | Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    changes = SIZES | {"train.arch": "lenet", "certify.images": "first:40", "certify.n": "1000"}
    sets = [part for name, value in changes.items() for part in ("--set", f"{name}={value}")]
    return subprocess.Popen(
        [*LINE, *sets, "--results", str(results), *map(str, words)],
        env=environment or ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def rows(results: Path) -> dict[str, int]:
    """Finished images by run."""
    return {path.parent.parent.name: path.read_bytes().count(b"\n") for path in results.rglob("evidence.jsonl")}


def test_a_machine_that_dies_in_the_middle_changes_no_byte(cluster: Cluster, tmp_path: Path) -> None:
    """Four cells on two machines, one of which is killed with all of its processes while both are at work; one cell is a plug-in's."""
    plugin = tmp_path / "mine.py"
    plugin.write_text(GOOD)
    words = ("--method", "gaussian,mine", "--sigma", "0.25,0.5", "--plugin", plugin)
    process = start(tmp_path / "ray", *words, "--executor", "ray", "--address", cluster.address)
    until(lambda: sum(5 <= n < 30 for n in rows(tmp_path / "ray").values()) == 2, "two cells at work, and not near their end")
    cluster.kill_one()
    code, output = ended(process)
    assert code == 0, output
    assert "Ray: 2 machines, 2 CPUs, 0 GPUs" in output
    assert "4 done of 4 cells" in output
    assert "taken over from process" in output, "the cell of the machine that died went on where it was"
    code, told = ended(start(tmp_path / "alone", *words))
    assert code == 0, told
    assert results_of(tmp_path / "ray") == results_of(tmp_path / "alone")
    for path in (tmp_path / "ray").rglob("times.csv"):
        images = [line.partition(",")[0] for line in path.read_text().splitlines()]
        assert len(set(images)) == 40
        assert len(images) <= 41, "at most the row in flight was computed again"
    assert not list((tmp_path / "ray").rglob("claim-*"))


def test_another_token_is_turned_away(cluster: Cluster) -> None:
    code = f"from bench.executors.ray import connect; connect({cluster.address!r}, None)"
    quickly = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
    environment = ENVIRONMENT | quickly | {"RAY_AUTH_TOKEN": "another"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"BenchError: --address {cluster.address}: no Ray cluster answers" in done.stderr


def test_an_address_where_nobody_listens_is_told_at_once(bench: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    words = ("--method", "gaussian", "--sigma", "0.25", "--protocol", "smoke", "--results", tmp_path / "runs", "--executor", "ray")
    for address in ("127.0.0.1:1", "nowhere", "127.0.0.1:99999", ""):
        result = bench("run", *words, "--address", address)
        assert result.exit_code == 2, result.output
        assert f"--address {address}: no Ray cluster answers" in result.output


def test_a_cluster_of_ones_own_is_heard_on_the_loopback_device_only(tmp_path: Path) -> None:
    code = """
from bench.executors.ray import connect
import json, os, forks
from pathlib import Path
ray = connect(None, 2)
places = []
inodes = {os.readlink(f) for pid in forks.descendants(os.getpid()) for f in Path(f"/proc/{pid}/fd").glob("*") if f.is_symlink()}
for name in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            places.append(fields[1].partition(":")[0])
print(json.dumps({"places": places, "mode": os.environ["RAY_AUTH_MODE"], "token": len(os.environ["RAY_AUTH_TOKEN"])}))
"""
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] += os.pathsep + str(ROOT / "tests")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["places"]) >= 4
    assert set(found["places"]) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert (found["mode"], found["token"]) == ("token", 64)


def test_a_cluster_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(BenchError, match=r"--address 10\.0\.0\.1:6379: there is no token for it in RAY_AUTH_TOKEN or"):
        executor.check_installed("10.0.0.1:6379")
    executor.check_installed(None)


def test_an_old_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "version", lambda name: "2.53.1")
    with pytest.raises(BenchError, match=r"needs Ray 2\.54 or later, for its token authentication, not 2\.53\.1"):
        executor.check_installed(None)
