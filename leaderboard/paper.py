"""The paper's tables, rebuilt from what the store holds: imported logs or our own runs.

Source of the layouts and of the printed numbers: SmoothMix (Jeong et al., NeurIPS 2021), Tables 4 to 11.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.bounds import check_alpha
from bench.errors import BenchError, nearest
from bench.imported import Import, imports, runs_of_table
from bench.store import Run, Store
from leaderboard import layouts, metrics
from leaderboard.aggregate import data_notes
from leaderboard.tables import escape_latex

Compat = Literal["exact", "3sig"]
Source = Literal["imported", "runs"]
RULES = {
    "exact": "correct and radius > r, radii as exact as the evidence",
    "3sig": "correct and radius >= r, radii rounded to 3 significant digits, as in the paper",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One value of a table.

    Attributes:
        values: one per run that it averages, ACR in pixels or accuracy in %; empty where any of them is not there.
        status: what is there instead, e.g. `2/5 runs`.
        printed: the paper's value.
    """

    values: tuple[float, ...]
    status: str
    printed: layouts.Published

    @property
    def mean(self) -> str:
        """To the paper's digits; empty where a run is missing."""
        return f"{statistics.fmean(self.values):.{self._decimals}f}" if self.values else ""

    @property
    def std(self) -> str:
        """Sample standard deviation (ddof=1) to the paper's digits; empty for one run."""
        return f"{statistics.stdev(self.values):.{self._decimals}f}" if len(self.values) > 1 else ""

    @property
    def text(self) -> str:
        """As the paper prints it."""
        return _join(self.mean, self.std) if self.values else self.status

    @property
    def paper(self) -> str:
        """What the paper prints."""
        return _join(self.printed.mean, self.printed.std)

    @property
    def difference(self) -> str:
        """Mean minus the paper's, both to the paper's digits."""
        return f"{float(self.mean) - float(self.printed.mean):+.{self._decimals}f}" if self.values else ""

    @property
    def _decimals(self) -> int:
        return len(self.printed.mean.partition(".")[2])


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper with our numbers.

    Attributes:
        entries: (sigma, row, metric), as the layout writes them -> entry.
        notes: what a reader must know about where the numbers come from.
    """

    layout: layouts.Layout
    entries: Mapping[tuple[str, str, str], Entry]
    source: Source
    caption: str
    notes: tuple[str, ...]


def build(
    number: int,
    store: Store,
    *,
    source: Source | None = None,
    compat: Compat = "exact",
    alpha: float = 0.001,
    protocol: str = "full",
    recipe: str = "official",
) -> PaperTable:
    """A table of the paper from the store.

    Args:
        source: imported logs or our own runs; None takes the one that the store has.
        compat: `3sig` rounds radii to 3 significant digits and compares with >=, as the paper did (also of our own exact radii).
        alpha: chance that a certificate is wrong; imported logs have one of their own, which is fixed.
        protocol, recipe: which of our own runs.

    Raises:
        BenchError: no such table, nothing to fill it with, or both sources and no choice.
    """
    try:
        check_alpha(alpha)
    except ValueError as error:
        raise BenchError(str(error)) from None
    layout = layouts.load(number)
    logs = [log for log in imports(store.root) if log.spec.dataset == layout.dataset] if source != "runs" else []
    runs = [] if source == "imported" else [r for r in store.runs() if _belongs(r, layout, protocol, recipe)]
    if logs and runs:
        raise BenchError(f"{store.root} holds imported logs and runs of its own for table {number}; say --from imported or --from runs")
    if not logs and not runs:
        known = f"runs of protocol {protocol} and recipe {recipe} on {layout.dataset}"
        others = sorted(
            {f"--protocol {r.spec.protocol} --recipe {r.spec.recipe}" for r in store.runs() if r.spec.dataset == layout.dataset}
        )
        hint = f"; there is {', '.join(others)}" if others else ""
        raise BenchError(f"{store.root} holds nothing for table {number}: neither imported logs nor {known}{hint}")
    found = dict(_of_logs(layout, logs, compat) if logs else _of_runs(layout, runs, compat, alpha))
    entries = {
        (p.sigma, p.row, p.metric): _entry(found.get((p.sigma, p.row)), p, len(runs_of_table(number, p.row, float(p.sigma))) if logs else 1)
        for p in layouts.values(number)
    }
    kind: Source = "imported" if logs else "runs"
    rule = f" Certified accuracy at r in %: {RULES[compat]}." if layout.radii else ""
    caption = f"Table {number}. {layout.caption}{rule}" if logs else f"Layout of Table {number} with {_ours(runs)}.{rule}"
    return PaperTable(layout=layout, entries=entries, source=kind, caption=caption, notes=tuple(_notes(logs, runs, alpha)))


_Values = Callable[[str], float]


def _belongs(run: Run, layout: layouts.Layout, protocol: str, recipe: str) -> bool:
    spec = run.spec
    plain = not any(name.startswith("train.") for name in spec.changes)
    return (spec.dataset, spec.protocol, spec.recipe) == (layout.dataset, protocol, recipe) and spec.row in layout.labels and plain


def _of_logs(layout: layouts.Layout, logs: Sequence[Import], compat: Compat) -> Iterator[tuple[tuple[str, str], list[_Values | None]]]:
    by_place = {(log.spec.row, log.spec.sigma, log.spec.run): log for log in logs}
    for sigma in layout.sigmas:
        for row in layout.rows:
            names = runs_of_table(layout.number, row, float(sigma))
            chosen = [by_place.get((row, float(sigma), name)) for name in names]
            yield (sigma, row), [None if log is None else _log_values(log, compat) for log in chosen]


def _log_values(log: Import, compat: Compat) -> _Values:
    data = log.columns()
    return _values(data.correct, data.radius, compat)


def _of_runs(
    layout: layouts.Layout, runs: Sequence[Run], compat: Compat, alpha: float
) -> Iterator[tuple[tuple[str, str], list[_Values | None]]]:
    certifications = {c.spec.key: c.spec for run in runs for c in run.certifications() if not c.spec.changes}
    if len(certifications) > 1:
        raise BenchError(f"table {layout.number}: runs of one protocol were certified in several ways, which never share a table")
    for sigma in layout.sigmas:
        for row in layout.rows:
            same = [run for run in runs if (run.spec.row, run.spec.sigma) == (row, float(sigma))]
            if len({run.spec.cell for run in same}) > 1:
                raise BenchError(f"table {layout.number}: {row} at sigma {sigma} was run with several settings; see `bench table`")
            yield (sigma, row), [_run_values(run, list(certifications), compat, alpha) for run in same]


def _run_values(run: Run, keys: Sequence[str], compat: Compat, alpha: float) -> _Values | None:
    certification = next((c for c in run.certifications() if c.spec.key in keys), None)
    standing = certification.standing() if certification else None
    if standing is None or standing.state != "done":
        return None
    o = metrics.outcomes(standing.rows, alpha, run.spec.sigma)
    radius = np.array([float(f"{r:.3g}") for r in o.radius]) if compat == "3sig" else o.radius
    return _values(o.correct, radius, compat)


def _values(correct: NDArray[np.bool_], radius: NDArray[np.float64], compat: Compat) -> _Values:
    """Metric -> value over all images: ACR in pixels, accuracies in %."""

    def value(metric: str) -> float:
        if metric == layouts.ACR:
            return float((radius * correct).sum()) / len(radius)
        return _share(correct, radius, float(metric), compat)

    return value


def _share(correct: NDArray[np.bool_], radius: NDArray[np.float64], r: float, compat: Compat) -> float:
    beyond = radius >= r if compat == "3sig" else radius > r
    return 100 * int(np.count_nonzero(correct & beyond)) / len(radius)


def _entry(runs: list[_Values | None] | None, printed: layouts.Published, expected: int) -> Entry:
    runs = runs or []
    values = tuple(run(printed.metric) for run in runs if run is not None)
    whole = bool(runs) and len(values) == len(runs)
    status = "" if whole else f"{len(values)}/{max(expected, len(runs))} runs" if values else "missing"
    return Entry(values=values if whole else (), status=status, printed=printed)


def _ours(runs: Sequence[Run]) -> str:
    """`our runs: mnist, protocol quick, recipe official, seeds 0, 1`."""
    first = runs[0].spec
    seeds = ", ".join(map(str, sorted({run.spec.seed for run in runs})))
    return f"our runs: {first.dataset}, protocol {first.protocol}, recipe {first.recipe}, seeds {seeds}"


def _notes(logs: Sequence[Import], runs: Sequence[Run], alpha: float) -> Iterator[str]:
    if logs:
        names = ", ".join(sorted({log.spec.collection for log in logs}))
        yield f"From imported logs ({names}): they hold no counts, and their radii are rounded as printed."
    else:
        yield f"alpha = {alpha:g}; ±: sample standard deviation over the seeds."
        for spec in {c.spec.key: c.spec for run in runs for c in run.certifications() if not c.spec.changes}.values():
            yield f"Certification: n0 = {spec.n0:,}, n = {spec.n:,}, test images {spec.images}."
        yield from (f"{note[0].upper()}{note[1:]}." for note in data_notes([c for run in runs for c in run.certifications()]))


# What the published logs themselves do not give back, found by recomputing them.
EXCEPTIONS: Mapping[int, tuple[str, ...]] = {
    4: ("Consistency at sigma 1.00: the paper averages 6 runs, the logs of the table are 5.",),
    5: (
        "Consistency: the paper's deviations at sigma 0.50 and 1.00 divide by n, not n - 1.",
        "Consistency: the paper's ACR at sigma 0.25 is 0.9279, that of the logs 0.9282.",
    ),
    6: (
        "The paper's Gaussian row is a log of 500 images, every other row 10,000; the Gaussian row fits alpha 0.01.",
        "The SmoothAdv and MACER rows are models released by their authors.",
    ),
    7: ("The paper's SmoothAdv rows are 427 images, not 500; the Gaussian rows fit alpha 0.01.",),
    **dict.fromkeys((8, 9, 10, 11), ("The log of the paper's Gaussian row was not published.",)),
}


def render(table: PaperTable, format: str, *, against: bool = False) -> str:
    """The table as text: terminal, markdown, latex, csv or json.

    Args:
        against: a line with the paper's values and one with the differences below each row.

    Raises:
        BenchError: an unknown format.
    """
    formats: Mapping[str, Callable[[], str]] = {
        "terminal": lambda: _grid(table, against, "simple"),
        "markdown": lambda: _grid(table, against, "pipe"),
        "latex": lambda: _latex(table, against),
        "csv": lambda: _csv(table),
        "json": lambda: _json(table),
    }
    if format not in formats:
        raise BenchError(f"unknown table format {format!r}{nearest(format, formats)}")
    return formats[format]()


def marks(table: PaperTable, place: tuple[str, str, str]) -> tuple[bool, bool]:
    """Whether a value is bold and underlined by the rules of its table.

    Bold: a row that may be bold prints more than the baseline. Underlined: no row prints more, and it is not 0.
    """
    sigma, row, metric = place
    layout = table.layout
    printed = {r: float(e.mean) for (s, r, m), e in table.entries.items() if (s, m) == (sigma, metric) and e.values}
    if row not in printed:
        return False, False
    base = printed.get(layout.baseline)
    bold = layout.may_be_bold(row) and base is not None and printed[row] > base
    best = layout.underline and len(printed) > 1 and printed[row] == max(printed.values()) > 0
    return bold, best


def _footnotes(table: PaperTable, against: bool) -> tuple[str, ...]:
    """The notes, with what is known of the paper's own numbers where they are shown or rebuilt."""
    return table.notes + (EXCEPTIONS.get(table.layout.number, ()) if against or table.source == "imported" else ())


