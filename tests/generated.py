"""Data sets made for tests, in the formats of the published files. Each class has a colour of its own, so that something can be learnt."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pictures(labels: NDArray[np.int64], shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    """N C H W: noise around a level that depends on class and channel."""
    rng = np.random.default_rng(seed)
    levels = np.random.default_rng(99).integers(30, 226, (1000, shape[0]))
    noise = rng.integers(-25, 26, (len(labels), *shape), np.int16)
    return np.clip(noise + levels[labels][:, :, None, None], 0, 255).astype(np.uint8)


def balanced(size: int, classes: int) -> NDArray[np.int64]:
    """Labels in random order, each class equally often."""
    return np.random.default_rng(size).permutation(np.arange(size) % classes)


# ------------------------------------------------------------------------------------------------------------------ CIFAR


def python2_pickle(values: Mapping[str, object]) -> bytes:
    """The byte stream that cPickle of Python 2 writes for a dict of texts, lists of numbers or texts, and one byte array, as in CIFAR."""
    out, memo = [b"\x80\x02}"], 0

    def remember() -> None:
        nonlocal memo
        out.append(b"q" + bytes([memo]) if memo < 256 else b"r" + struct.pack("<I", memo))
        memo += 1

    def text(value: str) -> None:
        raw = value.encode()
        out.append(b"U" + bytes([len(raw)]) + raw)
        remember()

    def number(value: int) -> None:
        if 0 <= value < 256:
            out.append(b"K" + bytes([value]))
        else:
            out.append(b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value))

    def array(value: NDArray[np.uint8]) -> None:
        out.append(b"cnumpy.core.multiarray\n_reconstruct\n")
        remember()
        out.append(b"cnumpy\nndarray\n")
        remember()
        out.append(b"K\x00\x85")
        remember()
        text("b")
        out.append(b"\x87")
        remember()
        out.append(b"R")
        remember()
        out.append(b"(K\x01")
        for size in value.shape:
            number(size)
        out.append(b"\x85" if value.ndim == 1 else b"\x86")
        remember()
        out.append(b"cnumpy\ndtype\n")
        remember()
        text("u1")
        out.append(b"K\x00K\x01\x87")
        remember()
        out.append(b"R")
        remember()
        out.append(
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<I", value.nbytes) + value.tobytes() + b"tb"
        )

    remember()
    out.append(b"(")
    for key, value in values.items():
        text(key)
        if isinstance(value, np.ndarray):
            array(value)
        elif isinstance(value, str):
            text(value)
        else:
            assert isinstance(value, list)
            out.append(b"]")
            remember()
            for start in range(0, len(value), 1000):
                out.append(b"(")
                for item in value[start : start + 1000]:
                    number(item) if isinstance(item, int) else text(item)
                out.append(b"e")
    out.append(b"u.")
    return b"".join(out)


def cifar_batch(labels: NDArray[np.int64], seed: int, key: str = "labels") -> bytes:
    """One batch file of CIFAR."""
    data = pictures(labels, (3, 32, 32), seed).reshape(-1, 3072)
    names = [f"made_s_{number:06d}.png" for number in range(len(labels))]
    return python2_pickle({"batch_label": "made", key: labels.tolist(), "data": data, "filenames": names})


def cifar10(root: Path, train: int = 1000, test: int = 10_000) -> Path:
    """The folder `cifar-10-batches-py` below a root: five training batches and the test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(cifar_batch(balanced(train // 5, 10), number))
    (folder / "test_batch").write_bytes(cifar_batch(balanced(test, 10), 6))
    return folder


def cifar100(root: Path, train: int = 500, test: int = 10_000) -> Path:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    (folder / "train").write_bytes(cifar_batch(balanced(train, 100), 1, "fine_labels"))
    (folder / "test").write_bytes(cifar_batch(balanced(test, 100), 2, "fine_labels"))
    return folder


# --------------------------------------------------------------------------------------------------------- idx, MATLAB


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def fashion_mnist(root: Path, train: int = 100, test: int = 10_000) -> Path:
    """Four idx files; the labels gzipped, the images not."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name, size, seed in (("train", train, 1), ("t10k", test, 2)):
        labels = balanced(size, 10)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(pictures(labels, (1, 28, 28), seed)[:, 0]))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels.astype(np.uint8)), 1))
    return folder


def svhn(root: Path, train: int = 100, test: int = 26_032) -> Path:
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    for name, size, seed in (("train", train, 1), ("test", test, 2)):
        labels = balanced(size, 10)
        images = pictures(labels, (3, 32, 32), seed).transpose(2, 3, 1, 0)  # H W C N
        savemat(root / f"{name}_32x32.mat", {"X": images, "y": np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]})
    return root


# --------------------------------------------------------------------------------------------------------------- ImageNet


def wnids(classes: int = 1000) -> list[str]:
    return [f"n{1_000_000 + 1009 * number:08d}" for number in range(classes)]


def imagenet(root: Path, train_per_class: int = 1, *, classes: Sequence[str] = (), per_class: int = 50) -> Path:
    """train/ and val/ of class folders. Few different JPEGs, linked under many names: 50,000 files take a second, not a minute."""
    names = list(classes) or wnids()
    made = root / "made"
    made.mkdir(parents=True)
    colours = pictures(np.arange(len(names)), (3, 24, 40), 5)
    for number in range(min(16, len(names))):
        Image.fromarray(colours[number].transpose(1, 2, 0)).save(made / f"{number}.jpg", quality=90)
    for split, count in (("train", train_per_class), ("val", per_class)):
        for number, name in enumerate(names):
            (root / split / name).mkdir(parents=True)
            for image in range(count):
                file = f"{name}_{image}.JPEG" if split == "train" else f"ILSVRC2012_val_{image * len(names) + number + 1:08d}.JPEG"
                os.link(made / f"{number % 16}.jpg", root / split / name / file)
    return root
