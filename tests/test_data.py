"""MNIST as it ships: checksums, sizes, labels, pixels, and a damaged file."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import bench
import bench.datasets.idx
from bench.data import Split
from bench.data import load as load_images
from bench.datasets import DATASETS
from bench.errors import BenchError

ASSETS = Path(bench.__file__).parent / "assets" / "mnist"
MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
LABELS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


def load(name: str, split: str) -> Split:
    data = load_images(name, split)
    assert isinstance(data, Split)
    return data


@pytest.mark.parametrize("split", ["train", "test"])
def test_sizes_labels_and_checksums(split: str) -> None:
    data, info = load("mnist", split), DATASETS["mnist"]
    size = {"train": 60_000, "test": 10_000}[split]
    assert len(data) == size == {"train": info.train_size, "test": info.test_size}[split]
    assert data.pixels.shape == (size, *info.shape)
    assert (data.pixels.dtype, data.labels.dtype) == (torch.uint8, torch.int64)
    assert torch.bincount(data.labels, minlength=info.classes).tolist() == LABELS[split]
    prefix = "train" if split == "train" else "t10k"
    assert data.checksums == {name: md5 for name, md5 in MD5.items() if name.startswith(prefix)}
    assert (int(data.pixels.min()), int(data.pixels.max())) == (0, 255)


def test_the_first_labels() -> None:
    assert load("mnist", "train").labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert load("mnist", "test").labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_images_are_float32_from_0_to_1_in_the_order_asked_for() -> None:
    data = load("mnist", "test")
    x = data.images(torch.tensor([3, 0, 3]))
    assert (x.dtype, x.shape) == (torch.float32, (3, 1, 28, 28))
    assert float(x.min()) == 0.0
    assert 0.9 < float(x.max()) <= 1.0
    assert torch.equal(x[0], x[2])
    assert torch.equal(x[1], data.pixels[0].float() / 255)
    assert float(load("mnist", "test").images(torch.arange(200)).max()) == 1.0
    assert x.mean() != x[1].mean()


def test_images_are_copies_and_moving_keeps_everything() -> None:
    data = load("mnist", "test")
    before = data.pixels[:2].clone()
    data.images(torch.tensor([0, 1])).add_(1)
    assert torch.equal(data.pixels[:2], before)
    moved = data.to(torch.device("cpu"))
    assert isinstance(moved, Split)
    assert torch.equal(moved.pixels, data.pixels)
    assert moved.checksums == data.checksums


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(BenchError, match=r"unknown data set 'mnits'; did you mean 'mnist'\?"):
        load("mnits", "train")


# ------------------------------------------------------------------------------------------------------------ bad files


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package folder of our own with the two small test files; the cache of loaded data is emptied before and after."""
    folder = tmp_path / "assets" / "mnist"
    folder.mkdir(parents=True)
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (folder / name).write_bytes((ASSETS / name).read_bytes())
    monkeypatch.setattr(bench.datasets.idx, "files", lambda package: tmp_path)
    load_images.cache_clear()
    yield folder
    load_images.cache_clear()


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_changed_pixel_or_label_is_refused(name: str, assets: Path) -> None:
    raw = bytearray(gzip.decompress((assets / f"{name}.gz").read_bytes()))
    raw[-1] ^= 1
    (assets / f"{name}.gz").write_bytes(gzip.compress(bytes(raw), 1))
    with pytest.raises(BenchError, match=f"{name}.*its MD5 is [0-9a-f]{{32}}, not {MD5[name]}; reinstall"):
        load("mnist", "test")


def test_a_truncated_file_is_refused_wherever_it_ends(assets: Path) -> None:
    assert len(load("mnist", "test")) == 10_000
    load_images.cache_clear()
    path = assets / "t10k-labels-idx1-ubyte.gz"
    content = path.read_bytes()
    for size in [*range(30), *range(30, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(BenchError, match="reinstall the package"):
            load("mnist", "test")
    path.unlink()
    with pytest.raises(BenchError, match=r"t10k-labels.*reinstall the package"):
        load("mnist", "test")


def test_a_flipped_bit_is_refused_wherever_it_is(assets: Path) -> None:
    """Unless the images come out right all the same (the time and the name in the header of the zip file)."""
    path = assets / "t10k-labels-idx1-ubyte.gz"
    content, good = path.read_bytes(), load("mnist", "test").labels
    refusals = []
    for position in [*range(40), *range(40, len(content), 31), *range(len(content) - 8, len(content))]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        load_images.cache_clear()
        try:
            assert torch.equal(load("mnist", "test").labels, good)
        except BenchError as refusal:
            refusals.append(str(refusal))
    assert len(refusals) > 150
    assert all("reinstall the package" in text for text in refusals)
