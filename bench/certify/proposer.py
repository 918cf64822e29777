"""The network in an arithmetic that is faster than float32: it proposes classes, and decides none that is close."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.errors import BenchError, counted
from bench.smoothing import now
from bench.system.environment import float32_products, precisions, set_precisions

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHORT, LONG = 0.004, 0.2
"""Seconds of a pass: in less, it may be the host that takes the time; after more, more rows are not tried."""
GAIN = 1.03
"""Twice the rows are kept where each of them takes less time by this factor."""


@dataclass(frozen=True)
class Arithmetic:
    """How a proposer computes.

    Attributes:
        name: as recorded.
        dtype: of weights and images. tf32: float32 products are computed in TF32, which only CUDA devices do.
    """

    name: str
    dtype: torch.dtype
    tf32: bool = False

    @contextlib.contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Inside, CUDA's products are those of this arithmetic and cuDNN tries its algorithms out, once per shape of a pass."""
        if device.type != "cuda":
            yield
            return
        before, benchmark = precisions(), torch.backends.cudnn.benchmark
        try:
            torch.backends.cudnn.benchmark = True
            for setting in float32_products("cuda"):
                setting.fp32_precision = "tf32" if self.tf32 else "ieee"
            yield
        finally:
            torch.backends.cudnn.benchmark = benchmark
            set_precisions(before)


FLOAT32 = Arithmetic("float32", torch.float32)
REDUCED = {
    arithmetic.name: arithmetic
    for arithmetic in (
        Arithmetic("fp16", torch.float16),
        Arithmetic("bf16", torch.bfloat16),
        Arithmetic("tf32", torch.float32, tf32=True),
    )
}


class Proposer:
    """A copy of a network in one arithmetic and one layout of memory.

    Args:
        base: logits B K of B C H W, in evaluation mode.
        rows: of a forward pass; halved for good when memory runs out.

    Raises:
        Exception: whatever a stranger's network raises when it is copied or changed to another dtype; in float32, one that cannot be
            copied is used as it is.
    """

    def __init__(self, base: nn.Module, arithmetic: Arithmetic, layout: torch.memory_format, classes: int, rows: int) -> None:
        self.arithmetic, self.layout, self.classes, self.rows = arithmetic, layout, classes, rows
        try:
            self.network = copy.deepcopy(base).to(dtype=arithmetic.dtype, memory_format=layout).eval()  # type: ignore[call-overload]
        except Exception:
            if arithmetic is not FLOAT32:
                raise
            self.network = base

    def __str__(self) -> str:
        return self.arithmetic.name

    def logits(self, noisy: Tensor) -> Tensor:
        """Logits of any number of rows, in equal passes: R C H W -> R K, float32. Nothing in it waits for the device.

        Raises:
            BenchError: logits of another shape; memory that does not hold one row.
        """
        found = torch.empty((len(noisy), self.classes), device=noisy.device)
        with self.arithmetic.on(noisy.device):
            while True:
                try:
                    self._passes(noisy, found)
                    return found
                except torch.OutOfMemoryError:
                    if self.rows == 1:
                        raise no_memory(noisy) from None
                    self.rows = max(1, min(self.rows, len(noisy)) // 2)
                if noisy.is_cuda:
                    torch.cuda.empty_cache()

    def _passes(self, noisy: Tensor, found: Tensor) -> None:
        rows = math.ceil(len(noisy) / math.ceil(len(noisy) / self.rows))
        for start in range(0, len(noisy), rows):
            start = min(start, len(noisy) - rows)  # the last pass has as many rows as the others, a few of them a second time
            part = noisy[start : start + rows].to(self.arithmetic.dtype, memory_format=self.layout)
            logits = self.network(part)
            check_shape(logits, rows, self.classes)
            found[start : start + rows] = logits

    def seconds_per_row(self, noisy: Tensor, rows: int) -> float:
        """Of a pass of so many rows, after one that warms up.

        Raises:
            torch.OutOfMemoryError: memory does not hold it.
        """
        part, seconds = noisy[:rows], math.inf
        found = torch.empty((rows, self.classes), device=noisy.device)
        with self.arithmetic.on(noisy.device):
            before, self.rows = self.rows, rows
            try:
                self._passes(part, found)
                for _ in range(2):
                    begun = now(noisy.device)
                    self._passes(part, found)
                    seconds = min(seconds, now(noisy.device) - begun)
            finally:
                self.rows = before
        return seconds / rows

    def grow(self, noisy: Tensor, rows: int) -> None:
        """Takes the rows per pass that are fastest: from `rows` on, doubled for as long as that helps and memory holds them."""
        self.rows, best = rows, self.seconds_per_row(noisy, rows)
        with contextlib.suppress(torch.OutOfMemoryError):
            while 2 * rows <= len(noisy) and rows * best < LONG:
                rows *= 2
                seconds = self.seconds_per_row(noisy, rows)
                if seconds * GAIN < best:
                    self.rows, best = rows, seconds
                elif rows * seconds > SHORT:
                    break


def check_shape(logits: Tensor, rows: int, classes: int) -> None:
    """BenchError unless logits are of shape rows, classes."""
    if logits.shape != (rows, classes):
        raise BenchError(
            f"the base classifier gave logits of shape {tuple(logits.shape)} for {counted(rows, 'image')} of {classes} classes"
        )


def no_memory(noisy: Tensor) -> BenchError:
    """That one row, of B C H W, does not fit."""
    return BenchError(f"memory does not hold one forward pass of an image of {'x'.join(map(str, noisy.shape[1:]))}")


def telling_rows(base: nn.Module, noisy: Tensor, classes: int, rows: int, most: int) -> int:
    """Rows of a pass, from `rows` to `most`, that takes longer in float32 than it takes the host to start it, so that its time says
    something; fewer than `rows` where memory does not hold them.
    """
    with contextlib.suppress(Exception):  # as `fastest`
        proposer, held = Proposer(base, FLOAT32, LAYOUTS[0], classes, rows), True
        while rows > 1:
            try:
                seconds = rows * proposer.seconds_per_row(noisy, rows)
            except torch.OutOfMemoryError:
                rows, held = rows // 2, False
                continue
            if not held or 2 * rows > most or seconds > SHORT:
                break
            rows *= 2
    return rows


def fastest(base: nn.Module, arithmetic: Arithmetic, noisy: Tensor, classes: int, rows: int) -> tuple[float, Proposer] | None:
    """The proposer in the faster layout, and its seconds per row in passes of so many rows; None where the network does not run so."""
    timed: list[tuple[float, Proposer]] = []
    for layout in LAYOUTS:
        try:
            proposer = Proposer(base, arithmetic, layout, classes, rows)
            timed.append((proposer.seconds_per_row(noisy, rows), proposer))
        except Exception:  # whatever a stranger's forward raises on another dtype or layout, or memory that it does not fit into
            continue
    return min(timed, key=lambda item: item[0], default=None)
