"""Imported logs that are whole, as tables take them: not only as long as their check sum says, which a forger can write, but logs."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from functools import cache as kept
from pathlib import Path

from bench.datasets import DATASETS
from bench.errors import BenchError, Fault, nearest
from bench.evidence import cache, certification_log
from bench.evidence.certification_log import Expected, Refused
from bench.files.walk import Walk
from bench.logs.logmap import load_map
from bench.spec import canonical, select_images, to_json
from bench.store.imports import Import, scan
from bench.store.runs import Damaged

MOST_CLASSES, MOST_IMAGES, MOST_ROWS = 100_000, 100_000_000, 1_000_000
"""Of a data set of which nothing is known."""


def read(root: Path, walked: Walk | None = None) -> tuple[list[Import], list[str]]:
    """The imported logs of a store that are whole, by folder, and what is wrong with the others."""
    whole, damaged = [], []
    for entry in scan(root, walked):
        if isinstance(entry, Damaged):
            damaged.append(entry.reason)
            continue
        try:
            check(entry)
            whole.append(entry)
        except BenchError as error:
            damaged.append(str(error))
    twins = doubled(whole)
    return [entry for entry in whole if entry.path not in twins], [*damaged, *map(str, twins.values())]


def doubled(entries: Sequence[Import]) -> dict[Path, Fault]:
    """Folder -> what is wrong with it, of logs that are one run, certified in one way, with different rows. Nobody knows which is right."""
    found: dict[str, list[Import]] = defaultdict(list)
    for entry in entries:
        s = entry.spec
        found[canonical([s.collection, s.dataset, s.arch, s.n0, s.n, s.images, s.alpha, s.row, s.sigma, s.run])].append(entry)
    faults = {}
    for same in found.values():
        for entry in same:
            if other := next((one for one in same if one.spec.rows_sha256 != entry.spec.rows_sha256), None):
                told = f"{other.path} holds the same run with other rows, so neither counts; move one of them away"
                faults[entry.path] = Fault(entry.path, None, told)
    return faults


def check(entry: Import) -> int:
    """Reads every row of an imported log: its images, labels, predictions, and radii, none above the largest for its n and alpha.

    Returns:
        images.

    Raises:
        Fault: what does not hold, with its line.
    """
    data, spec = entry.data(), entry.spec
    labels = DATASETS[spec.dataset].known_labels() if spec.dataset in DATASETS else None
    said = hashlib.sha256(canonical([to_json(spec), labels]).encode()).hexdigest()
    if cache.get(key := f"import {said}") == b"whole":
        return data.count(b"\n") - 1
    try:
        log = _parse(entry, data)
        if labels is not None:
            certification_log.check_labels(log.rows, dict(enumerate(labels)), name=str(entry.file))
    except Refused as error:
        raise Fault(entry.file, error.line, error.reason) from None
    if certification_log.canonical(log.rows) != data:
        raise Fault(entry.file, None, "not the rows of an imported log; import the log again")
    cache.put(key, b"whole")
    return len(log.rows)


def _parse(entry: Import, data: bytes) -> certification_log.Log:
    # The store keeps a log without its times; a column of zeros makes it a log of the field again, line by line.
    rows = data.count(b"\n") - 1
    if rows > MOST_ROWS:
        raise Fault(entry.file, None, f"{rows} rows, and no test set has so many images")
    header, end, body = data.partition(b"\n")
    text = header + b"\ttime" + end + body.replace(b"\n", b"\t0\n")
    spec = entry.spec
    try:
        classes, size = sizes(spec.dataset)
    except BenchError:  # only the map that it was imported by knew it: take the sizes that it needs at least
        there = certification_log.from_canonical(data, name=str(entry.file))
        classes = max((max(row.label, row.predict) for row in there), default=0) + 1
        size = max((row.index for row in there), default=0) + 1
        if classes > MOST_CLASSES or size > MOST_IMAGES:
            raise Fault(entry.file, None, f"it needs {classes} classes and {size} images, which no data set has") from None
    if rows > (images := len(select_images(spec.images, size))):
        raise Fault(entry.file, images + 2, f"{rows} rows, but images={spec.images} are {images} of {size}")
    expected = Expected(classes=classes, test_size=size, images=[spec.images], n=spec.n, alpha=spec.alpha, sigma=spec.sigma)
    return certification_log.parse(text, expected, name=str(entry.file))


@kept
def sizes(dataset: str) -> tuple[int, int]:
    """Classes and test images of a data set: one of the suite's, or one that the map of published logs knows.

    Raises:
        BenchError: neither knows it.
    """
    if dataset in DATASETS:
        return DATASETS[dataset].classes, DATASETS[dataset].test_size
    known = load_map().sizes
    if dataset not in known:
        raise BenchError(f"unknown data set {dataset!r}{nearest(dataset, known)}")
    return known[dataset]
