"""Faults, injected: after each and one plain rerun the results are those of an undisturbed run, and no finished row is computed again.

The list, with what is expected of each, is docs/notes/reliability.md; its numbers F1 to F17 stand in the names here.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401 - for what misbehaves
from fake_store import CERTIFY, add, run_spec, weights_of
from forks import ROOT, SIZES, Command, Forks, rows, temporary_folder, until
from test_contract import GOOD
from test_run import Quiet, attempt, cell, options, plugin, results_of, stopped, undisturbed
from typer.testing import Result

from bench.errors import BenchError
from bench.executors import Watch
from bench.executors.engine import Engine
from bench.executors.here import Numbered, carry_out
from bench.matrix import cells as conductor
from bench.matrix.cells import run_cell
from bench.matrix.task import Outcome, Task
from bench.store import work
from bench.store.runs import Store
from bench.system.environment import precisions, set_precisions
from bench.system.guards import DRAWS, SETTINGS, settings_kept
from bench.system.signals import StopSignals

FAST = {"bench.files.claims": {"HEARTBEAT_SECONDS": 0.05, "STALE_SECONDS": 0.6}}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with temporary_folder() as name:
        yield Path(name)


@pytest.fixture(scope="module")
def forks(folder: Path) -> Iterator[Forks]:
    server = Forks(folder)
    yield server
    server.close()


@pytest.fixture(scope="module")
def expected(forks: Forks, folder: Path) -> dict[str, bytes]:
    """Results of an undisturbed run of the tiny cell."""
    assert forks.run(folder / "undisturbed").wait() == 0
    found = results_of(folder / "undisturbed")
    assert len(found) == 8
    return found


@pytest.fixture
def results(folder: Path, request: pytest.FixtureRequest) -> Path:
    return folder / str(request.node.name).replace("/", "-")


def times(results: Path) -> list[int]:
    """Images in the order in which they were computed."""
    return [int(line.partition(",")[0]) for path in results.rglob("times.csv") for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------------------------------- F1 to F5: every I/O step


def test_f1_to_f3_a_crash_at_every_io_step(forks: Forks) -> None:
    """Before, half-way and after each of them."""
    found = forks.ask(fault="crash")
    assert found["faults"] == []
    assert found["steps"] > 90
    assert found["points"] >= 150


def test_f4_f5_a_sample_of_every_io_step(forks: Forks) -> None:
    """Power lost with what was not synced; a full disk; kills at random times."""
    found = [forks.ask(fault="power", stride=18, offset=5), forks.ask(fault="full", stride=4, offset=1), forks.ask(fault="kill", count=3)]
    assert [f["faults"] for f in found] == [[]] * 3
    assert sum(f["points"] for f in found) >= 20


@pytest.mark.slow
def test_f1_to_f5_every_io_step(forks: Forks) -> None:
    for order, least in (({"fault": "power", "seeds": 4}, 400), ({"fault": "full"}, 90), ({"fault": "kill", "count": 50}, 50)):
        found = forks.ask(**order)
        print(found)
        assert found["faults"] == []
        assert found["points"] >= least


def mount(folder: Path, *words: str) -> bool:
    return subprocess.run(["mount", *words, str(folder)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB: less than the weights and two checkpoints of a LeNet."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not (shutil.which("mount") and mount(folder, "-t", "tmpfs", "-o", "size=3m", "tmpfs")):
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_f5_a_disk_that_is_full_and_then_has_room(tmp_path: Path, small_disk: Path) -> None:
    which, report = cell(), Quiet()
    store = Store(small_disk / "runs")
    outcome = run_cell(which, store, options(checkpoint_seconds=0.0), report, StopSignals())
    assert (outcome.state, outcome.kind) == ("failed", "disk")
    assert os.strerror(errno.ENOSPC) in report.said[-1]
    assert report.said[-1].startswith(which.name)
    assert mount(small_disk, "-o", "remount,size=64m")
    assert attempt(which, store, report, checkpoint_seconds=0.0) == "done"
    assert results_of(store.root) == undisturbed(tmp_path, which)


# ------------------------------------------------------------------------------------------ F6, F7: what was written is damaged


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped head", "flipped weights", "both"])
def test_f6_a_damaged_checkpoint_is_seen(tmp_path: Path, damage: str) -> None:
    which, store = cell(), Store(tmp_path / "damaged")
    stopped(which, store, "training", 3, checkpoint_seconds=0.0)
    run = store.run(which.spec)
    for path in (run.checkpoint, run.checkpoint.with_suffix(".older.bin"))[: 2 if damage == "both" else 1]:
        content = bytearray(path.read_bytes())
        content[5 if damage == "flipped head" else len(content) // 2] ^= 1
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 3] if damage == "cut" else content)
    report = Quiet()
    assert attempt(which, store, report) == "done"
    assert sum("is damaged and was left out" in text for text in report.said) == (2 if damage == "both" else 1)
    assert [done for phase, done in report.seen if phase == "training"] == ([1, 2, 3, 4] if damage == "both" else [3, 4])
    assert results_of(store.root) == undisturbed(tmp_path, which)


def test_f6_the_checkpoint_that_was_continued_from_outlives_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The damaged newest one must not take its place before there is another."""
    which, store = cell(), Store(tmp_path / "damaged")
    stopped(which, store, "training", 3, checkpoint_seconds=0.0)
    run = store.run(which.spec)
    run.checkpoint.write_bytes(b"")
    write = work.write_atomically  # type: ignore[attr-defined]

    def full(path: Path, content: bytes) -> None:
        if path == run.checkpoint:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(work, "write_atomically", full)
        assert run_cell(which, store, options(checkpoint_seconds=0.0), Quiet(), StopSignals()).kind == "disk"
    report = Quiet()
    assert attempt(which, store, report) == "done"
    assert [done for phase, done in report.seen if phase == "training"] == [3, 4], (
        "the two steps behind the older checkpoint are not taken again"
    )
    assert results_of(store.root) == undisturbed(tmp_path, which)


