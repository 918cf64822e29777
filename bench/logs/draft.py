"""A first manifest of a folder of logs: what their paths and contents show, and blanks where they do not."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from bench.datasets import DATASETS
from bench.errors import UsageError
from bench.evidence import certification_log
from bench.evidence.certification_log import USUAL, Refused, Table
from bench.files.writing import write_atomically
from bench.logs.importer import find
from bench.logs.manifest import COLUMNS, OPTIONAL
from bench.registry import Registry
from bench.spec import NAME

_SIGMA = re.compile(r"(?:noise|sigma|std)[_=-]?([0-9]+(?:\.[0-9]+)?)")
_RUN = re.compile(r"(?:run|seed)[_=-]?([0-9]+)")
_ARCH = re.compile(r"(?<![a-z])((?:cifar_)?(?:lenet|resnet-?[0-9]+|densenet-?[0-9]+|wrn[0-9-]+|vit[0-9a-z_]*))(?![a-z0-9])")


@dataclass(frozen=True)
class Draft:
    """What came of a draft.

    Attributes:
        lines: of logs.
        blank: column -> lines where its cell is left to fill in.
        others: files that are no logs, with the reason.
    """

    lines: int
    blank: dict[str, int]
    others: list[Refused]


def write_draft(path: Path, out: Path) -> Draft:
    """Writes a manifest of a folder of logs, as far as it can be guessed.

    Raises:
        UsageError: no such folder, no log in it, or a manifest that is there already.
        OSError: it cannot be written.
    """
    if out.exists():
        raise UsageError([f"{out} exists already; name another file, or remove it"])
    files, others = find(path)
    rows, methods = [], Registry().entries().keys()
    for name, file in files.items():
        try:
            table = certification_log.split(certification_log.load(file, name=name), name=name)
            rows.append(_guess(name, path.resolve().name.lower(), table, methods))
        except (Refused, OSError) as error:
            others.append(error if isinstance(error, Refused) else Refused(name, None, f"{error.strerror}", "unreadable"))
    if not rows:
        raise UsageError([f"there is no certification log in {path}", *map(str, others[:5])])
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *OPTIONAL], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out, text.getvalue().encode())
    return Draft(len(rows), {title: count for title in COLUMNS if (count := sum(not row[title] for row in rows))}, others)


def _guess(name: str, collection: str, table: Table, methods: Collection[str]) -> dict[str, str]:
    """The cells of a log.

    Args:
        methods: names of those that there are.

    Raises:
        Refused: its images, labels or radii are no numbers.
    """
    path = name.lower()
    parts = re.split(r"[/.]", path)
    datasets = {word: word for word in DATASETS} | {word.replace("-", "_"): word for word in DATASETS} | {"fmnist": "fashion-mnist"}
    dataset = next((datasets[part] for part in parts if part in datasets), "")
    sigma = _SIGMA.findall(path)
    sigmas = [float(sigma[-1])] if sigma and float(sigma[-1]) else [0.12, 0.25, 0.5, 1.0, 2.0]
    shown = _conditions(table, sigmas)
    after = _SIGMA.split(Path(path).name)[-1]
    run = _RUN.findall(path) or re.findall(r"(?:^|_)([0-9]+)(?:\.[a-z]+)?$", after) or re.findall(r"/([0-9]+)/[^/]*$", path)
    arch = _ARCH.search(path)
    cells = dict.fromkeys(COLUMNS, "") | {
        "path": name,
        "collection": collection if NAME.match(collection) else "",
        "row": next((part for part in reversed(parts) if part in methods), ""),
        "dataset": dataset,
        "arch": arch[1].removeprefix("cifar_") if arch else "",
        "sigma": f"{sigmas[0]:g}" if len(sigmas) == 1 else "",
        "run": run[-1] if run else "only",
        "images": (dataset and certification_log.selection(certification_log.indices(table), DATASETS[dataset].test_size)) or "",
    }
    if shown:
        cells |= dict(zip(("sigma", "n0", "n", "alpha"), (f"{shown[0]:g}", "100", str(shown[1]), f"{shown[2]:g}"), strict=True))
    return cells


def _conditions(table: Table, sigmas: list[float]) -> tuple[float, int, float] | None:
    """Sigma, n and alpha of a log whose largest radius is, as printed, that of an image whose n samples all agree."""
    top = max(Decimal(text) for text in table.check("radius", certification_log.RADIUS.fullmatch, "a finite number, 0 or more"))
    for sigma in sigmas:
        for n, alpha in USUAL:
            largest = certification_log.largest_radius(n, alpha, sigma)
            limit = certification_log.rounded_up(table, largest)
            if 2 * Decimal(largest) - limit <= top <= limit:
                return sigma, n, alpha
    return None
