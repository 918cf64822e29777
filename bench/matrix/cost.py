"""What cells will take, before they run and without their data.

On a CPU: a few timed passes of each network, and the passes that a method makes. On CUDA, where the host's work and that of a replayed
graph differ, a few timed steps of each method.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from bench.certify import Sampler
from bench.data.memory import PADDING, Split
from bench.datasets import DATASETS, DatasetInfo
from bench.distributed.shares import share
from bench.matrix.plan import Cell
from bench.method import Method
from bench.models import build, place
from bench.smoothing import SmoothedClassifier, cross_entropy, now
from bench.spec import RunSpec, TrainSpec, select_images
from bench.store.runs import Store
from bench.store.subject import Status
from bench.train.graph import CudaGraphs, Recorder
from bench.train.loop import REDUCED, WORTH_RECORDING, Trainer, layout_of
from bench.train.passes import Passes, passes_per_image
from bench.train.surveys import Guess, checked, copies_of, times

ENOUGH_SECONDS = 0.3
"""A pass that takes as long is not repeated with more rows."""
MOST_ROWS = 256
FEW_SAMPLES, MOST_SAMPLES = 16, {"cpu": 4_000, "cuda": 2**21}
STEPS = 34
"""Training steps of an epoch in which some are timed; those of a third of `ENOUGH_SECONDS` are enough."""
FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is left to do of a cell.

    Attributes:
        seconds: from start to end, if its devices share the work without loss and nothing else is at work.
        certifying_seconds: the part of them that is certification.
        device_seconds: summed over its devices.
        memory_bytes: of one device in training: weights, gradients and momentum, what is kept for the backward pass, noise, and the
            training images that lie there. Without the libraries, their work spaces and what an allocator rounds up.
    """

    seconds: float
    certifying_seconds: float
    device_seconds: float
    memory_bytes: int

    @property
    def training_alone(self) -> Estimate:
        """Of a cell that is trained and not certified."""
        devices = self.device_seconds / self.seconds if self.seconds else 1
        training = self.seconds - self.certifying_seconds
        return dataclasses.replace(self, seconds=training, certifying_seconds=0.0, device_seconds=training * devices)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Seconds of training steps: an eager one, one as most are, and what recording one takes beyond it."""

    eager: float
    usual: float
    recording: float

    def of(self, images: int, train: TrainSpec) -> float:
        """All of a training. In each epoch of the recipe's clock, the first step and a shorter last one are eager and one is recorded."""
        steps = math.ceil(images / train.batch) * train.epochs
        if steps < (WORTH_RECORDING + 1) * train.clock:
            return steps * self.eager
        return steps * self.usual + train.clock * (2 * (self.eager - self.usual) + self.recording)


@dataclass(frozen=True, kw_only=True)
class _Network:
    """Costs of one row in a network: seconds, and bytes kept for the backward pass.

    Attributes:
        trained: forward and backward to the weights. attacked: forward and backward to the image, in evaluation mode.
        weights: bytes of all parameters.
    """

    trained: float
    attacked: float
    trained_bytes: float
    attacked_bytes: float
    weights: int


