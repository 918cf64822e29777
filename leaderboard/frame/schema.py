"""What stands in the evidence table: its columns, and how it is put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.evidence.columns import Columns
from leaderboard.metrics import Outcomes

WORDS = (
    *("dataset", "method", "variant", "row", "protocol", "recipe", "source", "status", "rule", "training"),
    *("key", "certification", "record"),
)
"""Categorical: few words that are repeated."""
NULLABLE = ("selected", "majority", "count", "runner_up")
"""Int64: missing where a published log does not say."""
COLUMNS = (
    *("dataset", "method", "variant", "row", "sigma", "seed", "training", "protocol", "recipe", "source", "status", "rule", "alpha", "n0"),
    *("image", "label", "selected", "predicted", "majority", "count", "runner_up", "n", "radius", "correct"),
    *("key", "certification", "record"),
)
LEFT_OUT, NOTES, CENSUS = "left_out", "notes", "census"
"""Keys of `frame.attrs`. The first two are for people; the third, JSON text, is what tables need to know of runs that have no rows."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One certification of one subject, on I images.

    Attributes:
        constants: column -> what all its rows have; a column that is not there is missing.
        images: column -> I values; a negative number in a nullable column is missing.
    """

    constants: Mapping[str, Any]
    images: Mapping[str, NDArray[Any]]


def images_of_counts(columns: Columns, o: Outcomes) -> dict[str, NDArray[Any]]:
    """The columns of own evidence, by image.

    Args:
        columns: its counts, in any order. o: what they say.
    """
    order = np.argsort(columns.index, kind="stable")
    names = {"image": "index", **{name: name for name in ("label", "selected", "majority", "count", "runner_up", "n0", "n")}}
    found: dict[str, NDArray[Any]] = {name: getattr(columns, field)[order] for name, field in names.items()}
    predicted = np.where(o.abstained, -1, found["selected"])
    return found | {"predicted": predicted, "radius": o.radius, "correct": o.correct}


def frame_of(parts: Sequence[Part], attrs: Mapping[str, Any]) -> pd.DataFrame:
    """The table of some certifications, with the columns of COLUMNS; it may be empty."""
    lengths = [len(part.images["image"]) for part in parts]
    data: dict[str, Any] = {}
    for name in COLUMNS:
        constants = [part.constants.get(name) for part in parts]
        if name in WORDS:
            known = dict.fromkeys(word for word in constants if word is not None)
            data[name] = pd.Categorical(constants, categories=pd.Index(list(known), dtype=str)).repeat(lengths)
        elif name == "seed":
            data[name] = pd.array(constants, dtype="Int64").repeat(lengths)
        elif name in ("sigma", "alpha"):
            data[name] = np.repeat(np.array(constants, dtype=np.float64), lengths)
        else:
            kind = {"radius": np.float64, "correct": np.bool_}.get(name, np.int64)
            found: NDArray[Any] = np.concatenate([np.zeros(0, kind), *(part.images[name] for part in parts)]).astype(kind, copy=False)
            data[name] = pd.arrays.IntegerArray(found, found < 0) if name in NULLABLE else found
    frame = pd.DataFrame(data)
    frame.attrs.update(attrs)
    return frame
