"""Images as tensors. A data set is two tensors per split, in memory; nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from bench import mnist
from bench.datasets import DATASETS
from bench.errors import BenchError, nearest


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
    images, md5_images = mnist.read(split, "images")
    labels, md5_labels = mnist.read(split, "labels")
    pixels = torch.from_numpy(images).unsqueeze(1)  # N 1 28 28
    return Split(pixels, torch.from_numpy(labels).long(), {**md5_images, **md5_labels})
