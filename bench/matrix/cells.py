"""One cell end to end: train, certify, store; continues from whatever is on disk."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import safetensors
import safetensors.torch
import torch
from torch import nn

from bench.certify import Sampler, count_images, several
from bench.certify.network import usual_batch
from bench.data import Images, load
from bench.datasets import DATASETS, DatasetInfo
from bench.distributed.group import fabric_version
from bench.distributed.shares import share
from bench.distributed.team import Team, check_devices, threads_shared
from bench.errors import BenchError, Diverged, Interrupted
from bench.evidence.sources import differs
from bench.files import claims
from bench.files.writing import sha256, write_atomically, write_json
from bench.matrix.plan import Cell
from bench.matrix.resume import load_weights, restore, save
from bench.matrix.takeover import take_over
from bench.matrix.task import Outcome, Task
from bench.models import place
from bench.spec import RunSpec, canonical, select_images, to_json
from bench.store.runs import Run, Store, checkpoints
from bench.store.subject import Certification, State
from bench.system import environment
from bench.system.guards import kind_of, out_of_memory, settings_kept
from bench.system.signals import StopSignals
from bench.train.graph import CudaGraphs
from bench.train.loop import Trainer, arithmetic, check_precision, check_splittable, line_of
from bench.train.passes import pairs_per_image

CHECKPOINT_SECONDS = 30.0


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
        micro_batch: images per piece of a training step, all at once if None; recorded in environment.json, for under batch norm
            and dropout it does change the result.
        graph: whether the steps of a training on CUDA are replayed as a graph where they can be; that they are not is recorded in
            environment.json.
        allow_changed_source: continue a run that was begun with another source of its method; recorded in environment.json.
        allow_other_data: use files that are not the published ones; recorded in environment.json.
        data_dir: where the data sets are; None: in BENCH_DATA_DIR or the user's cache.
    """

    device: torch.device
    batch: int | None = None
    micro_batch: int | None = None
    graph: bool = True
    allow_changed_source: bool = False
    allow_other_data: bool = False
    data_dir: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


def state_of(cell: Cell, store: Store) -> State:
    """How far a cell is, from what is on disk.

    Raises:
        BenchError: damaged evidence or records.
    """
    return store.run(cell.spec).certification(cell.certify).status().sound().state


def execute(cell: Cell, store: Store, options: Options, report: Report, stop: StopSignals) -> State | Literal["running"]:
    """The state of what `attempt` brings a cell to."""
    return attempt(cell, store, options, report, stop).state


def attempt(cell: Cell, store: Store, options: Options, report: Report, stop: StopSignals) -> Outcome:
    """Brings a cell to its end, or records why it did not get there.

    Returns:
        done, diverged, failed, or running where another process is at it; the reason was said, and that of a failure is in the run's
        failure.json, unless the disk is what failed.

    Raises:
        Interrupted: a signal came; everything finished is on disk.
    """
    run, process = store.run(cell.spec), os.getpid()
    try:
        with (
            threads_shared(cell.devices, options.device),
            run.claimed() as claim,
            arithmetic(cell.spec.train.precision),  # also around what describes the environment and what compares settings
            settings_kept() as check_settings,
        ):
            if claim.before:
                age = f"whose last heartbeat is {claim.before.age:.0f} s old"
                report.say(f"{cell.name}: taken over from {claim.before}, {'which is gone' if claim.before.dead else age}")
            return _attempt(cell, run, options, _Observed(report, claim, check_settings), stop)
    except (claims.Claimed, claims.Fenced) as error:
        report.say(f"{cell.name}: {error}")
        return Outcome(state="running", reason=str(error))
    except (BenchError, OSError) as error:
        if isinstance(error, Interrupted):
            raise
        report.say(f"{cell.name}: failed: {error}")
        return Outcome(state="failed", kind=kind_of(error), reason=str(error))
    finally:
        if os.getpid() != process:
            os._exit(1)  # a copy that the method forked off has no business here


def seal(cell: Cell, store: Store) -> None:
    """Writes the record that a kill kept a finished certification from, if nothing else is at it."""
    run = store.run(cell.spec)
    certification = run.certification(cell.certify)
    with contextlib.suppress(claims.Claimed, BenchError, OSError):
        if certification.binding().open(certification.path) or run.failure():
            with run.claimed():
                certification.seal()
                run.forget_failure()


