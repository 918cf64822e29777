"""The base classifier that a word of the command line names, put together and held against its file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from bench.checkpoints import fit, normalize
from bench.checkpoints.files import WeightsFile, read
from bench.checkpoints.normalize import Normalization
from bench.datasets import DATASETS, DatasetInfo
from bench.errors import BenchError, nearest
from bench.evidence.sources import came_from
from bench.files.writing import sha256
from bench.models import OUTSIDE, Normalize, check_pass, is_known
from bench.store.runs import Run, Store


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line says; None: not said.

    Attributes:
        word: a weights file, a run's folder or key, a network that was loaded from a plug-in, or module:factory.
        results: the store in which runs are looked up by key.
    """

    word: str
    dataset: str | None = None
    sigma: float | None = None
    arch: str | None = None
    normalize: str | None = None
    results: Path


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base classifier that is ready to be certified.

    Attributes:
        model: Normalize, then the network; on the CPU, in evaluation mode.
        arch: how the network is built again.
        stated: whether the file holds the normalisation, so that nobody had to choose it.
        told: how the tensors were found in their file, where that is worth a word.
        name: what people call it: a file's name, a run's row, a factory.
        source_sha256: of the text of the factory's module. code_sha256: of the code of a network from outside the suite; both are empty
            for any other.
        run: the run it is of, if it was named as one.
    """

    model: nn.Sequential
    info: DatasetInfo
    sigma: float
    arch: str
    normalization: Normalization
    stated: bool = False
    told: str = ""
    name: str
    source_sha256: str = ""
    code_sha256: str = ""
    run: Run | None = None

    @cached_property
    def weights(self) -> bytes:
        """The model as safetensors: the same bytes whatever file the weights came in."""
        # Copies, since tied weights share memory, which safetensors refuses.
        return safetensors.torch.save({name: t.detach().cpu().contiguous().clone() for name, t in self.model.state_dict().items()})

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of `weights`."""
        return hashlib.sha256(self.weights).hexdigest()


def load(wanted: Wanted) -> Base:
    """The base classifier with its weights.

    Raises:
        BenchError: nothing of that name; a file that is refused or does not fit; data set, sigma or architecture not known.
    """
    path = Path(wanted.word)
    if path.is_dir() or not (path.exists() or fit.is_factory(wanted.word) or wanted.word in OUTSIDE):
        return _from_run(wanted)
    if path.exists():
        return _from_file(wanted, read(path), path.name)
    return _from_factory(wanted)


def _from_run(wanted: Wanted) -> Base:
    path = Path(wanted.word)
    if path.suffix or len(path.parts) > 1:
        if not path.exists():
            raise BenchError(f"there is no file {path}")
        if not (path / "spec.json").is_file():
            raise BenchError(f"{path} is a folder, but not of a run: it has no spec.json; name a weights file or a run")
    try:
        run = Store(wanted.results).find(wanted.word)
    except BenchError as error:
        raise BenchError(f"{wanted.word!r} is no weights file, no module:factory and no run: {error}" + _if_arch(wanted.word)) from None
    training = run.training()
    if not training or training["state"] != "trained":
        raise BenchError(f"{run.path} is not trained ({run.state()}); `bench run` continues it")
    if not run.weights.exists():
        raise BenchError(f"{run.path} holds no weights (evidence only), so it cannot be certified; `bench pull` brings them")
    if (found := sha256(run.weights)) != training["weights_sha256"]:
        raise BenchError(f"{run.weights}: SHA-256 is {found}, but training.json says {training['weights_sha256']}")
    file = dataclasses.replace(read(run.weights), arch=run.spec.train.arch, spec=run.spec)
    return _from_file(wanted, file, f"{run.named.row}, seed {run.spec.seed}", run)


def _if_arch(word: str) -> str:
    return f"; {word} is an architecture: name its weights file, and then --arch {word}" if is_known(word) else ""


