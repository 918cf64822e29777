"""Canonical JSON, the keys made of it, and seeds that no two purposes share."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def derive(seed: int, *purpose: str | int) -> int:
    """One independent 64-bit seed per purpose, e.g. `derive(0, "order", epoch)`.

    The hash keeps seeds of neighbouring runs, epochs and images unrelated, where `seed + index` would collide.
    """
    text = canonical([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN (ValueError)."""
    return _ENCODER.encode(value)


def digest(value: object) -> str:
    """First 16 hex digits of the SHA-256 of a value's canonical JSON: the key of a spec."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a number of JSON")


MOST_DIGITS = 40
"""Of whole numbers in records: seeds have 20, and what has hundreds ends in errors of arithmetic."""


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _refuse(word)


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits; none has more than {MOST_DIGITS}")
    return int(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)


def parse_json(text: str | bytes) -> Any:
    """Strict JSON: duplicate keys, NaN, Infinity, bytes that are no UTF-8 and halves of a character are refused with ValueError."""

    if isinstance(text, bytes):
        text = text.decode()  # json.loads would guess at other encodings, and let halves of a character pass
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _SURROGATE.search(text):
        try:
            canonical(value).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half of a character, which no file can") from None
    return value