class _Observed:
    """A report that also tells the claim, and looks whether the method left the process as it was."""

    def __init__(self, report: Report, claim: claims.Claim, check_settings: Callable[[], None]) -> None:
        self.report, self.claim, self.check_settings, self.process = report, claim, check_settings, os.getpid()
        self.say = report.say

    def progress(self, phase: str, done: int, total: int) -> None:
        if os.getpid() != self.process:
            os._exit(1)
        self.check_settings()
        self.claim.note(phase, done, total)
        self.report.progress(phase, done, total)


def _attempt(cell: Cell, run: Run, options: Options, report: Report, stop: StopSignals) -> Outcome:
    try:
        certification = run.certification(cell.certify)
        standing = certification.status().sound()
        if standing.state == "done":
            certification.seal()  # a kill may have come between its last row and this
            run.forget_failure()
        if standing.state in ("done", "diverged"):
            return Outcome(state=standing.state)
        run.begin()
        if run.training():
            for path in checkpoints(run.path):  # the last training ended before it removed them
                path.unlink()
        with _team(cell, run, options, stop) as team:
            model = _train(cell, run, options, report, stop, team)
            try:
                certify(certification, model, cell.sources, options, report, stop, team)
                return Outcome(state="done")
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
        # Here and not above, where the error still keeps the tensors of its frames, and helpers go on with the old number.
        options = dataclasses.replace(options, batch=smaller_batch(options.batch, run.info, options.device))
        report.say(f"{cell.name}: out of memory; certification goes on with {options.batch} samples per pass, which changes no count")
        with _team(cell, run, options, stop) as team:
            certify(certification, model, cell.sources, options, report, stop, team)
    except (Interrupted, KeyboardInterrupt, claims.Fenced):
        raise
    except Diverged as error:
        write_json(run.path / "training.json", {"state": "diverged", "reason": str(error)})
        report.say(f"{cell.name}: diverged: {error}")
        return Outcome(state="diverged", reason=str(error))
    except (Exception, SystemExit) as error:
        if lost := claims.lost(run.path):
            raise lost from error  # a write that had passed its check fails of something else, as a file that is not there
        reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}{line_of(error, cell.method)}"
        kind = kind_of(error)
        if kind == "oom" and run.training() is None:
            reason += "; give the training more memory, or run fewer cells side by side (--jobs)"
            if options.device.type == "cuda" and options.graph:
                reason += ", or without a graph (--no-graph), which holds the memory of a step"
        trace = ""
        with contextlib.suppress(OSError, BenchError):
            run.fail(kind, reason, traceback.format_exc())
            trace = f"; the trace is in {run.path / 'failure.json'}"
        report.say(f"{cell.name}: failed: {reason}{trace}")
        return Outcome(state="failed", kind=kind, reason=reason)
    return Outcome(state="done")


