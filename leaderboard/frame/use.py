"""Summaries, tables, comparisons and curves of the evidence table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.errors import BenchError
from leaderboard.aggregate.where import conditions_of, telling_apart
from leaderboard.frame.arguments import several, word
from leaderboard.frame.memory import groups_of
from leaderboard.metrics import DEFAULT, columns_of
from leaderboard.tables import headline, records, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    **{name: name for name in ("dataset", "sigma", "row", "method", "metric", "mean", "std")},
    "n": "n_seeds",
    "status": "state",
    "images": "image_count",
    **{name: name for name in ("notes", "source", "protocol", "changes", "recipe")},
    "network": "arch",
    **{name: name for name in ("normalisation", "alpha", "rounding")},
    "rule": "bound",
    "n0": "n0",
    "samples": "n",
    "selection": "images",
    "sampling_seed": "certify_seed",
}
"""Column of a summary -> field of `leaderboard.tables.records`."""


def summary(
    frame: pd.DataFrame,
    metrics: str | float | Sequence[str | float] = ("ACR", "r=0.5"),
    *,
    seeds: int | Sequence[int] = (),
    mix: bool = False,
) -> pd.DataFrame:
    """Mean and sample standard deviation of metrics over the trainings of each row: the numbers of `bench table`, as a DataFrame.

    Only what is comparable is averaged, exactly as in `bench table`: rows of different protocol, recipe, rule, alpha, images or sample
    sizes stay apart; a row of which a seed is missing or unfinished, or whose trainings are of several versions of its method's code,
    has no mean, and `status` says why.

    Args:
        frame: of `load_results`, whole or filtered.
        metrics: one or several of ACR; certified accuracy at a radius, as `r=0.5`, `0.5` or a number; accuracy (at the radii of the
            paper's table); clean, abstention, quantiles, median, classes, bound, pa, budget, norms, cost, errors or all, as of
            `bench table --metric`.
        seeds: the seeds that each row must have, and over which it is averaged: a number N means seeds 0 to N - 1, a list just
            those; empty: all that any comparable run of the folder has. A frame that you filtered by seed needs it.
        mix: average trainings of several versions of a method's code all the same.

    Returns:
        one row per table, sigma, row and metric, with these columns.

        table: rows with the same number are comparable.
        dataset, sigma (in pixels of [0, 1]), row, method.
        metric: as you wrote it. ACR is in pixels, accuracy and abstention are in %.
        mean, std: over the trainings; std with ddof=1, missing for one training.
        n: trainings in the mean.
        status: `done`, or what is missing.
        notes: what to know of row and table.
        images: test images that were certified.
        source, protocol, changes, recipe, network, normalisation, alpha, rounding, rule, n0, samples (n of the certification), selection
        (of images), sampling_seed: the conditions that the rows of a table share.

    Raises:
        BenchError: an unknown metric; a frame that load_results did not make, or whose rows stand twice.
    """
    words = _words(metrics)
    names = {found[0].name: word for word in words if len(found := columns_of([word], (), 0)) == 1}
    lines = []
    for number, group in enumerate(groups_of(frame, words, seeds, mix), start=1):
        for record in records(group):
            own = record["heading"] if record["heading"].startswith("r=") else record["metric"]
            record["metric"] = names.get(record["metric"], own)
            lines.append({"table": number} | {column: record[field] for column, field in NAMES.items()})
    result = pd.DataFrame(lines, columns=["table", *NAMES])
    return result.astype({"table": "int64", "sigma": "float64", "mean": "float64", "std": "float64", "n": "int64", "images": "int64"})


def _words(metrics: Any) -> list[str]:
    found = several(metrics, "metrics", (str, Real))
    numbers = [float(m) if isinstance(m, Real) and not isinstance(m, bool) else None for m in found]
    return [str(m) if r is None else f"{r:g}" if float(f"{r:g}") == r else repr(r) for m, r in zip(found, numbers, strict=True)]


def table(
    frame: pd.DataFrame,
    format: str = "terminal",
    *,
    metrics: str | float | Sequence[str | float] | None = None,
    seeds: int | Sequence[int] = (),
    mix: bool = False,
    marks: str = "test",
    constant: bool = False,
    width: int = 120,
    color: bool = False,
) -> str:
    """The tables of `bench table` as text.

    Args:
        frame: of `load_results`, whole or filtered.
        format: terminal, markdown, latex, html, csv or json.
        metrics: as of `summary`. None: ACR and accuracy; in JSON all.
        seeds: as of `summary`.
        mix: let rows that are not comparable share a table, and average trainings of several versions of a method's code; each
            difference is a footnote, and nothing is marked in such a table.
        marks: `test`: bold is an ACR that cannot be told from the best, by a test over images; `paper`: what is better and best,
            without a test; `none`.
        constant: a row for the constant classifier, which is never ranked.
        width: characters per line of the terminal.
        color: whether the terminal shows bold and underlined.

    Raises:
        BenchError: as `summary`; an unknown format; nothing to show; `constant` of a mixture.
    """
    word(format, "format")
    words = _words(metrics) if metrics is not None else ["all"] if format == "json" else list(DEFAULT)
    groups = groups_of(frame, words, seeds, mix)
    return render(groups, format, marks=marks, constant=constant, width=width, color=color)


def compare(frame: pd.DataFrame, a: str, b: str | Sequence[str], *, seeds: int | Sequence[int] = ()) -> pd.DataFrame:
    """Row A against one or more rows B, across trainings and across test images: the numbers of `bench compare`, as a DataFrame.

    Every difference is B - A. The two kinds of uncertainty answer different questions and are never pooled (docs/notes/tables.md). p_holm
    is corrected over all tests of its kind in this call, so one call with several rows B is not several calls.

    Args:
        frame: of `load_results`, whole or filtered.
        a: a row such as `gaussian`; of rows that share a name, with its mark: `gaussian #1`.
        b: another row, a pattern such as `smoothmix*`, or a list of them.
        seeds: as of `summary`.

    Returns:
        for each sigma and row B one line of the ACR across seeds, one of the ACR across images, and one for the certified accuracy at each
        radius of the paper's table, with these columns. What is not known or not tested is missing.

        title, source: what all rows share. sigma: in pixels of [0, 1]. a, b: the rows.
        uncertainty: seeds or images. metric: ACR or a radius. speaks_of: what p speaks of, methods or networks.
        runs_a, runs_b: the seeds in the means. paired: whether they are paired. images: test images.
        value_a, value_b, difference, low, high: ACR in pixels, certified accuracy in %; low to high is the 95 % interval of the difference.
        std_a, std_b, std_difference: over trainings, ddof=1. error: standard error of the mean difference over images.
        effect: mean / std of paired differences, or Hedges' g. p, p_least, p_holm: of the test, the least that so many runs can give, and
        corrected. more_a, more_b, tie: shares of images in [0, 1] where A, B or neither has the larger radius. note: what was not tested.

        `result.attrs["notes"]` names what was left out, such as an unfinished row, and what to know of the rows.

    Raises:
        BenchError: a row that is not there or not finished; rows that stand in no comparable group together, or in several; a frame that
            load_results did not make.
    """
    from leaderboard.compare import compare_groups, document
    from leaderboard.compare.rows import unmarked

    if not (bs := several(b, "b", str)):
        raise BenchError("b names no row to compare with")
    groups = groups_of(frame, (), seeds, methods=[unmarked(name) for name in (word(a, "a"), *bs)])
    report = compare_groups(groups, a, bs, choose=_choosing)
    found = document(report)
    result = pd.DataFrame([{name: line.get(name) for name in found.fields} for line in found.lines]).fillna({"note": ""})
    words = ("title", "source", "a", "b", "uncertainty", "metric", "speaks_of", "runs_a", "runs_b", "paired", "images", "note")
    result = result.astype({name: "float64" for name in found.fields if name not in words})
    result.attrs["notes"] = list(report.notes)
    return result


def _choosing(chosen: Mapping[str, str]) -> str:
    """How to ask for the group of which this is true."""
    return f"bench.load_results(..., where={[f'{name}={value}' for name, value in chosen.items()]})"


def plot_curves(frame: pd.DataFrame, *, axes: Axes | None = None, seeds: int | Sequence[int] = ()) -> Axes:
    """Certified accuracy against radius: the curves of `bench plot curves` in one panel.

    One line per row and noise level: the mean over its trainings, with a band of one sample standard deviation where there are several.
    Unfinished rows are left out and named below.

    Args:
        frame: of `load_results`, of rows that are comparable; choose them, as in `frame[frame["protocol"] == "quick"]` or
            `load_results(path, where=["train.epochs=30"])`.
        axes: where to draw; a new figure if None.
        seeds: as of `summary`.

    Raises:
        BenchError: rows that are not comparable, and how to choose among them; nothing that is finished.
    """
    from leaderboard.plots import draw_curves, picture_of

    groups = groups_of(frame, ["ACR"], seeds)
    if not groups:
        raise BenchError("there is nothing to draw: the frame is empty")
    if len(groups) > 1:
        ways = map(_choosing, telling_apart([conditions_of(group) for group in groups]))
        told = f"{len(groups)} groups of rows fit, and they are never mixed in one picture; choose one"
        raise BenchError(f"{told}: {'; '.join(f'{way} for {headline(group)}' for way, group in zip(ways, groups, strict=True))}")
    return draw_curves(picture_of("curves", groups[0]), axes)
