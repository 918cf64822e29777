"""Certificates as arrays: what tables read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bench.evidence.certificate import Certificate
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

    @classmethod
    def join(cls, parts: Sequence[Columns]) -> Columns:
        """One after the other."""
        return parts[0] if len(parts) == 1 else cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Columns:
        """Some of them."""
        return Columns(*(getattr(self, f.name)[places] for f in fields(self)))


def _numbers(row: Certificate) -> tuple[int, ...]:
    majority = min(row.estimation, key=lambda c: (-row.estimation[c], c), default=-1)
    return row.index, row.label, row.selected, majority, max([*row.selection, *row.estimation]), row.count, row.runner_up, row.n0, row.n


FORMAT = f"certbench columns {TYPE} {','.join(field.name for field in fields(Columns))}\n".encode()
"""Says the layout, so that what another release kept is not taken for it."""


def pack(columns: Columns) -> bytes:
    """Columns as bytes."""
    return FORMAT + np.stack([getattr(columns, f.name) for f in fields(columns)]).astype(TYPE).tobytes()


def unpack(data: bytes) -> Columns | None:
    """The inverse of `pack`; None for other bytes."""
    payload = data[len(FORMAT) :]
    if not data.startswith(FORMAT) or len(payload) % (np.dtype(TYPE).itemsize * len(fields(Columns))):
        return None
    return Columns(*np.frombuffer(payload, dtype=TYPE).reshape(len(fields(Columns)), -1))
