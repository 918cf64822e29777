"""What is passed to the Python API, told in one sentence where it is of the wrong kind."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError
from bench.rules.bounds import check_alpha

MANY_SEEDS = 1_000_000


def whole(value: Any, name: str, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number in a range; True and False are none.

    Raises:
        BenchError: it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        raise BenchError(f"{name} {value!r} is not a whole number") from None
    if not least <= found <= most:
        raise BenchError(f"{name} {found} must be at least {least}" if found < least else f"{name} {found} must be at most {most}")
    return found


def number(value: Any, name: str) -> float:
    """A number; True and False are none.

    Raises:
        BenchError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise BenchError(f"{name} {value!r} is not a number")
    return float(value)


def level(alpha: Any) -> float:
    """A chance that a certificate is wrong, in (0, 1/2).

    Raises:
        BenchError: it is none.
    """
    try:
        check_alpha(found := number(alpha, "alpha"))
    except ValueError as error:
        raise BenchError(str(error)) from None
    return found


def several(value: Any, name: str, one: type | tuple[type, ...]) -> list[Any]:
    """A value, or several of them, as a list.

    Raises:
        BenchError: it is neither.
    """
    if isinstance(value, one):
        return [value]
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise BenchError(f"{name} {value!r} is neither one of its values nor a list of them")
    for found in (values := list(value)):
        if not isinstance(found, one):
            raise BenchError(f"{name} {values!r} holds {found!r}, which is none of its values")
    return values


def word(value: Any, name: str) -> str:
    """A text.

    Raises:
        BenchError: it is none.
    """
    if not isinstance(value, str):
        raise BenchError(f"{name} {value!r} is not a word")
    return value


def path(value: Any, name: str) -> Path:
    """The path of a file or folder.

    Raises:
        BenchError: it is none.
    """
    try:
        return Path(value)
    except TypeError:
        raise BenchError(f"{name} {value!r} is not the path of a folder") from None


def seeds_of(value: Any) -> Sequence[int]:
    """Seeds: a number N means 0 to N - 1, a list just those.

    Raises:
        BenchError: it is neither.
    """
    if isinstance(value, (Integral, np.bool_)):
        return range(whole(value, "seeds", 1, MANY_SEEDS))
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise BenchError(f"seeds {value!r} is neither a number of seeds nor a list such as [0, 1]")
    return [whole(seed, "seed") for seed in value]
