"""From what was asked for to the cells of the matrix. Every problem is found before anything runs."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from bench import rules
from bench.datasets import DATASETS, DatasetInfo, recipe_train
from bench.errors import BenchError, UsageError, lies_here, nearest
from bench.method import Method
from bench.models import check_arch, is_known
from bench.registry import NETWORK, Loaded, Registry
from bench.spec import (
    AUGMENTS,
    DEFAULT_PROTOCOL,
    PROTOCOLS,
    RECIPES,
    CertifySpec,
    RunSpec,
    Scalar,
    TrainSpec,
    canonical,
    check_sigma,
    differing,
    hyperparameters,
    names_row,
    protocol_train,
    replace_checked,
    row_name,
    scalar_word,
    select_images,
)
from bench.train.surveys import prior_of

T = TypeVar("T")
S = TypeVar("S")
WHERE_ALPHA = "alpha is applied when evidence is read, by `bench table --alpha`"


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
    sources: Mapping[str, Any]  # hashes of the code that it comes from, as they are recorded beside it
    presets_of: str = ""  # the data set that the method's presets were made for, where it is another
    plugins: tuple[Path, ...] = ()  # files that its method and data set may come from, for processes that help with it
    prior: Cell | None = None  # whose model its method asks: it is trained first, and not certified for this

    @property
    def devices(self) -> int:
        """How many devices it computes on at once, each with a process of its own."""
        return self.spec.train.devices

    @property
    def name(self) -> str:
        """What a person calls it."""
        return name_of(self.spec)

    @cached_property
    def id(self) -> tuple[str, str]:
        """Keys of its training and of its certification."""
        return self.spec.key, self.certify.key


def name_of(spec: RunSpec) -> str:
    """What a person calls a cell."""
    return f"{spec.row} {spec.dataset} sigma {spec.sigma} seed {spec.seed}"


@dataclass(frozen=True)
class Plan:
    """The cells in order, and what the user should know about their choice."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...]


def make_plan(request: Request, registry: Registry, *, priors: bool = True) -> Plan:
    """Expands a request: methods x data sets x sigmas x seeds.

    Args:
        priors: whether a method may ask the model of another.

    Raises:
        UsageError: everything that is wrong with it, one sentence each.
    """
    return _Planner(request, registry, priors).plan()


