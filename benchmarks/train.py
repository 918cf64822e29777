"""Training speed of each method, side by side with a plain reference in one process.

The reference (reference.py) is written the way the field's scripts are: a DataLoader that turns every image into a tensor on its
own, images and weights in NCHW, ReLU before pooling, one forward pass per noise copy inside an attack, one loss per method without
shared parts, `.item()` every step. Attacks freeze the parameters, as the scripts do. The suite runs its own training loop on the same task.

First both take one step from the same weights, images and noise; the new weights must agree to 1e-5. That is held in float64, since
in float32 one ReLU that rounds to the other side moves a deep network's weights by more; the float32 difference is printed, too.
Then rounds alternate. Printed are medians over the rounds: images per second of both, forward+backward pairs per second of the suite,
the ratio of neighbouring rounds, and the share of the machine's matrix-product speed (the best of repeated float32 products of
2048 x 2048 matrices) that the suite's useful operations reach.

    python benchmarks/train.py
    python benchmarks/train.py --networks lenet --methods gaussian,smoothmix --rounds 9 --threads 2
    python benchmarks/train.py --quick
    python benchmarks/train.py --profile --methods gaussian

With --profile nothing is compared: the suite's operators are timed one by one, with the operations and bytes that they need.

    python benchmarks/train.py --device cuda

prints milliseconds a step on a GPU; see train_cuda.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import train_cuda
from reference import CIFAR, METHODS, SIGMA, TOLERANCE, Pictures, Task, advance, difference_after_one_step
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torch.utils.flop_counter import flop_registry

from bench.data import Split, load
from bench.datasets import DATASETS
from bench.errors import BenchError, nearest
from bench.matrix.task import pick_device
from bench.train.passes import pairs_per_image

MATRIX = 2048
NETWORKS = {"lenet": "lenet", "resnet20": "cifar_resnet20", "resnet110": "cifar_resnet110"}


# ----------------------------------------------------------------------------------------------------------- measuring


def matrix_speed(clock: Callable[[], float], seconds: float = 2.0) -> float:
    """Operations per second of float32 matrix products; the best of many."""
    a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = clock()
        a @ b
        best = min(best, clock() - begun)
    return 2 * MATRIX**3 / best


def measure(task: Task, rounds: int, pairs_per_round: int, workers: int, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Median images per second of the reference and of the suite, and the median ratio of neighbouring rounds."""
    trainer = task.trainer(task.method)
    reference = task.reference(trainer)
    loader = DataLoader(Pictures(task.data), batch_size=task.batch, shuffle=True, num_workers=workers, drop_last=True)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    pairs = task.batch * pairs_per_image(task.method, task.info)
    count = max(1, round(pairs_per_round / pairs))  # loader batches per round
    speeds: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        begun = clock()
        reference.train(batches, count, task.chunks)
        between = clock()
        advance(trainer, count * task.chunks)
        ended = clock()
        if number:  # the first round warms up
            speeds.append((count * task.batch / (between - begun), count * task.batch / (ended - between)))
    plain, ours = (statistics.median(column) for column in zip(*speeds, strict=True))
    return plain, ours, statistics.median(b / a for a, b in speeds)


def copy_speed(seconds: float = 1.0) -> float:
    """Bytes read and written per second by copies of 64 MiB, larger than the caches of a core; the best of many."""
    source, target = torch.rand(2**24), torch.rand(2**24)
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - begun)
    return 2 * source.nbytes / best


class Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Seconds, operations and bytes (of inputs and outputs, each counted once) of every operator that runs inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[list[tuple[str, float, int, int]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begun = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - begun
        leaves = tree_leaves((args, kwargs, result))
        moved = sum({id(leaf): leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)}.values())
        operations = (
            flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result) if func.overloadpacket in flop_registry else 0
        )
        shapes = " ".join("x".join(map(str, leaf.shape)) for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.dim() > 1)
        self.steps[-1].append((f"{func.overloadpacket.__name__} {shapes}", seconds, operations, moved))
        return result