def _lines(table: PaperTable, against: bool, mark: Callable[[str, bool, bool], str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of cells, in the paper's layout; `mark` dresses every text, with whether it is bold and underlined."""
    layout = table.layout

    def plain(text: str) -> str:
        return mark(text, False, False)

    by_sigma = layout.columns == "metrics"
    if by_sigma:
        header = ["sigma", "row", *layout.metrics]
        blocks = [(sigma, [(sigma, metric) for metric in layout.metrics]) for sigma in layout.sigmas]
    else:
        metric = layout.metrics[0]
        header = ["", f"{metric}", *(f"sigma = {sigma}" for sigma in layout.sigmas)]
        blocks = [("", [(sigma, metric) for sigma in layout.sigmas])]
    lines = []
    for title, places in blocks:
        for row, label in layout.labels.items():
            at = [(sigma, row, metric) for sigma, metric in places]
            entries = [table.entries.get(place) for place in at]
            shown = [mark(e.text, *marks(table, place)) if e else "" for place, e in zip(at, entries, strict=True)]
            lines.append([*map(plain, [title if row == layout.rows[0] else "", label]), *shown])
            if against:
                lines.append([*map(plain, ["", "  paper", *(e.paper if e else "" for e in entries)])])
                lines.append([*map(plain, ["", "  difference", *(e.difference if e else "" for e in entries)])])
    return [*map(plain, header)], lines


def _grid(table: PaperTable, against: bool, style: str) -> str:
    from tabulate import tabulate

    def mark(text: str, bold: bool, best: bool) -> str:
        if style == "simple":
            return f"{text}{'+' if bold else ''}{'*' if best else ''}"
        text = f"<u>{text}</u>" if best else text
        return f"**{text}**" if bold else text

    header, lines = _lines(table, against, mark)
    grid = tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=["left", "left", *["right"] * (len(header) - 2)])
    legend = "+: better than the baseline, where the paper marks it; *: best of the column." if style == "simple" else ""
    return "\n".join([table.caption, "", grid, "", *([legend] if legend else []), *_footnotes(table, against)]) + "\n"


def _latex(table: PaperTable, against: bool) -> str:
    def mark(text: str, bold: bool, best: bool) -> str:
        text = escape_latex(text)
        text = rf"\underline{{{text}}}" if best else text
        return rf"\textbf{{{text}}}" if bold else text

    header, lines = _lines(table, against, mark)
    body = [" & ".join(line) + r" \\" for line in [header, *lines]]
    rows = [r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    caption = escape_latex(" ".join([table.caption, *_footnotes(table, against)]))
    columns = "ll" + "r" * (len(header) - 2)
    head = [r"\begin{table}[ht]", r"\centering", rf"\caption{{{caption}}}", r"\footnotesize\setlength{\tabcolsep}{3pt}"]
    parts = [*head, rf"\begin{{tabular}}{{{columns}}}", *rows, r"\end{tabular}", r"\end{table}"]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts) + "\n"


def _csv(table: PaperTable) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "sigma", "row", "metric", "runs", "mean", "std", "status", "paper_mean", "paper_std"])
    for (sigma, row, metric), e in table.entries.items():
        mean = repr(statistics.fmean(e.values)) if e.values else ""
        std = repr(statistics.stdev(e.values)) if len(e.values) > 1 else ""
        writer.writerow([table.layout.number, sigma, row, metric, len(e.values), mean, std, e.status, e.printed.mean, e.printed.std])
    return text.getvalue()


def _json(table: PaperTable) -> str:
    entries = [
        {"sigma": sigma, "row": row, "metric": metric, "values": e.values, "text": e.text, "paper": e.paper, "status": e.status}
        for (sigma, row, metric), e in table.entries.items()
    ]
    data = {"table": table.layout.number, "caption": table.caption, "notes": table.notes, "source": table.source, "entries": entries}
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _join(mean: str, std: str) -> str:
    return f"{mean} ± {std}" if std else mean
