"""The training loop: the one place that steps an optimiser."""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import math
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data import Images
from bench.datasets import DatasetInfo
from bench.distributed.group import Group, running_statistics
from bench.distributed.shares import pieces, share
from bench.errors import BenchError, Diverged, counted
from bench.method import Batch, Method, Terms
from bench.models import build, place
from bench.smoothing import Piecewise, SmoothedClassifier, now
from bench.spec import NAME, RunSpec, TrainSpec, derive, select_images
from bench.system.environment import float32_products, plain_float32
from bench.train.graph import Recorder, Recording, Unrecordable
from bench.train.stopwatch import Stopwatch
from bench.train.surveys import Keeper, Surveys, Witness, check_weights, checked

CurveRow = dict[str, float]
CURVE = ("epoch", "step", "lr", "loss")
"""Columns of the training curve that no term may be named as."""
REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
SMALLEST_SCALE = 2.0**-10  # of the loss in float16; it halves at each step without finite gradients
TIMED_EVERY = 10  # eager steps from one that is timed to the next
WORTH_RECORDING = 4  # steps with the same constants; a recording takes the host about as long as an eager step


class Trainer:
    """Trains one base classifier; can be stopped after any step and continued from `state()` to the same weights.

    Args:
        spec: the run. method: its loss.
        info, data: the data set and its training split, on the device.
        micro_batch: images per piece of a step, so that less is in memory at once; all at once if None. The method must be
            `separable`. Gradients are those of the unsplit step to rounding, except under batch norm, whose statistics are
            then those of a piece, and dropout, which draws piece by piece.
        group: the processes that share each step, of which this is one; None: no others. Each computes its rows of the same batch under
            the same noise, and one sum over all of them per step gives the whole batch's gradient. The method must be `separable`.
        recorder: records steps, so that they are replayed; None: every step is taken eagerly.
        layout: of images and weights in the network's passes; that which `layout_of` names if None.
        keeper: keeps the method's surveys; None: they live as long as the trainer.
        prior: gives the other model that they ask, when it is first asked; None: there is none.

    Attributes:
        step: optimiser steps taken. total: steps of the whole training. images: images seen by them.
        curve: one row per epoch of the recipe's clock (or per step, where a shortened training has fewer steps): epoch, step,
            learning rate, mean of each term, and their sum as `loss`.
        why_eager: why the steps are not replayed although there is a recorder; None as far as is known.
    """

    def __init__(
        self,
        spec: RunSpec,
        method: Method,
        info: DatasetInfo,
        data: Images,
        device: torch.device,
        *,
        micro_batch: int | None = None,
        group: Group | None = None,
        recorder: Recorder | None = None,
        layout: torch.memory_format | None = None,
        keeper: Keeper | None = None,
        prior: Callable[[], Witness] | None = None,
    ) -> None:
        train = spec.train
        if (size := 1 if group is None else group.size) != train.devices:
            raise BenchError(f"the training is one of {counted(train.devices, 'device')}, but {size} take part")
        check_splittable(method, spec.method, micro_batch, size)
        check_precision(train.precision, device)
        self.spec, self.method, self.data, self.micro_batch, self.group = spec, method, data, micro_batch, group
        self.chosen = torch.tensor(select_images(train.images, len(data)), dtype=torch.int64)
        self.per_epoch = math.ceil(len(self.chosen) / train.batch)
        self.total = self.per_epoch * train.epochs
        self.surveys = Surveys(spec, method, data, info.classes, self.total, keeper, prior)
        self.step = 0
        model = build(train.arch, info, derive(spec.seed, "init"), spec.sigma)
        if train.sync_batchnorm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        layout = layout or layout_of(train.precision, device)
        self.model = place(model, device, layout)
        generator = torch.Generator(device).manual_seed(derive(spec.seed, "noise"))
        self.g = SmoothedClassifier(self.model, spec.sigma, generator, reduced=REDUCED.get(train.precision), layout=layout)
        self.scaler = torch.amp.GradScaler(device.type) if train.precision == "fp16" else None
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=train.lr,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
            fused=True,
        )
        self.device = device
        self.why_eager = why_eager(train, micro_batch) if recorder else None
        self._recorder = None if self.why_eager else recorder
        self._recording: Recording | None = None
        self._eager_at = -1.0  # epoch of the last eager step of a whole batch
        self._stopwatch = Stopwatch(device)
        self._untimed = TIMED_EVERY - 2  # the first step warms up, the second is timed
        self.curve: list[CurveRow] = []
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._batches: Iterator[tuple[Tensor, Tensor, Tensor]] | None = None
        self._forked = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=self._forked):
            torch.manual_seed(derive(spec.seed, "ambient"))
            self._ambient = self._ambient_state()

    @property
    def epoch(self) -> int:
        """The recipe's clock at the coming step: the plain epoch number in a full training."""
        return self.spec.train.clock * self.step // self.total

    @property
    def images(self) -> int:
        epochs, steps = divmod(self.step, self.per_epoch)
        return epochs * len(self.chosen) + steps * self.spec.train.batch

    @property
    def attack_share(self) -> float | None:
        """Share of the timed steps that was spent in attacks; None before the first of them."""
        now(self.device)
        self._stopwatch.read()
        return self._stopwatch.attack_seconds / self._stopwatch.seconds if self._stopwatch.seconds else None

    def notes(self) -> list[str]:
        """What pieces and shares of steps do that the result would not show."""
        kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
        found = {type(module).__name__ for module in self.model.modules() if isinstance(module, kinds)}
        train = self.spec.train
        largest = len(share(train.batch, 0, train.devices))
        piece = min(self.micro_batch or largest, largest) * (train.devices if train.sync_batchnorm else 1)
        if piece == train.batch or not found:
            return []
        seen = " and ".join(sorted(found))
        return [f"{seen} see pieces of {counted(piece, 'image')}, so the training differs from one with whole steps of {train.batch}"]

    def curve_csv(self) -> str:
        """The training curve as a table: a column per term, `loss` last."""
        columns = list(dict.fromkeys(name for row in self.curve for name in row))
        columns.append(columns.pop(columns.index("loss")))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.curve)
        return text.getvalue()

    def run(self, after_step: Callable[[Trainer], None]) -> nn.Module:
        """Trains to the end; whatever `after_step` raises ends it early.

        Returns:
            the base classifier.

        Raises:
            Diverged: a term of the loss or a weight is not a finite number.
        """
        with torch.random.fork_rng(devices=self._forked), arithmetic(self.spec.train.precision):
            torch.random.set_rng_state(self._ambient[0])
            for device, state in zip(self._forked, self._ambient[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            self.model.train()
            try:
                while self.step < self.total:
                    self._advance()
                    self._ambient = self._ambient_state()
                    after_step(self)
            finally:
                self._batches = None  # ends the processes that decode; where the garbage collector does, torch waits 5 s for each
        if self._recording is not None:
            self._recording = None
            self.optimiser.zero_grad(set_to_none=True)  # gradients lie in the memory of the recordings
        self.check_finite()
        if self.group is not None:
            self.group.agree(self.model)
        return self.model

    def _ambient_state(self) -> list[Tensor]:
        """State of the global generators, which a network with dropout draws from."""
        return [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._forked)]

    def _advance(self) -> None:
        epoch = self.epoch
        lr = self.spec.train.lr_at(epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        if self.surveys.due(self.step):
            self.surveys.ask(self.model, self.step)
            self._batches = None  # what they found may change which images come next
        place, x, y = self._next()
        batch = Batch(
            x=x,
            y=y,
            epoch=float(epoch),
            epochs=float(self.spec.train.clock),
            index=place.to(y.device),
            surveys=self.surveys.of(place, y.device),
        )
        for name, term in self._take(batch).items():
            self._sums[name] = self._sums.get(name, 0) + term
        self._summed += 1
        self.step += 1
        if self.epoch != epoch or self.step == self.total:
            self._close_row(epoch, lr)

    def _take(self, batch: Batch) -> Terms:
        """One step of the optimiser, replayed if it may be, else eagerly; every `TIMED_EVERY`-th eager one is timed."""
        if self._recorder is not None:
            if (recording := self._recording_for(batch, self._recorder)) is not None:
                return recording(batch)
            return self._step(batch)
        self._untimed += 1
        if self._untimed < TIMED_EVERY:
            return self._step(batch)
        self._untimed = 0
        return self._timed_step(batch)

    def _recording_for(self, batch: Batch, recorder: Recorder) -> Recording | None:
        """The step at this epoch's constants; None where this step is to be taken eagerly.

        That is the last, shorter batch of an epoch; the first step at new constants, in which whatever is made on first use is made;
        and all where too few are left to be worth a recording.
        """
        if len(batch.y) < self.spec.train.batch:
            return None
        if self._recording is not None and self._recording.batch.epoch == batch.epoch:
            return self._recording
        self._recording = None
        clock = self.spec.train.clock
        left = -(-(self.epoch + 1) * self.total // clock) - self.step  # steps at this epoch
        if self._eager_at != batch.epoch or left < WORTH_RECORDING:
            self._eager_at = batch.epoch
            return None
        try:
            self._recording = Recording.of(self._timed_step, batch, recorder, self.g.generator)
        except Unrecordable as error:
            self._recorder, self.why_eager = None, str(error)
            self._stopwatch.forget()
        return self._recording

    def _timed_step(self, batch: Batch) -> Terms:
        with self._stopwatch.timed(self.g):
            return self._step(batch)

    def _step(self, batch: Batch) -> Terms:
        """One step of the optimiser; returns the terms of its loss in float64."""
        self.optimiser.zero_grad(set_to_none=True)
        terms = {name: term.double() for name, term in self._gradients(batch).items()}
        if self.scaler is None:
            self.optimiser.step()
        else:
            self.scaler.step(self.optimiser)
            self.scaler.update()
        return terms

    def _gradients(self, batch: Batch) -> Terms:
        """Adds the gradient of the loss to the parameters; returns its terms, detached.

        Args:
            batch: the images of the step that this process computes.
        """
        images = min(self.spec.train.batch, len(self.chosen) - self.step % self.per_epoch * self.spec.train.batch)
        rank, processes = (0, 1) if self.group is None else (self.group.rank, self.group.size)
        parts = pieces(images, rank, processes, self.micro_batch)
        if processes == 1 and len(parts) == 1:
            terms = check_terms(self.method.loss(self.g, batch))
            self._backward(terms)
            return {name: term.detach() for name, term in terms.items()}
        own = share(images, rank, processes)
        if self.group is not None:  # seeded at every step, so that no process but this one need be asked for its state at a checkpoint
            torch.manual_seed(derive(self.spec.seed, "ambient", self.step, rank))
        total: Terms = {}
        g = Piecewise(self.g, images, own)
        for part in parts:
            g.take(part.rows)
            rows = slice(part.rows.start - own.start, part.rows.stop - own.start)
            terms = {name: part.weight * term for name, term in check_terms(self.method.loss(g, batch.rows(rows))).items()}
            self._backward(terms)
            for name, term in terms.items():
                total[name] = total.get(name, 0) + term.detach()
        return total if self.group is None else self._summed_over(self.group, total, sum(part.weight for part in parts))

    def _backward(self, terms: Terms) -> None:
        loss = torch.stack(list(terms.values())).sum()
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))

    @torch.no_grad()
    def _summed_over(self, group: Group, terms: Terms, weight: float) -> Terms:
        """Gradients and terms of the whole batch from those of its shares, and the mean of what batch norm has seen of it."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        statistics = running_statistics(self.model)
        values = list(terms.values())
        group.sum([*gradients, *(value.mul_(weight) for value in statistics), *values])
        return terms

    def _next(self) -> tuple[Tensor, Tensor, Tensor]:
        """The coming batch, or this process's share of it, as places, images and labels: a fresh shuffle per epoch, the last batch kept."""
        epoch, position = divmod(self.step, self.per_epoch)
        if self._batches is None or not position:
            train, seed = self.spec.train, derive(self.spec.seed, "augment", epoch)
            order, size = self._order(epoch), train.batch
            if self.group is not None:
                batches = torch.split(order, size)
                shares = [share(len(batch), self.group.rank, self.group.size) for batch in batches]
                order = torch.cat([batch[own.start : own.stop] for batch, own in zip(batches, shares, strict=True)])
                size = len(shares[0])
            found = self.data.batches(order, size, augment=train.augment, seed=seed, first=position)
            places = torch.split(order, size)[position:]
            self._batches = ((place, x, y) for place, (x, y) in zip(places, found, strict=True))
        return next(self._batches)

    def _order(self, epoch: int) -> Tensor:
        """The images of a pass as they come: each once, or as the method weights them since the pass or its last survey began."""
        begun = max(epoch * self.per_epoch, self.surveys.begun(self.step))
        weights = self.method.weights(self.surveys.labels, self.surveys.right, float(self.spec.train.clock * begun // self.total))
        if weights is None:
            generator = torch.Generator().manual_seed(derive(self.spec.seed, "order", epoch))
            return self.chosen[torch.randperm(len(self.chosen), generator=generator)]
        generator = torch.Generator().manual_seed(derive(self.spec.seed, "order", epoch, begun))
        size = len(self.chosen)
        return self.chosen[torch.multinomial(check_weights(weights, size), size, replacement=True, generator=generator)]

    def _close_row(self, epoch: int, lr: float) -> None:
        means = {name: float(total) / self._summed for name, total in self._sums.items()}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise Diverged(f"term {name} of the loss became {mean} in epoch {epoch}, by step {self.step} of {self.total}")
        if self.scaler is not None and self.scaler.get_scale() < SMALLEST_SCALE:
            raise Diverged(f"no gradient is finite in float16, however small the loss is scaled, by step {self.step} of {self.total}")
        self._stopwatch.read()
        self.curve.append({"epoch": epoch, "step": self.step, "lr": lr, **means, "loss": sum(means.values())})
        self._sums, self._summed = {}, 0

    def check_finite(self) -> None:
        """Diverged if a running term or a weight is not a finite number."""
        for name, total in self._sums.items():
            if not math.isfinite(float(total)):
                raise Diverged(f"term {name} of the loss became {float(total)} by step {self.step} of {self.total}")
        for name, tensor in self.model.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise Diverged(f"weight {name} is not finite after step {self.step} of {self.total}")

    def state(self) -> dict[str, Any]:
        """Everything that the coming steps depend on, as tensors and plain values: live ones, to be written before the next step."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.g.generator.get_state(),
            "ambient": self._ambient,
            "curve": self.curve,
            "sums": self._sums,
            "summed": self._summed,
            **({"surveys": [list(taken) for taken in self.surveys.taken]} if self.surveys.taken else {}),
            **({} if self.scaler is None else {"scaler": self.scaler.state_dict()}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state()` gave."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.g.generator.set_state(state["generator"].cpu())
        self._ambient = [tensor.cpu() for tensor in state["ambient"]]
        self.step, self.curve = state["step"], state["curve"]
        self._sums, self._summed = state["sums"], state["summed"]
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.surveys.restore(state.get("surveys", []))
        self._batches = self._recording = None
        self._eager_at = -1.0


def check_splittable(method: Method, name: str, micro_batch: int | None, devices: int = 1) -> None:
    """BenchError if a step of this method cannot be computed in pieces of so many images, or on so many devices."""
    flags = [f"--micro-batch {micro_batch}"] * (micro_batch is not None) + [f"--devices-per-cell {devices}"] * (devices > 1)
    if micro_batch is not None and micro_batch < 1:
        raise BenchError(f"--micro-batch {micro_batch} must be at least 1")
    if flags and not method.separable:
        raise BenchError(f"{' '.join(flags)}: {name} does not declare its loss a mean over images (separable = True)")
    if devices > 1 and checked(method):
        raise BenchError(f"--devices-per-cell {devices}: {name} asks its model about the training images, which only one device can do")


def why_eager(train: TrainSpec, micro_batch: int | None) -> str | None:
    """Why the steps of such a training cannot be replayed, whatever its method; None if nothing is known against it."""
    if train.devices > 1:
        return f"{train.devices} devices add up their gradients in each step"
    if micro_batch is not None:
        return "its steps are computed in pieces"
    if train.precision == "fp16":
        return "float16 leaves out steps by what it finds in the gradients"
    return None


def layout_of(precision: str, device: torch.device) -> torch.memory_format:
    """The layout in which a network's passes are fastest, as far as has been measured.

    Convolutions run about 1.5 to 2 times faster on a CPU in channels-last. On CUDA, convolutions in plain float32 are answered by Fourier
    transforms in channels-last; ResNet-110's forward pass is 2.9 times faster in NCHW (H200). The values are the same to rounding.
    """
    return torch.contiguous_format if device.type == "cuda" and precision == "float32" else torch.channels_last


def check_precision(precision: str, device: torch.device) -> None:
    """BenchError if a device does not compute in this precision."""
    if precision == "tf32" and device.type != "cuda":
        raise BenchError(f"train.precision=tf32 needs a CUDA device, not {device.type}; there is float32 or bf16")


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Inside, float32 products are computed in float32, whatever was set before; on CUDA in TF32 where that was asked for."""
    with plain_float32():
        for setting in float32_products("cuda") if precision == "tf32" else ():
            setting.fp32_precision = "tf32"
        yield


def check_terms(terms: object) -> Terms:
    """What a loss returned, if it is named scalars.

    Raises:
        BenchError: it is not; the sentence says what is wrong.
    """
    if not isinstance(terms, dict) or not terms:
        raise BenchError(f"the loss must return a dict of named terms, not {type(terms).__name__}")
    for name, term in terms.items():
        if not isinstance(name, str) or not NAME.match(name) or name in CURVE:
            raise BenchError(f"term {name!r} is no name for a term: lower case letters, digits, - and _, but none of {', '.join(CURVE)}")
        if not isinstance(term, Tensor) or term.dim() != 0:
            what = f"a tensor of shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise BenchError(f"term {name!r} must be a scalar tensor, not {what}")
    return terms


def line_of(error: BaseException, method: Method) -> str:
    """` (mine.py, line 21)`: the last line of the method's own file that an exception passed through; empty if there is none."""
    file = inspect.getsourcefile(type(method))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
