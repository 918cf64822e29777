"""Two processes (gloo, on one CPU) train and certify what one does: gradients, weights, counts; interruptions, failures and deaths."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import GOOD
from test_run import Quiet, attempt, cell, options, results_of, stopped
from torch import Tensor
from two_processes import CASES, CPU, PROCESSES, held, trainer
from typer.testing import Result

from bench.distributed import team
from bench.distributed.group import Group, joined, rendezvous
from bench.distributed.shares import pieces, share
from bench.errors import BenchError
from bench.executors.local import share_out
from bench.files.writing import read_json
from bench.matrix.plan import Cell
from bench.matrix.task import check_options
from bench.spec import to_json
from bench.store.runs import Store
from bench.system.signals import StopSignals
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix

pytest.importorskip("lightning_fabric")

Call = Callable[..., Result]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
CLOSE = [name for name in CASES if name not in ("float16", "batch-norm")]


# ------------------------------------------------------------------------------------------------------------------ shares


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 12) | st.none())
def test_shares_and_their_pieces_cover_a_batch_once(images: int, processes: int, micro_batch: int | None) -> None:
    seen: list[int] = []
    parts = [pieces(images, rank, processes, micro_batch) for rank in range(processes)]
    for rank in range(processes):
        own = share(images, rank, processes)
        for part in parts[rank]:
            rows = range(part.rows.start, part.rows.stop)
            assert rows
            assert set(rows) <= set(own)
            assert len(rows) <= (micro_batch or images)
            assert part.weight in (0, len(rows) / images)
            seen += rows if part.weight else []
    assert sorted(seen) == list(range(images))
    assert len({len(part) for part in parts}) == 1, "batch norm over all processes waits for each at every pass"
    sizes = [len(share(images, rank, processes)) for rank in range(processes)]
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_pieces_of_one_process_are_those_of_micro_batches(images: int, micro_batch: int) -> None:
    starts = range(0, images, micro_batch)
    expected = [slice(start, min(start + micro_batch, images)) for start in starts]
    assert [part.rows for part in pieces(images, 0, 1, micro_batch)] == expected


# ------------------------------------------------------------------------------------------------------------------- steps


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote that ran all cases."""
    folder = tmp_path_factory.mktemp("together")
    store = rendezvous(PROCESSES)
    script = str(Path(__file__).parent / "two_processes.py")
    running = [
        subprocess.Popen([sys.executable, script, str(rank), str(store.port), str(folder)], env=ENVIRONMENT) for rank in range(PROCESSES)
    ]
    try:
        assert [process.wait(300) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
    return folder


def read(folder: Path, name: str, rank: int = 0) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / f"{name}-{rank}.safetensors")


@pytest.fixture(scope="module")
def alone() -> Callable[[str], dict[str, Tensor]]:
    """What one process holds after a case."""

    def run(name: str) -> dict[str, Tensor]:
        t = trainer(CASES[name], CPU, None)
        t.run(lambda _: None)
        return held(t)

    return run


@pytest.mark.parametrize("name", CLOSE)
def test_two_processes_take_the_steps_of_one(together: Path, alone: Callable[[str], dict[str, Tensor]], name: str) -> None:
    one, two = alone(name), read(together, name)
    tolerance = 1e-12 if CASES[name].double else 1e-6
    assert one.keys() == two.keys()
    assert torch.equal(one.pop("generator"), two.pop("generator")), "noise is drawn for the whole batch"
    for what, value in one.items():
        assert float((value - two[what]).abs().max()) <= tolerance * max(1.0, float(value.abs().max())), what
    before = trainer(CASES[name], CPU, None).model.named_parameters()
    assert all(float((one[f"weight.{what}"] - value.detach()).abs().max()) > 1e-5 for what, value in before), "training moved the weights"
    assert all(float(value.abs().max()) > 1e-4 for what, value in one.items() if what.startswith("gradient"))
    assert bool((one["curve"] != 0)[:, 3:].any(0).all()), "every term takes part"


