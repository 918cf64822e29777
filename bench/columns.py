"""Certificates as arrays, and their cached form beside a log of evidence: what tables read.

The log stays the evidence. The cache holds the log's SHA-256 and is made again wherever that does not fit, so deleting it
or changing the log never changes a number.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bench.records import Certificate
from bench.rules.rule import Counts

TYPE = "<i4"
Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Columns:
    """The certificates of I images in the order of the log; each field has shape I.

    Attributes:
        index: position in the test set. label: true class. selected: class chosen by the selection samples.
        majority: class of most estimation samples, the lowest in a tie; -1 where none were drawn. highest: the highest class of any sample.
        count: estimation samples on the selected class, of n. runner_up: on the class with the most of the others.
        n0, n: samples drawn for selection and for estimation.
    """

    index: Integers
    label: Integers
    selected: Integers
    majority: Integers
    highest: Integers
    count: Integers
    runner_up: Integers
    n0: Integers
    n: Integers

    def __len__(self) -> int:
        return len(self.index)

    @property
    def counts(self) -> Counts:
        """What a rule reads; an image of which nothing was drawn has 0 of 1."""
        return Counts(self.count, np.maximum(self.n, 1), self.runner_up)

    @classmethod
    def of(cls, rows: Sequence[Certificate]) -> Columns:
        """The arrays of certificates, of at most 2**31 - 1 samples each."""
        table = np.array([_numbers(row) for row in rows], dtype=np.int32).reshape(len(rows), len(fields(cls)))
        return cls(*np.ascontiguousarray(table.T))


def _numbers(row: Certificate) -> tuple[int, ...]:
    majority = min(row.estimation, key=lambda c: (-row.estimation[c], c), default=-1)
    return row.index, row.label, row.selected, majority, max([*row.selection, *row.estimation]), row.count, row.runner_up, row.n0, row.n


# The header says the layout, so that a cache of another release is no cache.
FORMAT = f"certbench columns {TYPE} {','.join(field.name for field in fields(Columns))}".encode()


def pack(columns: Columns, log: bytes) -> bytes:
    """The cached form of the columns of a log."""
    payload = np.stack([getattr(columns, f.name) for f in fields(columns)]).astype(TYPE).tobytes()
    return b"%s %s %08x\n%s" % (FORMAT, _digest(log), zlib.crc32(payload), payload)


def unpack(data: bytes, log: bytes) -> Columns | None:
    """The columns of a cached form; None where it is damaged, of another release or of another log."""
    head, _, payload = data.partition(b"\n")
    if head != b"%s %s %08x" % (FORMAT, _digest(log), zlib.crc32(payload)):
        return None
    table = np.frombuffer(payload, dtype=np.uint8)
    if table.size % (np.dtype(TYPE).itemsize * len(fields(Columns))):
        return None
    return Columns(*table.view(TYPE).reshape(len(fields(Columns)), -1))


def _digest(log: bytes) -> bytes:
    return hashlib.sha256(log).hexdigest().encode()
