"""Whether the tensors of a file are those of an architecture: names, shapes and types, before any of them is copied."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bench.datasets import DatasetInfo
from bench.errors import BenchError, nearest
from bench.models import ARCHITECTURES, build, call
from bench.store.checkpoints import COUNTER

Facts = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape and type."""

ALIASES = {"resnet20": "cifar_resnet20", "resnet110": "cifar_resnet110", "mnist_lenet": "lenet"}
"""Names of the field that neither the suite nor timm has. A wrong guess does no harm, since the tensors are compared."""

FAMILIAR = ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "vgg16", "densenet121")
"""Networks of timm that are compared with tensors that do not fit, beside those of the suite."""


def is_factory(word: str) -> bool:
    """Whether a word has the form module:factory."""
    module, colon, name = word.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def is_known(arch: str) -> bool:
    """Whether the suite or timm has an architecture of this name."""
    if arch in ARCHITECTURES:
        return True
    import timm  # slow to import

    return bool(timm.is_model(arch))


def known_name(arch: str) -> str:
    """An architecture as this release names it: `ResNet-50` is `resnet50`. What is not known is returned as it is."""
    word = arch.lower().replace("-", "_")
    guesses = (arch, word, word.replace("_", ""), ALIASES.get(word, ""), ALIASES.get(word.replace("_", ""), ""))
    return next((name for name in guesses if is_known(name)), arch)


def make(arch: str, info: DatasetInfo, sigma: float | None = None, *, meta: bool = False) -> nn.Module:
    """A network without normalisation, for images and classes of a data set.

    Args:
        arch: of the suite, of timm, of a plug-in that was loaded, or module:factory, which imports and runs that module.
        sigma: noise level; needed where the network depends on it.
        meta: shapes only, without memory where the architecture allows.

    Raises:
        BenchError: no such architecture, or one that cannot be built for these images.
    """
    if is_factory(arch):
        return _call_factory(arch, info, sigma)
    try:
        if meta:
            try:
                with torch.device("meta"):
                    return cast(nn.Sequential, build(arch, info, 0, sigma))[1]
            except (NotImplementedError, RuntimeError):
                pass  # some networks of timm compute with their own weights while they are built
        return cast(nn.Sequential, build(arch, info, 0, sigma))[1]
    except BenchError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise BenchError(f"architecture {arch!r} cannot be built for {info.name} ({type(error).__name__}: {said})") from None


def _call_factory(word: str, info: DatasetInfo, sigma: float | None) -> nn.Module:
    module, _, name = word.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does; an installed command does not
    try:
        return call(getattr(importlib.import_module(module), name), info, sigma)
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:160]
        raise BenchError(f"{word}: calling {name}() of module {module} gave {type(error).__name__}: {said}") from None


def source_of(arch: str) -> Path | None:
    """The file of a factory's module, None for an architecture by name."""
    file = sys.modules[arch.partition(":")[0]].__file__ if is_factory(arch) else None
    return Path(file) if file else None


def facts(tensors: Mapping[str, Tensor]) -> Facts:
    """Shapes and types of tensors."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


@cache
def facts_of(arch: str, info: DatasetInfo, sigma: float | None = None) -> Facts:
    """Shapes and types of a network's tensors.

    Raises:
        BenchError: as `make`.
    """
    return facts(make(arch, info, sigma, meta=True).state_dict())


def stripped(tensors: Mapping[str, Tensor], wanted: Facts | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under the names of the network alone, and those of the normalisation before it.

    A file's names may begin with `1.` (the network behind a normalisation), `module.` (a network on several GPUs), or both.

    Args:
        wanted: the network's tensors, whose own names may begin so; None: not known.

    Returns:
        the network's tensors by the network's names; `mean` and `std` if the file holds them as the suite writes them.
    """
    rest = dict(tensors)
    normalization: dict[str, Tensor] = {}
    while rest and (wanted is None or not wanted.keys() <= rest.keys()):
        if {"0.mean", "0.std"} <= rest.keys() and not normalization:
            normalization = {"mean": rest.pop("0.mean"), "std": rest.pop("0.std")}
        prefix = next((p for p in ("module.", "1.") if rest and all(name.startswith(p) for name in rest)), None)
        if prefix is None:
            break
        rest = {name.removeprefix(prefix): tensor for name, tensor in rest.items()}
    return rest, normalization


def check(found: Facts, wanted: Facts, arch: str, info: DatasetInfo, where: str) -> None:
    """BenchError unless the tensors are those of the network; it names the first that is not, and what would fit.

    Args:
        where: opens the sentence.
    """
    problems = list(_differences(found, wanted, arch, info))
    if not problems:
        return
    more = f" (and {len(problems) - 1} more such differences)" if problems[1:] else ""
    raise BenchError(f"{where}: {problems[0]}{more}; {_advice(found, arch, info)}")


def _differences(found: Facts, wanted: Facts, arch: str, info: DatasetInfo) -> Iterator[str]:
    network = f"{arch} for {info.name}"
    for name, (shape, dtype) in wanted.items():
        if name not in found:
            if name.rpartition(".")[2] != COUNTER:
                yield f"tensor {name!r} of {network} is missing"
        elif found[name][0] != shape:
            yield f"tensor {name!r} is {_size(found[name][0])} in the file, but {_size(shape)} in {network}"
        elif found[name][1] != dtype:
            yield f"tensor {name!r} is {_type(found[name][1])} in the file, but {_type(dtype)} in {network}"
    for name in found:
        if name not in wanted:
            yield f"tensor {name!r} is in the file, but not in {network}"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _advice(found: Facts, arch: str, info: DatasetInfo) -> str:
    """The architecture whose names and shapes agree best with the tensors."""
    shapes = {(name, shape) for name, (shape, _) in found.items()}
    best, share = "", 0.0
    for name in dict.fromkeys((arch, *ARCHITECTURES, *FAMILIAR)):
        try:
            other = facts_of(name, info)
        except BenchError:
            continue  # there is no such architecture, or it takes no images of this data set
        if not any(_differences(found, other, name, info)) and name != arch:
            return f"its tensors are those of {name}: --arch {name}"
        agree = len(shapes & {(key, shape) for key, (shape, _) in other.items()}) / max(len(shapes), len(other))
        if agree > share:
            best, share = name, agree
    if share < 0.5:
        return "no architecture of the suite is near; --arch takes any of timm's too, or module:factory of yours"
    if share == 1.0:
        return "names and shapes agree, so save the tensors in the types of the network"
    return f"the nearest architecture is {best}, with {share:.0%} of the names and shapes"


def unknown(arch: str, found: Facts, info: DatasetInfo, where: str) -> BenchError:
    """The error for a file whose architecture is not said, or not known."""
    said = f"its architecture {arch!r} is unknown{nearest(arch, ARCHITECTURES)}" if arch else "it does not say its architecture"
    return BenchError(f"{where}: {said}; {_advice(found, arch, info)}")