def test_f7_every_truncation_and_flipped_bits_of_a_small_log(tmp_path: Path) -> None:
    """A cut log gives its whole rows; a flipped bit is refused with its line, or makes the last line one that was never finished."""
    certification = add(Store(tmp_path), run_spec(), counts=[990, 980, 970]).certification(CERTIFY)
    log = certification.evidence.read_bytes()
    whole = certification.rows()
    ends = [place + 1 for place, byte in enumerate(log) if byte == ord("\n")]
    for size in range(len(log) + 1):
        certification.evidence.write_bytes(log[:size])
        count = sum(end <= size for end in ends)
        assert certification.rows() == whole[:count]
        assert certification.begin(weights_of(run_spec())) == len(certification.evidence.read_bytes()) == (ends[count - 1] if count else 0)
    for place in (*range(0, len(log) - 1, 3), len(log) - 1):
        flipped = bytearray(log)
        flipped[place] ^= 1 << place % 8
        certification.evidence.write_bytes(flipped)
        if place == len(log) - 1:  # without its line end, the last row was never finished
            assert certification.rows() == whole[:2]
        else:
            with pytest.raises(BenchError, match=f"line {1 + sum(end <= place for end in ends)}:"):
                certification.rows()


# ----------------------------------------------------------------------------------------- F8, F9: several processes, one cell


def test_f8_two_at_once_compute_nothing_twice(forks: Forks, folder: Path, expected: dict[str, bytes]) -> None:
    for number in range(3):
        results = folder / f"both-{number}"
        both = [forks.run(results) for _ in range(2)]
        assert [command.wait() for command in both] == [0, 0], [command.output for command in both]
        assert results_of(results) == expected
        assert times(results) == list(range(20))


def test_f9_a_holder_that_hung_is_fenced_off_when_it_comes_back(forks: Forks, results: Path, expected: dict[str, bytes]) -> None:
    old = forks.run(results, settings=FAST)
    until(lambda: rows(results) >= 2, "two rows")
    old.send(signal.SIGSTOP)
    before = rows(results)
    new = forks.run(results, settings=FAST)
    assert new.wait() == 0, new.output
    assert f"taken over from process {old.pid} on" in new.output
    assert "whose last heartbeat is" in new.output
    assert results_of(results) == expected
    old.send(signal.SIGCONT)
    assert old.wait() == 0, old.output
    assert "was taken over by another process; this one leaves it alone" in old.output
    assert "1 done of 1 cell\n" in old.output
    assert results_of(results) == expected
    assert sorted(times(results)) == sorted([*range(20), *([before] if len(times(results)) > 20 else [])]), "at most the row in flight"
    assert not list(results.rglob("claim-*"))