def profile(task: Task, matrix: float, copying: float, count: int = 15, shown: int = 16) -> None:
    """Prints the operators of a step, the slowest first; each time is the lower quartile over the steps."""
    trainer = task.trainer(task.method)
    advance(trainer, 2)
    with Operators() as operators:
        for _ in range(count):
            operators.steps.append([])
            advance(trainer, 1)
    pairs = task.batch // task.chunks * pairs_per_image(task.method, task.info)
    table: dict[str, list[float]] = {}
    for calls in zip(*operators.steps, strict=True):
        entry = table.setdefault(calls[0][0], [0.0] * 4)
        seconds = sorted(call[1] for call in calls)[count // 4]
        for column, value in enumerate((1, seconds, calls[0][2], calls[0][3])):
            entry[column] += value
    total = sum(entry[1] for entry in table.values())
    print(f"\n{task.network} {task.name}: {1e6 * total / pairs:.1f} us per pair in operators; per operator us per pair, share, the part of")
    print("the matrix-product speed and of the copying speed that it reaches, calls per step, shapes")
    for name, (times, seconds, operations, moved) in sorted(table.items(), key=lambda item: -item[1][1])[:shown]:
        speeds = f"{operations / seconds / matrix:>5.0%} {moved / seconds / copying:>5.0%}"
        print(f"{1e6 * seconds / pairs:>7.2f} {seconds / total:>5.0%} {speeds} {times:>5.0f}  {name[:90]}")


def tasks(names: list[str], networks: list[str], quick: bool, device: torch.device) -> Iterator[Task]:
    generator = torch.Generator().manual_seed(0)
    for network in networks:
        if network == "lenet":
            info, digits, batch = DATASETS["mnist"], load("mnist", "train"), 256
            assert isinstance(digits, Split)
            few = slice(8_192 if device.type == "cpu" else None)
            data = Split(digits.pixels[few], digits.labels[few], {})
        else:
            info, batch = dataclasses.replace(CIFAR, train=dataclasses.replace(CIFAR.train, arch=NETWORKS[network])), 64
            pixels = torch.randint(0, 256, (CIFAR.train_size, *CIFAR.shape), generator=generator, dtype=torch.uint8)
            data = Split(pixels, torch.arange(CIFAR.train_size) % CIFAR.classes, {})
        for name in names:
            size = batch // 4 if quick else batch
            yield Task(name=name, network=network, info=info, data=data.to(device), batch=size, device=device)


def choice(text: str, known: list[str], what: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in known:
            raise BenchError(f"unknown {what} {word!r}{nearest(word, known)}")
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed of each method, side by side with a plain reference.")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated; default: all six")
    parser.add_argument("--networks", help=f"comma-separated, of {', '.join(NETWORKS)}; default: lenet, and on a CPU resnet20")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds after one that warms up")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="processes of the reference's DataLoader")
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of the processor, not of the wall: with one thread on a busy machine"
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the batch and short rounds: shows that it runs")
    parser.add_argument("--profile", action="store_true", help="time the suite's operators one by one instead")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--all", action="store_true", help="on cuda: other precisions and layouts, too, and steps without a graph")
    words = parser.parse_args()
    words.networks = words.networks or ("lenet" if words.device == "cuda" else "lenet,resnet20")
    try:
        names = choice(words.methods, list(METHODS), "method")
        networks = choice(words.networks, list(NETWORKS), "network")
        device = pick_device(words.device)
        if words.rounds < 1 or words.threads < 1 or words.workers < 0:
            raise BenchError("--rounds and --threads must be at least 1, --workers not negative")
    except BenchError as error:
        sys.exit(f"error: {error}")
    if words.cpu_time and (words.threads > 1 or words.workers):
        sys.exit("error: --cpu-time adds up threads and misses workers; use it with --threads 1 and --workers 0")
    if device.type == "cuda":
        train_cuda.compare(list(tasks(names, networks, words.quick, device)), words.rounds, everything=words.all, profiled=words.profile)
        return
    clock = time.process_time if words.cpu_time else time.perf_counter
    torch.set_num_threads(words.threads)
    speed = matrix_speed(clock)
    load_now = os.getloadavg()[0]
    print(
        f"torch {torch.__version__}, {platform.machine()}, {words.threads} threads, {os.cpu_count()} CPUs, load {load_now:.1f} at the start"
    )
    print(
        f"matrix products: {speed / 1e9:.0f} GFLOP/s; medians of {words.rounds} rounds; sigma {SIGMA}; {words.workers} loader workers; "
        f"{'processor' if words.cpu_time else 'wall'} time"
    )
    if words.profile:
        copying = copy_speed()
        print(f"copies: {copying / 1e9:.1f} GB/s read and written")
        for task in tasks(names, networks, words.quick, device):
            profile(task, speed, copying)
        return
    columns = ("network", "method", "batch", "reference", "suite", "pairs/s", "ratio", "of matmul", "float64", "float32")
    print(("{:<9} {:<12} {:>6} {:>10} {:>8} {:>8} {:>6} {:>10} {:>8} {:>8}").format(*columns))
    for task in tasks(names, networks, words.quick, device):
        rounded, operations = difference_after_one_step(task, torch.float32)
        difference, _ = difference_after_one_step(task, torch.float64)
        if not difference <= TOLERANCE:
            sys.exit(f"error: {task.name} on {task.network}: weights differ by {difference:.1e} after one step, more than {TOLERANCE:g}")
        pairs_per_round = (1_024 if task.network == "lenet" else 128) if words.quick else (8_192 if task.network == "lenet" else 1_024)
        plain, ours, ratio = measure(task, words.rounds, pairs_per_round, words.workers, clock)
        share = ours * operations / (task.batch // task.chunks) / speed
        pairs = ours * pairs_per_image(task.method, task.info)
        print(
            f"{task.network:<9} {task.name:<12} {task.batch // task.chunks:>6} {plain:>10.0f} {ours:>8.0f} {pairs:>8.0f} {ratio:>6.2f} "
            f"{share:>10.0%} {difference:>8.0e} {rounded:>8.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
