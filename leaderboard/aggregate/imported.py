"""Imported logs as groups. They hold no counts: radii are as printed, and their runs are no seeds of ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.logs import Import, default_collection, runs_of_table
from bench.spec import canonical, same_images
from bench.store.verified import Status
from leaderboard import layouts
from leaderboard.aggregate.groups import UNITS, Group, Row, Section, Seed, row
from leaderboard.aggregate.runs import leaving_out
from leaderboard.metrics import Outcomes, columns_of


def groups_of_logs(logs: Sequence[Import], words: Sequence[str], alpha: float | None, notes: list[str]) -> list[Group]:
    """One group per data set, collection and way of certification.

    Args:
        words: metrics, see `metrics.columns_of`.
        alpha: what was asked for; it is fixed in a log.
        notes: get why a group is left out.

    Raises:
        BenchError: another alpha than the logs', damaged logs, logs of one row that cover different images.
    """
    check_alpha_of_logs(logs, alpha)
    found: dict[str, list[Import]] = defaultdict(list)
    for log in logs:
        found[log.spec.dataset + canonical(conditions_of_log(log))].append(log)
    groups = []
    for _, same in sorted(found.items()):
        with leaving_out(notes):
            groups.append(_group(same, words))
    return groups


def check_alpha_of_logs(logs: Sequence[Import], alpha: float | None) -> None:
    """BenchError where another alpha was asked for than that of the logs."""
    own = sorted({log.spec.alpha for log in logs})
    if alpha is not None and logs and own != [alpha]:
        told = ", ".join(map(str, own))
        raise BenchError(f"imported logs were certified at alpha {told}, and --alpha {alpha:g} cannot change that; see --from runs")


def conditions_of_log(log: Import) -> dict[str, Any]:
    """What the rows of a group of logs share."""
    s = log.spec
    info = DATASETS.get(s.dataset)
    return {
        "source": f"imported logs of {s.collection}",
        "network": s.arch,
        "certify.n0": s.n0,
        "certify.n": s.n,
        "certify.images": same_images(s.images, info.test_size) if info else s.images,
        "alpha": s.alpha,
        "rounding": "rounded as printed",
    }


def _group(logs: Sequence[Import], words: Sequence[str]) -> Group:
    spec = logs[0].spec
    layout = layouts.of_dataset(spec.dataset)
    info = DATASETS.get(spec.dataset)
    outcomes = {log.path: _outcomes(log) for log in logs}
    images = outcomes[logs[0].path].index
    classes = info.classes if info else 1 + max(int(o.label.max()) for o in outcomes.values())
    metrics = columns_of(words, layout.radii, classes)
    methods = {log.spec.row: log.spec.method for log in logs}
    sections = []
    for sigma in sorted({log.spec.sigma for log in logs}):
        rows = []
        for name in layout.in_order(methods):
            same = [log for log in logs if (log.spec.row, log.spec.sigma) == (name, sigma)]
            seeds, notes = _seeds(same, outcomes) if same else ([Seed(seed="only", state="missing")], [])
            rows.append(
                row(name=name, method=methods[name], seeds=seeds, images=len(images), metrics=metrics, notes=notes, unit=UNITS["imported"])
            )
        sections.append(Section(sigma=sigma, rows=tuple(rows)))
    _same_images([r for section in sections for r in section.rows])
    return Group(
        dataset=spec.dataset,
        source="imported",
        conditions=conditions_of_log(logs[0]),
        images=len(images),
        test_size=info.test_size if info else 0,
        seeds=(),
        baseline=layout.baseline,
        metrics=metrics,
        sections=tuple(sections),
        notes=("Imported logs hold no counts: their radii are rounded as printed. Their run ids are no seeds, so runs are not paired.",),
    )


def runs_of_row(logs: Sequence[Import]) -> tuple[dict[str, Import | None], list[str]]:
    """Run id -> log of one row at one sigma: the runs that the paper averages, where it says which, else all; and notes on the choice.

    None: a run that the paper averages and that is not imported.

    Raises:
        BenchError: two different logs of one run.
    """
    name, sigma = logs[0].spec.row, logs[0].spec.sigma
    by_run: dict[str, Import] = {}
    for log in {log.spec.rows_sha256: log for log in reversed(logs)}.values():  # the same file in several folders is one run
        if (other := by_run.setdefault(log.spec.run, log)) is not log:
            raise BenchError(f"{log.path} and {other.path} hold the same run of {name}; move one of them away")
    by_run = dict(sorted(by_run.items()))
    listed = _listed(logs[0], name, sigma)
    chosen = listed or tuple(by_run)
    notes = []
    if unused := [run for run in by_run if run not in chosen]:
        notes.append(f"{name} at sigma {sigma:g}: of {len(by_run)} imported runs the {len(by_run) - len(unused)} that the paper averages")
    if missing := [run for run in listed if run not in by_run]:
        notes.append(f"{name} at sigma {sigma:g}: the paper also averages run {', '.join(missing)}, which is not imported")
    return {run: by_run.get(run) for run in chosen}, notes


def _seeds(logs: Sequence[Import], outcomes: dict[Any, Outcomes]) -> tuple[list[Seed], list[str]]:
    chosen, notes = runs_of_row(logs)
    seeds = [
        Seed(seed=run, state="done", done=len(o.index), outcomes=o, trust=Status(level="log"))
        if log and (o := outcomes[log.path])
        else Seed(seed=run, state="missing")
        for run, log in chosen.items()
    ]
    return seeds, notes


def _listed(log: Import, name: str, sigma: float) -> tuple[str, ...]:
    """The runs that the first published table with this row averages; nothing is known of another collection."""
    if log.spec.collection != default_collection():
        return ()
    tables = [number for number in layouts.numbers() if layouts.load(number).dataset == log.spec.dataset]
    return next((runs for number in tables if (runs := runs_of_table(number, name, sigma))), ())


def _outcomes(log: Import) -> Outcomes:
    data = log.columns()
    return Outcomes(data.index, data.label, data.correct, data.predict < 0, data.radius)


def _same_images(rows: Sequence[Row]) -> None:
    found = [(r, o) for r in rows for o in r.outcomes]
    for other, o in found:
        first = found[0][1]
        if not (np.array_equal(o.index, first.index) and np.array_equal(o.label, first.label)):
            raise BenchError(f"the imported logs of {found[0][0].name} and {other.name} cover different test images under one name")
