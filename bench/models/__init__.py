"""Architectures. Normalisation is the model's first layer, so that noise and radii live in pixels of [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from bench.datasets import DatasetInfo
from bench.errors import BenchError, nearest
from bench.models.lenet import LeNet
from bench.models.resnet import CifarResNet

__all__ = ["ARCHITECTURES", "CifarResNet", "LeNet", "Normalize", "build", "check_arch", "place"]


class Normalize(nn.Module):
    """(x - mean) / std per channel. Mean and std are buffers: they travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.identity = set(mean) == {0.0} and set(std) == {1.0}

    def forward(self, x: Tensor) -> Tensor:
        return x if self.identity else (x - self.mean) / self.std


def _lenet(info: DatasetInfo) -> nn.Module:
    _require("lenet", (1, 28, 28), info)
    return LeNet(info.classes)


def _cifar_resnet(depth: int, info: DatasetInfo) -> nn.Module:
    _require(f"cifar_resnet{depth}", (3, 32, 32), info)
    return CifarResNet(depth, info.classes)


def _require(arch: str, shape: tuple[int, int, int], info: DatasetInfo) -> None:
    if info.shape != shape:
        wanted, found = ("x".join(map(str, size)) for size in (shape, info.shape))
        raise BenchError(f"{arch} takes images of {wanted}, but {info.name} has {found}")


ARCHITECTURES: dict[str, Callable[[DatasetInfo], nn.Module]] = {
    "lenet": _lenet,
    "cifar_resnet20": partial(_cifar_resnet, 20),
    "cifar_resnet110": partial(_cifar_resnet, 110),
}


def build(arch: str, info: DatasetInfo, seed: int) -> nn.Module:
    """A fresh base classifier: Normalize, then the network; weights drawn from `seed`, global generators untouched.

    Args:
        arch: one of `ARCHITECTURES`, or any classifier of timm by its name (without pretrained weights).

    Raises:
        BenchError: no such architecture, or one that does not take this data set's images.
    """
    _known(arch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if arch in ARCHITECTURES:
            network = ARCHITECTURES[arch](info)
        else:
            import timm  # slow to import, and most runs do without it

            network = timm.create_model(arch, pretrained=False, num_classes=info.classes, in_chans=info.shape[0])
    return nn.Sequential(Normalize(info.mean, info.std), network)


def place(model: nn.Module, device: torch.device, layout: torch.memory_format = torch.channels_last) -> nn.Module:
    """The model on its device, the weights of convolutions in a layout."""
    return model.to(device).to(memory_format=layout)


@cache
def check_arch(arch: str, info: DatasetInfo) -> None:
    """BenchError unless there is such an architecture and it classifies images of this data set, which one pass shows."""
    _known(arch)
    try:
        with torch.inference_mode():
            shape = tuple(build(arch, info, 0).eval()(torch.zeros(2, *info.shape)).shape)
    except BenchError:
        raise
    except Exception as error:
        size = "x".join(map(str, info.shape))
        raise BenchError(f"architecture {arch!r} does not take {info.name}'s images of {size} ({type(error).__name__}: {error})") from None
    if shape != (2, info.classes):
        raise BenchError(f"architecture {arch!r} gives logits of shape {shape} for 2 images of {info.classes} classes")


def _known(arch: str) -> None:
    if arch in ARCHITECTURES:
        return
    import timm

    if not timm.is_model(arch):
        raise BenchError(f"unknown architecture {arch!r}{nearest(arch, [*ARCHITECTURES, *timm.list_models()])}")
