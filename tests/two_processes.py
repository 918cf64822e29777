"""Trainings that two processes share, for test_parallel.py: `python two_processes.py RANK PORT FOLDER` is one of the two.

For every case each writes what it holds afterwards, and rank 0 how many reductions there were, inside attacks and outside.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed
from torch import Tensor
from toys import plain_spec

from bench.data import Split
from bench.datasets import DATASETS
from bench.distributed.group import Group, joined
from bench.method import Method
from bench.smoothing import SmoothedClassifier
from bench.train.loop import Trainer
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.stability import Stability

PROCESSES = 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """Three steps (on the recipe's clock in epochs 0, 30 and 60) of a method."""

    method: Method
    batch: int = 16
    images: int = 48
    dataset: str = "mnist"
    arch: str = "lenet"
    micro_batch: int | None = None
    precision: str = "float32"
    double: bool = False


METHODS: dict[str, Method] = {
    "gaussian": Gaussian(),
    "stability": Stability(),
    "smoothadv": SmoothAdv(steps=3),
    "macer": Macer(copies=4, strength=2.0, deferral=0),
    "consistency": Consistency(),
    "smoothmix": SmoothMix(copies=2),
    "smoothmix-onestep": SmoothMix(one_step=True, mask_wrong=False),
}
CASES = {name: Case(method) for name, method in METHODS.items()}
CASES |= {f"{name}-float64": Case(method, double=True) for name, method in METHODS.items()}
CASES |= {
    "last-batch-of-one": Case(SmoothMix(copies=2), batch=15, images=31),
    "pieces": Case(Macer(copies=4, strength=2.0, deferral=0), batch=15, images=45, micro_batch=3),
    "pieces-of-one-process": Case(SmoothMix(copies=2), batch=15, images=45, micro_batch=7),
    "float16": Case(SmoothMix(copies=2), precision="fp16"),
    "batch-norm": Case(SmoothAdv(steps=1), batch=8, images=24, dataset="cifar10", arch="cifar_resnet20"),
}


class Double(Split):
    """Images in float64, in which no rounding decides on which side of a kink of the network an image lies."""

    def images(self, indices: Tensor) -> Tensor:
        return super().images(indices).double()


def trainer(case: Case, device: torch.device, group: Group | None) -> Trainer:
    """The training of a case, on images of noise with a bright row per class."""
    info = DATASETS[case.dataset]
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(case.images) % info.classes
    pixels = torch.randint(0, 128, (case.images, *info.shape), generator=generator, dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 3] += 100
    lasting = {"epochs": 1, "clock": 90, "batch": case.batch, "lr": 0.05, "lr_step": 90}
    devices = 1 if group is None else group.size
    spec = plain_spec(case.dataset, arch=case.arch, precision=case.precision, devices=devices, **lasting)
    data = (Double if case.double else Split)(pixels, labels, {}).to(device)
    found = Trainer(spec, case.method, info, data, device, micro_batch=case.micro_batch, group=group)
    if case.double:
        found.model.double()
    return found


def held(t: Trainer) -> dict[str, Tensor]:
    """Weights, buffers, the last gradient, the state of g's generator, and the means of each row of the curve."""
    found = {f"weight.{name}": value for name, value in t.model.state_dict().items()}
    found |= {f"gradient.{name}": p.grad for name, p in t.model.named_parameters() if p.grad is not None}
    found["generator"] = t.g.generator.get_state()
    found["curve"] = torch.tensor([[*row.values()] for row in t.curve], dtype=torch.float64)
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


class Reductions:
    """Counts what goes over the wire: sums outside attacks and in them, and attacks."""

    def __init__(self) -> None:
        self.counts = {"outside": 0, "inside": 0, "attacks": 0}
        self.attacking = False
        for name in ("all_reduce", "barrier", "broadcast", "all_gather", "reduce_scatter"):
            setattr(torch.distributed, name, self.counted(getattr(torch.distributed, name)))
        freeze = SmoothedClassifier.frozen

        @contextlib.contextmanager
        def frozen(g: SmoothedClassifier) -> Iterator[None]:
            self.attacking = True
            self.counts["attacks"] += 1
            try:
                with freeze(g):
                    yield
            finally:
                self.attacking = False

        SmoothedClassifier.frozen = frozen  # type: ignore[method-assign, assignment]

    def counted(self, real: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.counts["inside" if self.attacking else "outside"] += 1
            return real(*args, **more)

        return call


def main(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    group, counts = Group(rank, PROCESSES), {}
    with joined(group, CPU, port) as device:
        reductions = Reductions()
        for name, case in CASES.items():
            before = dict(reductions.counts)
            t = trainer(case, device, group)
            t.run(lambda _: None)
            safetensors.torch.save_file(held(t), folder / f"{name}-{rank}.safetensors")
            counts[name] = {what: count - before[what] for what, count in reductions.counts.items()}
    if rank == 0:
        (folder / "counts.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
