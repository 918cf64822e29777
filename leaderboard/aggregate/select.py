"""Which runs and imported logs a request means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from bench.errors import BenchError, UsageError, nearest
from bench.imported import Import, ImportSpec
from bench.spec import RunSpec
from bench.store import Run

Item = TypeVar("Item", Run, Import)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which rows are wanted; an empty field takes everything.

    Attributes:
        methods: row names, method names, or patterns of either; the other fields are exact.
        protocols, recipes, seeds: of own runs; imported logs have none, so each of them leaves imported logs out.
    """

    datasets: Sequence[str] = ()
    sigmas: Sequence[float] = ()
    methods: Sequence[str] = ()
    protocols: Sequence[str] = ()
    recipes: Sequence[str] = ()
    seeds: Sequence[int] = ()

    def apply(self, runs: Sequence[Run], logs: Sequence[Import]) -> tuple[list[Run], list[Import]]:
        """The runs and logs that fit all fields.

        Raises:
            UsageError: a word that fits none of them. BenchError: words that fit only one by one.
        """
        specs: list[RunSpec | ImportSpec] = [*(run.spec for run in runs), *(log.spec for log in logs)]
        noun = "run" if runs else "imported log"
        problems = []
        for what, words, field in self._exact():
            known = {value for spec in specs if (value := field(spec)) is not None}
            problems += [f"no {noun} has {what} {_word(w)}{nearest(_word(w), map(_word, known))}" for w in words if w not in known]
        names = {name for spec in specs for name in (spec.row, spec.method)}
        for word in self.methods:
            if not any(fits(spec, word) for spec in specs):
                problems.append(f"no {noun} is of method {word!r}{nearest(word, names)}")
        if problems:
            raise UsageError(problems)
        chosen = [run for run in runs if self._takes(run.spec)], [log for log in logs if self._takes(log.spec)]
        if not any(chosen):
            asked = [f"{what} {', '.join(map(_word, words))}" for what, words, _ in self._exact() if words]
            asked += [f"method {', '.join(self.methods)}"] if self.methods else []
            raise BenchError(f"no {noun} has all of: {'; '.join(asked)}; `bench list runs` names those there are")
        return chosen

    def _exact(self) -> tuple[tuple[str, Sequence[Any], Callable[[RunSpec | ImportSpec], Any]], ...]:
        return (
            ("data set", self.datasets, lambda spec: spec.dataset),
            ("sigma", self.sigmas, lambda spec: spec.sigma),
            ("protocol", self.protocols, lambda spec: getattr(spec, "protocol", None)),
            ("recipe", self.recipes, lambda spec: getattr(spec, "recipe", None)),
            ("seed", self.seeds, lambda spec: getattr(spec, "seed", None)),
        )

    def _takes(self, spec: RunSpec | ImportSpec) -> bool:
        exact = all(not words or field(spec) in words for _, words, field in self._exact())
        return exact and (not self.methods or any(fits(spec, word) for word in self.methods))


def fits(spec: RunSpec | ImportSpec, word: str) -> bool:
    """Whether a word names a row or its method, or is a pattern of either."""
    # Equality first: the brackets of a row's name mean something else in a pattern.
    return any(name == word or fnmatchcase(name, word) for name in (spec.row, spec.method))


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


EVERYTHING = Filters()
