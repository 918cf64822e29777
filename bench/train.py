"""The training loop: the one place that steps an optimiser."""

from __future__ import annotations

import contextlib
import inspect
import math
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data import Images
from bench.datasets import DatasetInfo
from bench.errors import BenchError, Diverged
from bench.method import Batch, Method, Terms
from bench.models import build, place
from bench.smoothing import Piecewise, SmoothedClassifier, now
from bench.spec import NAME, RunSpec, derive, select_images

CurveRow = dict[str, float]
CURVE = ("epoch", "step", "lr", "loss")
"""Columns of the training curve that no term may be named as."""
TIMED_EVERY = 10  # steps from one that is timed to the next; on CUDA a timed step waits for the device


class Trainer:
    """Trains one base classifier; can be stopped after any step and continued from `state()` to the same weights.

    Args:
        spec: the run. method: its loss.
        info, data: the data set and its training split, on the device.
        micro_batch: images per piece of a step, so that less is in memory at once; all at once if None. The method must be
            `separable`. Gradients are those of the unsplit step to rounding, except under batch norm, whose statistics are
            then those of a piece, and dropout, which draws piece by piece.

    Attributes:
        step: optimiser steps taken. total: steps of the whole training. images: images seen by them.
        curve: one row per epoch of the recipe's clock (or per step, where a shortened training has fewer steps): epoch, step,
            learning rate, mean of each term, and their sum as `loss`.
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
    ) -> None:
        check_splittable(method, spec.method, micro_batch)
        check_precision(spec.train.precision, device)
        self.spec, self.method, self.data, self.micro_batch = spec, method, data, micro_batch
        train = spec.train
        self.chosen = torch.tensor(select_images(train.images, len(data)), dtype=torch.int64)
        self.per_epoch = math.ceil(len(self.chosen) / train.batch)
        self.total = self.per_epoch * train.epochs
        self.step = 0
        self.model = place(build(train.arch, info, derive(spec.seed, "init")), device)
        generator = torch.Generator(device).manual_seed(derive(spec.seed, "noise"))
        self.g = SmoothedClassifier(self.model, spec.sigma, generator, bfloat16=train.precision == "bf16")
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=train.lr,
            momentum=train.momentum,
            nesterov=train.nesterov,
            weight_decay=train.weight_decay,
            fused=True,
        )
        self.device = device
        self.timed_seconds = self.timed_attack_seconds = 0.0
        self._untimed = TIMED_EVERY - 2  # the first step warms up, the second is timed
        self.curve: list[CurveRow] = []
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self._batches: Iterator[tuple[Tensor, Tensor]] | None = None
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
        return self.timed_attack_seconds / self.timed_seconds if self.timed_seconds else None

    def compile(self) -> str | None:
        """Lets the base classifier's passes go through `torch.compile` until the training ends, if a trial pass forward and back works.

        Returns:
            why it does not, None if it does.
        """
        self.model.compile()
        try:
            with self.g.frozen(), torch.enable_grad(), torch.random.fork_rng(devices=self._forked):
                point = self.data.images(self.chosen[:2].to(self.device)).requires_grad_()
                torch.autograd.grad(self.g.logits(point).sum(), point)
        except Exception as error:  # a tool chain may raise anything
            self._uncompile()
            return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        return None

    def _uncompile(self) -> None:
        self.model._compiled_call_impl = None  # torch has no public way back

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
            while self.step < self.total:
                self._timed_advance()
                self._ambient = self._ambient_state()
                after_step(self)
        self._uncompile()
        self.check_finite()
        return self.model

    def _ambient_state(self) -> list[Tensor]:
        """State of the global generators, which a network with dropout draws from."""
        return [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._forked)]

    def _timed_advance(self) -> None:
        """One step, every `TIMED_EVERY`-th with a look at the clock."""
        self._untimed += 1
        if self._untimed < TIMED_EVERY:
            self._advance()
            return
        self._untimed, self.g.attack_seconds = 0, 0.0
        begun = now(self.device)
        self._advance()
        self.timed_seconds += now(self.device) - begun
        self.timed_attack_seconds += self.g.attack_seconds
        self.g.attack_seconds = None

    def _advance(self) -> None:
        epoch = self.epoch
        lr = self.spec.train.lr_at(epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        x, y = self._next()
        batch = Batch(x=x, y=y, epoch=float(epoch))
        self.optimiser.zero_grad(set_to_none=True)
        for name, term in self._gradients(batch).items():
            self._sums[name] = self._sums.get(name, 0) + term.double()
        self.optimiser.step()
        self._summed += 1
        self.step += 1
        if self.epoch != epoch or self.step == self.total:
            self._close_row(epoch, lr)

    def _gradients(self, batch: Batch) -> Terms:
        """Adds the gradient of the loss to the parameters; returns its terms, detached."""
        images = len(batch.y)
        if self.micro_batch is None or self.micro_batch >= images:
            terms = check_terms(self.method.loss(self.g, batch))
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            return {name: term.detach() for name, term in terms.items()}
        total: Terms = {}
        g = Piecewise(self.g, images)
        for start in range(0, images, self.micro_batch):
            rows = slice(start, min(start + self.micro_batch, images))
            g.take(rows)
            piece = Batch(x=batch.x[rows], y=batch.y[rows], epoch=batch.epoch)
            share = len(piece.y) / images
            terms = {name: share * term for name, term in check_terms(self.method.loss(g, piece)).items()}
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            for name, term in terms.items():
                total[name] = total.get(name, 0) + term.detach()
        self.g.attack_seconds = g.attack_seconds
        return total

    def _next(self) -> tuple[Tensor, Tensor]:
        """The coming batch, images and labels: a fresh shuffle per epoch, the last batch kept."""
        epoch, position = divmod(self.step, self.per_epoch)
        if self._batches is None or not position:
            generator = torch.Generator().manual_seed(derive(self.spec.seed, "order", epoch))
            order = self.chosen[torch.randperm(len(self.chosen), generator=generator)]
            train, seed = self.spec.train, derive(self.spec.seed, "augment", epoch)
            self._batches = self.data.batches(order, train.batch, augment=train.augment, seed=seed, first=position)
        return next(self._batches)

    def _close_row(self, epoch: int, lr: float) -> None:
        means = {name: float(total) / self._summed for name, total in self._sums.items()}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise Diverged(f"term {name} of the loss became {mean} in epoch {epoch}, by step {self.step} of {self.total}")
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
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state()` gave."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.g.generator.set_state(state["generator"].cpu())
        self._ambient = [tensor.cpu() for tensor in state["ambient"]]
        self.step, self.curve = state["step"], state["curve"]
        self._sums, self._summed = state["sums"], state["summed"]
        self._batches = None


def check_splittable(method: Method, name: str, micro_batch: int | None) -> None:
    """BenchError if a step of this method cannot be computed in pieces of so many images."""
    if micro_batch is None:
        return
    if micro_batch < 1:
        raise BenchError(f"--micro-batch {micro_batch} must be at least 1")
    if not method.separable:
        raise BenchError(f"--micro-batch {micro_batch}: {name} does not declare its loss a mean over images (separable = True)")


def check_precision(precision: str, device: torch.device) -> None:
    """BenchError if a device does not compute in this precision."""
    if precision == "tf32" and device.type != "cuda":
        raise BenchError(f"train.precision=tf32 needs a CUDA device, not {device.type}; there is float32 or bf16")


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Inside, float32 products on CUDA are TF32 where that was asked for, and else float32; convolutions would be TF32 by default."""
    settings: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


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


class _Counter(nn.Module):
    """A tiny classifier that counts the rows that pass through it."""

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        self.linear = nn.Linear(info.shape[0], info.classes)
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def pairs_per_image(method: Method, info: DatasetInfo) -> float:
    """Forward and backward passes per training image in the last epoch: the cost that ACR is bought with.

    Counted by running the loss once, not declared.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = _Counter(info)
        batch = Batch(x=torch.rand(2, *info.shape), y=torch.arange(2) % info.classes, epoch=float(info.train.clock - 1))
        method.loss(SmoothedClassifier(base, info.sigmas[0], generator), batch)
    return base.rows / 2