class _Planner:
    """One request on its way to cells. What is wrong is told and replaced by something valid, so that the rest can be checked as well."""

    def __init__(self, request: Request, registry: Registry, priors: bool) -> None:
        self.request, self.registry, self.priors = request, registry, priors
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.rows: list[_Row] = []
        self.protocol = PROTOCOLS.get(request.protocol, PROTOCOLS[DEFAULT_PROTOCOL])
        self.recipe = request.recipe if request.recipe in RECIPES else RECIPES[0]

    def plan(self) -> Plan:
        """See `make_plan`."""
        asked, problems, notes = self.request, self.problems, self.notes
        if asked.protocol not in PROTOCOLS:
            problems.append(f"unknown protocol {asked.protocol!r}{nearest(asked.protocol, PROTOCOLS)}")
        if asked.recipe not in RECIPES:
            problems.append(f"unknown recipe {asked.recipe!r}{nearest(asked.recipe, RECIPES)}")
        infos = [info for name in asked.datasets if (info := self.told(partial(self.registry.load_dataset, name)))]
        plugins = tuple(path.absolute() for path in self.registry.plugins)
        problems += [f"seed {seed} must lie in 0 .. 2**63 - 1" for seed in asked.seeds if not 0 <= seed < 2**63]
        sigmas = [sigma for sigma in asked.sigmas if self.told(partial(_sigma, sigma))]
        problems += [
            f"--set {name}: write name=value, train.name=value or certify.name=value"
            for name in asked.changes
            if "." in name and not name.startswith(("train.", "certify."))
        ]
        self.rows = rows = _rows(asked.methods, self.registry, problems)

        found: list[Cell] = []
        for info in infos or [DATASETS["mnist"]]:
            certify = self.certify_spec(info)
            if not rows:
                self.train_spec(info, info.sigmas[0], 1)
            for sigma in sigmas or info.sigmas:
                for row in rows:
                    preset, presets_of, problem = _preset_for(row, self.recipe, info, sigma)
                    if preset is None:
                        other = not asked.sigmas and any(_preset_for(row, self.recipe, info, s)[0] for s in info.sigmas)
                        (notes if row.by_pattern or other else problems).append(problem)
                    elif resolved := self.resolve(row, preset, info, sigma):
                        sources = self.registry.sources(row.loaded, info.name, resolved[0].train.arch)
                        found.append(Cell(resolved[0], certify, resolved[1], sources, presets_of, plugins))
                        if presets_of:
                            notes.append(f"no published hyperparameters for {info.name}: those for {presets_of} are taken")
        if not problems and not found:
            problems.append("nothing to run: " + "; ".join(notes))
        if problems:
            raise UsageError(list(dict.fromkeys(problems)))
        cells: dict[tuple[str, str], Cell] = {}
        for first in found:
            for seed in asked.seeds or self.protocol.seeds:
                cell = dataclasses.replace(first, spec=dataclasses.replace(first.spec, seed=seed))
                if prior := self.told(partial(self.prior, cell)):
                    cell = dataclasses.replace(cell, spec=dataclasses.replace(cell.spec, depends=prior.spec.key), prior=prior)
                cells.setdefault(cell.id, cell)
        if problems:
            raise UsageError(list(dict.fromkeys(problems)))
        return Plan(tuple(cells.values()), tuple(dict.fromkeys(notes)))

    def prior(self, cell: Cell) -> Cell | None:
        """The cell whose model another asks, if it asks one."""
        if not self.priors and (asked := prior_of(cell.method)):
            raise BenchError(f"{cell.spec.method} asks the model of {asked.method}, so none may ask its own")
        return prior_cell(cell.spec, cell.method, self.registry)

    def told(self, work: Callable[[], T]) -> T | None:
        """What the work gives; None where it fails, which is told."""
        try:
            return work()
        except UsageError as error:
            self.problems += error.problems
        except (BenchError, ValueError) as error:
            self.problems.append(str(error))
        return None

    def checked(self, spec: S, words: Mapping[str, Any], what: str, *more: Any) -> tuple[S, bool]:
        """A spec with changes, and whether they are right; what is wrong is told."""
        changed, found = replace_checked(spec, words, what, *more)
        self.problems += found
        return changed, not found

    def check_images(self, images: str, size: int, split: str, info: DatasetInfo) -> None:
        if not len(select_images(images, size)):
            self.problems.append(f"images={images} selects none of the {size} {split} images of {info.name}")

    def certify_spec(self, info: DatasetInfo) -> CertifySpec:
        """The certification on a data set."""
        base, own = info.protocol(self.protocol).certify, _split(self.request.changes, "certify.")
        if own.pop("alpha", None) is not None:
            self.problems.append("certify.alpha cannot be set: " + WHERE_ALPHA)
        if own.pop("changes", None) is not None:
            self.problems.append("certify.changes cannot be set: it records what --set changed")
        spec, right = self.checked(base, own, "certify")
        if right and (reason := rules.needless_radii(spec.rule, spec.radii)):
            self.problems.append(f"certify: {reason}")
        rule = rules.of(spec) if right and "n" in own else None
        if rule and (reason := rule.too_few(rule.alpha)) and reason not in self.notes:
            self.notes.append(reason)
        self.check_images(spec.images, info.test_size, "test", info)
        return dataclasses.replace(spec, changes=differing(base, spec, list(own)) if right else {})

    def train_spec(self, info: DatasetInfo, sigma: float, chunks: int) -> tuple[TrainSpec, dict[str, Scalar]]:
        """The training, and what --set changed of it."""
        base = protocol_train(recipe_train(info, self.recipe, chunks), info.protocol(self.protocol))
        own = _split(self.request.changes, "train.")
        train, right = self.checked(base, own, "train")
        self.check_images(train.images, info.train_size, "training", info)
        known = info.source.augments if info.source else AUGMENTS
        if right and train.augment not in known:
            self.problems.append(f"train: augment={train.augment} is not for {info.name}; there is {', '.join(known)}")
        try:
            self.registry.load_network(train.arch)
            check_arch(train.arch, info, sigma)
        except BenchError as error:
            known_arch = is_known(train.arch) or lies_here(train.arch)
            self.problems.append(str(error) if known_arch else f"{error}{self.registry.hint(NETWORK.word, train.arch)}")
        return train, differing(base, train, list(own), "train.") if right else {}

    def resolve(self, row: _Row, preset: Method, info: DatasetInfo, sigma: float) -> tuple[RunSpec, Method] | None:
        """The spec (of seed 0) and the method of one row at one sigma; None if anything is wrong."""
        before = len(self.problems)
        own = dict(row.changes) | {k: v for k, v in self.request.changes.items() if "." not in k}
        # Every field goes through the check, so that a preset's 5 and a user's 5.0 give one key.
        whole = {f.name: getattr(preset, f.name) for f in dataclasses.fields(preset)}
        method, _ = self.checked(preset, whole | own, f"method {row.loaded.name!r}", partial(self.meant, row, own))
        chunks = method.chunks if isinstance(method.chunks, int) else getattr(method, method.chunks)
        train, train_changes = self.train_spec(info, sigma, chunks)
        if len(self.problems) > before:
            return None
        spec = RunSpec(
            method=row.loaded.name,
            variant=row.variant,
            hyperparameters=hyperparameters(method, preset),
            dataset=info.name,
            sigma=sigma,
            seed=0,
            recipe=self.recipe,
            protocol=info.protocol(self.protocol).name,
            train=train,
            changes=differing(preset, method, list(own)) | train_changes,
        )
        return spec, method

    def meant(self, row: _Row, changes: Mapping[str, str], name: str, fields: Iterable[str]) -> str:
        """What is right for a hyperparameter that a row has not: perhaps another row has it, which --set changes only beside all."""
        having = [other for other in self.rows if name in {f.name for f in dataclasses.fields(other.loaded.cls)}]
        if not having or name in row.changes:
            return _meant(changes, name, fields)
        one, word = having[0], f"{name}={changes[name]}"
        right = row_name(one.loaded.name, one.variant, {**one.changes, name: changes[name]})
        return f"; --set {word} is for every method, so for {one.loaded.name} alone write --method {shlex.quote(right)}"


