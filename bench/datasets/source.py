"""Where the files of a data set lie, and what is read from them: arrays, or a list of image files. No torch."""

from __future__ import annotations

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.spec import IN_MEMORY, STREAMED

SPLITS = ("train", "test")
VARIABLE = "BENCH_DATA_DIR"
ADVICE = "get the published files, or say --allow-other-data, which tables tell"

T = TypeVar("T")


@dataclass(frozen=True)
class Arrays:
    """A split that fits into memory.

    Attributes:
        pixels: N C H W, uint8. labels: N, int64.
        checksums: file name -> MD5.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    checksums: dict[str, str]


@dataclass(frozen=True)
class Listing:
    """A split whose images stay on disk, each decoded when it is wanted.

    Attributes:
        folder: what `names` start from. names: N, paths as bytes: one array, which worker processes share without copying.
        labels: N, int64. classes: name of each class's folder, in order of labels.
        checksums: folder name -> MD5 of its list of paths and sizes.
    """

    folder: Path
    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    checksums: dict[str, str]


@dataclass(frozen=True)
class File:
    """A file of a data set, with the MD5 of the published one (of its unzipped content); None if none is known."""

    name: str
    split: str
    md5: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """How a data set lies on disk. Subclass it as a frozen keyword-only dataclass; `read` is all that is needed.

    Attributes:
        places: where below a data folder its files may be; `.` is that folder itself.
        files: those that must be there.
        torchvision: name of the class of `torchvision.datasets` that knows where to download it from; None: nobody does.
        by_hand: who has to be asked for it, where it cannot be downloaded.
    """

    places: tuple[str, ...] = (".",)
    files: tuple[File, ...] = ()
    torchvision: str | None = None
    by_hand: str = ""

    streamed: ClassVar = False  # whether `read` gives a Listing
    ships: ClassVar = False  # whether its files come with the package

    @property
    def augments(self) -> tuple[str, ...]:
        """The augmentations that its training images can have."""
        return STREAMED if self.streamed else IN_MEMORY

    @abstractmethod
    def read(self, folder: Path, split: str) -> Arrays | Listing:
        """A split from the folder that holds its files.

        Raises:
            BenchError: a file that cannot be what it should be. Whether it is the published one is checked by the caller.
        """

    def labels(self, folder: Path) -> tuple[NDArray[np.int64], dict[str, str]]:
        """Labels of the test images and the check sums of what they were read from."""
        split = self.read(folder, "test")
        return split.labels, split.checksums

    def fixed_labels(self) -> NDArray[np.int64] | None:
        """Labels of the test images, if they are known without any file."""
        return None

    def wanted(self, split: str) -> tuple[str, ...]:
        """Files or folders that a split needs."""
        return tuple(file.name for file in self.files if file.split == split)

    def path(self, folder: Path, name: str) -> Path | None:
        """A wanted file where it is; None if it is not there."""
        path = folder / name
        return path if os.path.isfile(path) else None  # noqa: PTH113 - what cannot be looked at is not there, and no error

    def missing(self, folder: Path, split: str | None = None) -> list[str]:
        """What is wanted but not there."""
        splits = SPLITS if split is None else (split,)
        return [name for s in splits for name in self.wanted(s) if self.path(folder, name) is None]

    def differences(self, checksums: dict[str, str]) -> list[str]:
        """Files that are not the published ones."""
        known = {file.name: file.md5 for file in self.files if file.md5}
        return [
            f"{name} is not the published file: its MD5 is {md5}, not {known[name]}"
            for name, md5 in checksums.items()
            if md5 != known.get(name, md5)
        ]

    def find(self, roots: Iterable[Path]) -> Path | None:
        """The folder below one of the roots that has most of what is wanted; None if none has any of it."""
        folders = [root / place for root in roots for place in self.places]
        total = sum(len(self.wanted(split)) for split in SPLITS)
        having = [(total - len(self.missing(folder)), -number) for number, folder in enumerate(folders)]
        best, number = max(having, default=(0, 0))
        return folders[-number] if best else None


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """Files in a format of the field. Their MD5s are compared before anything is made of their content."""

    @abstractmethod
    def decode(self, files: Mapping[str, bytes]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Pixels (N C H W) and labels (N) of a split.

        Args:
            files: name -> content, in the order of `wanted`.

        Raises:
            ValueError: they are not of the format.
        """

    def decode_labels(self, files: Mapping[str, bytes]) -> NDArray[Any]:
        """Labels (N) from the content of `label_files`. ValueError: as `decode`."""
        return self.decode(files)[1]

    def label_files(self) -> tuple[str, ...]:
        """Those of the test split that its labels are read from."""
        return self.wanted("test")

    def content(self, path: Path) -> bytes:
        """What the published MD5 is of, unzipped if need be. OSError: it cannot be read."""
        return path.read_bytes()

    def read(self, folder: Path, split: str, *, allow_other: bool = True) -> Arrays:
        """As `Source.read`. BenchError also for files that are not the published ones, unless these are allowed."""
        files, checksums = self._contents(folder, self.wanted(split), allow_other=allow_other)
        pixels, labels = self._decoded(folder, self.decode, files)
        return Arrays(pixels, labels.astype(np.int64) if labels.dtype.kind in "iu" else labels, checksums)

    def labels(self, folder: Path) -> tuple[NDArray[np.int64], dict[str, str]]:
        """As `Source.labels`, of the published files only."""
        files, checksums = self._contents(folder, self.label_files(), allow_other=False)
        return self._decoded(folder, self.decode_labels, files), checksums

    def _contents(self, folder: Path, names: Iterable[str], *, allow_other: bool) -> tuple[dict[str, bytes], dict[str, str]]:
        advice = "reinstall the package" if self.ships else ADVICE
        files: dict[str, bytes] = {}
        for name in names:
            path = self.path(folder, name) or folder / name
            try:
                files[name] = self.content(path)
            except OSError as error:
                raise BenchError(f"{path}: {error.strerror or error}{f'; {advice}' if self.ships else ''}") from None
        checksums = {name: hashlib.md5(raw, usedforsecurity=False).hexdigest() for name, raw in files.items()}
        if (other := self.differences(checksums)) and (self.ships or not allow_other):
            raise BenchError(f"{folder}: {other[0]}; {advice}")
        return files, checksums

    def _decoded(self, folder: Path, decode: Callable[[Mapping[str, bytes]], T], files: Mapping[str, bytes]) -> T:
        try:
            return decode(files)
        except ValueError as error:
            raise BenchError(f"{folder}: {error}") from None


def roots(data_dir: Path | None = None) -> tuple[Path, ...]:
    """The folders that data sets are looked for in: `data_dir` alone if given, else that of BENCH_DATA_DIR and the user's cache."""
    if data_dir is not None:
        return (data_dir,)
    named = os.environ.get(VARIABLE)
    return (*([Path(named)] if named else []), user_cache())


def user_cache() -> Path:
    """The per-user folder that `bench data get` fills: below XDG_CACHE_HOME, ~/.cache, or ~/Library/Caches on macOS."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if Path(named).is_absolute():  # the XDG specification tells to ignore any other
        return Path(named) / "certbench" / "data"
    caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return Path(os.path.expanduser(caches)) / "certbench" / "data"  # noqa: PTH111 - Path.expanduser fails without a home
