"""Cells as Slurm jobs: on submitit's local cluster, and on a real Slurm of this machine where its daemons are installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_store import CERTIFY, run_spec
from forks import ROOT, SIZES, descendants, until
from test_run import results_of
from typer.testing import Result

from bench.errors import BenchError, UsageError
from bench.executors import slurm
from bench.executors.resources import Resources
from bench.executors.slurm import Slurm
from bench.matrix.status import standings
from bench.matrix.task import Options, Task
from bench.store.runs import Store

if not find_spec("submitit"):
    pytest.skip("submitit is not installed: pip install 'certbench[slurm]'", allow_module_level=True)

Call = Callable[..., Result]
CHANGES = SIZES | {"train.arch": "lenet", "certify.images": "first:60", "certify.n": "4000"}  # long enough to be looked at
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
WORDS: list[str] = [
    *["run", "--protocol", "smoke", "--device", "cpu", "--method", "gaussian", "--sigma", "0.25,0.5"],
    *(part for name, value in CHANGES.items() for part in ("--set", f"{name}={value}")),
]


def command(environment: dict[str, str], *words: str | Path, before: str = "") -> tuple[int, str]:
    """Exit code and output of a command line in a process of its own."""
    line = [sys.executable, "-c", f"{before}\nfrom bench.cli import app; app()", *map(str, words)]
    with tempfile.TemporaryFile() as out:  # a pipe would be kept open by the jobs
        code = subprocess.run(line, env=environment, stdout=out, stderr=out, check=False).returncode
        out.seek(0)
        return code, out.read().decode()


OPTIONS = Options(device=torch.device("cpu"))


def task(seed: int = 0, **fields: Any) -> Task:
    return Task(spec=run_spec(seed=seed), certify=CERTIFY, results=Path("/x"), plugins=(), sources={}, options=OPTIONS, **fields)


def submitter(needs: Callable[[Task], Resources] = lambda task: Resources(), **fields: Any) -> Slurm:
    return Slurm(needs=needs, folder=Path("/x"), **fields)


# ------------------------------------------------------------------------------------------------------------- how cells are grouped


def test_cells_that_need_the_same_are_one_array_and_the_long_ones_stand_in_different_jobs() -> None:
    tasks = [task(seed) for seed in range(7)]
    big, small = Resources(gpus=1), Resources()
    arrays = submitter(lambda t: big if t.spec.seed == 6 else small, cells_per_job=2)._arrays(tasks)
    assert arrays == [(small, [[0, 3], [1, 4], [2, 5]]), (big, [[6]])]


def test_an_array_is_no_larger_than_slurm_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "ARRAY_JOBS", 3)
    arrays = submitter()._arrays([task(seed) for seed in range(7)])
    assert [len(groups) for _, groups in arrays] == [3, 3, 1]
    assert submitter()._shares(arrays) == [3, 3, 1]
    assert submitter(cap=5)._shares(arrays) == [2, 2, 1]
    assert submitter(cap=100)._shares(arrays) == [3, 3, 1]
    with pytest.raises(UsageError, match="--jobs 2 is less than the 3 arrays"):
        submitter(cap=2)._shares(arrays)


def test_a_share_of_a_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gpus=0\.5: Slurm gives whole GPUs"):
        submitter(lambda t: Resources(gpus=0.5)).check([task()])


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("cpu=2", "has no field 'cpu'; did you mean 'cpus'?"),
        ("cpus=0", "cpus=0 must be at least 1"),
        ("cpus=two", "cpus=two is wrong"),
        ("gpus=1.5", "gpus=1.5 must be a share between 0 and 1, or a whole number"),
        ("gpus=-1", "gpus=-1 must be a share"),
        ("gpus=nan", "gpus=nan"),
        ("memory=-1", "memory=-1 must be a number of GB from 0 up"),
        ("minutes=0", "minutes=0 must be at least 1"),
        ("cpus", "is not of the form cpus=4,gpus=0.5"),
        ("gaussian:", "is not of the form"),
        ("partition=a\nb", "without control characters"),
    ],
)
def test_resources_that_make_no_sense_are_refused(bench: Call, tmp_path: Path, word: str, problem: str) -> None:
    result = bench(*WORDS, "--results", tmp_path / "runs", "--executor", "slurm", "--resources", word)
    assert result.exit_code == 2
    assert problem in result.output
    assert not (tmp_path / "runs").exists()


def test_without_slurm_the_user_is_told(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = bench(*WORDS, "--results", tmp_path / "runs", "--executor", "slurm")
    assert result.exit_code == 2
    assert "there is no sbatch here" in result.output
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(BenchError, match=r"pip install 'certbench\[slurm\]'"):
        slurm.check_installed()


# --------------------------------------------------------------------------------------------- commands that stand in for those of Slurm

SBATCH = """
echo "$@" >> {folder}/asked
if test $(wc -l < {folder}/asked) -gt {allowed}; then
    echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1
