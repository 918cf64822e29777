"""SVHN's MATLAB files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.source import Arrays, Source, md5_of, read_bytes
from bench.errors import BenchError


@dataclass(frozen=True, kw_only=True)
class Matlab(Source):
    """One .mat file per split: X (H W C N, bytes) and y (N, classes from 1 up, where 10 is the digit 0)."""

    def read(self, folder: Path, split: str) -> Arrays:
        from scipy.io import loadmat  # slow to import, and of use here only

        (name,) = self.wanted(split)
        path = folder / name
        raw = read_bytes(path)
        try:
            content: dict[str, Any] = loadmat(io.BytesIO(raw), variable_names=("X", "y"))  # type: ignore[arg-type] # any file will do
        except Exception as error:  # whatever a damaged file makes of the parser
            raise BenchError(f"{path} is no readable MATLAB file: {type(error).__name__}: {error}") from None
        images, labels = content.get("X"), content.get("y")
        if images is None or images.dtype != np.uint8 or images.ndim != 4:
            raise BenchError(f"{path}: X is no array of bytes of 4 dimensions")
        if labels is None or labels.dtype.kind not in "ui" or labels.shape != (images.shape[3], 1):
            raise BenchError(f"{path}: y is not one whole number for each of the {images.shape[3]} images")
        values = labels[:, 0].astype(np.int64)
        values[values == 10] = 0
        return Arrays(np.ascontiguousarray(images.transpose(3, 2, 0, 1)), values, {name: md5_of(raw)})
