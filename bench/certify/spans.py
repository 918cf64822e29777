"""Counts with a proposer and a referee, over spans of many passes: what a GPU wants, and any device can do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bench.certify.audit import CLOSE
from bench.certify.margin import MOST_JUDGED, Margin, leads, moves
from bench.certify.network import AUDITED_ROWS, Network
from bench.certify.noise import NoisyCopies
from bench.certify.proposer import FLOAT32, LAYOUTS, REDUCED, Proposer, fastest, telling_rows

AUDITED, AUDITED_SHARE = 256, 100
"""Rows of every count that the referee judges however clear they are, or one in so many where that is less, but 8 at the least."""
FITTED_ROWS, FITTED_FLOATS = 16_384, 2**28
"""Rows that decide arithmetic, layout, rows per pass and margin before the first image, and their floats at the most: in bytes, a
sixteenth of the free memory, where that is less."""
FIRST_ROWS, FIRST_FLOATS = 1_024, 2**25
"""Rows of the passes that choose between arithmetics and layouts, and their floats at the most."""
REFEREE = 2
"""What a row costs that the referee decides, in passes of float32: gathered, and some of them decided in float64."""
SHARE_OF_MEMORY = 8
"""One in so many free bytes holds the noise, and the noisy copies, of a span."""


class Again(Exception):
    """The margin was too narrow, or memory ran out: the image is to be counted anew."""


class Spans:
    """Counts of noisy copies: a fast arithmetic proposes classes, and `Network`, the referee, decides those that it may have wrong.

    A span is as much noise as memory holds. Its passes wait for nothing; at its end the rows whose two highest logits lie
    within the margin are picked out, and judged once there are enough for full passes. Counts are thereby those of the referee,
    in whatever arithmetic, layout and rows the passes were computed.

    Args:
        network: the referee. images: some of those to be certified, B C H W.
        sigma: of the noise that the margin is fitted to. seed: of that noise, which is counted nowhere.
        arithmetics: names of those to propose in, beside float32, which remains where none of them is safe and fast.
        rows: of a pass; found by timing if None.
    """

    def __init__(self, network: Network, images: Tensor, sigma: float, seed: int, arithmetics: Sequence[str], rows: int | None) -> None:
        self.network, self.images, self.sigma, self.seed = network, images, sigma, seed
        self.judged = self.seen = 0
        self._share = SHARE_OF_MEMORY
        self.given_up: dict[str, str] = {}
        pixels, cuda = math.prod(images.shape[1:]), images.is_cuda
        most = min(FITTED_ROWS, min(FITTED_FLOATS, _free(images.device) // 64) // pixels) if cuda else 2 * network.batch
        self._fitted_rows = max(most, rows or 1, len(images))
        self._rows = rows or (max(1, min(FIRST_ROWS, FIRST_FLOATS // pixels, most)) if cuda else network.batch)
        self._grows = cuda and rows is None
        noisy, classes = self._some(), network.classes
        telling = telling_rows(network.fast, noisy, classes, self._rows, len(noisy) if self._grows else self._rows)
        self._rows = min(self._rows, telling)
        plain = fastest(network.fast, FLOAT32, noisy, classes, telling)
        if plain:
            network.adopt(plain[1].network, plain[1].layout)
        self._referee_seconds, self._last = plain or (0.0, Proposer(network.fast, FLOAT32, LAYOUTS[0], classes, self._rows))
        self._left = [(self._referee_seconds, self._last)]
        for name in arithmetics:
            if timed := fastest(network.fast, REDUCED[name], noisy, classes, telling):
                self._left.append(timed)
            else:
                self.given_up[name] = "the network does not run in it"
        self.timed = {str(proposer): round(1 / seconds) for seconds, proposer in self._left if seconds}
        self._choose(noisy)

    def begin(self) -> None:
        self.proposer.network.eval()

    def record(self) -> dict[str, Any]:
        """What proposed, and what the referee was asked, so far."""
        return {
            "arithmetic": str(self.proposer),
            "layout": str(self.proposer.layout).removeprefix("torch."),
            "rows_per_pass": self.proposer.rows,
            "margin": self.margin.value,
            "largest_move": self.margin.moved,
            "judged": self.judged / self.seen if self.seen else None,
            "rows_per_second": self.timed,
            "given_up": self.given_up,
        }

    def count(self, copies: NoisyCopies, n: int, first: int) -> Tensor:
        """Samples of each class among the next n copies: K.

        Args:
            first: how many of the image were drawn before; of the first ones the referee decides some in its highest precision.

        Raises:
            Again: count the image anew.
            BenchError: as `Network.classify`.
        """
        counts = torch.zeros(self.network.classes, dtype=torch.int64, device=copies.x.device)
        span, audited = self._span(copies, n), max(AUDITED_ROWS, min(AUDITED, n // AUDITED_SHARE))
        waiting: list[tuple[Tensor, Tensor]] = []
        for start in range(0, n, span):
            noisy = self._draw(copies, min(span, n - start))
            classes, close, logits = self._propose(noisy, math.ceil(audited * len(noisy) / n))
            counts += _histogram(classes, ~close, self.network.classes)
            rows = self._rows_of(close)
            waiting.append((noisy[rows], logits[rows]))
            if sum(len(part) for part, _ in waiting) >= self.network.batch or start + span >= n:
                gathered, proposed = (torch.cat(parts) for parts in zip(*waiting, strict=True))
                judged = self._judge(gathered, proposed, first)
                counts += torch.bincount(judged, minlength=self.network.classes)
                waiting, first = [], first + n
        return counts

    def classify(self, noisy: Tensor) -> Tensor:
        """The class of every row: R C H W -> R. As `count`, for rows at hand."""
        classes, close, logits = self._propose(noisy, 1)
        rows = self._rows_of(close)
        classes[rows] = self._judge(noisy[rows], logits[rows], 1)
        return classes

    def _propose(self, noisy: Tensor, audited: int) -> tuple[Tensor, Tensor, Tensor]:
        """Proposed classes R, whether the referee has to decide, R, and logits R K. Nothing in it waits for the device."""
        logits = self.proposer.logits(noisy)
        classes, lead = leads(logits)
        close = ~(lead >= self.margin.value)
        close[:: math.ceil(len(noisy) / audited)] = True
        return classes, close, logits

    def _rows_of(self, close: Tensor) -> Tensor:
        """The rows that are close, for which the host waits: once a span."""
        rows = close.nonzero().flatten()
        self.seen += len(close)
        self.judged += len(rows)
        return rows

    def _judge(self, noisy: Tensor, proposed: Tensor, first: int) -> Tensor:
        exact = self.network.logits(noisy)
        classes = self.network.classify(noisy, min(first, 1), exact)
        if self.margin.see(float(moves(proposed, exact).max())):
            if not self._safe(self.proposer, self.margin):
                self._choose(self._some())
            raise Again
        self.margin.floor = max(self.margin.floor, CLOSE * self.network.scale)
        return classes

    def _choose(self, noisy: Tensor) -> None:
        """Of the arithmetics that are left, the one that is fastest with what it leaves to the referee; float32 is left in any case."""
        exact = self.network.logits(noisy)
        self.network.saw(exact)
        costs = []
        for seconds, proposer in list(self._left):
            margin = self._fitted(proposer, noisy, exact)
            if self._safe(proposer, margin):
                costs.append((seconds + REFEREE * margin.share * self._referee_seconds, proposer, margin))
        _, self.proposer, self.margin = min(costs, key=lambda item: item[0])
        if self._grows:
            self.proposer.grow(noisy, self._rows)
            self.margin = self._fitted(self.proposer, noisy, exact)  # other passes may have other algorithms

    def _fitted(self, proposer: Proposer, noisy: Tensor, exact: Tensor) -> Margin:
        logits = proposer.logits(noisy)
        moved = float(moves(logits, exact).max())
        return Margin(leads(logits)[1], CLOSE * self.network.scale, moved, moved)

    def _safe(self, proposer: Proposer, margin: Margin) -> bool:
        """Whether the arithmetic may propose; if not, it is given up for good."""
        finite, share = bool((margin.found >= 0).all()), margin.share
        if proposer is self._last or (finite and share <= MOST_JUDGED):
            return True
        why = f"it moves logits by {margin.moved:.2g}" if finite else "it gives logits that are not finite"
        self.given_up[str(proposer)] = f"{why}; {share:.1%} of the rows would be close calls"
        self._left = [item for item in self._left if item[1] is not proposer]
        return False

    def _some(self) -> Tensor:
        """Noisy copies of every image at hand, the same in each call: R C H W."""
        generator = torch.Generator(self.images.device).manual_seed(self.seed)
        copies = math.ceil(self._fitted_rows / len(self.images))
        noise = torch.empty((len(self.images), copies, *self.images.shape[1:]), device=self.images.device)
        noisy = noise.normal_(0.0, self.sigma, generator=generator).add_(self.images.unsqueeze(1))
        # Images in turn, so that the first rows show them all.
        return noisy.transpose(0, 1).flatten(0, 1)[: self._fitted_rows].contiguous(memory_format=torch.channels_last)

    def _span(self, copies: NoisyCopies, n: int) -> int:
        """Rows of a span: equal parts of n, in whole blocks, that fit into memory."""
        block = copies.block
        if copies.x.is_cuda:
            most = _free(copies.x.device) // self._share // (copies.x.numel() * (12 if copies.grid else 8))
        else:
            most = 2 * self.network.batch
        blocks = max(1, most // block)
        return block * math.ceil(math.ceil(n / block) / math.ceil(n / (block * blocks)))

    def _draw(self, copies: NoisyCopies, rows: int) -> Tensor:
        try:
            return copies.draw(rows)
        except torch.OutOfMemoryError:
            if rows <= copies.block:
                raise
        self._share *= 2
        torch.cuda.empty_cache()
        raise Again


def _free(device: torch.device) -> int:
    """Bytes of a card that are free, or that torch holds in reserve."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _histogram(classes: Tensor, counted: Tensor, size: int) -> Tensor:
    """Of the rows that are counted: R, R -> size. `bincount` would wait for the device."""
    every = torch.arange(size, device=classes.device)
    return ((classes.unsqueeze(1) == every) & counted.unsqueeze(1)).sum(0)
