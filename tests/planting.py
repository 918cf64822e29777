"""Faults planted on purpose in the suite's own functions, to show that a test would see them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import pytest


def plant(where: Callable[..., Any], old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the function the code of its source with `old` replaced, so that whoever has imported it runs the fault."""
    function = cast(FunctionType, inspect.unwrap(where))
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {function.__qualname__}"
    names = dict(function.__globals__)
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), "planted", "exec"), names)
    planted = cast(FunctionType, inspect.unwrap(names[function.__name__]))
    monkeypatch.setattr(function, "__code__", planted.__code__)
