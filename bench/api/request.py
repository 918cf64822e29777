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
from bench.matrix.plan import Plan, Request, make_plan
from bench.matrix.task import Options, check_options
from bench.registry import METHOD, Registry, kinds_in
from bench.spec import PROTOCOL_ALIASES
from bench.store.suggest import suggestion
from bench.system.guards import settings_kept
from leaderboard import layouts

RERUN = ("diverged", "all")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """Everything that is asked for, as words and numbers; nothing is checked yet.

    Attributes:
        methods: empty: those of the plug-ins, or the rows of the published table of each data set.
        datasets, sigmas, seeds: empty: the usual.
        table: number of a published table whose rows, data set and noise levels are meant; None: of none.
        plugins: .py files. results: the results folder. engine: who carries cells out, and on which device.
        rerun: `diverged` or `all`: such cells are computed again.
        The others: as `bench.matrix.task.Options`.
    """

    methods: Sequence[str] = ()
    datasets: Sequence[str] = ()
    sigmas: Sequence[float] = ()
    seeds: Sequence[int] = ()
    protocol: str = "quick"
    recipe: str = "official"
    changes: Mapping[str, str] = field(default_factory=dict)
    table: int | None = None
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "protocol", PROTOCOL_ALIASES.get(self.protocol, self.protocol))

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
        if self.table is not None and (self.methods or self.datasets or self.sigmas):
            found.append("--table says which methods, data set and noise levels; leave out --method, --dataset and --sigma")
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
        layout = layouts.load(4)
        try:
            layout = layouts.load(4 if self.table is None else self.table)
        except BenchError as error:
            problems.append(str(error))
        registry = Registry(self.plugins, partial(suggestion, self.results))
        mine = [] if self.methods else [path.stem for path in self.plugins if METHOD in kinds_in(path)]
        whole = Request(
            methods=self.methods or ([*layout.rows, *mine] if self.table is not None else mine),
            datasets=self.datasets or [layout.dataset],
            sigmas=self.sigmas or ([] if self.table is None else [float(sigma) for sigma in layout.sigmas]),
            seeds=self.seeds,
            protocol=self.protocol,
            recipe=self.recipe,
            changes=self.changes,
        )
        plan = Plan((), ())
        for part in [whole] if whole.methods or self.table is not None else _by_dataset(whole, registry, layout.rows):
            try:
                with settings_kept():  # a plug-in's file may do anything when it is read
                    found = make_plan(part, registry)
                plan = Plan(plan.cells + found.cells, plan.notes + found.notes)
            except UsageError as error:
                problems += error.problems
        return Plan(plan.cells, plan.notes + _other_variants(mine, registry)) if mine and not problems else plan


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
