"""What is passed to the Python API, told in one sentence where it is of the wrong kind."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

from bench.bounds import check_alpha
from bench.errors import BenchError


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
    return list(value)


def seeds_of(value: Any) -> list[int]:
    """A list of seeds.

    Raises:
        BenchError: it is none.
    """
    return [whole(seed, "seed") for seed in several(value, "seeds", ())]
