"""Weight files of strangers: what loads, what is refused, and that the same weights are the same model in every layout."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from fake_store import run_spec
from torch import Tensor, nn

from bench.checkpoints import check, files, fit, normalize
from bench.checkpoints.export import field_checkpoint
from bench.checkpoints.load import Base, Wanted, load
from bench.checkpoints.normalize import parse
from bench.datasets import DATASETS, DatasetInfo
from bench.errors import BenchError
from bench.files.writing import sha256, write_atomically, write_json
from bench.models import ARCHITECTURES, build, is_known
from bench.spec import RunSpec, canonical, to_json
from bench.store import checkpoints
from bench.store.runs import Run, Store
from bench.store.subject import Damaged

MNIST = DATASETS["mnist"]
COLOUR: DatasetInfo = dataclasses.replace(
    MNIST, name="colour", shape=(3, 32, 32), classes=7, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.201)
)
State = dict[str, Any]


def network_state(arch: str = "lenet", info: DatasetInfo = MNIST, seed: int = 3) -> State:
    """Weights of the network alone, under its own names."""
    network = cast(nn.Sequential, build(arch, info, seed))[1]
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def prefixed(state: Mapping[str, Any], prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def field(state: Mapping[str, Any], prefix: str = "1.", arch: object = "lenet") -> State:
    """A checkpoint as the field's training scripts save it."""
    return {"epoch": 90, "arch": arch, "state_dict": prefixed(state, prefix), "optimizer": {"state": {}, "param_groups": [{"lr": 0.01}]}}


def under(key: str, state: Mapping[str, Any]) -> State:
    """A checkpoint as others save it: the epoch, accuracies and an optimiser's state beside the weights."""
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]}
    return {key: dict(state), "epoch": 3, "acc": torch.tensor(0.9), "optimizer": optimizer, "arch": "lenet"}


def save(path: Path, content: object, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def opened(path: Path | str, **said: Any) -> Base:
    words: dict[str, Any] = {"dataset": "mnist", "sigma": 0.5, "results": Path("nowhere"), **said}
    return load(Wanted(word=str(path), **words))


def trained(results: Path, spec: RunSpec, model: nn.Module) -> Run:
    """A run on disk with these weights, as the suite leaves it."""
    run = Store(results).run(spec)
    run.begin()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"certbench": canonical({"spec": to_json(spec), "key": spec.key})}
    write_atomically(run.weights, safetensors.torch.save(weights, metadata))
    write_json(run.path / "training.json", {"state": "trained", "steps": 1, "weights_sha256": sha256(run.weights)})
    return run


# ------------------------------------------------------------------------------------------------- what loads


@pytest.fixture(scope="module")
def lenet() -> State:
    return network_state()