def smaller_batch(batch: int | None, info: DatasetInfo, device: torch.device) -> int:
    """Samples per certification pass after one that did not fit into memory."""
    return max(1, (batch or usual_batch(info.shape, device)) // 2)


def _team(cell: Cell, run: Run, options: Options, stop: StopSignals) -> Team:
    """The processes of a cell; this one alone, where the cell is for one device.

    Raises:
        BenchError: the machine that the cell came to has too few devices.
    """
    check_devices(cell.spec.train, options.device)
    words = {name: getattr(options, name) for name in ("batch", "micro_batch", "graph", "allow_other_data")}
    task = Task(
        spec=cell.spec,
        certify=cell.certify,
        results=run.path,
        plugins=cell.plugins,
        sources=cell.sources,
        options=words | {"device": options.device.type, "data_dir": options.data_dir and str(options.data_dir.absolute())},
    )
    return Team(task, cell.devices, options.device, stop.check)


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
        claims.sweep(target)
    return target


def _images(dataset: str, split: str, options: Options) -> Images:
    return load(dataset, split, options.data_dir, allow_other=options.allow_other_data)


def training_images(spec: RunSpec, options: Options) -> Images:
    """The training split, for one of the processes that share a cell's steps."""
    return _images(spec.dataset, "train", options).shared(spec.train.devices)


def _describe(sources: Mapping[str, Any], data: Images, options: Options) -> dict[str, Any]:
    """The environment, with what is unusual about the data."""
    differs = {"data_differs": list(data.differences)} if data.differences else {}
    return environment.describe(options.device, sources, data.checksums) | differs


def _record_environment(cell: Cell, run: Run, options: Options, data: Images) -> None:
    """Writes what a training is made with; refuses to continue one that was begun with another source or other data."""
    presets = {"presets_of": cell.presets_of} if cell.presets_of else {}
    used = {"micro_batch": options.micro_batch, "no_graph": not options.graph, "fabric": fabric_version() if cell.devices > 1 else None}
    how = {k: v for k, v in used.items() if v}
    now = _describe(cell.sources, data, options) | presets | how
    before = run.environment() if checkpoints(run.path) else None
    fields = ("method_sha256", "network_code_sha256", "engine_sha256", "data_md5")
    changed = [name for name in fields if differs(before or {}, now, name)]
    if changed and not options.allow_changed_source:
        raise BenchError(
            f"the training of {run.path.name} was begun with another {' and '.join(changed)}; "
            "finish it with the old one, start over with --rerun all, or mix them with --allow-changed-source"
        )
    write_json(run.path / "environment.json", environment.with_history(before, now))


def _train(cell: Cell, run: Run, options: Options, report: Report, stop: StopSignals, team: Team) -> nn.Module:
    """The trained base classifier, from disk if it is there."""
    if training := run.training():
        return load_weights(run, training["weights_sha256"], options.device)
    data = training_images(cell.spec, options)
    if not select_images(cell.spec.train.images, len(data)):
        raise BenchError(f"images={cell.spec.train.images} selects none of the {len(data)} training images that are there")
    _record_environment(cell, run, options, data)
    with team.training() as (group, device):
        recorder = CudaGraphs(device) if options.graph and device.type == "cuda" else None
        trainer = Trainer(
            cell.spec,
            cell.method,
            DATASETS[cell.spec.dataset],
            data.to(device),
            device,
            micro_batch=options.micro_batch,
            group=group,
            recorder=recorder,
        )
        seconds, checkpoint = restore(trainer, run, report.say)
        team.begin(checkpoint)
        _say_how(cell, trainer, options, report)
        model = _trained(cell, run, trainer, seconds, options, report, stop)
    # A model of several processes may hold layers that only work among them.
    return place(model, options.device) if team.size == 1 else load_weights(run, sha256(run.weights), options.device)


def _trained(cell: Cell, run: Run, trainer: Trainer, seconds: float, options: Options, report: Report, stop: StopSignals) -> nn.Module:
    """Trains from where the trainer stands, after so many seconds of training, and writes the results."""
    begun = saved = time.monotonic()
    start = trainer.images
    memory = PeakMemory(trainer.device)
    told = False

    def after_step(trainer: Trainer) -> None:
        nonlocal saved, told
        if trainer.why_eager and not told:
            report.say(f"{cell.name}: its training steps are not replayed as a graph: {trainer.why_eager}")
            told = True
        report.progress("training", trainer.step, trainer.total)
        now = time.monotonic()
        if stop.received or now - saved > options.checkpoint_seconds:
            trainer.check_finite()
            save(trainer, run, seconds + now - begun)
            saved = now
            stop.check()

    model = trainer.run(after_step)
    elapsed = time.monotonic() - begun
    write_atomically(run.curve, _curve_csv(trainer).encode())
    metadata = {"certbench": canonical({"spec": to_json(cell.spec), "key": cell.spec.key})}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(run.weights, safetensors.torch.save(weights, metadata))
    speed = (trainer.images - start) / elapsed
    timing = {
        "training_seconds": seconds + elapsed,
        "images_per_second": speed,
        "pairs_per_image": pairs_per_image(cell.method, DATASETS[cell.spec.dataset]),
        "seconds_per_epoch": len(trainer.chosen) / speed if speed else None,
        "attack_share": trainer.attack_share,
        "peak_memory_bytes": memory.read(),
    } | ({"why_eager": trainer.why_eager} if trainer.why_eager else {})
    write_json(run.path / "timing.json", timing)
    write_json(run.path / "training.json", {"state": "trained", "steps": trainer.total, "weights_sha256": sha256(run.weights)})
    for path in checkpoints(run.path):
        path.unlink()
    return model


def _say_how(cell: Cell, trainer: Trainer, options: Options, report: Report) -> None:
    """Tells what the options do that the result would not show."""
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    found = {type(module).__name__ for module in trainer.model.modules() if isinstance(module, kinds)}
    batch = cell.spec.train.batch
    largest = len(share(batch, 0, cell.devices))
    piece = min(options.micro_batch or largest, largest) * (cell.devices if cell.spec.train.sync_batchnorm else 1)
    if piece < batch and found:
        report.say(
            f"{cell.name}: {' and '.join(sorted(found))} see pieces of {piece} images, so the training differs from one "
            f"with whole steps of {batch}"
        )


class PeakMemory:
    """The largest memory in use since it was made: of the device on CUDA, else of the process, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that since the process began
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with contextlib.suppress(OSError, StopIteration, ValueError):
            line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _curve_csv(trainer: Trainer) -> str:
    columns = list(dict.fromkeys(name for row in trainer.curve for name in row))
    columns.append(columns.pop(columns.index("loss")))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(trainer.curve)
    return text.getvalue()


def certify(
    certification: Certification,
    model: nn.Module,
    sources: Mapping[str, Any],
    options: Options,
    report: Report,
    stop: StopSignals,
    team: Team | None = None,
) -> None:
    """Counts every image of a certification that is not on disk yet.

    Args:
        model: the base classifier of the run's weights file, on the device.
        sources: of the code that made it; recorded.
        team: the processes that share the images, this one among them; None: this one alone.

    Raises:
        BenchError: evidence of other weights, a base classifier that is refused, or a process of the team that ended.
        Interrupted: a signal came; finished images are on disk.
    """
    run = certification.subject
    spec = certification.spec
    data = _images(run.spec.dataset, "test", options)
    before = certification.environment()
    weights_sha256 = sha256(run.weights)
    end = certification.begin(weights_sha256)
    sampler = Sampler(model, run.spec.sigma, run.info.classes, spec.seed, options.batch, spec.sampling)
    sample = several(data, options.device)
    sampler.fit(sample)
    now = _describe(sources, data, options) | {"precision": sampler.arithmetic(sample[0])}
    done = set(certification.columns().index.tolist())
    if done and differs(before or {}, now, "data_md5"):
        raise BenchError(f"{certification.path} holds evidence of other test images; --rerun all starts over")
    expected = certification.expected()
    todo = [index for index in expected if index not in done]
    known, made_with = take_over(certification, weights_sha256, now, set(todo), report.say)
    before = environment.with_entries(before, made_with)
    write_json(certification.path / "environment.json", environment.with_history(before, now))
    left = [index for index in todo if index not in known]
    size = 1 if team is None or len(left) < 2 else team.size
    rows = count_images(sampler, data, spec, left[::size], options.device, stop.check)
    if team is not None and size > 1:
        rows = team.rows(run.path, weights_sha256, left, rows)
    for finished, index in enumerate(todo, start=len(done) + 1):
        stop.check()
        row, seconds = known.get(index) or next(rows)
        end = certification.append(row, seconds, end)
        report.progress("certifying", finished, len(expected))
    if (last := now | {"precision": sampler.arithmetic(sample[0])}) != now:  # with what a proposer left to its referee
        write_json(certification.path / "environment.json", environment.with_history(before, last))
    certification.seal()


def check_options(
    cells: Sequence[Cell], device_of: Callable[[Cell], torch.device], micro_batch: int | None, *, here: bool = True
) -> list[str]:
    """Every reason why these cells cannot be trained so, each once.

    Args:
        here: on this machine; else its devices say nothing of theirs.
    """
    problems = []
    for cell in cells:
        try:
            check_splittable(cell.method, cell.spec.method, micro_batch, cell.devices)
            device = device_of(cell)
            check_precision(cell.spec.train.precision, device)
            check_devices(cell.spec.train, device, here=here)
        except BenchError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


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
