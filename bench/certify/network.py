"""The classes that a base classifier gives: fast, the same for every shape of the passes, or refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.certify.folding import fold
from bench.certify.noise import block_rows
from bench.errors import BenchError

CLOSE = 1e-3
"""Where the two highest logits lie nearer than this share of the largest logit, the referee decides."""
DRIFT = CLOSE / 4
"""Logits that move further than this share of the largest one between two computations of the same row are refused."""
AUDITED_ROWS = 8
JUDGED_ROWS, JUDGED_FLOATS = 16, 256 * 3 * 64 * 64
"""Rows of a pass in float64: as many on a CPU and at the least, on a GPU as many as have so many floats, up to 256."""

CPU_FLOATS, CUDA_FLOATS = 400_000, 60_000_000  # of the images of one pass


def usual_batch(shape: Sequence[int], device: torch.device) -> int:
    """Rows of a forward pass for images of shape C H W: what suits the caches of a CPU core, or keeps a GPU busy.

    A block of noise is cut into equal passes on a CPU (500 for MNIST, 125 for CIFAR-10); a GPU takes several at once.
    """
    block, pixels = block_rows(shape), math.prod(shape)
    if device.type == "cuda":
        return min(2000, max(16, CUDA_FLOATS // pixels))
    return max(8, math.ceil(block / math.ceil(block * pixels / CPU_FLOATS)))


class Network:
    """A base classifier as CERTIFY uses it: a function of one noisy image at a time, in evaluation mode.

    float32 logits move in the last bits with the rows of a pass, its threads and the folding of batch norm. So passes only propose:
    where the two highest logits are close, the referee decides: the network as it was given, in float64 (in float32, if it does
    not run in float64, one row at a time). Classes therefore depend on none of these, as long as logits move by less than DRIFT,
    which every decision of the referee and the first rows of every image check.

    Args:
        base: logits B K of B C H W. It must not change while this object is in use, nor keep state between passes.
        classes: K.
        batch: rows of a forward pass; halved for good when memory runs out.

    Attributes:
        folded: passes run a copy of fewer operations.
        referee: dtype of the referee.
    """

    def __init__(self, base: nn.Module, classes: int, batch: int) -> None:
        self.base, self.classes, self.batch = base, classes, batch
        base.eval()
        _check_modes(base, "after eval()")
        self._fast = fold(base)
        self.folded = self._fast is not base
        self._exact, self.referee = base, torch.float32
        self._scale = 0.0
        self._layout: torch.memory_format | None = None

    def referee_in_float64(self, x: Tensor) -> None:
        """Makes the referee a copy in float64, if the network runs in it. x: any image, C H W."""
        try:
            exact = copy.deepcopy(self.base).double()
            exact(_twice(x.double()))
        except Exception:  # whatever a stranger's forward raises on float64
            return
        self._exact, self.referee = exact, torch.float64

    @property
    def fast(self) -> nn.Module:
        """The network that passes run."""
        return self._fast

    def adopt(self, fast: nn.Module, layout: torch.memory_format) -> None:
        """Passes run this copy of `fast` from now on, on images of its layout."""
        self._fast, self._layout = fast, layout

    @property
    def scale(self) -> float:
        """The largest absolute logit seen."""
        return self._scale

    def saw(self, logits: Tensor) -> None:
        """Takes note of the largest logit; BenchError if one is not finite."""
        # The largest logit so far: a row whose logits happen to cancel says little about how far they may move.
        self._scale = max(self._scale, _largest(logits))

    def begin(self) -> None:
        """Evaluation mode, whatever was done to the network since the last image."""
        for module in (self.base, self._fast, self._exact):
            module.eval()

    def end(self) -> None:
        """BenchError if a forward pass switched a module to training mode."""
        for module in (self.base, self._fast, self._exact):
            _check_modes(module, "after a forward pass")

    def logits(self, noisy: Tensor) -> Tensor:
        """Logits in float32, of any number of rows: B C H W -> B K. BenchError: of another shape or dtype."""
        return self._logits(self._fast, noisy if self._layout is None else noisy.contiguous(memory_format=self._layout))

    def classify(self, noisy: Tensor, audit: bool = False, logits: Tensor | None = None) -> Tensor:
        """The class of every row: B C H W -> B.

        Args:
            audit: compare the first rows with the referee, however clear they are.
            logits: those of `logits`, if they are known.

        Raises:
            BenchError: logits of another shape or dtype, not finite, or not a function of the row alone.
        """
        if logits is None:
            logits = self.logits(noisy)
        self.saw(logits)
        highest, order = logits.topk(min(2, self.classes), 1)
        close = highest[:, 0] - highest[:, -1] <= CLOSE * self._scale
        if audit:
            close[:AUDITED_ROWS] = True
        classes = order[:, 0]
        if len(rows := close.nonzero().flatten()):
            classes[rows] = self._judge(noisy[rows], logits[rows])
        return classes

    def _logits(self, network: nn.Module, noisy: Tensor) -> Tensor:
        """Logits of one forward pass, or of several where memory does not hold one."""
        if len(noisy) > self.batch:
            return torch.cat([self._logits(network, part) for part in torch.split(noisy, self.batch)])
        try:
            return self._checked(network(noisy), len(noisy))
        except torch.OutOfMemoryError:
            if len(noisy) == 1:
                raise BenchError(f"memory does not hold one forward pass of an image of {'x'.join(map(str, noisy.shape[1:]))}") from None
            self.batch = min(self.batch, len(noisy) // 2)
        if noisy.is_cuda:
            torch.cuda.empty_cache()
        return self._logits(network, noisy)

    def _checked(self, logits: Tensor, rows: int) -> Tensor:
        if logits.shape != (rows, self.classes):
            raise BenchError(f"the base classifier gave logits of shape {tuple(logits.shape)} for {rows} images of {self.classes} classes")
        if logits.dtype not in (torch.float32, torch.float64):
            raise BenchError(f"the base classifier gave logits of {logits.dtype}, whose many ties go to the lowest class; use float32")
        return logits

    def _judge(self, noisy: Tensor, logits: Tensor) -> Tensor:
        if self.referee == torch.float64:  # where what the rows of a pass do to each other's rounding decides nothing
            together = max(JUDGED_ROWS, min(256, JUDGED_FLOATS // noisy[0].numel())) if noisy.is_cuda else JUDGED_ROWS
            parts = [part if len(part) > 1 else _twice(part[0]) for part in torch.split(noisy.double(), together)]
        else:
            parts = list(torch.split(noisy, 1))
        exact = torch.cat([self._logits(self._exact, part) for part in parts])[: len(noisy)]
        _largest(exact)
        if not self._agree(exact, logits):
            raise self._reason(noisy, exact, logits)
        return exact.argmax(1)

    def _agree(self, one: Tensor, other: Tensor) -> bool:
        return bool((one - other).abs().max() <= DRIFT * self._scale)

    def _reason(self, noisy: Tensor, exact: Tensor, logits: Tensor) -> BenchError:
        """Why the logits of the same rows moved, as far as a few more passes tell."""
        moved = f"logits move by up to {float((exact - logits).abs().max()):.2g}"
        first = self._fast(noisy)
        if not all(self._agree(self._fast(noisy), first) for _ in range(4)):
            return BenchError(
                f"the base classifier gives the same noisy images other logits in each pass ({moved}): something random acts in "
                "evaluation, such as dropout"
            )
        row, mates = noisy[:1], noisy[:1].flip(-1).expand(7, *noisy.shape[1:])
        if not all(self._agree(self._fast(batch)[:1], first[:1]) for batch in (_twice(noisy[0]), torch.cat([row, mates]))):
            return BenchError(
                f"the logits that the base classifier gives to a noisy image depend on the other images of its pass ({moved}), such as "
                "by batch norm in training mode, so there is no one classifier to certify"
            )
        return BenchError(
            f"the base classifier's {moved} between {logits.dtype} and {exact.dtype}, where the largest is {self._scale:.2g}: too "
            "imprecise to count"
        )


def _twice(row: Tensor) -> Tensor:
    """One row as a batch of two: some networks fail on one, by a `squeeze` for instance."""
    return row.expand(2, *row.shape).contiguous(memory_format=torch.channels_last)


def _largest(logits: Tensor) -> float:
    """The largest absolute logit; BenchError if one is not finite, which the maximum shows without a pass of its own."""
    largest = float(logits.abs().max())
    if not math.isfinite(largest):
        raise BenchError("the base classifier gave logits that are not finite numbers, which would certify class 0 for free")
    return largest


def _check_modes(module: nn.Module, when: str) -> None:
    for name, part in module.named_modules():
        if part.training:
            raise BenchError(f"module {name or 'at the top'} ({type(part).__name__}) of the base classifier is in training mode {when}")
