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

import bench.datasets.pickled
from bench.datasets import DATASETS
from bench.datasets.check import read_checked
from bench.datasets.pickled import read_plain
from bench.datasets.tree import ImageTree
from bench.errors import BenchError

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


def move(folder: Path) -> None:
    (folder / "val" / CLASSES[0]).joinpath("more.JPEG").write_bytes(next((folder / "val" / CLASSES[1]).iterdir()).read_bytes())
    next((folder / "val" / CLASSES[1]).iterdir()).unlink()


def as_folder(folder: Path) -> None:
    remove("data_batch_2")(folder)
    (folder / "cifar-10-batches-py" / "data_batch_2").mkdir()


IMAGES, FASHION, NO_IDX = "train-images-idx3-ubyte", "fashion-mnist", "train-images-idx3-ubyte is no idx file of 3 dimensions, or cut short"
NO_BATCH, NO_MAT = "data_batch_1 is no batch of images", "train_32x32.mat is no MATLAB file"
CASES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a file is missing": ("cifar10", remove("data_batch_3"), "is not whole (data_batch_3 missing)"),
    "a folder for a file": ("cifar10", as_folder, "is not whole (data_batch_2 missing)"),
    "half a file": ("cifar10", put("data_batch_1", lambda raw: raw[: len(raw) // 2]), NO_BATCH),
    "the last byte gone": ("cifar10", put("test_batch", lambda raw: raw[:-1]), "test_batch is no batch of images"),
    "a text": ("cifar10", put("data_batch_1", b"<html>404 Not Found</html>"), NO_BATCH),
    "a list": ("cifar10", put("data_batch_1", pickle.dumps([1, 2], 2)), NO_BATCH),
    "no images": ("cifar10", put("data_batch_1", batch(data=None)), f"{NO_BATCH} with 'labels': 'data'"),
    "CIFAR-100's": ("cifar10", put("data_batch_1", generated.cifar_batch(LABELS, 1, "fine_labels")), f"{NO_BATCH} with 'labels': 'labels'"),
    "labels as text": ("cifar10", put("data_batch_1", batch(labels=["cat"] * 20)), "not a whole number each"),
    "a label too few": ("cifar10", put("data_batch_1", batch(labels=LABELS.tolist()[1:])), "has 100 images, but 99 labels"),
    "an unknown class": ("cifar10", put("data_batch_1", batch(labels=[10] * 20)), "has label 10, but there are classes 0 to 9"),
    "a class below 0": ("cifar10", put("data_batch_1", batch(labels=[-1] * 20)), "has label -1, but there are classes 0 to 9"),
    "a class without images": ("cifar10", put("test_batch", batch(labels=[1] * 20)), "no image of class 0"),
    "images of another size": ("cifar10", put("data_batch_1", batch(data=np.zeros((20, 3000), np.uint8))), NO_BATCH),
    "test images too few": ("cifar10", put("test_batch", batch()), "the test split of cifar10 has 20 images, not 50"),
    "a torn gz": (FASHION, put("train-labels-idx1-ubyte.gz", lambda raw: raw[:-9]), "train-labels-idx1-ubyte.gz: "),
    "no gz": (FASHION, put("t10k-labels-idx1-ubyte.gz", b"labels"), "t10k-labels-idx1-ubyte.gz: Not a gzipped file"),
    "another magic number": (FASHION, put(IMAGES, lambda raw: b"\0\0\x0d" + raw[3:]), NO_IDX),
    "an idx file cut short": (FASHION, put(IMAGES, lambda raw: raw[:-1]), NO_IDX),
    "an idx file of sizes only": (FASHION, put(IMAGES, lambda raw: raw[:8]), NO_IDX),
    "an enormous idx file": (FASHION, put(IMAGES, lambda raw: raw[:4] + b"\xff" * 12), NO_IDX),
    "too many idx labels": (FASHION, put("train-labels-idx1-ubyte.gz", gzip.compress(generated.idx(np.zeros(41, np.uint8)))), "41 labels"),
    "half a MATLAB file": ("svhn", put("train_32x32.mat", lambda raw: raw[: len(raw) // 2]), NO_MAT),
    "no MATLAB file": ("svhn", put("train_32x32.mat", b"no" * 200), NO_MAT),
    "MATLAB without images": ("svhn", mat(X=None), NO_MAT),
    "MATLAB of floats": ("svhn", mat(X=np.zeros((32, 32, 3, 20))), "must be bytes of N C H W, not float64"),
    "MATLAB labels of floats": ("svhn", mat(y=np.ones((20, 1)) / 2), "not a whole number each"),
    "MATLAB of another size": ("svhn", mat(X=np.zeros((30, 32, 3, 20), np.uint8)), "images of 3x30x32, not 3x32x32"),
    "a split is missing": ("imagenet", remove("val"), "is not whole (val missing)"),
    "test images unsorted": ("imagenet", flat, "holds no class folders; its 6 images must be sorted into one folder per class"),
    "a class of one split only": ("imagenet", lambda f: shutil.rmtree(f / "val" / CLASSES[1]), "class n00000002 is not in "),
    "a class too many": ("imagenet", many_folders, "has 4 class folders, not 3"),
    "a folder that is no class": ("imagenet", lambda f: (f / "train" / "cats").mkdir(), "cats is no class: such a folder is named like n"),
    "an empty class": ("imagenet", empty_class, "has no image of class 2 (n00000003)"),
    "an empty image": ("imagenet", lambda f: (f / "train" / CLASSES[0] / "a.JPEG").touch(), "a.JPEG is empty"),
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
        "inside numpy": b"cnumpy\nload\n" + short + b"\x85R.",
        "an attribute of a known name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        "build a text": short + b"}b.",
        "extension": b"\x82\x01.",
        "persistent": b"P1\n.",
        "a text of 2 GB": b"T\xff\xff\xff\x7f.",
        "an array of objects": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x05\x85"
        b"cnumpy\ndtype\nU\x02O8\x85R\x89]tb.",
    }


@pytest.mark.parametrize("name", hostile(Path("x")))
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(ValueError):
        read_plain(hostile(mark)[name])
    assert not mark.exists()


@pytest.mark.usefixtures("small")
def test_what_is_not_published_is_not_unpickled_unless_the_user_says_so(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[bytes, int] = {}
    monkeypatch.setattr(bench.datasets.pickled, "read_plain", lambda raw: read.setdefault(raw, 1))
    info = DATASETS["cifar10"]
    assert info.source
    with pytest.raises(BenchError, match="not the published file"):
        read_checked(info, "train", whole / "cifar10")
    monkeypatch.setenv("BENCH_DATA_DIR", str(whole / "cifar10"))
    assert info.known_labels() is None
    assert not read
    with pytest.raises(BenchError, match="no batch of images"):
        read_checked(info, "train", whole / "cifar10", allow_other=True)
    assert read


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


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "CIFAR10.zip", "cifar_10.tgz"])
def test_an_archive_that_waits_to_be_unpacked_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(BenchError, match=name):
        read_checked(DATASETS["cifar10"], "test", tmp_path)
    with pytest.raises(BenchError) as told:
        read_checked(DATASETS["cifar100"], "test", tmp_path)
    assert name not in str(told.value)
