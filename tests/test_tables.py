"""The tables of comparable groups: marks, captions, and how they fit a terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from fake_store import CERTIFY, N, add, new_store, run_spec
from typer.testing import Result

from bench.errors import BenchError
from bench.rules.bounds import certified_radius
from bench.store.runs import Store
from leaderboard.aggregate import Filters, Group, Row, Stat, collect, with_constant
from leaderboard.formats import FORMATS, Cell
from leaderboard.metrics import columns_of
from leaderboard.tables import caption, cells, render, with_marks
from leaderboard.tables.build import _column
from leaderboard.tables.marks import MARKS

HOSTILE = r"a|b&c_%$#{}~^\x[red]*_`<b>" + '"\n=1'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def table(store: Store) -> dict[str, list[Cell]]:
    (group,) = collect(store)
    (section,) = group.sections
    return {row.label: line for row, line in zip(section.rows, cells(group, section), strict=True)}


def fill(store: Store, **counts: Sequence[int]) -> None:
    for name, values in counts.items():
        add(store, run_spec(name), values)


def hostile(store: Store) -> tuple[Group, ...]:
    add(store, run_spec())
    add(store, run_spec("macer", changes={"loss": HOSTILE}, hyperparameters={"loss": HOSTILE}))
    return collect(store)


# ---- marks

HALF, MOST, BEST = (N, N, 500, 500), (N, N, N, 500), (N,) * 4
GAUSSIAN = [Cell("0.6158"), Cell("50.00")]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param(
            {"gaussian": HALF, "macer": MOST, "stability": (N, 500, 500, 500)},
            {
                "gaussian": GAUSSIAN,
                "macer": [Cell("0.9237", bold=True, underlined=True), Cell("75.00", bold=True, underlined=True)],
                "stability": [Cell("0.3079"), Cell("25.00")],
            },
            id="better than the baseline, and best",
        ),
        pytest.param(  # 999 and 1000 samples differ in the radius, not in the accuracy
            {"gaussian": HALF, "macer": MOST, "stability": (999, N, N, 500)},
            {
                "macer": [Cell("0.9237", bold=True, underlined=True), Cell("75.00", bold=True, underlined=True)],
                "stability": [Cell("0.9105", bold=True), Cell("75.00", bold=True, underlined=True)],
            },
            id="all that print the best are best",
        ),
        pytest.param(
            {"gaussian": BEST, "macer": MOST},
            {"gaussian": [Cell("1.2316", underlined=True), Cell("100.00", underlined=True)], "macer": [Cell("0.9237"), Cell("75.00")]},
            id="the baseline can be the best and is never bold",
        ),
        pytest.param(
            {"gaussian": (N, N, 500), "macer": BEST},
            {"gaussian": [Cell("3/4 images", state=True), *[Cell("-")] * 6], "macer": [Cell("1.2316"), Cell("100.00")]},
            id="one row is the best of nothing, and an unfinished baseline makes nothing bold",
        ),
    ],
)
def test_which_cells_are_marked(store: Store, counts: dict[str, Sequence[int]], expected: dict[str, list[Cell]]) -> None:
    fill(store, **counts)
    found = table(store)
    assert {name: found[name][: len(cells)] for name, cells in expected.items()} == expected
    assert all(line[-1] in (Cell("-", beyond=True), Cell("-")) for line in found.values())  # a column of zeros has no best


@pytest.mark.parametrize(("mean", "bold"), [(1.00002, False), (1.00006, True)])
def test_a_difference_that_does_not_print_is_not_bold(mean: float, bold: bool) -> None:
    (acr,) = columns_of(["ACR"], (), 10)

    def row(name: str, mean: float) -> Row:
        return Row(name=name, mark="", method=name, seeds=(), images=4, stats={"ACR": Stat(mean=mean, std=None, n=1)}, notes=())

    assert _column((row("gaussian", 1.00001), row("macer", mean)), acr, "gaussian")[1] == Cell(f"{mean:.4f}", bold=bold, underlined=True)


def test_nothing_is_bold_against_an_ambiguous_baseline(store: Store) -> None:
    for x in (1, 2):  # which their values do not show, so that both have one name
        add(store, run_spec(changes={"x": x}), (N, 500, 500, 500))
    add(store, run_spec("macer"))
    found = table(store)
    assert list(found) == ["gaussian #1", "gaussian #2", "macer"]
    assert found["macer"][0] == Cell("1.2316", underlined=True)


@pytest.mark.parametrize("word", ["ACR", "clean", "cost", "0.50", "classes"])
def test_an_unfinished_row_says_so_whatever_the_columns(store: Store, word: str) -> None:
    add(store, run_spec(seed=0))
    add(store, run_spec(seed=1))
    add(store, run_spec("macer"))
    groups = collect(store, metrics=(word,))
    assert cells(groups[0], groups[0].sections[0])[1][0].text == "1/2 seeds"
    for format in FORMATS:
        assert "1/2 seeds" in render(groups, format)
    # A finished row whose evidence lacks the metric is finished all the same.
    assert json.loads(render(groups, "json"))["groups"][0]["sections"][0]["rows"][0]["state"] == "done"


def test_rows_with_fewer_seeds_are_told_which_seeds_all_have(store: Store) -> None:
    for row, seeds in {"gaussian": (0, 1, 3), "macer": (1, 3), "stability": (1,)}.items():
        for seed in seeds:
            add(store, run_spec(row, seed=seed))
    add(store, run_spec("macer", sigma=0.25, seed=1))  # where gaussian and stability are missing
    told = "`1/3 seeds`: no mean over so few; --seeds 1, shows the seeds that every row has."
    (group,) = collect(store)
    assert all(told in render([group], format).replace("\n", " ") for format in ("terminal", "html"))
    (group,) = collect(store, Filters(methods=["gaussian", "macer"], sigmas=[0.5]))
    assert "--seeds 1,3 shows" in render([group], "terminal")
    (group,) = collect(store, Filters(seeds=[1]))
    assert "--seeds" not in render([group], "terminal")
    add(store, run_spec("consistency", seed=0))
    assert "--seeds" not in render(collect(store), "terminal"), "no seed is there of all rows"


def test_sigmas_are_compared_apart(store: Store) -> None:
    add(store, run_spec(sigma=0.25), (N, N, N, 500))
    add(store, run_spec("macer", sigma=0.25), (N, N, 500, 500))
    add(store, run_spec(sigma=1.0), (N, 500, 500, 500))
    add(store, run_spec("macer", sigma=1.0), (N, N, N, N))
    (group,) = collect(store)
    low, high = (cells(group, section) for section in group.sections)
    assert (low[0][1].underlined, low[1][1].bold, high[1][1].bold, high[1][1].underlined) == (True, False, True, True)


# ---- captions


def test_caption_says_what_was_done(store: Store) -> None:
    certify = CERTIFY.__class__(n0=10, n=N, images="first:4", changes={"n": N})
    for seed in (0, 1, 2, 5):
        add(store, run_spec(seed=seed, changes={"train.epochs": 2}, train={"epochs": 2}), certify=certify)
    (group,) = collect(store)
    text = caption(group)
    for part in (
        "mnist, protocol quick (train.epochs=2, certify.n=1000, certify.images=first:4), recipe official, network lenet, 4 seeds (0-2, 5).",
        "2 epochs",
        "n0 = 10, n = 1,000, alpha = 0.001",
        "4 of 10,000 test images (first:4)",
        "correct and radius > r, exact radii",
        "±: sample standard deviation over the seeds",
    ):
        assert part in text
    assert "Bold" not in text
    add(store, run_spec("macer", protocol="smoke"))
    add(store, run_spec(protocol="smoke"), (N, N, 500, 500))
    text = caption(collect(store, Filters(protocols=["smoke"]))[0])
    assert "±" not in text
    assert "seed 0." in text
    assert "Bold: better than gaussian at the same sigma (no test). Underlined: best of the sigma and column (no test)." in text


# ---- formats


@pytest.mark.parametrize("format", FORMATS)
def test_groups_stand_in_separate_tables(store: Store, format: str) -> None:
    add(store, run_spec())
    add(store, run_spec("macer", protocol="smoke"))
    text = render(collect(store), format)
    assert text.endswith("\n")
    if format not in ("csv", "json"):
        assert text.index("protocol quick") < text.index("gaussian") < text.index("protocol smoke") < text.index("macer")


def test_marks_and_states_in_every_format(store: Store) -> None:
    fill(store, gaussian=HALF, macer=MOST, stability=(N, N))
    shown = partial(render, collect(store), marks="paper")
    lines = [re.sub(r" +", " ", line) for line in shown("markdown").splitlines() if line.startswith("|")]
    assert lines[0] == "| sigma | row | ACR | r=0.00 | r=0.50 | r=1.00 | r=1.50 | r=2.00 | r=2.50 |"
    assert lines[2:] == [
        "| 0.50 | gaussian | 0.6158 | 50.00 | 50.00 | 50.00 | - | - | - |",
        "| | stability | 2/4 images | - | - | - | - | - | - |",
        "| | macer | **<u>0.9237</u>** | **<u>75.00</u>** | **<u>75.00</u>** | **<u>75.00</u>** | - | - | - |",
    ]
    assert r" & macer & \underline{\textbf{0.9237}} & \underline{\textbf{75.00}} &" in shown("latex")
    assert "<td><strong><u>0.9237</u></strong></td><td><strong><u>75.00</u></strong></td>" in shown("html")
    assert r"50.00 & -- & -- & -- \\" in shown("latex")
    assert "<td>50.00</td>" + "<td>-</td>" * 3 + "</tr>" in shown("html")
    for format, sign in {"terminal": "-", "markdown": "-", "latex": "--", "html": "-"}.items():
        assert f" {sign}: beyond the" in shown(format)
    text = shown("terminal")
    assert "\x1b" not in text
    assert "0.9237+*" in text
    assert "+: better than gaussian at the same sigma (no test). *: best of the sigma and column (no test)." in text
    plain, marked = (next(line for line in text.splitlines() if number in line) for number in ("0.6158", "0.9237"))
    assert plain.index("0.6158") == marked.index("0.9237")
    colored = shown("terminal", color=True)
    assert "\x1b[1;4m0.9237\x1b[0m" in colored
    assert "0.9237+*" not in colored


@pytest.mark.parametrize("marks", MARKS)
def test_csv_and_json_say_which_cells_are_marked(marks: str) -> None:
    """Those that are bold or underlined; a field that speaks of other marks is empty."""
    reference = Path(__file__).resolve().parent.parent / "results" / "reference"
    unmarked = collect(Store(reference), Filters(protocols=["quick"], sigmas=[0.5]))
    groups = [with_marks(group, marks) for group in unmarked]
    lines = csv.DictReader(io.StringIO(render(unmarked, "csv", marks=marks)))
    bold = underlined = False
    for group, data in zip(groups, json.loads(render(unmarked, "json", marks=marks))["groups"], strict=True):
        assert data["marks"] == marks
        rows = zip(group.sections[0].rows, cells(group, group.sections[0]), data["sections"][0]["rows"], strict=True)
        for row, shown, told in rows:
            assert [told["improves"] is None, told["best"] is None, told["tied"] is None] == [marks != "paper"] * 2 + [marks != "test"]
            for metric, cell in zip(group.metrics, shown, strict=True):
                line = next(lines)
                assert (line["row"], line["metric"]) == (row.label, metric.name)
                assert cell.bold == (metric.name in (told["improves"] or ()) or (metric.name == "ACR" and told["tied"] is True))
                assert cell.underlined == (metric.name in (told["best"] or ()))
                for mark in ("improves", "best"):
                    assert line[mark] == ("" if told[mark] is None else str(metric.name in told[mark]))
                assert line["tied"] == ("" if told["tied"] is None else str(told["tied"]))
                bold, underlined = bold or cell.bold, underlined or cell.underlined
    assert (bold, underlined) == (marks != "none", marks == "paper")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles_as_pasted(store: Store, tmp_path: Path, bench: Callable[..., Result]) -> None:
    """Tables of hostile names, a table of the paper, and a comparison, in one document; none is wider than its text."""
    add(store, run_spec("stability"), (N, N, 500, 700))
    add(store, run_spec("stability", seed=1), environment={"method_sha256": "ü" * 64})
    parts = [render(hostile(store), "latex")]
    for words in (
        ("table", "--table", "4", "--against", "published", "--protocol", "quick"),
        ("table", "--metric", "all", "--marks", "test"),
        ("compare", "gaussian", "*"),
    ):
        result = bench(*words, "--results", store.root, "--format", "latex")
        assert result.exit_code == 0, result.output
        parts.append(result.output)
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\textwidth5.5in"
    document = f"{head}\\begin{{document}}\n" + "\n".join(parts) + "\\end{document}\n"
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert b"undefined" not in done.stdout
    assert b"Overfull" not in done.stdout.replace(b"\n", b"")


def test_csv_is_exact_and_inert(store: Store) -> None:
    add(store, run_spec(seed=0), (N, 777, 612, 901))
    add(store, run_spec(seed=1), (N, N, 500, 777))
    add(store, run_spec("macer", seed=0))
    (group,) = collect(store)
    lines = list(csv.DictReader(io.StringIO(render([group], "csv"))))
    assert len(lines) == 2 * 7
    acr = lines[0]
    stat = group.sections[0].rows[0].stats["ACR"]
    assert (acr["row"], acr["metric"], acr["seeds"], acr["seeds_done"], acr["state"]) == ("gaussian", "ACR", "0 1", "2", "done")
    assert (float(acr["mean"]), float(acr["std"])) == (stat.mean, stat.std)
    macer = lines[7]
    assert (macer["row"], macer["mean"], macer["std"], macer["state"], macer["seeds_done"]) == ("macer", "", "", "1/2 seeds", "1")


def test_json_round_trip(store: Store) -> None:
    add(store, run_spec(seed=0))
    add(store, run_spec(seed=1), (N, N, 500, 500))
    add(store, run_spec("macer", seed=0), (N,))
    groups = collect(store)
    (group,) = groups
    (data,) = json.loads(render(groups, "json"))["groups"]
    assert data["caption"] == caption(with_marks(group, "test"))
    assert (data["conditions"]["alpha"], data["seeds"], data["images"], data["conditions"]["certify.n"]) == (0.001, [0, 1], 4, N)
    gaussian, macer = data["sections"][0]["rows"]
    stat = group.sections[0].rows[0].stats["ACR"]
    assert gaussian["metrics"]["ACR"] == {"mean": stat.mean, "std": stat.std, "n": 2, "values": list(stat.values)}
    assert gaussian["metrics"]["0.00"]["values"] == [100, 50]
    assert (macer["metrics"], macer["state"], [seed["state"] for seed in macer["seeds"]]) == ({}, "0/2 seeds", ["certifying", "missing"])
    assert data["rule"] == "correct and radius > r, exact radii"


# ---- terminal


@pytest.mark.parametrize("width", [30, 80, 120])
@pytest.mark.parametrize("seeds", [1, 5])
def test_terminal_never_loses_a_digit(store: Store, width: int, seeds: int) -> None:
    for seed in range(seeds):
        add(store, run_spec("smoothmix.eta5-onestep", seed=seed), (N, 700 + seed, 620, 612))
    (group,) = collect(store)
    text = render([group], "terminal", width=width)
    for cell in cells(group, group.sections[0])[0]:
        assert cell.text in text
        assert f"±{cell.std}" in text if cell.std else True
    assert "smoothmix.eta5-onestep" in text
    if width == 120:
        assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("width", [60, 80, 120])
def test_many_columns_stand_in_several_tables_that_fit(store: Store, width: int) -> None:
    for seed in range(3):
        add(store, run_spec("smoothmix.eta5-onestep", seed=seed), (N, 700 + seed, 620, 612))
    (group,) = collect(store, metrics=("all",))
    lines = render([group], "terminal", width=width).splitlines()
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if line.startswith("sigma  row")]
    assert len(heads) > 1
    # Every column once, in order, beside the name of its row; those of radii that no row can reach are named below.
    shown = [word for head in heads for word in re.split(r"  +", head.strip())[2:]]
    (note,) = re.findall(r"certified there: ([^.]*(?:\.\d+[^.]*)*)\.", " ".join(lines))
    assert note.split(", ") == ["r=1.50", "r=2.00", "r=2.50"]
    assert shown == [m.heading for m in group.metrics if m.heading not in note.split(", ")]
    assert sum("smoothmix.eta5-onestep" in line for line in lines) == len(heads)


def test_nothing_to_show() -> None:
    with pytest.raises(BenchError, match="nothing to show"):
        render([], "csv")


def test_footnotes_reach_every_format(store: Store) -> None:
    add(store, run_spec(seed=0))
    add(store, run_spec(seed=1), environment={"method_sha256": "b" * 64})
    groups = collect(store)
    for format in FORMATS:
        assert "code: gaussian was trained from aaaaaaaa, bbbbbbbb" in render(groups, format)
    assert "gaussian (a)" in render(groups, "terminal")
    assert "gaussian <sup>a</sup>" in render(groups, "markdown")


# ---- the constant classifier


def test_the_constant_classifier_is_shown_and_ranks_nothing(store: Store) -> None:
    """It is better than both rows here; what these show stays, and its own row has no mark in any format."""
    fill(store, gaussian=(900, 500, 500, 500), macer=(500, 900, 500, 500))
    (before,) = collect(store)
    after = with_constant(before)
    (section,) = after.sections
    *others, own = cells(after, section)
    assert others == cells(before, before.sections[0])
    radius = certified_radius(N, N, 0.001, 0.5)
    assert radius
    assert section.rows[-1].stats["ACR"].mean == pytest.approx(radius / 4)  # the four labels differ, so that a quarter is right
    assert own[:4] == [Cell(text, grey=True) for text in (f"{radius / 4:.4f}", *["25.00"] * 3)]
    assert own[4:] == [Cell("-", grey=True, beyond=True)] * 3, "as in every other row"
    assert [cell.beyond for cell in own] == [cell.beyond for cell in others[0]]
    for format in FORMATS:
        text = " ".join(render([after], format).split())
        assert "(constant classifier)" in text
        assert f"largest radius, {radius:.4f} at sigma 0.5" in text
    found = json.loads(render([after], "json", marks="paper"))["groups"][0]["sections"][0]["rows"]
    assert [(row["constant"], row["improves"], row["best"], row["status"]) for row in found][-1] == (True, [], [], "computed")
    assert not any(row["constant"] for row in found[:-1])
    assert '<span class="grey">' in render([after], "html")
    assert caption(after) == caption(before)


def test_the_command_shows_the_constant_classifier_if_asked(store: Store, bench: Callable[..., Result]) -> None:
    fill(store, gaussian=(N,))
    words = ("table", "--results", store.root, "--format", "csv")
    assert "no constant classifier, because no row is finished" in bench(*words, "--constant").output
    fill(store, macer=BEST)
    assert "constant" not in bench(*words).output
    lines = list(csv.DictReader(io.StringIO(bench(*words, "--constant", "--metric", "all").output)))
    assert {line["row"] for line in lines} == {"gaussian", "macer", "(constant classifier)"}
    add(store, run_spec(protocol="smoke"))
    for more in (("--mix",), ("--table", "4")):
        assert bench(*words, "--constant", *more).exit_code == 2
