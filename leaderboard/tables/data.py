"""Tables as CSV and JSON, in full precision."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from leaderboard.aggregate import Group, Row
from leaderboard.tables.captions import caption, clean, rule
from leaderboard.tables.cells import Cell, cells

CSV_FIELDS = (
    *("dataset", "source", "protocol", "changes", "recipe", "arch", "normalisation", "n0", "n", "images", "image_count", "certify_seed"),
    *("bound", "alpha", "rounding", "sigma", "row", "metric", "seeds", "seeds_done", "drawn", "mean", "std", "tied", "state"),
    *("status", "notes"),
)
CONDITIONS = {
    "source": "source",
    "protocol": "protocol",
    "changes": "changes",
    "recipe": "recipe",
    "arch": "network",
    "normalisation": "normalisation",
    "n0": "certify.n0",
    "n": "certify.n",
    "images": "certify.images",
    "certify_seed": "certify.seed",
    "bound": "certify.rule",
    "alpha": "alpha",
    "rounding": "rounding",
}


def as_csv(groups: Iterable[Group]) -> str:
    """One line per row and metric."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for group in groups:
        for section in group.sections:
            for row in section.rows:
                known = {**group.conditions, **row.conditions}
                shared = {
                    **{field: known.get(name) for field, name in CONDITIONS.items()},
                    "dataset": group.dataset,
                    "image_count": row.images,
                    "sigma": section.sigma,
                    "row": row.label,
                    "seeds": " ".join(str(seed.seed) for seed in row.seeds),
                    "seeds_done": sum(seed.state == "done" for seed in row.seeds),
                    "drawn": row.drawn,
                    "tied": row.tied,
                    "state": row.status or "done",
                    "status": row.trust,
                    "notes": "; ".join([*group.notes, *row.notes]),
                }
                for metric in group.metrics:
                    stat = row.stats.get(metric.name)
                    numbers = {"metric": metric.name, "mean": stat.mean, "std": stat.std} if stat else {"metric": metric.name}
                    writer.writerow({name: _field(value) for name, value in (shared | numbers).items()})
    return file.getvalue()


def _field(value: object) -> str:
    if isinstance(value, str):
        text = clean(value)
        # A spreadsheet would run such a text as a formula.
        return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
    return "" if value is None else repr(value)


def as_json(groups: Iterable[Group]) -> str:
    """Accuracies and abstention in %, ACR in pixels of [0, 1]."""
    data = {"schema": 1, "groups": [_group(group) for group in groups]}
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _group(group: Group) -> dict[str, Any]:
    return {
        "caption": caption(group),
        "dataset": group.dataset,
        "source": group.source,
        "conditions": dict(group.conditions),
        "images": group.images,
        "test_size": group.test_size,
        "seeds": group.seeds,
        "baseline": group.baseline,
        "mixed": group.mixed,
        "metrics": [
            {"name": m.name, "heading": m.heading, "decimals": m.decimals, "better": m.better, "meaning": m.meaning} for m in group.metrics
        ],
        "rule": rule(group),
        "sections": [
            {
                "sigma": section.sigma,
                "rows": [_row(row, shown, group) for row, shown in zip(section.rows, cells(group, section), strict=True)],
            }
            for section in group.sections
        ],
        "notes": group.notes,
        "footnotes": group.footnotes,
    }


def _row(row: Row, shown: Sequence[Cell], group: Group) -> dict[str, Any]:
    return {
        "row": row.name,
        "label": row.label,
        "method": row.method,
        "state": row.status or "done",
        "status": row.trust,
        "metrics": {name: dataclasses.asdict(stat) for name, stat in row.stats.items()},
        "improves": [metric.name for metric, cell in zip(group.metrics, shown, strict=True) if cell.improves],
        "tied": row.tied,
        "conditions": dict(row.conditions),
        "drawn": row.drawn,
        "best": [metric.name for metric, cell in zip(group.metrics, shown, strict=True) if cell.best],
        "seeds": [
            {name: getattr(seed, name) for name in ("seed", "state", "done", "key", "reason")}
            | {"status": str(seed.trust) if seed.trust else None}
            for seed in row.seeds
        ],
        "notes": row.notes,
    }
