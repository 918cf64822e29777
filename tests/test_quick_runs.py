"""What docs/notes/reproduction.md prints of results/reference and results/quick."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from scipy.stats import kendalltau
from typer.testing import Result

import bench as api
from bench.verify import verify

ROOT = Path(__file__).resolve().parent.parent
QUICK = ROOT / "results" / "quick"
PAGE = (ROOT / "docs" / "notes" / "reproduction.md").read_text(encoding="utf-8")


def test_the_page_prints_the_table_of_the_full_runs(bench: Callable[..., Result]) -> None:
    printed = bench("table", "--results", ROOT / "results" / "reference", "--protocol", "full", "--method", "gaussian")
    assert " ".join(printed.stdout.split()).replace("─", "") in " ".join(PAGE.split()).replace("─", "")


def test_the_evidence_holds_and_the_page_prints_it() -> None:
    report = verify(QUICK)
    assert not report.failures
    summary = api.summary(api.load_results(QUICK), metrics=["ACR"])
    assert set(summary["n"]) == {2}
    section = PAGE[PAGE.index("## Tables 4 and 5: nine rows") : PAGE.index("### Does the order depend")]
    printed = {line.split(" | ")[0].strip("| "): re.findall(r"(\S+) ±(\S+)", line) for line in section.splitlines() if "±0" in line}
    assert len(printed) == 9
    for row, cells in printed.items():
        own = summary[summary["row"] == row].sort_values("sigma")
        assert cells == [(f"{mean:.4f}", f"{std:.4f}") for mean, std in zip(own["mean"], own["std"], strict=True)]


def test_the_page_prints_how_the_order_depends_on_the_metric(bench: Callable[..., Result]) -> None:
    csv = bench(
        "table", "--results", QUICK, "--table", 5, "--protocol", "quick", "--where", "certify.images=every:20", "--format", "csv"
    ).stdout
    table = pd.read_csv(io.StringIO(csv)).set_index(["sigma", "row"])["paper_mean"].sort_index()
    means = {
        (rule, metric): values.set_index(["sigma", "row"])["mean"][table.index]
        for rule in (None, "two-sided")
        for metric, values in api.summary(api.load_results(QUICK, rule=rule), metrics=["ACR", "clean", "pa"]).groupby("metric")
    }
    orders = {
        "ACR of the two-sided certificate": means["two-sided", "ACR"],
        "right at all: most samples fall on the label": means[None, "clean"],
        "certified at all: pA > 0.5": means[None, "pA>0.5"],
        **{f"pA > {t}": means[None, f"pA>{t}"] for t in (0.75, 0.9, 0.99)},
        "ACR in Table 5 of the paper": table,
    }
    for name, order in orders.items():
        taus = [kendalltau(order[sigma], means[None, "ACR"][sigma]).statistic for sigma in (0.25, 0.5, 1.0)]
        assert f"| {name} | " + " | ".join(f"{tau:.2f}" for tau in taus) + " |" in PAGE
