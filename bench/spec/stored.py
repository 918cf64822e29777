"""Specs as JSON and back, strictly."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, TypeVar

from bench.errors import BenchError, clipped, nearest
from bench.spec.canonical import canonical, parse_json
from bench.spec.values import coerce, describe_type

SCHEMA = 1
LATER = {"later": True}
"""Metadata of a field that came after keys had been published: it is written only where it is not the default, so that those keys stay."""

_SCALARS = {bool, int, float, str, type(None)}
T = TypeVar("T")


def to_json(spec: Any) -> dict[str, Any]:
    """A spec as plain JSON values, with its schema version."""
    return {"schema": SCHEMA, **_plain(spec)}


def hyperparameters(method: Any, preset: Any) -> dict[str, Any]:
    """Every field of a method as a spec holds them. One that came later is left out where method and preset have its default."""

    def told(f: dataclasses.Field[Any]) -> bool:
        return not f.metadata.get("later") or {getattr(method, f.name), getattr(preset, f.name)} != {f.default}

    return {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if told(f)}


def _plain(value: Any) -> Any:
    if type(value) in _SCALARS:
        return value
    if not dataclasses.is_dataclass(value):
        return dict(value)
    kind: Any = type(value)
    fields = _fields(kind)[1].values()
    values = {f.name: getattr(value, f.name) for f in fields}
    later = {f.name for f in fields if f.metadata.get("later") and values[f.name] == f.default}
    return {name: _plain(v) for name, v in values.items() if name not in later}


@cache
def _fields(cls: Any) -> tuple[Mapping[str, Any], Mapping[str, dataclasses.Field[Any]]]:
    """Types and fields of a spec, by name."""
    return typing.get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}


def from_json(cls: type[T], text: str | bytes, where: str) -> T:
    """The inverse of `to_json`, strict.

    Raises:
        BenchError: not JSON, another schema version, unknown, missing or ill-typed keys; `where` opens the sentence.
    """
    try:
        data = parse_json(text)
    except ValueError as error:
        raise BenchError(f"{where}: not a valid spec: {error}") from None
    if not isinstance(data, dict) or type(data.get("schema")) is not int or data["schema"] != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise BenchError(f"{where}: schema version {found!r} is not {SCHEMA}, the one this release reads")
    try:
        built: T = _build(typing.cast(Any, cls), canonical({k: v for k, v in data.items() if k != "schema"}))
        return built
    except (ValueError, RecursionError) as error:
        raise BenchError(clipped(f"{where}: {error}")) from None


@lru_cache(maxsize=1000)
def _build(cls: Any, text: str) -> Any:
    """A spec from its JSON, kept by its text: the runs of a matrix share most of their parts. ValueError for what it cannot be."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"expected an object, found {type(data).__name__}")
    hints, fields = _fields(cls)
    if unknown := [name for name in data if name not in fields]:
        raise ValueError(f"unknown key {unknown[0]!r}{nearest(unknown[0], fields)}")
    values: dict[str, Any] = {}
    for name, f in fields.items():
        if name in data:
            values[name] = _value(name, data[name], hints[name])
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"key {name!r} is missing")
    return cls(**values)


def _value(name: str, value: Any, kind: Any) -> Any:
    inner = bool(dataclasses.is_dataclass(kind))
    if inner:
        try:
            return _build(kind, canonical(value))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, dict) or not all(type(v) in _SCALARS for v in value.values()):
            raise ValueError(f"{name} must be an object of plain values")
        return value
    if isinstance(value, str) and kind is not str:
        raise ValueError(f"{name} must be {describe_type(kind)}, not the text {value!r}")
    try:
        return coerce(value, kind)
    except ValueError as error:
        raise ValueError(f"{name} {error}, not {value!r}") from None
