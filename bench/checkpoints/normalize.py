"""What stands between pixels of [0, 1] and the network: mean and standard deviation per channel, as a word and as numbers.

The field's checkpoints do not hold it, so it is said by a word: `dataset`, `timm`, `none`, or `MEAN/STD` in numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bench.datasets import DatasetInfo
from bench.errors import BenchError, nearest
from bench.models import ARCHITECTURES

WORDS = ("dataset", "timm", "none")

USUAL = ("0.1307/0.3081", "0.5/0.5", "0.5/1", "0.485,0.456,0.406/0.229,0.224,0.225")
"""Normalisations that many published models have: of MNIST, of vision transformers, centring alone, of ImageNet."""


@dataclass(frozen=True)
class Normalization:
    """(x - mean) / std per channel; numbers that float32 holds.

    Attributes:
        mean, std: C numbers each, of pixels in [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        """The word that `parse` reads back: `none`, or `0.4914,0.4822,0.4465/0.2023,0.1994,0.201`."""
        if set(self.mean) == {0.0} and set(self.std) == {1.0}:
            return "none"
        return "/".join(",".join(str(np.float32(value)) for value in values) for values in (self.mean, self.std))


def checked(mean: tuple[float, ...], std: tuple[float, ...], channels: int, where: str) -> Normalization:
    """A normalisation for images of so many channels; one number serves every channel.

    Raises:
        BenchError: another count of numbers, one that is not finite, a std that is not positive; `where` opens the sentence.
    """
    mean, std = (values * channels if len(values) == 1 else values for values in (mean, std))
    if not len(mean) == len(std) == channels:
        raise BenchError(f"{where} has {len(mean)} means and {len(std)} deviations, but the images have {channels} channel(s)")
    with np.errstate(over="ignore"):
        rounded = np.array([*mean, *std], np.float32).tolist()
    if not all(map(math.isfinite, rounded)) or min(rounded[channels:]) <= 0:
        raise BenchError(f"{where} must have finite means and deviations greater than 0")
    return Normalization(tuple(rounded[:channels]), tuple(rounded[channels:]))


def parse(word: str, arch: str, info: DatasetInfo) -> Normalization:
    """The normalisation that a word of --normalize means.

    Args:
        arch: the network; `timm` asks for the numbers that timm states for it.

    Raises:
        BenchError: another word, or numbers that do not fit the images.
    """
    channels = info.shape[0]
    if word == "dataset":
        return checked(info.mean, info.std, channels, f"the normalisation of {info.name}")
    if word == "none":
        return checked((0.0,), (1.0,), channels, "no normalisation")
    if word == "timm":
        return _of_timm(arch, channels)
    mean, slash, std = word.partition("/")
    try:
        if not slash:
            raise ValueError
        numbers = [tuple(float(part) for part in values.split(",")) for values in (mean, std)]
    except ValueError:
        raise BenchError(
            f"--normalize {word} is neither {', '.join(WORDS)} nor MEAN/STD such as 0.1307/0.3081{nearest(word, WORDS)}"
        ) from None
    return checked(numbers[0], numbers[1], channels, f"--normalize {word}")


def _of_timm(arch: str, channels: int) -> Normalization:
    config = None
    if arch not in ARCHITECTURES and ":" not in arch:
        import timm  # slow to import

        config = timm.get_pretrained_cfg(arch) if timm.is_model(arch) else None
    if config is None:
        raise BenchError(f"--normalize timm: timm states no normalisation for {arch!r}; write dataset, none or MEAN/STD")
    return checked(config.mean, config.std, channels, f"--normalize timm: that of {arch}")


def candidates(arch: str, info: DatasetInfo) -> Mapping[str, Normalization]:
    """Word -> normalisation, for all that are worth a try where accuracy looks wrong."""
    result: dict[str, Normalization] = {}
    for word in (*WORDS, *USUAL):
        try:
            found = parse(word, arch, info)
        except BenchError:
            continue  # it does not fit this network or these images
        if found not in result.values():
            result[word] = found
    return result
