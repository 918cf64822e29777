"""A cell in words, for whoever computes it, here or elsewhere: what it is, how it is to be computed, and how that ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch

from bench.data import Images, load
from bench.distributed.team import check_devices
from bench.errors import BenchError
from bench.evidence.sources import compared
from bench.matrix.plan import Cell, name_of, prior_cell
from bench.registry import Registry
from bench.spec import CertifySpec, RunSpec, canonical, from_json, parse_json, to_json
from bench.store.subject import State
from bench.system.guards import settings_kept
from bench.train.loop import check_precision, check_splittable

CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What changes how a cell is computed but not its result.

    Attributes:
        batch: samples per certification pass; chosen by image size and device if None.
        micro_batch: images per piece of a training step, all at once if None; recorded in environment.json, for under batch norm
            and dropout it does change the result.
        graph: whether the steps of a training on CUDA are replayed as a graph where they can be; that they are not is recorded in
            environment.json.
        allow_changed_source: continue a run that was begun with another source of its method; recorded in environment.json.
        allow_other_data: use files that are not the published ones; recorded in environment.json.
        data_dir: where the data sets are; None: in BENCH_DATA_DIR or the user's cache.
    """

    device: torch.device
    batch: int | None = None
    micro_batch: int | None = None
    graph: bool = True
    allow_changed_source: bool = False
    allow_other_data: bool = False
    data_dir: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS

    def images(self, dataset: str, split: str) -> Images:
        """A split of a data set, from where these options look for it."""
        return load(dataset, split, self.data_dir, allow_other=self.allow_other_data)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One cell as words: all that a process elsewhere needs.

    Attributes:
        results: folder of the runs, absolute. plugins: files of methods and data sets, absolute.
        sources: of the code as it was planned; a worker that finds another one refuses. presets_of: as `Cell`.
        anew: set the old folder aside first.
    """

    spec: RunSpec
    certify: CertifySpec
    results: Path
    plugins: tuple[Path, ...]
    sources: Mapping[str, Any]
    options: Options
    presets_of: str = ""
    anew: bool = False

    @classmethod
    def of(cls, cell: Cell, results: Path, options: Options, plugins: tuple[Path, ...], *, anew: bool = False) -> Self:
        """The words for a cell."""
        if options.data_dir is not None:
            options = dataclasses.replace(options, data_dir=options.data_dir.absolute())
        return cls(
            spec=cell.spec,
            certify=cell.certify,
            results=results.absolute(),
            plugins=plugins,
            sources=cell.sources,
            options=options,
            presets_of=cell.presets_of,
            anew=anew,
        )

    @property
    def name(self) -> str:
        """What a person calls its cell."""
        return name_of(self.spec)

    def cell(self) -> Cell:
        """The cell, its method and data set loaded by name or path.

        Raises:
            BenchError: the method or data set cannot be loaded, or the method is not the one that was planned with.
        """
        registry = Registry(self.plugins)
        with settings_kept():  # a plug-in's file may do anything when it is read, and the process goes on to other cells
            registry.load_dataset(self.spec.dataset)
            registry.load_network(self.spec.train.arch)
            loaded = registry.load(self.spec.method)
        sources = registry.sources(loaded, self.spec.dataset, self.spec.train.arch)
        if compared(sources) != compared(self.sources):
            raise BenchError(f"the code of {self.spec.method!r} was changed since the matrix was planned; start `bench run` again")
        method = loaded.cls(**self.spec.hyperparameters)
        prior = prior_cell(self.spec, method, registry)
        if (prior.spec.key if prior else "") != self.spec.depends:
            raise BenchError(f"the model that {self.spec.method!r} asks is another than planned; start `bench run` again")
        return Cell(self.spec, self.certify, method, sources, self.presets_of, self.plugins, prior)

    def to_text(self) -> str:
        """One line of JSON."""
        options = vars(self.options) | {
            "device": self.options.device.type,
            "data_dir": self.options.data_dir and str(self.options.data_dir),
        }
        own = {"spec": to_json(self.spec), "certify": to_json(self.certify), "results": str(self.results), "options": options}
        return canonical(vars(self) | own | {"plugins": [str(path) for path in self.plugins], "sources": dict(self.sources)})

    @classmethod
    def from_text(cls, text: str | bytes) -> Self:
        """The inverse of `to_text`. Of the device only the kind travels; whether it is here, `pick_device` says.

        Raises:
            BenchError: not a task of this release.
        """
        try:
            data = parse_json(text)
            spec, certify, options = canonical(data["spec"]), canonical(data["certify"]), data["options"]
            own = {"spec": from_json(RunSpec, spec, "task"), "certify": from_json(CertifySpec, certify, "task")}
            paths = {"results": Path(data["results"]), "plugins": tuple(map(Path, data["plugins"]))}
            where = {"device": torch.device(options["device"]), "data_dir": options["data_dir"] and Path(options["data_dir"])}
            return cls(**data | own | paths | {"options": Options(**options | where)})
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise BenchError(f"not a task: {type(error).__name__}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt at a cell ended.

    Attributes:
        state: done, diverged, failed, or running: another process is at it.
        kind: of a failure: error, oom, disk, timeout, crash.
        reason: of a failure or divergence, one sentence.
    """

    state: State | Literal["running"]
    kind: str = ""
    reason: str = ""


def check_options(
    cells: Sequence[Cell], device_of: Callable[[Cell], torch.device], micro_batch: int | None, *, here: bool = True
) -> list[str]:
    """Every reason why these cells cannot be trained so, each once.

    Args:
        here: on this machine; else its devices say nothing of theirs.
    """
    problems = []
    for cell in (one for own in cells for one in (own, own.prior) if one is not None):
        try:
            check_splittable(cell.method, cell.spec.method, micro_batch, cell.devices)
            device = device_of(cell)
            check_precision(cell.spec.train.precision, device)
            check_devices(cell.spec.train, device, here=here)
        except BenchError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def pick_device(word: str) -> torch.device:
    """auto, cpu or cuda as a device.

    Raises:
        BenchError: cuda where there is none, or another word.
    """
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if word == "cuda" and not torch.cuda.is_available():
        raise BenchError("device cuda is not available here; there is cpu")
    if word not in ("cpu", "cuda"):
        raise BenchError(f"unknown device {word!r}; there is auto, cpu, cuda")
    return torch.device(word)