fi
wc -l < {folder}/asked >> {folder}/queue
echo "Submitted batch job $(wc -l < {folder}/asked)"
"""


class StandIn:
    """Commands in a folder that is first on the path: an sbatch that takes so many jobs, a squeue that lists them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "queue").touch()
        self.command("srun", "exit 1")
        self.command("squeue", f"cat {folder}/queue")
        self.allow(1000)

    def command(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def allow(self, jobs: int) -> None:
        self.command("sbatch", SBATCH.format(folder=self.folder, allowed=jobs))

    def asked(self) -> int:
        """Times that sbatch was called."""
        return len((self.folder / "asked").read_text().splitlines()) if (self.folder / "asked").exists() else 0


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{found.folder}{os.pathsep}{os.environ['PATH']}")
    return found


def test_what_slurm_took_before_it_refused_is_known_and_not_submitted_again(
    bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_in: StandIn
) -> None:
    monkeypatch.setattr(slurm, "ARRAY_JOBS", 1)
    words: list[str | Path] = [*WORDS, "--results", tmp_path / "runs", "--executor", "slurm"]
    stand_in.allow(1)
    refused = bench(*words)
    assert refused.exit_code == 2, refused.output
    assert "submitted 1 of 2 cells" in refused.output
    assert "so 1 will not run: sbatch: error: QOSMaxSubmitJobPerUserLimit" in refused.output
    rows = standings(Store(tmp_path / "runs"))
    assert [(row["state"], row["job"]) for row in rows] == [("queued", "1")]

    stand_in.allow(1000)
    again = bench(*words)
    assert again.exit_code == 0, again.output
    assert "in jobs that were submitted before: 1 cell" in again.output
    assert "submitted 1 cell as 1 job;" in again.output
    assert stand_in.asked() == 3
    rows = standings(Store(tmp_path / "runs"))
    assert sorted(row["job"] for row in rows) == ["1", "3"]


@pytest.mark.parametrize(
    "words",
    [
        ["--resources", "gpus=2", "--precision", "tf32"],
        ["--resources", "gpus=2", "--devices-per-cell", "2", "--sync-batchnorm"],
        ["--device", "cuda", "--devices-per-cell", "3"],
        ["--resources", "cpus=3", "--devices-per-cell", "3"],
    ],
)
def test_a_login_node_plans_for_devices_that_it_has_not(bench: Call, tmp_path: Path, stand_in: StandIn, words: list[str]) -> None:
    common = [word for word in WORDS if word not in ("--device", "cpu")]
    result = bench(*common, *words, "--results", tmp_path / "runs", "--executor", "slurm", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "2 to do" in result.output


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--precision", "tf32"], "train.precision=tf32 needs a CUDA device, not cpu"),
        (["--devices-per-cell", "2", "--sync-batchnorm"], "--sync-batchnorm needs CUDA devices"),
        (
            ["--resources", "gpus=2", "--devices-per-cell", "3"],
            "--resources gpus=2 is less than the 3 GPUs, train.devices, of a cell of gaussian",
        ),
        (["--device", "cuda", "--resources", "g*:gpus=1", "--devices-per-cell", "2"], "--resources gpus=1 is less than the 2 GPUs"),
        (["--resources", "gausian:cpus=4"], "--resources gausian:cpus=4 fits none of these cells; did you mean 'gaussian'?"),
        (["--resources", "gpus=0.5"], "gpus=0.5: Slurm gives whole GPUs"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(bench: Call, tmp_path: Path, stand_in: StandIn, words: list[str], problem: str) -> None:
    common = [word for word in WORDS if word not in ("--device", "cpu")]
    for last in ([], ["--dry-run"]):
        result = bench(*common, *words, "--results", tmp_path / "runs", "--executor", "slurm", *last)
        assert result.exit_code == 2, result.output
        assert problem in result.output
    assert stand_in.asked() == 0
    assert not (tmp_path / "runs").exists()


def test_the_line_that_retries_a_cell_asks_for_what_it_needs_and_no_more(bench: Call, tmp_path: Path, stand_in: StandIn) -> None:
    words = ["--method", "gaussian,stability", "--resources", "stability:cpus=2", "--resources", "minutes=9"]
    result = bench(*WORDS, *words, "--results", tmp_path / "runs", "--executor", "slurm")
    assert result.exit_code == 0, result.output
    (told,) = (tmp_path / "runs" / ".matrix").glob("*.json")
    cells = json.loads(told.read_text())["cells"]
    assert {(cell["names"]["row"], "stability:cpus=2" in cell["words"], "minutes=9" in cell["words"]) for cell in cells} == {
        ("gaussian", False, True),
        ("stability", True, True),
    }


# ------------------------------------------------------------------------------------------------------- jobs on submitit's local cluster


def test_jobs_on_this_machine_are_warned_and_requeued_and_give_the_same_bytes(
    bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One job of two cells, which is told in the middle of the first one that its time is up."""
    results = tmp_path / "jobs"
    words: list[str | Path] = [*WORDS, "--results", results, "--executor", "slurm", "--cells-per-job", "2"]
    code, told = command(ENVIRONMENT, *words, before="from bench.executors import slurm; slurm.CLUSTER = 'local'")
    assert code == 0, told
    assert "submitted 2 cells as 1 job;" in told
    assert not list(results.rglob("evidence.jsonl")), "it did not wait for the jobs"
    (folder,) = (results / ".matrix").glob("jobs-*")
    assert folder.stat().st_mode & 0o077 == 0, "nobody else may put a pickle there"

    until(lambda: any(path.stat().st_size for path in results.rglob("evidence.jsonl")), "a row")
    controller = next(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    (job,) = (pid for pid in descendants(controller)[1:] if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(job, signal.SIGUSR2)
    until(lambda: not Path(f"/proc/{job}").exists() or b"Z (" in Path(f"/proc/{job}/stat").read_bytes(), "the end of the job's first time")
    until(lambda: (folder / f"{controller}" / f"{controller}_0_result.pkl").exists(), "the end of the job")
    log = (folder / f"{controller}" / f"{controller}_0_log.out").read_text()
    assert "Requeued job" in log, log
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert bench(*WORDS, "--results", tmp_path / "alone").exit_code == 0
    assert results_of(results) == results_of(tmp_path / "alone")
    assert len(results_of(results)) == 16
    for path in results.rglob("times.csv"):
        images = [line.partition(",")[0] for line in path.read_text().splitlines()]
        assert images == list(map(str, range(60))), "the row in the works was finished, and none computed again"
    assert not list(results.rglob("claim-*"))


# --------------------------------------------------------------------------------------------------------------------- a real Slurm

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which commands talk to a Slurm of this machine, see tests/slurm_cluster.sh."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    if missing := [name for name in DAEMONS if not shutil.which(name, path=path)]:
        pytest.skip(f"no real Slurm: {', '.join(missing)} not installed (Debian: slurm-wlm, munge)")
    if os.geteuid():
        pytest.skip("no real Slurm: its daemons want to be started by root")
    folder = tmp_path_factory.mktemp("slurm")
    environment = ENVIRONMENT | {"PATH": path}
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [str(server.getsockname()[1]) for server in (one, two)]
    cluster = subprocess.Popen(
        [str(ROOT / "tests" / "slurm_cluster.sh"), str(folder), *ports],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert cluster.stdin
    assert cluster.stdout
    told = cluster.stdout.readline().strip()
    if told == "ready":
        yield environment | {"SLURM_CONF": str(folder / "slurm.conf")}
    cluster.stdin.close()
    cluster.wait()
    cluster.stdout.close()
    if told != "ready":
        pytest.skip(f"no real Slurm: {told}")


def queue(environment: dict[str, str]) -> dict[str, str]:
    """State by job."""
    done = subprocess.run(["squeue", "-h", "-r", "-o", "%i %t"], env=environment, capture_output=True, text=True, check=True)
    return {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}


def test_a_real_slurm_runs_warns_and_requeues(real: dict[str, str], bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "jobs"
    words: list[str | Path] = [
        *WORDS,
        "--results",
        results,
        "--executor",
        "slurm",
        "--jobs",
        "1",
        "--resources",
        "minutes=5",
        "--resources",
        "g*:cpus=1",
    ]
    code, told = command(real, *words)
    assert code == 0, told
    assert "submitted 2 cells as 2 jobs" in told
    jobs = sorted(queue(real))
    assert len(jobs) == 2
    assert jobs[0].endswith("_0"), "an array"

    assert "in jobs that were submitted before: 2 cells" in command(real, *words)[1]
    assert sorted(queue(real)) == jobs, "nothing was submitted twice"

    until(lambda: any(path.stat().st_size for path in results.rglob("evidence.jsonl")), "a row")
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, real[name])
    assert sorted(row["state"] for row in standings(Store(results))) == ["queued", "running"]
    assert queue(real) == {jobs[0]: "R", jobs[1]: "PD"}, "one at a time"
    subprocess.run(["scancel", "--signal=USR2", jobs[0]], env=real, check=True)  # as Slurm does when the time is almost up
    until(lambda: queue(real).get(jobs[0]) == "PD", "the job's return to the queue")
    until(lambda: not queue(real), "the end of the jobs")
    log = next((results / ".matrix").glob(f"jobs-*/{jobs[0]}/*_log.out")).read_text()
    assert "Requeued job" in log
    assert "2 done" in command(real, "status", "--results", results)[1]

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert bench(*WORDS, "--results", tmp_path / "alone").exit_code == 0
    assert results_of(results) == results_of(tmp_path / "alone")
    code, told = command(real, *words)
    assert code == 0
    assert "2 done, 0 diverged, 0 to do" in told


def test_a_cancelled_job_leaves_a_cell_that_is_interrupted(real: dict[str, str], tmp_path: Path) -> None:
    results = tmp_path / "jobs"
    words: list[str | Path] = [*WORDS, "--results", results, "--executor", "slurm"]
    assert command(real, *words)[0] == 0
    jobs = sorted(queue(real))
    subprocess.run(["scancel", jobs[0].partition("_")[0]], env=real, check=True)
    until(lambda: not queue(real), "the end of the job")
    told = command(real, "status", "--results", results)[1]
    assert "2 interrupted" in told, told
    assert f"not begun; its job {jobs[1]} ended" in told
    assert "--executor slurm" in told, "the line that retries it"
