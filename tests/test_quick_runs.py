"""What docs/notes/reproduction.md prints of results/reference and results/quick."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

import bench as api
from bench.verify import verify

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_prints_the_table_of_the_full_runs(bench: Callable[..., Result]) -> None:
    page = (ROOT / "docs" / "notes" / "reproduction.md").read_text(encoding="utf-8")
    printed = bench("table", "--results", ROOT / "results" / "reference", "--protocol", "full", "--method", "gaussian")
    assert " ".join(printed.stdout.split()).replace("─", "") in " ".join(page.split()).replace("─", "")


def test_the_evidence_holds_and_the_page_prints_it() -> None:
    report = verify(ROOT / "results" / "quick")
    assert not report.failures
    summary = api.summary(api.load_results(ROOT / "results" / "quick"), metrics=["ACR"])
    assert set(summary["n"]) == {2}
    page = (ROOT / "docs" / "notes" / "reproduction.md").read_text(encoding="utf-8")
    section = page[page.index("## Nine rows, two seeds") : page.index("## SmoothMix, with a third")]
    printed = {line.split(" | ")[0].strip("| "): re.findall(r"(\S+) ±(\S+)", line) for line in section.splitlines() if "±0" in line}
    assert len(printed) == 9
    for row, cells in printed.items():
        own = summary[summary["row"] == row].sort_values("sigma")
        assert cells == [(f"{mean:.4f}", f"{std:.4f}") for mean, std in zip(own["mean"], own["std"], strict=True)]
