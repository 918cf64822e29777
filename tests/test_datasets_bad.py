"""Corrupt, short and wrong files: one sentence each, before anything is trained; and files that want to be run."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import generated
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import Result

from bench.datasets import DATASETS
from bench.datasets.pickled import read_plain
from bench.datasets.tree import ImageTree

Call = Callable[..., Result]
LABELS = np.arange(20) % 10
CLASSES = ["n00000001", "n00000002", "n00000003"]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data sets without fault, each in a folder of its name."""
    root = tmp_path_factory.mktemp("whole")
    generated.cifar10(root / "cifar10", 100, 50)
    generated.fashion_mnist(root / "fashion-mnist", 40, 30)
    generated.svhn(root / "svhn", 40, 30)
    generated.imagenet(root / "imagenet", 2, classes=CLASSES, per_class=2)
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The facts of those small data sets."""
    for name, size in (("cifar10", 50), ("fashion-mnist", 30), ("svhn", 30)):
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], test_size=size, protocols={}))
    source = ImageTree(class_name=r"n\d{8}", classes=3, test_per_class=2)
    tree = dataclasses.replace(DATASETS["imagenet"], classes=3, shape=(3, 32, 32), test_size=6, source=source, protocols={})
    monkeypatch.setitem(DATASETS, "imagenet", tree)


def batch(**values: object) -> bytes:
    good: dict[str, object] = {"labels": LABELS.tolist(), "data": np.zeros((20, 3072), np.uint8)}
    return generated.python2_pickle({key: value for key, value in (good | values).items() if value is not None})


def put(name: str, content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Replaces the one file of that name."""

    def change(folder: Path) -> None:
        (path,) = folder.rglob(name)
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return change


