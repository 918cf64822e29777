"""Whether the tensors of a file are those of an architecture: names, shapes and types, before any of them is copied."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from bench.datasets import DatasetInfo
from bench.errors import BenchError, nearest
from bench.models import ARCHITECTURES, build, call, is_known
from bench.registry import code_of
from bench.store.checkpoints import COUNTER

Facts = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape and type."""

ALIASES = {"resnet20": "cifar_resnet20", "resnet110": "cifar_resnet110", "mnist_lenet": "lenet"}
"""Names of the field that neither the suite nor timm has. A wrong guess does no harm, since the tensors are compared."""

FAMILIAR = ("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "vgg16", "densenet121")
"""Networks of timm that are compared with tensors that do not fit, beside those of the suite."""

ANY = "--arch takes networks of the suite, any of timm's, or module:factory of yours"

NORMALIZATIONS = (("mean", "std"), ("mu", "sigma"), ("means", "sds"))
"""Names of buffers in the field: what is subtracted from pixels of [0, 1], and what they are divided by."""


def is_factory(word: str) -> bool:
    """Whether a word has the form module:factory."""
    module, colon, name = word.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


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
    if meta:
        with contextlib.suppress(BenchError), torch.device("meta"):
            return cast(nn.Sequential, build(arch, info, 0, sigma))[1]
        # Some networks of timm compute with their own weights while they are built.
    return cast(nn.Sequential, build(arch, info, 0, sigma))[1]


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


def code_of_factory(word: str) -> str:
    """Hex SHA-256 of the code of a factory's module, and of what it imports from its package or the current folder."""
    module = sys.modules[word.partition(":")[0]]
    return code_of(module, plugin=Path(str(module.__file__)).parent == Path.cwd())


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


@dataclass(frozen=True)
class Stripped:
    """The tensors of a file under the names of a network.

    Attributes:
        tensors: of the network.
        prefix: what stood before their names: `module.` of a network on several GPUs, `1.` of one behind its normalisation, ...
        normalization: name in the file -> tensor, first what is subtracted; empty where the file holds none.
    """

    tensors: Mapping[str, Tensor]
    prefix: str
    normalization: Mapping[str, Tensor]


def stripped(tensors: Mapping[str, Tensor], wanted: Facts) -> Stripped:
    """Finds a network's tensors in those of a file, behind any common prefix, and the normalisation beside them.

    Args:
        wanted: the network's tensors, whose own names may begin alike.
    """
    rest, prefix = dict(tensors), ""
    normalization: dict[str, Tensor] = {}

    def take(pair: tuple[str, ...]) -> None:
        normalization.update({f"{prefix}{name}": rest.pop(name) for name in pair})

    needed = {name for name in wanted if name.rpartition(".")[2] != COUNTER}
    while rest and not needed <= rest.keys():
        first, dot, _ = next(iter(rest)).partition(".")
        if dot and all(name.startswith(f"{first}.") for name in rest):
            prefix += f"{first}."
            rest = {name.removeprefix(f"{first}."): tensor for name, tensor in rest.items()}
        elif not normalization and (pair := _normalization(rest.keys())):
            take(pair)
        else:
            break
    if not normalization:
        take(_normalization(rest.keys() - wanted.keys()))
    return Stripped(rest, prefix, normalization)


def _normalization(names: Set[str]) -> tuple[str, ...]:
    """The outermost two tensors that are called as normalisations are; none where there are none."""
    for name in sorted(names, key=lambda name: (name.count("."), name)):
        folder, dot, last = name.rpartition(".")
        for mean, std in NORMALIZATIONS:
            if last == mean and (other := f"{folder}{dot}{std}") in names:
                return name, other
    return ()


def check(tensors: Mapping[str, Tensor], wanted: Facts, arch: str, info: DatasetInfo, where: str) -> None:
    """BenchError unless the tensors are those of the network; it names the first that is not, and what would fit.

    Args:
        where: opens the sentence.
    """
    if problems := list(_differences(facts(tensors), wanted, arch, info)):
        more = f" (and {len(problems) - 1} more such differences)" if problems[1:] else ""
        raise BenchError(f"{where}: {problems[0]}{more}; {advice(tensors, arch, info)}")


def _differences(found: Facts, wanted: Facts, arch: str, info: DatasetInfo) -> Iterator[str]:
    network = f"{arch} for {info.name}"
    for name, (shape, dtype) in wanted.items():
        if name not in found:
            if name.rpartition(".")[2] != COUNTER:
                yield f"tensor {name!r} of {network} is missing"
        elif found[name][0] != shape:
            sizes = ("x".join(map(str, size)) or "a single number" for size in (found[name][0], shape))
            yield "tensor {!r} is {} in the file, but {} in {}".format(name, *sizes, network)
        elif found[name][1] != dtype:
            yield f"tensor {name!r} is {found[name][1]} in the file, but {dtype} in {network}; save it in the type of the network"
    for name in found:
        if name not in wanted:
            yield f"tensor {name!r:.80} is in the file, but not in {network}"


def advice(tensors: Mapping[str, Tensor], arch: str, info: DatasetInfo) -> str:
    """The architecture whose tensors these are, if the suite knows one."""
    for name in (*ARCHITECTURES, *FAMILIAR):
        try:
            wanted = facts_of(name, info)
        except BenchError:
            continue  # it takes no images of this data set
        if name != arch and not any(_differences(facts(stripped(tensors, wanted).tensors), wanted, name, info)):
            return f"its tensors are those of {name}: --arch {name}"
    return ANY


def unknown(arch: str, tensors: Mapping[str, Tensor], info: DatasetInfo, where: str) -> BenchError:
    """The error for a file whose architecture is not said, or not known."""
    said = f"its architecture {arch!r:.80} is unknown" if arch else "it does not say its architecture"
    told = advice(tensors, arch, info)
    guess = nearest(arch, ARCHITECTURES) if arch and told == ANY else ""
    return BenchError(f"{where}: {said}; {told}{guess}")