def test_f9_the_claim_of_a_killed_process_is_taken_over_at_once(forks: Forks, results: Path, expected: dict[str, bytes]) -> None:
    old = forks.run(results)
    until(lambda: rows(results) >= 2, "two rows")
    old.send(signal.SIGKILL)
    assert old.wait() == -signal.SIGKILL
    new = forks.run(results)
    assert new.wait() == 0, new.output
    assert f"taken over from process {old.pid} on" in new.output
    assert "which is gone" in new.output
    assert results_of(results) == expected


# ---------------------------------------------------------------------------------------------------- F10: not enough memory


HUNGRY = (
    "        logits =",
    """        import resource
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))
        torch.ones(1 << 32).sum()
        logits =""",
)


def test_f10_a_training_without_enough_memory(forks: Forks, folder: Path, tmp_path: Path) -> None:
    path = plugin(tmp_path, *HUNGRY)
    command = forks.run(folder / "hungry", "--plugin", path, "--method", "mine", "--json")
    assert command.wait() == 1
    text = command.output[command.output.index("{") :]
    (found,) = json.loads(text)["cells"]
    assert found["state"] == "failed"
    assert "can't allocate memory" in found["reason"]
    assert "run fewer cells side by side" in found["reason"]
    (record,) = (folder / "hungry").rglob("failure.json")
    assert json.loads(record.read_text())["kind"] == "oom"
    path.write_text(GOOD)
    again = forks.run(folder / "hungry", "--plugin", path, "--method", "mine")
    assert again.wait() == 0, again.output


@pytest.mark.parametrize("fits", [True, False])
def test_f10_certification_goes_on_with_a_smaller_batch_and_the_same_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """A sampler whose passes do not fit above a size; what it counts otherwise is the real one's."""
    which = cell()
    expected = undisturbed(tmp_path, which)
    real, seen = conductor.Sampler, []  # type: ignore[attr-defined]

    def sampler(model: Any, sigma: float, classes: int, seed: int, batch: int | None = None, *more: Any) -> Any:
        seen.append(batch)
        if batch is None or batch > (250 if fits else 0):
            raise MemoryError
        return real(model, sigma, classes, seed, batch, *more)

    monkeypatch.setattr(conductor, "Sampler", sampler)
    store, report = Store(tmp_path / "small"), Quiet()
    outcome = run_cell(which, store, options(batch=500), report, StopSignals())
    assert seen == [500, 250]
    assert "out of memory; certification goes on with 250 samples per pass" in report.said[0]
    if not fits:
        assert (outcome.state, outcome.kind) == ("failed", "oom")
        monkeypatch.undo()
        assert attempt(which, store, report) == "done"
    assert results_of(store.root) == expected


# ------------------------------------------------------------------------------------------------- F11: a method misbehaves

MISBEHAVE = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "threads": "torch.set_num_threads(3)",
    "gradients": "torch.set_grad_enabled(False)",
    "device": "torch.set_default_device('meta')",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "precision of products": "torch.backends.mkldnn.conv.fp32_precision = 'bf16'",
    "oneDNN": "torch.backends.mkldnn.enabled = False",
    "cuDNN": "torch.backends.cudnn.benchmark = True",
    "subnormal numbers": "torch.set_flush_denormal(True)",
    "Python's generator": "import random; random.random()",
    "NumPy's generator": "import numpy; numpy.random.rand()",
}


@pytest.mark.parametrize("what", MISBEHAVE)
def test_f11_a_method_must_leave_the_process_as_it_was(what: str) -> None:
    """It is told, and the settings are put back."""
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    told = f"drew from {what.replace('generator', 'global random generator')}" if "'s" in what else "changed torch's"
    with settings_kept() as check:
        check()
        for _ in range(DRAWS - 1 if "'s" in what else 0):
            exec(MISBEHAVE[what])
            check()
        exec(MISBEHAVE[what])
        with pytest.raises(BenchError, match=told):
            check()
    assert {name: read() for name, (read, _) in SETTINGS.items()} == before


