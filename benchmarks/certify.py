"""How fast certification is: a plain loop in the way of the field's scripts against the suite, on the same network and images.

First checks that both give the same classes to the same noise, but for ties within rounding. Then times them in turn, in one process, and
prints samples per second (medians over rounds), their ratio, and the share that the suite reaches of the speed at which this
machine multiplies two 2048 x 2048 matrices, measured in the same rounds.

    OMP_NUM_THREADS=2 python benchmarks/certify.py [--rounds 5] [--network lenet]

On a machine with other work, OMP_NUM_THREADS=1 and --cpu-time: the time that the process had, not the time that passed.

    python benchmarks/certify.py --device cuda [--check]

On a GPU there are two loops, which leave torch's defaults as they are (TF32 in convolutions): the second one counts batches of 10,000
with `bincount`. The networks are trained for seconds first, for how many close calls there are decides what the referee costs.
--check compares the suite's class of every row with float32 decided by float64, and shows that without a margin the comparison fails.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.certify import Sampler
from bench.certify.audit import CLOSE
from bench.certify.margin import MOST_JUDGED, Margin
from bench.certify.noise import CUDA_BLOCKS, block_rows
from bench.certify.proposer import FLOAT32
from bench.certify.spans import Again
from bench.data import load
from bench.datasets import DATASETS
from bench.matrix.plan import Request, make_plan
from bench.models import build, place
from bench.registry import Registry
from bench.smoothing import now
from bench.spec import derive
from bench.system.environment import plain_float32
from bench.train.loop import Trainer

SIGMA, SEED, N0, CLASSES = 0.5, 0, 100, 10
TOLERATED = {"cpu": 1e-4, "cuda": 1e-2}  # share of samples that rounding may move to another class; the plain loop's TF32 moves more
COLOUR = dataclasses.replace(
    DATASETS["mnist"], name="colour", shape=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
)
LARGE = dataclasses.replace(COLOUR, name="large", shape=(3, 224, 224))

Draw = Callable[[Tensor], Tensor]
Labelled = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trained network in evaluation mode, the images that each round certifies, and samples per image.

    Attributes:
        many: rows of a batch of the loop that counts with `bincount`. checked: rows whose classes --check compares.
        several: images of the comparison, and of the margin.
    """

    network: nn.Module
    images: Tensor
    n: int
    many: int = 10_000
    checked: int = 0
    several: Tensor = field(default_factory=lambda: torch.empty(0))


def lenet(device: torch.device) -> Task:
    """LeNet after seconds of training, on digits."""
    digits = load("mnist", "test").images(torch.arange(24)).to(device)
    if device.type == "cuda":
        data = load("mnist", "train").to(device)

        def labelled(rows: int) -> tuple[Tensor, Tensor]:
            some = torch.randint(0, 60_000, (rows,), device=device)
            return data.images(some), data.labels[some]

        network = trained(build("lenet", DATASETS["mnist"], SEED), device, labelled, 400, 256)
        return Task(network=network, images=digits[:3], n=100_000, checked=400_000, several=digits)
    cell = make_plan(Request(methods=("gaussian",), sigmas=(SIGMA,), protocol="smoke"), Registry()).cells[0]
    trainer = Trainer(cell.spec, cell.method, DATASETS["mnist"], load("mnist", "train"), device)
    return Task(network=trainer.run(lambda trainer: None).eval(), images=digits[:3], n=10_000, several=digits)


def cifar_resnet110(device: torch.device) -> Task:
    """ResNet-110; on a CPU with fresh weights, batch norms that have seen noise and random images, as any weights are as fast there."""
    network = build("cifar_resnet110", COLOUR, SEED)
    if device.type == "cuda":
        patterns = Patterns(COLOUR.shape, device)
        network, several = trained(network, device, patterns.labelled, 250, 128), patterns.blends(40)
        return Task(network=network, images=several[:1], n=20_000, checked=200_000, several=several)
    generator = torch.Generator().manual_seed(SEED)
    pixels = torch.randint(0, 256, (64, *COLOUR.shape), generator=generator).float().div_(255)
    with torch.no_grad():
        for _ in range(20):
            network(pixels + SIGMA * torch.randn(pixels.shape, generator=generator))
    return Task(network=network.eval(), images=pixels[:1], n=1_000, several=pixels[:8])


