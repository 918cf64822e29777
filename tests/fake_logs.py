"""Small logs in the format of the field, with their manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from fake_store import LABELS

from bench.logs import Manifest, parse_manifest
from bench.logs.manifest import COLUMNS


def manifest(*paths: str, **cells: object) -> Manifest:
    """A manifest of mnist logs, one line per path; the row is the first folder, and the run what `*` stands for."""
    usual: dict[str, object] = {"collection": "mine", "dataset": "mnist", "arch": "lenet", "sigma": 0.5, "run": "*"}
    usual |= {"n0": 100, "n": 100_000, "alpha": 0.001, "images": "first:4 or first:3"}
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys([*COLUMNS, *cells]))
    writer.writeheader()
    writer.writerows(usual | {"path": path, "row": path.partition("/")[0]} | cells for path in paths)
    return parse_manifest(text.getvalue().encode(), "mine.csv")


MANIFEST = manifest("plain/noise_0.5_*", "other/noise_0.5_*", "short/noise_0.5_*")


def write_log(path: Path, radii: Sequence[float], labels: Sequence[int] = LABELS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = enumerate(zip(labels, radii, strict=False))
    lines = [f"{index}\t{label}\t{label if r else -1}\t{r:.3g}\t{int(r > 0)}\t0:00:01" for index, (label, r) in rows]
    path.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *lines, ""]))
