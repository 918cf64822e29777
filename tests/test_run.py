"""Cells end to end: interruption, failure, divergence, changed sources, evidence without weights."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from test_contract import GOOD
from typer.testing import Result

from bench.certify import Sampler
from bench.data import load
from bench.errors import BenchError, Interrupted
from bench.files import claims
from bench.files.writing import read_json, write_json
from bench.matrix.cells import Options, execute, set_aside, state_of
from bench.matrix.plan import Cell, Request, make_plan
from bench.registry import Registry
from bench.rules.bounds import certified_radius
from bench.store.runs import Store
from bench.system.signals import StopSignals

RESULTS = ("spec.json", "curve.csv", "training.json", "weights.safetensors", "subject.json", "evidence.jsonl", "finished.json")
Tiny = Callable[..., Result]


class Quiet:
    """A report that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.on_progress: Callable[[str, int], None] = lambda phase, done: None

    def progress(self, phase: str, done: int, total: int) -> None:
        self.on_progress(phase, done)

    def say(self, text: str) -> None:
        self.said.append(text)


def stopped(which: Cell, store: Store, phase: str, done: int, number: int = signal.SIGINT, **fields: object) -> None:
    """Runs a cell until a signal comes at the given step or image."""
    signals, report = StopSignals(), Quiet()

    def stop(now: str, count: int) -> None:
        if (now, count) == (phase, done):
            signals.received = number

    report.on_progress = stop
    with pytest.raises(Interrupted) as caught:
        execute(which, store, options(**fields), report, signals)
    assert caught.value.signal_number == number


def cell(method: str = "gaussian", plugin: Path | None = None, **changes: str) -> Cell:
    """A cell of a second: 4 steps, 3 images."""
    base = {"train.images": "first:64", "train.batch": "16", "certify.images": "first:3", "certify.n": "200", "certify.n0": "20"}
    changes = base | {k.replace("__", "."): v for k, v in changes.items()}
    request = Request(methods=(method,), sigmas=(0.25,), protocol="smoke", changes=changes)
    return make_plan(request, Registry((plugin,) if plugin else ())).cells[0]


def options(**fields: object) -> Options:
    return Options(device=torch.device("cpu"), **fields)  # type: ignore[arg-type]