def estimate(
    cells: Sequence[Cell],
    store: Store,
    device: torch.device,
    micro_batch: int | None = None,
    anew: Collection[tuple[str, str]] = (),
    *,
    graph: bool = True,
) -> dict[tuple[str, str], Estimate]:
    """Estimates by `Cell.id`, on random images of the data sets' shapes; cells that cannot be estimated are left out.

    Every network is timed once: `MOST_ROWS` rows, or as many as take `ENOUGH_SECONDS`.

    Args:
        micro_batch: images per piece of a training step, which decides the memory; all at once if None.
        anew: `Cell.id` of cells that are computed again from the start, whatever there is of them.
        graph: whether the steps of trainings on CUDA are replayed where they can be.
    """
    result = {}
    for cell in cells:
        spec, info = cell.spec, DATASETS[cell.spec.dataset]
        try:
            certification = store.run(spec).certification(cell.certify)
            standing = Status("missing") if cell.id in anew else certification.status().sound()
            network = _network(spec.train.arch, info, spec.train.precision, device)
            passes = _passes_per_image(cell.method, info)
            sampled = _certification(spec.train.arch, info, cell.certify.sampling, device)
        except (Exception, SystemExit):
            continue  # what fails here fails again, and says why, when its turn comes
        trained = standing.state in ("certifying", "done", "diverged")
        chosen = len(select_images(spec.train.images, info.train_size))
        images = 0 if trained else chosen * spec.train.epochs
        left = len(certification.expected()) - len(standing.columns)
        training = images * (passes.trained * network.trained + passes.attacked * network.attacked)
        steps = math.ceil(chosen / spec.train.batch) * spec.train.epochs
        surveys = checked(cell.method).values() if images else ()
        samples = chosen * sum(copies_of(survey, spec) * times(survey, spec.train.clock, steps) for survey in surveys)
        if images and device.type == "cuda" and cell.devices == 1 and micro_batch is None:
            with contextlib.suppress(Exception):  # out of memory, perhaps; the passes are an estimate too
                training = _steps(cell.method, spec.train, info, device, graph).of(chosen, spec.train)
        training += samples * sampled[1]
        certifying = left * (sampled[0] + sampled[1] * (cell.certify.n0 + cell.certify.n))
        result[cell.id] = Estimate(
            seconds=(training + certifying) / cell.devices,
            certifying_seconds=certifying / cell.devices,
            device_seconds=training + certifying,
            memory_bytes=_memory(network, passes, spec.train, info, micro_batch),
        )
    if device.type == "cuda":
        torch.cuda.empty_cache()  # other processes of this machine may be those that run the cells
    return result


@cache
def _steps(method: Method, train: TrainSpec, info: DatasetInfo, device: torch.device, graph: bool) -> Steps:
    return time_steps(method, train, info, device, CudaGraphs(device) if graph else None)


def time_steps(method: Method, train: TrainSpec, info: DatasetInfo, device: torch.device, recorder: Recorder | None) -> Steps:
    """Times a few steps of the last epoch, in which every term of the loss is at work, on random images."""
    rows = train.batch * STEPS
    generator = torch.Generator(device).manual_seed(0)
    pixels = torch.randint(256, (rows, *info.shape), dtype=torch.uint8, device=device, generator=generator)
    data = Split(pixels, torch.arange(rows, device=device) % info.classes, {})
    train = dataclasses.replace(train, images="all", augment="none", epochs=train.clock)
    spec = RunSpec(
        method="timed",
        variant="default",
        hyperparameters={},
        dataset=info.name,
        sigma=info.sigmas[0],
        seed=0,
        recipe="official",
        protocol="full",
        train=train,
    )
    trainer = Trainer(spec, method, info, data, device, recorder=recorder, keeper=Guess(info.classes))
    _times(trainer, trainer.total - 2 * STEPS)  # warms up
    times = _times(trainer, trainer.total - STEPS)
    last, ended = max(times.items())
    eager, usual = times[1] - times[0], (ended - times[2]) / (last - 2)
    return Steps(eager=eager, usual=usual, recording=max(0.0, times[2] - times[1] - usual))


class _Enough(Exception):
    """Enough steps were timed."""


def _times(trainer: Trainer, first: int) -> dict[int, float]:
    """When so many steps of an epoch were done: after none, 1, 2, 4, 8 and so on, until that takes long."""
    trainer.step = first
    times = {0: now(trainer.device)}

    def after_step(trainer: Trainer) -> None:
        done = trainer.step - first
        if done & (done - 1):
            return
        times[done] = now(trainer.device)
        if done > 2 and (times[done] - times[2] > ENOUGH_SECONDS / 3 or 2 * done > STEPS):
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.run(after_step)
    return times


_passes_per_image = cache(passes_per_image)


def _memory(network: _Network, passes: Passes, train: TrainSpec, info: DatasetInfo, micro_batch: int | None) -> int:
    """Bytes of one device; see `Estimate`."""
    images = len(share(train.batch, 0, train.devices))
    images = min(images, micro_batch or images)
    pixels = math.prod(info.shape)
    kept = images * max(passes.kept * network.trained_bytes, passes.at_once * network.attacked_bytes)
    copies = max(passes.kept, passes.at_once)
    noise = train.batch * copies * pixels * FLOAT
    copies_of_weights = 3 if train.devices == 1 else 4  # and the sum over devices
    return round(copies_of_weights * network.weights + kept + noise + _data_bytes(train, info))


