"""Which subjects a request means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.errors import BenchError, UsageError, nearest
from bench.spec import PROTOCOL_ALIASES, names_row
from bench.store.subject import Subject
from leaderboard.aggregate.where import Where, parse

EXACT = ("dataset", "sigma", "protocol", "recipe", "seed")
OWN = (*EXACT, "method")
"""Keys of `--where` that have a flag, and a field of Filters, of their own; EXACT are fields of subjects, too."""
_READ: Mapping[str, Callable[[str], Any]] = {"sigma": float, "seed": int, "protocol": lambda word: PROTOCOL_ALIASES.get(word, word)}
NOUNS = {"runs": "run", "imported": "imported log", "checkpoints": "checkpoint"}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which rows are wanted; an empty field takes everything.

    Attributes:
        methods: row names, method names, or patterns of row names; the other fields are exact.
        protocols, recipes, seeds: of own runs; imported logs and checkpoints have none, so each of them leaves those out.
        where: whatever else specs and groups hold, see `leaderboard.aggregate.where`.
    """

    datasets: Sequence[str] = ()
    sigmas: Sequence[float] = ()
    methods: Sequence[str] = ()
    protocols: Sequence[str] = ()
    recipes: Sequence[str] = ()
    seeds: Sequence[int] = ()
    where: Where = dataclasses.field(default_factory=dict)

    def narrowed(self, words: Sequence[str]) -> Filters:
        """These and the words of `--where`; a key that has a field of its own fills that field.

        Raises:
            UsageError: a word that is not KEY=VALUE, a number that is none, or a field that is filled already.
        """
        found, problems = parse(words), []
        own: dict[str, Any] = {}
        for name in found.keys() & OWN:
            for value in found[name]:
                try:
                    own.setdefault(f"{name}s", []).append(_READ.get(name, str)(value))
                except ValueError:
                    problems.append(f"--where {name}={value}: {value!r} is no {name}")
            if getattr(self, f"{name}s"):
                flag = "--seeds" if name == "seed" else f"--{name}"
                problems.append(f"--where {name}={found[name][0]}: {flag} says which; give one of the two")
        if problems:
            raise UsageError(problems)
        rest = {name: values for name, values in found.items() if name not in OWN}
        return replace(self, **own, where={**self.where, **rest})

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
        for name, words in self._exact():
            known = {value for subject in subjects if (value := getattr(subject, name)) is not None}
            problems += [f"no {noun} has {_said(name)} {_word(w)}{nearest(_word(w), map(_word, known))}" for w in words if w not in known]
        for word in self.methods:
            if not any(names_row(word, subject.row, subject.method) for subject in subjects):
                names = {name for subject in subjects for name in (subject.row, subject.method)}
                problems.append(f"no {noun} is of method {word!r}{nearest(word, names)}")
        if problems:
            raise UsageError(problems)
        chosen = [subject for subject in subjects if self._takes(subject)]
        if not chosen:
            asked = [f"{_said(name)} {', '.join(map(_word, words))}" for name, words in self._exact()]
            asked += [f"method {', '.join(self.methods)}"] if self.methods else []
            listed = "checkpoints" if noun == "checkpoint" else "runs"
            raise BenchError(f"no {noun} has all of: {'; '.join(asked)}; `bench list {listed}` names those there are")
        return chosen

    def _exact(self) -> list[tuple[str, Sequence[Any]]]:
        """The fields of subjects that it asks for, and their values."""
        return [(name, words) for name in EXACT if (words := getattr(self, f"{name}s"))]

    def _takes(self, subject: Subject) -> bool:
        exact = all(getattr(subject, name) in words for name, words in self._exact())
        return exact and (not self.methods or any(names_row(word, subject.row, subject.method) for word in self.methods))


def _said(name: str) -> str:
    return "data set" if name == "dataset" else name


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


EVERYTHING = Filters()
