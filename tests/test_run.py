"""Cells end to end: interruption, failure, divergence, changed sources, evidence without weights. Crashes: test_faults.py."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_contract import GOOD
from typer.testing import Result

from bench.certify import Sampler
from bench.data import load
from bench.errors import BenchError, Interrupted
from bench.files import claims
from bench.files.writing import read_json, write_json
from bench.matrix import cells
from bench.matrix.cells import run_cell
from bench.matrix.plan import Cell, Request, make_plan
from bench.matrix.resume import load_weights
from bench.matrix.task import Options
from bench.registry import Registry
from bench.rules.bounds import certified_radius
from bench.store.runs import Run, Store
from bench.store.subject import Certification
from bench.store.work import set_aside
from bench.system.signals import StopSignals
from bench.train.loop import Trainer

RESULTS = ("spec.json", "curve.csv", "training.json", "weights.safetensors", "subject.json", "evidence.jsonl", "finished.json")
Tiny = Callable[..., Result]
CPU = torch.device("cpu")


class Quiet:
    """A report that remembers what was said, and calls whom it is told to."""

    def __init__(self, on_progress: Callable[[str, int], None] = lambda phase, done: None) -> None:
        self.said: list[str] = []
        self.seen: list[tuple[str, int]] = []
        self.on_progress = on_progress

    def progress(self, phase: str, done: int, total: int, note: str = "") -> None:
        self.seen.append((phase, done))
        self.on_progress(phase, done)

    def say(self, text: str) -> None:
        self.said.append(text)


def attempt(which: Cell, store: Store, report: Quiet | None = None, **fields: object) -> str:
    """The state that a cell is brought to."""
    return run_cell(which, store, options(**fields), report or Quiet(), StopSignals()).state


def stopped(which: Cell, store: Store, phase: str, done: int, number: int = signal.SIGINT, **fields: object) -> None:
    """Runs a cell until a signal comes at the given step or image."""
    signals = StopSignals()

    def stop(now: str, count: int) -> None:
        if (now, count) == (phase, done):
            signals.received = number

    with pytest.raises(Interrupted) as caught:
        run_cell(which, store, options(**fields), Quiet(stop), signals)
    assert caught.value.signal_number == number


def cell(method: str = "gaussian", plugin: Path | None = None, **changes: str) -> Cell:
    """A cell of a second: 4 steps, 3 images."""
    base = {"train.images": "first:64", "train.batch": "16", "certify.images": "first:3", "certify.n": "200", "certify.n0": "20"}
    changes = base | {k.replace("__", "."): v for k, v in changes.items()}
    request = Request(methods=(method,), sigmas=(0.25,), protocol="smoke", changes=changes)
    return make_plan(request, Registry((plugin,) if plugin else ())).cells[0]


def options(**fields: object) -> Options:
    return Options(device=CPU, **fields)  # type: ignore[arg-type]


def results_of(root: Path) -> dict[str, bytes]:
    """Content of every result file below a store: what must be byte-equal."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.name in RESULTS and ".replaced" not in p.parts}


def undisturbed(tmp_path: Path, which: Cell) -> dict[str, bytes]:
    store = Store(tmp_path / "undisturbed")
    assert attempt(which, store) == "done"
    return results_of(store.root)


def plugin(tmp_path: Path, old: str = "", new: str = "") -> Path:
    path = tmp_path / "mine.py"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    return path


def finished(which: Cell, store: Store) -> tuple[Run, Certification]:
    """The run of a cell that is done, and its certification."""
    assert attempt(which, store) == "done"
    run = store.run(which.spec)
    return run, run.certification(which.certify)


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def keep_a_row(certification: Certification) -> None:
    """As an interrupted certification leaves it."""
    for path in (certification.evidence, certification.path / "times.csv"):
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    (certification.path / "finished.json").unlink()


