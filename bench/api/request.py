"""What `bench run` and `bench.run` are asked for, and what is worked out of it before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from bench.errors import BenchError, UsageError, nearest
from bench.executors.engine import Engine
from bench.matrix.plan import Cell, Plan, Request, make_plan
from bench.matrix.task import Options, check_options
from bench.registry import METHOD, Registry, kinds_in
from bench.spec import PROTOCOL_ALIASES
from bench.store.suggest import suggestion
from bench.system.guards import settings_kept
from leaderboard import layouts

RERUN = ("diverged", "all")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One matrix method x sigma x seed that is asked for: what is to be computed, as words and numbers.

    Attributes:
        methods: empty: those of the plug-ins, or the rows of the published table of each data set.
        datasets, sigmas, seeds: empty: the usual.
        table: number of a published table whose rows, data set and noise levels are meant; None: of none.
    """

    methods: Sequence[str] = ()
    datasets: Sequence[str] = ()
    sigmas: Sequence[float] = ()
    seeds: Sequence[int] = ()
    protocol: str = "quick"
    recipe: str = "official"
    changes: Mapping[str, str] = field(default_factory=dict)
    table: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", PROTOCOL_ALIASES.get(self.protocol, self.protocol))


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Everything that is asked for; nothing is checked yet.

    Attributes:
        parts: what is to be computed, one after the other; a cell of several parts is computed once.
        plugins: .py files. results: the results folder. engine: who carries cells out, and on which device.
        rerun: `diverged` or `all`: such cells are computed again.
        The others: as `bench.matrix.task.Options`.
    """

    parts: tuple[Part, ...] = (Part(),)
    plugins: tuple[Path, ...] = ()
    results: Path
    engine: Engine = field(default_factory=Engine)
    batch: int | None = None
    micro_batch: int | None = None
    graph: bool = True
    rerun: str | None = None
    allow_changed_source: bool = False
    allow_other_data: bool = False
    data_dir: Path | None = None

    @property
    def protocols(self) -> tuple[str, ...]:
        """Of its parts, each once."""
        return tuple(dict.fromkeys(part.protocol for part in self.parts))

    @property
    def recipes(self) -> tuple[str, ...]:
        """Of its parts, each once."""
        return tuple(dict.fromkeys(part.recipe for part in self.parts))

    def prepare(self, problems: Sequence[str] = ()) -> tuple[Plan, Options]:
        """The cells, and how they are computed.

        Args:
            problems: what was wrong with the words that the request was made from.

        Raises:
            UsageError: everything that is wrong, one sentence each, before anything was written.
        """
        engine = self.engine
        found = [*problems, *(engine.problems() or engine.missing())]
        if self.rerun is not None and self.rerun not in RERUN:
            found.append(f"--rerun {self.rerun} is unknown{nearest(str(self.rerun), RERUN)}")
        for flag, value in (("--batch", self.batch), ("--micro-batch", self.micro_batch)):
            if value is not None and value < 1:
                found.append(f"{flag} {value} must be at least 1")
        device = torch.device("cpu")
        try:
            device = engine.pick_device()
        except BenchError as error:
            found.append(str(error))
        plan = self.plan(found)
        if not found:
            found += check_options(plan.cells, lambda cell: engine.device_of(cell, device), self.micro_batch, here=not engine.cluster)
            found += engine.problems_of(plan.cells, device)
        if found:
            raise UsageError(list(dict.fromkeys(found)))
        names = {one.name for one in dataclasses.fields(Options)} & vars(self).keys()
        return plan, Options(device=device, **{name: getattr(self, name) for name in names})

    def plan(self, problems: list[str]) -> Plan:
        """The cells, with what is usual where nothing was asked for; everything that is wrong is added to the problems."""
        registry = Registry(self.plugins, partial(suggestion, self.results))
        unnamed = not all(part.methods for part in self.parts)
        mine = [path.stem for path in self.plugins if METHOD in kinds_in(path)] if unnamed else []
        cells: dict[tuple[str, str], Cell] = {}
        notes: list[str] = []
        for number, part in enumerate(self.parts, start=1):
            wrong: list[str] = []
            for request in _requests(part, registry, mine, wrong):
                try:
                    with settings_kept():  # a plug-in's file may do anything when it is read
                        found = make_plan(request, registry)
                    for cell in found.cells:
                        cells.setdefault(cell.id, cell)
                    notes += found.notes
                except UsageError as error:
                    wrong += error.problems
            problems += wrong if len(self.parts) == 1 else [f"part {number}: {problem}" for problem in wrong]
        if not problems:
            notes += _other_variants(mine, registry)
        return Plan(tuple(cells.values()), tuple(dict.fromkeys(notes)))


def _requests(part: Part, registry: Registry, mine: Sequence[str], problems: list[str]) -> list[Request]:
    """What a part means, with what is usual where it says nothing. mine: methods of the plug-ins."""
    if part.table is not None and (part.methods or part.datasets or part.sigmas):
        problems.append("--table says which methods, data set and noise levels; leave out --method, --dataset and --sigma")
    layout = layouts.load(4)
    try:
        layout = layouts.load(4 if part.table is None else part.table)
    except BenchError as error:
        problems.append(str(error))
    whole = Request(
        methods=part.methods or ([*layout.rows, *mine] if part.table is not None else mine),
        datasets=part.datasets or [layout.dataset],
        sigmas=part.sigmas or ([] if part.table is None else [float(sigma) for sigma in layout.sigmas]),
        seeds=part.seeds,
        protocol=part.protocol,
        recipe=part.recipe,
        changes=part.changes,
    )
    return [whole] if whole.methods or part.table is not None else _by_dataset(whole, registry, layout.rows)


def _other_variants(names: Sequence[str], registry: Registry) -> tuple[str, ...]:
    """What to know of methods that were taken without being named: their first variant is not all."""
    loaded = [registry.load(name) for name in names]
    return tuple(
        f"{method.name} has also {', '.join(method.cls.variants[1:])}; --method '{method.name}.*' runs all"
        for method in loaded
        if len(method.cls.variants) > 1
    )


def _by_dataset(request: Request, registry: Registry, otherwise: Sequence[str]) -> list[Request]:
    """A request that names no methods: for each data set those of its published table, or of that of the data set it is like."""
    parts = []
    for name in request.datasets:
        try:
            like = registry.load_dataset(name).like
        except BenchError:
            like = None  # the plan will say what is wrong with it
        layout = layouts.first_of(name) or (layouts.first_of(like) if like else None)
        parts.append(replace(request, datasets=[name], methods=layout.rows if layout else otherwise))
    return parts