@pytest.mark.parametrize("name", CASES)
def test_both_processes_hold_the_same_bits(together: Path, name: str) -> None:
    first, second = read(together, name), read(together, name, 1)
    assert first.keys() == second.keys()
    for what, value in first.items():
        assert torch.equal(value, second[what]), what
        assert bool(value.isfinite().all()), what


def test_a_step_is_one_sum_and_an_attack_none(together: Path) -> None:
    counts = read_json(together / "counts.json")
    assert counts.keys() == CASES.keys()
    for name, count in counts.items():
        assert (count["outside"], count["inside"]) == (4, 0), f"{name}: three steps, and the comparison of the weights at the end"
        steps = -(-CASES[name].images // CASES[name].batch)
        assert steps == 3
        attacks = isinstance(CASES[name].method, (SmoothAdv, SmoothMix))
        assert (count["attacks"] > 0) == attacks, name


def test_batch_norm_sees_the_share_of_its_process(together: Path, alone: Callable[[str], dict[str, Tensor]]) -> None:
    one, two = alone("batch-norm"), read(together, "batch-norm")
    statistics = [name for name in one if name.endswith("running_var")]
    assert statistics
    assert any(float((one[name] - two[name]).abs().max()) > 1e-4 for name in statistics)
    assert all(int(two[name]) == 3 for name in two if name.endswith("num_batches_tracked"))
    # The mean of the first layer's input does not depend on how the images were shared out.
    name = next(name for name in one if name.endswith("running_mean"))
    assert float((one[name] - two[name]).abs().max()) < 0.1 * float(one[name].abs().max())


def test_steps_in_float16_follow_those_in_float32(together: Path) -> None:
    half, full = read(together, "float16"), read(together, "smoothmix")
    moved = torch.cat([value.flatten() for what, value in half.items() if what.startswith("weight")])
    other = torch.cat([value.flatten() for what, value in full.items() if what.startswith("weight")])
    before = torch.cat([value.flatten() for value in trainer(CASES["smoothmix"], CPU, None).model.state_dict().values()])
    assert 0 < float((moved - other).norm()) < 0.2 * float((other - before).norm())


# ------------------------------------------------------------------------------------------------------------ whole cells


def two(method: str = "smoothmix", plugin: Path | None = None, **changes: str) -> Cell:
    """A cell of 4 steps of 15 images (the last of 3) and 5 test images, for two devices."""
    sizes = {"train__images": "first:48", "train__batch": "15", "certify__images": "first:5", "train__devices": "2"}
    return cell(method, plugin, **sizes, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    report = Quiet()
    assert attempt(two(), store, report) == "done", report.said
    return store


def children() -> list[int]:
    """Processes that this one started and that are still there."""
    return [int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def test_two_processes_count_what_one_does(undisturbed: Store, tmp_path: Path) -> None:
    """The rows of two processes, against those that one process counts with the same weights."""
    ours = undisturbed.run(two().spec)
    (counted,) = ours.certifications()
    store = Store(tmp_path)
    run = store.run(two().spec)
    run.path.mkdir(parents=True)
    for name in ("weights.safetensors", "training.json", "spec.json", "curve.csv"):
        (run.path / name).write_bytes((ours.path / name).read_bytes())
    from bench.matrix.cells import certify
    from bench.matrix.resume import load_weights

    again = run.certification(two().certify)
    certify(again, load_weights(run, ours.training()["weights_sha256"], CPU), {}, options(), Quiet(), StopSignals())  # type: ignore[index]
    assert again.evidence.read_bytes() == counted.evidence.read_bytes()
    assert len(again.rows()) == 5


def test_what_is_recorded(undisturbed: Store) -> None:
    run = undisturbed.run(two().spec)
    assert read_json(run.path / "spec.json")["train"]["devices"] == 2
    assert (run.environment() or {})["fabric"]
    assert run.spec.key != cell("smoothmix", train__images="first:48", train__batch="15").spec.key
    assert children() == [], "helpers are gone"
    assert "MASTER_PORT" not in os.environ


def test_a_cell_that_is_stopped_and_loses_helpers_continues_to_the_same_bytes(
    undisturbed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(team, "DEATH_SECONDS", 20.0)
    which, store = two(), Store(tmp_path)

    def killed(phase: str, done: int) -> str:
        """Runs until the helper is killed in a phase, and says what became of it."""
        report = Quiet()

        def kill(now: str, count: int) -> None:
            if (now, count) == (phase, done):
                (helper,) = children()
                os.kill(helper, signal.SIGKILL)

        report.on_progress = kill
        assert attempt(which, store, report, checkpoint_seconds=0.0) == "failed"
        assert children() == []
        return report.said[-1]

    stopped(which, store, "training", 1)
    assert children() == []
    assert "the process of device 1 was killed by SIGKILL" in killed("training", 2)
    assert store.run(which.spec).state() == "failed"
    assert store.run(which.spec).checkpoint.exists()
    stopped(which, store, "certifying", 2)
    assert "the process of device 1 was killed by SIGKILL" in killed("certifying", 3)
    rows = next(store.run(which.spec).certifications()).rows()
    assert 3 <= len(rows) < 5
    assert attempt(which, store) == "done"
    assert results_of(store.root) == results_of(undisturbed.root)


FIRST = "        logits ="


def test_a_failure_of_one_process_is_told_with_its_line(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    text = GOOD.replace("strength: float = 1.0", "strength: float = 1.0\n    separable = True")
    plugin.write_text(text.replace(FIRST, f'        if len(batch.y) == 7:\n            raise ValueError("seven images")\n{FIRST}'))
    report = Quiet()
    assert attempt(two("mine", plugin), Store(tmp_path / "runs"), report) == "failed"
    assert "device 1: ValueError: seven images (mine.py, line" in report.said[-1]
    assert children() == []


def wait_for(what: Callable[[], Any], seconds: float = 90) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], int]]]:
    """Starts `bench run` on two devices; gives the process and its helper once they train together."""
    sizes = "train.images=first:6400,train.batch=32,certify.images=first:3,certify.n=200"
    words = ["run", "--method", "smoothmix", "--sigma", "0.25", "--protocol", "smoke", "--set", sizes, "--devices-per-cell", "2"]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> tuple[subprocess.Popen[bytes], int]:
        script = "from bench.matrix.task import Options as o; o.__init__.__kwdefaults__['checkpoint_seconds'] = 0.0\n"
        script += "from bench.cli import app; app()"
        line = [sys.executable, "-c", script, *words, "--quiet", "--results", str(tmp_path)]
        for old in tmp_path.rglob("checkpoint.bin"):
            old.rename(old.with_suffix(".older.bin"))
        process = subprocess.Popen(line, env=ENVIRONMENT, start_new_session=True)
        started.append(process)
        wait_for(lambda: process.poll() is not None or any(tmp_path.rglob("checkpoint.bin")))
        (helper,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        return process, helper

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def listening(process: int) -> set[str]:
    """Addresses, in hexadecimal, at which a process waits for connections."""
    sockets = {str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def test_no_process_outlives_the_other(running: Callable[[], tuple[subprocess.Popen[bytes], int]]) -> None:
    """Ctrl-C reaches both; the first finishes its step and leaves. Killed, it takes the helper along. Nothing listens to the network."""
    process, helper = running()
    assert listening(process.pid) == {"0100007F"}, "127.0.0.1"
    assert listening(helper) <= {"0100007F"}
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    wait_for(lambda: not alive(helper), 60)
    process, helper = running()
    process.kill()
    wait_for(lambda: not alive(helper), 60)


# ---------------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_shared_is_refused_before_anything_is_written(bench: Call, tmp_path: Path) -> None:
    plugin = tmp_path / "whole.py"
    plugin.write_text(GOOD)
    for words, message in (
        (("--plugin", plugin, "--devices-per-cell", "2"), "--devices-per-cell 2: whole does not declare its loss a mean over images"),
        (("--devices-per-cell", "0"), "devices=0 must lie between 1 and batch=16"),
        (("--devices-per-cell", "17"), "devices=17 must lie between 1 and batch=16, the images of a step that they share"),
        (
            ("--devices-per-cell", "2", "--set", "train.devices=3"),
            "--devices-per-cell says train.devices=2, but --set says train.devices=3",
        ),
        (("--sync-batchnorm",), "sync_batchnorm=true needs devices greater than 1"),
        (("--devices-per-cell", "2", "--sync-batchnorm"), "--sync-batchnorm needs CUDA devices"),
        (
            ("--devices-per-cell", "1", "--set", "train.devices=4"),
            "--devices-per-cell says train.devices=1, but --set says train.devices=4",
        ),
        (("--precision", "64"), "--precision 64 is unknown; there is 16, 32, bf16, tf32"),
        (("--precision", "bf61"), "--precision bf61 is unknown; did you mean 'bf16'?"),
    ):
        method = () if "--plugin" in words else ("--method", "gaussian")
        result = bench("run", "--protocol", "smoke", "--device", "cpu", "--results", tmp_path / "runs", *method, *words)
        assert result.exit_code == 2, result.output
        assert message in result.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}, reason="no loopback interface of a known name")
def test_libraries_are_told_the_loopback_interface_unless_the_user_said_another(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    store = rendezvous(1)
    with joined(Group(0, 1), CPU, store.port):
        assert {os.environ[name] for name in names} <= {"lo", "lo0"}
    assert not set(names) & set(os.environ)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    store = rendezvous(1)
    with joined(Group(0, 1), CPU, store.port):
        assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "eth7"


def test_without_fabric_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(BenchError, match=r"pip install 'certbench\[fabric\]'"):
        team.check_devices(two().spec.train, CPU)


def test_gpus_are_counted_where_a_cell_runs_and_not_where_it_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    cuda = torch.device("cuda")
    assert not check_options([two()], lambda cell: cuda, None, here=False)
    assert check_options([two()], lambda cell: cuda, None) == ["--devices-per-cell 2: this process sees 1 CUDA devices"]


def test_one_device_needs_no_fabric_and_has_the_key_it_had() -> None:
    line = "import sys; from bench.matrix.cells import run_cell; print('lightning_fabric' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "devices" not in to_json(cell().spec)["train"]


def test_a_cell_of_several_gpus_gets_them_all() -> None:
    slots = share_out(None, cells=9, cores=8, gpus=("0", "1", "2", "3", "4"), devices=2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0,1", "2,3"]
    assert len(share_out(None, cells=9, cores=8, devices=2)) == 4
    with pytest.raises(BenchError, match=r"--jobs 3 is more than 5 GPUs / 2 per cell x 1 slots"):
        share_out(3, cells=9, cores=8, gpus=("0", "1", "2", "3", "4"), devices=2)


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        *(
            (("--precision", word), ("--set", f"train.precision={name}"))
            for word, name in (("32", "float32"), ("16", "fp16"), ("bf16", "bf16"))
        ),
        (("--precision", "float32"), ()),
        (("--devices-per-cell", "1"), ()),
    ],
)
def test_flags_that_mean_the_same_key(bench: Call, tmp_path: Path, flags: tuple[str, ...], same: tuple[str, ...]) -> None:
    base = ("run", "--dry-run", "--json", "--method", "gaussian", "--sigma", "0.25", "--protocol", "smoke", "--results", tmp_path)
    keys = [json.loads(bench(*base, *words).stdout)["cells"][0]["key"] for words in (flags, same)]
    assert keys[0] == keys[1]