def prior_cell(spec: RunSpec, method: Method, registry: Registry) -> Cell | None:
    """The cell whose model a method's surveys ask, trained as the spec says apart from what is the method's own; None: they ask none.

    Raises:
        UsageError: there is no such cell.
    """
    prior = prior_of(method)
    if prior is None:
        return None
    words = {
        name: scalar_word(value) for name, value in spec.changes.items() if name.startswith("train.") and name != "train.survey_copies"
    }
    request = Request(
        methods=[prior.method],
        datasets=[spec.dataset],
        sigmas=[spec.sigma if prior.sigma is None else prior.sigma],
        seeds=[spec.seed],
        protocol=spec.protocol,
        recipe=spec.recipe,
        changes=words,
    )
    try:
        cells = make_plan(request, registry, priors=False).cells
    except UsageError as error:
        raise UsageError([f"{spec.method} asks the model of {prior.method}: {problem}" for problem in error.problems]) from None
    if len(cells) != 1:
        raise UsageError([f"{spec.method} asks the model of {prior.method}, which names {len(cells)} rows"])
    return cells[0]


def _sigma(sigma: float) -> float:
    check_sigma(sigma)
    return sigma


@dataclass(frozen=True)
class _Row:
    loaded: Loaded
    variant: str
    by_pattern: bool
    changes: Mapping[str, str]  # those in the brackets of its name


