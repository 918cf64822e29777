"""The plain training of each method that the suite is compared with, in the way of the field's scripts, and tasks for both.

Images and weights in NCHW, ReLU before pooling, one forward pass per noise copy inside an attack, one loss per method without shared
parts, `.item()` every step.
"""

# Networks and losses of the reference are as untyped as the scripts are.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from stores import spec_of
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from bench.data import Split
from bench.datasets import DatasetInfo
from bench.errors import BenchError
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier
from bench.spec import TrainSpec
from bench.train.graph import CudaGraphs
from bench.train.loop import Trainer
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.stability import Stability

SIGMA = 0.5
TOLERANCE = 1e-5  # of a weight after one step
CPU = torch.device("cpu")
CIFAR = DatasetInfo(
    name="cifar10",
    summary="random images of CIFAR-10's shape",
    classes=10,
    shape=(3, 32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    train_size=4_096,
    test_size=1,
    sigmas=(SIGMA,),
    train=TrainSpec(arch="cifar_resnet20", epochs=150, clock=150, batch=256, lr=0.1, lr_step=50),
)


# ---------------------------------------------------------------------------------------------- the reference's networks


class PlainLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(len(x), -1))))


class PlainBlock(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class PlainResNet(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        count = (depth - 2) // 6
        widths = [16] * (count + 1) + [32] * count + [64] * count
        blocks = [PlainBlock(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.fc(F.avg_pool2d(out, 8).view(len(x), -1))


class PlainNormalize(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__()
        for name, values in (("mean", info.mean), ("std", info.std)):
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def plain_copy(model: nn.Module, info: DatasetInfo) -> nn.Module:
    """The reference's network with the weights of the suite's; parameters and buffers of both stand in the order of the forward pass."""
    network = PlainLeNet() if info.shape[0] == 1 else PlainResNet(int(info.train.arch.removeprefix("cifar_resnet")))
    theirs, ours = network.state_dict(), {k: v for k, v in model.state_dict().items() if k.split(".")[-1] not in ("mean", "std")}
    for (name, target), source in zip(theirs.items(), ours.values(), strict=True):
        if target.shape != source.shape:
            raise BenchError(f"weight {name} of the reference has shape {tuple(target.shape)}, not {tuple(source.shape)}")
        target.copy_(source)
    weight = next(model.parameters())
    plain = network if info.shape[0] == 1 else nn.Sequential(PlainNormalize(info), network)
    return plain.to(device=weight.device, dtype=weight.dtype)


# ------------------------------------------------------------------------------------------------ the reference's losses


class Draws(Protocol):
    """Where the reference gets its noise from."""

    def normal(self, x: Tensor) -> Tensor: ...
    def uniform(self, size: int) -> Tensor: ...


class Fresh:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def normal(self, x: Tensor) -> Tensor:
        return torch.randn_like(x) * SIGMA

    def uniform(self, size: int) -> Tensor:
        return torch.rand(size, device=self.device)


class Replayed:
    """The draws that the suite made in its step."""

    def __init__(self, noise: list[Tensor], uniform: list[Tensor]) -> None:
        self.copies = iter([copy for drawn in noise for copy in drawn])
        self.numbers = iter(uniform)

    def normal(self, x: Tensor) -> Tensor:
        return next(self.copies)

    def uniform(self, size: int) -> Tensor:
        return next(self.numbers)


def soft_cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    return torch.sum(-target * F.log_softmax(logits, dim=1), 1)


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    return soft_cross_entropy(target, logits) - torch.sum(-target * torch.log(target.clamp(min=1e-38)), 1)


def plain_gaussian(method: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    return F.cross_entropy(model(x + draws.normal(x)), y)


def plain_stability(method: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    clean = model(x)
    noisy = model(x + draws.normal(x))
    return F.cross_entropy(clean, y) + method.strength * soft_cross_entropy(F.softmax(clean, dim=1), noisy).mean()


def plain_consistency(method: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    noises = [draws.normal(x) for _ in range(method.copies)]
    logits = model(torch.cat([x + noise for noise in noises]))
    pieces = logits.chunk(method.copies)
    mean = sum(F.softmax(piece, dim=1) for piece in pieces) / method.copies
    spread = sum(divergence(mean, piece).mean() for piece in pieces) / method.copies
    entropy = torch.sum(-mean * torch.log(mean.clamp(min=1e-38)), 1).mean()
    return F.cross_entropy(logits, y.repeat(method.copies)) + method.strength * spread + method.entropy_strength * entropy


def plain_macer(method: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    size, m = len(x), method.copies
    repeated = x.repeat((1, m, 1, 1)).view(size * m, *x.shape[1:])  # image by image
    noise = torch.stack([draws.normal(x) for _ in range(m)], 1).view_as(repeated)
    logits = model(repeated + noise).view(size, m, -1)
    chance = F.softmax(logits, dim=2).mean(1)
    loss = F.nll_loss(torch.log(chance + 1e-10), y, reduction="sum")
    sharp = F.softmax(logits * method.temperature, dim=2).mean(1)
    top, classes = torch.topk(sharp, 2)
    right = classes[:, 0] == y
    first, second = top[right, 0], top[right, 1]
    unit = torch.distributions.Normal(0.0, 1.0)
    gap = unit.icdf(first) - unit.icdf(second)
    fine = ~torch.isnan(gap) & ~torch.isinf(gap) & (torch.abs(gap) <= method.margin)
    gap = unit.icdf(first[fine]) - unit.icdf(second[fine])
    robust = (method.margin - gap).sum() * SIGMA / 2
    return (loss + method.strength * robust) / size


def plain_attack(
    model: nn.Module, x: Tensor, y: Tensor, noises: list[Tensor], steps: int, move: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    model.eval()
    model.requires_grad_(False)
    point = x.detach()
    for _ in range(steps):
        point = point.clone().requires_grad_()
        chance = sum(F.softmax(model(point + noise), dim=1) for noise in noises) / len(noises)
        assert isinstance(chance, Tensor)
        loss = F.nll_loss(torch.log(chance.clamp(min=1e-20)), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [point])
        point = move(point.detach(), gradient)
    model.train()
    model.requires_grad_(True)
    return point


def lengths(x: Tensor) -> Tensor:
    return x.view(len(x), -1).norm(dim=1).view(-1, 1, 1, 1)


def plain_smoothadv(method: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    noises = [draws.normal(x) for _ in range(method.copies)]
    step = 2 * method.epsilon / method.steps

    def move(point: Tensor, gradient: Tensor) -> Tensor:
        shift = (point + step * gradient / lengths(gradient)).clamp(0, 1) - x
        return x + shift * (method.epsilon / lengths(shift)).clamp(max=1)

    point = plain_attack(model, x, y, noises, method.steps, move)
    return F.cross_entropy(model(torch.cat([point + noise for noise in noises])), y.repeat(method.copies))


def plain_smoothmix(method: Any, model: nn.Module, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
    noises = [draws.normal(x) for _ in range(method.copies)]
    share = (draws.uniform(len(x)) / 2).view(-1, 1)

    def move(point: Tensor, gradient: Tensor) -> Tensor:
        return (point + method.step_size * gradient / (lengths(gradient) + 1e-8)).clamp(0, 1)

    point = plain_attack(model, x, y, noises, method.steps, move)
    logits = model(torch.cat([x + noise for noise in noises]))
    mean = sum(F.softmax(piece, dim=1) for piece in logits.chunk(method.copies)) / method.copies
    assert isinstance(mean, Tensor)
    image_share = share.view(-1, 1, 1, 1)
    mixed_x = (1 - image_share) * x + image_share * point
    mixed_y = (1 - share) * mean + share / mean.shape[1]
    mixed = model(torch.cat([mixed_x + noise for noise in noises]))
    right = (mean.argmax(1) == y).float()
    loss = sum((divergence(mixed_y, piece) * right).mean() for piece in mixed.chunk(method.copies)) / method.copies
    return F.cross_entropy(logits, y.repeat(method.copies)) + method.strength * loss


Plain = Callable[[Any, nn.Module, Tensor, Tensor, Draws], Tensor]
METHODS: dict[str, tuple[type[Method], str, dict[str, Any], Plain]] = {
    # class, variant, what is changed of the preset so that every part of the loss is at work from the first step; reference
    "gaussian": (Gaussian, "default", {}, plain_gaussian),
    "stability": (Stability, "default", {}, plain_stability),
    "smoothadv": (SmoothAdv, "default", {"warmup_epochs": 0}, plain_smoothadv),
    "macer": (Macer, "default", {"deferral": 0}, plain_macer),
    "consistency": (Consistency, "default", {}, plain_consistency),
    "smoothmix": (SmoothMix, "eta5", {"warmup_epochs": 0}, plain_smoothmix),
}


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one at a time, with the operations of torchvision's MNIST (tensors) and CIFAR10 (arrays): a picture, then a tensor."""

    def __init__(self, data: Split) -> None:
        self.transform = transforms.Compose([transforms.ToTensor()])
        self.grey = data.pixels.shape[1] == 1
        self.pixels: Any = data.pixels.squeeze(1) if self.grey else data.pixels.permute(0, 2, 3, 1).numpy()  # N H W, or N H W C
        self.labels = data.labels if self.grey else data.labels.tolist()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.pixels[index], int(self.labels[index])
        picture = Image.fromarray(image.numpy(), mode="L") if self.grey else Image.fromarray(image)
        return self.transform(picture), label


class Reference:
    """The plain training of one method; one optimiser step per piece of a loader batch."""

    def __init__(self, method: Method, loss: Plain, model: nn.Module, train: TrainSpec) -> None:
        self.method, self.loss, self.model = method, loss, model.train()
        self.optimiser = torch.optim.SGD(model.parameters(), lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
        self.losses: list[float] = []

    def step(self, x: Tensor, y: Tensor, draws: Draws) -> None:
        loss = self.loss(self.method, self.model, x, y, draws)
        self.losses.append(loss.item())
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def train(self, batches: Iterator[tuple[Tensor, Tensor]], count: int, chunks: int) -> None:
        for x, y in itertools.islice(batches, count):
            for piece, labels in zip(x.chunk(chunks), y.chunk(chunks), strict=True):
                self.step(piece, labels, Fresh(x.device))


# ----------------------------------------------------------------------------------------------- the same task for both


@dataclass(frozen=True, kw_only=True)
class Watched(Method):
    """A method that writes down its batch and its draws, for the reference to repeat."""

    inner: Method
    batches: list[Batch] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    uniform: list[Tensor] = field(default_factory=list)

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        batch = dataclasses.replace(batch, x=batch.x.to(next(g.base.parameters()).dtype))
        self.batches.append(batch)
        return self.inner.loss(Watching(g, self), batch)


class Watching(SmoothedClassifier):
    def __init__(self, g: SmoothedClassifier, log: Watched) -> None:
        super().__init__(g.base, g.sigma, g.generator)
        self.log = log

    def noise(self, x: Tensor, copies: int = 1) -> Tensor:
        self.log.noise.append(super().noise(x, copies))
        return self.log.noise[-1]

    def uniform(self, size: int, like: Tensor) -> Tensor:
        self.log.uniform.append(super().uniform(size, like))
        return self.log.uniform[-1]


class Enough(Exception):
    """The round's steps are taken."""


def advance(trainer: Trainer, steps: int) -> None:
    """Takes so many steps of the suite's training."""
    last = trainer.step + steps

    def after_step(trainer: Trainer) -> None:
        if trainer.step == last:
            raise Enough

    try:
        trainer.run(after_step)
    except Enough:
        return
    raise BenchError(f"the training ended after {trainer.step} steps, before step {last}")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One method on one network."""

    name: str
    network: str
    info: DatasetInfo
    data: Split
    batch: int  # images per loader batch
    device: torch.device = CPU

    @property
    def method(self) -> Method:
        cls, variant, changes, _ = METHODS[self.name]
        preset = cls.presets.get(("official", variant, self.info.name, SIGMA), cls())
        return dataclasses.replace(preset, **changes)

    @property
    def chunks(self) -> int:
        chunks = self.method.chunks
        return getattr(self.method, chunks) if isinstance(chunks, str) else chunks

    def trainer(
        self, method: Method, *, graph: bool = False, precision: str = "float32", layout: torch.memory_format | None = None
    ) -> Trainer:
        batch = self.batch // self.chunks
        train = dataclasses.replace(self.info.train, epochs=1_000, clock=1_000, batch=batch, nesterov=False, precision=precision)
        spec = spec_of(train, self.name, dataset=self.info.name)
        recorder = CudaGraphs(self.device) if graph else None
        return Trainer(spec, method, self.info, self.data, self.device, recorder=recorder, layout=layout)

    def reference(self, trainer: Trainer) -> Reference:
        return Reference(self.method, METHODS[self.name][3], plain_copy(trainer.model, self.info), trainer.spec.train)


def difference_after_one_step(task: Task, dtype: torch.dtype) -> tuple[float, int]:
    """Largest difference of a weight after one step of both, and the operations of that step in the reference."""
    watched = Watched(inner=task.method)
    trainer = task.trainer(watched)
    trainer.model.to(dtype)
    reference = task.reference(trainer)
    before = copy.deepcopy(reference.model.state_dict())
    advance(trainer, 1)
    (batch,) = watched.batches
    with FlopCounterMode(display=False) as counter:
        reference.step(batch.x, batch.y, Replayed(watched.noise, watched.uniform))
    theirs = [tensor for tensor in reference.model.state_dict().values() if tensor.is_floating_point()]
    ours = [tensor for name, tensor in trainer.model.state_dict().items() if name.split(".")[-1] not in ("mean", "std")]
    ours = [tensor for tensor in ours if tensor.is_floating_point()]
    moved = max(float((a - b).abs().max()) for a, b in zip(theirs, (t for t in before.values() if t.is_floating_point()), strict=True))
    if not moved > 10 * TOLERANCE:
        raise BenchError(f"{task.name} on {task.network}: a step moves no weight by more than {moved:.1e}, so the comparison is empty")
    return max(float((a - b).abs().max()) for a, b in zip(theirs, ours, strict=True)), counter.get_total_flops()
