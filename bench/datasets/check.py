"""From a name to a split whose every fact was checked, before anything is trained on it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.datasets.info import DatasetInfo
from bench.datasets.source import ADVICE, SPLITS, VARIABLE, Arrays, Files, Listing, roots
from bench.errors import BenchError, counted, nearest


@dataclass(frozen=True)
class Checked:
    """A split that fits its data set.

    Attributes:
        differences: what makes it another than the published one, one sentence each; empty for the published files.
    """

    split: Arrays | Listing
    differences: tuple[str, ...]


def folder_of(info: DatasetInfo, data_dir: Path | None = None, split: str | None = None) -> Path:
    """The folder that holds the files of a data set, or of one split of it.

    Raises:
        BenchError: there is none, or files are missing in it; the sentence names where it was looked for and both ways out.
    """
    if info.source is None:
        raise BenchError(f"of data set {info.name} only the facts are known here; --plugin names the file that it is defined in")
    looked = roots(data_dir)
    folder = info.source.find(looked)
    missing = info.source.missing(folder, split) if folder and not info.source.ships else []
    if folder and not missing:
        return folder
    if folder:
        what = f"data set {info.name} in {folder} is not whole ({', '.join(missing)} missing)"
    else:
        what = f"data set {info.name} is not here (looked in {' and '.join(map(str, looked))})" + _packed(info.name, looked)
    wanted = ", ".join(name for split in SPLITS for name in info.source.wanted(split))
    get = f"`bench data get {info.name}` downloads it" if info.source.torchvision else info.source.by_hand
    raise BenchError(f"{what}: {get + ', or ' if get else ''}--data-dir or {VARIABLE} names the folder that holds {wanted}")


def _packed(name: str, looked: Sequence[Path]) -> str:
    """Which archive of a data set lies there and waits to be unpacked; empty if none is seen."""
    for root in looked:
        with contextlib.suppress(OSError):
            for path in sorted(root.iterdir()):
                plain = re.sub(r"[^a-z0-9]", "", path.name.lower())
                if re.match(rf"{re.sub('[^a-z0-9]', '', name)}(?!\d)", plain) and plain.endswith(("tar", "targz", "tgz", "zip")):
                    return f", but {path} is, which is not unpacked yet"
    return ""


def read_checked(info: DatasetInfo, split: str, data_dir: Path | None = None, *, allow_other: bool = False) -> Checked:
    """Reads a split and checks shape, labels, classes, sizes and check sums.

    Args:
        allow_other: take training files that are not the published ones and say so in `differences`. The number of test images is
            part of what evidence is about, so that it must be right all the same.

    Raises:
        BenchError: it is missing, damaged, or does not fit the data set.
    """
    if split not in SPLITS:
        raise BenchError(f"unknown split {split!r}{nearest(split, SPLITS)}")
    folder = folder_of(info, data_dir, split)
    assert info.source is not None
    source = info.source
    found = source.read(folder, split, allow_other=allow_other) if isinstance(source, Files) else source.read(folder, split)
    where = f"{folder}: the {'training' if split == 'train' else 'test'} split of {info.name}"
    _check_fit(info, found, where)
    size = {"train": info.train_size, "test": info.test_size}[split]
    differences = info.source.differences(found.checksums)
    if len(found.labels) != size:
        if split == "test":
            raise BenchError(f"{where} has {counted(len(found.labels), 'image', ',')}, not {size:,}")
        differences.append(f"it has {counted(len(found.labels), 'training image', ',')}, not {size:,}")
    fixed = info.source.fixed_labels() if split == "test" else None
    if fixed is not None and not np.array_equal(found.labels, fixed):
        counts = np.bincount(found.labels, minlength=info.classes)
        raise BenchError(f"{where} has {counts.min()} to {counts.max()} images of a class, not {size // info.classes} of each")
    if differences and not allow_other:
        raise BenchError(f"{info.name} in {folder}: {differences[0]}; {ADVICE}")
    return Checked(found, tuple(differences))


def _check_fit(info: DatasetInfo, found: Arrays | Listing, where: str) -> None:
    if isinstance(found, Arrays):
        if found.pixels.dtype != np.uint8 or found.pixels.ndim != 4:
            raise BenchError(f"{where} must be bytes of N C H W, not {found.pixels.dtype} of {found.pixels.ndim} dimensions")
        if found.pixels.shape[1:] != info.shape:
            size, wanted = ("x".join(map(str, shape)) for shape in (found.pixels.shape[1:], info.shape))
            raise BenchError(f"{where} has images of {size}, not {wanted}")
        if len(found.pixels) != len(found.labels):
            raise BenchError(f"{where} has {counted(len(found.pixels), 'image')}, but {counted(len(found.labels), 'label')}")
        if found.labels.dtype.kind not in "iu" or found.labels.ndim != 1:
            raise BenchError(f"{where} has labels of {found.labels.dtype} of {found.labels.ndim} dimensions, not a whole number each")
    elif len(found.classes) != info.classes:
        raise BenchError(f"{where} has {counted(len(found.classes), 'class folder')}, not {info.classes}")
    if not len(found.labels):
        raise BenchError(f"{where} has no images")
    low, high = int(found.labels.min()), int(found.labels.max())
    if low < 0 or high >= info.classes:
        raise BenchError(f"{where} has label {low if low < 0 else high}, but there are classes 0 to {info.classes - 1}")
    counts = np.bincount(found.labels, minlength=info.classes)
    if not counts.all():
        empty = int(counts.argmin())
        name = f"{empty} ({found.classes[empty]})" if isinstance(found, Listing) else str(empty)
        raise BenchError(f"{where} has no image of class {name}")
