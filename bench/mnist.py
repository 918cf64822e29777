"""The MNIST files that ship with the package, as numpy arrays: checked, and without torch."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError

# MD5 of the unzipped idx files, as published with the data set.
FILES = {
    ("train", "images"): ("train-images-idx3-ubyte", "6bbc9ace898e44ae57da46a324031adb"),
    ("train", "labels"): ("train-labels-idx1-ubyte", "a25bea736e30d166cdddb491f175f624"),
    ("test", "images"): ("t10k-images-idx3-ubyte", "2646ac647ad5339dbf082846283269ea"),
    ("test", "labels"): ("t10k-labels-idx1-ubyte", "27ae3e4e09519cfbb04c329615203637"),
}


def read(split: str, what: str) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """One file of the data set and its check sum.

    Args:
        split: `train` or `test`. what: `images` (N 28 28) or `labels` (N).

    Raises:
        BenchError: the file is missing, damaged, or not the published one.
    """
    name, md5 = FILES[split, what]
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


@cache
def test_labels() -> tuple[int, ...]:
    """True classes of the 10,000 test images."""
    return tuple(read("test", "labels")[0].tolist())
