"""The idx files of MNIST and its likes: plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.datasets.source import File, Files


@dataclass(frozen=True, kw_only=True)
class Idx(Files):
    """Four idx files: images and labels of two splits, named as MNIST's."""

    def path(self, folder: Path, name: str) -> Path | None:
        return super().path(folder, name) or super().path(folder, f"{name}.gz")

    def content(self, path: Path) -> bytes:
        try:
            return gzip.decompress(super().content(path)) if path.suffix == ".gz" else super().content(path)
        except (EOFError, zlib.error) as error:
            raise OSError(str(error)) from None

    def label_files(self) -> tuple[str, ...]:
        return self.wanted("test")[1:]

    def decode(self, files: Mapping[str, bytes]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        (images, pixels), (labels, values) = files.items()
        return _array(images, pixels, 3)[:, None], self.decode_labels({labels: values})

    def decode_labels(self, files: Mapping[str, bytes]) -> NDArray[Any]:
        ((name, raw),) = files.items()
        return _array(name, raw, 1)


def _array(name: str, raw: bytes, dims: int) -> NDArray[np.uint8]:
    start = 4 + 4 * dims
    shape = np.frombuffer(raw[4:start], ">u4").astype(np.int64).tolist() if len(raw) >= start else []
    if raw[:4] != bytes((0, 0, 8, dims)) or len(raw) - start != np.prod(shape, dtype=object):
        raise ValueError(f"{name} is no idx file of {dims} dimensions, or cut short ({len(raw)} bytes)")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


@dataclass(frozen=True, kw_only=True)
class Shipped(Idx):
    """idx files that come with the package: always at hand, and any other content means a damaged installation."""

    ships: ClassVar = True

    def find(self, roots: object) -> Path:
        return Path(str(files("bench"))) / "assets" / self.places[0]


def four_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[File, ...]:
    """MNIST's four file names with these MD5s of the unzipped content."""
    return (
        File("train-images-idx3-ubyte", "train", train_images),
        File("train-labels-idx1-ubyte", "train", train_labels),
        File("t10k-images-idx3-ubyte", "test", test_images),
        File("t10k-labels-idx1-ubyte", "test", test_labels),
    )
