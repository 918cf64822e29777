"""What the pages print of the committed runs, and whether these come out again."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pages import script
from scipy.stats import kendalltau
from typer.testing import Result

import bench as api
from bench.api import study
from bench.store.runs import Store
from bench.verify import verify
from leaderboard import layouts

ROOT = Path(__file__).resolve().parent.parent
QUICK, NEWER, ABLATION, TABLES = (ROOT / "results" / name for name in ("quick", "newer", "ablation", "tables-8-11"))
PAGE, METHODS = ((ROOT / "docs" / "notes" / f"{name}.md").read_text(encoding="utf-8") for name in ("reproduction", "methods"))


def test_the_page_prints_the_table_of_the_full_runs(bench: Callable[..., Result]) -> None:
    printed = bench("table", "--results", ROOT / "results" / "reference", "--protocol", "full", "--method", "gaussian")
    assert " ".join(printed.stdout.split()).replace("─", "") in " ".join(PAGE.split()).replace("─", "")


def test_the_evidence_holds_and_the_page_prints_it() -> None:
    report = verify(QUICK)
    assert not report.failures
    summary = api.summary(api.load_results(QUICK), metrics=["ACR"])
    assert set(summary["n"]) == {3}
    section = PAGE[PAGE.index("## Tables 4 and 5: nine rows") : PAGE.index("### Does the order depend")]
    printed = {line.split(" | ")[0].strip("| "): re.findall(r"(\S+) ±(\S+)", line) for line in section.splitlines() if "±0" in line}
    assert len(printed) == 9
    for row, cells in printed.items():
        own = summary[summary["row"] == row].sort_values("sigma")
        assert cells == [(f"{mean:.4f}", f"{std:.4f}") for mean, std in zip(own["mean"], own["std"], strict=True)]


def test_the_readme_prints_the_table_of_one_noise_level(bench: Callable[..., Result]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`bench (table --results results/quick --sigma 0.5 [^`]*)`", readme)
    printed = bench(*command.replace("results/quick", str(QUICK)).split()).stdout
    assert printed[: printed.index("\nTraining:")] in readme


def test_the_page_prints_how_the_order_depends_on_the_metric(bench: Callable[..., Result]) -> None:
    csv = bench(
        "table", "--results", QUICK, "--table", 5, "--protocol", "quick", "--where", "certify.images=every:20", "--format", "csv"
    ).stdout
    table = pd.read_csv(io.StringIO(csv)).set_index(["sigma", "row"])["paper_mean"].sort_index()
    means = {
        (rule, metric): values.set_index(["sigma", "row"])["mean"][table.index].round(9)  # so that equal counts tie
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
    own = means[None, "ACR"]
    gains = [(means["two-sided", "ACR"] - own)[sigma].agg(["min", "max"]) for sigma in (1.0, 0.5, 0.25)]
    assert "worth {:.2f} to {:.2f} of ACR at sigma 1, {:.3f} to {:.3f} at 0.5".format(*gains[0], *gains[1]) in PAGE
    assert -0.001 < gains[2]["min"] <= gains[2]["max"] < 0
    turned = {
        sigma: [
            (a, b)
            for a, b in combinations(own[sigma].index, 2)
            if (own[sigma][a] - own[sigma][b]) * (table[sigma][a] - table[sigma][b]) < 0
        ]
        for sigma in (0.25, 0.5, 1.0)
    }
    assert "{}, {} and {} of the 36 pairs".format(*map(len, turned.values())) in PAGE
    assert "MACER is in {}, {} and {} of them".format(*(sum("macer" in pair for pair in pairs) for pairs in turned.values())) in PAGE


def test_the_page_prints_who_leads_at_which_radius() -> None:
    best = api.summary(api.load_results(QUICK), metrics=["accuracy"]).groupby(["metric", "row"], observed=True)["mean"].max().unstack("row")
    assert [*best.idxmax(axis=1)] == ["smoothadv"] * 3 + ["smoothmix.eta5-onestep"] * 3
    leads = [f"{first - second:.2f}" for first, second in (values.nlargest(2) for _, values in best.iterrows())]
    for three in (leads[:3], leads[3:]):
        assert "by {}, {} and {}".format(*three) in PAGE


def test_the_page_on_methods_prints_the_later_ones_beside_the_nine() -> None:
    assert not verify(NEWER).failures
    quick = api.load_results(QUICK)
    frame = pd.concat([quick[quick["seed"] == 0], api.load_results(NEWER)])
    summary = api.summary(frame, metrics=["ACR", "r=0"]).set_index(["row", "sigma", "metric"])["mean"]
    shown = {}
    for section in json.loads(api.table(frame, "json", metrics=["ACR"]))["groups"][0]["sections"]:
        for row in section["rows"]:
            shown[row["row"], section["sigma"]] = f"{'**' * row['tied']}{row['metrics']['ACR']['mean']:.4f}{'**' * row['tied']}"
    sigmas = (0.25, 0.5, 1.0)
    assert len(shown) == 14 * len(sigmas)
    for row in {row for row, _ in shown}:
        cells = [*(shown[row, sigma] for sigma in sigmas), *(f"{summary[row, sigma, 'r=0']:.1f}" for sigma in sigmas)]
        assert f"| `{row}` | {' | '.join(cells)} |" in METHODS


def test_the_page_prints_the_table_of_the_ablation() -> None:
    assert not verify(ABLATION).failures
    header, rule, *lines = script("studies/ablation.py").lines(ABLATION)
    assert "\n".join([header, rule, *lines]) in PAGE
    assert not any("not all" in line for line in lines)


def lines_of_tables_8_to_11() -> list[str]:
    """A line for each row of each table: ACR and its gain over eta 1, in the paper and here, and accuracies; Gaussian once."""
    frame, base = api.load_results(TABLES), "smoothmix.eta1"
    own: Any = api.summary(frame, metrics=["ACR", "r=0", "r=2"])
    own = {(line.row, line.metric): line for line in own.itertuples()}
    gains: Any = api.compare(frame, base, [f"{base}?*", "gaussian"]).query("uncertainty == 'seeds'")
    gains = {line.b: line for line in gains.itertuples()}
    lines = []
    for number in (8, 9, 10, 11):
        printed = {(value.row, value.metric): float(value.mean) for value in layouts.values(number)}
        for row, label in layouts.load(number).labels.items():
            if row == "gaussian" and number > 8:
                continue
            gain = there = "-"
            if row != base:
                gain = f"{gains[row].difference:+.4f} ±{(gains[row].high - gains[row].low) / 2:.4f}"
                there = f"{printed[row, 'ACR'] - printed[base, 'ACR']:+.3f}"
            accuracies = [f"{printed[row, f'{r}.00']:.1f}, {own[row, f'r={r}'].mean:.1f}" for r in (0, 2)]
            here = f"{own[row, 'ACR'].mean:.4f} ±{own[row, 'ACR'].std:.4f}"
            cells = [f"{number}: {label}", f"{printed[row, 'ACR']:.3f}", there, here, gain, *accuracies]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_page_prints_tables_8_to_11() -> None:
    assert not verify(TABLES).failures
    lines = lines_of_tables_8_to_11()
    assert "\n".join(lines) in PAGE
    cells = [re.split(r" *\| *", line.strip("| ")) for line in lines]
    gains = [(float(there), *map(float, here.split(" ±"))) for _, _, there, _, here, *_ in cells if here not in ("-", "+0.0000 ±0.0000")]
    inside = [abs(printed - mean) <= half for printed, mean, half in gains]
    assert f"{sum(inside)} of the paper's {len(inside)} gains" in PAGE
    lower = [100 - 100 * float(here.split()[0]) / float(printed) for _, printed, _, here, *_ in cells]
    assert f"{min(lower):.0f} to {max(lower):.0f} % lower than the paper's" in PAGE


STUDIES = {"quick-table": QUICK, "newer-methods": NEWER, "ablation": ABLATION, "tables-8-11": TABLES}


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_cells_are_those_of_their_study(name: str) -> None:
    """All are finished, so the study goes on from them, and whoever adds a method in a copy trains only that."""
    store, (plan, _) = Store(STUDIES[name]), study.read(ROOT / "studies" / f"{name}.toml").request.prepare()
    asked = {store.run(cell.spec).certification(cell.certify).path for cell in plan.cells}
    there = [certification for run in store.runs() for certification in run.certifications()]
    assert {certification.path for certification in there} <= asked
    assert {certification.status().state for certification in there} == {"done"}


SIGMA = 0.5
IMAGES = "every:1000"  # 10 of the 500 that were certified


@pytest.mark.filterwarnings("default")  # the notice below
@pytest.mark.parametrize(("results", "row"), [(QUICK, "gaussian"), (NEWER, "stability.two-copy")])
def test_a_committed_cell_trained_again_comes_out_again(results: Path, row: str, tmp_path: Path) -> None:
    """The same counts where it was made; elsewhere an ACR within three deviations of the seeds, pooled over the rows but MACER's."""
    again = api.run(row, sigma=SIGMA, seeds=[0], changes={"certify.images": IMAGES}, results=tmp_path, quiet=True).set_index("image")
    frame = api.load_results(results)
    committed = frame[(frame["row"] == row) & (frame["sigma"] == SIGMA) & (frame["seed"] == 0)].set_index("image").loc[again.index]
    then, now = (conditions(json.loads(cells["record"].iloc[0])["records"]["environment.json"]) for cells in (committed, again))
    if then == now:
        columns = ["label", "selected", "count", "runner_up", "n"]
        pd.testing.assert_frame_equal(again[columns], committed[columns])
        return
    warnings.warn(f"{row} was trained with {then}, here with {now}: only its ACR is compared", stacklevel=1)
    others = api.load_results(QUICK).query("sigma == @SIGMA and image in @again.index and row != 'macer'")
    seeds = contribution(others).groupby([others["row"], others["seed"]], observed=True).mean()
    deviation = seeds.groupby("row", observed=True).var().mean() ** 0.5
    assert abs(contribution(again).mean() - contribution(committed).mean()) < 3 * deviation


def contribution(frame: pd.DataFrame) -> pd.Series:
    """What each image adds to the ACR."""
    return frame["radius"].where(frame["correct"], 0.0)


def conditions(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What the bytes of a training depend on, besides its code."""
    return {name: environment.get(name) for name in ("device", "capability", "threads")} | {"torch": environment["libraries"]["torch"]}
