"""How fast certification is: a plain loop in the way of the field's scripts against the suite, on the same network and images.

First checks that both give the same classes to the same noise, but for ties within rounding. Then times them in turn, in one process, and
prints samples per second (medians over rounds), their ratio, and the share that the suite reaches of the speed at which this
machine multiplies two 2048 x 2048 matrices, measured in the same rounds.

    OMP_NUM_THREADS=2 python benchmarks/certify.py [--rounds 5] [--network lenet]

On a machine with other work, OMP_NUM_THREADS=1 and --cpu-time: the time that the process had, not the time that passed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.certify import Sampler
from bench.certify.noise import LARGEST_BLOCK
from bench.data import load
from bench.datasets import DATASETS
from bench.models import build
from bench.plan import Request, make_plan
from bench.registry import Registry
from bench.spec import derive
from bench.train import Trainer

SIGMA, SEED, N0, CLASSES = 0.5, 0, 100, 10
TOLERATED = 1e-4  # share of samples that rounding may move to another class
COLOUR = dataclasses.replace(
    DATASETS["mnist"], name="colour", shape=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
)

Draw = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained network in evaluation mode, the images that each round certifies, and samples per image."""

    network: nn.Module
    images: Tensor
    n: int


def lenet() -> Task:
    """LeNet after seconds of training, on digits."""
    cell = make_plan(Request(methods=("gaussian",), sigmas=(SIGMA,), protocol="smoke"), Registry()).cells[0]
    trainer = Trainer(cell.spec, cell.method, DATASETS["mnist"], load("mnist", "train"), torch.device("cpu"))
    return Task(network=trainer.run(lambda trainer: None).eval(), images=load("mnist", "test").images(torch.arange(3)), n=10_000)


def cifar_resnet110() -> Task:
    """ResNet-110 with fresh weights and batch norms that have seen noise, on random 8-bit images: the speed is that of any weights."""
    network, generator = build("cifar_resnet110", COLOUR, SEED), torch.Generator().manual_seed(SEED)
    pixels = torch.randint(0, 256, (64, *COLOUR.shape), generator=generator).float().div_(255)
    with torch.no_grad():
        for _ in range(20):
            network(pixels + SIGMA * torch.randn(pixels.shape, generator=generator))
    return Task(network=network.eval(), images=pixels[:1], n=1_000)


TASKS: Mapping[str, Callable[[], Task]] = {"lenet": lenet, "cifar_resnet110": cifar_resnet110}


def fresh_noise(batch: Tensor) -> Tensor:
    return torch.randn_like(batch) * SIGMA


def plain(network: nn.Module, x: Tensor, n: int, draw: Draw = fresh_noise) -> list[int]:
    """Counts of one image: batches of 1,000 copies in plain layout, and a loop over the predictions."""
    counts = [0] * CLASSES
    with torch.no_grad():
        while n > 0:
            size = min(1000, n)
            n -= size
            batch = x.repeat(size, 1, 1, 1)
            for prediction in network(batch + draw(batch)).argmax(1).cpu().numpy():
                counts[prediction] += 1
    return counts


def suite_noise(x: Tensor, index: int) -> Draw:
    """The noise of the suite's estimation samples, drawn anew from its definition: whole blocks, of which selection took the first."""
    generator = torch.Generator().manual_seed(derive(SEED, "certify", index))

    def draw(batch: Tensor) -> Tensor:
        blocks = range(0, len(batch), LARGEST_BLOCK)
        drawn = [torch.empty(LARGEST_BLOCK, *x.shape).normal_(0, SIGMA, generator=generator) for _ in blocks]
        return torch.cat(drawn)[: len(batch)]

    draw(x.expand(N0, *x.shape))
    return draw


def moved(task: Task, reference: nn.Module, sampler: Sampler) -> int:
    """Samples that reference and suite count under different classes, on the same noise."""
    total = 0
    for index, x in enumerate(task.images):
        expected = plain(reference, x, task.n, suite_noise(x, index))
        found = sampler.certify(x, index, 0, N0, task.n).estimation
        total += sum(abs(count - found.get(c, 0)) for c, count in enumerate(expected)) // 2
    return total


def compare(name: str, rounds: int, clock: Callable[[], float]) -> None:
    task = TASKS[name]()
    reference = copy.deepcopy(task.network).to(memory_format=torch.contiguous_format)
    sampler = Sampler(task.network.to(memory_format=torch.channels_last), SIGMA, CLASSES, SEED)
    samples = len(task.images) * task.n
    different = moved(task, reference, sampler)
    if different > TOLERATED * samples:
        raise SystemExit(f"{name}: {different} of {samples} samples are counted under different classes, more than rounding explains")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.network(task.images[:1])
    operations = counter.get_total_flops()
    matrix = torch.randn(2048, 2048)

    def seconds(work: Callable[[], object]) -> float:
        begun = clock()
        work()
        return clock() - begun

    def by_plain_loop() -> None:
        for x in task.images:
            plain(reference, x, task.n)

    def by_suite() -> None:
        for index, x in enumerate(task.images):
            sampler.certify(x, index, 0, N0, task.n)

    slow, fast, product = [], [], []
    for _ in range(rounds):
        slow.append(samples / seconds(by_plain_loop))
        fast.append((samples + N0 * len(task.images)) / seconds(by_suite))
        product.append(2 * 2048**3 / seconds(lambda: matrix @ matrix))
    ratios = [b / a for a, b in zip(slow, fast, strict=True)]
    peak = statistics.median(product)
    share = statistics.median(f * operations / p for f, p in zip(fast, product, strict=True))
    print(
        f"{name:<16} {statistics.median(slow):>9,.0f} {statistics.median(fast):>9,.0f} {statistics.median(ratios):>6.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f})  {operations / 1e6:>6.1f} {peak / 1e9:>8.0f} {share:>6.0%}   "
        f"{different} of {samples:,}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", choices=TASKS, action="append")
    parser.add_argument("--cpu-time", action="store_true")
    chosen = parser.parse_args()
    load_average = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    clock = time.process_time if chosen.cpu_time else time.perf_counter
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {chosen.rounds} alternating rounds, "
        f"{'CPU' if chosen.cpu_time else 'wall'} time, load averages {load_average}"
    )
    print("                  plain/s   suite/s  ratio (all rounds)     MFLOP  GFLOP/s  share   counted otherwise")
    for name in chosen.network or TASKS:
        compare(name, chosen.rounds, clock)


if __name__ == "__main__":
    main()
