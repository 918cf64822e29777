"""Data sets: their facts, where they are looked for, what is read, how images are augmented, downloads, plug-ins."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import json
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import generated
import numpy as np
import pytest
import torch
import torchvision
from pages import blocks
from torchvision.transforms import functional
from typer.testing import Result

from bench.contract import check_dataset
from bench.data import Split, Stream, load, of
from bench.data.get import get
from bench.datasets import BUILT_IN, DATASETS, DatasetInfo, recipe_train
from bench.datasets.check import read_checked
from bench.datasets.info import facts_of, from_facts
from bench.datasets.pickled import read_plain
from bench.datasets.source import roots, user_cache
from bench.datasets.tree import ImageTree
from bench.errors import BenchError
from bench.spec import PROTOCOLS, TrainSpec, canonical, derive, select_images, to_json
from bench.store.runs import Store

Call = Callable[..., Result]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


# ------------------------------------------------------------------------------------------------------------------ facts


def test_the_six_data_sets_and_their_facts() -> None:
    facts = {name: (d.classes, d.shape, d.train_size, d.test_size, d.sigmas) for name, d in DATASETS.items() if name in BUILT_IN}
    three, two = (0.25, 0.5, 1.0), (0.5, 1.0)
    assert facts == {
        "mnist": (10, (1, 28, 28), 60_000, 10_000, three),
        "fashion-mnist": (10, (1, 28, 28), 60_000, 10_000, three),
        "cifar10": (10, (3, 32, 32), 50_000, 10_000, three),
        "cifar100": (100, (3, 32, 32), 50_000, 10_000, three),
        "svhn": (10, (3, 32, 32), 73_257, 26_032, three),
        "imagenet": (1000, (3, 224, 224), 1_281_167, 50_000, two),
    }
    assert (DATASETS["cifar10"].mean, DATASETS["cifar10"].std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (DATASETS["imagenet"].mean, DATASETS["imagenet"].std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("name", "recipe", "arch", "lengths", "lr", "augment"),
    [
        ("cifar10", "official", "cifar_resnet110", [51, 50, 49], 0.1, "crop-flip"),
        ("cifar10", "paper", "cifar_resnet110", [50, 50, 50], 0.1, "crop-flip"),
        ("imagenet", "official", "resnet50", [31, 30, 29], 0.1, "resized-crop-flip"),
        ("imagenet", "paper", "resnet50", [30, 30, 30], 0.1, "resized-crop-flip"),
        ("cifar100", "official", "cifar_resnet110", [51, 50, 49], 0.1, "crop-flip"),
        ("svhn", "official", "cifar_resnet110", [51, 50, 49], 0.1, "crop"),
        ("fashion-mnist", "official", "lenet", [31, 30, 29], 0.01, "none"),
    ],
)
def test_recipes_of_appendix_c(name: str, recipe: str, arch: str, lengths: list[int], lr: float, augment: str) -> None:
    train = recipe_train(DATASETS[name], recipe, 2)
    rates = [train.lr_at(epoch) for epoch in range(train.epochs)]
    assert rates == pytest.approx([lr] * lengths[0] + [lr / 10] * lengths[1] + [lr / 100] * lengths[2], rel=1e-12)
    assert (train.arch, train.augment, train.clock) == (arch, augment, train.epochs)
    assert (train.momentum, train.weight_decay, train.images) == (0.9, 1e-4, "all")
    assert (train.batch, train.nesterov) == ((128, False) if recipe == "official" else (256, True))


def test_the_paper_certifies_every_hundredth_image_of_imagenet() -> None:
    info = DATASETS["imagenet"]
    images = info.protocol(PROTOCOLS["full"]).certify.images
    chosen = select_images(images, info.test_size)
    assert (len(chosen), chosen[1]) == (500, 100)
    labels = info.test_labels()
    assert [labels[i] for i in chosen] == list(range(0, 1000, 2))


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_facts_of_every_data_set_fit(name: str) -> None:
    """Network, augmentation and protocols, as `bench check` tries them of anybody's."""
    (fits, *_) = check_dataset(DATASETS[name], Path("/nowhere"))
    assert fits.problem is None


