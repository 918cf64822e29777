"""Milliseconds a training step on a GPU, the suite beside the plain reference; `python benchmarks/train.py --device cuda` calls it.

The reference takes its steps on batches that lie on the device, so its DataLoader is not in the figure, and computes convolutions as
torch is set by default (in TF32). The suite's steps are those of `bench run`: the whole loop, with its data, in plain float32 unless the
column says otherwise. Every clock waits for the device. Rounds alternate between all columns; printed are medians, and the median of
the ratios in each round.

Before, both take one step from the same weights, images and noise in float64, and the new weights must agree to 1e-5.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from reference import SIGMA, TOLERANCE, Fresh, Task, advance, difference_after_one_step
from torch import Tensor

from bench.smoothing import now
from bench.system.environment import float32_products
from bench.train.loop import Trainer, layout_of
from bench.train.passes import pairs_per_image

ROUND_SECONDS = 0.7
WARM = 8  # steps before the clock: the first is eager, the second recorded
SHOWN = 12
NCHW, NHWC = torch.contiguous_format, torch.channels_last
LAYOUTS = {"NCHW": NCHW, "NHWC": NHWC}

Steps = Callable[[int], None]
"""Takes so many steps."""


def contenders(task: Task, *, everything: bool) -> dict[str, Trainer]:
    """The suite's trainings by the name of their column."""
    found = {"suite": task.trainer(task.method, graph=True)}
    if everything:
        found["no graph"] = task.trainer(task.method)
        for precision, (name, layout) in itertools.product(("float32", "tf32", "bf16"), LAYOUTS.items()):
            if (precision, layout) != ("float32", layout_of("float32", task.device)):
                found[f"{precision} {name}"] = task.trainer(task.method, graph=True, precision=precision, layout=layout)
    return found


def plain(task: Task) -> Steps:
    """The reference's steps, on batches that lie on the device."""
    trainer = task.trainer(task.method)
    reference = task.reference(trainer)
    size = trainer.spec.train.batch
    batches = list(itertools.islice(task.data.batches(trainer.chosen, size, augment="none", seed=0), 32))
    endless: Iterator[tuple[Tensor, Tensor]] = itertools.cycle(batches)

    def steps(count: int) -> None:
        for x, y in itertools.islice(endless, count):
            reference.step(x, y, Fresh(task.device))
        reference.losses.clear()

    return steps


def seconds(steps: Steps, count: int, device: torch.device) -> float:
    """Of one step."""
    begun = now(device)
    steps(count)
    return (now(device) - begun) / count


def measure(task: Task, rounds: int, *, everything: bool) -> tuple[dict[str, float], float, dict[str, str]]:
    """Median milliseconds a step by column, the ratio of the first two, and why columns were not replayed."""
    trainers = contenders(task, everything=everything)
    every: dict[str, Steps] = {"plain": plain(task)} | {name: partial(advance, trainer) for name, trainer in trainers.items()}
    per_epoch = next(iter(trainers.values())).per_epoch
    counts = {}
    for name, steps in every.items():
        steps(WARM)
        counts[name] = max(10, min(per_epoch, round(ROUND_SECONDS / seconds(steps, WARM, task.device))))
    times = [{name: seconds(steps, counts[name], task.device) for name, steps in every.items()} for _ in range(rounds)]
    ratio = statistics.median(each["plain"] / each["suite"] for each in times)
    medians = {name: 1e3 * statistics.median(each[name] for each in times) for name in every}
    return medians, ratio, {name: trainer.why_eager for name, trainer in trainers.items() if trainer.why_eager}


def compare(tasks: list[Task], rounds: int, *, everything: bool, profiled: bool) -> None:
    """Prints the table, or with `profiled` what a step's kernels take."""
    device = tasks[0].device
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}; sigma {SIGMA}")
    products, convolutions, _ = float32_products("cuda")
    print(f"plain: matrix products in {products.fp32_precision}, convolutions in {convolutions.fp32_precision}, as torch sets them")
    if profiled:
        for task, (name, layout) in itertools.product(tasks, LAYOUTS.items()):
            profile(task, name, layout)
        return
    print(f"milliseconds a step, medians of {rounds} rounds; suite: float32, {_name(layout_of('float32', device))}, replayed")
    header = ""
    for task in tasks:
        difference, _ = difference_after_one_step(task, torch.float64)
        if not difference <= TOLERANCE:
            sys.exit(f"error: {task.name} on {task.network}: weights differ by {difference:.1e} after one step, more than {TOLERANCE:g}")
        medians, ratio, reasons = measure(task, rounds, everything=everything)
        names = list(medians)
        if not header:
            header = f"{'network':<10} {'method':<12} {'images':>6} {'pairs':>5} " + " ".join(f"{name:>12}" for name in names) + "   ratio"
            print(header)
        times = " ".join(f"{medians[name]:>12.2f}" for name in names)
        pairs = pairs_per_image(task.method, task.info)
        print(f"{task.network:<10} {task.name:<12} {task.batch // task.chunks:>6} {pairs:>5.0f} {times} {ratio:>6.2f}x", flush=True)
        for name, reason in reasons.items():
            print(f"  {name} was not replayed: {reason}")


def _name(layout: torch.memory_format) -> str:
    return next(name for name, value in LAYOUTS.items() if value == layout)


def profile(task: Task, name: str, layout: torch.memory_format, count: int = 10) -> None:
    """Prints the operators and the kernels of eager steps that take the device longest, in milliseconds a step."""
    trainer = task.trainer(task.method, layout=layout)
    advance(trainer, WARM)
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA], record_shapes=True) as found:
        advance(trainer, count)
        now(task.device)
    kernels = [event for event in found.key_averages() if _on_device(event)]
    total = sum(event.self_device_time_total for event in kernels)
    print(f"\n{task.network} {task.name} {name}: {total / count / 1e3:.2f} ms of kernels in a step")
    for events in (kernels, [event for event in found.key_averages(group_by_input_shape=True) if not _on_device(event)]):
        _print(events, total, count)


def _on_device(event: Any) -> bool:
    return str(event.device_type) == "DeviceType.CUDA"


def _print(events: list[Any], total: float, count: int) -> None:
    for event in sorted(events, key=lambda event: -event.self_device_time_total)[:SHOWN]:
        shapes = " ".join("x".join(map(str, shape)) for shape in event.input_shapes or () if isinstance(shape, list) and shape)
        took = event.self_device_time_total
        print(f"{took / count / 1e3:>8.3f} ms {took / total:>4.0%} {event.count / count:>5.0f}  {event.key[:100]} {shapes}")
    print()
