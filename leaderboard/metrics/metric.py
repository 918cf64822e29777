"""What a metric is: a function of one training's evidence that says its own name; and from words to columns of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Real
from types import ModuleType
from typing import Any, Literal, TypeVar

from bench.errors import BenchError, lies_here, nearest
from leaderboard.metrics.outcomes import Outcomes

ACCURACY = "accuracy"
Better = Literal["more", "less"] | None
Function = TypeVar("Function", bound=Callable[..., float | None])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a table.

    Attributes:
        name: in CSV and JSON.
        heading: in tables.
        better: which end is the good one; None: neither, and nothing in the column is marked.
        of_seed: value of one training, None where the evidence does not say; mean and deviation are taken over the trainings.
        of_row: value of all trainings together, in place of `of_seed`.
        of_radii: it is made of radii themselves, not of radii compared with a fixed one; not every rule ranks or gives such values.
        meaning: a sentence for the caption, shared by the columns of one word.
    """

    name: str
    heading: str
    decimals: int = 2
    better: Better = "more"
    of_seed: Callable[[Outcomes], float | None] | None = None
    of_row: Callable[[Sequence[Outcomes]], float | None] | None = None
    of_radii: bool = False
    meaning: str = ""


Columns = Callable[[Sequence[str], int], list[Metric]]
"""From the radii and the number of classes of a data set to the columns that one function gives."""


def metric(
    word: str,
    *,
    name: str = "",
    heading: str = "",
    decimals: int = 2,
    better: Better = "more",
    each: Literal["radii", "classes"] | Sequence[float | str] | None = None,
    of_row: bool = False,
    of_radii: bool = False,
    meaning: str | None = None,
) -> Callable[[Function], Function]:
    """Makes a metric of a function `(Outcomes) -> float | None`; None says that the evidence does not tell.

    Args:
        word: what `--metric` calls it; several functions may share one. name, heading: of the column; the word if empty.
        each: a column for each of these values (the radii of the data set's tables, its classes, or some values), which the function
            takes as its second argument and which stands in name and heading in place of `{}`.
        of_row: it is a function of the evidence of all trainings of a row, which has no deviation.
        meaning: a sentence for the caption; None: the first line of the docstring.
    """

    def register(function: Function) -> Function:
        said = meaning if meaning is not None else (function.__doc__ or "").strip().split("\n")[0]

        def column(value: Any = None, *more: Any) -> Metric:
            def of(evidence: Any) -> float | None:
                try:
                    found: object = function(evidence, *more)
                except BenchError:
                    raise
                except Exception as error:  # whatever a metric of the user's does
                    raise BenchError(f"metric {word!r} cannot be computed: {type(error).__name__}: {error}") from error
                if found is None or (isinstance(found, Real) and math.isfinite(found)):
                    return None if found is None else float(found)
                raise BenchError(f"metric {word!r} gives {found!r}, which is neither a finite number nor None")

            return Metric(
                name=(name or word).format(value),
                heading=(heading or name or word).format(value),
                decimals=decimals,
                better=better,
                of_seed=None if of_row else of,
                of_row=of if of_row else None,
                of_radii=of_radii,
                meaning=said,
            )

        def columns(radii: Sequence[str], classes: int) -> list[Metric]:
            if each is None:
                return [column()]
            values: Sequence[Any] = radii if each == "radii" else range(classes) if each == "classes" else each
            return [column(value, value) for value in values]

        function.__metric__ = word, columns  # type: ignore[attr-defined]
        return function

    return register


METRICS: dict[str, list[Columns]] = {}
"""Word -> what gives its columns, in order."""


def defined_in(module: ModuleType) -> dict[str, list[Columns]]:
    """The metrics of a module, by word, in the order in which they stand there."""
    found: dict[str, list[Columns]] = {}
    for value in vars(module).values():
        if known := getattr(value, "__metric__", None):
            word, columns = known
            found.setdefault(word, []).append(columns)
    return found


def columns_of(words: Iterable[str], radii: Sequence[str], classes: int) -> tuple[Metric, ...]:
    """The columns that words ask for: those of `METRICS`, `all`, or a radius such as `0.75`.

    Args:
        radii: those of `accuracy`.
        classes: K of the data set.

    Raises:
        BenchError: an unknown word, or a radius that is no finite number from 0 up.
    """
    found: dict[str, Metric] = {}
    for word in words:
        if word in METRICS or word == "all":
            named = METRICS if word == "all" else [word]
            chosen = [column for name in named for columns in METRICS[name] for column in columns(radii, classes)]
        else:
            chosen = METRICS[ACCURACY][0]([_radius(word, classes)], 0)
        for column in chosen:
            found.setdefault(column.name, column)
    return tuple(found.values())


def _radius(word: str, classes: int) -> str:
    """A radius as columns are named: at least two decimals."""
    try:
        r = float(word.removeprefix("r="))
    except ValueError:
        raise BenchError(f"there is no metric {word!r}{lies_here(word) or _meant(word, classes)}") from None
    if not (math.isfinite(r) and r >= 0):
        raise BenchError(f"radius {word} must be a finite number from 0 up, such as 0.5")
    r += 0.0  # no -0.00
    return text if float(text := f"{r:.2f}") == r else repr(r)


def _meant(word: str, classes: int) -> str:
    """The nearest metric, or the metric of the nearest column, as the end of a sentence: columns bear other names than what gives them."""
    columns = {
        text.casefold(): f"; did you mean {metric!r}, which gives the column {text!r}?"
        for metric, functions in reversed(METRICS.items())
        for column in (column for function in functions for column in function((), classes))
        for text in (column.name, column.heading)
    }
    told = columns | {metric.casefold(): f"; did you mean {metric!r}?" for metric in [*METRICS, "all"]}
    close = get_close_matches(word.casefold(), told, n=1)
    return told[close[0]] if close else nearest(word, [*METRICS, "all"])
