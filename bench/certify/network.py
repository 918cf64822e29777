"""The classes that a base classifier gives: fast, the same for every shape of the passes, or refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.certify.audit import CLOSE, DRIFT, Audit, largest, twice
from bench.certify.folding import fold
from bench.certify.noise import block_rows
from bench.certify.proposer import check_shape, no_memory
from bench.errors import BenchError

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
        fast: the network that passes run. folded: it is a copy of fewer operations.
        scale: the largest absolute logit seen.
        referee: dtype of the referee.
        audit: looks on, if there is one, and explains what it or the referee refuses.
    """

    def __init__(self, base: nn.Module, classes: int, batch: int) -> None:
        self.base, self.classes, self.batch = base, classes, batch
        base.eval()
        _check_modes(base, "after eval()")
        self.fast = fold(base)
        self.folded = self.fast is not base
        self._exact, self.referee = base, torch.float32
        self.scale = 0.0
        self._layout: torch.memory_format | None = None
        self.audit: Audit | None = None

    def referee_in_float64(self, x: Tensor) -> None:
        """Makes the referee a copy in float64, if the network runs in it. x: any image, C H W."""
        try:
            exact = copy.deepcopy(self.base).double()
            exact(twice(x.double()))
        except Exception:  # whatever a stranger's forward raises on float64
            return
        self._exact, self.referee = exact, torch.float64

    def audited(self, sigma: float, sampling: str, seed: int) -> Audit:
        """Gives the network its audit, once it is known what its passes run."""
        self.audit = Audit(self, sigma, sampling, seed)
        return self.audit

    def adopt(self, fast: nn.Module, layout: torch.memory_format) -> None:
        """Passes run this copy of `fast` from now on, on images of its layout."""
        self.fast, self._layout = fast, layout

    def saw(self, logits: Tensor) -> None:
        """Takes note of the largest logit; BenchError if one is not finite."""
        # The largest logit so far: a row whose logits happen to cancel says little about how far they may move.
        self.scale = max(self.scale, largest(logits))

    def begin(self) -> None:
        """Evaluation mode, whatever was done to the network since the last image."""
        for module in (self.base, self.fast, self._exact):
            module.eval()

    def end(self) -> None:
        """BenchError if a forward pass switched a module to training mode."""
        for module in (self.base, self.fast, self._exact):
            _check_modes(module, "after a forward pass")

    def logits(self, noisy: Tensor) -> Tensor:
        """Logits in float32, of any number of rows: B C H W -> B K. BenchError: of another shape or dtype."""
        filled = _filled(noisy)
        filled = filled if self._layout is None else filled.contiguous(memory_format=self._layout)
        return self._logits(self.fast, filled)[: len(noisy)]

    def classify(self, noisy: Tensor, first: int = 1, logits: Tensor | None = None) -> Tensor:
        """The class of every row: B C H W -> B.

        Args:
            first: place of the first row among all copies of the image. The first of all are judged, however clear they are.
            logits: those of `logits`, if they are known.

        Raises:
            BenchError: logits of another shape or dtype, not finite, or not a function of the row alone.
        """
        if logits is None:
            logits = self.logits(noisy)
        self.saw(logits)
        highest, order = logits.topk(min(2, self.classes), 1)
        close = highest[:, 0] - highest[:, -1] <= CLOSE * self.scale
        if first == 0:
            close[:AUDITED_ROWS] = True
        classes = order[:, 0]
        if len(rows := close.nonzero().flatten()):
            classes[rows] = self._judge(noisy[rows], logits[rows])
        if self.audit:
            self.audit.seen(noisy, logits, first)
        return classes

    def _logits(self, network: nn.Module, noisy: Tensor) -> Tensor:
        """Logits of one forward pass, or of several where memory does not hold one."""
        if len(noisy) > self.batch:
            return torch.cat([self._logits(network, part) for part in torch.split(noisy, self.batch)])
        try:
            return self._checked(network(noisy), len(noisy))
        except torch.OutOfMemoryError:
            if len(noisy) == 1:
                raise no_memory(noisy) from None
            self.batch = min(self.batch, len(noisy) // 2)
        if noisy.is_cuda:
            torch.cuda.empty_cache()
        return self._logits(network, noisy)

    def _checked(self, logits: Tensor, rows: int) -> Tensor:
        check_shape(logits, rows, self.classes)
        if logits.dtype not in (torch.float32, torch.float64):
            raise BenchError(f"the base classifier gave logits of {logits.dtype}, whose many ties go to the lowest class; use float32")
        return logits

    def judged(self, noisy: Tensor) -> Tensor:
        """Logits of the referee."""
        if self.referee == torch.float64:  # where what the rows of a pass do to each other's rounding decides nothing
            together = max(JUDGED_ROWS, min(256, JUDGED_FLOATS // noisy[0].numel())) if noisy.is_cuda else JUDGED_ROWS
            filled = _filled(noisy).double()
            parts = [part if len(part) > 1 else twice(part[0]) for part in torch.split(filled, together)]
        else:
            parts = list(torch.split(noisy, 1))
        return torch.cat([self._logits(self._exact, part) for part in parts])[: len(noisy)]

    def _judge(self, noisy: Tensor, logits: Tensor) -> Tensor:
        exact = self.judged(noisy)
        largest(exact)
        if (exact - logits).abs().max() > DRIFT * self.scale:
            raise (self.audit or self.audited(0.0, "float32", 0)).explain(noisy, logits, exact)
        return exact.argmax(1)


def _check_modes(module: nn.Module, when: str) -> None:
    for name, part in module.named_modules():
        if part.training:
            raise BenchError(f"module {name or 'at the top'} ({type(part).__name__}) of the base classifier is in training mode {when}")


def _filled(noisy: Tensor) -> Tensor:
    """On a GPU, repeats the first row until there are one of a few numbers of rows: cuDNN plans anew for each number that it meets."""
    if not noisy.is_cuda:
        return noisy
    step = max(16, 1 << max(0, len(noisy).bit_length() - 3))
    more = -len(noisy) % step
    return torch.cat([noisy, noisy[:1].expand(more, *noisy.shape[1:])]) if more else noisy