def _data_bytes(train: TrainSpec, info: DatasetInfo) -> int:
    channels, height, width = info.shape
    if info.source is not None and info.source.streamed:
        return train.batch * math.prod(info.shape) * FLOAT
    views = {"none": 0, "crop": 1, "crop-flip": 2}.get(train.augment, 0)
    return info.train_size * channels * (height * width + views * (height + 2 * PADDING) * (width + 2 * PADDING))


@cache
def _network(arch: str, info: DatasetInfo, precision: str, device: torch.device) -> _Network:
    layout = layout_of(precision, device)
    model = place(build(arch, info, 0, info.sigmas[0]), device, layout)
    generator = torch.Generator(device).manual_seed(0)
    g = SmoothedClassifier(model, info.sigmas[0], generator, reduced=REDUCED.get(precision), layout=layout)

    def batch(rows: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand((rows, *info.shape), generator=generator)
        return x.to(device), (torch.arange(rows) % info.classes).to(device)

    def trained(rows: int) -> None:
        x, y = batch(rows)
        cross_entropy(g.logits(x), y).mean().backward()  # type: ignore[no-untyped-call]

    def attacked(rows: int) -> None:
        x, y = batch(rows)
        with g.frozen():
            g.gradient_of_images(cross_entropy(g.logits(x.requires_grad_()), y).sum(), x)

    return _Network(
        trained=_seconds_per_row(trained, device),
        attacked=_seconds_per_row(attacked, device),
        trained_bytes=_bytes_per_row(trained),
        attacked_bytes=_bytes_per_row(attacked),
        weights=sum(p.nbytes for p in model.parameters()),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of some work; on a CPU of its processors, since a crowd of other processes would count as work of ours.

    With several threads the larger of what this one took and an equal share of all: some work is of this thread alone.
    """
    if device.type == "cuda":
        begun = now(device)
        work()
        return now(device) - begun
    own, all_of_them = time.thread_time(), time.process_time()
    work()
    return max(time.thread_time() - own, (time.process_time() - all_of_them) / torch.get_num_threads())


def _seconds_per_row(work: Callable[[int], None], device: torch.device) -> float:
    """Of as many rows as a step has, or of fewer where those take long."""
    rows, seconds = 2, 0.0
    work(rows)  # warms up
    while seconds < ENOUGH_SECONDS and rows <= MOST_ROWS:
        try:
            seconds = _seconds(lambda rows=rows: work(rows), device)  # type: ignore[misc]
        except torch.OutOfMemoryError:
            if not seconds:
                raise
            break
        rows *= 2
    return 2 * seconds / rows


def _bytes_per_row(work: Callable[[int], None]) -> float:
    """Of the tensors that autograd keeps, those that grow with the batch."""

    def kept(rows: int) -> int:
        storages: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            work(rows)
        return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())

    return (kept(4) - kept(2)) / 2


@cache
def _certification(arch: str, info: DatasetInfo, sampling: str, device: torch.device) -> tuple[float, float]:
    """Seconds of an image apart from its samples, and of each sample."""
    sampler = Sampler(place(build(arch, info, 0, info.sigmas[0]), device), info.sigmas[0], info.classes, 0, sampling=sampling)
    image = torch.rand(info.shape, generator=torch.Generator().manual_seed(0)).to(device)

    def seconds(n: int) -> float:
        return _seconds(lambda: sampler.certify(image, 0, 0, 1, n), device)

    seconds(1)  # warms up
    least, n = seconds(1), FEW_SAMPLES
    while seconds(n) - least < ENOUGH_SECONDS and n < MOST_SAMPLES[device.type]:
        n *= 2
    # Once more, since the first passes of a size are audited, which no later image pays for.
    each = max(0.0, seconds(n) - least) / (n - 1)
    return max(0.0, least - 2 * each), each
