"""A tree of image files: one folder per split, in it one folder per class."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.datasets.source import Listing, Source
from bench.errors import BenchError, counted

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class ImageTree(Source):
    """Images in class folders; the classes are numbered in the order of their names, the images of a split in that of their paths.

    Attributes:
        train, test: folders of the splits.
        class_name: pattern of a class folder's name.
        test_per_class: test images of each class, where it is the same for all, so that labels are known without any file.
        classes: how many there are; needed with `test_per_class`.
    """

    train: str = "train"
    test: str = "val"
    class_name: str = ".+"
    test_per_class: int | None = None
    classes: int = 0

    streamed: ClassVar = True

    def wanted(self, split: str) -> tuple[str, ...]:
        return (self.train if split == "train" else self.test,)

    def path(self, folder: Path, name: str) -> Path | None:
        path = folder / name
        return path if os.path.isdir(path) else None  # noqa: PTH112 - what cannot be looked at is not there, and no error

    def fixed_labels(self) -> NDArray[np.int64] | None:
        return None if self.test_per_class is None else np.repeat(np.arange(self.classes), self.test_per_class)

    def read(self, folder: Path, split: str) -> Listing:
        top = folder / self.wanted(split)[0]
        try:
            classes = _classes(top)
            if odd := [name for name in classes if not re.fullmatch(self.class_name, name)]:
                raise BenchError(f"{top / odd[0]} is no class: such a folder is named like {self.class_name}")
            other = folder / self.wanted("test" if split == "train" else "train")[0]
            if other.is_dir() and (unpaired := sorted(set(classes) ^ set(_classes(other)))):
                missing = top if unpaired[0] not in classes else other
                raise BenchError(f"class {unpaired[0]} is not in {missing}: both splits must have the same classes")
            names: list[bytes] = []
            counts = []
            listing = hashlib.md5(usedforsecurity=False)
            for name in classes:
                images = _files(top / name)
                counts.append(len(images))
                for image, size in images:
                    path = f"{name}/{image}"
                    if not size:
                        raise BenchError(f"{top / path} is empty")
                    names.append(os.fsencode(path))
                    listing.update(os.fsencode(f"{path}\0{size}\n"))
        except OSError as error:
            raise BenchError(f"{error.filename}: {error.strerror}") from None
        labels = np.repeat(np.arange(len(classes)), counts)
        return Listing(top, np.array(names, np.bytes_), labels, tuple(classes), {top.name: listing.hexdigest()})


def _classes(folder: Path) -> list[str]:
    """Names of the class folders in order."""
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        loose = f"its {counted(len(_files(folder)), 'image')} must be sorted into" if _files(folder) else "there must be"
        raise BenchError(f"{folder} holds no class folders; {loose} one folder per class")
    return found


def _files(folder: Path) -> list[tuple[str, int]]:
    """Image files and their sizes, by name."""
    with os.scandir(folder) as entries:
        images = [e for e in entries if e.name.lower().endswith(IMAGES) and not e.name.startswith(".") and e.is_file()]
        return sorted((entry.name, entry.stat().st_size) for entry in images)