def resnet50(device: torch.device) -> Task:
    """ResNet-50 at 224 x 224, whose loop with `bincount` has batches of 1,000: memory does not hold 10,000."""
    patterns = Patterns(LARGE.shape, device)
    network = trained(build("resnet50", LARGE, SEED), device, patterns.labelled, 100, 64)
    several = patterns.blends(8)
    return Task(network=network, images=several[:1], n=4_000, many=1_000, checked=4_000, several=several)


TASKS: Mapping[str, Callable[[torch.device], Task]] = {"lenet": lenet, "cifar_resnet110": cifar_resnet110, "resnet50": resnet50}


class Patterns:
    """Images of ten classes, each a smooth pattern, blended with the pattern of another one: the more of it, the closer the calls."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        self.device = device
        coarse = torch.randn(CLASSES, shape[0], 4, 4, generator=torch.Generator().manual_seed(SEED))
        patterns = F.interpolate(coarse, shape[1:], mode="bicubic")
        self.patterns = (patterns / patterns.flatten(1).std(1).view(-1, 1, 1, 1)).to(device)

    def blend(self, y: Tensor, z: Tensor, share: Tensor) -> Tensor:
        share = share.view(-1, 1, 1, 1)
        mixed = 0.5 + 0.1 * (share * self.patterns[y] + (1 - share) * self.patterns[z])
        return mixed.clamp_(0, 1).mul_(255).round_().div_(255)

    def labelled(self, rows: int) -> tuple[Tensor, Tensor]:
        y, z = torch.randint(0, CLASSES, (2, rows), device=self.device)
        return self.blend(y, z, 0.5 + 0.5 * torch.rand(rows, device=self.device)), y

    def blends(self, rows: int) -> Tensor:
        """From 55 % of an image's own class to all of it, in turn."""
        y = torch.arange(rows, device=self.device) % CLASSES
        return self.blend(y, (y + 3) % CLASSES, 0.55 + 0.45 * (torch.arange(rows, device=self.device) * 7 % rows) / rows)


