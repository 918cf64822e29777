"""One cell end to end: prepare, train, certify, keep; it continues from whatever is on disk."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import nn

from bench.certify import Sampler, count_images, several
from bench.certify.network import usual_batch
from bench.data import Images
from bench.datasets import DATASETS, DatasetInfo
from bench.distributed.group import fabric_version
from bench.distributed.team import Team, check_devices, threads_shared
from bench.errors import BenchError, Diverged, Interrupted, counted
from bench.evidence.sources import differs
from bench.files import claims
from bench.files.writing import sha256, write_json
from bench.matrix.plan import Cell, name_of
from bench.matrix.resume import load_weights, restore, save
from bench.matrix.surveys import Files
from bench.matrix.takeover import take_over
from bench.matrix.task import Options, Outcome, Task
from bench.models import place
from bench.spec import canonical, select_images, to_json
from bench.store.runs import Store
from bench.store.subject import Certification
from bench.store.surveys import file_name
from bench.store.work import Work, hold
from bench.system import environment
from bench.system.guards import kind_of, out_of_memory, settings_kept
from bench.system.signals import StopSignals
from bench.train.graph import CudaGraphs
from bench.train.loop import Trainer, arithmetic, line_of
from bench.train.passes import pairs_per_image
from bench.train.stopwatch import PeakMemory
from bench.train.surveys import Witness

WAIT_SECONDS = 0.5
"""From one look at a cell that another process trains to the next."""


class Report(Protocol):
    """Whoever wants to know how a cell goes on."""

    def progress(self, phase: str, done: int, total: int, note: str = "") -> None:
        """`phase` is training, surveying, prior (the training of another cell) or certifying; counts are steps or images.

        Args:
            note: the same in words, if there is more to say.
        """

    def say(self, text: str) -> None:
        """One line that the user should see."""


def run_cell(cell: Cell, store: Store, options: Options, report: Report, stop: StopSignals) -> Outcome:
    """Brings a cell to its end, or records why it did not get there.

    Returns:
        done, diverged, failed, or running where another process is at it; the reason was said, and that of a failure is in the run's
        failure.json, unless the disk is what failed.

    Raises:
        Interrupted: a signal came; everything finished is on disk.
    """
    try:
        with (
            threads_shared(cell.devices, options.device),
            hold(store.run(cell.spec), cell.certify) as work,
            arithmetic(cell.spec.train.precision),  # also around what describes the environment and what compares settings
            settings_kept() as check_settings,
        ):
            if work.before:
                age = "which is gone" if work.before.dead else f"whose last heartbeat is {work.before.age:.0f} s old"
                report.say(f"{cell.name}: taken over from {work.before}, {age}")

            return _attempt(cell, store, work, options, _Watched(report, work, check_settings), stop)
    except (claims.Claimed, claims.Fenced) as error:
        report.say(f"{cell.name}: {error}")
        return Outcome(state="running", reason=str(error))
    except Interrupted:
        raise
    except (BenchError, OSError) as error:
        report.say(f"{cell.name}: failed: {error}")
        return Outcome(state="failed", kind=kind_of(error), reason=str(error))


class _Watched:
    """A report that also tells the claim, and looks whether the method left the process as it was.

    Args:
        part: what a report calls all phases of a cell that is a part of another cell's work.
    """

    def __init__(self, report: Report, work: Work, check_settings: Callable[[], None], part: str = "") -> None:
        self.report, self.work, self.check_settings, self.part, self.say = report, work, check_settings, part, report.say

    def progress(self, phase: str, done: int, total: int, note: str = "") -> None:
        self.check_settings()
        self.work.note(phase, done, total)
        if self.part:
            phase, note = self.part, f"{self.part}: {note}" if note else ""
        self.report.progress(phase, done, total, note)


def _attempt(cell: Cell, store: Store, work: Work, options: Options, report: Report, stop: StopSignals) -> Outcome:
    """Trains and certifies; what goes wrong on the way is recorded."""
    try:
        state = work.begin()
        if state in ("done", "diverged"):
            return Outcome(state=state)
        with _team(cell, work, options, stop) as team:
            model = train(cell, store, work, options, report, stop, team)
            try:
                certify(work.certification, model, cell.sources, options, report, stop, team)
                return Outcome(state="done")
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
        # Here and not above, where the error still keeps the tensors of its frames, and helpers go on with the old number.
        batch = smaller_batch(options.batch, work.run.info, options.device)
        options = dataclasses.replace(options, batch=batch)
        told = f"certification goes on with {counted(batch, 'sample')} per pass, which changes no count"
        report.say(f"{cell.name}: out of memory; {told}")
        with _team(cell, work, options, stop) as team:
            certify(work.certification, model, cell.sources, options, report, stop, team)
        return Outcome(state="done")
    except (Interrupted, KeyboardInterrupt, claims.Fenced):
        raise
    except Diverged as error:
        work.diverge(str(error))
        report.say(f"{cell.name}: diverged: {error}")
        return Outcome(state="diverged", reason=str(error))
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}{line_of(error, cell.method)}"
        kind = kind_of(error)
        if kind == "oom" and work.weights_sha256 is None:
            reason += "; give the training more memory, or run fewer cells side by side (--jobs)"
            if options.device.type == "cuda" and options.graph:
                reason += ", or without a graph (--no-graph), which holds the memory of a step"
        kept = work.fail(kind, reason, traceback.format_exc())
        report.say(f"{cell.name}: failed: {reason}" + (f"; the trace is in {work.run.path / 'failure.json'}" if kept else ""))
        return Outcome(state="failed", kind=kind, reason=reason)


def smaller_batch(batch: int | None, info: DatasetInfo, device: torch.device) -> int:
    """Samples per certification pass after one that did not fit into memory."""
    return max(1, (batch or usual_batch(info.shape, device)) // 2)


def _team(cell: Cell, work: Work, options: Options, stop: StopSignals) -> Team:
    """The processes of a cell; this one alone, where the cell is for one device.

    Raises:
        BenchError: the machine that the cell came to has too few devices.
    """
    check_devices(cell.spec.train, options.device)
    return Team(Task.of(cell, work.run.path, options, cell.plugins).to_text(), cell.devices, options.device, stop.check)


def _trained_prior(cell: Cell, store: Store, options: Options, report: Report, stop: StopSignals) -> Witness:
    """The model of a cell that another one asks: from disk, or trained here and now; if another process is at it, it is waited for.

    Raises:
        BenchError: its training diverged or failed.
    """
    run, told = store.run(cell.spec), False
    while not run.training():
        stop.check()
        try:
            with hold(run, cell.certify) as work, settings_kept() as check_settings:
                if work.begin() == "diverged":
                    break
                report.say(f"{cell.name}: trained first, for what is asked of it")
                own = _Watched(report, work, check_settings, "prior")
                with _team(cell, work, options, stop) as team:
                    train(cell, store, work, options, own, stop, team)
        except claims.Claimed as error:
            if not told:
                report.say(f"{cell.name}: waited for: {error}")
                told = True
            time.sleep(WAIT_SECONDS)
        except Diverged as error:
            with hold(run, cell.certify) as work:
                work.diverge(str(error))
    training = run.training() or {}
    if training.get("state") != "trained":
        raise BenchError(f"the model of {cell.name}, which is asked, diverged: {training.get('reason')}")
    sha256 = str(training["weights_sha256"])
    return Witness(load_weights(run, sha256, options.device), cell.spec.sigma, sha256)


def train(cell: Cell, store: Store, work: Work, options: Options, report: Report, stop: StopSignals, team: Team) -> nn.Module:
    """The trained base classifier, from disk if it is there."""
    if weights_sha256 := work.weights_sha256:
        return load_weights(work.run, weights_sha256, options.device)
    data = options.images(cell.spec.dataset, "train").shared(cell.devices)
    if not select_images(cell.spec.train.images, len(data)):
        raise BenchError(f"images={cell.spec.train.images} selects none of the {len(data)} training images that are there")
    made_with = _environment(cell, options, data, work.begun_with())
    with team.training() as (group, device):
        recorder = CudaGraphs(device) if options.graph and device.type == "cuda" else None
        info, pixels = DATASETS[cell.spec.dataset], data.to(device)
        keeper = Files(work, partial(report.progress, "surveying"), stop.check)
        prior = partial(_trained_prior, cell.prior, store, options, report, stop) if cell.prior else None
        how: dict[str, Any] = {"micro_batch": options.micro_batch, "group": group, "recorder": recorder, "keeper": keeper, "prior": prior}
        trainer = Trainer(cell.spec, cell.method, info, pixels, device, **how)
        seconds, checkpoint = restore(trainer, work, report.say)
        work.record_environment(made_with)  # now that it goes on, and not where it was refused
        team.begin(checkpoint)
        for note in trainer.notes():
            report.say(f"{cell.name}: {note}")
        model = _trained(trainer, seconds, work, options, report, stop, keeper)
    # A model of several processes may hold layers that only work among them.
    return place(model, options.device) if team.size == 1 else load_weights(work.run, sha256(work.run.weights), options.device)


def _environment(cell: Cell, options: Options, data: Images, before: dict[str, Any] | None) -> dict[str, Any]:
    """What a training is made with; refuses to continue one that was begun with another source or other data."""
    used = {"presets_of": cell.presets_of, "micro_batch": options.micro_batch, "no_graph": not options.graph}
    how = {name: value for name, value in used.items() if value} | ({"fabric": fabric_version()} if cell.devices > 1 else {})
    now = _describe(cell.sources, data, options) | how
    fields = ("method_sha256", "network_code_sha256", "engine_sha256", "data_md5")
    changed = [name for name in fields if differs(before or {}, now, name)]
    if changed and not options.allow_changed_source:
        raise BenchError(
            f"the training of {cell.name} was begun with another {' and '.join(changed)}; "
            "finish it with the old one, start over with --rerun all, or mix them with --allow-changed-source"
        )
    return environment.with_history(before, now)


def _describe(sources: Mapping[str, Any], data: Images, options: Options) -> dict[str, Any]:
    """The environment, with what is unusual about the data."""
    differs = {"data_differs": list(data.differences)} if data.differences else {}
    return environment.describe(options.device, sources, data.checksums) | differs


def _trained(trainer: Trainer, seconds: float, work: Work, options: Options, report: Report, stop: StopSignals, keeper: Files) -> nn.Module:
    """Trains from where the trainer stands, after so many seconds of training, and writes the results."""
    begun = saved = time.monotonic()
    start, spec = trainer.images, trainer.spec
    memory = PeakMemory(trainer.device)
    told = False

    def after_step(trainer: Trainer) -> None:
        nonlocal saved, told
        if trainer.why_eager and not told:
            report.say(f"{name_of(spec)}: its training steps are not replayed as a graph: {trainer.why_eager}")
            told = True
        report.progress("training", trainer.step, trainer.total, _standing(trainer))
        now = time.monotonic()
        if stop.received or now - saved > options.checkpoint_seconds:
            checkpoint()
            saved = now
            stop.check()

    def checkpoint() -> None:
        trainer.check_finite()
        save(trainer, work, seconds + time.monotonic() - begun)

    keeper.before = checkpoint
    model = trainer.run(after_step)
    elapsed = time.monotonic() - begun
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"certbench": canonical({"spec": to_json(spec), "key": spec.key})}
    speed = (trainer.images - start) / elapsed
    timing = {
        "training_seconds": seconds + elapsed,
        "images_per_second": speed,
        "pairs_per_image": pairs_per_image(trainer.method, DATASETS[spec.dataset]),
        "seconds_per_epoch": len(trainer.chosen) / speed if speed else None,
        "attack_share": trainer.attack_share,
        "peak_memory_bytes": memory.read(),
    } | ({"why_eager": trainer.why_eager} if trainer.why_eager else {})
    if trainer.surveys.taken:
        timing["survey_passes_per_image"] = trainer.surveys.passes / trainer.images
    surveys = {file_name(name, epoch): sha256 for name, epoch, sha256 in trainer.surveys.taken}
    work.finish_training(trainer.curve_csv(), safetensors.torch.save(weights, metadata), timing, trainer.total, surveys)
    return model


def _standing(trainer: Trainer) -> str:
    """`epoch 2/3, loss 0.512`. The loss is the last one of the curve, which is on the host already: nothing waits for the device."""
    epochs = trainer.spec.train.epochs
    at = f"epoch {min(epochs, 1 + trainer.step // trainer.per_epoch)}/{epochs}" if epochs > 1 else f"step {trainer.step}/{trainer.total}"
    return at + (f", loss {trainer.curve[-1]['loss']:.3f}" if trainer.curve else "")


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
    data = options.images(run.spec.dataset, "test")
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
    left = [index for index in todo if index not in known]
    # What counts no row is no part of what they were made with.
    write_json(certification.path / "environment.json", environment.with_history(before, now) if left else before or now)
    size = 1 if team is None or len(left) < 2 else team.size
    rows = count_images(sampler, data, spec, left[::size], options.device, stop.check)
    if team is not None and size > 1:
        rows = team.rows(weights_sha256, left, rows)
    for finished, index in enumerate(todo, start=len(done) + 1):
        stop.check()
        row, seconds = known.get(index) or next(rows)
        end = certification.append(row, seconds, end)
        report.progress("certifying", finished, len(expected))
    if left and (last := now | {"precision": sampler.arithmetic(sample[0])}) != now:  # with what a proposer left to its referee
        write_json(certification.path / "environment.json", environment.with_history(before, last))
    certification.seal()