def test_no_augmentation_is_in_no_key_and_another_is() -> None:
    train = DATASETS["mnist"].train
    assert "augment" not in to_json(train)
    assert to_json(dataclasses.replace(train, augment="crop"))["augment"] == "crop"
    with pytest.raises(ValueError, match="augment=crp is unknown; did you mean 'crop'"):
        dataclasses.replace(train, augment="crp")


def test_check_sums_are_those_of_torchvision() -> None:
    for name, known in (("cifar10", torchvision.datasets.CIFAR10), ("cifar100", torchvision.datasets.CIFAR100)):
        source = DATASETS[name].source
        assert source is not None
        assert [(f.name, f.md5) for f in source.files] == [tuple(pair) for pair in [*known.train_list, *known.test_list]]
        assert known.base_folder in source.places
    svhn = DATASETS["svhn"].source
    assert svhn is not None
    assert [(f.split, f.name, f.md5) for f in svhn.files] == [
        (split, *torchvision.datasets.SVHN.split_list[split][1:]) for split in ("train", "test")
    ]


# The published gz files hold the time of their making, which Debian's package has removed; with it they are those of torchvision.
MADE_AT = {"train": 1504176606, "t10k": 1504176627}


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_published_one() -> None:
    published = dict(torchvision.datasets.FashionMNIST.resources)
    for path in DEBIAN.glob("*.gz"):
        content = path.read_bytes()
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", MADE_AT[path.name.partition("-")[0]]) + b"\0\x03"
        whole = header + path.name.removesuffix(".gz").encode() + b"\0" + content[10:]
        assert hashlib.md5(whole, usedforsecurity=False).hexdigest() == published.pop(path.name)
    assert not published
    assert len(load("fashion-mnist", "train", DEBIAN)) == 60_000
    test = load("fashion-mnist", "test", DEBIAN.parent)
    assert test.differences == ()
    assert test.labels[:5].tolist() == [9, 2, 1, 1, 6]


def test_facts_survive_json_and_wrong_ones_are_refused() -> None:
    info = DATASETS["cifar10"]
    facts = json.loads(canonical(facts_of(info)))
    assert from_facts("cifar10", facts, "here") == dataclasses.replace(info, source=None, protocols={})
    wrongs: list[dict[str, object]] = [
        {"classes": "ten"}, {"shape": [3, 32]}, {"mean": [0.5]}, {"std": [0.0, 1.0, 1.0]}, {"sigmas": []}, {"summary": 3}, {"train": {}},
    ]  # fmt: skip
    for wrong in wrongs:
        with pytest.raises(BenchError, match=r"^here: "):
            from_facts("cifar10", facts | wrong, "here")


# --------------------------------------------------------------------------------------------------------- where files are


def test_where_data_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    assert roots() == (tmp_path / "cache" / "certbench" / "data",) == (user_cache(),)
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "named"))
    assert roots() == (tmp_path / "named", user_cache())
    assert roots(tmp_path) == (tmp_path,)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache().is_absolute()


def test_a_missing_data_set_names_both_ways_out(bench: Call, tmp_path: Path) -> None:
    result = bench("run", "--dataset", "cifar10", "--protocol", "smoke", "--data-dir", tmp_path, "--results", tmp_path / "runs")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    for part in (
        "cifar10 is not here",
        f"looked in {tmp_path}",
        "`bench data get cifar10`",
        "--data-dir or BENCH_DATA_DIR",
        "data_batch_1",
    ):
        assert part in line
    assert not (tmp_path / "runs").exists()
    dry = bench("run", "--dataset", "cifar10", "--protocol", "smoke", "--method", "gaussian", "--data-dir", tmp_path, "--dry-run")
    assert dry.exit_code == 0
    assert "note: data set cifar10 is not here" in dry.output


