"""Rules: how the sampling of an image stops, and how its counts are read.

A rule is one class in one file of `known`; the file's name is the rule's. It is found by its folder, and no other code knows its name.
Classes are loaded when they are asked for, so that a spec can name one without numpy and scipy.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError, nearest
from bench.rules import known

if TYPE_CHECKING:
    from bench.rules.rule import Rule
    from bench.spec import CertifySpec

DEFAULT = "clopper-pearson"
"""The rule of a certification that says none: that of the field and its published numbers."""


def names() -> tuple[str, ...]:
    """Every rule, the default first."""
    found = {module.name.replace("_", "-") for module in pkgutil.iter_modules(known.__path__) if not module.ispkg}
    return (DEFAULT, *sorted(found - {DEFAULT}))


def summaries() -> dict[str, str]:
    """Name -> what it does, in one sentence: the first line of its file, which is read and not run."""
    files = {path.stem.replace("_", "-"): path for folder in known.__path__ for path in Path(folder).glob("*.py")}
    return {name: (ast.get_docstring(ast.parse(files[name].read_bytes())) or "").partition("\n")[0] for name in names()}


@cache
def named(name: str) -> type[Rule]:
    """The class of a rule.

    Raises:
        ValueError: there is no such rule.
    """
    if name not in names():
        raise ValueError(f"rule={name} is not supported{nearest(name, names())}")
    rule: type[Rule] = importlib.import_module(f"{known.__name__}.{name.replace('-', '_')}").RULE
    return rule


def check_spec(spec: CertifySpec) -> None:
    """ValueError unless evidence can be stored under the rule of a certification, with what the spec says of it."""
    if spec.rule != DEFAULT:  # whose class would load numpy
        named(spec.rule).check_spec(spec)


def needless_radii(rule: str, radii: str) -> str:
    """Why nobody should give radii to a rule that certifies any: they would only change the key. Empty where they make sense."""
    told = f"radii={radii} is for a rule that certifies given radii only; {rule} certifies every radius, so leave it out"
    return told if radii and not named(rule).takes_radii else ""


def of(spec: CertifySpec, wanted: str | None = None) -> Rule:
    """The rule that reads the evidence of a certification.

    Args:
        wanted: another rule than the one under which it was sampled.

    Raises:
        BenchError: there is no such rule, or it does not read such counts.
    """
    try:
        rule = named(wanted or spec.rule)
    except ValueError as error:
        raise BenchError(f"--{error}") from None
    if rule.stored_as != spec.rule:
        raise BenchError(f"rule {rule.name} reads counts that were sampled under {rule.stored_as}, not under {spec.rule}")
    return rule(spec)