def _rows(words: Sequence[str], registry: Registry, problems: list[str]) -> list[_Row]:
    rows: dict[tuple[str, str, str], _Row] = {}
    try:
        entries = registry.entries()
    except UsageError as error:
        problems += error.problems
        return []
    for word in words:
        plain, own = _brackets(word, problems)
        name, dot, variant = plain.partition(".")
        pattern = any(c in plain for c in "*?[")
        start = re.split(r"[*?[]", plain)[0]
        fitting = [n for n in entries if n.startswith(start) or start.startswith(f"{n}.")]  # others are not loaded for a pattern
        there: list[str] = []
        matched = False
        for found in fitting if pattern else [name]:
            try:
                loaded = registry.load(found)
            except BenchError as error:
                problems.append(str(error))
                matched = True
                continue
            variants = loaded.cls.variants
            named = {row_name(found, v, {}): v for v in variants}
            there += named
            chosen = [v for row, v in named.items() if names_row(plain, row)] if pattern else [variant if dot else variants[0]]
            matched |= bool(chosen)
            for v in chosen:
                if v not in variants:
                    problems.append(f"method {found!r} has no variant {v!r}{nearest(v, variants)}")
                else:
                    rows.setdefault((found, v, canonical(own)), _Row(loaded, v, pattern, own))
        if not matched:
            problems.append(f"no row matches {word!r}{nearest(plain, there or entries)}")
    return list(rows.values())


def _brackets(word: str, problems: list[str]) -> tuple[str, dict[str, str]]:
    """`NAME.VARIANT[steps=1]`, a row's name as tables print it, as its plain name and the changes in its brackets."""
    match = re.fullmatch(r"([^\[\]]+)\[([^\[\]]*=[^\[\]]*)\]", word)
    if not match:
        return word, {}
    changes = {name: value for name, _, value in (part.partition("=") for part in match[2].split(","))}
    if wrong := [name for name, value in changes.items() if not name or not value or "." in name]:
        problems.append(f"{word}: {wrong[0]!r} is not of the form name=value")
        return match[1], {}
    return match[1], changes


def _preset_for(row: _Row, recipe: str, info: DatasetInfo, sigma: float) -> tuple[Method | None, str, str]:
    """A preset for the data set, or for the one it is like; the name of that one; what is wrong if there is neither."""
    own = any((r, v, d) == (recipe, row.variant, info.name) for r, v, d, _ in row.loaded.cls.presets)
    if own or not row.loaded.cls.presets or info.like is None:
        preset, problem = _preset(row, recipe, info.name, sigma)
        return preset, "", str(problem)
    preset, problem = _preset(row, recipe, info.like, sigma)
    return preset, info.like, f"{problem} (taken for {info.name})"


def _preset(row: _Row, recipe: str, dataset: str, sigma: float) -> tuple[Method | None, str | None]:
    cls, name = row.loaded.cls, f"{row.loaded.name}.{row.variant}"
    if not cls.presets:
        return cls(), None
    if (recipe, row.variant, dataset, sigma) in cls.presets:
        return cls.presets[recipe, row.variant, dataset, sigma], None
    sigmas = sorted({s for r, v, d, s in cls.presets if (r, v, d) == (recipe, row.variant, dataset)})
    if not sigmas:
        others = dict.fromkeys(v for r, v, d, _ in cls.presets if (r, d) == (recipe, dataset))
        hint = f"; there is {', '.join(f'{row.loaded.name}.{v}' for v in others)}" if others else ""
        return None, f"{name} has no preset for {dataset} under recipe {recipe}{hint}"
    return None, f"{name} has no preset for {dataset} at sigma {sigma:g}; there is sigma {', '.join(f'{s:g}' for s in sigmas)}"


def _split(changes: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): v for k, v in changes.items() if k.startswith(prefix)}


def _meant(changes: Mapping[str, str], name: str, fields: Iterable[str]) -> str:
    """The nearest right name for a hyperparameter that there is not: perhaps it is one of the protocol, or has an option of its own."""
    options = {
        "sigma": f"use --sigma {changes[name]}",
        "seed": f"use --seeds '{changes[name]},' for the training, certify.seed for the sampling",
        "alpha": WHERE_ALPHA,
    }
    if name in options:
        return f"; {options[name]}"
    specs = (("certify", CertifySpec), ("train", TrainSpec))
    full = [(f.name, f"{part}.{f.name}") for part, spec in specs for f in dataclasses.fields(spec) if f.name != "changes"]
    meant = [word for bare, word in full if bare == name]
    if not meant and not get_close_matches(name, fields):
        close = get_close_matches(name, [bare for bare, _ in full], n=1)
        meant = [word for bare, word in full if bare in close]
    return f"; did you mean {' or '.join(map(repr, meant))}?" if meant else nearest(name, fields)
