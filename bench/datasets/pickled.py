"""CIFAR's batches: pickles of a dict with a byte array.

Unpickling runs whatever a file says, so only the published files are unpickled, by their MD5, or others that the user allowed; and even
then a name in the file is looked up in a table of five, which stand for things of this module.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.datasets.source import Files


class _Type:
    """A numpy dtype by its word; byte order and alignment, which come as its state, are nothing to bytes."""

    def __init__(self, word: str, *_: object) -> None:
        self.word = word

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """A numpy array of bytes, whose content comes as its state."""

    content: NDArray[np.uint8]

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        if kind.word not in ("u1", "uint8"):
            raise ValueError(f"it holds an array of {kind.word}, not of bytes")
        raw = content.encode("latin-1") if isinstance(content, str) else content
        self.content = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_column else "C")


def _latin(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    return text.encode("latin-1")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _latin,
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise ValueError(f"it names {module}.{name}, which no array of bytes needs")
        return _NAMES[module, name]


def read_plain(raw: bytes) -> Any:
    """The value of a pickle that is made of dicts, lists, tuples, strings, numbers and numpy arrays of bytes.

    Raises:
        ValueError: anything else stands in it, or it is damaged.
    """
    try:
        return _Plain(io.BytesIO(raw), encoding="latin1").load()
    except Exception as error:  # whatever a damaged file makes of it
        raise ValueError(str(error) or type(error).__name__) from None


@dataclass(frozen=True, kw_only=True)
class Pickled(Files):
    """Batches of 3x32x32 images: pickled dicts of `data` (N 3072, planes of red, green, blue) and labels.

    Attributes:
        label_key: the key of the labels.
    """

    label_key: str = "labels"

    def decode(self, files: Mapping[str, bytes]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        batches = [self._batch(name, raw) for name, raw in files.items()]
        return np.concatenate([pixels for pixels, _ in batches]), np.concatenate([labels for _, labels in batches])

    def _batch(self, name: str, raw: bytes) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        try:
            batch = read_plain(raw)
            pixels, labels = batch["data"].content, np.array(batch[self.label_key])
            pixels = pixels.reshape(len(pixels), 3, 32, 32)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(f"{name} is no batch of images with {self.label_key!r}: {error}") from None
        return pixels, labels