def results_of(root: Path) -> dict[str, bytes]:
    """Content of every result file below a store: what must be byte-equal."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.name in RESULTS and ".replaced" not in p.parts}


def undisturbed(tmp_path: Path, which: Cell) -> dict[str, bytes]:
    store = Store(tmp_path / "undisturbed")
    assert execute(which, store, options(), Quiet(), StopSignals()) == "done"
    return results_of(store.root)


def test_a_run_folder_says_what_it_was(tmp_path: Path) -> None:
    which, store = cell("smoothmix"), Store(tmp_path)
    assert state_of(which, store) == "missing"
    assert execute(which, store, options(), Quiet(), StopSignals()) == "done"
    assert state_of(which, store) == "done"
    run = store.run(which.spec)
    environment = run.environment()
    assert environment is not None
    assert environment["method_sha256"] == which.sources["method_sha256"]
    assert torch.__version__.startswith(environment["libraries"]["torch"].partition("+")[0])
    assert environment["data_md5"]["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert str(Path.home()) not in json.dumps(environment)
    header, *rows = run.curve.read_text().splitlines()
    assert header == "epoch,step,lr,cross_entropy,mix,loss"
    assert len(rows) == 4
    for row in rows:
        values = [float(value) for value in row.split(",")]
        assert values[5] == pytest.approx(values[3] + values[4])
    assert read_json(run.path / "timing.json")["pairs_per_image"] == 16
    (certification,) = run.certifications()
    assert [row.index for row in certification.rows()] == [0, 1, 2]
    assert [row.label for row in certification.rows()] == [7, 2, 1]
    assert not run.checkpoint.exists()


def test_stored_evidence_is_that_of_the_stored_weights(tmp_path: Path) -> None:
    """The counts on disk are those that the weights on disk give, and the radius is derived from them."""
    import safetensors.torch

    from bench.datasets import DATASETS
    from bench.models import build, place

    which, store = cell(), Store(tmp_path)
    execute(which, store, options(), Quiet(), StopSignals())
    run = store.run(which.spec)
    model = build("lenet", DATASETS["mnist"], 1)
    model.load_state_dict(safetensors.torch.load_file(run.weights))
    sampler = Sampler(place(model, torch.device("cpu")), 0.25, 10, which.certify.seed)
    test = load("mnist", "test")
    for row in next(run.certifications()).rows():
        again = sampler.certify(test.images(torch.tensor([row.index]))[0], row.index, row.label, 20, 200)
        assert again == row
        assert row.radius(0.001, 0.25) == certified_radius(row.count, 200, 0.001, 0.25)


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_interrupted_training_continues_to_the_same_bytes(tmp_path: Path, step: int) -> None:
    which, store = cell("smoothmix"), Store(tmp_path / "interrupted")
    stopped(which, store, "training", step, signal.SIGTERM)
    assert state_of(which, store) == "training"
    assert execute(which, store, options(), Quiet(), StopSignals()) == "done"
    assert results_of(store.root) == undisturbed(tmp_path, which)


@pytest.mark.parametrize("image", [1, 2])
def test_interrupted_certification_keeps_its_rows(tmp_path: Path, image: int) -> None:
    which, store = cell(), Store(tmp_path / "interrupted")
    stopped(which, store, "certifying", image)
    kept = next(store.run(which.spec).certifications()).evidence.read_bytes()
    assert kept.count(b"\n") == image
    again: list[tuple[str, int]] = []
    second = Quiet()
    second.on_progress = lambda phase, done: again.append((phase, done))
    assert execute(which, store, options(), second, StopSignals()) == "done"
    assert again == [("certifying", done) for done in range(image + 1, 4)]
    assert results_of(store.root) == undisturbed(tmp_path, which)


def test_sigkill_at_any_moment_gives_the_same_bytes(tmp_path: Path) -> None:
    """The real thing: a process killed in training and in certification, then the same line again."""
    root = tmp_path / "killed"
    sizes = "train.images=first:1600,train.batch=32,certify.images=first:3,certify.n=20000"
    words = ["--protocol", "smoke", "--set", sizes, "--method", "smoothmix", "--sigma", "0.25"]
    line = [sys.executable, "-c", "from bench.cli import app; app()", "run", *words, "--quiet", "--results"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def found(pattern: str) -> bool:
        return any(path.stat().st_size > 0 for path in root.rglob(pattern))

    # A checkpoint is due every 30 s; one every step here, so that a kill meets the writing of one.
    for pattern in ("checkpoint.bin", "checkpoint.older.bin", "evidence.jsonl"):
        script = "import bench.matrix.cells as r; r.Options.__init__.__kwdefaults__['checkpoint_seconds'] = 0.0\n"
        process = subprocess.Popen([*line[:2], script + line[2], *line[3:], str(root)], env=environment)
        limit = time.monotonic() + 120
        while not found(pattern) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        assert process.poll() is None, f"ended before {pattern} was seen"
        process.kill()
        process.wait()
    assert subprocess.run([*line, str(root)], env=environment, check=False).returncode == 0
    other = tmp_path / "undisturbed"
    assert subprocess.run([*line, str(other)], env=environment, check=False).returncode == 0
    assert len(results_of(root)) == 8
    assert results_of(root) == results_of(other)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    which, store = cell(), Store(tmp_path / "damaged")
    stopped(which, store, "training", 3, checkpoint_seconds=0.0)
    run = store.run(which.spec)
    content = bytearray(run.checkpoint.read_bytes())
    content[-100] ^= 1
    run.checkpoint.write_bytes(content)
    steps: list[int] = []
    second = Quiet()
    second.on_progress = lambda phase, done: steps.append(done) if phase == "training" else None
    assert execute(which, store, options(), second, StopSignals()) == "done"
    assert any("checkpoint.bin is damaged" in text for text in second.said)
    assert steps == [3, 4], "it continues behind step 2, the older checkpoint"
    assert results_of(store.root) == undisturbed(tmp_path, which)


def plugin(tmp_path: Path, old: str = "", new: str = "") -> Path:
    path = tmp_path / "mine.py"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    return path


def begun(tmp_path: Path, store: Store) -> None:
    """A training of the plug-in, stopped after two steps."""
    stopped(cell("mine", plugin(tmp_path)), store, "training", 2)


@pytest.mark.parametrize("name", ["checkpoint.bin", "checkpoint.older.bin"])
def test_a_changed_source_is_not_mixed_in_silence(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "runs")
    begun(tmp_path, store)
    old = cell("mine", plugin(tmp_path))
    run = store.run(old.spec)
    run.checkpoint.rename(run.path / name)  # a kill between two renames leaves only the older one
    changed = cell("mine", plugin(tmp_path, "STATE = []", "STATE = [0]"))
    assert changed.spec.key == old.spec.key
    report = Quiet()
    assert execute(changed, store, options(), report, StopSignals()) == "failed"
    assert "another method_sha256" in report.said[0]
    assert "--allow-changed-source" in report.said[0]
    assert execute(changed, store, options(allow_changed_source=True), Quiet(), StopSignals()) == "done"
    environment = run.environment()
    assert environment is not None
    assert environment["method_sha256"] == changed.sources["method_sha256"]
    assert [entry["method_sha256"] for entry in environment["history"]] == [old.sources["method_sha256"]]


def test_a_changed_source_does_not_stop_a_certification(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    old = cell("mine", plugin(tmp_path))
    assert execute(old, store, options(), Quiet(), StopSignals()) == "done"
    more = cell("mine", plugin(tmp_path, "STATE = []", "STATE = [0]"), certify__n="300")
    assert more.spec.key == old.spec.key
    assert execute(more, store, options(), Quiet(), StopSignals()) == "done"
    environment = store.run(old.spec).environment()
    assert environment is not None
    assert environment["method_sha256"] == old.sources["method_sha256"]


def test_weights_that_were_changed_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert execute(cell(), store, options(), Quiet(), StopSignals()) == "done"
    weights = store.run(cell().spec).weights
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    report = Quiet()
    assert execute(cell(certify__n="300"), store, options(), report, StopSignals()) == "failed"
    assert "but training.json says" in report.said[0]
    weights.unlink()
    assert execute(cell(), store, options(), Quiet(), StopSignals()) == "done", "finished evidence needs no weights"
    assert execute(cell(certify__n="300"), store, options(), report, StopSignals()) == "failed"
    assert "holds no weights (evidence only)" in report.said[1]


def test_damaged_evidence_fails_the_cell_and_keeps_the_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    execute(cell(), store, options(), Quiet(), StopSignals())
    evidence = next(store.run(cell().spec).certifications()).evidence
    content = evidence.read_bytes().replace(b'"label":7', b'"label":1')
    evidence.write_bytes(content)
    report = Quiet()
    assert execute(cell(), store, options(), report, StopSignals()) == "failed"
    assert "line 1" in report.said[0]
    assert evidence.read_bytes() == content


def test_a_set_aside_run_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert set_aside(cell(), store) is None
    execute(cell(), store, options(), Quiet(), StopSignals())
    before = results_of(tmp_path)
    first, _ = set_aside(cell(), store), execute(cell(), store, options(), Quiet(), StopSignals())
    second = set_aside(cell(), store)
    assert first is not None
    assert second is not None
    assert first != second
    assert (first / "spec.json").exists()
    assert state_of(cell(), store) == "missing"
    execute(cell(), store, options(), Quiet(), StopSignals())
    assert results_of(tmp_path) == before


FAULTS = {
    "raises": ("        logits", "        raise RuntimeError('out of cheese')\n        logits", "failed", "RuntimeError: out of cheese"),
    "exits": ("        logits", "        raise SystemExit(0)\n        logits", "failed", "SystemExit"),
    "diverges": ("batch.y).mean()", "batch.y).mean() * float('inf')", "diverged", "cross_entropy"),
    "returns nonsense": ('{"cross_entropy": loss}', "{}", "failed", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_cell_never_stops_the_others(tmp_path: Path, tiny: Tiny, fault: str) -> None:
    old, new, state, reason = FAULTS[fault]
    words = ("--plugin", plugin(tmp_path, old, new), "--method", "mine,gaussian", "--sigma", "0.25")
    result = tiny(*words, "--json")
    assert result.exit_code == 1, result.output
    cells = json.loads(result.stdout)["cells"]
    assert [c["state"] for c in cells] == [state, "done"]
    assert reason in cells[0]["reason"]
    again = tiny(*words, "--json")
    assert again.exit_code == 1
    assert [c["state"] for c in json.loads(again.stdout)["cells"]] == [state, "done"]


def test_a_failed_cell_is_tried_again_and_a_diverged_one_only_when_asked(tmp_path: Path, tiny: Tiny) -> None:
    words = ("--plugin", tmp_path / "mine.py", "--method", "mine", "--sigma", "0.25")
    plugin(tmp_path, "        logits", "        raise RuntimeError('no')\n        logits")
    assert tiny(*words).exit_code == 1
    plugin(tmp_path)
    assert tiny(*words).exit_code == 0

    assert tiny(*words, "--rerun", "all").exit_code == 0
    plugin(tmp_path, "batch.y).mean()", "batch.y).mean() * float('nan')")
    assert tiny(*words, "--rerun", "all").exit_code == 1
    plugin(tmp_path)
    stays = tiny(*words)
    assert stays.exit_code == 1
    assert "--rerun diverged" in stays.output
    assert tiny(*words, "--rerun", "diverged").exit_code == 0


def test_diverged_weights_are_never_certified(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    bad = cell("mine", plugin(tmp_path, "batch.y).mean()", "batch.y).mean() * (float('nan') if batch.epoch > 50 else 1.0)"))
    report = Quiet()
    assert execute(bad, store, options(checkpoint_seconds=0.0), report, StopSignals()) == "diverged"
    run = store.run(bad.spec)
    assert list(run.certifications()) == []
    assert not run.weights.exists()
    assert run.checkpoint.exists(), "the last good checkpoint is kept"
    write_json(run.path / "training.json", {"state": "diverged", "reason": "x"})
    assert execute(bad, store, options(), report, StopSignals()) == "diverged"


def test_two_processes_on_one_cell_do_not_spoil_it(tmp_path: Path) -> None:
    """While one process certifies, a second one of the same line leaves the cell alone, and the evidence is whole."""
    which, store = cell(), Store(tmp_path / "shared")
    inner, report = Quiet(), Quiet()

    def meanwhile(phase: str, done: int) -> None:
        if phase == "certifying" and done == 1:
            assert execute(which, store, options(), inner, StopSignals()) == "running"
            with pytest.raises(BenchError, match="another process"):
                set_aside(which, store)

    report.on_progress = meanwhile
    assert execute(which, store, options(), report, StopSignals()) == "done"
    assert "is being computed by another process" in inner.said[0]
    assert results_of(store.root) == undisturbed(tmp_path, which)


def test_evidence_of_other_weights_is_never_continued(tmp_path: Path) -> None:
    which, store = cell(), Store(tmp_path)
    execute(which, store, options(), Quiet(), StopSignals())
    run = store.run(which.spec)
    evidence = next(run.certifications()).evidence
    evidence.write_bytes(evidence.read_bytes().splitlines(keepends=True)[0])
    write_json(next(run.certifications()).path / "subject.json", {"weights_sha256": "0" * 64})
    report = Quiet()
    assert execute(which, store, options(), report, StopSignals()) == "failed"
    assert "were certified, but the run's are" in report.said[0]


@pytest.mark.parametrize(
    "record", ["{}", '{"state":"banana"}', '{"state":"trained"}', '{"state":"trained","steps":"4","weights_sha256":"0"}', "[", "[]"]
)
def test_a_damaged_training_record_is_not_believed(tmp_path: Path, record: str) -> None:
    which, store = cell(), Store(tmp_path)
    execute(which, store, options(), Quiet(), StopSignals())
    (store.run(which.spec).path / "training.json").write_text(record)
    report = Quiet()
    assert execute(which, store, options(), report, StopSignals()) == "failed"
    assert "training.json" in report.said[0]


def test_another_environment_of_a_certification_is_recorded(tmp_path: Path) -> None:
    which, store = cell(), Store(tmp_path)
    execute(which, store, options(), Quiet(), StopSignals())
    certification = next(store.run(which.spec).certifications())
    for path in (certification.evidence, certification.path / "times.csv"):
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    (certification.path / "finished.json").unlink()
    old = (certification.environment() or {}) | {"device": "another"}
    write_json(certification.path / "environment.json", old)
    assert execute(which, store, options(), Quiet(), StopSignals()) == "done"
    assert [entry["device"] for entry in (certification.environment() or {})["history"]] == ["another"]


def test_leftovers_of_killed_writes_are_swept(tmp_path: Path) -> None:
    which, store = cell(), Store(tmp_path)
    path = store.run(which.spec).path
    path.mkdir(parents=True)
    (path / ".checkpoint.bin.999.tmp").write_text("x")
    execute(which, store, options(), Quiet(), StopSignals())
    assert list(path.rglob("*.tmp")) == []


def test_a_checkpoint_of_another_release_is_refused(tmp_path: Path) -> None:
    import hashlib
    import io

    which, store = cell(), Store(tmp_path)
    run = store.run(which.spec)
    buffer = io.BytesIO()
    torch.save({"step": 1}, buffer)
    run.path.mkdir(parents=True)
    run.checkpoint.write_bytes(hashlib.sha256(buffer.getvalue()).hexdigest().encode() + buffer.getvalue())
    report = Quiet()
    assert execute(which, store, options(), report, StopSignals()) == "failed"
    assert "not a checkpoint of this release" in report.said[0]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals().installed() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.received == 0
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def test_every_failing_write_is_told_and_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the Nth sync, for every N; one plain rerun gives the bytes of an undisturbed run."""
    which = cell()
    expected = undisturbed(tmp_path, which)
    real = os.fsync
    for fatal in range(1, 60):
        store, calls = Store(tmp_path / f"full-{fatal}"), iter(range(1, 10_000))

        def sync(handle: int, calls: Iterator[int] = calls, fatal: int = fatal) -> None:
            if next(calls) == fatal:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", sync)
        report = Quiet()
        state = execute(which, store, options(), report, StopSignals())
        monkeypatch.setattr(os, "fsync", real)
        if state == "done" and next(calls) <= fatal:
            break  # fewer syncs than that
        if state == "failed":
            assert "No space left on device" in report.said[0]
        assert execute(which, store, options(), Quiet(), StopSignals()) == "done"
        assert results_of(store.root) == expected
    assert fatal > 15


def test_a_folder_that_goes_while_a_write_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's folder is deleted between the Nth check of the claim and the write that it lets through, for every N."""
    which = cell()
    real = claims.guard
    for fatal in range(1, 60):
        store, calls = Store(tmp_path / f"gone-{fatal}"), iter(range(1, 10_000))
        folder = store.run(which.spec).path

        def guard(path: Path, calls: Iterator[int] = calls, fatal: int = fatal, folder: Path = folder) -> Path | None:
            claimed = real(path)
            if next(calls) == fatal:
                shutil.rmtree(folder)
            return claimed

        monkeypatch.setattr(claims, "guard", guard)
        report = Quiet()
        state = execute(which, store, options(), report, StopSignals())
        monkeypatch.setattr(claims, "guard", real)
        if next(calls) <= fatal:
            break  # fewer checks than that
        assert state == "failed"
        assert report.said == [f"{which.name}: failed: {folder} was deleted while it was being computed"]
        assert not folder.exists(), "half a run is not made again"
        gone = store
    assert fatal > 15
    assert execute(which, gone, options(), Quiet(), StopSignals()) == "done"
    assert results_of(gone.root) == undisturbed(tmp_path, which)
