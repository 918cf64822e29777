"""results/quick: two seeds of nine rows, and what docs/notes/reproduction.md prints of them."""

from __future__ import annotations

import re
from pathlib import Path

import bench
from bench.verify import verify

ROOT = Path(__file__).resolve().parent.parent


def test_the_evidence_holds_and_the_page_prints_it() -> None:
    report = verify(ROOT / "results" / "quick")
    assert not report.failures
    summary = bench.summary(bench.load_results(ROOT / "results" / "quick"), metrics=["ACR"])
    assert set(summary["n"]) == {2}
    page = (ROOT / "docs" / "notes" / "reproduction.md").read_text(encoding="utf-8")
    section = page[page.index("## Nine rows, two seeds") : page.index("## SmoothMix, with a third")]
    printed = {line.split(" | ")[0].strip("| "): re.findall(r"(\S+) ±(\S+)", line) for line in section.splitlines() if "±0" in line}
    assert len(printed) == 9
    for row, cells in printed.items():
        own = summary[summary["row"] == row].sort_values("sigma")
        assert cells == [(f"{mean:.4f}", f"{std:.4f}") for mean, std in zip(own["mean"], own["std"], strict=True)]