@pytest.mark.parametrize("place", ["", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_files_are_found_in_the_usual_places(made: Path, tmp_path: Path, place: str) -> None:
    target = tmp_path / "data" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(made / "cifar-10-batches-py")
    assert len(load("cifar10", "train", tmp_path / "data", allow_other=True)) == 1000


def test_data_check_says_what_is_there_and_what_is_not(bench: Call, made: Path, tmp_path: Path) -> None:
    assert bench("data", "check", "mnist").exit_code == 0
    result = bench("data", "check", "cifar10", "svhn", "--data-dir", made)
    assert result.exit_code == 1
    for part in (
        f"found in {made}",
        "train: 1,000 images",
        "data_batch_1 is not the published file",
        f"looked in {made}",
        "svhn is not here",
    ):
        assert part in result.output
    (report,) = json.loads(bench("data", "check", "cifar10", "--data-dir", made, "--json").stdout)
    assert not report["good"]
    assert len(report["problems"]) == 7
    partly = tmp_path / "cifar-10-batches-py"
    partly.mkdir()
    (partly / "test_batch").symlink_to(made / "cifar-10-batches-py" / "test_batch")
    assert (
        "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5 missing"
        in bench("data", "check", "cifar10", "--data-dir", tmp_path).output
    )


def test_other_files_are_refused_unless_asked_for(made: Path) -> None:
    with pytest.raises(BenchError, match=r"data_batch_1 is not the published file: its MD5 .*--allow-other-data"):
        load("cifar10", "train", made)
    data = load("cifar10", "train", made, allow_other=True)
    assert len(data.differences) == 6
    assert "it has 1,000 training images, not 50,000" in data.differences
    assert DATASETS["cifar10"].known_labels() is None


# ------------------------------------------------------------------------------------------------------------ what is read


def test_cifar_batches_come_out_as_they_were_made(made: Path) -> None:
    for name, key, batches in (("cifar10", 10, 5), ("cifar100", 100, 1)):
        train = load(name, "train", made, allow_other=True)
        assert isinstance(train, Split)
        assert train.pixels.shape == (1000 if batches == 5 else 500, 3, 32, 32)
        assert torch.bincount(train.labels).tolist() == [len(train) // key] * key
        labels = generated.balanced(len(train) // batches, key)
        assert np.array_equal(train.pixels[: len(labels)].numpy(), generated.pictures(labels, (3, 32, 32), 1))
        assert train.labels[: len(labels)].tolist() == labels.tolist()
    train = load("fashion-mnist", "train", made, allow_other=True)  # some files zipped, others not
    assert isinstance(train, Split)
    assert np.array_equal(train.pixels.numpy(), generated.pictures(generated.balanced(100, 10), (1, 28, 28), 1))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_of_python_3_are_read_as_well(protocol: int) -> None:
    array = np.arange(6144, dtype=np.uint8).reshape(2, 3072)
    read = read_plain(pickle.dumps({"data": array, "labels": [3, 1]}, protocol))
    assert np.array_equal(read.pop("data").content, array)
    assert read == {"labels": [3, 1]}


def test_svhn_counts_from_one_and_ten_is_zero(tmp_path: Path) -> None:
    generated.svhn(tmp_path, train=40, test=20)
    info = dataclasses.replace(DATASETS["svhn"], train_size=40, test_size=20)
    train = of(info, read_checked(info, "train", tmp_path, allow_other=True))
    labels = generated.balanced(40, 10)
    assert isinstance(train, Split)
    assert train.labels.tolist() == labels.tolist()
    assert np.array_equal(train.pixels.numpy(), generated.pictures(labels, (3, 32, 32), 1))


# ----------------------------------------------------------------------------------------------------------- augmentation


def in_memory(size: int = 40) -> Split:
    pixels = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Split(pixels, torch.arange(size) % 10, {})


def whole(data: Split | Stream, order: torch.Tensor, size: int, **words: object) -> torch.Tensor:
    return torch.cat([x for x, _ in data.batches(order, size, **words)])  # type: ignore[arg-type]


def test_crops_and_flips_are_those_of_torchvision() -> None:
    """Each image is one of the 81 crops of the padded image, mirrored or not, as torchvision's functions give them."""
    data = in_memory()
    got = whole(data, torch.arange(40), 16, augment="crop-flip", seed=5)
    seen = set()
    for number, image in enumerate(got):
        padded = functional.pad(data.pixels[number], [4, 4, 4, 4])
        places = product(range(9), range(9), (False, True))
        fits = [place for place in places if torch.equal(image, _crop(padded, *place))]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len({top for top, _, _ in seen}) > 5
    assert len({left for _, left, _ in seen}) > 5
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def _crop(padded: torch.Tensor, top: int, left: int, mirrored: bool) -> torch.Tensor:
    crop = functional.crop(padded, top, left, 32, 32)
    image: torch.Tensor = functional.hflip(crop) if mirrored else crop
    return image.float() / 255


def test_draws_are_uniform() -> None:
    from bench.data.memory import _draw

    draws = _draw(81_000, flip=True, seed=1)
    counts = torch.bincount(draws[:, 1] * 9 + draws[:, 2], minlength=81)
    assert 800 < int(counts.min()) <= int(counts.max()) < 1200  # 1000 expected, standard deviation 31
    assert abs(float(draws[:, 0].float().mean()) - 0.5) < 0.01
    assert not _draw(100, flip=False, seed=1)[:, 0].any()


@pytest.mark.parametrize("augment", ["none", "crop", "crop-flip"])
def test_an_image_depends_on_seed_and_index_alone(augment: str) -> None:
    data, order = in_memory(), torch.randperm(40, generator=torch.Generator().manual_seed(1))
    before = torch.random.get_rng_state()
    once = whole(data, order, 16, augment=augment, seed=5)
    assert torch.equal(once, whole(data, order, 7, augment=augment, seed=5))
    assert torch.equal(once[32:], whole(data, order, 16, augment=augment, seed=5, first=2))
    assert torch.equal(once.flip(0), whole(data, order.flip(0), 16, augment=augment, seed=5))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(once, whole(data, order, 16, augment=augment, seed=6)) == (augment == "none")
    labels = torch.cat([y for _, y in data.batches(order, 16, augment=augment, seed=5)])
    assert torch.equal(labels, data.labels[order])


def test_augmentations_know_their_kind() -> None:
    with pytest.raises(BenchError, match="decoded one by one"):
        next(in_memory().batches(torch.arange(3), 2, augment="resized-crop-flip", seed=0))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetInfo, Path]:
    """A tree of 3 classes with 4 training and 5 test images each, and the data set of it, 32 pixels wide."""
    root = tmp_path_factory.mktemp("tree")
    generated.imagenet(root, 4, classes=["n00000001", "n00000002", "n00000003"], per_class=5)
    source = ImageTree(class_name=r"n\d{8}", classes=3, test_per_class=5)
    train = TrainSpec(arch="test_resnet", epochs=1, clock=1, batch=4, lr=0.1, lr_step=1, augment="resized-crop-flip")
    big = DATASETS["imagenet"]
    info = DatasetInfo(
        name="tiny-tree", summary="", classes=3, shape=(3, 32, 32), mean=big.mean, std=big.std, train_size=12, test_size=15,
        sigmas=(0.5,), train=train, source=source,
    )  # fmt: skip
    return info, root


def test_streamed_images_do_not_depend_on_the_workers(tree: tuple[DatasetInfo, Path]) -> None:
    info, root = tree
    data = of(info, read_checked(info, "train", root))
    assert isinstance(data, Stream)
    order = torch.tensor([3, 11, 0, 7, 5, 1, 9])
    before = torch.random.get_rng_state()
    results = [
        whole(dataclasses.replace(data, workers=workers), order, size, augment="resized-crop-flip", seed=8)
        for workers, size in ((0, 3), (1, 3), (2, 2))
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(results[0], result) for result in results[1:])
    resumed = whole(dataclasses.replace(data, workers=2), order, 3, augment="resized-crop-flip", seed=8, first=1)
    assert torch.equal(results[0][3:], resumed)
    assert not torch.equal(results[0], whole(dataclasses.replace(data, workers=0), order, 3, augment="resized-crop-flip", seed=9))
    assert results[0].shape == (7, 3, 32, 32)


def test_streamed_images_are_those_of_torchvision(tree: tuple[DatasetInfo, Path]) -> None:
    """Order and labels as ImageFolder's; tested images by Resize, CenterCrop, ToTensor; training images by the random transforms."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    info, root = tree
    test = of(info, read_checked(info, "test", root))
    steps = [transforms.Resize(round(32 * 256 / 224)), transforms.CenterCrop(32), transforms.ToTensor()]
    folder = ImageFolder(root / "val", transforms.Compose(steps))
    assert test.labels.tolist() == folder.targets == [0] * 5 + [1] * 5 + [2] * 5
    assert torch.equal(test.images(torch.arange(15)), torch.stack([image for image, _ in folder]))
    train = of(info, read_checked(info, "train", root))
    steps = [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    folder = ImageFolder(root / "train", transforms.Compose(steps))
    got = torch.cat([x for x, _ in train.batches(torch.arange(12), 5, augment="resized-crop-flip", seed=4)])
    for index in range(12):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(4, index))
            assert torch.equal(got[index], folder[index][0])


def test_a_tree_keeps_the_contract(tree: tuple[DatasetInfo, Path]) -> None:
    assert [result.problem for result in check_dataset(*tree)] == [None] * 5


# --------------------------------------------------------------------------------------------------------------- download


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server of a folder on this machine: its address, the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", folder
    served.shutdown()
    served.server_close()
    thread.join()


def test_data_get_downloads_and_checks(
    bench: Call, server: tuple[str, Path], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    archive = folder / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(made / "cifar-10-batches-py" / "test_batch", "cifar-10-batches-py/test_batch")
    known = torchvision.datasets.CIFAR10
    monkeypatch.setattr(known, "url", f"{address}/cifar.tar.gz")
    monkeypatch.setattr(known, "filename", "cifar.tar.gz")
    refused = bench("data", "get", "cifar10", "--data-dir", tmp_path / "data")
    assert refused.exit_code == 2
    assert "could not be downloaded from http://127.0.0.1" in refused.stderr
    assert not (tmp_path / "data" / "cifar-10-batches-py").exists()
    monkeypatch.setattr(known, "tgz_md5", hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest())
    result = bench("data", "get", "cifar10", "--data-dir", tmp_path / "data")
    assert result.exit_code == 1, "what came is not whole, and that is said"
    assert "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5 missing" in result.stderr
    assert (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").is_file()
    assert not (tmp_path / "data" / "cifar.tar.gz").exists()


def test_single_files_and_mirrors_are_got(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, folder = server
    content = b"four files of this"
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    for name in ("a.gz", "train.mat", "test.mat"):
        (folder / name).write_bytes(content)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [f"{address}/absent/", f"{address}/"])
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", [("a.gz", md5)])
    get(DATASETS["fashion-mnist"], tmp_path / "data")
    assert (tmp_path / "data" / "FashionMNIST" / "raw" / "a.gz").read_bytes() == content
    files = {split: (f"{address}/{split}.mat", f"{split}.mat", md5) for split in ("train", "test")}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    get(DATASETS["svhn"], tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").glob("*.mat")} == {"train.mat", "test.mat"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("imagenet", "image-net.org"),
        ("mnist", "nothing to get"),
        ("cifr10", "did you mean 'cifar10'?"),
        ("cifar10", "cifar10 could not be downloaded from http://127.0.0.1:9/cifar.tar.gz: "),
    ],
)
def test_what_cannot_be_got_says_why(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, part: str) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    result = bench("data", "get", name, "--data-dir", tmp_path)
    assert result.exit_code == 2
    assert part in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python has no filters")
def test_an_archive_cannot_write_elsewhere(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one whose check sum is right."""
    address, folder = server
    with tarfile.open(folder / "evil.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("../outside")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"bad"))
    known = torchvision.datasets.CIFAR10
    monkeypatch.setattr(known, "url", f"{address}/evil.tar.gz")
    monkeypatch.setattr(known, "filename", "evil.tar.gz")
    monkeypatch.setattr(known, "tgz_md5", hashlib.md5((folder / "evil.tar.gz").read_bytes(), usedforsecurity=False).hexdigest())
    with pytest.raises(BenchError, match=r"evil\.tar\.gz"):
        get(DATASETS["cifar10"], tmp_path / "data")
    assert not (tmp_path / "outside").exists()


# --------------------------------------------------------------------------------------------------------------- plug-ins

PLUGIN = '''"""Stripes: made of two patterns. Somebody: "Stripes", Nowhere 2026."""
import dataclasses
from dataclasses import dataclass

import numpy as np

from bench.datasets import DATASETS, Arrays, DatasetInfo, Source


@dataclass(frozen=True, kw_only=True)
class Stripes(Source):
    def find(self, roots):
        return next(iter(roots))

    def read(self, folder, split):
        labels = np.arange({"train": 64, "test": 20}[split]) % 2
        pixels = np.zeros((len(labels), 1, 28, 28), np.uint8)
        pixels[labels == 1, :, ::2] = 255
        return Arrays(pixels, labels.astype(np.int64), {split: "made"})


DATASET = dataclasses.replace(
    DATASETS["mnist"], name="stripes", summary="two patterns", classes=2, train_size=64, test_size=20, source=Stripes(), like="mnist"
)
'''


MNIST_WITH = 'dataclasses.replace(DATASETS["mnist"].train, '


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Data sets of plug-ins are forgotten again."""
    yield
    for name in set(DATASETS) - BUILT_IN:
        del DATASETS[name]


@pytest.mark.usefixtures("forgotten")
def test_a_reader_needs_no_plugin(bench: Call, tmp_path: Path) -> None:
    """The facts stand beside the run, so that its tables are those of whoever has the files, but for labels that nobody checked."""
    path, runs = tmp_path / "stripes.py", tmp_path / "runs"
    path.write_text(PLUGIN)
    words = ["--set", "train.images=all", "--set", "train.batch=8", "--set", "certify.images=first:4", "--set", "certify.n=200"]
    words += ["--method", "gaussian,stability", "--sigma", "0.5", "--protocol", "smoke", "--device", "cpu"]
    result = bench("run", "--plugin", path, "--dataset", "stripes", "--results", runs, *words)
    assert result.exit_code == 0, result.output
    assert "no published hyperparameters for stripes: those for mnist are taken" in result.output
    del DATASETS["stripes"]
    table = bench("table", "--results", runs)
    assert table.exit_code == 0, table.output
    for part in ("stripes, protocol smoke", "labels of stripes are not checked", "those for mnist are taken", "4 of 20 test images"):
        assert part in " ".join(table.output.split())
    (run, _) = Store(runs).runs()
    assert run.info.classes == 2
    (run.path / "dataset.json").write_text('{"classes": 2}')
    assert "no facts of a data set" in " ".join(bench("table", "--results", runs).output.split())


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("import numpy as np", "import numpy as np\n1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("DATASET = dataclasses.replace(", "DATASET = dict(", "cannot be imported: TypeError"),
        ('name="stripes"', 'name="dots"', "its DATASET has the name 'dots'"),
        ("source=Stripes()", "source=None", "must be a DatasetInfo with a source"),
        ("classes=2", "classes=1", "classes from 2 up"),
        ("classes=2", "classes=2, mean=(0.0, 0.0)", "one number for each of the 1 channels"),
        ("classes=2", "classes=2, std=(0.0,)", "greater than 0"),
        ("classes=2", "classes=2, sigmas=(-1.0,)", "sigma -1.0"),
        ("classes=2", 'classes=2, protocols={"smok": {}}', "there is no protocol 'smok'"),
        ("classes=2", 'classes=2, protocols={"smoke": {"train.epoch": 1}}', "did you mean 'epochs'"),
        ("classes=2", 'classes=2, protocols={"smoke": {"epochs": 1}}', "neither train.NAME nor certify.NAME"),
        ('like="mnist"', 'like="mnits"', "did you mean 'mnist'"),
        ("classes=2", f'classes=2, train={MNIST_WITH}arch="lenet5")', "did you mean 'lenet'"),
        ("classes=2", f'classes=2, train={MNIST_WITH}augment="resized-crop-flip")', "is not for its images"),
        ("train_size=64", "train_size=65", "it has 64 training images, not 65"),
        ("test_size=20", "test_size=21", "has 20 images, not 21"),
        ("np.uint8)", "np.float32)", "must be bytes"),
        ("1, 28, 28), np", "1, 28, 27), np", "images of 1x28x27, not 1x28x28"),
        ("% 2", "% 3", "label 2, but there are classes 0 to 1"),
        ("% 2", "* 0", "no image of class 1"),
        ("% 2", "% 2 - 1", "label -1"),
        ("labels.astype(np.int64),", "labels.astype(np.int64)[1:],", "64 images, but 63 labels"),
        ('{split: "made"}', "{split: str(np.random.default_rng().random())}", "differ between two readings"),
        ("        pixels[labels", "        raise OSError('no')\n        pixels[labels", "OSError: no"),
    ],
)  # fmt: skip
def test_a_faulty_plugin_is_told_what_is_wrong(bench: Call, tmp_path: Path, old: str, new: str, part: str) -> None:
    assert old in PLUGIN
    path = tmp_path / "stripes.py"
    path.write_text(PLUGIN.replace(old, new, 1))
    result = bench("check", path)
    assert result.exit_code in (1, 2), result.output
    assert part in result.output
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("forgotten")
def test_the_example_of_the_documentation_keeps_the_contract(bench: Call, tmp_path: Path) -> None:
    path = tmp_path / "sketches.py"
    path.write_text(blocks("guide/extend.md", "DATASET = ")[0])
    (tmp_path / "sketches").mkdir()
    for split, size in (("train", 2000), ("test", 1000)):
        labels = np.arange(size) % 2
        pixels = generated.pictures(labels, (1, 28, 28), size)
        np.savez(tmp_path / "sketches" / f"{split}.npz", pixels=pixels, labels=labels, version=np.array("1"))
    result = bench("check", path, "--data-dir", tmp_path)
    assert result.exit_code == 0, result.output
    (tmp_path / "sketches" / "test.npz").unlink()
    missing = bench("check", path, "--data-dir", tmp_path)
    assert missing.exit_code == 1
    assert "is not whole (test.npz missing)" in missing.output


def test_logs_of_a_data_set_that_is_not_here_are_imported(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its files the labels cannot be checked, which must not stop anyone who reads published logs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_DIR", raising=False)
    assert DATASETS["cifar10"].known_labels() is None
    with pytest.raises(BenchError, match="test labels of cifar10 are not known"):
        DATASETS["cifar10"].test_labels()
    log = tmp_path / "logs" / "cifar10" / "cohen" / "cifar_densenet40" / "noise_0.50_2341"
    log.parent.mkdir(parents=True)
    rows = [f"{index}\t{index % 10}\t{index % 10}\t0.5\t1\t0:00:01" for index in range(10_000)]
    log.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *rows, ""]))
    result = bench("import", tmp_path / "logs", "--manifest", "smoothmix-logs", "--results", tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert "0 refused" in " ".join(result.output.split())
