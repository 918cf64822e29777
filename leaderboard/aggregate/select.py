"""Which subjects a request means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from bench.errors import BenchError, UsageError, nearest
from bench.store.subject import Subject

NOUNS = {"runs": "run", "imported": "imported log", "checkpoints": "checkpoint"}


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

    @property
    def of_runs(self) -> bool:
        """Whether it asks for what only runs have."""
        return bool(self.protocols or self.recipes or self.seeds)

    def apply(self, subjects: Sequence[Subject]) -> list[Subject]:
        """Those that fit all fields.

        Raises:
            UsageError: a word that fits none of them. BenchError: words that fit only one by one.
        """
        sources = {subject.source for subject in subjects}
        noun = next(word for source, word in NOUNS.items() if source in sources)
        problems = []
        for what, words, field in self._exact():
            known = {value for subject in subjects if (value := field(subject)) is not None} if words else set()
            problems += [f"no {noun} has {what} {_word(w)}{nearest(_word(w), map(_word, known))}" for w in words if w not in known]
        for word in self.methods:
            if not any(fits(subject, word) for subject in subjects):
                names = {name for subject in subjects for name in (subject.row, subject.method)}
                problems.append(f"no {noun} is of method {word!r}{nearest(word, names)}")
        if problems:
            raise UsageError(problems)
        chosen = [subject for subject in subjects if self._takes(subject)]
        if not chosen:
            asked = [f"{what} {', '.join(map(_word, words))}" for what, words, _ in self._exact() if words]
            asked += [f"method {', '.join(self.methods)}"] if self.methods else []
            listed = "checkpoints" if noun == "checkpoint" else "runs"
            raise BenchError(f"no {noun} has all of: {'; '.join(asked)}; `bench list {listed}` names those there are")
        return chosen

    def _exact(self) -> tuple[tuple[str, Sequence[Any], Callable[[Subject], Any]], ...]:
        return (
            ("data set", self.datasets, lambda s: s.dataset),
            ("sigma", self.sigmas, lambda s: s.sigma),
            ("protocol", self.protocols, lambda s: s.protocol),
            ("recipe", self.recipes, lambda s: s.recipe),
            ("seed", self.seeds, lambda s: s.seed),
        )

    def _takes(self, subject: Subject) -> bool:
        exact = all(not words or field(subject) in words for _, words, field in self._exact())
        return exact and (not self.methods or any(fits(subject, word) for word in self.methods))


def fits(subject: Subject, word: str) -> bool:
    """Whether a word names a row or its method, or is a pattern of either."""
    # Equality first: the brackets of a row's name mean something else in a pattern.
    return any(name == word or fnmatchcase(name, word) for name in (subject.row, subject.method))


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


EVERYTHING = Filters()
