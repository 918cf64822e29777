"""What the pages print of the committed runs, and whether these come out again."""

from __future__ import annotations

import functools
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
from pages import blocks, flat, script, text_of
from scipy.stats import kendalltau, ttest_1samp
from typer.testing import Result

import bench as api
from bench.api import study
from bench.store.runs import Store
from bench.verify import verify
from leaderboard import layouts

ROOT = Path(__file__).resolve().parent.parent
REFERENCE, ABLATION, TABLES = (ROOT / "results" / name for name in ("reference", "ablation", "tables-8-11"))
PAGE, METHODS = (text_of(f"notes/{name}.md") for name in ("reproduction", "methods"))
TEXT = flat("notes/reproduction.md")
SIGMAS = (0.25, 0.5, 1.0)


@functools.cache
def quick(rule: str | None = None) -> pd.DataFrame:
    """The trainings of protocol quick."""
    return api.load_results(REFERENCE, where="protocol=quick", rule=rule)


def test_the_page_prints_the_table_of_the_full_runs(bench: Callable[..., Result]) -> None:
    printed = bench("table", "--results", REFERENCE, "--protocol", "full", "--method", "gaussian")
    assert " ".join(printed.stdout.split()).replace("─", "") in TEXT.replace("─", "")


def test_the_gains_of_the_full_runs_are_those_of_the_page_and_the_paper() -> None:
    frame = api.load_results(REFERENCE, where=["protocol=full", "train.epochs=90"])
    paper = pd.read_csv(ROOT / "results/published/table5.csv").set_index(["sigma", "row"])["mean"].to_dict()
    section = PAGE[PAGE.index("## Table 5: Stability, MACER") : PAGE.index("## Tables 4 and 5: nine rows")]
    printed = re.findall(r"\| (\w+) \| ([\d.]+) \| ([\d.]+) \| (\S+) \((\S+) to (\S+)\) \| ([^,]*?)(, outside)? \|", section)
    assert len(printed) == 9
    compared = api.compare(frame, "gaussian", ["stability", "macer", "consistency"]).query("uncertainty == 'images' and metric == 'ACR'")
    for row, sigma, acr, *found, theirs, outside in printed:
        gain = paper[float(sigma), row] - paper[float(sigma), "gaussian"]
        (of,) = compared[(compared["b"] == row) & (compared["sigma"] == float(sigma))].itertuples()
        assert [acr, *found] == [f"{of.value_b:.4f}", *(f"{value:+.4f}" for value in (of.difference, of.low, of.high))]
        assert theirs == f"{gain:+.4f}"
        assert bool(outside) == (not of.low <= gain <= of.high)


def test_the_evidence_holds_and_the_page_prints_it() -> None:
    assert not verify(REFERENCE).failures
    summary = api.summary(quick(), metrics=["ACR"])
    assert set(summary["n"]) == {5}
    section = PAGE[PAGE.index("## Tables 4 and 5: nine rows") : PAGE.index("### Does the order depend")]
    printed = {line.split(" | ")[0].strip("| "): re.findall(r"(\S+) ±(\S+)", line) for line in section.splitlines() if "±0" in line}
    assert len(printed) == 9
    for row, cells in printed.items():
        own = summary[summary["row"] == row].sort_values("sigma")
        assert cells == [(f"{mean:.4f}", f"{std:.4f}") for mean, std in zip(own["mean"], own["std"], strict=True)]