def test_what_is_told_of_a_training_asks_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every such question would wait for the device, at each step."""
    told, real = [], cells._standing

    def alone(trainer: Trainer) -> str:
        with monkeypatch.context() as patched:
            for name in ("item", "tolist", "cpu", "__float__", "__int__", "__bool__", "__format__", "__index__"):
                patched.setattr(torch.Tensor, name, None)
            told.append(real(trainer))
        return told[-1]

    monkeypatch.setattr(cells, "_standing", alone)
    assert attempt(cell(), Store(tmp_path)) == "done"
    assert told[0].startswith("step 1/4, loss ")
    assert len(told) == 4


def test_a_run_folder_says_what_it_was(tmp_path: Path) -> None:
    which, store = cell("smoothmix"), Store(tmp_path)
    assert store.run(which.spec).certification(which.certify).status().sound().state == "missing"
    run, certification = finished(which, store)
    assert certification.status().sound().state == "done"
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
    assert [(row.index, row.label) for row in certification.rows()] == [(0, 7), (1, 2), (2, 1)]
    assert not run.checkpoint.exists()


def test_stored_evidence_is_that_of_the_stored_weights(tmp_path: Path) -> None:
    """The counts on disk are those that the weights on disk give, and the radius is derived from them."""
    which = cell()
    run, certification = finished(which, Store(tmp_path))
    model = load_weights(run, (run.training() or {})["weights_sha256"], CPU)
    stored = safetensors.torch.load_file(run.weights)
    assert stored
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    sampler = Sampler(model, 0.25, 10, which.certify.seed)
    test = load("mnist", "test")
    for row in certification.rows():
        again = sampler.certify(test.images(torch.tensor([row.index]))[0], row.index, row.label, 20, 200)
        assert again == row
        assert row.radius(0.001, 0.25) == certified_radius(row.count, 200, 0.001, 0.25)


@pytest.mark.parametrize(("phase", "done"), [("training", 1), ("training", 3), ("training", 4), ("certifying", 1), ("certifying", 2)])
def test_what_was_interrupted_continues_to_the_same_bytes(tmp_path: Path, phase: str, done: int) -> None:
    which, store, second = cell("smoothmix"), Store(tmp_path / "interrupted"), Quiet()
    stopped(which, store, phase, done, signal.SIGTERM)
    standing = store.run(which.spec).certification(which.certify).status().sound()
    assert standing.state == phase
    assert len(standing.columns) == (done if phase == "certifying" else 0)
    assert attempt(which, store, second) == "done"
    first = done + 1 if done < 4 else 1
    assert second.seen[0] == (phase if done < 4 else "certifying", first), "no step and no row is computed again"
    assert results_of(store.root) == undisturbed(tmp_path, which)


@pytest.mark.parametrize("name", ["checkpoint.bin", "checkpoint.older.bin"])
def test_a_changed_source_is_not_mixed_in_silence(tmp_path: Path, name: str) -> None:
    store, old = Store(tmp_path / "runs"), cell("mine", plugin(tmp_path))
    stopped(old, store, "training", 2)
    run = store.run(old.spec)
    run.checkpoint.rename(run.path / name)  # a kill between two renames leaves only the older one
    changed = cell("mine", plugin(tmp_path, "STATE = []", "STATE = [0]"))
    assert changed.spec.key == old.spec.key
    report = Quiet()
    assert attempt(changed, store, report) == "failed"
    assert "--allow-changed-source" in report.said[0]
    assert attempt(changed, store, allow_changed_source=True) == "done"
    environment = run.environment()
    assert environment is not None
    assert environment["method_sha256"] == changed.sources["method_sha256"]
    assert [entry["method_sha256"] for entry in environment["history"]] == [old.sources["method_sha256"]]
    again = cell("mine", plugin(tmp_path), certify__n="300")
    assert attempt(again, store) == "done", "a certification needs no source"
    assert (run.environment() or {})["method_sha256"] == changed.sources["method_sha256"]


def test_a_training_is_not_continued_on_another_kind_of_device(tmp_path: Path) -> None:
    """The state of a CUDA generator is 16 bytes."""
    store, report = Store(tmp_path), Quiet()
    stopped(cell(), store, "training", 2)
    checkpoint = store.run(cell().spec).checkpoint
    whole, buffer = checkpoint.read_bytes(), io.BytesIO()
    torch.save(torch.load(io.BytesIO(whole[64:]), weights_only=True) | {"generator": torch.zeros(16, dtype=torch.uint8)}, buffer)
    checkpoint.write_bytes(hashlib.sha256(buffer.getvalue()).hexdigest().encode() + buffer.getvalue())
    environment = store.run(cell().spec).environment() or {}
    write_json(checkpoint.parent / "environment.json", environment | {"device": "NVIDIA H200"})
    before = {path: path.read_bytes() for path in checkpoint.parent.iterdir()}
    assert attempt(cell(), store, report) == "failed"
    assert "GPU" in report.said[0]
    assert {path: path.read_bytes() for path in before} == before, "nor does the history tell of a device that did no step"
    checkpoint.write_bytes(whole)
    assert attempt(cell(), store) == "done"


def relabel(certification: Certification) -> None:
    certification.evidence.write_bytes(certification.evidence.read_bytes().replace(b'"label":7', b'"label":1'))


def recertify_others(certification: Certification) -> None:
    certification.evidence.write_bytes(certification.evidence.read_bytes().splitlines(keepends=True)[0])
    write_json(certification.path / "subject.json", {"weights_sha256": "0" * 64})


def begin_anew(certification: Certification) -> None:
    """A checkpoint that is whole, and of another release."""
    run, buffer = certification.subject, io.BytesIO()
    shutil.rmtree(run.path)
    run.path.mkdir()
    torch.save({"step": 1}, buffer)
    (run.path / "checkpoint.bin").write_bytes(hashlib.sha256(buffer.getvalue()).hexdigest().encode() + buffer.getvalue())


DAMAGES: dict[str, tuple[Callable[[Certification], object], str]] = {
    "a label": (relabel, "line 1"),
    "rows of other weights": (recertify_others, "were certified, but the run's are"),
    "a checkpoint of another release": (begin_anew, "not a checkpoint of this release"),
    **{
        f"training.json {text}": (lambda found, text=text: (found.subject.path / "training.json").write_text(text), "training.json")  # type: ignore[misc]
        for text in ("{}", '{"state":"banana"}', '{"state":"trained"}', '{"state":"trained","steps":"4","weights_sha256":"0"}', "[", "[]")
    },
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_was_damaged_is_refused_and_kept(tmp_path: Path, what: str) -> None:
    damage, told = DAMAGES[what]
    store, report = Store(tmp_path), Quiet()
    _, certification = finished(cell(), store)
    damage(certification)
    before = results_of(tmp_path)
    assert attempt(cell(), store, report) == "failed"
    assert told in report.said[0]
    assert {name: content for name, content in results_of(tmp_path).items() if name in before} == before


def test_weights_that_were_changed_are_refused_and_finished_evidence_needs_none(tmp_path: Path) -> None:
    store, report = Store(tmp_path), Quiet()
    run, _ = finished(cell(), store)
    flip(run.weights)
    assert attempt(cell(certify__n="300"), store, report) == "failed"
    assert "but training.json says" in report.said[0]
    run.weights.unlink()
    assert attempt(cell(), store) == "done"
    assert attempt(cell(certify__n="300"), store, report) == "failed"
    assert "holds no weights (evidence only)" in report.said[1]


def test_a_set_aside_run_is_kept(tmp_path: Path) -> None:
    store, which = Store(tmp_path), cell()
    assert set_aside(store.run(which.spec), store) is None
    moved = []
    for _ in range(2):
        run, _ = finished(which, store)
        before = results_of(tmp_path)
        moved.append(set_aside(run, store))
        assert not run.path.exists()
    assert len(set(moved)) == 2
    assert all(path and (path / "spec.json").exists() for path in moved)
    finished(which, store)
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
    assert attempt(bad, store, checkpoint_seconds=0.0) == "diverged"
    run = store.run(bad.spec)
    assert list(run.certifications()) == []
    assert not run.weights.exists()
    assert run.checkpoint.exists(), "the last good checkpoint is kept"
    assert attempt(bad, store) == "diverged"


def test_two_processes_on_one_cell_do_not_spoil_it(tmp_path: Path) -> None:
    """While one process certifies, a second one of the same line leaves the cell alone, and the evidence is whole."""
    which, store, inner = cell(), Store(tmp_path / "shared"), Quiet()

    def meanwhile(phase: str, done: int) -> None:
        if phase == "certifying" and done == 1:
            assert attempt(which, store, inner) == "running"
            with pytest.raises(BenchError, match="another process"):
                set_aside(store.run(which.spec), store)

    assert attempt(which, store, Quiet(meanwhile)) == "done"
    assert "is being computed by another process" in inner.said[0]
    assert results_of(store.root) == undisturbed(tmp_path, which)


def test_another_environment_of_a_certification_is_recorded(tmp_path: Path) -> None:
    which, store = cell(), Store(tmp_path)
    _, certification = finished(which, store)
    keep_a_row(certification)
    write_json(certification.path / "environment.json", (certification.environment() or {}) | {"device": "another"})
    assert attempt(which, store) == "done"
    assert [entry["device"] for entry in (certification.environment() or {})["history"]] == ["another"]


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


def test_a_folder_that_goes_while_a_write_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's folder is deleted between the Nth check of the claim and the write that it lets through, for every N."""
    which = cell()
    real = claims.guard
    for fatal in range(1, 60):
        store, calls, report = Store(tmp_path / f"gone-{fatal}"), iter(range(1, 10_000)), Quiet()
        folder = store.run(which.spec).path

        def guard(path: Path, calls: Iterator[int] = calls, fatal: int = fatal, folder: Path = folder) -> Path | None:
            claimed = real(path)
            if next(calls) == fatal:
                shutil.rmtree(folder)
            return claimed

        with monkeypatch.context() as patch:
            patch.setattr(claims, "guard", guard)
            state = attempt(which, store, report)
        if next(calls) <= fatal:
            break  # fewer checks than that
        assert state == "failed"
        assert report.said == [f"{which.name}: failed: {folder} was deleted while it was being computed"]
        assert not folder.exists(), "half a run is not made again"
        gone = store
    assert fatal > 15
    assert attempt(which, gone) == "done"
    assert results_of(gone.root) == undisturbed(tmp_path, which)
