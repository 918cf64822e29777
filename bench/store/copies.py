"""Trainings that are one and the same: equal weights, or counts that two trainings do not share, under several seeds.

Equal records of the SHA-256 of weights tell of a copy, and so do equal counts of the same images under the same noise. Where weights are
kept as they were recorded, their tensors are compared too, byte by byte, so that a copy with another header is seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import gammaln, xlogy

from bench.errors import BenchError
from bench.evidence import records
from bench.evidence.columns import Columns
from bench.files import disk
from bench.spec import canonical
from bench.store.checkpoints import read_in_a_pass

CHANCE = 1e-9
"""Counts tell of a copy if two networks that are equally good would share all of them with a smaller chance."""
SAMPLE, PIECE = 1 << 16, 1 << 20  # bytes
MOST_BYTES = 1 << 30
"""Of weights, that are read to compare the trainings of a configuration while others wait. Larger ones `bench verify` compares."""


@dataclass(frozen=True)
class Traces:
    """What a training left.

    Attributes:
        weights: its file of weights; None where it is not kept.
        records: what no other training has: the SHA-256 that was recorded of its weights, `fingerprint` of its counts.
    """

    weights: Path | None
    records: frozenset[str]


def copies(trainings: Sequence[Traces], most: int | None = MOST_BYTES) -> dict[int, int]:
    """Place of each training that is a copy -> place of the first one that is the same.

    Args:
        most: bytes of weights that are read at most, in all; None: any number. Beyond it, tensors are not compared.
    """
    found: dict[int, int] = {}
    first: dict[Hashable, int] = {}
    suspected: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, training in enumerate(trainings):
        if training.weights is not None and (suspect := _suspect(training.weights)):
            suspected[suspect[0]].append((place, suspect[1]))
    tensors: dict[int, str | None] = {}
    left = math.inf if most is None else most
    for alike in sorted((alike for alike in suspected.values() if len(alike) > 1), key=lambda alike: sum(size for _, size in alike)):
        left -= sum(size for _, size in alike)
        if left >= 0:
            tensors |= {place: _tensors(trainings[place]) for place, _ in alike}
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


def _tensors(training: Traces) -> str | None:
    """The SHA-256 of names and bytes of the tensors of a file, whatever type and shape its header gives them.

    None where it is not the file that was recorded, which tells nothing.
    """
    with contextlib.suppress(BenchError):
        if training.weights and disk.sha256(training.weights) in training.records and (header := records.tensors(training.weights)):
            hashed = hashlib.sha256()
            with disk.mapped(training.weights) as content:
                start = 8 + int.from_bytes(content[:8], "little")
                for name, tensor in read_in_a_pass(header):
                    begin, end = tensor["data_offsets"]
                    hashed.update(canonical([name, end - begin]).encode())
                    for at in range(begin, end, PIECE):
                        hashed.update(content[start + at : start + min(at + PIECE, end)])
            return hashed.hexdigest()
    return None


def _suspect(weights: Path) -> tuple[str, int] | None:
    """What files of equal tensors share, and mostly no others: the sizes of all, and how the largest begins. And bytes.

    None where there is no such file.
    """
    try:
        header = records.tensors(weights)
        if header is None:
            return None
        tensors = dict(read_in_a_pass(header))
        sizes = {name: tensor["data_offsets"][1] - tensor["data_offsets"][0] for name, tensor in tensors.items()}
        name = max(sizes, key=lambda name: (sizes[name], name))
        with disk.mapped(weights) as content:
            start = 8 + int.from_bytes(content[:8], "little") + tensors[name]["data_offsets"][0]
            return f"{canonical(sizes)} {name} {content[start : start + min(SAMPLE, sizes[name])].hex()}", len(content)
    except (BenchError, ValueError, TypeError):
        return None  # whoever checks weights says what is wrong with them
