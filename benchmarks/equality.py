"""Whether replayed training steps equal eager ones on a GPU, bit for bit, and a resumed training an undisturbed one.

    python benchmarks/equality.py

Each check trains LeNet (or a small network with batch norm and dropout) for 30 steps over three epochs: two drops of the learning
rate, ramps that grow, a shorter last batch in each epoch. cuDNN's algorithms are its deterministic ones, for two eager trainings could
differ otherwise. Printed is `equal`, or the largest difference of a weight relative to the largest weight of its tensor. Exit code 1
if a check fails.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from stores import spec_of
from torch import Tensor, nn

import bench.models
from bench.data import Split, load
from bench.datasets import DATASETS
from bench.matrix.task import pick_device
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy
from bench.spec import TrainSpec
from bench.train.graph import CudaGraphs, Recorder
from bench.train.loop import Trainer
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.stability import Stability

BATCH, FULL, SHORT, EPOCHS = 64, 9, 32, 3
IMAGES = BATCH * FULL + SHORT
STEPS = EPOCHS * (FULL + 1)
STOPS = (1, 5, 13, 20)
"""Steps after which trainings are resumed: before the first recording, within replays, in a second epoch, at an epoch's end."""
METHODS: dict[str, Method] = {
    "gaussian": Gaussian(),
    "stability": Stability(),
    "consistency": Consistency(),
    "smoothadv": SmoothAdv(warmup_epochs=3),
    "macer": Macer(deferral=1),
    "smoothmix": SmoothMix(warmup_epochs=3),
    "smoothmix one step": SmoothMix(warmup_epochs=3, one_step=True),
}
Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Waiting(Method):
    """Looks at its loss in the host, which no graph can."""

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        loss = cross_entropy(g.logits(batch.x, g.noise(batch.x)), batch.y).mean()
        return {"cross_entropy": loss if loss.item() < 1e6 else 2 * loss}


class Noisy(nn.Sequential):
    """Batch norm, and dropout, which draws from the device's own generator."""

    def __init__(self, classes: int) -> None:
        layers = (nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8 * 144, classes))
        super().__init__(*layers)


class Checks:
    """Trains on one device.

    Args:
        recorder: None where nothing can be replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        split = load("mnist", "train")
        assert isinstance(split, Split)
        self.data = Split(split.pixels[:IMAGES], split.labels[:IMAGES], {}).to(device)
        self.failed = 0

    def recorder(self) -> Recorder:
        return CudaGraphs(self.device)

    def trainer(self, method: Method, *, graph: bool, **train: Any) -> Trainer:
        values: dict[str, Any] = {"arch": "lenet", "epochs": EPOCHS, "clock": EPOCHS, "batch": BATCH, "lr": 0.01, "lr_step": 1}
        spec = spec_of(TrainSpec(**(values | train)))
        return Trainer(spec, method, DATASETS["mnist"], self.data, self.device, recorder=self.recorder() if graph else None)

    def trained(self, trainer: Trainer) -> Weights:
        trainer.run(lambda _: None)
        return dict(trainer.model.state_dict()) | {"generator": trainer.g.generator.get_state().double()}

    def states(self, method: Method, **train: Any) -> tuple[dict[int, bytes], Weights]:
        """Checkpoints after `STOPS`, and the end, of a replayed training."""
        found: dict[int, bytes] = {}

        def keep(trainer: Trainer) -> None:
            if trainer.step in STOPS:
                buffer = io.BytesIO()
                torch.save(trainer.state(), buffer)
                found[trainer.step] = buffer.getvalue()

        trainer = self.trainer(method, graph=True, **train)
        trainer.run(keep)
        return found, dict(trainer.model.state_dict())

    def tell(self, what: str, ok: bool, result: str) -> None:
        self.failed += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {what:<58} {result}", flush=True)

    def replayed(self, name: str, method: Method, **train: Any) -> None:
        """A replayed training and an eager one, their curves too."""
        eager, other = self.trainer(method, graph=False, **train), self.trainer(method, graph=True, **train)
        difference = differ(self.trained(eager), self.trained(other))
        if eager.curve != other.curve:
            difference += ", other curves"
        if other.why_eager:
            difference += f", NOT REPLAYED: {other.why_eager}"
        self.tell(f"replayed as eager: {name}", difference == "equal", difference)

    def resumed(self, name: str, method: Method, **train: Any) -> None:
        """Trainings that go on from checkpoints of a replayed one: replayed from each, and eagerly from the first."""
        states, whole = self.states(method, **train)
        for step, state in states.items():
            for graph in (True, False) if step == STOPS[1] else (True,):
                again = self.trainer(method, graph=graph, **train)
                again.restore(torch.load(io.BytesIO(state), weights_only=True, map_location=self.device))
                again.run(lambda _: None)
                difference = differ(whole, dict(again.model.state_dict()))
                self.tell(f"resumed after step {step}{'' if graph else ', eagerly'}: {name}", difference == "equal", difference)

    def refused(self) -> None:
        """A loss that waits for the device: trained eagerly, and nothing is left of the attempt to record it."""
        eager, other = self.trainer(Waiting(), graph=False), self.trainer(Waiting(), graph=True)
        difference = differ(self.trained(eager), self.trained(other))
        self.tell("a loss with .item() is trained eagerly", difference == "equal" and bool(other.why_eager), difference)
        print(f"       it said: {other.why_eager}")
        self.replayed("gaussian, after a recording that failed", METHODS["gaussian"])


def differ(left: Weights, right: Weights) -> str:
    if all(torch.equal(tensor, right[name]) for name, tensor in left.items()):
        return "equal"
    worst = max(
        (float((tensor.double() - right[name].double()).abs().max() / tensor.double().abs().max().clamp_min(1e-30)), name)
        for name, tensor in left.items()
    )
    return f"{worst[0]:.1e} of {worst[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Replayed training steps against eager ones.")
    parser.add_argument("--device", default="cuda")
    words = parser.parse_args()
    device = pick_device(words.device)
    begun = time.perf_counter()
    torch.backends.cudnn.deterministic = True
    bench.models.ARCHITECTURES["noisy"] = lambda info: Noisy(info.classes)
    checks = Checks(device)
    for name, method in METHODS.items():
        checks.replayed(name, method)
    for precision in ("bf16", "tf32"):
        for name in ("gaussian", "smoothmix", "macer"):
            checks.replayed(f"{name}, {precision}", METHODS[name], precision=precision)
    for name in ("gaussian", "smoothadv"):
        checks.replayed(f"{name}, batch norm and dropout", METHODS[name], arch="noisy")
    checks.resumed("smoothmix", METHODS["smoothmix"])
    checks.resumed("gaussian, batch norm and dropout", METHODS["gaussian"], arch="noisy")
    checks.refused()
    torch.backends.cudnn.deterministic = False
    print("with the algorithms that torch likes best, where two eager trainings may differ, too:")
    for name in ("gaussian", "macer", "smoothmix"):
        found = [checks.trained(checks.trainer(METHODS[name], graph=graph)) for graph in (False, False, True)]
        print(f"     {name}: eager and eager {differ(*found[:2])}, eager and replayed {differ(*found[1:])}")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{checks.failed or 'none'} failed; {STEPS} steps each; {where}, torch {torch.__version__}; {time.perf_counter() - begun:.0f} s")
    sys.exit(bool(checks.failed))


if __name__ == "__main__":
    main()