def logits(base: Base) -> Tensor:
    x = torch.rand(4, *base.info.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return cast(Tensor, base.model(x))


NORMALIZED = {"mean": torch.full((1, 1, 1), 0.25), "std": torch.full((1, 1, 1), 0.5)}
LAYOUTS: dict[str, tuple[Callable[[State], State], str]] = {
    **{prefix: (partial(field, prefix=prefix), f"the prefix {prefix!r}") for prefix in ("1.", "1.module.", "module.1.", "module.", "0.")},
    **{prefix: (partial(field, prefix=prefix), f"the prefix {prefix!r}") for prefix in ("_orig_mod.", "model.", "net.encoder.")},
    "no prefix": (partial(field, prefix=""), ""),
    "another spelling of arch": (partial(field, prefix="", arch="LeNet"), ""),
    **{key: (partial(under, key), f"tensors under {key!r}") for key in ("net", "model", "model_state_dict", "ema")},
    "alone": (lambda s: s, ""),
    "alone, 1.module.": (lambda s: prefixed(s, "1.module."), "the prefix '1.module.'"),
    "parameters": (lambda s: field({name: nn.Parameter(tensor) for name, tensor in s.items()}), "the prefix"),
    "channels last": (lambda s: field({n: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for n, t in s.items()}), "prefix"),
    "views of one storage": (lambda s: field({**s, "fc2.bias": torch.zeros(3, 10).copy_(s["fc2.bias"])[1]}), "the prefix"),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_same_weights_is_the_same_model(lenet: State, layout: str, legacy: bool, tmp_path: Path) -> None:
    make, told = LAYOUTS[layout]
    path = save(tmp_path / "x.pth.tar", make(lenet), _use_new_zipfile_serialization=not legacy)
    base = opened(path, arch="lenet" if layout.startswith("alone") else None)
    assert (base.arch, str(base.normalization), base.stated) == ("lenet", "none", False)
    assert told in base.told
    assert bool(told) == bool(base.told)
    assert {name: tensor.tolist() for name, tensor in base.model[1].state_dict().items()} == {n: t.tolist() for n, t in lenet.items()}
    plain = opened(save(tmp_path / "plain.pth", field(lenet)))
    assert torch.equal(logits(base), logits(plain))
    assert base.sha256 == plain.sha256
    assert not any(module.training for module in base.model.modules())


@pytest.mark.parametrize("names", [("mean", "std"), ("mu", "sigma"), ("means", "sds")])
@pytest.mark.parametrize(
    ("before", "network"), [("0.", "1."), ("module.normalize.", "module.model."), ("normalize.", ""), ("0.", "1.module.")]
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1,), (1, 1, 1, 1)])
def test_a_normalisation_in_the_file_is_taken_and_said(
    lenet: State, names: tuple[str, str], before: str, network: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    buffers = {f"{before}{name}": tensor.reshape(shape) for name, tensor in zip(names, NORMALIZED.values(), strict=True)}
    path = save(tmp_path / "x.pth", {"arch": "lenet", "state_dict": {**prefixed(lenet, network), **buffers}})
    base = opened(path)
    assert (base.stated, str(base.normalization)) == (True, "0.25/0.5")
    assert " and ".join(map(repr, buffers)) in base.told
    assert base.sha256 == opened(save(tmp_path / "y.pth", field(lenet)), normalize="0.25/0.5").sha256
    with pytest.raises(BenchError, match=r"holds its own normalisation \(0.25/0.5\); leave out --normalize"):
        opened(path, normalize="none")


def test_safetensors_of_a_bare_network(lenet: State, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(lenet, path)
    base = opened(path, arch="lenet")
    assert base.sha256 == opened(save(tmp_path / "x.pth", field(lenet))).sha256
    with pytest.raises(BenchError, match=r"does not say its architecture; its tensors are those of lenet: --arch lenet"):
        opened(path)


def test_our_own_weights_say_what_they_are(tmp_path: Path) -> None:
    spec = run_spec(sigma=0.25, seed=4)
    run = trained(tmp_path, spec, build("lenet", MNIST, 1))
    for word in (run.weights, run.path, spec.key, spec.key[:6]):
        base = load(Wanted(word=str(word), results=tmp_path))
        assert (base.arch, base.sigma, base.info.name, str(base.normalization)) == ("lenet", 0.25, "mnist", "none")
        assert (base.run is None) == (word == run.weights)
        assert base.stated
    other = load(Wanted(word=spec.key, sigma=1.0, results=tmp_path))
    assert other.sigma == 1.0
    run.weights.write_bytes(run.weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(BenchError, match=r"SHA-256 is .*, but training.json says"):
        load(Wanted(word=spec.key, results=tmp_path))
    run.weights.unlink()
    with pytest.raises(BenchError, match="holds no weights"):
        load(Wanted(word=spec.key, results=tmp_path))
    (run.path / "training.json").unlink()
    with pytest.raises(BenchError, match=r"is not trained \(training\)"):
        load(Wanted(word=spec.key, results=tmp_path))


def test_a_network_of_timm_whose_counters_of_batch_norm_may_be_missing_and_nothing_else(tmp_path: Path) -> None:
    state = network_state("test_resnet")
    for name in state:
        if name.endswith("running_mean"):
            state[name] += 0.25
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    network = cast(nn.Sequential, build("test_resnet", MNIST, 0))[1].eval()
    network.load_state_dict(state)
    x = torch.rand(2, 1, 28, 28)
    for part in (state, old):
        base = opened(save(tmp_path / "x.pth", field(part, "1.module.", "test_resnet")), normalize="0.1307/0.3081")
        with torch.no_grad():
            assert torch.allclose(base.model(x), network((x - 0.1307) / 0.3081), atol=1e-5)
    del old[next(name for name in old if name.endswith("running_var"))]
    with pytest.raises(BenchError, match=r"running_var' of test_resnet for mnist is missing"):
        opened(save(tmp_path / "x.pth", field(old, arch="test_resnet")))


def test_names_of_the_field() -> None:
    known = {"lenet": "lenet", "LeNet": "lenet", "mnist_lenet": "lenet", "ResNet-50": "resnet50", "wide-resnet50-2": "wide_resnet50_2"}
    known |= {"resnet50": "resnet50", "ResNet50": "resnet50", "resnet51": "resnet51", "os:system": "os:system"}
    assert {said: fit.known_name(said) for said in known} == known
    assert not any(map(is_known, fit.ALIASES)), "an alias stands for no network that timm has"


def test_a_factory_brings_its_own_weights_or_takes_those_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenet: State) -> None:
    source = (
        "import torch\nfrom torch import nn\n"
        "def make():\n    torch.manual_seed(0)\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).double().train()\n"
        "def wrapped():\n    return nn.Sequential(nn.Identity(), make())\n"
        "def number():\n    return 3\n"
        "def fails():\n    raise ValueError('no weights here')\n"
        "def stops():\n    raise SystemExit(3)\n"
        "def words():\n    return nn.ModuleList()\n"
    )
    (tmp_path / "my_networks.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    base = opened("my_networks:make")
    assert (base.arch, str(base.normalization), logits(base).dtype) == ("my_networks:make", "none", torch.float32)
    assert re.fullmatch("[0-9a-f]{64}", base.source_sha256)
    weights = {name: tensor.float() + 1 for name, tensor in base.model[1].state_dict().items()}
    path = save(tmp_path / "x.pth", {"state_dict": prefixed(weights, "module.")})
    taken = opened(path, arch="my_networks:make", normalize="0.5/0.5")
    assert torch.equal(taken.model[1][1].weight, base.model[1][1].weight + 1)  # type: ignore[index]
    assert str(taken.normalization) == "0.5/0.5"
    # A network whose own names begin with `1.` keeps them.
    inner = save(tmp_path / "y.pth", prefixed(weights, "1."))
    assert torch.equal(opened(inner, arch="my_networks:wrapped").model[1][1][1].weight, taken.model[1][1].weight)  # type: ignore[index]
    for word, told in {
        "my_networks:number": "returned an object of type int, not an nn.Module",
        "my_networks:fails": "gave ValueError: no weights here",
        "my_networks:stops": "gave SystemExit: 3",
        "my_networks:mak": "AttributeError",
        "no_such_module_anywhere:make": "gave ModuleNotFoundError",
        "my_networks:words": "does not take mnist's images of 1x28x28",
    }.items():
        with pytest.raises(BenchError, match=re.escape(told)):
            opened(word)
    with pytest.raises(BenchError, match="brings its own architecture; leave out --arch"):
        opened("my_networks:make", arch="lenet")
    with pytest.raises(BenchError, match=r"tensor '1\.weight' of my_networks:make for mnist is missing"):
        opened(save(tmp_path / "z.pth", lenet), arch="my_networks:make")


# ------------------------------------------------------------------------------------------------- what is refused


class Evil:
    """Makes a folder when it is unpickled as code."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


Make = Callable[[Path, State], object]


def changed(change: Callable[[bytes], bytes], safe: bool = False, **metadata: str) -> Make:
    """A file of torch.save or safetensors whose bytes are changed."""

    def make(path: Path, state: State) -> None:
        data = safetensors.torch.save(state, metadata or None) if safe else save(path, field(state)).read_bytes()
        path.write_bytes(change(data))

    return make


def flip(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :]


def with_tensor(name: str, change: Callable[[Tensor], object]) -> Make:
    return lambda path, state: save(path, field({**state, name: change(state[name])}))


def content(make: Callable[[State], object], **how: Any) -> Make:
    return lambda path, state: save(path, make(state), **how)


def normalised(mean: Tensor, std: Tensor) -> Make:
    return content(lambda s: {"arch": "lenet", "state_dict": {"0.mean": mean, "0.std": std, **prefixed(s, "1.")}})


def nan_at_the_end(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = float("nan")
    return tensor


ONE = torch.ones(1, 1, 1)
REFUSED: dict[str, tuple[Make, str]] = {
    "empty": (lambda p, s: p.write_bytes(b""), "is damaged, or neither a file of torch.save nor safetensors"),
    "a web page": (lambda p, s: p.write_bytes(b"<!DOCTYPE html><html></html>"), "neither a file of torch.save nor safetensors"),
    "gzip": (lambda p, s: p.write_bytes(b"\x1f\x8b\x08" + bytes(40)), "neither a file of torch.save nor safetensors"),
    "a folder": (lambda p, s: p.mkdir(), "is a folder, but not of a run"),
    "a pipe": (lambda p, s: os.mkfifo(p), "is not a regular file"),
    "cut short": (changed(lambda data: data[: len(data) // 2]), "is damaged"),
    "a flipped bit": (changed(flip), "the check sum of its record model/data/"),
    "code": (lambda p, s: save(p, {**field(s), "best": Evil(p.with_suffix(".ran"))}), "asks for posix.mkdir, and only tensors"),
    "code, legacy": (
        lambda p, s: save(p, {**field(s), "best": Evil(p.with_suffix(".ran"))}, _use_new_zipfile_serialization=False),
        "asks for posix.mkdir, and only tensors",
    ),
    "a whole module": (content(lambda s: nn.Linear(2, 2)), "asks for torch.nn.modules.linear.Linear, and only tensors"),
    "a list": (content(lambda s: [s]), "holds an object of type list"),
    "nothing of tensors": (content(lambda s: {"epoch": 3, "model": {}}), "has no tensors under its keys ('epoch', 'model')"),
    "two models": (content(lambda s: {"model": s, "ema": s}), "holds several dicts of tensors ('model', 'ema')"),
    "no tensors": (content(lambda s: field({})), "has no tensors under its keys"),
    "a number among tensors": (with_tensor("fc2.bias", lambda t: 3), "'1.fc2.bias' is of type int, not a tensor"),
    "a name that is a number": (content(lambda s: {"state_dict": {**s, 7: ONE}}), "is named 7, which is no text"),
    "a name with an escape": (content(lambda s: field({**s, "fc2\x1b[31m": ONE})), r"'fc2\x1b[31m' is in the file, but not in lenet"),
    "a name without end": (content(lambda s: field({**s, "x" * 10_000: ONE})), "is in the file, but not in lenet"),
    "arch is a number": (content(lambda s: field(s, arch=110)), "does not say its architecture; its tensors are those of lenet"),
    "arch is a factory": (content(lambda s: field(s, arch="os:getcwd")), "its architecture 'os:getcwd' is unknown"),
    "arch is unknown": (
        content(lambda s: field(s, arch="letnet5")),
        "its architecture 'letnet5' is unknown; its tensors are those of lenet: --arch lenet",
    ),
    "another arch": (
        content(lambda s: field(s, arch="resnet18")),
        "tensor 'conv1.weight' is 20x1x5x5 in the file, but 64x1x7x7 in resnet18 for mnist (and",
    ),
    "an arch of gigabytes": (content(lambda s: field(s, arch="vit_giant_patch14_224")), "vit_giant_patch14_224"),
    "sparse": (with_tensor("fc2.weight", lambda t: t.to_sparse()), "is sparse, quantised or without memory"),
    "half precision": (with_tensor("fc2.weight", lambda t: t.half()), "is torch.float16 in the file, but torch.float32 in lenet for mnist"),
    "NaN": (with_tensor("fc1.weight", nan_at_the_end), "tensor 'fc1.weight' holds numbers that are not finite"),
    "transposed": (with_tensor("fc2.weight", lambda t: t.t()), "tensor 'fc2.weight' is 500x10 in the file, but 10x500 in lenet for mnist;"),
    "a tensor missing": (
        content(lambda s: field({n: t for n, t in s.items() if n != "conv2.bias"})),
        "tensor 'conv2.bias' of lenet for mnist is missing; --arch takes networks of the suite",
    ),
    "two layouts at once": (
        content(lambda s: {"arch": "lenet", "state_dict": {**prefixed(s, "1."), "module.fc2.bias": s["fc2.bias"]}}),
        "tensor 'conv1.weight' of lenet for mnist is missing",
    ),
    "normalisation of 3 channels": (normalised(torch.zeros(3, 1, 1), torch.ones(3, 1, 1)), "normalisation's '0.mean' is not 1 numbers"),
    "deviation 0": (normalised(ONE, 0 * ONE), "must have finite means and deviations greater than 0"),
    "mean NaN": (normalised(ONE * float("nan"), ONE), "must have finite means and deviations greater than 0"),
    "safetensors cut short": (changed(lambda data: data[:-4], safe=True), "is damaged, or no safetensors file"),
    "safetensors that claim more": (
        changed(lambda d: d.replace(b"[500,8", b"[900,8"), safe=True),
        "is damaged, or no safetensors file",
    ),
    "safetensors with wrong metadata": (changed(bytes, safe=True, certbench="[]"), "is damaged, or no safetensors file"),
    "safetensors with an unknown spec": (changed(bytes, safe=True, certbench='{"spec":{"schema":1,"x":2}}'), "unknown key 'x'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_files_are_refused_in_one_sentence(name: str, lenet: State, tmp_path: Path) -> None:
    make, told = REFUSED[name]
    path = tmp_path / "model.pth"
    make(path, lenet)
    with pytest.raises(BenchError) as caught:
        opened(path)
    sentence = str(caught.value)
    assert told in sentence
    assert "model.pth" in sentence
    assert sentence.isprintable()
    assert len(sentence.replace(str(path), "")) < 420
    assert not path.with_suffix(".ran").exists()


def test_a_file_beyond_the_limit_is_not_read(lenet: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "x.pth", field(lenet))
    monkeypatch.setattr(files, "MAX_FILE", 1000)
    with pytest.raises(BenchError, match="more than the 0 that are read"):
        opened(path)


def test_nothing_is_copied_into_the_model_before_names_and_shapes_agree(
    lenet: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(BenchError, match="is missing"):
        opened(save(tmp_path / "x.pth", field({n: t for n, t in lenet.items() if n != "fc2.bias"})))


def test_the_architecture_that_fits_is_named(tmp_path: Path) -> None:
    state = network_state("resnet18")
    with pytest.raises(
        BenchError, match=r"is missing \(and \d+ more such differences\); its tensors are those of resnet18: --arch resnet18"
    ):
        opened(save(tmp_path / "x.pth", field(state, "1.module.", "resnet34")))


def test_what_is_not_said_is_asked_for(lenet: State, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", field(lenet))
    for said, told in (
        ({"dataset": None}, "give --dataset"),
        ({"sigma": None}, "give --sigma"),
        ({"dataset": None, "sigma": None}, "give --dataset and --sigma"),
        ({"dataset": "minst"}, "unknown data set 'minst'; did you mean 'mnist'?"),
        ({"arch": "lenett"}, "unknown architecture 'lenett'; did you mean 'lenet'?"),
        ({"normalize": "timm"}, "timm states no normalisation for 'lenet'"),
        ({"normalize": "datset"}, "did you mean 'dataset'?"),
    ):
        with pytest.raises(BenchError, match=re.escape(told)):
            opened(path, **said)
    for word, told in (
        ("nowhere.pth", "there is no file nowhere.pth"),
        ("no/such", "there is no file no/such"),
        ("3f2a", "is no weights file, no module:factory and no run"),
        ("lenet", "lenet is an architecture: name its weights file, and then --arch lenet"),
        ("resnet50", "resnet50 is an architecture"),
    ):
        with pytest.raises(BenchError, match=re.escape(told)):
            opened(word, results=tmp_path)


# ------------------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    ("word", "arch", "text"),
    [
        ("dataset", "resnet18", "0.4914,0.4822,0.4465/0.2023,0.1994,0.201"),
        ("timm", "resnet18", "0.485,0.456,0.406/0.229,0.224,0.225"),
        ("timm", "vit_small_patch16_224", "0.5,0.5,0.5/0.5,0.5,0.5"),
        *((word, "resnet18", "none") for word in ("none", "0/1")),
        ("0.5/0.25", "resnet18", "0.5,0.5,0.5/0.25,0.25,0.25"),
        ("0.1,0.2,0.3/1,2,3", "resnet18", "0.1,0.2,0.3/1.0,2.0,3.0"),
    ],
)
def test_words_of_normalisation(word: str, arch: str, text: str) -> None:
    found = parse(word, arch, COLOUR)
    assert str(found) == text
    assert parse(text, arch, COLOUR) == found
    assert all(value == torch.tensor(value).item() for value in (*found.mean, *found.std)), "what float32 holds"


WRONG = ["", "1", "a/b", "0.1,0.2/1", "0.1/0", "0.1/-1", "nan/1", "0/inf", "0/1/2", "imagenet", "0.1,0.2,0.3,0.4/1", "1e99/1"]


@pytest.mark.parametrize("word", WRONG)
def test_words_that_normalise_nothing_are_refused(word: str) -> None:
    with pytest.raises(BenchError, match="--normalize"):
        parse(word, "resnet18", COLOUR)


def test_candidates_are_distinct_and_fit_the_images() -> None:
    for info in (MNIST, COLOUR):
        found = normalize.candidates("resnet18", info)
        assert len(set(found.values())) == len(found) >= 3
        assert all(len(n.mean) == len(n.std) == info.shape[0] for n in found.values())
    assert "timm" in normalize.candidates("resnet18", COLOUR)


class Centroids(nn.Module):
    """The nearest class mean of MNIST, for images that were normalised by mean and std before."""

    def __init__(self, centroids: Tensor, mean: float, std: float) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)
        with torch.no_grad():
            self.linear.weight.copy_(centroids * std)
            self.linear.bias.copy_(centroids.sum(1) * mean - centroids.square().sum(1) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(x.flatten(1)))


@pytest.fixture(scope="module")
def centroids() -> Tensor:
    from bench.data import load as load_data

    data = load_data("mnist", "train")
    x, y = data.images(torch.arange(2000)).flatten(1), data.labels[:2000]
    return torch.stack([x[y == label].mean(0) for label in range(10)])


def base_of(network: nn.Module, normalization: str, sigma: float = 0.25) -> Base:
    n = parse(normalization, "lenet", MNIST)
    from bench.models import Normalize

    model = nn.Sequential(Normalize(n.mean, n.std), network).eval()
    return Base(model=model, info=MNIST, sigma=sigma, arch="lenet", normalization=n, name="x")


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Base], tuple[check.Accuracy, list[str]]]:
    from bench.data import load as load_data

    data = load_data("mnist", "test")
    cpu = torch.device("cpu")

    def call(base: Base) -> tuple[check.Accuracy, list[str]]:
        found = check.accuracy(base, data, cpu)
        return found, check.warnings(base, found, data, cpu)

    return call


@pytest.mark.parametrize(("right", "used"), [("0.1307/0.3081", "none"), ("0.5/0.5", "none"), ("none", "0.5/0.5")])
def test_a_wrong_normalisation_is_seen_and_the_right_one_named(
    right: str, used: str, centroids: Tensor, warned: Callable[[Base], tuple[check.Accuracy, list[str]]]
) -> None:
    n = parse(right, "lenet", MNIST)
    network = Centroids(centroids, n.mean[0], n.std[0])
    good, silence = warned(base_of(network, right))
    assert (good.images, silence) == (500, [])
    assert good.clean > 0.7
    bad, warnings = warned(base_of(network, used))
    assert bad.clean < good.clean - 0.1
    named = "dataset" if right == "none" else right  # the same for MNIST
    assert any(f"test images are right {good} (cross-entropy {good.loss:.3f}) under --normalize {named}, but" in text for text in warnings)


def test_a_normalisation_that_the_file_states_is_not_doubted_and_the_check_changes_nothing(
    centroids: Tensor, warned: Callable[[Base], Any]
) -> None:
    base = base_of(Centroids(centroids, 0.5, 0.5), "none")
    before = base.weights
    assert warned(base)[1] != []
    assert dataclasses.replace(base).weights == before
    assert warned(dataclasses.replace(base, stated=True))[1] == []


def test_what_is_much_better() -> None:
    own = check.Accuracy(clean=0.9, noisy=0.9, loss=1.0, images=500, seconds=0.0)
    ahead = [(0.96, 1.0), (0.96, 9.0)]  # by more than a twentieth
    ahead += [(0.90, 0.24), (0.895, 0.24), (0.90, 0.0)]  # or a quarter of the loss, at no lower accuracy
    for clean, loss in (*ahead, (0.90, 1.0), (0.94, 1.0), (0.90, 0.26), (0.88, 0.24)):
        other = check.Accuracy(clean=clean, noisy=clean, loss=loss, images=500, seconds=0.0)
        assert other.much_better(own) == ((clean, loss) in ahead)


def test_accuracy_near_chance_is_said(warned: Callable[[Base], tuple[check.Accuracy, list[str]]]) -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.zeros_(constant[1].weight)  # type: ignore[arg-type]
    found, warnings = warned(base_of(constant, "none"))
    assert found.clean < 0.2
    assert any("without noise is" in text and "chance is 10.0%" in text for text in warnings)


# ------------------------------------------------------------------------------------------------- export and back


class PlainLeNet(nn.Module):
    """The network of the MNIST experiments, written without the suite."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return cast(Tensor, self.fc2(F.relu(self.fc1(x.flatten(1)))))


def info_for(arch: str, monkeypatch: pytest.MonkeyPatch) -> DatasetInfo:
    """A data set whose images the architecture takes."""
    for info in (*DATASETS.values(), COLOUR):
        try:
            fit.make(arch, info, meta=True)
        except BenchError:
            continue
        monkeypatch.setitem(DATASETS, info.name, info)
        return info
    raise AssertionError(f"no data set for {arch}")


def disturbed(model: nn.Module) -> nn.Module:
    """Running statistics as after a training, so that their way through a file is seen."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return model.eval()


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "test_resnet", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_export_and_load_are_inverse(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = info_for(arch, monkeypatch)
    model = cast(nn.Sequential, disturbed(build(arch, info, 5)))
    run = trained(tmp_path / "runs", run_spec(dataset=info.name, train={"arch": arch}), model)
    base = load(Wanted(word=run.spec.key, results=tmp_path / "runs"))
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(field_checkpoint(base, run.spec))

    content = torch.load(path, weights_only=True)
    assert set(content) == {"epoch", "arch", "state_dict"}
    assert (content["epoch"], content["arch"]) == (run.spec.train.epochs, arch)
    prefix = "1.module." if info.name == "imagenet" else "1."
    assert all(name.startswith(prefix) for name in content["state_dict"])
    network = PlainLeNet() if arch == "lenet" else cast(nn.Sequential, build(arch, info, 6))[1]
    plain = nn.Sequential(nn.Identity(), network).eval()
    plain.load_state_dict({name.replace(prefix, "1.", 1): tensor for name, tensor in content["state_dict"].items()})
    x = torch.rand(2, *info.shape)
    with torch.no_grad():
        assert torch.allclose(plain((x - model[0].mean) / model[0].std), model(x), atol=1e-5)  # type: ignore[operator]

    back = load(Wanted(word=str(path), dataset=info.name, sigma=0.5, results=tmp_path))
    assert back.arch == arch
    assert back.sha256 == base.sha256
    assert back.normalization == base.normalization


def test_the_names_of_imagenet_are_those_of_data_parallel(tmp_path: Path) -> None:
    run = trained(tmp_path, run_spec(), build("lenet", MNIST, 5))
    base = load(Wanted(word=run.spec.key, results=tmp_path))
    content = torch.load(io.BytesIO(field_checkpoint(base, dataclasses.replace(run.spec, dataset="imagenet"))), weights_only=True)
    wrapped = nn.Sequential(nn.Identity(), nn.DataParallel(PlainLeNet()))
    wrapped.load_state_dict(content["state_dict"])


# ------------------------------------------------------------------------------------------------- the place of evidence


@pytest.fixture
def subject_spec() -> checkpoints.CheckpointSpec:
    return checkpoints.CheckpointSpec(dataset="mnist", sigma=0.5, arch="lenet", normalization="none", weights_sha256="a" * 64)


def weights_of(*names: str) -> bytes:
    return safetensors.torch.save({name: torch.arange(4.0) if name != "bn.num_batches_tracked" else torch.tensor(7) for name in names})


def kept(spec: checkpoints.CheckpointSpec, root: Path, weights: bytes, *words: str) -> checkpoints.Checkpoint:
    subject = Store(root).checkpoint(dataclasses.replace(spec, weights_sha256=hashlib.sha256(weights).hexdigest()))
    subject.begin()
    subject.keep(weights, *words)
    return subject


def test_a_subject_keeps_its_weights_and_what_was_said_last(subject_spec: checkpoints.CheckpointSpec, tmp_path: Path) -> None:
    weights = weights_of("1.fc.weight")
    subject = kept(subject_spec, tmp_path, weights, "Model (2).pth.tar")
    assert (subject.origin().row, subject.origin().label) == (None, "model_2")
    for *words, row in (("a.pth", "mine", "mine"), ("b.pth", "mine"), ("c.pth", "yours.v2", "yours.v2")):
        said = subject.origin()
        assert subject.keep(weights, *words) == said
        assert (subject.origin().row, subject.origin().label, subject.origin().name) == (row, row, words[0])
    assert subject.weights.read_bytes() == weights
    (found,) = Store(tmp_path).subjects(checkpoints.Checkpoint)
    assert (found, found.spec) == (subject, subject.spec)
    assert found.path.relative_to(tmp_path).parts[:3] == ("checkpoints", "mnist", "lenet")
    assert list(Store(tmp_path).runs()) == [], "it is no run"
    subject.weights.write_bytes(b"others")
    with pytest.raises(BenchError, match=r"SHA-256 is .*, but subject\.json says"):
        subject.keep(weights, "model.pth.tar")


def test_an_old_origin_still_reads_and_a_damaged_one_is_a_sentence(subject_spec: checkpoints.CheckpointSpec, tmp_path: Path) -> None:
    subject = Store(tmp_path).checkpoint(subject_spec)
    subject.begin()
    assert subject.origin() == checkpoints.Origin()
    subject.origin_file.write_text('{"name":"old.pth"}')
    assert (subject.origin().label, subject.origin().row) == ("old", None)
    bad = ['{"name":1}', '{"name":"x","row":"A B"}', '{"row":""}', '{"rows":"x"}', '{"tensors_sha256":"x"}', "[]", "{", '{"row":null}']
    for text in bad:
        subject.origin_file.write_text(text)
        with pytest.raises(BenchError, match=r"origin\.json: "):
            subject.origin()


def test_a_name_that_is_no_text_is_kept_as_one(subject_spec: checkpoints.CheckpointSpec, tmp_path: Path) -> None:
    subject = kept(subject_spec, tmp_path, weights_of("1.fc.weight"), "\udcff.pth")
    assert (subject.origin().name, subject.origin().label) == ("?.pth", "checkpoint")


NAMES = ["x" * 300 + ".pth", "...pth", ".pth.tar", "", "-rf.pth", "a/../../b", "=1+1.pt", "\x1b[31m.safetensors", "ünï.pth"]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_gives_a_row(name: str) -> None:
    checkpoints.check_row(checkpoints.row_of(name))


def test_counters_of_batch_norm_are_no_other_weights() -> None:
    with_counter, without = weights_of("a", "bn.num_batches_tracked"), weights_of("a")
    assert checkpoints.tensors_sha256(with_counter) == checkpoints.tensors_sha256(without)
    assert checkpoints.tensors_sha256(without) != checkpoints.tensors_sha256(weights_of("b"))
    changed = safetensors.torch.save({"a": torch.arange(1.0, 5.0)})
    assert checkpoints.tensors_sha256(without) != checkpoints.tensors_sha256(changed)
    for bad in (b"x" * 20, with_counter[:20], b"\x02" + bytes(7) + b"[]", b"\x0a" + bytes(7) + b'{"a": 1  }'):
        with pytest.raises(BenchError, match="no safetensors file"):
            checkpoints.tensors_sha256(bad)


def test_damaged_folders_are_named_and_hide_no_others(subject_spec: checkpoints.CheckpointSpec, tmp_path: Path) -> None:
    whole = kept(subject_spec, tmp_path, weights_of("a"), "a.pth")
    lost = kept(dataclasses.replace(subject_spec, sigma=1.0), tmp_path, weights_of("a"), "b.pth")
    (lost.path / "subject.json").unlink()
    (whole.path.parent / f"1-{'0' * 16}").mkdir()  # a process is about to begin in it
    (whole.path.parent / f"1-{'0' * 16}" / "claim-1.json").touch()
    found = list(Store(tmp_path).scan("checkpoints"))
    assert [getattr(item, "reason", item) for item in found] == [
        whole,
        f"{lost.path}/subject.json: cannot be read: No such file or directory",
    ]
    written = {"certify-1": "evidence.jsonl", "certify-2": "spec.json", "certify-3": ".spec.json.7.tmp", "certify-4": None}
    for name, file in written.items():
        (whole.path / name).mkdir()
        if file:
            (whole.path / name / file).touch()
    assert [(item.path.name, type(item)) for item in whole.begun()] == [("certify-1", Damaged), ("certify-2", Damaged)]


def test_a_subject_that_was_changed_is_refused(subject_spec: checkpoints.CheckpointSpec, tmp_path: Path) -> None:
    subject = Store(tmp_path).checkpoint(subject_spec)
    subject.begin()
    path = subject.path / "subject.json"
    path.write_text(path.read_text().replace("0.5", "0.25"))
    (found,) = Store(tmp_path).scan()
    assert isinstance(found, Damaged)
    assert "its key is" in found.reason


@pytest.mark.parametrize("change", [{"sigma": 0.0}, {"dataset": "../x"}, {"weights_sha256": "x"}, {"source_sha256": "x"}])
def test_impossible_subjects(subject_spec: checkpoints.CheckpointSpec, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(subject_spec, **change)


def test_an_arch_never_leaves_the_folder(subject_spec: checkpoints.CheckpointSpec, tmp_path: Path) -> None:
    for arch in ("../../x:make", "a/b:c", "A.B:Make", "x" * 300 + ":y"):
        path = Store(tmp_path).checkpoint(dataclasses.replace(subject_spec, arch=arch)).path
        assert path.resolve().is_relative_to(tmp_path / "checkpoints" / "mnist")
        assert len(path.relative_to(tmp_path).parts) == 4
