"""Rows chosen by what their specs hold: `--where KEY=VALUE`, for whatever has no flag of its own.

A key is a field of a spec, such as `hyperparameters.steps`, `train.epochs` or `key`, or a condition that the rows of a table share,
such as `certify.n`, `network` or `changes`. A value is a number, a word or a pattern; an empty one means that there is none.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from bench.errors import UsageError, nearest
from bench.spec import to_json
from bench.store.subject import Subject
from leaderboard.aggregate.groups import Group

HYPERPARAMETERS = "hyperparameters."
_OF_GROUPS = ("n0", "n", "images", "alpha", "changes", "source")
"""Fields of specs that are no facts of a subject alone: groups have them as conditions."""
FEW = 12  # values that are all named where none of them is meant
T = TypeVar("T")
FIRST, SUMMARY = ("dataset", "protocol", "recipe"), "changes"

Where = Mapping[str, Sequence[str]]
"""Key -> values, of which any will do."""


def fields_of(subject: Subject) -> dict[str, Any]:
    """What a subject can be chosen by."""
    spec = {name: value for name, value in flat(to_json(subject.spec)).items() if name.partition(".")[0] not in _OF_GROUPS}
    return spec | {"row": subject.row, "key": subject.key}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The innermost values, each under its names with dots between them."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {above + name: value}
    return found


def conditions_of(group: Group) -> dict[str, Any]:
    """What the rows of a group can be chosen by, all or none of them."""
    return {"dataset": group.dataset, **group.conditions}


def choose(subjects: Sequence[Subject], where: Where) -> tuple[list[Subject], Where]:
    """The subjects that fit those keys that subjects have, and the other keys.

    Raises:
        UsageError: a value that none of them has, or values that none has together.
    """
    if not where:
        return list(subjects), {}
    fields = [fields_of(subject) for subject in subjects]
    known = {name for own in fields for name in own}
    meant = {name if name in known or HYPERPARAMETERS + name not in known else HYPERPARAMETERS + name: v for name, v in where.items()}
    mine = {name: values for name, values in meant.items() if name in known}
    return _fitting(subjects, fields, mine), {name: v for name, v in meant.items() if name not in mine}


def choose_groups(groups: Sequence[Group], where: Where, subjects: Sequence[Subject]) -> list[Group]:
    """The groups that fit.

    Args:
        subjects: those that were chosen from, for the names that there are.

    Raises:
        UsageError: a key that neither they nor subjects have, a value that none has, or values that none has together.
    """
    if not where:
        return list(groups)
    facts = [conditions_of(group) for group in groups]
    known = {name for own in facts for name in own}
    every = known | {name for subject in subjects for name in fields_of(subject)}
    if unknown := [name for name in where if name not in known]:
        raise UsageError([f"--where {name}=: no row has a field {name!r}{nearest(name, every)}" for name in unknown])
    return _fitting(groups, facts, where)


def _fitting(things: Sequence[T], facts: Sequence[Mapping[str, Any]], where: Where) -> list[T]:
    """The things whose facts fit. UsageError for a value that none has, and where none is left."""
    problems = []
    for name, words in where.items():
        there = sorted({_word(own.get(name)) for own in facts}, key=lambda word: (len(word), word))
        few = f"; there is {', '.join(value or 'none' for value in there)}" if len(there) <= FEW else ""
        wrong = [word for word in words if not any(_same(value, word) for value in there)]
        problems += [f"--where {name}={word}: no row has that{few or nearest(word, there)}" for word in wrong]
    if problems:
        raise UsageError(problems)

    def fits(own: Mapping[str, Any]) -> bool:
        return all(any(_same(_word(own.get(name)), word) for word in words) for name, words in where.items())

    if not (found := [thing for thing, own in zip(things, facts, strict=True) if fits(own)]):
        raise UsageError([f"no row has all of: {', '.join(f'{name}={word}' for name, words in where.items() for word in words)}"])
    return found


def _word(value: Any) -> str:
    if value in (None, "") and not isinstance(value, bool | int | float):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same(there: str, word: str) -> bool:
    """Whether a word names a value: as it is written, as a number, or as a pattern of it; `none` is nothing."""
    if there == word or (not there and word == "none"):
        return True
    try:
        return float(there) == float(word)
    except ValueError:
        return fnmatchcase(there, word)


def telling_apart(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each of several facts a few names and values that no other has together: data set, protocol and recipe first, where they help."""
    names = list(dict.fromkeys(name for own in facts for name in own))
    words = [{name: _word(own.get(name)) for name in names} for own in facts]

    def said(names: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(own[name] for name in names) for own in words]

    first = [name for name in FIRST if name in names]
    rest = sorted((name for name in names if name not in FIRST), key=lambda name: (name == SUMMARY, -len({*said([name])})))
    taken: list[str] = []
    for name in (*first, *rest):
        if len({*said([*taken, name])}) > len({*said(taken)}):
            taken.append(name)
    found = []
    for place, one in enumerate(words):
        own = list(taken)
        for name in reversed(taken):
            less = [other for other in own if other != name]
            if said(less).count(said(less)[place]) == 1:
                own = less
        found.append({name: one[name] for name in own})
    return found


def flags(chosen: Mapping[str, str]) -> str:
    """The flags that choose it."""
    return " ".join(f"--where {shlex.quote(f'{name}={word}')}" for name, word in chosen.items())


def parse(words: Iterable[str]) -> dict[str, list[str]]:
    """Words of `--where`; a key that is given several times takes any of its values.

    Raises:
        UsageError: words that are not KEY=VALUE.
    """
    found: dict[str, list[str]] = {}
    problems = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            problems.append(f"--where {word} is not of the form KEY=VALUE, such as certify.n=10000 or hyperparameters.steps=4")
        found.setdefault(name, []).append(value)
    if problems:
        raise UsageError(problems)
    return found