def test_f11_the_other_cells_do_not_notice(forks: Forks, results: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    path = plugin(tmp_path, '        return {"cross', f'        {MISBEHAVE["oneDNN"]}\n        return {{"cross')
    command = forks.run(results, "--plugin", path, "--method", "mine,gaussian", "--json")
    assert command.wait() == 1, command.output
    printed, _ = json.JSONDecoder().raw_decode(command.output, command.output.index("\n{") + 1)  # what comes next follows it
    found = printed["cells"]
    assert [c["state"] for c in found] == ["failed", "done"]
    assert "the method changed torch's use of oneDNN" in found[0]["reason"]
    assert {n: c for n, c in results_of(results).items() if "mine" not in n} == expected


AT_IMPORT = """
torch.set_float32_matmul_precision("medium")
torch.backends.mkldnn.conv.fp32_precision = "bf16"
torch.backends.mkldnn.enabled = False
torch.set_flush_denormal(True)
"""
IN_FLOAT32 = """
        backends = torch.backends
        kinds = (backends.mkldnn.matmul, backends.mkldnn.conv, backends.cuda.matmul, backends.cudnn.conv)
        assert [kind.fp32_precision for kind in kinds] == ["ieee"] * 4
        assert backends.mkldnn.enabled and torch.tensor(1e-40) / 2 > 0
        logits ="""


def test_f11_what_a_file_sets_when_it_is_imported_reaches_no_training(
    forks: Forks, results: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Neither another cell's nor its own: on a processor that computes in bfloat16 the weights would be others under the same key."""
    path = plugin(tmp_path, "STATE = []", AT_IMPORT)
    path.write_text(path.read_text().replace("        logits =", IN_FLOAT32.lstrip("\n")))
    command = forks.run(results, "--plugin", path, "--method", "mine,gaussian")
    assert command.wait() == 0, command.output
    assert {n: c for n, c in results_of(results).items() if "mine" not in n} == expected


def test_f11_float32_is_float32_whatever_was_set_outside(tmp_path: Path) -> None:
    """And environment.json says what held in the training, not around it."""
    path = plugin(tmp_path, "        logits =", IN_FLOAT32.lstrip("\n"))
    which, store = cell("mine", path), Store(tmp_path / "runs")
    before = precisions()
    set_precisions(["tf32", "tf32", "tf32", "bf16", "bf16", "bf16"])
    try:
        outcome = run_cell(which, store, options(), Quiet(), StopSignals())
        assert outcome.state == "done", outcome.reason
        assert precisions() == ["tf32"] * 3 + ["bf16"] * 3
    finally:
        set_precisions(before)
    found = store.run(which.spec).environment()
    assert found
    assert found["precision"] == {"dtype": "float32", "tf32": False, "bf16": False}


HARMLESS = {
    "floods": "print('x' * 100_000)",
    "ignores signals": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
}


@pytest.mark.parametrize("what", HARMLESS)
def test_f11_what_a_method_does_to_itself_alone_changes_nothing(forks: Forks, results: Path, tmp_path: Path, what: str) -> None:
    plain = plugin(tmp_path)
    alone = results.with_name(results.name + "-alone")
    assert forks.run(alone, "--plugin", plain, "--method", "mine").wait() == 0
    path = plugin(tmp_path, "        logits =", f"        {HARMLESS[what]}\n        logits =")
    command = forks.run(results, "--plugin", path, "--method", "mine")
    assert command.wait() == 0, command.output[-2000:]
    assert results_of(results) == results_of(alone)
    assert times(results) == list(range(20))


def test_f11_a_method_that_sets_seeds_decides_its_own_dropout_and_no_more(
    forks: Forks, results: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    path = plugin(tmp_path, "        logits =", "        random.seed(5); np.random.seed(5); torch.manual_seed(5)\n        logits =")
    found = []
    for number in range(2):
        assert forks.run(results / str(number), "--plugin", path, "--method", "mine,gaussian").wait() == 0
        found.append(results_of(results / str(number)))
    assert found[0] == found[1]
    assert {name: content for name, content in found[0].items() if "mine" not in name} == expected


@pytest.mark.slow
def test_f11_real_workers_survive_hangs_and_segmentation_faults(tmp_path: Path) -> None:
    """A plug-in each that hangs, dies by SIGSEGV, leaves by os._exit, floods and raises; and a method that does nothing wrong."""
    bad = {
        "hangs": "while True: pass",
        "segv": "import ctypes; ctypes.string_at(0)",
        "leaves": "import os; os._exit(0)",
        "floods": "[print('x' * 1000) for _ in range(100_000)]; raise RuntimeError('enough')",
    }
    for name, code in bad.items():
        (tmp_path / f"{name}.py").write_text(GOOD.replace("        logits =", f"        {code}\n        logits ="))
    sets = [part for name, value in (SIZES | {"train.arch": "lenet"}).items() for part in ("--set", f"{name}={value}")]
    words = ["run", "--method", ",".join([*bad, "gaussian"]), "--sigma", "0.25", "--protocol", "smoke", "--device", "cpu", *sets, "--json"]
    words += ["--plugin", ",".join(str(tmp_path / f"{name}.py") for name in bad), "--jobs", "2", "--timeout", "30", "--results", "runs"]
    line = [sys.executable, "-c", "from bench.cli import app; app()", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {c["row"]: (c["state"], c["reason"]) for c in json.loads(done.stdout)["cells"]}
    assert found["gaussian"][0] == "done"
    for name, reason in {"hangs": "--timeout 30 s", "segv": "SIGSEGV", "leaves": "exit code 0", "floods": "enough"}.items():
        assert found[name][0] == "failed"
        assert reason in found[name][1]
    (record,) = (tmp_path / "runs").glob("mnist/floods.default/*/failure.json")
    assert len(record.read_bytes()) < 100_000


# ---------------------------------------------------------------------------------------------------------------- F13: signals


def interrupt(results: Path, command: Command, number: int, seconds: float) -> bool:
    """Whether the signal came before the end."""
    time.sleep(seconds)
    command.send(number)
    begun = time.monotonic()
    code = command.wait()
    assert time.monotonic() - begun < 10
    assert code in (128 + number, 0), (code, command.output)
    if code:
        assert "Run the same command again to resume" in command.output
        assert not list(results.rglob("claim-*"))
    return code != 0


def claimed_by(results: Path, command: Command) -> bool:
    return any(f'"pid":{command.pid},' in path.read_text() for path in results.rglob("claim-*.json"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_f13_a_signal_at_a_random_time(forks: Forks, folder: Path, results: Path, number: int) -> None:
    rng, interrupted, longer = random.Random(number), 0, {"certify.images": "first:300"}
    alone = folder / "longer"
    if not alone.exists():
        assert forks.run(alone, changes=longer).wait() == 0
    for _ in range(3):
        command = forks.run(results, changes=longer)
        until(partial(claimed_by, results, command), "a beginning")
        if not interrupt(results, command, number, rng.uniform(0, 0.2)):
            break
        interrupted += 1
    assert forks.run(results, changes=longer).wait() == 0
    assert interrupted
    assert results_of(results) == results_of(alone)
    assert times(results) == list(range(300))


def test_f13_a_row_that_takes_too_long_is_given_up(forks: Forks, results: Path) -> None:
    """Of a large network a row takes minutes; it is done again, with the same noise."""
    changes = {"certify.n": "40000000", "certify.images": "first:1"}
    command = forks.run(results, changes=changes, settings={"bench.system.signals": {"GRACE_SECONDS": 0.3}})
    until(lambda: list(results.rglob("subject.json")), "the certification")
    time.sleep(0.2)
    command.send(signal.SIGTERM)
    begun = time.monotonic()
    assert command.wait() == 143, command.output
    assert time.monotonic() - begun < 10
    assert rows(results) == 0


def test_f13_a_signal_reaches_all_workers(forks: Forks, results: Path, tmp_path: Path) -> None:
    """`--jobs 2` in real processes, interrupted in the middle of two cells."""
    changes = {"train.arch": "lenet", "certify.images": "first:200"}
    words = ("--sigma", "0.25,0.5", "--jobs", "2")
    command = forks.run(results, *words, changes=changes)
    until(lambda: len([path for path in results.rglob("evidence.jsonl") if path.stat().st_size]) == 2, "rows of both cells")
    command.send(signal.SIGINT)
    begun = time.monotonic()
    assert command.wait() == 130, command.output
    assert time.monotonic() - begun < 10
    assert not list(results.rglob("claim-*")), "every worker released its claim"
    assert sorted(map(len, (path.read_text().splitlines() for path in results.rglob("times.csv")))) == sorted(
        path.read_bytes().count(b"\n") for path in results.rglob("evidence.jsonl")
    ), "rows in the works were finished"
    output = forks.start("status", "--results", results)
    assert output.wait() == 0
    assert "2 interrupted" in output.output


def test_f13_a_second_signal_leaves_at_once(forks: Forks, results: Path, expected: dict[str, bytes]) -> None:
    code = 130
    while code == 130:  # the first one came between two images
        command = forks.run(results, settings={"bench.system.signals": {"GRACE_SECONDS": 1000.0}}, changes={"certify.n": "40000000"})
        until(lambda: list(results.rglob("subject.json")), "the certification")
        time.sleep(0.5)
        command.send(signal.SIGINT)
        time.sleep(0.3)
        begun = time.monotonic()
        command.send(signal.SIGINT)
        code = command.wait()
        assert time.monotonic() - begun < 5
    assert code == -signal.SIGINT
    assert forks.run(results).wait() == 0
    found = results_of(results)
    assert {name: found[name] for name in expected} == expected


# -------------------------------------------------------------------------------------- F15: the results folder is not what it was


def test_f15_a_file_in_place_of_the_folder_is_told_before_training(forks: Forks, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    command = forks.run(tmp_path / "runs")
    assert command.wait() == 2
    assert f"--results {tmp_path / 'runs'}: {tmp_path / 'runs'} is a file, not a folder" in command.output


def test_f15_a_folder_that_cannot_be_written_to_is_told_before_training(forks: Forks, tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    if not (shutil.which("mount") and mount(folder, "-t", "tmpfs", "-o", "ro", "tmpfs")):
        pytest.skip("file systems cannot be mounted here")
    try:
        command = forks.run(folder / "runs")
        assert command.wait() == 2
        assert f"{folder} cannot be written to" in command.output
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("phase", ["training", "certifying"])
def test_f15_a_folder_that_is_deleted_while_it_is_filled(forks: Forks, results: Path, expected: dict[str, bytes], phase: str) -> None:
    command = forks.run(results, changes={"train.images": "first:32000"} if phase == "training" else {})
    until(lambda: list(results.rglob("checkpoint.bin")) if phase == "training" else rows(results), phase)
    command.send(signal.SIGSTOP)
    shutil.rmtree(results / "mnist")
    command.send(signal.SIGCONT)
    assert command.wait() == 1
    assert "was deleted while it was being computed" in command.output
    assert not (results / "mnist").exists(), "half a run is not made again"
    assert forks.run(results).wait() == 0
    assert results_of(results) == expected


# ------------------------------------------------------------------------------------------------- F16: an engine that errs


class Unreliable:
    """Delivers every task once to three times, in any order, and tells of it late, in another order, twice or at the very end."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def outcomes(self, tasks: Sequence[Task], watch: Watch, stop: StopSignals) -> Iterator[tuple[int, Outcome]]:
        deliveries = [number for number in range(len(tasks)) for _ in range(self.rng.choice((1, 2, 3)))]
        self.rng.shuffle(deliveries)
        late: list[tuple[int, Outcome]] = []
        for number in deliveries:
            if self.rng.random() < 0.5:
                watch.begin(number)
            late.append((number, carry_out(Task.from_text(tasks[number].to_text()), Numbered(watch, number), stop)))
            while late and self.rng.random() < 0.4:
                yield late.pop(self.rng.randrange(len(late)))
        yield from late


@pytest.mark.parametrize("seed", range(4))
def test_f16_tasks_delivered_twice_late_and_in_any_order_change_nothing(
    tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    words = ("--method", "gaussian", "--sigma", "0.25,0.5,1.0", "--json")
    assert tiny(*words, "--results", tmp_path / "alone").exit_code == 0
    monkeypatch.setattr(Engine, "executor", lambda engine, cells, device, planned, say: (Unreliable(seed), 1))
    results = tmp_path / "runs"
    for more in ((), ("--rerun", "all")):
        result = tiny(*words, *more)
        assert result.exit_code == 0, result.output
        assert [cell["state"] for cell in json.loads(result.stdout)["cells"]] == ["done"] * 3
        assert "3 done of 3 cells" in result.stderr
        assert results_of(results) == results_of(tmp_path / "alone")
        monkeypatch.setattr(Engine, "cluster", True)  # which sets old runs aside before it delivers anything
    assert all(times(path) == [0, 1, 2] for path in results.glob("mnist/*/*"))
    assert len(list((results / ".replaced").iterdir())) == 3, "each run was set aside once, however often its task came"


# -------------------------------------------------------------------------------------------------------------- F17: names, sizes


@pytest.mark.parametrize("name", ["n" * 255, "ä" * 127, "ergebnisse – 数据 🙂", "with space'and\"quotes", "-dash", "a\nb"])
def test_f17_any_name_of_a_folder_will_do(forks: Forks, folder: Path, expected: dict[str, bytes], name: str) -> None:
    assert forks.run(folder / "names" / name).wait() == 0
    assert results_of(folder / "names" / name) == expected


def test_f17_a_name_that_is_too_long_is_refused(forks: Forks, tmp_path: Path) -> None:
    for place in (tmp_path / ("n" * 256), tmp_path.joinpath(*["n" * 250] * 18)):
        command = forks.run(place)
        assert command.wait() == 2
        assert os.strerror(errno.ENAMETOOLONG) in command.output
        assert "Traceback" not in command.output


def test_f17_names_that_differ_in_case_are_two_folders(forks: Forks, folder: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    for name in ("cohen", "COHEN"):
        assert forks.run(folder / "case" / name).wait() == 0
        assert results_of(folder / "case" / name) == expected
    (tmp_path / "COHEN.py").write_text(GOOD)
    command = forks.run(folder / "case" / "x", "--plugin", tmp_path / "COHEN.py")
    assert command.wait() == 2
    assert "NAME.py, with a name of lower case letters" in command.output


# ---------------------------------------------------------------------------------------------------- a matrix that is killed


@pytest.mark.slow
def test_a_matrix_side_by_side_killed_five_times_gives_the_same_bytes(tmp_path: Path) -> None:
    """`bench run --jobs 2 --protocol smoke`, 27 cells, the parent killed with SIGKILL five times at random moments."""
    line = [sys.executable, "-c", "from bench.cli import app; app()", "run", "--jobs", "2", "--protocol", "smoke", "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    assert subprocess.run([*line, "--results", "undisturbed"], cwd=tmp_path, env=environment, check=False).returncode == 0
    expected, rng = results_of(tmp_path / "undisturbed"), random.Random(0)
    assert len(expected) == 27 * 6
    killed = tmp_path / "killed"
    for number in range(5):
        process = subprocess.Popen([*line, "--results", "killed"], cwd=tmp_path, env=environment)
        begun = len(list(killed.rglob("evidence.jsonl")))
        until_more = time.monotonic() + 300
        while len(list(killed.rglob("evidence.jsonl"))) < begun + 3 and time.monotonic() < until_more:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 5))
        assert process.poll() is None, f"ended before kill {number}"
        process.kill()
        process.wait()
    assert subprocess.run([*line, "--results", "killed"], cwd=tmp_path, env=environment, check=False).returncode == 0
    assert results_of(killed) == expected
    for path in killed.rglob("times.csv"):
        images = [line.partition(",")[0] for line in path.read_text().splitlines()]
        assert len(set(images)) == 25
        assert len(images) <= 25 + 5, "at most the row in flight at each kill"
