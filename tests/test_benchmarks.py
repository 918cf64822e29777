"""The scripts of benchmarks/ load and explain themselves. No test is about their times."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from pages import script, text_of

FOLDER = Path(__file__).parents[1] / "benchmarks"


SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_loads(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, cwd=FOLDER.parent, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's answer; tests/test_graph.py has what a CPU can show")
def test_replayed_steps_equal_eager_ones_on_a_card() -> None:
    done = subprocess.run([sys.executable, str(FOLDER / "equality.py")], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_prints_what_the_short_trainings_gave() -> None:
    protocol, cells = script("benchmarks/protocol.py"), pd.read_csv(FOLDER / "short-trainings.csv")
    taus, names = protocol.taus(cells), protocol.TRAINING
    page = text_of("notes/protocols.md")
    lines = re.findall(
        r"^\| (.*) \((\d)\) \| (.*) \| (.*) \| (.*) \| (.*) \| (.*) / (.*) \|$",
        page[page.index("## Does a short training") :],
        re.MULTILINE,
    )
    assert len(lines) == len(cells.groupby(names))
    assert taus.groupby([*names, "sigma"])["tau"].nunique().eq(1).all(), "MACER's deferral changes none"
    assert taus[taus["tau"] >= 0.85]["sigma"].unique().tolist() == [1.0]
    costly, cheap = taus[taus["epochs"] == 2], taus[taus["images"] == "every:2"].groupby("sigma")["tau"].first()
    rises = costly.groupby([*names, "sigma"])["tau"].first().reset_index().pipe(lambda one: one["tau"] - one["sigma"].map(cheap))
    assert (len(rises), (rises > 0).sum(), f"{rises[rises > 0].min():.3f}", f"{rises.max():.3f}") == (12, 11, "0.056", "0.222")
    collapsed = cells[(cells["lr_step"] == 60) & (cells["deferral"] == 31)]["accuracy"]
    assert (round(collapsed.min(), 2), round(collapsed.max(), 2)) == (0.08, 0.13)
    best = cells.groupby([*names, "sigma", "seed", "row"])["ACR"].max().unstack().dropna()
    assert (best["macer"] < best[["gaussian", "stability"]].min(axis=1)).all()
    twice = cells[(cells["batch"] == 64) & (cells["lr"] == 0.02) & (cells["lr_step"] == 60)]
    each = [protocol.taus(twice[twice["seed"] == seed]).groupby("sigma")["tau"].first().round(2).tolist() for seed in (0, 1)]
    assert each == [[0.72, 0.82, 0.83], [0.78, 0.70, 0.83]]
    for name, _, *shown in lines:
        rate, batch = ".01" if ".01" in name else ".02", next((n for n in (64, 128) if f"{n} images" in name), 32)
        late = 60 if "late" in name else 30
        training = [1 if name == "quick" or "1 pass" in name else 2, "every:2" if name == "quick" else "all", batch, float(rate), late]
        own = taus[(taus[names] == training).all(axis=1)].drop(columns="deferral").drop_duplicates().set_index("sigma")
        for sigma, text in zip((0.25, 0.5, 1.0), shown, strict=False):
            there = own.loc[sigma] if sigma in own.index else None
            star = "*" if there is not None and " " in there["seeds"] else ""
            assert text == ("-" if there is None else f"{there['tau']:.2f} ({there['but MACER']:.2f}){star}".replace("0.", "."))
        half = cells[(cells[names] == training).all(axis=1) & (cells["sigma"] == 0.5)]
        means = half.groupby(["row", half["deferral"].fillna(0)])["ACR"].mean()
        assert shown[3:] == [f"{means[key]:.3f}" for key in (("gaussian", 0), ("macer", 31), ("macer", 61))]
