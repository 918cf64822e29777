"""One cell end to end: train, certify, store; continues from whatever is on disk."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import math
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import nn

from bench import environment
from bench.certify import Sampler, stopping
from bench.data import Images, load
from bench.datasets import DATASETS
from bench.errors import BenchError, Diverged, Interrupted
from bench.method import Method
from bench.models import build, place
from bench.plan import Cell
from bench.spec import canonical, select_images, to_json
from bench.store import Certification, Run, State, Store, sha256, write_atomically, write_json
from bench.train import Trainer, line_of, pairs_per_image

CHECKPOINT_SECONDS = 30.0
TIMED_PIXELS = 256 * 28 * 28  # of a timed pass: large images fill memory and take long


class Report(Protocol):
    """Whoever wants to know how a cell goes on."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """`phase` is training or certifying; counts are steps or images."""

    def say(self, text: str) -> None:
        """One line that the user should see."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What changes how a cell is computed but not its result.

    Attributes:
        batch: samples per certification pass; chosen by image size and device if None.
        allow_changed_source: continue a run that was begun with another source of its method; recorded in environment.json.
        allow_other_data: use files that are not the published ones; recorded in environment.json.
        data_dir: where the data sets are; None: in BENCH_DATA_DIR or the user's cache.
    """

    device: torch.device
    batch: int | None = None
    allow_changed_source: bool = False
    allow_other_data: bool = False
    data_dir: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGHUP into a flag; a second one ends the process at once.

    A signal that the process ignores, as SIGHUP under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self.received = 0

    def check(self) -> None:
        """Interrupted if a signal came."""
        if self.received:
            raise Interrupted(self.received)

    @contextlib.contextmanager
    def installed(self) -> Iterator[StopSignals]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.received:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self.received = number

        numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def state_of(cell: Cell, store: Store) -> State:
    """How far a cell is, from what is on disk.

    Raises:
        BenchError: damaged evidence or records.
    """
    return store.run(cell.spec).certification(cell.certify).standing().state


def execute(cell: Cell, store: Store, options: Options, report: Report, stop: StopSignals) -> State:
    """Brings a cell to its end, or records why it did not get there.

    Returns:
        done, diverged or failed; the reason of a failure is in the run's failure.json and was said.

    Raises:
        Interrupted: a signal came; everything finished is on disk.
    """
    run = store.run(cell.spec)
    try:
        with run.claimed():
            return _execute(cell, run, options, report, stop)
    except (BenchError, OSError) as error:
        if isinstance(error, Interrupted):
            raise
        report.say(f"{cell.name}: failed: {error}")
        return "failed"


def _execute(cell: Cell, run: Run, options: Options, report: Report, stop: StopSignals) -> State:
    try:
        if (state := run.certification(cell.certify).standing().state) in ("done", "diverged"):
            return state
        run.begin()
        model = _train(cell, run, options, report, stop)
        certify(run.certification(cell.certify), model, cell.source_sha256, options, report, stop)
    except (Interrupted, KeyboardInterrupt):
        raise
    except Diverged as error:
        write_json(run.path / "training.json", {"state": "diverged", "reason": str(error)})
        report.say(f"{cell.name}: diverged: {error}")
        return "diverged"
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}{line_of(error, cell.method)}"
        with contextlib.suppress(OSError):
            write_json(run.path / "failure.json", {"reason": reason, "trace": traceback.format_exc()})
        report.say(f"{cell.name}: failed: {reason}; the trace is in {run.path / 'failure.json'}")
        return "failed"
    return "done"


def set_aside(cell: Cell, store: Store) -> Path | None:
    """Moves a run's folder out of the way so that it is computed again; nothing is deleted.

    Returns:
        where it now is, None if there was none.
    """
    run = store.run(cell.spec)
    if not run.path.exists():
        return None
    graveyard = store.root / ".replaced"
    graveyard.mkdir(parents=True, exist_ok=True)
    number = 1
    while (target := graveyard / f"{run.path.name}-{number}").exists():
        number += 1
    with run.claimed():
        run.path.rename(target)
    return target


def _images(dataset: str, split: str, options: Options) -> Images:
    return load(dataset, split, options.data_dir, allow_other=options.allow_other_data)


def _describe(source_sha256: str, data: Images, options: Options) -> dict[str, Any]:
    """The environment, with what is unusual about the data."""
    differs = {"data_differs": list(data.differences)} if data.differences else {}
    return environment.describe(options.device, source_sha256, data.checksums) | differs


def _record_environment(cell: Cell, run: Run, options: Options, data: Images) -> None:
    """Writes what a training is made with; refuses to continue one that was begun with another source or other data."""
    presets = {"presets_of": cell.presets_of} if cell.presets_of else {}
    now = _describe(cell.source_sha256, data, options) | presets
    before = run.environment() if _checkpoints(run) else None
    changed = environment.mixture(before or {}, now, ("method_sha256", "engine_sha256", "data_md5"))
    if changed and not options.allow_changed_source:
        raise BenchError(
            f"the training of {run.path.name} was begun with another {' and '.join(changed)}; "
            "finish it with the old one, start over with --rerun all, or mix them with --allow-changed-source"
        )
    write_json(run.path / "environment.json", environment.with_history(before, now))


def _train(cell: Cell, run: Run, options: Options, report: Report, stop: StopSignals) -> nn.Module:
    """The trained base classifier, from disk if it is there."""
    info = DATASETS[cell.spec.dataset]
    if training := run.training():
        return load_weights(run, training["weights_sha256"], options.device)
    data = _images(cell.spec.dataset, "train", options)
    if not select_images(cell.spec.train.images, len(data)):
        raise BenchError(f"images={cell.spec.train.images} selects none of the {len(data)} training images that are there")
    _record_environment(cell, run, options, data)
    trainer = Trainer(cell.spec, cell.method, info, data.to(options.device), options.device)
    seconds = _restore(trainer, run, report)
    begun = saved = time.monotonic()
    start = trainer.step

    def after_step(trainer: Trainer) -> None:
        nonlocal saved
        report.progress("training", trainer.step, trainer.total)
        now = time.monotonic()
        if stop.received or now - saved > options.checkpoint_seconds:
            trainer.check_finite()
            _save(trainer, run, seconds + now - begun)
            saved = now
            stop.check()

    model = trainer.run(after_step)
    elapsed = time.monotonic() - begun
    write_atomically(run.curve, _curve_csv(trainer).encode())
    metadata = {"certbench": canonical({"spec": to_json(cell.spec), "key": cell.spec.key})}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(run.weights, safetensors.torch.save(weights, metadata))
    per_image = pairs_per_image(cell.method, info)
    taken = (trainer.step - start) * cell.spec.train.batch
    write_json(
        run.path / "timing.json",
        {"training_seconds": seconds + elapsed, "images_per_second": taken / elapsed, "pairs_per_image": per_image},
    )
    write_json(run.path / "training.json", {"state": "trained", "steps": trainer.total, "weights_sha256": sha256(run.weights)})
    for path in _checkpoints(run):
        path.unlink()
    return model


def _curve_csv(trainer: Trainer) -> str:
    columns = list(dict.fromkeys(name for row in trainer.curve for name in row))
    columns.append(columns.pop(columns.index("loss")))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(trainer.curve)
    return text.getvalue()


def _older(run: Run) -> Path:
    return run.checkpoint.with_suffix(".older.bin")


def _checkpoints(run: Run) -> list[Path]:
    """Those on disk, the newest first."""
    return [path for path in (run.checkpoint, _older(run)) if path.exists()]


def _save(trainer: Trainer, run: Run, seconds: float) -> None:
    """A checkpoint behind its SHA-256; the one before it is kept."""
    buffer = io.BytesIO()
    torch.save(trainer.state() | {"seconds": seconds}, buffer)
    payload = buffer.getvalue()
    if run.checkpoint.exists():
        run.checkpoint.replace(_older(run))
    write_atomically(run.checkpoint, hashlib.sha256(payload).hexdigest().encode() + payload)


def _restore(trainer: Trainer, run: Run, report: Report) -> float:
    """Continues from the newest checkpoint that is whole; returns the seconds of training behind it."""
    for path in _checkpoints(run):
        content = path.read_bytes()
        digest, payload = content[:64], content[64:]
        if hashlib.sha256(payload).hexdigest().encode() != digest:
            report.say(f"{path} is damaged and was left out")
            continue
        state = torch.load(io.BytesIO(payload), weights_only=True, map_location=trainer.device)
        try:
            trainer.restore(state)
            return float(state["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BenchError(f"{path} is not a checkpoint of this release ({error}); --rerun all starts over") from None
    return 0.0


def load_weights(run: Run, expected: str, device: torch.device) -> nn.Module:
    """The base classifier of a run, from disk.

    Args:
        expected: SHA-256 of the weights.

    Raises:
        BenchError: no weights, others than expected, or not those of the run's architecture.
    """
    if not run.weights.exists():
        raise BenchError(f"{run.path} holds no weights (evidence only), so it cannot be certified further; --rerun all trains it again")
    found = sha256(run.weights)
    if found != expected:
        raise BenchError(f"{run.weights}: SHA-256 is {found}, but training.json says {expected}; --rerun all trains it again")
    model = build(run.spec.train.arch, DATASETS[run.spec.dataset], 0)
    try:
        model.load_state_dict(safetensors.torch.load_file(run.weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        told = " ".join(str(error).split())[:300]
        raise BenchError(f"{run.weights} does not hold the weights of a {run.spec.train.arch}: {told}") from None
    return place(model, device)


def certify(
    certification: Certification, model: nn.Module, source_sha256: str, options: Options, report: Report, stop: StopSignals
) -> None:
    """Counts every image of a certification that is not on disk yet.

    Args:
        model: the base classifier of the run's weights file, on the device.
        source_sha256: of the code that made it; recorded.

    Raises:
        BenchError: evidence of other weights, or a base classifier that is refused.
        Interrupted: a signal came; finished images are on disk.
    """
    run = certification.run
    spec = certification.spec
    data = _images(run.spec.dataset, "test", options)
    before = certification.environment()
    certification.begin(sha256(run.weights))
    sampler = Sampler(model, run.spec.sigma, run.info.classes, spec.seed, options.batch, spec.sampling)
    sample = data.images(torch.tensor([0]))[0].to(options.device)
    now = _describe(source_sha256, data, options) | {"precision": sampler.arithmetic(sample)}
    done = set(certification.columns().index.tolist())
    if done and environment.mixture(before or {}, now, ("data_md5",)):
        raise BenchError(f"{certification.path} holds evidence of other test images; --rerun all starts over")
    write_json(certification.path / "environment.json", environment.with_history(before, now))
    expected, enough = certification.expected(), stopping(spec, run.spec.sigma)
    for index in expected:
        if index in done:
            continue
        stop.check()
        begun = time.monotonic()
        image = data.images(torch.tensor([index]))[0].to(options.device)
        label = int(data.labels[index])
        row = sampler.certify(image, index, label, spec.n0, spec.n, enough, skip_misclassified=spec.skip_misclassified)
        certification.append(row, time.monotonic() - begun)
        done.add(index)
        report.progress("certifying", len(done), len(expected))
    certification.columns()  # writes their fast form for the tables


def estimate_seconds(cells: Sequence[Cell], store: Store, device: torch.device) -> dict[tuple[str, str], float]:
    """Seconds that each cell will take, from a few timed steps of each base classifier in use.

    Returns:
        cell.id -> seconds; cells that cannot be estimated are left out.
    """
    passes: dict[tuple[str, str], tuple[float, float]] = {}
    costs: dict[tuple[str, Method], float] = {}
    result = {}
    for cell in cells:
        info, train = DATASETS[cell.spec.dataset], cell.spec.train
        run = store.run(cell.spec)
        try:
            if (info.name, train.arch) not in passes:
                passes[info.name, train.arch] = _time_passes(build(train.arch, info, 0), info.shape, device)
            if (info.name, cell.method) not in costs:
                costs[info.name, cell.method] = pairs_per_image(cell.method, info)
            standing = run.certification(cell.certify).standing()
        except (Exception, SystemExit):
            continue  # what fails here fails again, and says why, when its turn comes
        per_pair, per_sample = passes[info.name, train.arch]
        images = len(select_images(train.images, info.train_size)) * train.epochs
        training = 0.0 if standing.state == "certifying" else images * costs[info.name, cell.method] * per_pair
        left = len(run.certification(cell.certify).expected()) - len(standing.columns)
        result[cell.id] = training + left * (cell.certify.n0 + cell.certify.n) * per_sample
    return result


def _time_passes(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> tuple[float, float]:
    """Seconds per forward and backward pair and per forward pass of one image; the better of three tries."""
    model = place(model, device)
    rows = max(2, min(256, TIMED_PIXELS // math.prod(shape)))
    x = torch.rand(rows, *shape, device=device).contiguous(memory_format=torch.channels_last)

    def pair() -> None:
        model.train()
        model(x).logsumexp(1).sum().backward()

    @torch.inference_mode()
    def forward() -> None:
        model.eval()
        model(x).argmax(1).sum().item()

    def best(work: Any) -> float:
        seconds = []
        for _ in range(4):
            begun = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begun)
        return min(seconds[1:]) / len(x)

    return best(pair), best(forward)


def pick_device(word: str) -> torch.device:
    """auto, cpu or cuda as a device.

    Raises:
        BenchError: cuda where there is none, or another word.
    """
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if word == "cuda" and not torch.cuda.is_available():
        raise BenchError("device cuda is not available here; there is cpu")
    if word not in ("cpu", "cuda"):
        raise BenchError(f"unknown device {word!r}; there is auto, cpu, cuda")
    return torch.device(word)
