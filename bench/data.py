"""Images as tensors. A data set is two tensors per split, in memory; nothing is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from bench.datasets import DATASETS
from bench.errors import BenchError, nearest

# MD5 of the unzipped idx files, as published with the data set.
_MNIST_FILES = {
    ("train", "images"): ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    ("train", "labels"): ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ("test", "images"): ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    ("test", "labels"): ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}


@dataclass(frozen=True)
class Split:
    """Images and labels of one split.

    Attributes:
        pixels: N C H W, uint8. labels: N, int64.
        checksums: file name -> MD5, recorded beside each run.
    """

    pixels: Tensor
    labels: Tensor
    checksums: dict[str, str]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return Split(self.pixels.to(device), self.labels.to(device), self.checksums)

    def images(self, indices: Tensor) -> Tensor:
        """The chosen images as float32 in [0, 1]: B C H W."""
        return self.pixels[indices].to(torch.float32).div_(255)


@cache
def load(name: str, split: str) -> Split:
    """A split (`train` or `test`) of a data set.

    Raises:
        BenchError: unknown data set, or a file that is not the published one.
    """
    if name not in DATASETS:
        raise BenchError(f"unknown data set {name!r}{nearest(name, DATASETS)}")
    if split not in ("train", "test"):
        raise BenchError(f"unknown split {split!r}; there is train, test")
    images, md5_images = _read_idx(*_MNIST_FILES[split, "images"])
    labels, md5_labels = _read_idx(*_MNIST_FILES[split, "labels"])
    pixels = torch.from_numpy(images).unsqueeze(1)  # N 1 28 28
    return Split(pixels, torch.from_numpy(labels).long(), {**md5_images, **md5_labels})


def _read_idx(name: str, md5: str) -> tuple[np.ndarray, dict[str, str]]:
    path = files("bench") / "assets" / "mnist" / f"{name}.gz"
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise BenchError(f"{path}: {error}; reinstall the package") from None
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != md5:
        raise BenchError(f"{path}: MD5 of the unzipped file is {found}, not {md5}; reinstall the package")
    dims = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dims, offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy(), {name: md5}
