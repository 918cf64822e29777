"""What is printed of a comparison."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bench.errors import counted
from leaderboard.compare.logs import Paired
from leaderboard.compare.rows import Comparison, Report
from leaderboard.compare.statistics import SeedDifference
from leaderboard.flips import DRAWN, FLIPS, SEED
from leaderboard.formats import Cell, Document, Grid, Page, Text
from leaderboard.formats.values import picked
from leaderboard.tables import sigma_text

MEANINGS = {
    "seeds": "Across seeds: the 95 % interval is for the mean difference over all trainings of both rows, on these test images; one more "
    "training can fall outside of it. p speaks of the two methods.",
    "images": "Across images: the 95 % interval is for the mean difference over all images like these, for these trainings. "
    "p speaks of these networks, not of methods.",
}
SPEAKS_OF = {"seeds": "methods", "images": "networks"}
LEGEND = {
    "": "All differences are B - A; ACR in pixels of [0, 1].",
    "±": "±: sample standard deviation (ddof=1).",
    "effect": "effect: mean / std of paired differences, or Hedges' g (g) of unpaired runs.",
    "p of methods": "p of methods: exact permutation test across seeds.",
    "p of networks": f"p of networks: sign flips of the differences of images ({DRAWN}), which the interval inverts; of an accuracy "
    "McNemar's exact test, for one training of each row only. Two trainings of one method often have a small p of networks, so it does not "
    "show that a method is better.",
    "Holm": "Holm: corrected over all tests of its kind in this call; the intervals are not.",
}
"""What stands in a comparison -> what it means."""
FIELDS = (
    *("title", "source", "sigma", "a", "b", "uncertainty", "metric", "speaks_of", "runs_a", "runs_b", "paired", "images"),
    *("value_a", "value_b"),
    *("std_a", "std_b", "difference", "std_difference", "error", "low", "high", "effect", "p", "p_least", "p_holm"),
    *("more_a", "more_b", "tie", "note"),
)
MEANING_OF_LOGS = (
    "95 % interval: for the mean difference over all images like these, for these trainings (sign flips, inverted; "
    f"{DRAWN}), - where too few images differ for one. "
    "one more: where, around the mean of the logs, Student's 95 % prediction interval expects one more training on these images; "
    "- where they all have the same value."
)
FIELDS_OF_LOGS = (
    *("dataset", "sigma", "row", "key", "protocol", "seed", "row_logs", "collection", "selection", "images", "n", "alpha", "acr_exact"),
    *("runs", "metric", "run", "logs", "difference", "low", "high", "predicted", "note"),
)


def document(report: Report | Paired) -> Document:
    """A comparison of rows, or of a run with logs."""
    if isinstance(report, Paired):
        data = {"schema": 2, "meaning": MEANING_OF_LOGS, "differences": "run - mean of logs", **dataclasses.asdict(report)}
        data |= {"half_width": report.half_width, "within": report.within, "outside": report.outside}
        where = f"{report.dataset}, sigma {report.sigma:g}, {counted(report.images, 'test image', ',')} ({report.selection})"
        title = Cell(f"{where}, n={report.n:,}, alpha={report.alpha:g}: {_who(report)}")
        page = Page(title=(title,), parts=tuple(_parts_of_logs(report)))
        return Document(pages=(page,), fields=FIELDS_OF_LOGS, lines=list(_lines_of_logs(report)), data=data)
    data = {"schema": 1, "meanings": MEANINGS, "p_speaks_of": SPEAKS_OF | {"accuracies": SPEAKS_OF["images"]}}
    data |= {"flips": FLIPS, "flips_seed": SEED, "differences": "B - A", **dataclasses.asdict(report)}
    named = Cell("A = "), Cell(report.comparisons[0].a, code=True), Cell(f": {report.title}")
    parts = list(_parts_of_rows(report))
    page = Page(title=named, parts=(*parts, _legend(parts), *(Text(text=note) for note in report.notes)))
    return Document(pages=(page,), fields=FIELDS, lines=[line for c in report.comparisons for line in _lines_of_rows(report, c)], data=data)


def _grid(head: Iterable[str], lines: Iterable[Sequence[str | Cell]], words: int, caption: str) -> Grid:
    """A table without the columns that say nothing in any line."""
    table = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in line] for line in lines]
    names, kept = tuple(head), [place for place, cells in enumerate(zip(*table, strict=True)) if any(cell.text != "-" for cell in cells)]
    found = tuple(tuple(line[place] for place in kept) for line in table)
    return Grid(head=tuple(names[place] for place in kept), lines=found, words=words, caption=caption)


# ---- rows


def _parts_of_rows(report: Report) -> Iterator[Grid | Text]:
    rows = [(sigma_text(c.sigma), Cell(c.b, code=True), c) for c in report.comparisons]
    head: Iterable[str] = ("sigma", "B", "runs", "ACR of A", "ACR of B", "B - A", "95 % interval", "effect", "p of methods", "Holm")
    yield _grid(head, [(sigma, name, *_of_seeds(c.seeds)) for sigma, name, c in rows], 3, "Across seeds")
    yield Text(text=MEANINGS["seeds"])
    yield from _notes([(c, c.seeds.note) for c in report.comparisons])
    lines: list[tuple[str | Cell, ...]] = [
        (
            *(sigma, name, f"{c.images.difference:+.4f}", f"{c.images.error:.4f}", _interval(c.images.low, c.images.high)),
            *(f"{100 * share:.2f} %" for share in (c.images.more_a, c.images.more_b, c.images.tie)),
            *(_p(c.images.p), _p(c.images.p_holm)),
        )
        for sigma, name, c in rows
    ]
    head = ("sigma", "B", "B - A", "std. error", "95 % interval", "A > B", "B > A", "tie", "p of networks", "Holm")
    yield _grid(head, lines, 2, "Across images")
    total = (
        f"{counted(report.comparisons[0].images.images, 'image', ',')}, radius where correct, averaged over the seeds of each row; {DRAWN}."
    )
    yield Text(text=f"{MEANINGS['images']} {total}")
    yield from _notes([(c, c.images.note) for c in report.comparisons])
    accuracies: list[tuple[str | Cell, ...]] = []
    for sigma, name, c in rows:
        accuracies.append((sigma, name, "B - A", *(f"{x.difference:+.2f}" if x.accuracy_a or x.accuracy_b else "-" for x in c.accuracies)))
        if any(x.p is not None for x in c.accuracies):
            accuracies.append(("", "", "p of networks", *(_p(x.p) for x in c.accuracies)))
            accuracies.append(("", "", "Holm", *(_p(x.p_holm) for x in c.accuracies)))
    head = ("sigma", "B", "", *(f"r={x.radius}" for x in report.comparisons[0].accuracies))
    yield _grid(head, accuracies, 3, "Certified accuracy")
    yield Text(text=f"Certified accuracy, in points of %: {report.rule}. A radius that no image reaches in either row has -, or no column.")


def _legend(parts: Sequence[Grid | Text]) -> Text:
    """What the signs that are there mean."""
    grids = [part for part in parts if isinstance(part, Grid)]
    shown = " ".join(
        [*(name for grid in grids for name in grid.head), *(cell.text for grid in grids for line in grid.lines for cell in line)]
    )
    return Text(text=" ".join(meaning for sign, meaning in LEGEND.items() if sign in shown))


def _of_seeds(s: SeedDifference) -> list[str]:
    runs = f"{len(s.runs_a)} paired" if s.paired and len(s.runs_a) > 1 else f"{len(s.runs_a)} and {len(s.runs_b)}"
    means = [f"{mean:.4f}" + ("" if std is None else f" ± {std:.4f}") for mean, std in ((s.mean_a, s.std_a), (s.mean_b, s.std_b))]
    effect = "-" if s.effect is None else f"{s.effect:+.2f}" + ("" if s.paired else " (g)")
    return [runs, *means, f"{s.difference:+.4f}", _interval(s.low, s.high), effect, _p(s.p), _p(s.p_holm)]


def _notes(told: Sequence[tuple[Comparison, str]]) -> Iterator[Text]:
    """Each note once, and of which rows it is true."""
    of: dict[str, list[str]] = {}
    for c, note in told:
        of.setdefault(note, []).append(f"{c.b} at sigma {sigma_text(c.sigma)}")
    yield from (Text(text=f"{'All' if len(of) == 1 else ', '.join(who)}: {note}.") for note, who in of.items() if note)


def _interval(low: float | None, high: float | None, digits: int = 4) -> str:
    return "-" if low is None or high is None else f"{low:+.{digits}f} to {high:+.{digits}f}"


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}"


def _lines_of_rows(report: Report, c: Comparison) -> Iterator[dict[str, Any]]:
    """One line per metric and uncertainty."""
    shared = picked(report, "title", "source") | picked(c, "sigma", "a", "b") | {"uncertainty": "images", "speaks_of": SPEAKS_OF["images"]}
    shared |= {"runs_a": " ".join(c.seeds.runs_a), "runs_b": " ".join(c.seeds.runs_b), "paired": c.seeds.paired, "images": c.images.images}
    acr = shared | {"metric": "ACR", "value_a": c.seeds.mean_a, "value_b": c.seeds.mean_b}
    of_seeds = {name: value for name, value in dataclasses.asdict(c.seeds).items() if name in FIELDS and not name.startswith("runs")}
    yield acr | of_seeds | {"uncertainty": "seeds", "speaks_of": SPEAKS_OF["seeds"]}
    yield acr | dataclasses.asdict(c.images)
    for x in c.accuracies:
        found = {"metric": x.radius, "value_a": x.accuracy_a, "value_b": x.accuracy_b}
        yield shared | found | picked(x, "difference", "p", "p_holm")


# ---- a run and logs


def _who(report: Paired) -> str:
    count = len(report.runs)
    logs = f"{counted(count, 'imported log')} of {report.row_logs} ({report.collection}: {', '.join(report.runs)})"
    return f"run {report.key} of {report.row} (protocol {report.protocol}, seed {report.seed}) against {logs}"


def _parts_of_logs(report: Paired) -> Iterator[Grid | Text]:
    lines = []
    for m in report.metrics:
        name, digits = ("ACR", 4) if m.metric == "ACR" else (f"accuracy at {m.metric}, %", 2)
        numbers = [f"{m.run:.{digits}f}", *_mean_and_range(m.logs, digits), f"{m.difference:+.{digits}f}"]
        lines.append([name, *numbers, _interval(m.low, m.high, digits), "-" if m.predicted is None else f"±{m.predicted:.{digits}f}"])
    head: Iterable[str] = ("", "run", "logs", "lowest to highest", "run - logs", "95 % interval", "one more")
    yield _grid(head, lines, 1, "The run and the logs")
    yield Text(text=MEANING_OF_LOGS)
    shares = [_mean_and_range([100 * share for share in shares], 1) for shares in (report.agreement, report.agreement_among)]
    known = [[value for value in values if value is not None] for values in (report.correlation, report.correlation_among)]
    lines = [
        ["same answer, % of images", *shares[0], *shares[1]],
        ["correlation of radii", *(word for values in known for word in _mean_and_range(values, 3))],
    ]
    head = ("of two trainings", "run and each log", "lowest to highest", "two logs", "lowest to highest")
    yield _grid(head, lines, 1, "Agreement of two trainings")
    yield Text(text="An answer is a class or to abstain. Correlation: Pearson, of the radius where the class is right, else 0.")
    yield from (Text(text=text) for text in (_verdict(report), *report.notes))


def _verdict(report: Paired) -> str:
    if report.spread is None:
        return "One log shows no spread among trainings, so nothing is said about whether the run is one of them."
    count = len(report.runs)
    looks = sum(m.predicted is not None for m in report.metrics)
    names = [name if name == "ACR" else f"accuracy at {name}" for name in report.outside]
    said = f"lies outside for {', '.join(names)}" if names else "lies inside everywhere"
    inside = (
        f"As one more training of the {count} logs' kind, the run {said}. That nothing lies outside would not prove that it is one: "
        f"{count} logs leave the interval wide, and of {looks} such looks one in twenty lies outside by chance."
    )
    if report.half_width is None:
        return inside
    half, limit = report.half_width, report.spread + report.half_width
    return (
        f"{inside} The ACR's difference is {'within' if report.within else 'NOT within'} {limit:.4f}, the largest distance of a log from "
        f"the mean of the logs ({report.spread:.4f}) plus half the interval across images ({half:.4f})."
    )


def _mean_and_range(values: Sequence[float], digits: int) -> tuple[str, str]:
    if not values:
        return "-", "-"
    return f"{statistics.fmean(values):.{digits}f}", f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def _lines_of_logs(report: Paired) -> Iterator[dict[str, Any]]:
    """One line per metric; what holds for all stands in every line."""
    shared = {name: getattr(report, name, None) for name in FIELDS_OF_LOGS}
    shared |= {"runs": " ".join(report.runs), "note": " ".join(report.notes)}
    for m in report.metrics:
        yield shared | dataclasses.asdict(m) | {"logs": " ".join(map(repr, m.logs))}
    for name in ("agreement", "agreement_among", "correlation", "correlation_among"):
        values = ["" if value is None else repr(value) for value in getattr(report, name)]
        yield shared | {"metric": name, "logs": " ".join(values)}