def trained(network: nn.Module, device: torch.device, labelled: Labelled, steps: int, rows: int) -> nn.Module:
    """The network after a short training on noisy images."""
    torch.manual_seed(SEED)
    network = place(network, device).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        x, y = labelled(rows)
        with torch.autocast(device.type, torch.bfloat16):
            logits = network((x + SIGMA * torch.randn_like(x)).contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        F.cross_entropy(logits.float(), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


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


def by_bincount(network: nn.Module, x: Tensor, n: int, rows: int) -> Tensor:
    """Counts of one image: large batches, whose predictions stay on the device."""
    counts = torch.zeros(CLASSES, dtype=torch.int64, device=x.device)
    with torch.no_grad():
        while n > 0:
            batch = x.expand(min(rows, n), *x.shape)
            n -= len(batch)
            counts += torch.bincount(network(batch + fresh_noise(batch)).argmax(1), minlength=CLASSES)
    return counts


def suite_noise(x: Tensor, index: int, n: int) -> Draw:
    """The noise of the suite's estimation samples, drawn anew from its definition: whole blocks, of which selection took the first."""
    block = block_rows(x.shape) * (CUDA_BLOCKS if x.is_cuda else 1)
    generator = torch.Generator(x.device).manual_seed(derive(SEED, "certify", index))
    drawn = [torch.empty(block, *x.shape, device=x.device).normal_(0, SIGMA, generator=generator) for _ in range(1 + math.ceil(n / block))]
    batches = iter(torch.cat(drawn[1:]).split(1000))  # type: ignore[no-untyped-call]
    return lambda batch: next(batches)[: len(batch)]


def moved(task: Task, reference: nn.Module, sampler: Sampler) -> int:
    """Samples that reference and suite count under different classes, on the same noise."""
    total = 0
    for index, x in enumerate(task.images):
        expected = plain(reference, x, task.n, suite_noise(x, index, task.n))
        found = sampler.certify(x, index, 0, N0, task.n).estimation
        total += sum(abs(count - found.get(c, 0)) for c, count in enumerate(expected)) // 2
    return total


def prepared(name: str, task: Task, reduced: tuple[str, ...] | None = None) -> tuple[nn.Module, Sampler, int]:
    """The reference's network, the suite, and how many samples they count under different classes."""
    device = task.images.device
    reference = copy.deepcopy(task.network).to(memory_format=torch.contiguous_format)
    sampler = Sampler(place(task.network, device), SIGMA, CLASSES, SEED, reduced=reduced)
    sampler.fit(task.several)
    different, samples = moved(task, reference, sampler), len(task.images) * task.n
    if different > TOLERATED[device.type] * samples:
        raise SystemExit(f"{name}: {different} of {samples} samples are counted under different classes, more than rounding explains")
    return reference, sampler, different


def per_second(task: Task, work: Callable[[int, Tensor], object], clock: Callable[[], float], extra: int = 0) -> float:
    """Samples of all images, and `extra` ones of each, by the time that they take."""
    begun = clock()
    for index, x in enumerate(task.images):
        work(index, x)
    return len(task.images) * (task.n + extra) / (clock() - begun)


def compare(name: str, task: Task, rounds: int, clock: Callable[[], float]) -> None:
    reference, sampler, different = prepared(name, task)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.network(task.images[:1])
    operations = counter.get_total_flops()
    matrix = torch.randn(2048, 2048)
    slow, fast, product = [], [], []
    for _ in range(rounds):
        slow.append(per_second(task, lambda index, x: plain(reference, x, task.n), clock))
        fast.append(per_second(task, lambda index, x: sampler.certify(x, index, 0, N0, task.n), clock, N0))
        begun = clock()
        matrix @ matrix
        product.append(2 * 2048**3 / (clock() - begun))
    peak = statistics.median(product)
    share = statistics.median(f * operations / p for f, p in zip(fast, product, strict=True))
    print(
        f"{name:<16} {statistics.median(slow):>9,.0f} {statistics.median(fast):>9,.0f} {_ratios(fast, slow)}  {operations / 1e6:>6.1f} "
        f"{peak / 1e9:>8.0f} {share:>6.0%}   {different} of {len(task.images) * task.n:,}",
        flush=True,
    )


def compare_on_gpu(name: str, task: Task, rounds: int, clock: Callable[[], float], reduced: tuple[str, ...] | None = None) -> None:
    begun = clock()
    reference, sampler, different = prepared(name, task, reduced)
    seconds = clock() - begun
    by_bincount(reference, task.images[0], task.many, task.many)  # warms up
    slow, large, fast = [], [], []
    for _ in range(rounds):
        slow.append(per_second(task, lambda index, x: plain(reference, x, task.n), clock))
        large.append(per_second(task, lambda index, x: by_bincount(reference, x, task.n, task.many), clock))
        fast.append(per_second(task, lambda index, x: sampler.certify(x, index, 0, N0, task.n), clock, N0))
    told = sampler.arithmetic(task.images[0])["proposer"]
    print(
        f"{name:<16} {statistics.median(slow):>10,.0f} {statistics.median(large):>10,.0f} {statistics.median(fast):>10,.0f}"
        f"{_ratios(fast, slow):>23}{_ratios(fast, large):>23}   {told['arithmetic']}, {told['layout']}, {told['rows_per_pass']:,} rows, "
        f"{told['judged']:.2%} judged; {different} of {len(task.images) * task.n:,}; {seconds:.1f} s to prepare",
        flush=True,
    )
    for other, why in told["given_up"].items():
        print(f"{'':<16} {other}: {why}", flush=True)


def _ratios(fast: list[float], slow: list[float]) -> str:
    ratios = [b / a for a, b in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):>6.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


class NoMargin(Margin):
    """Leaves every row to the proposer but those that are audited."""

    value = 0.0

    def see(self, moved: float) -> bool:
        return False


def exact_classes(plain32: nn.Module, plain64: nn.Module, noisy: Tensor, rows: int) -> Tensor:
    """Classes in float32, in float64 wherever two logits are close, by the plainest means, in passes of so many rows: R C H W -> R."""
    logits = torch.cat([plain32(part) for part in torch.split(noisy, rows)])
    highest, classes = logits.topk(2, 1).values, logits.argmax(1)
    close = (highest[:, 0] - highest[:, 1] <= CLOSE * logits.abs().max()).nonzero().flatten()
    for some in torch.split(close, 64):
        classes[some] = plain64(noisy[some].double()).argmax(1)
    return classes


def check(name: str, task: Task, reduced: tuple[str, ...] | None = None) -> bool:
    """Whether every row's class is that of float32 decided by float64, and counts are those of float32 alone; prints what was seen.

    Without a margin, classes must differ, if enough rows are compared: else the comparison shows nothing.
    """
    sampler, enough = Sampler(task.network, SIGMA, CLASSES, SEED, reduced=reduced), task.checked >= 200_000
    sampler.fit(task.several)
    spans = sampler._spans
    assert spans
    plain32, plain64 = (copy.deepcopy(task.network).to(dtype) for dtype in (torch.float32, torch.float64))
    plain32 = plain32.to(memory_format=torch.contiguous_format)
    generator = torch.Generator(task.several.device).manual_seed(SEED)
    each, rows = math.ceil(task.checked / len(task.several)), min(1_000, max(50, 2**26 // task.several[0].numel()))
    wrong = without = judged = total = 0
    with torch.inference_mode(), plain_float32():
        for x in task.several:
            noisy = x + torch.empty(each, *x.shape, device=x.device).normal_(0, SIGMA, generator=generator)
            with FLOAT32.on(x.device):
                exact = exact_classes(plain32, plain64, noisy, rows)
            found = None
            while found is None:
                before = spans.judged
                with contextlib.suppress(Again):
                    found = spans.classify(noisy)
            wrong += int((found != exact).sum())
            judged, total = judged + spans.judged - before, total + each
            margin, spans.margin = spans.margin, NoMargin(spans.margin.found)
            without += int((spans.classify(noisy) != exact).sum())
            spans.margin = margin
    alone, x = Sampler(task.network, SIGMA, CLASSES, SEED, batch=333, reduced=()), task.several[0]
    same = sampler.certify(x, 0, 0, N0, 5_000) == alone.certify(x, 0, 0, N0, 5_000)
    passed = wrong == 0 and judged <= MOST_JUDGED * total and same and (without > 0 or not enough)
    print(
        f"{name:<16} {'passed' if passed else 'FAILED'}: {spans.proposer} differs from float32 decided by float64 in {wrong} of "
        f"{total:,} rows, {judged / total:.2%} judged, margin {spans.margin.value:.2g}, largest move {spans.margin.moved:.2g}; "
        f"without a margin in {without}; counts are {'' if same else 'NOT '}those of float32 alone, in passes of 333",
        flush=True,
    )
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", choices=TASKS, action="append")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--check", action="store_true", help="on cuda: compare the suite's classes with float32 decided by float64, too")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    on_cpu = device.type == "cpu"
    if on_cpu and (chosen.check or "resnet50" in (chosen.network or ())):
        parser.error("--check and --network resnet50 want --device cuda; on a CPU, tests/test_reduced.py compares")
    load_average = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    clock = time.process_time if chosen.cpu_time else lambda: now(device)
    machine = f"{torch.get_num_threads()} threads" if on_cpu else torch.cuda.get_device_name(device)
    print(
        f"torch {torch.__version__}, {machine}, {chosen.rounds} alternating rounds, "
        f"{'CPU' if chosen.cpu_time else 'wall'} time, load averages {load_average}"
    )
    if on_cpu:
        print("                  plain/s   suite/s  ratio (all rounds)     MFLOP  GFLOP/s  share   counted otherwise")
    else:
        print(
            "                    plain/s bincount/s    suite/s         ratio to plain      ratio to bincount   proposer; counted otherwise"
        )
    passed = True
    for name in chosen.network or [name for name in TASKS if not on_cpu or name != "resnet50"]:
        task = TASKS[name](device)
        (compare if on_cpu else compare_on_gpu)(name, task, chosen.rounds, clock)
        if chosen.check:
            passed = check(name, task) and passed
    raise SystemExit(not passed)


if __name__ == "__main__":
    main()