def _facts(wanted: Wanted, file: WeightsFile | None = None, run: Run | None = None) -> tuple[DatasetInfo, float]:
    """Data set and sigma: as said, or as the suite's own file says."""
    spec = file.spec if file else None
    dataset = wanted.dataset or (spec.dataset if spec else None)
    sigma = wanted.sigma if wanted.sigma is not None else spec.sigma if spec else None
    missing = [f"--{name}" for name, value in (("dataset", dataset), ("sigma", sigma)) if value is None]
    if dataset is None or sigma is None:
        raise BenchError(f"{wanted.word} does not say what it is to be certified on; give {' and '.join(missing)}")
    if dataset not in DATASETS:
        raise BenchError(f"unknown data set {dataset!r}{_came_from(run, dataset) or nearest(dataset, DATASETS)}")
    return DATASETS[dataset], sigma


def _came_from(run: Run | None, name: str) -> str:
    """Which plug-in a run had a name from, as the end of a sentence; empty if it does not say."""
    return came_from(run.environment() or {}, name) if run else ""


def _from_file(wanted: Wanted, file: WeightsFile, name: str, run: Run | None = None) -> Base:
    info, sigma = _facts(wanted, file, run)
    where = str(file.path)
    # An architecture that the file names is data from outside: it is looked up, never imported.
    arch = wanted.arch if wanted.arch and fit.is_factory(wanted.arch) else fit.known_name(wanted.arch or file.arch or "")
    if not (is_known(arch) or arch == wanted.arch):
        if hint := _came_from(run, arch):
            raise BenchError(f"{run.path if run else where}: its network {arch!r} is not known{hint}")
        raise fit.unknown(arch, file.tensors, info, where)
    facts = fit.facts_of(arch, info, sigma)
    found = fit.stripped(file.tensors, facts)
    fit.check(found.tensors, facts, arch, info, where)
    _check_finite(found.tensors, where)
    stated = _stated(found.normalization, info, where) if found.normalization else None
    if stated and wanted.normalize:
        raise BenchError(f"{where} holds its own normalisation ({stated}); leave out --normalize")
    network = fit.make(arch, info, sigma)
    # Missing are counters of batch norm at most, which evaluation never reads.
    network.load_state_dict(found.tensors, strict=False)
    base = _base(network, stated or normalize.parse(wanted.normalize or "dataset", arch, info), info, sigma, arch, name)
    told = [f"tensors under {file.key!r}"] if file.key not in ("", "state_dict") else []
    told += [f"the prefix {found.prefix!r} taken off all names"] if found.prefix else []
    told += [f"the normalisation in {' and '.join(map(repr, found.normalization))}"] if stated else []
    return dataclasses.replace(base, stated=bool(stated), run=run, told="" if file.spec else ", ".join(told))


def _from_factory(wanted: Wanted) -> Base:
    if wanted.arch:
        raise BenchError(f"--arch {wanted.arch}: {wanted.word} brings its own architecture; leave out --arch")
    info, sigma = _facts(wanted)
    network = fit.make(wanted.word, info, sigma)
    _check_finite(network.state_dict(), wanted.word)
    return _base(network, normalize.parse(wanted.normalize or "none", wanted.word, info), info, sigma, wanted.word, wanted.word)


def _base(network: nn.Module, normalization: Normalization, info: DatasetInfo, sigma: float, arch: str, name: str) -> Base:
    model = nn.Sequential(Normalize(normalization.mean, normalization.std), network.cpu()).eval()
    check_pass(model, info, arch)
    source = fit.source_of(arch)
    return Base(
        model=model,
        info=info,
        sigma=sigma,
        arch=arch,
        normalization=normalization,
        name=name,
        source_sha256=hashlib.sha256(source.read_bytes()).hexdigest() if source else "",
        code_sha256=fit.code_of_factory(arch) if source else OUTSIDE.get(arch, ""),
    )


def _stated(found: Mapping[str, Tensor], info: DatasetInfo, where: str) -> Normalization:
    for name, tensor in found.items():
        if tensor.numel() not in (1, info.shape[0]) or not tensor.is_floating_point():
            raise BenchError(f"{where}: the normalisation's {name!r:.80} is not {info.shape[0]} numbers, one for each channel")
    mean, std = (tuple(tensor.float().flatten().tolist()) for tensor in found.values())
    return normalize.checked(mean, std, info.shape[0], f"{where}: the normalisation of the file")


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise BenchError(f"{where}: tensor {name!r} holds numbers that are not finite; such a model is never certified")
