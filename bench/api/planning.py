"""What is worked out before anything runs: the command `bench run` and the function `bench.run` share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.errors import BenchError, UsageError
from bench.matrix.plan import Plan, Request, make_plan
from bench.registry import METHOD, Registry, kinds_in
from bench.store.suggest import suggestion
from bench.system.guards import settings_kept
from leaderboard import layouts


def plan_of(request: Request, plugins: tuple[Path, ...], number: int | None, problems: list[str], results: Path) -> Plan:
    """The cells of a request in which empty fields mean the usual ones.

    Args:
        request: without methods it means those of the plug-ins, or the rows of the published table of each data set.
        number: of a published table whose rows, data set and noise levels are meant; None: of none.
        problems: everything that is wrong is added to them.
        results: the store that may know where an unknown name came from.
    """
    layout = layouts.load(4)
    try:
        layout = layouts.load(4 if number is None else number)
    except BenchError as error:
        problems.append(str(error))
    registry = Registry(plugins, partial(suggestion, results))
    mine = [] if request.methods else [path.stem for path in plugins if METHOD in kinds_in(path)]
    methods = request.methods or ([*layout.rows, *mine] if number is not None else mine)
    whole = replace(
        request,
        methods=methods or layout.rows,
        datasets=request.datasets or [layout.dataset],
        sigmas=request.sigmas or ([] if number is None else [float(sigma) for sigma in layout.sigmas]),
    )
    plan = Plan((), ())
    for part in [whole] if methods or number is not None else _by_dataset(whole, registry):
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


def _by_dataset(request: Request, registry: Registry) -> list[Request]:
    """A request that names no methods: for each data set those of its published table, or of that of the data set it is like."""
    parts = []
    for name in request.datasets:
        try:
            like = registry.load_dataset(name).like
        except BenchError:
            like = None  # the plan will say what is wrong with it
        layout = layouts.first_of(name) or (layouts.first_of(like) if like else None)
        parts.append(replace(request, datasets=[name], methods=layout.rows if layout else request.methods))
    return parts
