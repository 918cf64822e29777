"""A training step recorded once and replayed: on CUDA as a graph, which spares the host's work for each of its kernels.

What a replay does is what the device was told while the step was recorded. Whatever Python computed then (a learning rate, a number
made from the epoch, which way an `if` went) is a constant of the recording.
"""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

from bench.method import Batch, Terms

Work = Callable[[], None]


class Unrecordable(Exception):
    """The work cannot be recorded; the sentence says why. Everything is as it was before the attempt."""


class Recorder(Protocol):
    """Whoever can record work for a device."""

    def record(self, work: Work, generator: torch.Generator) -> Work:
        """Calls `work` once, without its being done; what is returned does it each time it is called.

        Args:
            generator: what the work draws from, beside the device's own generator. Each replay draws on from where they then stand.

        Raises:
            Unrecordable: it cannot be recorded.
        """


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded step of one batch size, at one epoch.

    Attributes:
        batch: the images and what else of them it reads. terms: those of the last replay.
    """

    batch: Batch
    replay: Work
    terms: Terms = field(default_factory=dict)

    @classmethod
    def of(cls, step: Callable[[Batch], Terms], batch: Batch, recorder: Recorder, generator: torch.Generator) -> Recording:
        """Records a step on images like these; nothing is computed yet.

        Raises:
            Unrecordable: it cannot be recorded.
        """
        own, terms = batch.cloned(), {}
        replay = recorder.record(lambda: terms.update(step(own)), generator)
        return cls(own, replay, terms)

    def __call__(self, batch: Batch) -> Terms:
        """The step on these images; its terms are overwritten by the next."""
        self.batch.take(batch)
        self.replay()
        return self.terms


class CudaGraphs:
    """Records CUDA graphs. A recording is of use until the next one, which takes over its memory.

    The work must have been done eagerly before, so that what it makes on first use is there. A wait for the device inside the work
    (`.item()`, a Python branch on a tensor, a copy from pageable memory) makes a recording fail.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graph: torch.cuda.CUDAGraph | None = None

    def record(self, work: Work, generator: torch.Generator) -> Work:
        """See `Recorder`."""
        if self._graph is None:
            self._check_memory()
        current = torch.cuda.current_stream(self.device)
        generators = [generator, torch.cuda.default_generators[self.device.index]]
        states = [each.get_state() for each in generators]
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)  # that of the device registers itself
        self._stream.wait_stream(current)
        try:
            with no_host_draws(), _no_collection(), torch.cuda.stream(self._stream):
                graph.capture_begin(self._pool, "thread_local")
                try:
                    work()
                except BaseException:
                    with contextlib.suppress(RuntimeError):  # that it failed is known
                        graph.capture_end()
                    raise
                graph.capture_end()
        except BaseException as error:
            current.wait_stream(self._stream)
            for each, state in zip(generators, states, strict=True):
                each.graphsafe_set_state(each.clone_state())  # one whose recording failed would refuse to draw
                each.set_state(state)
            if not isinstance(error, Exception):
                raise
            raise Unrecordable(_sentence(error)) from error
        current.wait_stream(self._stream)
        self._graph = graph  # not before: the pool is given back with the last graph in it
        return graph.replay

    def _check_memory(self) -> None:
        """Unrecordable if a recorded step, whose memory nothing else can use, does not fit beside an eager one."""
        free, _ = torch.cuda.mem_get_info(self.device)
        needed = torch.cuda.max_memory_allocated(self.device)
        if free < needed:
            raise Unrecordable(f"of {free / 2**30:.1f} GiB of free memory a recorded step may need {needed / 2**30:.1f}")


@contextlib.contextmanager
def no_host_draws() -> Iterator[None]:
    """Unrecordable if the block draws from a generator of the host: the numbers would be the same in every replay."""
    before = torch.random.get_rng_state(), random.getstate()
    yield
    drawn = torch.random.get_rng_state(), random.getstate()
    if not torch.equal(drawn[0], before[0]) or drawn[1] != before[1]:
        torch.random.set_rng_state(before[0])
        random.setstate(before[1])
        raise Unrecordable("a step draws from a random generator of the host")


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside, which might free what belongs to another graph."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _sentence(error: Exception) -> str:
    if isinstance(error, Unrecordable):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
