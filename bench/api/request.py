"""What `bench run` and `bench.run` are asked for, and what is worked out of it before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from bench.errors import BenchError, UsageError, unknown
from bench.executors.engine import Engine
from bench.matrix.plan import Cell, Plan, Request, make_plan
from bench.matrix.task import Options, check_options
from bench.registry import METHOD, Registry, kinds_in
from bench.spec import PROTOCOL_ALIASES, row_name
from bench.store.suggest import suggestion
from bench.system.guards import settings_kept
from leaderboard import layouts

RERUN = ("diverged", "all")


@dataclass(frozen=True, kw_only=True)
class Part(Request):
    """One matrix method x sigma x seed that is asked for, before what is usual is filled in.

    Attributes:
        methods: empty: those of the plug-ins, or the rows of the published table of each data set.
        datasets: empty: mnist, or the data set of the table.
        table: number of a published table whose rows, data set and noise levels are meant; None: of none.
    """

    methods: Sequence[str] = ()
    datasets: Sequence[str] = ()
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
        found += unknown("--rerun", self.rerun, RERUN)
        sizes = {"--batch": self.batch, "--micro-batch": self.micro_batch}
        found += [f"{flag} {size} must be at least 1" for flag, size in sizes.items() if size is not None and size < 1]
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
            several = [loaded for loaded in map(registry.load, mine) if len(loaded.cls.variants) > 1]
            rows = {one.name: [row_name(one.name, variant, {}) for variant in one.cls.variants] for one in several}
            notes += [f"{name} has also {', '.join(every[1:])}; --method {','.join(every)} runs all" for name, every in rows.items()]
        return Plan(tuple(cells.values()), tuple(dict.fromkeys(notes)))


def _requests(part: Part, registry: Registry, mine: Sequence[str], problems: list[str]) -> list[Part]:
    """What a part means, with what is usual where it says nothing. mine: methods of the plug-ins."""
    if part.table is not None and (part.methods or part.datasets or part.sigmas):
        problems.append("--table says which methods, data set and noise levels; leave out --method, --dataset and --sigma")
    layout = layouts.load(4)
    try:
        layout = layouts.load(4 if part.table is None else part.table)
    except BenchError as error:
        problems.append(str(error))
    whole = replace(part, methods=part.methods or mine, datasets=part.datasets or [layout.dataset])
    if part.table is not None:
        return [replace(whole, methods=part.methods or [*layout.rows, *mine], sigmas=part.sigmas or list(map(float, layout.sigmas)))]
    return [whole] if whole.methods else _by_dataset(whole, registry, layout.rows)


def _by_dataset(request: Part, registry: Registry, otherwise: Sequence[str]) -> list[Part]:
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
