"""Small logs in the format of the field, with their map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fake_store import LABELS

MAP = """
collection = "mine"
n0 = 100
n = 100000
alpha = 0.001
images = ["first:4", "first:3"]

[datasets.mnist]
classes = 10
test_size = 10000

[[logs]]
path = "{method:plain|other|short}/noise_{sigma}_{run}"
method = "{method}"
variant = "default"
dataset = "mnist"
arch = "lenet"
"""


def write_log(path: Path, radii: Sequence[float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = enumerate(zip(LABELS, radii, strict=False))
    lines = [f"{index}\t{label}\t{label if r else -1}\t{r:.3g}\t{int(r > 0)}\t0:00:01" for index, (label, r) in rows]
    path.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *lines, ""]))
