"""Networks by name. Normalisation is the model's first layer, so that noise and radii live in pixels of [0, 1]."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from bench.datasets import DatasetInfo
from bench.errors import BenchError, lies_here, nearest
from bench.models import known


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


Factory = Callable[..., object]
"""A function of `info` (a DatasetInfo), `sigma` (the noise level) or both, by these names: an nn.Module without normalisation."""

ARCHITECTURES: dict[str, Factory] = {
    found.name: importlib.import_module(f"{known.__name__}.{found.name}").NETWORK for found in pkgutil.iter_modules(known.__path__)
}
"""By name: those of the suite, and those that the registry has loaded since, each because it was asked for."""

OUTSIDE: dict[str, str] = {}
"""Name of a network that is no part of the suite -> SHA-256 of its code."""


def register(name: str, factory: Factory, code_sha256: str) -> None:
    """Makes a network from outside the suite known by name."""
    ARCHITECTURES[name], OUTSIDE[name] = factory, code_sha256
    check_arch.cache_clear()


def fault(factory: object) -> str | None:
    """What keeps an object from being a factory, in words; None if nothing does."""
    if not callable(factory):
        return f"it is an object of type {type(factory).__name__}"
    needed = [p for p in inspect.signature(factory).parameters.values() if p.default is p.empty]
    odd = [p.name for p in needed if p.name not in ("info", "sigma") and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return f"it wants {odd[0]}" if odd else None


def call(factory: Factory, info: DatasetInfo, sigma: float | None) -> nn.Module:
    """The network that a factory gives for a data set and a noise level, in float32.

    Raises:
        TypeError: it wants something else, or gives something else.
    """
    if said := fault(factory):
        raise TypeError(f"a factory takes info or sigma or both, but {said}")
    taken = inspect.signature(factory).parameters
    if "sigma" in taken and sigma is None:
        raise TypeError("it depends on the noise level, which nobody said")
    network = factory(**{name: value for name, value in (("info", info), ("sigma", sigma)) if name in taken})
    if not isinstance(network, nn.Module):
        raise TypeError(f"it returned an object of type {type(network).__name__}, not an nn.Module")
    return network.float()


def build(arch: str, info: DatasetInfo, seed: int, sigma: float | None = None) -> nn.Module:
    """A fresh base classifier: Normalize, then the network; weights drawn from `seed`, global generators untouched.

    Args:
        arch: one of `ARCHITECTURES`, or any classifier of timm by its name (without pretrained weights).
        sigma: noise level; needed where the network depends on it.

    Raises:
        BenchError: no such architecture, or one that does not take this data set's images.
    """
    _known(arch)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if arch in ARCHITECTURES:
                network = call(ARCHITECTURES[arch], info, sigma)
            else:
                import timm  # slow to import, and most runs do without it

                network = timm.create_model(arch, pretrained=False, num_classes=info.classes, in_chans=info.shape[0])
    except BenchError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise BenchError(f"architecture {arch!r} cannot be built for {info.name} ({type(error).__name__}: {said})") from None
    return nn.Sequential(Normalize(info.mean, info.std), network)


def place(model: nn.Module, device: torch.device, layout: torch.memory_format = torch.channels_last) -> nn.Module:
    """The model on its device, the weights of convolutions in a layout."""
    return model.to(device).to(memory_format=layout)


@cache
def check_arch(arch: str, info: DatasetInfo, sigma: float | None = None) -> None:
    """BenchError unless there is such an architecture and it classifies images of this data set, which one pass shows."""
    check_pass(build(arch, info, 0, sigma).eval(), info, f"architecture {arch!r}")


@torch.inference_mode()
def check_pass(model: nn.Module, info: DatasetInfo, name: str) -> None:
    """BenchError unless a model gives two black images of a data set logits of its classes; `name` opens the sentence."""
    size = "x".join(map(str, info.shape))
    try:
        logits = model(torch.zeros(2, *info.shape))
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise BenchError(f"{name} does not take {info.name}'s images of {size} ({type(error).__name__}: {said})") from None
    if not isinstance(logits, Tensor):
        raise BenchError(f"{name} gives an object of type {type(logits).__name__} for images of {size}, not a tensor of logits")
    if tuple(logits.shape) != (2, info.classes):
        raise BenchError(
            f"{name} gives logits of shape {tuple(logits.shape)} for 2 images of {info.name}, which has {info.classes} classes"
        )


def is_known(arch: str) -> bool:
    """Whether there is a network of this name: of the suite, of a plug-in that was loaded, or of timm."""
    if arch in ARCHITECTURES:
        return True
    import timm  # slow to import

    return bool(timm.is_model(arch))


def _known(arch: str) -> None:
    if not is_known(arch):
        import timm

        raise BenchError(f"unknown architecture {arch!r}{lies_here(arch) or nearest(arch, [*ARCHITECTURES, *timm.list_models()])}")
