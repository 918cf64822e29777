"""From what was asked for to the cells of the matrix. Every problem is found before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bench.datasets import DATASETS, DatasetInfo, recipe_train
from bench.errors import BenchError, UsageError, nearest
from bench.method import Method
from bench.models import check_arch
from bench.registry import Loaded, Registry
from bench.spec import (
    PROTOCOLS,
    RECIPES,
    CertifySpec,
    Protocol,
    RunSpec,
    Scalar,
    TrainSpec,
    check_sigma,
    protocol_train,
    replace_checked,
    select_images,
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for, as words."""

    methods: Sequence[str]
    datasets: Sequence[str] = ("mnist",)
    sigmas: Sequence[float] = ()  # empty: those of the data set
    seeds: Sequence[int] = ()  # empty: those of the protocol
    protocol: str = "quick"
    recipe: str = "official"
    changes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One entry of the matrix: a training and a certification of its model."""

    spec: RunSpec
    certify: CertifySpec
    method: Method
    source_sha256: str

    @property
    def name(self) -> str:
        return f"{self.spec.row} {self.spec.dataset} sigma {self.spec.sigma:g} seed {self.spec.seed}"


@dataclass(frozen=True)
class Plan:
    """The cells in order, and what the user should know about their choice."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...]


def make_plan(request: Request, registry: Registry) -> Plan:
    """Expands a request: methods x data sets x sigmas x seeds.

    Raises:
        UsageError: everything that is wrong with it, one sentence each.
    """
    problems: list[str] = []
    notes: list[str] = []
    if request.protocol not in PROTOCOLS:
        problems.append(f"unknown protocol {request.protocol!r}{nearest(request.protocol, PROTOCOLS)}")
    if request.recipe not in RECIPES:
        problems.append(f"unknown recipe {request.recipe!r}{nearest(request.recipe, RECIPES)}")
    problems += [f"unknown data set {name!r}{nearest(name, DATASETS)}" for name in request.datasets if name not in DATASETS]
    for sigma in request.sigmas:
        try:
            check_sigma(sigma)
        except ValueError as error:
            problems.append(str(error))
    problems += [f"seed {seed} must lie in 0 .. 2**63 - 1" for seed in request.seeds if not 0 <= seed < 2**63]
    rows = _rows(request.methods, registry, problems)
    if problems:
        raise UsageError(problems)

    protocol = PROTOCOLS[request.protocol]
    certify, certify_problems = _certify_spec(protocol, request.changes)
    problems += certify_problems
    cells: dict[tuple[str, str], Cell] = {}
    for dataset in request.datasets:
        info = DATASETS[dataset]
        for sigma in request.sigmas or info.sigmas:
            for row in rows:
                preset, problem = _preset(row, request.recipe, dataset, sigma)
                if problem:
                    (notes if row.by_pattern else problems).append(problem)
                    continue
                assert preset is not None
                for seed in request.seeds or protocol.seeds:
                    cell = _cell(row, preset, info, sigma, seed, request, protocol, certify, problems)
                    if cell:
                        cells.setdefault((cell.spec.key, cell.certify.key), cell)
    if not problems and not cells:
        problems.append("nothing to run: " + "; ".join(notes))
    if problems:
        raise UsageError(list(dict.fromkeys(problems)))
    return Plan(tuple(cells.values()), tuple(dict.fromkeys(notes)))


@dataclass(frozen=True)
class _Row:
    loaded: Loaded
    variant: str
    by_pattern: bool


def _rows(words: Sequence[str], registry: Registry, problems: list[str]) -> list[_Row]:
    rows: dict[tuple[str, str], _Row] = {}
    try:
        entries = registry.entries()
    except BenchError as error:
        problems.append(str(error))
        return []
    for word in words:
        name, dot, variant = word.partition(".")
        pattern = any(c in word for c in "*?[")
        names = [n for n in entries if fnmatchcase(n, name)] if pattern else [name]
        if not names:
            problems.append(f"no method matches {word!r}; there is {', '.join(entries)}")
        matched = False
        for found in names:
            try:
                loaded = registry.load(found)
            except BenchError as error:
                problems.append(str(error))
                matched = True
                continue
            variants = loaded.cls.variants
            chosen = [v for v in variants if fnmatchcase(v, variant)] if pattern and dot else [variant if dot else variants[0]]
            matched |= bool(chosen)
            for v in chosen:
                if v not in variants:
                    problems.append(f"method {found!r} has no variant {v!r}{nearest(v, variants)}")
                else:
                    rows.setdefault((found, v), _Row(loaded, v, pattern))
        if names and not matched:
            problems.append(f"no variant matches {word!r}")
    return list(rows.values())


