"""Which runs, imported logs and certified checkpoints a request means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from bench.errors import BenchError, UsageError, nearest
from bench.logs import Import
from bench.store.runs import Run
from leaderboard.aggregate.foreign import Checkpoint


class Facts(Protocol):
    """What is known of whatever can be a row."""

    @property
    def dataset(self) -> str: ...
    @property
    def sigma(self) -> float: ...
    @property
    def row(self) -> str: ...
    @property
    def method(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which rows are wanted; an empty field takes everything.

    Attributes:
        methods: row names, method names, or patterns of either; the other fields are exact.
        protocols, recipes, seeds: of own runs; imported logs and checkpoints have none, so each of them leaves those out.
    """

    datasets: Sequence[str] = ()
    sigmas: Sequence[float] = ()
    methods: Sequence[str] = ()
    protocols: Sequence[str] = ()
    recipes: Sequence[str] = ()
    seeds: Sequence[int] = ()

    def apply(
        self, runs: Sequence[Run], logs: Sequence[Import], checkpoints: Sequence[Checkpoint]
    ) -> tuple[list[Run], list[Import], list[Checkpoint]]:
        """Those that fit all fields.

        Raises:
            UsageError: a word that fits none of them. BenchError: words that fit only one by one.
        """
        specs: list[Facts] = [*(run.named for run in runs), *(log.spec for log in logs), *checkpoints]
        noun = "run" if runs else "imported log" if logs else "checkpoint"
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
        chosen = (
            [run for run in runs if self._takes(run.named)],
            [log for log in logs if self._takes(log.spec)],
            [checkpoint for checkpoint in checkpoints if self._takes(checkpoint)],
        )
        if not any(chosen):
            asked = [f"{what} {', '.join(map(_word, words))}" for what, words, _ in self._exact() if words]
            asked += [f"method {', '.join(self.methods)}"] if self.methods else []
            listed = "checkpoints" if noun == "checkpoint" else "runs"
            raise BenchError(f"no {noun} has all of: {'; '.join(asked)}; `bench list {listed}` names those there are")
        return chosen

    def _exact(self) -> tuple[tuple[str, Sequence[Any], Callable[[Facts], Any]], ...]:
        return (
            ("data set", self.datasets, lambda spec: spec.dataset),
            ("sigma", self.sigmas, lambda spec: spec.sigma),
            ("protocol", self.protocols, lambda spec: getattr(spec, "protocol", None)),
            ("recipe", self.recipes, lambda spec: getattr(spec, "recipe", None)),
            ("seed", self.seeds, lambda spec: getattr(spec, "seed", None)),
        )

    def _takes(self, spec: Facts) -> bool:
        exact = all(not words or field(spec) in words for _, words, field in self._exact())
        return exact and (not self.methods or any(fits(spec, word) for word in self.methods))


def fits(spec: Facts, word: str) -> bool:
    """Whether a word names a row or its method, or is a pattern of either."""
    # Equality first: the brackets of a row's name mean something else in a pattern.
    return any(name == word or fnmatchcase(name, word) for name in (spec.row, spec.method))


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


EVERYTHING = Filters()
