"""Counts of one image."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.certify.network import AUDITED_ROWS, Network, usual_batch
from bench.certify.noise import NoisyCopies, block_rows
from bench.certify.proposer import REDUCED
from bench.certify.spans import Again, Spans
from bench.errors import BenchError, nearest
from bench.evidence.certificate import Certificate
from bench.rules.rule import Stopping
from bench.spec import SAMPLINGS, derive
from bench.system.environment import plain_float32


class Sampler:
    """Draws noisy copies of images and counts the classes that the base classifier gives them.

    Noise is keyed by (seed, image index) and drawn in blocks of one stream: counts depend neither on the batch, nor on workers
    or threads, on the order of images, or on interruptions. Selection and estimation take different blocks, so they never share
    a sample. On a CPU, as many workers as torch has threads take a block each in turn, with one thread each: short
    operations gain little from threads that wait for each other after every one.

    Args:
        base: f, logits B K of B C H W; it is put in evaluation mode for every image and must not change otherwise.
        sigma: noise level in pixels of [0, 1].
        classes: K.
        seed: the certification's seed.
        batch: samples per forward pass; chosen by image size and device if None, halved where memory runs out.
        sampling: `float32`, or `grid` for sums that are exact in floating point.
        reduced: arithmetics that may propose classes, names of `bench.certify.proposer.REDUCED`; all of them on CUDA and none
            on a CPU if None. They change no count.

    Raises:
        BenchError: a batch below 1; another sampling.
    """

    def __init__(
        self,
        base: nn.Module,
        sigma: float,
        classes: int,
        seed: int,
        batch: int | None = None,
        sampling: str = "float32",
        *,
        reduced: Sequence[str] | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise BenchError(f"batch {batch} must be at least 1")
        if sampling not in SAMPLINGS:
            raise BenchError(f"unknown sampling {sampling!r}{nearest(sampling, SAMPLINGS)}")
        self.base, self.sigma, self.classes, self.seed, self.sampling = base, sigma, classes, seed, sampling
        self._batch, self._reduced = batch, reduced
        self._network: Network | None = None
        self._spans: Spans | None = None
        self._pool: ThreadPoolExecutor | None = None

    @torch.inference_mode()
    def certify(
        self, x: Tensor, index: int, label: int, n0: int, n: int, stop: Stopping | None = None, *, skip_misclassified: bool = False
    ) -> Certificate:
        """Evidence of one image.

        Args:
            x: the image, C H W in [0, 1].
            index: its position in the test set; with the seed it decides the noise.
            n0: samples that choose the class. n: fresh samples that count it.
            stop: when a count of so many samples is enough; None: never before n.
            skip_misclassified: draw no estimation samples where the chosen class is not the label.

        Raises:
            BenchError: logits that are not finite, not of shape B K, in half precision, random, or dependent on the rest of the batch; a
                module that switches to training mode.
        """
        while True:
            with contextlib.suppress(Again), plain_float32(), torch.autocast(x.device.type, enabled=False):
                network = self._prepare(x)
                network.begin()
                # Where classes are proposed, the rows that are judged are audited, and the first of an image always are.
                assert network.audit
                network.audit.begin(x, AUDITED_ROWS if self._spans else n0 + n)
                if self._spans:
                    self._spans.begin()
                copies = NoisyCopies(x, index, self.sigma, self.seed, self.sampling)
                selection = self._count(network, copies, 0, n0)
                selected = int(selection.argmax())
                estimation = torch.zeros_like(selection)
                if not (skip_misclassified and selected != label):
                    drawn = 0
                    for look in [n] if stop is None else stop.looks(n, block_rows(x.shape)):
                        if drawn and stop is not None and stop.enough(int(estimation[selected]), drawn):
                            break
                        estimation += self._count(network, copies, n0 + drawn, look - drawn)
                        drawn = look
                network.audit.end()
                network.end()
                counts = {"selection": _sparse(selection), "estimation": _sparse(estimation)}
                return Certificate(index=index, label=label, selected=selected, **counts)

    @torch.inference_mode()
    def fit(self, images: Tensor) -> None:
        """Where a reduced arithmetic proposes, chooses it, and its margin, by several of the images to come: B C H W.

        The first image does for it where this was not called before.

        Raises:
            BenchError: as `certify`.
        """
        with plain_float32(), torch.autocast(images.device.type, enabled=False):
            self._prepare(images)

    @torch.inference_mode()
    def survey(self, images: Tensor, indices: Sequence[int], copies: int) -> Tensor:
        """The classes of noisy copies of several images: B C H W -> B K, int64. Nothing is selected first.

        Noise and counts are as of `certify`. Where an image has few copies, those of several images share a pass.

        Args:
            indices: of the images, which with the seed decide the noise. copies: of each image.

        Raises:
            BenchError: as `certify`.
        """
        together = max(1, (self._batch or usual_batch(images.shape[1:], images.device)) // copies)
        starts = range(0, len(images), together)
        return torch.cat([self._survey(images[at : at + together], indices[at : at + together], copies) for at in starts])

    def _survey(self, images: Tensor, indices: Sequence[int], n: int) -> Tensor:
        """Images whose copies fit into one pass, or one image."""
        while True:
            streams = [NoisyCopies(x, index, self.sigma, self.seed, self.sampling) for x, index in zip(images, indices, strict=True)]
            for stream in streams:
                stream.block = min(stream.block, n)  # what is drawn beyond would be dropped
            with contextlib.suppress(Again), plain_float32(), torch.autocast(images.device.type, enabled=False):
                network = self._prepare(images)
                network.begin()
                assert network.audit
                network.audit.begin(images[0], AUDITED_ROWS if self._spans else n * len(streams))
                if self._spans:
                    self._spans.begin()
                if len(streams) == 1:
                    counts = self._count(network, streams[0], 0, n).unsqueeze(0)
                else:
                    classes = network.classify(torch.cat([stream.draw(n) for stream in streams]), 0)
                    place = torch.arange(len(streams), device=classes.device).repeat_interleave(n) * self.classes
                    counts = torch.bincount(classes + place, minlength=len(streams) * self.classes).view(len(streams), self.classes)
                network.audit.end()
                network.end()
                return counts

    def arithmetic(self, x: Tensor) -> dict[str, Any]:
        """How images of the shape of x are counted, for the record: no part of it changes a count.

        Where a reduced arithmetic may propose classes, `proposer` says which one does, and what the referee was asked so far.
        """
        with torch.inference_mode(), plain_float32():
            network = self._prepare(x)
        told = {"proposer": self._spans.record()} if self._spans else {}
        return told | {
            "dtype": "float32",
            "tf32": False,
            "rows_per_pass": network.batch,
            "workers": _workers(x),
            "folded": network.folded,
            "close_calls": str(network.referee).removeprefix("torch."),
        }

    def _prepare(self, x: Tensor) -> Network:
        """x: an image, C H W, or several, B C H W."""
        images = x if x.dim() == 4 else x.unsqueeze(0)
        if self._network is None:
            network = Network(self.base, self.classes, self._batch or usual_batch(images.shape[1:], x.device))
            network.referee_in_float64(images[0])
            reduced = self._reduced if self._reduced is not None else tuple(REDUCED) if x.is_cuda else None
            if reduced is not None:
                self._spans = Spans(network, images, self.sigma, derive(self.seed, "margin"), reduced, self._batch)
            network.audited(self.sigma, self.sampling, self.seed)
            self._network = network
        return self._network

    def _count(self, network: Network, copies: NoisyCopies, first: int, n: int) -> Tensor:
        """Samples of each class among the next n copies, of which `first` were drawn before: K."""
        if self._spans:
            return self._spans.count(copies, n, first)
        span = copies.block * max(1, network.batch // copies.block)
        starts, turn = iter(range(0, n, span)), threading.Lock()
        work = partial(self._work, network, copies, first, n, span, starts, turn)
        workers = min(_workers(copies.x), -(-n // span))
        if workers == 1:
            return work()
        if self._pool is None:
            self._pool = _start(_workers(copies.x))
        tasks = [self._pool.submit(work) for _ in range(workers)]
        try:
            wait(tasks)
        except BaseException:
            with turn:
                for _ in starts:  # a signal must not wait for the rest of the image, nor the end of the process for the workers
                    pass
            raise
        return torch.stack([task.result() for task in tasks]).sum(0)

    @torch.inference_mode()
    def _work(
        self, network: Network, copies: NoisyCopies, first: int, n: int, span: int, starts: Iterator[int], turn: threading.Lock
    ) -> Tensor:
        counts = torch.zeros(self.classes, dtype=torch.int64, device=copies.x.device)
        try:
            while True:
                with turn:
                    start = next(starts, None)
                    if start is None:
                        return counts
                    noisy = copies.draw(min(span, n - start))
                counts += torch.bincount(network.classify(noisy, first + start), minlength=self.classes)
        except BaseException:
            with turn:
                for _ in starts:  # leaves nothing for the other workers
                    pass
            raise


def _start(workers: int) -> ThreadPoolExecutor:
    """Threads in each of which torch uses one thread."""
    pool, ready = ThreadPoolExecutor(workers, "certify"), threading.Barrier(workers)

    def alone() -> None:
        torch.set_num_threads(1)
        ready.wait()

    wait([pool.submit(alone) for _ in range(workers)])
    torch.set_num_threads(workers)  # what a thread sets for itself is also the default of threads to come
    return pool


def _workers(x: Tensor) -> int:
    return torch.get_num_threads() if x.device.type == "cpu" else 1


def _sparse(counts: Tensor) -> dict[int, int]:
    return {c: k for c, k in enumerate(counts.tolist()) if k}
