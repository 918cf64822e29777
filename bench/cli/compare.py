"""`bench compare`: is one row better than another, across seeds and across test images."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import bench.cli.options as options
from bench.cli.common import (
    Format,
    ReadBy,
    Results,
    check_alpha,
    check_out,
    deliver,
    existing_folder,
    format_of,
    guarded,
    numbers,
    plain,
    stop,
)
from bench.cli.pager import Page
from bench.cli.paired import render as render_paired
from bench.cli.tables import SOURCES, From
from bench.errors import nearest

if TYPE_CHECKING:
    from leaderboard.aggregate import Source
    from leaderboard.compare import Comparison, Report, SeedDifference

FIELDS = (
    *("title", "source", "sigma", "a", "b", "uncertainty", "metric", "runs_a", "runs_b", "paired", "images", "value_a", "value_b"),
    *("std_a", "std_b", "difference", "std_difference", "error", "low", "high", "effect", "p", "p_least", "p_holm"),
    *("more_a", "more_b", "tie", "note"),
)
LEGEND = (
    "All differences are B - A; ACR in pixels of [0, 1]. ±: sample standard deviation (ddof=1). effect: mean / std of paired differences, "
    "or Hedges' g (g) of unpaired runs. p: exact permutation test across seeds, paired bootstrap across images, McNemar's exact test of an "
    "accuracy (one training of each row only); Holm: corrected over all tests of its kind in this call; the intervals are not."
)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The row to compare with, such as gaussian; a run's folder or key with --paired.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other row, or a pattern such as 'smoothmix*' for several.")],
    paired: Annotated[bool, typer.Option("--paired", help="Run A against the imported logs of row B, image by image.")] = False,
    logs: Annotated[
        Path | None, typer.Option("--logs", metavar="DIR", help="With --paired: where the imported logs are. Default: --results.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="The data set; mnist unless given.")] = None,
    sigma: options.Sigmas = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="The protocol of our runs.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="The recipe of our runs.")] = None,
    alpha: options.Alpha = None,
    rule: ReadBy = None,
    source: From = None,
    format_: Format = None,
    out: options.Out = None,
    results: Results = Path("results/runs"),
) -> None:
    """Compare row A with row B: differences across seeds and across test images, two kinds of uncertainty that are never pooled.

    With --paired, one run is compared with published logs on the same test images: is it one of theirs?
    """
    problems: list[str] = []
    if paired:
        given = {"--dataset": dataset, "--sigma": sigma, "--protocol": protocol, "--recipe": recipe, "--alpha": alpha, "--rule": rule}
        given["--from"] = source
        if unused := [flag for flag, value in given.items() if value is not None]:
            problems.append(f"{', '.join(unused)}: with --paired the run says what is compared; leave it out")
    elif logs is not None:
        problems.append("--logs says where --paired finds imported logs; give --paired, or leave it out")
    sigmas = numbers(sigma, "--sigma", problems)
    check_alpha(alpha, problems)
    if source is not None and source not in SOURCES:
        problems.append(f"--from {source} is unknown{nearest(source, SOURCES)}")
    form = format_of(format_, out, problems)
    if out is not None:
        check_out(out, "compare.md", problems)
    if problems:
        stop(problems)
    if not (paired and Path(a).is_dir()):
        existing_folder(results)

    from bench.store.runs import Store
    from leaderboard import compare as comparing

    if paired:
        place = existing_folder(logs or results, "--logs" if logs else "--results")
        deliver(guarded(lambda: render_paired(comparing.compare_paired(Store(results).find(a), b, place), form)), out)
        return

    def work() -> str:
        chosen = cast("Source | None", source)
        report = comparing.compare(
            Store(results),
            a,
            b,
            dataset=dataset or "mnist",
            sigmas=sigmas,
            protocol=protocol,
            recipe=recipe,
            alpha=alpha,
            rule=rule,
            source=chosen,
        )
        return render(report, form)

    deliver(guarded(work), out)


def render(report: Report, format: str) -> str:
    """The report as text, ending in a line end; `format` is one of those of --format. Only csv and json have full precision."""
    if format == "csv":
        return _csv(report)
    if format == "json":
        from leaderboard.compare import MEANINGS

        data = {"schema": 1, "meanings": MEANINGS, "differences": "B - A", **dataclasses.asdict(report)}
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    page = Page(format)
    return page.whole(_parts(report, page))


def _parts(report: Report, page: Page) -> Iterator[str]:
    from leaderboard.compare import MEANINGS

    name, prose, table = page.name, page.prose, page.table
    rows = report.comparisons
    yield page.title(f"A = {name(rows[0].a)}: ", report.title)
    seeds = [[_sigma(c), name(c.b), *_seed_cells(c.seeds)] for c in rows]
    yield table(("sigma", "B", "runs", "ACR of A", "ACR of B", "B - A", "95 % interval", "effect", "p", "Holm"), seeds, 3)
    yield prose(MEANINGS["seeds"])
    told: dict[str, list[str]] = {}
    for c in rows:
        told.setdefault(c.seeds.note, []).append(f"{c.b} at sigma {_sigma(c)}")
    yield from (prose(f"{'All' if len(told) == 1 else ', '.join(who)}: {note}.") for note, who in told.items() if note)
    images = [
        [
            *(_sigma(c), name(c.b), f"{c.images.difference:+.4f}", f"{c.images.error:.4f}", _interval(c.images.low, c.images.high)),
            *(f"{100 * share:.2f} %" for share in (c.images.more_a, c.images.more_b, c.images.tie)),
            *(_p(c.images.p), _p(c.images.p_holm)),
        ]
        for c in rows
    ]
    head = ("sigma", "B", "B - A", "std. error", "95 % interval", "A > B", "B > A", "tie", "p", "Holm")
    yield table(head, images, 2)
    total = rows[0].images.images
    yield prose(f"{MEANINGS['images']} {total:,} images, radius where correct, averaged over the seeds of each row; 10,000 resamples.")
    lines = []
    for c in rows:
        lines.append(
            [_sigma(c), name(c.b), "B - A", *(f"{x.difference:+.2f}" if x.accuracy_a or x.accuracy_b else "-" for x in c.accuracies)]
        )
        if any(x.p is not None for x in c.accuracies):
            lines.append(["", "", "p", *(_p(x.p) for x in c.accuracies)])
            lines.append(["", "", "Holm", *(_p(x.p_holm) for x in c.accuracies)])
    yield table(("sigma", "B", "", *(f"r={x.radius}" for x in rows[0].accuracies)), lines, 3)
    yield prose(f"Certified accuracy, in points of %: {report.rule}. -: no image reaches that radius in either row.")
    yield prose(LEGEND)
    yield from (prose(note) for note in report.notes)


def _seed_cells(s: SeedDifference) -> list[str]:
    runs = f"{len(s.runs_a)} paired" if s.paired and len(s.runs_a) > 1 else f"{len(s.runs_a)} and {len(s.runs_b)}"
    means = [f"{mean:.4f}" + ("" if std is None else f" ± {std:.4f}") for mean, std in ((s.mean_a, s.std_a), (s.mean_b, s.std_b))]
    effect = "-" if s.effect is None else f"{s.effect:+.2f}" + ("" if s.paired else " (g)")
    interval = "-" if s.low is None or s.high is None else _interval(s.low, s.high)
    return [runs, *means, f"{s.difference:+.4f}", interval, effect, _p(s.p), _p(s.p_holm)]


def _sigma(c: Comparison) -> str:
    return text if float(text := f"{c.sigma:.2f}") == c.sigma else repr(c.sigma)


def _interval(low: float, high: float) -> str:
    return f"{low:+.4f} to {high:+.4f}"


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}"


def _csv(report: Report) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    for c in report.comparisons:
        shared: dict[str, Any] = {"title": report.title, "source": report.source, "sigma": c.sigma, "a": c.a, "b": c.b}
        shared |= {"runs_a": " ".join(c.seeds.runs_a), "runs_b": " ".join(c.seeds.runs_b), "paired": c.seeds.paired}
        shared |= {"images": c.images.images}
        acr = {"metric": "ACR", "value_a": c.seeds.mean_a, "value_b": c.seeds.mean_b}
        skipped = ("runs_a", "runs_b", "mean_a", "mean_b")
        across_seeds = {k: v for k, v in dataclasses.asdict(c.seeds).items() if k not in skipped}
        lines = [{**acr, "uncertainty": "seeds", **across_seeds}, {**acr, "uncertainty": "images", **dataclasses.asdict(c.images)}]
        for x in c.accuracies:
            values = {"value_a": x.accuracy_a, "value_b": x.accuracy_b, "difference": x.difference, "p": x.p, "p_holm": x.p_holm}
            lines.append({"uncertainty": "images", "metric": x.radius, **values})
        for line in lines:
            writer.writerow({k: _field(v) for k, v in (shared | line).items()})
    return file.getvalue()


def _field(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, (float, bool)) else plain(value)