def test_the_readme_prints_the_table_of_one_noise_level(bench: Callable[..., Result]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`bench (table --results results/reference --protocol quick --sigma 0.5 [^`]*)`", readme)
    printed = bench(*command.replace("results/reference", str(REFERENCE)).split()).stdout
    assert printed[: printed.index("\nTraining:")] in readme


def test_the_page_prints_how_the_order_depends_on_the_metric(bench: Callable[..., Result]) -> None:
    csv = bench(
        "table", "--results", REFERENCE, "--table", 5, "--protocol", "quick", "--where", "certify.images=every:20", "--format", "csv"
    ).stdout
    table = pd.read_csv(io.StringIO(csv)).set_index(["sigma", "row"])["paper_mean"].sort_index()
    means = {
        (rule, metric): values.set_index(["sigma", "row"])["mean"][table.index].round(9)  # so that equal counts tie
        for rule in (None, "two-sided")
        for metric, values in api.summary(quick(rule), metrics=["ACR", "clean", "pa"]).groupby("metric")
    }
    orders = {
        "ACR of the two-sided certificate": means["two-sided", "ACR"],
        "right at all: most samples fall on the label": means[None, "clean"],
        "certified at all: pA > 0.5": means[None, "pA>0.5"],
        **{f"pA > {t}": means[None, f"pA>{t}"] for t in (0.75, 0.9, 0.99)},
        "ACR in Table 5 of the paper": table,
    }
    for name, order in orders.items():
        taus = [kendalltau(order[sigma], means[None, "ACR"][sigma]).statistic for sigma in SIGMAS]
        assert f"| {name} | " + " | ".join(f"{tau:.2f}" for tau in taus) + " |" in PAGE
    own = means[None, "ACR"]
    gains = [(means["two-sided", "ACR"] - own)[sigma].agg(["min", "max"]) for sigma in (1.0, 0.5, 0.25)]
    assert "worth {:.2f} to {:.2f} of ACR at sigma 1, {:.3f} to {:.3f} at 0.5".format(*gains[0], *gains[1]) in PAGE
    assert -0.001 < gains[2]["min"] <= gains[2]["max"] < 0
    there = turned(own, table)
    assert "{}, {} and {} of the 36 pairs".format(*map(len, there)) in PAGE
    assert "MACER is in {}, {} and {} of them".format(*(sum("macer" in pair for pair in pairs) for pairs in there)) in PAGE
    by_rule = turned(own, means["two-sided", "ACR"])
    assert "moves {}, {} and {} of the".format(*map(len, by_rule)) in PAGE
    for said, found in (
        ("{}, {} and {} differ by more than the trainings do", there),
        ("So it does for {}, {} and {} of the pairs that stand as in the paper", turned(own, -table)),
    ):
        sure = [sum(not_by_training(sigma, *pair) for pair in pairs) for sigma, pairs in zip(SIGMAS, found, strict=True)]
        assert said.format(*sure) in TEXT


def turned(own: pd.Series, other: pd.Series) -> list[list[tuple[str, str]]]:
    """The pairs of rows whose order differs, for each noise level."""
    return [[(a, b) for a, b in combinations(own[s].index, 2) if (own[s][a] - own[s][b]) * (other[s][a] - other[s][b]) < 0] for s in SIGMAS]


@functools.cache
def trainings() -> pd.DataFrame:
    """The ACR of each training: a line per noise level and row, a column per seed."""
    frame = quick()
    return contribution(frame).groupby([frame["sigma"], frame["row"], frame["seed"]], observed=True).mean().unstack("seed")


def not_by_training(sigma: float, a: str, b: str) -> bool:
    """Whether the 95 % interval for the mean difference over all trainings leaves out 0."""
    return bool(ttest_1samp(trainings().xs(sigma).loc[a] - trainings().xs(sigma).loc[b], 0).pvalue < 0.05)


def test_the_page_prints_who_leads_at_which_radius() -> None:
    best = api.summary(quick(), metrics=["accuracy"]).groupby(["metric", "row"], observed=True)["mean"].max().unstack("row")
    first = [(values.index[values > values.max() - 1e-9].to_list(), values.nlargest(2).diff().iloc[-1]) for _, values in best.iterrows()]
    assert [rows for rows, _ in first] == [["smoothadv", "sphere"], ["smoothadv"], *[["sphere"]] * 2, *[["adaptive"]] * 2]
    leads = [f"{-lead:.2f}" for _, lead in first[1:]]
    said = "`smoothadv` leads at 0.5 by {} points, `sphere` at 1 and 1.5 by {} and {}, and `adaptive` at 2 and 2.5 by {} and {}"
    assert said.format(*leads) in TEXT


def test_the_page_on_methods_prints_the_later_ones_beside_the_nine() -> None:
    frame = quick()
    right = api.summary(frame, metrics="r=0").set_index(["row", "sigma"])["mean"]
    shown = {}
    for section in json.loads(api.table(frame, "json", metrics=["ACR"]))["groups"][0]["sections"]:
        for row in section["rows"]:
            acr, bold = row["metrics"]["ACR"], "**" * row["tied"]
            shown[row["row"], section["sigma"]] = f"{bold}{acr['mean']:.4f}{bold} ±{acr['std']:.4f}"
    assert len(shown) == 14 * len(SIGMAS)
    for row in {row for row, _ in shown}:
        cells = [*(shown[row, sigma] for sigma in SIGMAS), *(f"{right[row, sigma]:.1f}" for sigma in SIGMAS)]
        assert f"| `{row}` | {' | '.join(cells)} |" in METHODS
    gains = re.findall(r"^\| `(\S+)` over `(\S+)` \| (.*) \|$", METHODS, re.MULTILINE)
    assert len(gains) == 5
    for b, a, cells in gains:
        found = api.compare(frame, a, b).query("uncertainty == 'seeds'").set_index("sigma").loc[[*SIGMAS]]
        assert cells.split(" | ") == [f"{line.difference:+.4f} ({line.low:+.4f} to {line.high:+.4f})" for line in found.itertuples()]


def test_the_page_prints_the_table_of_the_ablation() -> None:
    assert not verify(ABLATION).failures
    header, rule, *lines = script("studies/ablation.py").lines(ABLATION)
    assert "\n".join([header, rule, *lines]) in PAGE
    gains = [re.search(r"\| ([-+]\S+) ±(\S+) \|", line) for line in lines]
    sure = [abs(float(gain[1])) > float(gain[2]) for gain in gains if gain]
    assert len(sure) == len(lines), "a switch whose cells are not all there has no gain"
    assert f"leaves out 0 for {sum(sure)} of the {len(sure)};" in PAGE
    classes = api.load_results(ABLATION).query("method == 'macer'").groupby(["row", "sigma", "seed"], observed=True)["majority"].nunique()
    collapsed = (classes == 1).groupby("row", observed=True).agg(["sum", "size"])
    assert "{} of {} trainings end with one class for every image".format(*collapsed.loc["macer[deferral=0]"]) in PAGE
    assert collapsed.loc["macer", "sum"] == 0


def test_the_page_on_methods_tells_what_adaptive_and_sphere_do() -> None:
    means = api.summary(quick(), metrics=["r=0", "r=2", "r=2.5", "cost"]).set_index(["metric", "sigma", "row"])["mean"].sort_index()
    text = flat("notes/methods.md")
    far, farther = means["r=2", 1.0], means["r=2.5", 1.0]
    assert {far.idxmax(), farther.idxmax()} == {"adaptive"}
    assert f"than any other row ({far['adaptive']:.1f} and {farther['adaptive']:.1f} %)" in text
    assert [*means["r=0", 1.0].nsmallest(2).index] == ["macer", "adaptive"]
    assert f"fewer at all ({means['r=0', 1.0, 'adaptive']:.1f} %)" in text
    costs = [f"{means['pairs', sigma, row]:g}" for row in ("sphere", "smoothadv") for sigma in SIGMAS]
    assert "costs {}, {} and {} pairs of passes an image (sigma 0.25, 0.5, 1), SmoothAdv {}.".format(*costs[:4]) in text
    assert len({*costs[3:]}) == 1


def test_the_page_on_certificates_prints_the_acr_of_one_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = blocks("notes/certificates.md", "smoothadv.default")
    exec(compile(code, "certificates.md", "exec"), {})
    own = api.summary(quick(), metrics="ACR").query("sigma == 0.5").set_index("row").loc["smoothadv"]
    said = "the ACR of this run, {:.4f}. The table's {:.4f} ± {:.4f} is the mean over this and the four other seeds"
    assert said.format(float(capsys.readouterr().out), own["mean"], own["std"]) in text_of("notes/certificates.md")


def test_the_guide_tells_how_one_pair_alone_is_judged() -> None:
    found = api.compare(quick().query("sigma == 0.25"), "smoothadv", "smoothmix.eta1-onestep").query(
        "uncertainty == 'images' and metric == 'ACR'"
    )
    assert f"a p of {found['p'].item():.3f}, and still both are bold" in flat("guide/reading-a-table.md")


def test_the_page_on_tables_prints_a_larger_acr_with_fewer_right_images() -> None:
    found = api.summary(quick(), metrics=["ACR", "clean"]).set_index(["sigma", "metric", "row"])["mean"].loc[0.5]
    text = flat("notes/tables.md")
    for metric, said in (("ACR", "({:.4f} against Gaussian's {:.4f})"), ("clean", "({:.1f} against {:.1f} %)")):
        assert said.format(*(found[metric, row] for row in ("smoothmix.eta5", "gaussian"))) in text


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


STUDIES = {"quick-table": REFERENCE, "ablation": ABLATION, "tables-8-11": TABLES}


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_cells_are_those_of_their_study(name: str) -> None:
    """All are finished, so the study goes on from them, and whoever adds a method in a copy trains only that."""
    store, (plan, _) = Store(STUDIES[name]), study.read(ROOT / "studies" / f"{name}.toml").request.prepare()
    asked = {store.run(cell.spec).certification(cell.certify).path for cell in plan.cells}
    protocols = {cell.spec.protocol for cell in plan.cells}
    there = [certification for run in store.runs() if run.spec.protocol in protocols for certification in run.certifications()]
    assert {certification.path for certification in there} <= asked
    assert {certification.status().state for certification in there} == {"done"}


SIGMA = 0.5
IMAGES = "every:1000"  # 10 of the 500 that were certified


@pytest.mark.filterwarnings("default")  # the notice below
@pytest.mark.parametrize("row", ["gaussian", "stability.two-copy"])
def test_a_committed_cell_trained_again_comes_out_again(row: str, tmp_path: Path) -> None:
    """The same counts where it was made; elsewhere an ACR within three deviations of the seeds, pooled over the rows but MACER's."""
    again = api.run(row, sigma=SIGMA, seeds=[0], changes={"certify.images": IMAGES}, results=tmp_path, quiet=True).set_index("image")
    frame = quick()
    committed = frame[(frame["row"] == row) & (frame["sigma"] == SIGMA) & (frame["seed"] == 0)].set_index("image").loc[again.index]
    then, now = (conditions(json.loads(cells["record"].iloc[0])["records"]["environment.json"]) for cells in (committed, again))
    if then == now:
        columns = ["label", "selected", "count", "runner_up", "n"]
        pd.testing.assert_frame_equal(again[columns], committed[columns])
        return
    warnings.warn(f"{row} was trained with {then}, here with {now}: only its ACR is compared", stacklevel=1)
    others = frame.query("sigma == @SIGMA and image in @again.index and row != 'macer'")
    seeds = contribution(others).groupby([others["row"], others["seed"]], observed=True).mean()
    deviation = seeds.groupby("row", observed=True).var().mean() ** 0.5
    assert abs(contribution(again).mean() - contribution(committed).mean()) < 3 * deviation


def contribution(frame: pd.DataFrame) -> pd.Series:
    """What each image adds to the ACR."""
    return frame["radius"].where(frame["correct"], 0.0)


def conditions(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What the bytes of a training depend on, besides its code."""
    return {name: environment.get(name) for name in ("device", "capability", "threads")} | {"torch": environment["libraries"]["torch"]}
