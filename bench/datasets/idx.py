"""The idx files of MNIST and its likes: plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.datasets.source import Arrays, File, Source, md5_of, read_bytes
from bench.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class Idx(Source):
    """Four idx files: images and labels of two splits, named as MNIST's."""

    def path(self, folder: Path, name: str) -> Path | None:
        return super().path(folder, name) or super().path(folder, f"{name}.gz")

    def read(self, folder: Path, split: str) -> Arrays:
        images, labels = self.wanted(split)
        pixels, md5_images = self._array(folder, images, 3)
        values, md5_labels = self._array(folder, labels, 1)
        if len(pixels) != len(values):
            raise BenchError(f"{folder}: {images} holds {len(pixels)} images, but {labels} holds {len(values)} labels")
        return Arrays(pixels[:, None], values.astype(np.int64), {images: md5_images, labels: md5_labels})

    def labels(self, folder: Path) -> tuple[NDArray[np.int64], dict[str, str]]:
        name = self.wanted("test")[1]
        values, md5 = self._array(folder, name, 1)
        return values.astype(np.int64), {name: md5}

    def _array(self, folder: Path, name: str, dims: int) -> tuple[NDArray[np.uint8], str]:
        path = self.path(folder, name) or folder / name
        try:
            raw = read_bytes(path)
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        except BenchError as error:
            raise BenchError(f"{error}{self._advice()}") from None
        except (OSError, EOFError, zlib.error) as error:
            raise BenchError(f"{path}: {error}{self._advice()}") from None
        md5 = md5_of(raw)
        self._check(path, name, md5)
        start = 4 + 4 * dims
        shape = np.frombuffer(raw[4:start], ">u4").astype(np.int64).tolist() if len(raw) >= start else []
        if raw[:4] != bytes((0, 0, 8, dims)) or len(raw) - start != np.prod(shape, dtype=object):
            raise BenchError(f"{path} is no idx file of {dims} dimensions, or cut short ({len(raw)} bytes)")
        return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy(), md5

    def _advice(self) -> str:
        return ""

    def _check(self, path: Path, name: str, md5: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Shipped(Idx):
    """idx files that come with the package: always at hand, and any other content means a damaged installation."""

    ships: ClassVar = True

    def find(self, roots: object) -> Path:
        return Path(str(files("bench"))) / "assets" / self.places[0]

    def _advice(self) -> str:
        return "; reinstall the package"

    def _check(self, path: Path, name: str, md5: str) -> None:
        published = next(file.md5 for file in self.files if file.name == name)
        if md5 != published:
            raise BenchError(f"{path}: MD5 of the unzipped file is {md5}, not {published}{self._advice()}")


def four_files(train_images: str, train_labels: str, test_images: str, test_labels: str) -> tuple[File, ...]:
    """MNIST's four file names with these MD5s of the unzipped content."""
    return (
        File("train-images-idx3-ubyte", "train", train_images),
        File("train-labels-idx1-ubyte", "train", train_labels),
        File("t10k-images-idx3-ubyte", "test", test_images),
        File("t10k-labels-idx1-ubyte", "test", test_labels),
    )
