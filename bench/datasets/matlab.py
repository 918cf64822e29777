"""SVHN's MATLAB files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.datasets.source import Files


@dataclass(frozen=True, kw_only=True)
class Matlab(Files):
    """One .mat file per split: X (H W C N, bytes) and y (N, classes from 1 up, where 10 is the digit 0)."""

    def decode(self, files: Mapping[str, bytes]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        from scipy.io import loadmat  # slow to import, and of use here only

        ((name, raw),) = files.items()
        try:
            content = loadmat(io.BytesIO(raw), variable_names=("X", "y"))  # type: ignore[arg-type] # any file will do
            images, labels = content["X"].transpose(3, 2, 0, 1), content["y"][:, 0]
        except Exception as error:  # whatever a damaged file makes of the parser
            raise ValueError(f"{name} is no MATLAB file of images X and labels y: {type(error).__name__}: {error}") from None
        labels[labels == 10] = 0
        return np.ascontiguousarray(images), labels