def _preset(row: _Row, recipe: str, dataset: str, sigma: float) -> tuple[Method | None, str | None]:
    cls, name = row.loaded.cls, f"{row.loaded.name}.{row.variant}"
    if not cls.presets:
        try:
            return cls(), None
        except TypeError as error:
            return None, f"{name} has no presets, and its fields do not all have defaults ({error})"
    if (recipe, row.variant, dataset, sigma) in cls.presets:
        return cls.presets[recipe, row.variant, dataset, sigma], None
    sigmas = sorted({s for r, v, d, s in cls.presets if (r, v, d) == (recipe, row.variant, dataset)})
    if not sigmas:
        return None, f"{name} has no preset for {dataset} under recipe {recipe}"
    return None, f"{name} has no preset for {dataset} at sigma {sigma:g}; there is sigma {', '.join(f'{s:g}' for s in sigmas)}"


def _split(changes: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): v for k, v in changes.items() if k.startswith(prefix)}


def _differing(old: object, new: object, names: Sequence[str], prefix: str = "") -> dict[str, Scalar]:
    return {prefix + name: getattr(new, name) for name in names if getattr(new, name) != getattr(old, name)}


def _certify_spec(protocol: Protocol, changes: Mapping[str, str]) -> tuple[CertifySpec, list[str]]:
    own = _split(changes, "certify.")
    for name, better in (("alpha", "give it to `bench table --alpha`"), ("changes", "it records what --set changed")):
        if name in own:
            return protocol.certify, [
                f"certify.{name} cannot be set: " + (f"alpha is applied when evidence is read; {better}" if name == "alpha" else better)
            ]
    spec, problems = replace_checked(protocol.certify, own, "certify")
    if problems:
        return protocol.certify, problems
    return dataclasses.replace(spec, changes=_differing(protocol.certify, spec, list(own))), []


def _cell(
    row: _Row,
    preset: Method,
    info: DatasetInfo,
    sigma: float,
    seed: int,
    request: Request,
    protocol: Protocol,
    certify: CertifySpec,
    problems: list[str],
) -> Cell | None:
    own = {k: v for k, v in request.changes.items() if "." not in k}
    strange = [k for k in request.changes if "." in k and not k.startswith(("train.", "certify."))]
    found = [f"--set {k}: write name=value, train.name=value or certify.name=value" for k in strange]
    # Every field goes through the check, so that a preset's 5 and a user's 5.0 give one key.
    whole = {f.name: getattr(preset, f.name) for f in dataclasses.fields(preset)}
    method, method_problems = replace_checked(preset, whole | own, f"method {row.loaded.name!r}")
    found += method_problems
    chunks = method.chunks if isinstance(method.chunks, int) else getattr(method, method.chunks)
    base = protocol_train(recipe_train(info, request.recipe, chunks), protocol)
    wanted = _split(request.changes, "train.")
    train, train_problems = replace_checked(base, wanted, "train")
    found += train_problems or _check_train(train, info)
    for spec, size, split in ((train, info.train_size, "training"), (certify, info.test_size, "test")):
        if not len(select_images(spec.images, size)):
            found.append(f"images={spec.images} selects none of the {size} {split} images of {info.name}")
    problems.extend(found)
    if found:
        return None
    spec = RunSpec(
        method=row.loaded.name,
        variant=row.variant,
        hyperparameters={f.name: getattr(method, f.name) for f in dataclasses.fields(method)},
        dataset=info.name,
        sigma=sigma,
        seed=seed,
        recipe=request.recipe,
        protocol=request.protocol,
        train=train,
        changes=_differing(preset, method, list(own)) | _differing(base, train, list(wanted), "train."),
    )
    return Cell(spec, certify, method, row.loaded.source_sha256)


def _check_train(train: TrainSpec, info: DatasetInfo) -> list[str]:
    try:
        check_arch(train.arch)
    except BenchError as error:
        return [str(error)]
    return []
