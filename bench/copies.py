"""Trainings that are one and the same: equal weights, or counts that two trainings do not share, under several seeds.

Weights are compared by their tensors (`tensors_sha256`), so that a copy with another header is seen. Where no weights are kept, equal
records of their SHA-256 tell as much, and so do equal counts of the same images under the same noise.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import stat
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import gammaln, xlogy

from bench.checkpoints.stored import COUNTER, tensors_sha256
from bench.columns import Columns
from bench.errors import BenchError
from bench.spec import canonical, parse_json

CHANCE = 1e-9
"""Counts tell of a copy if two networks that are equally good would share all of them with a smaller chance."""
MAX_HEADER, SAMPLE = 100 << 20, 1 << 20  # bytes


@dataclass(frozen=True)
class Traces:
    """What a training left.

    Attributes:
        weights: its file of weights; None where it is not kept.
        records: what no other training has, such as the SHA-256 of its weights, or `fingerprint` of its counts.
    """

    weights: Path | None
    records: frozenset[str]


def copies(trainings: Sequence[Traces]) -> dict[int, int]:
    """Place of each training that is a copy -> place of the first one that is the same."""
    found: dict[int, int] = {}
    first: dict[Hashable, int] = {}
    suspected: dict[str, list[int]] = defaultdict(list)
    for place, training in enumerate(trainings):
        if training.weights is not None and (sample := _sample(training.weights)):
            suspected[sample].append(place)
    tensors = {place: _tensors(trainings[place].weights) for places in suspected.values() if len(places) > 1 for place in places}
    for place, training in enumerate(trainings):
        traces = {*training.records, tensors.get(place)} - {None}
        same = [first[trace] for trace in traces if trace in first]
        if same:
            found[place] = found.get(min(same), min(same))
        for trace in traces:
            first.setdefault(trace, place)
    return found


def fingerprint(columns: Columns, certification: str) -> str | None:
    """A digest of counts that two trainings share with a chance below CHANCE; None where the counts tell less, as where all are n of n.

    Args:
        certification: key of what decided images and noise.
    """
    count, n = columns.count.astype(float), columns.n.astype(float)
    p = np.divide(count, n, out=np.zeros_like(n), where=n > 0)
    # The chance of a count is largest for the p that fits it best.
    chance = gammaln(n + 1) - gammaln(count + 1) - gammaln(n - count + 1) + xlogy(count, p) + xlogy(n - count, 1 - p)
    if chance.sum() > math.log(CHANCE):
        return None
    digest = hashlib.sha256(certification.encode())
    for values in vars(columns).values():
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _tensors(weights: Path | None) -> str | None:
    with contextlib.suppress(OSError, BenchError):
        return tensors_sha256(weights.read_bytes()) if weights else None
    return None


def _sample(weights: Path) -> str | None:
    """The smallest tensor of a file: equal in files of equal tensors, and mostly in no others. None where there is no such file."""
    try:
        handle = os.open(weights, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(handle, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            if not stat.S_ISREG(os.fstat(handle).st_mode) or start > MAX_HEADER:
                return None
            header = parse_json(file.read(start - 8))
            places = {
                name: tensor["data_offsets"]
                for name, tensor in header.items()
                if name != "__metadata__" and name.rpartition(".")[2] != COUNTER
            }
            name = min(places, key=lambda name: (places[name][1] - places[name][0], name))
            file.seek(start + places[name][0])
            content = file.read(min(SAMPLE, places[name][1] - places[name][0]))
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None  # whoever checks weights says what is wrong with them
    return f"{canonical(sorted(places))} {name} {content.hex()}"