def remove(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (path,) = folder.rglob(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def mat(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from scipy.io import savemat

        good = {"X": np.zeros((32, 32, 3, 20), np.uint8), "y": (LABELS[:, None] + 1).astype(np.uint8)}
        savemat(folder / "train_32x32.mat", {key: value for key, value in (good | values).items() if value is not None})

    return change


def labels(name: str, values: Any) -> Callable[[Path], None]:
    return put(name, gzip.compress(generated.idx(np.array(values, np.uint8))))


def many_folders(folder: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(folder / split / CLASSES[0], folder / split / "n00000004")


def flat(folder: Path) -> None:
    for path in list((folder / "val").rglob("*.JPEG")):
        path.rename(folder / "val" / path.name)
    for name in CLASSES:
        (folder / "val" / name).rmdir()


def no_jpeg(folder: Path) -> None:
    next((folder / "train" / CLASSES[1]).iterdir()).unlink()
    (folder / "train" / CLASSES[1] / "x.JPEG").write_bytes(b"no picture")


def torn_jpeg(folder: Path) -> None:
    path = folder / "val" / CLASSES[1]
    next(path.iterdir()).unlink()
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "whole.jpg")
    (path / "torn.JPEG").write_bytes((folder / "whole.jpg").read_bytes()[:900])


def empty_class(folder: Path) -> None:
    for path in (folder / "train" / CLASSES[2]).iterdir():
        path.unlink()


def empty_image(folder: Path) -> None:
    (folder / "train" / CLASSES[0] / "a.JPEG").touch()


def move(folder: Path) -> None:
    (folder / "val" / CLASSES[0]).joinpath("more.JPEG").write_bytes(next((folder / "val" / CLASSES[1]).iterdir()).read_bytes())
    next((folder / "val" / CLASSES[1]).iterdir()).unlink()


def as_folder(folder: Path) -> None:
    remove("data_batch_2")(folder)
    (folder / "cifar-10-batches-py" / "data_batch_2").mkdir()


IMAGES, FASHION, NO_IDX = "train-images-idx3-ubyte", "fashion-mnist", "train-images-idx3-ubyte is no idx file of 3 dimensions, or cut short"
CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a file is missing": ("cifar10", remove("data_batch_3"), "is not whole (data_batch_3 missing)"),
    "a folder for a file": ("cifar10", as_folder, "is not whole (data_batch_2 missing)"),
    "an empty file": ("cifar10", put("data_batch_1", b""), "data_batch_1 is no batch of images: "),
    "half a file": ("cifar10", put("data_batch_1", lambda raw: raw[: len(raw) // 2]), "data_batch_1 is no batch of images: "),
    "the last byte gone": ("cifar10", put("test_batch", lambda raw: raw[:-1]), "test_batch is no batch of images: "),
    "a text": ("cifar10", put("data_batch_1", b"<html>404 Not Found</html>"), "data_batch_1 is no batch of images: "),
    "a list": ("cifar10", put("data_batch_1", pickle.dumps([1, 2], 2)), "a list stands where a dict belongs"),
    "a dict of numbers": ("cifar10", put("data_batch_1", pickle.dumps({1: 2}, 2)), "a int stands where a str belongs"),
    "no images": ("cifar10", put("data_batch_1", batch(data=None)), "under 'data' stands no array"),
    "no labels": ("cifar10", put("data_batch_1", batch(labels=None)), "under 'labels' stands no list"),
    "CIFAR-100's": ("cifar10", put("data_batch_1", generated.cifar_batch(LABELS, 1, "fine_labels")), "under 'labels' stands no list"),
    "labels as text": ("cifar10", put("data_batch_1", batch(labels=["cat"] * 20)), "under 'labels' stands no list of whole numbers"),
    "a label too few": ("cifar10", put("data_batch_1", batch(labels=LABELS.tolist()[1:])), "holds 20 images, but 19 labels"),
    "an unknown class": ("cifar10", put("data_batch_1", batch(labels=[10] * 20)), "has label 10, but there are classes 0 to 9"),
    "a class below 0": ("cifar10", put("data_batch_1", batch(labels=[-1] * 20)), "has label -1, but there are classes 0 to 9"),
    "a class without images": ("cifar10", put("test_batch", batch(labels=[1] * 20)), "no image of class 0"),
    "images of another size": ("cifar10", put("data_batch_1", batch(data=np.zeros((20, 3000), np.uint8))), "20x3000, not N rows of 3072"),
    "flat bytes": ("cifar10", put("data_batch_1", batch(data=np.zeros(20 * 3072, np.uint8))), "an array of 61440, not N rows"),
    "test images too few": ("cifar10", put("test_batch", batch()), "the test split of cifar10 has 20 images, not 50"),
    "a torn gz": (FASHION, put("train-labels-idx1-ubyte.gz", lambda raw: raw[:-9]), "train-labels-idx1-ubyte.gz: "),
    "no gz": (FASHION, put("t10k-labels-idx1-ubyte.gz", b"labels"), "t10k-labels-idx1-ubyte.gz: Not a gzipped file"),
    "another magic number": (FASHION, put(IMAGES, lambda raw: b"\0\0\x0d" + raw[3:]), NO_IDX),
    "an idx file cut short": (FASHION, put(IMAGES, lambda raw: raw[:-1]), NO_IDX),
    "an idx file of sizes only": (FASHION, put(IMAGES, lambda raw: raw[:8]), NO_IDX),
    "an enormous idx file": (FASHION, put(IMAGES, lambda raw: raw[:4] + b"\xff" * 12), NO_IDX),
    "idx images of another size": (
        FASHION, put(IMAGES, generated.idx(np.zeros((40, 27, 28), np.uint8))), "images of 1x27x28, not 1x28x28",
    ),
    "too many idx labels": (FASHION, labels("train-labels-idx1-ubyte.gz", [0] * 41), "holds 40 images, but train-labels"),
    "an idx label too large": (FASHION, labels("train-labels-idx1-ubyte.gz", [77] * 40), "has label 77"),
    "half a MATLAB file": ("svhn", put("train_32x32.mat", lambda raw: raw[: len(raw) // 2]), "train_32x32.mat is no readable MATLAB file"),
    "no MATLAB file": ("svhn", put("train_32x32.mat", b"no" * 200), "train_32x32.mat is no readable MATLAB file"),
    "MATLAB without images": ("svhn", mat(X=None), "X is no array of bytes"),
    "MATLAB of floats": ("svhn", mat(X=np.zeros((32, 32, 3, 20))), "X is no array of bytes"),
    "MATLAB labels too few": ("svhn", mat(y=np.ones((19, 1), np.uint8)), "y is not one whole number for each of the 20 images"),
    "MATLAB of another size": ("svhn", mat(X=np.zeros((30, 32, 3, 20), np.uint8)), "images of 3x30x32, not 3x32x32"),
    "a label 11": ("svhn", mat(y=np.full((20, 1), 11, np.uint8)), "has label 11"),
    "a split is missing": ("imagenet", remove("val"), "is not whole (val missing)"),
    "test images unsorted": ("imagenet", flat, "holds no class folders; its 6 images must be sorted into one folder per class"),
    "a class of one split only": ("imagenet", lambda f: shutil.rmtree(f / "val" / CLASSES[1]), "class n00000002 is not in "),
    "a class too many": ("imagenet", many_folders, "has 4 class folders, not 3"),
    "a folder that is no class": ("imagenet", lambda f: (f / "train" / "cats").mkdir(), "cats is no class: such a folder is named like n"),
    "an empty class": ("imagenet", empty_class, "has no image of class 2 (n00000003)"),
    "an empty image": ("imagenet", empty_image, "a.JPEG is empty"),
    "no JPEG": ("imagenet", no_jpeg, "x.JPEG cannot be decoded: it is no image"),
    "half a JPEG": ("imagenet", torn_jpeg, "torn.JPEG cannot be decoded: OSError"),
    "classes of unequal size": ("imagenet", move, "has 1 to 3 images of a class, not 2 of each"),
}  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("case", CASES)
def test_bad_files_are_one_sentence_before_training(bench: Call, whole: Path, tmp_path: Path, case: str) -> None:
    name, change, part = CASES[case]
    shutil.copytree(whole / name, tmp_path / "data")
    change(tmp_path / "data")
    words = ("--dataset", name, "--method", "gaussian", "--sigma", "0.5", "--protocol", "smoke", "--set", "train.arch=test_resnet")
    where = ("--data-dir", tmp_path / "data", "--results", tmp_path / "runs", "--allow-other-data")
    result = bench("run", *words, *where)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert part in line
    assert str(tmp_path / "data") in line, "it says where"
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["cifar10", "fashion-mnist", "svhn", "imagenet"])
def test_the_same_folders_without_fault_are_read(bench: Call, whole: Path, name: str) -> None:
    result = bench("data", "check", name, "--data-dir", whole / name, "--every-image")
    assert "found in" in result.output
    assert all("is not the published" in line or "training images, not" in line for line in result.output.splitlines()[4:])


@pytest.mark.usefixtures("small")
def test_every_image_is_decoded_on_request(bench: Call, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "imagenet", tmp_path / "data")
    no_jpeg(tmp_path / "data")
    torn_jpeg(tmp_path / "data")
    result = bench("data", "check", "imagenet", "--data-dir", tmp_path / "data", "--every-image")
    assert result.exit_code == 1
    assert "x.JPEG cannot be decoded" in result.output
    assert "torn.JPEG cannot be decoded" in result.output


# --------------------------------------------------------------------------------------------------------- hostile pickles


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def hostile(path: Path) -> dict[str, bytes]:
    """Streams that make `pickle.loads` write a file or worse."""
    command = f"touch {path}".encode()
    short = b"U" + bytes([len(command)]) + command
    return {
        "reduce": pickle.dumps({"data": _Evil(path)}, 2),
        "reduce 4": pickle.dumps({"data": _Evil(path)}, 4),
        "system": b"cposix\nsystem\n" + short + b"\x85R.",
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + short + b"\x85R.",
        "inst": b"(" + short + b"iposix\nsystem\n.",
        "obj": b"(cposix\nsystem\n" + short + b"o.",
        "newobj": b"cposix\nsystem\n" + short + b"\x85\x81.",
        "eval": b"cbuiltins\neval\nU\x011\x85R.",
        "getattr": b"cnumpy\ndtype\nU\x02u1\x85RcGet\nattr\n.",
        "inside numpy": b"cnumpy\nload\n" + short + b"\x85R.",
        "encode as another": b"c_codecs\nencode\nU\x01xU\x04zlib\x86R.",
        "call a text": short + short + b"\x85R.",
        "build a text": short + b"}b.",
        "extension": b"\x82\x01.",
        "persistent": b"P1\n.",
        "persistent on the stack": b"U\x01aQ.",
        "a text of 2 GB": b"T\xff\xff\xff\x7f.",
        "bytes of 2**63": b"\x8e" + b"\xff" * 7 + b"\x7f.",
        "an array of nothing": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x05\x85"
        b"cnumpy\ndtype\nU\x02O8\x85R\x89]tb.",
        "nested very deep": b")" + b"\x85" * 200_000 + b"}q\x00h\x00h\x00s.",
        "a nested key": b"})" + b"\x85" * 200_000 + b"K\x01s.",
        "a nested name": b")" + b"\x85" * 200_000 + b")R.",
        "a nested module": b")" + b"\x85" * 200_000 + b"U\x01a\x93.",
        "marks without end": b"(" * 200_000 + b"t.",
        "no stack": b"s.",
        "an unknown memo": b"h\x05.",
    }


NAMES = list(hostile(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    try:
        value = read_plain(hostile(mark)[name])
    except ValueError:
        value = None
    assert type(value) in (type(None), dict, tuple)
    assert not mark.exists()


def test_the_marks_would_be_seen(tmp_path: Path) -> None:
    """The same streams do write the file where something unpickles them."""
    for name in ("reduce", "reduce 4", "system", "stack global", "inst", "obj"):
        mark = tmp_path / name.replace(" ", "")
        pickle.loads(hostile(mark)[name])
        assert mark.exists(), name


GOOD = generated.python2_pickle({"labels": [1, 2, 300], "data": np.arange(12, dtype=np.uint8).reshape(3, 4), "filenames": ["a", "b", "c"]})


def test_the_stream_is_that_of_python_2() -> None:
    """What the tests write is what pickle reads, with the settings that torchvision reads CIFAR with."""
    value = pickle.loads(GOOD, encoding="latin1")
    assert value["labels"] == [1, 2, 300]
    assert np.array_equal(value["data"], np.arange(12).reshape(3, 4))
    assert np.array_equal(read_plain(GOOD)["data"].content, value["data"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(GOOD)))
def test_damage_is_a_value_error_or_harmless(changes: list[tuple[int, int]], keep: int) -> None:
    raw = bytearray(GOOD)
    for position, value in changes:
        raw[position] = value
    with contextlib.suppress(ValueError):
        assert read_plain(bytes(raw[:keep] if keep % 2 else raw)) is not raw
