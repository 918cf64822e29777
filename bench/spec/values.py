"""Values from outside (JSON, words of a command line) in the types of a spec's fields."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bench.errors import nearest
from bench.spec.canonical import canonical

Scalar = bool | int | float | str | None


def coerce(value: object, kind: Any) -> Scalar:
    """Checks a JSON value (or a command line word) against a field's type and returns it in that type.

    Words are read as the type asks: `coerce("0.5", float)`, `coerce("none", float | None)`.

    Raises:
        ValueError: the value does not fit; the message says what would.
    """
    options = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    if type(None) in options and (value is None or value in ("none", "None", "null")):
        return None
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            words = typing.get_args(option)
            if value in words:
                return typing.cast(Scalar, value)
            raise ValueError(f"must be one of {', '.join(map(str, words))}{nearest(str(value), map(str, words))}")
        if option is bool:
            if isinstance(value, bool):
                return value
            if isinstance(value, str) and value.lower() in ("true", "false"):
                return value.lower() == "true"
        elif option is int and not isinstance(value, bool):
            if isinstance(value, int):
                return value
            if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value, re.ASCII):
                return int(value)
        elif option is float and not isinstance(value, bool):
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(number):
                return number
        elif option is str and isinstance(value, str):
            return value
    raise ValueError(f"must be {describe_type(kind)}")


def describe_type(kind: Any) -> str:
    """A type as a user reads it: `a number`, `a whole number or none`, `kl | cross-entropy`."""
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word", type(None): "none"}
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(describe_type(option) for option in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    return words.get(kind, str(kind))


def differing(old: object, new: object, names: Iterable[str], prefix: str = "") -> dict[str, Scalar]:
    """Prefix and name -> new value, of the fields with these names whose values are not the old ones."""
    return {prefix + name: getattr(new, name) for name in names if getattr(new, name) != getattr(old, name)}


def replace_checked(
    instance: Any, changes: Mapping[str, object], what: str, hint: Callable[[str, Iterable[str]], str] = nearest
) -> tuple[Any, list[str]]:
    """`dataclasses.replace` for values from outside: every problem is collected as a sentence.

    Args:
        hint: how a sentence on an unknown name ends, of that name and of those that there are.

    Returns:
        the changed instance (the old one if anything is wrong) and the problems.
    """
    hints = typing.get_type_hints(type(instance))
    fields = {f.name: hints[f.name] for f in dataclasses.fields(instance) if f.init}
    good: dict[str, Any] = {}
    problems = []
    for name, value in changes.items():
        if name not in fields:
            problems.append(f"{what} has no field {name!r}{hint(name, fields)}")
            continue
        try:
            if isinstance(value, str) and not value.isprintable():
                raise ValueError("must be a word without control characters")
            good[name] = coerce(value, fields[name])
        except ValueError as error:
            problems.append(f"{what}: {name}={value} is wrong: it {error}")
    if problems:
        return instance, problems
    try:
        return dataclasses.replace(instance, **good), []
    except (ValueError, TypeError) as error:
        return instance, [f"{what}: {error}"]


def scalar_word(value: Scalar) -> str:
    """A value as --set takes it."""
    return value if isinstance(value, str) else "none" if value is None else canonical(value)
