"""Every verb of the command line, and what it says to somebody who meets it for the first time."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import blocks
from test_claims import ended_process
from typer.testing import Result

from bench import rules
from bench.certify import Sampler
from bench.cli import common
from bench.errors import counted
from bench.files.writing import read_json, write_json
from bench.matrix import report
from methods.gaussian import Gaussian

Call = Callable[..., Result]
SIX = {"gaussian", "stability", "smoothadv", "macer", "consistency", "smoothmix"}
PLUGIN = '''
"""A scaled loss. Somebody: "Something", nowhere 2026."""
from dataclasses import dataclass
from typing import ClassVar

from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Margin(Method):
    variants: ClassVar[tuple[str, ...]] = ("soft", "hard")
    scale: float = 1.0

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        return {"cross_entropy": self.scale * cross_entropy(g.logits(batch.x, g.noise(batch.x)), batch.y).mean()}


Margin.presets = {("official", variant, "mnist", sigma): Margin(scale=sigma) for variant in Margin.variants for sigma in (0.25, 0.5)}
'''


@pytest.fixture
def margin(tmp_path: Path) -> Path:
    path = tmp_path / "margin.py"
    path.write_text(PLUGIN.lstrip())
    return path


@pytest.fixture
def mine(bench: Call, tmp_path: Path) -> Path:
    """A method that `bench new-method` wrote."""
    assert bench("new-method", "mine", "--folder", tmp_path).exit_code == 0
    return tmp_path / "mine.py"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def ends_well(result: Result) -> None:
    """No traceback."""
    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


@pytest.mark.parametrize("line", ["--help", "list methods", "list datasets", "list protocols"])
def test_help_and_lists_need_no_torch(line: str) -> None:
    code = f"""
import sys
from bench.cli import app
try:
    app({line.split()!r})
except SystemExit as end:
    assert not end.code
assert not {{"torch", "scipy", "matplotlib"}} & set(sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out
    if line == "--help":
        assert all(verb in out for verb in ("run", "table", "status", "list", "show", "check", "new-method"))


def test_list_and_show_a_method(bench: Call) -> None:
    assert bench("--version").output.startswith("certbench 0.")
    assert {row["name"] for row in json.loads(bench("list", "methods", "--json").stdout)} >= SIX
    assert json.loads(bench("list", "datasets", "--json").stdout)[0]["sigmas"] == "0.25, 0.5, 1"
    assert all(row["summary"] for row in json.loads(bench("list", "metrics", "--json").stdout))
    assert "module:factory" in bench("certify", "--help").output  # Rich draws `:factory:` as a picture of one
    assert [row["name"] for row in json.loads(bench("list", "rules", "--json").stdout)] == [*rules.names()]
    assert [row["name"] for row in json.loads(bench("list", "protocols", "--json").stdout)] == ["full", "quick", "smoke"]
    assert "eta5-onestep" in bench("list", "methods").output
    text = bench("show", "smoothmix").output
    for line in ("NeurIPS 2021, Algorithm 1", "step_size", "alpha", "L2 length of a step", "Sources: SmoothMix paper"):
        assert line in text
    for name in SIX:
        data = json.loads(bench("show", name, "--json").stdout)
        assert all(f["meaning"] for f in data["fields"]), name
        if name == "smoothmix":
            assert {f["field"]: f["symbol"] for f in data["fields"]}["step_size"] == "alpha"
            rows = [p for p in data["presets"] if (p["recipe"], p["variant"], p["data set"]) == ("official", "eta1", "mnist")]
            assert {p["sigma"]: p["pairs/image"] for p in rows} == {0.25: 20, 0.5: 24, 1.0: 40}


def test_run_status_show_and_table(bench: Call, tiny: Call, tmp_path: Path) -> None:
    runs, line = tmp_path / "runs", ("--method", "gaussian,smoothmix", "--sigma", "0.25,1.0", "--seeds", "2")
    where = ("--results", runs)
    dry = tiny(*line, "--dry-run")
    assert "8 cells: rows 2, noise levels 2, seeds 2; protocol smoke, recipe official, device cpu" in dry.output
    assert not runs.exists(), "a dry run writes nothing"

    result = tiny(*line)
    assert result.exit_code == 0, result.output
    for part in ("0 done, 0 diverged, 8 to do", "[8/8]", "8 done of 8 cells"):
        assert part in result.output
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*")}
    assert "8 done, 0 diverged, 0 to do" in tiny(*line).output
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*")} == before, "a finished matrix is left alone"

    states = json.loads(bench("status", *where, "--json").stdout)
    assert [row["state"] for row in states] == ["done"] * 8
    assert "8 runs, 8 done" in bench("status", *where).output
    key = states[0]["key"]
    text = bench("show", key[:10], *where).output
    for part in ("training  trained", "3/3 (first:3)", "method_sha256", "cross_entropy"):
        assert part in text
    shown = json.loads(bench("show", key, *where, "--json").stdout)
    assert shown["spec"]["protocol"] == "smoke"

    table = bench("table", "--dataset", "mnist", *where)
    for part in ("gaussian", "smoothmix.eta5", "n=200", "smoke", "official", "first:3"):
        assert part in table.output, part
    assert len(list(csv.DictReader(io.StringIO(bench("table", *where, "--format", "csv").stdout)))) >= 2 * 2 * 7
    assert str(shown["certifications"][0]["acr (alpha 0.001)"]) in bench("table", *where, "--format", "json").stdout
    out = tmp_path / "t.md"
    assert bench("table", *where, "--format", "markdown", "--out", out).exit_code == 0
    assert "| gaussian" in out.read_text()


def test_protocols_and_recipes_never_share_a_table(bench: Call, tiny: Call, tmp_path: Path) -> None:
    for extra in ((), ("--recipe", "paper"), ("--set", "train.epochs=2"), ("--set", "certify.seed=1")):
        assert tiny("--method", "gaussian", "--sigma", "0.25", *extra).exit_code == 0
    data = json.loads(bench("table", "--results", tmp_path / "runs", "--format", "json").stdout)
    assert len(data["groups"]) == 4


@pytest.mark.parametrize("rerun", [False, True])
def test_an_interrupted_run_says_how_to_continue(tiny: Call, rerun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("--method", "gaussian", "--sigma", "0.25,0.5")
    assert not rerun or tiny(*line).exit_code == 0
    real = Sampler.certify

    def press(self: Sampler, *args: Any, **more: Any) -> object:
        if self.sigma == 0.5:
            signal.raise_signal(signal.SIGTERM if rerun else signal.SIGINT)
        return real(self, *args, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Sampler, "certify", press)
        patched.setattr("bench.matrix.cost.estimate", lambda *_, **__: {})  # it certifies, too
        result = tiny(*line, *(("--rerun", "all") if rerun else ()))
    assert result.exit_code == (143 if rerun else 130)
    how = "Run this command without --rerun all to resume:" if rerun else "Run the same command again to resume:"
    assert how in result.output
    again = tiny(*line)
    assert again.exit_code == 0
    assert "1 done, 0 diverged, 1 to do" in again.output


def test_neither_batch_nor_quiet_changes_a_count(tiny: Call, tmp_path: Path) -> None:
    evidence = []
    for words in (("--batch", "1000"), ("--batch", "7", "--quiet")):
        result = tiny("--method", "gaussian", "--sigma", "0.25", "--rerun", "all", *words)
        assert (result.exit_code, result.output == "") == (0, "--quiet" in words)
        evidence.append(next(p for p in (tmp_path / "runs" / "mnist").rglob("evidence.jsonl")).read_bytes())
    assert evidence[0] == evidence[1]


def test_every_problem_of_a_run_at_once(bench: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.py").write_text("raise ValueError('x')")
    result = bench(
        "run", "--method", "gausian,bad", "--plugin", tmp_path / "bad.py", "--dataset", "mnits", "--sigma", "x,-1", "--seeds", "a",
        "--set", "foo", "--protocol", "qick", "--recipe", "offical", "--device", "tpu",
        "--results", tmp_path / "file" / "runs", "--rerun", "some", "--batch", "0",
    )  # fmt: skip
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 13, result.stderr
    assert all(line.startswith("bench: ") for line in lines)
    for part in (
        "'gaussian'?", "'bad'", "'mnist'?", "--sigma x", "sigma -1.0", "--seeds a", "--set foo", "'quick'?", "'official'?", "'tpu'",
        "is a file", "--rerun some", "--batch 0",
    ):  # fmt: skip
        assert sum(part in line for line in lines) == 1, part
    result = bench(
        "run", "--method", "gausian", "--set", "certify.nn=3", "--set", "certify.alpha=.1", "--set", "train.epoch=1",
        "--plugin", "no1.py,no2.py", "--results", tmp_path,
    )  # fmt: skip
    for part in ("no1.py", "no2.py", "did you mean 'n'?", "bench table --alpha", "did you mean 'epochs'?"):
        assert part in result.output, part
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["bad.py", "file"]


# ---- what is refused: a line, and part of what is said

DRY = "run --dry-run --results {tmp}/runs"
MARGIN = "run --plugin {tmp}/margin.py --sigma 0.25 --dry-run --results {tmp}/runs"
NO_FOLDER = "bench: --data-dir {tmp}/nowhere: there is no such folder"
REFUSED: list[tuple[str, str]] = [
    *((f"{DRY} {flag} '{value}'", f"{flag} is empty") for flag in ("--method", "--plugin") for value in ("", ",", " , ")),
    *((f"{DRY} {flag} ','", f"{flag} is empty") for flag in ("--dataset", "--seeds", "--sigma", "--set")),
    (f"{DRY} --set train.epochs=3,0.5", "epochs=3,0.5"),
    (f"{DRY} --set certify.radii=0,0.5", "radii=0,0.5 is for a rule that certifies given radii"),
    *((f"{DRY} --sigma {word}", f"--sigma {word} is not a number") for word in ("inf", "nan", "1_0", "٣", "0x1")),
    (f"{DRY} --sigma 1e999", "sigma inf must be a finite number"),
    (f"{DRY} --seeds 0", "bench: --seeds 0 asks for no seed"),
    *((f"{verb} --results ''", "bench: --results is empty") for verb in ("run --dry-run", "table", "status")),
    *((f"{verb} --results {place}", "--results") for verb in ("run", "table") for place in ("x" * 300, "/proc/no/such", "/dev/null")),
    *((f"{line} --results {{tmp}}/none", f"{{tmp}}/none{said}") for said, lines in (
        (": there is no such folder", (
            "table", "compare gaussian macer", "compare abcd1234 gaussian", "plot curves", "list runs", "list logs", "status", "verify",
            "show abcd1234", "show abcd1234 --image 0", "attack abcd1234 --eps 1", "export abcd1234 --out x", "pull abcd --from {tmp}",
        )),
        (", so no run in it", ("certify abcd1234 --n 100", "predict abcd1234 --sigma 1")),
        (" that might hold a run", ("verify abcd1234",)),
    ) for line in lines),
    *((line, "did you mean '{tmp}'?") for line in ("table --results {tmp}s", "site {tmp}s", "verify {tmp}s", "submit {tmp}s --out x")),
    ("show smothmix --results {tmp}", "did you mean 'smoothmix'?"),
    ("show smoothmix.bogus", "has no variant 'bogus'"),
    ("check smoothmix.bogus", "bogus"),
    ("check {tmp}/absent.py", "is not a file"),
    ("check maser", "did you mean 'macer'?"),
    (f"{DRY} --table 12", "12"),
    (f"{DRY} --table 9 --sigma 1", "--table"),
    *((f"table {words}", part) for words, part in (
        ("--alpha 0.5", "between 0 and 0.5"),
        ("--alpha nan", "between 0 and 0.5"),
        ("--format latx", "did you mean 'latex'?"),
        ("--dataset mnits", "mnist"),
        ("--protocol smok", "smoke"),
        ("--sigma x", "--sigma x is not a number"),
        ("--out /", "is a folder"),
        ("--out .", "is a folder"),
        ("--out /proc/no/such/table.md", "there is no folder"),
    )),
    *((f"{MARGIN} --set {name}=3", hint) for name, hint in (
        ("n", "no field 'n'; did you mean 'certify.n'?"),
        ("epochs", "did you mean 'train.epochs'?"),
        ("epoch", "did you mean 'train.epochs'?"),
        ("images", "did you mean 'certify.images' or 'train.images'?"),
        ("sigma", "use --sigma 3"),
        ("seed", "use --seeds '3,'"),
        ("scal", "did you mean 'scale'?"),
        ("qwertz", "there is scale"),
    )),
    *((f"{verb} --data-dir {{tmp}}/nowhere", NO_FOLDER) for verb in ("run", "check gaussian", "data check mnist", "predict x.pth")),
    *((f"new-method '{name}' --folder {{tmp}}", name) for name in ("My-Idea", "2fast", "a.b", "gaussian", "../x", "a b", "")),
    *((f"new-method '{name}' --folder {{tmp}}", name) for name in ("none", "true", "method", "terms", "batch")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "part"), REFUSED, ids=[line[:60] for line, _ in REFUSED])
def test_what_cannot_be_is_refused_with_a_sentence(
    bench: Call, two_cells: Path, margin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = shlex.split(line.format(tmp=tmp_path))
    result = bench(*given, *(("--results", two_cells) if given[0] == "table" and "--results" not in given else ()))
    assert result.exit_code == 2, result.output
    ends_well(result)
    assert part.format(tmp=tmp_path) in result.output
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["margin.py"], "nothing is written"


@pytest.mark.parametrize(
    "line",
    [
        "table --results {runs} --out {pipe}.md",
        "compare gaussian smoothmix --results {runs} --out {pipe}.md",
        "plot curves --results {runs} --out {pipe}.svg",
        "site {runs} --out {pipe}.html",
        "run --method gaussian --dry-run --results {runs} --save-study {pipe}.toml",
        "run --method gaussian --results {runs} --plot {pipe}.svg",
        "import {runs} --draft {pipe}.csv",
        "export 0 --results {runs} --out {pipe}.tsv",
        "certify 0 --results {runs} --tsv {pipe}.tsv",
        "predict 0 --results {runs} --tsv {pipe}.tsv",
        "attack 0 --eps 0.5 --results {runs} --csv {pipe}.csv",
    ],
)
def test_a_pipe_is_not_written_to(bench: Call, two_cells: Path, tmp_path: Path, line: str) -> None:
    """It would wait for ever, or a file would take the place of the pipe."""
    pipe = tmp_path / f"pipe.{line.rpartition('.')[2]}"
    os.mkfifo(pipe)
    result = bench(*shlex.split(line.format(runs=two_cells, pipe=tmp_path / "pipe")))
    assert result.exit_code == 2, result.output
    assert f"{pipe} is a pipe" in result.output
    assert list(tmp_path.iterdir()) == [pipe]
    assert pipe.is_fifo()


def test_a_link_stays_one_and_leads_to_what_was_written(bench: Call, two_cells: Path, tmp_path: Path) -> None:
    (tmp_path / "link.md").symlink_to(tmp_path / "table.md")
    for _ in range(2):  # the file is absent, and is there
        assert bench("table", "--results", two_cells, "--out", tmp_path / "link.md").exit_code == 0
        assert (tmp_path / "link.md").is_symlink()
        assert "gaussian" in (tmp_path / "table.md").read_text()


# ---- words into lists


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5))
def test_seeds(chosen: list[int]) -> None:
    """N means 0 to N - 1; a list, a repeated flag, or N with a comma means just those."""
    unique = list(dict.fromkeys(chosen))
    listed = ",".join(map(str, chosen))
    assert common.seeds([listed + ","], []) == unique
    if len(chosen) > 1:
        assert common.seeds([listed], []) == common.seeds(list(map(str, chosen)), []) == unique
    elif chosen[0]:
        assert common.seeds([listed], []) == list(range(chosen[0]))
    assert common.seeds((), []) == []


@given(st.just(0) | st.integers(100_001, 10**12))
def test_the_word_that_a_refusal_of_seeds_offers_means_that_seed(count: int) -> None:
    problems: list[str] = []
    assert common.seeds([str(count)], problems) == []
    assert common.seeds(re.findall("'(.+?)'", problems[0]), problems) == [count]
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("told", "word"),
    [
        (counted(1, "cell"), "1 cell"),
        (counted(0, "cell"), "0 cells"),
        (counted(2, "noisy copy"), "2 noisy copies"),
        (counted(1000, "row", "8,"), "   1,000 rows"),
        (counted(1.0, "sample", ",.0f"), "1 sample"),
    ],
)
def test_what_is_counted_has_one_or_many(told: str, word: str) -> None:
    assert told == word


def test_commas_within_brackets_do_not_split() -> None:
    assert common.words(["a[b=1,c=2],d", "e"], "--method", []) == ["a[b=1,c=2]", "d", "e"]


def test_the_cells_of_a_published_table(bench: Call, tmp_path: Path) -> None:
    result = bench("run", "--table", "9", "--protocol", "smoke", "--results", tmp_path / "runs", "--dry-run", "--json")
    rows = [(c["row"], c["sigma"]) for c in json.loads(result.stdout)["cells"]]
    assert ("smoothmix.eta1[step_size=8.0,steps=1]", 1.0) in rows
    assert len(rows) == 5


@pytest.mark.parametrize("name", ["t.tex latex", "t.md markdown", "t.csv csv", "t.JSON json", "t.txt terminal"])
def test_a_file_has_the_format_of_its_suffix(bench: Call, tiny: Call, two_cells: Path, tmp_path: Path, name: str) -> None:
    file, form = name.split()
    by_suffix, by_name, other = tmp_path / file, tmp_path / "named", tmp_path / "other.csv"
    for out, more in ((by_suffix, ()), (by_name, ("--format", form)), (other, ("--format", "terminal"))):
        assert bench("table", "--results", two_cells, "--out", out, *more).exit_code == 0
    assert by_suffix.read_bytes() == by_name.read_bytes()
    assert (other.read_bytes() == by_suffix.read_bytes()) == (form == "terminal"), "--format decides before the suffix does"
    if form == "markdown":
        assert tiny("--method", "gaussian,stability", "--sigma", "0.25").exit_code == 0
        for out, more in ((by_suffix, ()), (by_name, ("--format", form))):
            assert bench("compare", "gaussian", "stability", "--results", tmp_path / "runs", "--out", out, *more).exit_code == 0
        assert by_suffix.read_bytes() == by_name.read_bytes()


# ---- a method of one's own


def test_new_method_runs_as_it_is(bench: Call, tiny: Call, tmp_path: Path) -> None:
    folder = tmp_path / "my methods"
    folder.mkdir()
    made = bench("new-method", "my-idea", "--folder", folder)
    path = folder / "my-idea.py"
    lines = [shlex.split(line) for line in made.output.splitlines() if line.startswith("  bench ")]
    assert [words[-1 if words[1] == "check" else 3] for words in lines] == [str(path)] * 2, "what is printed can be pasted"
    result = bench("check", path)
    assert result.exit_code == 0, result.output
    assert "7 of 7 promises hold" in result.output
    result = tiny("--plugin", path, "--method", "my-idea", "--sigma", "0.3", "--results", tmp_path / "results 1")
    line, _ = (line for line in result.output.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    words, written = words[:-2], words[-2:]
    assert written == ["--out", "table.md"]
    assert sorted(words[2:]) == sorted(["--plugin", str(path), "--results", str(tmp_path / "results 1"), "--protocol", "smoke"])
    assert bench(*words[1:]).exit_code == 0
    again = bench("new-method", "my-idea", "--folder", folder)
    assert (again.exit_code, "already there" in again.output) == (2, True)
    assert "strength" in bench("show", "my-idea", "--plugin", path).output


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        (".mean(),", ",", ("must be a scalar tensor", "mine: 2 of 7 promises hold, 4 were not tried")),
        (
            '"cross_entropy": ',
            '"cross_entropy": float("nan") * ',
            ("term 'cross_entropy' is nan at epoch 0", "mine: 2 of 7 promises hold"),
        ),
    ],
)
def test_check_says_what_is_broken(bench: Call, mine: Path, old: str, new: str, parts: tuple[str, ...]) -> None:
    assert bench("check", "macer").exit_code == 0
    edit(mine, old, new)
    result = bench("check", mine)
    assert result.exit_code == 1, result.output
    assert all(part in result.output for part in parts), result.output
    assert "Warning" not in result.output


def test_a_method_without_its_decorator_is_told_which(bench: Call, margin: Path) -> None:
    edit(margin, "@dataclass(frozen=True, kw_only=True)\n", "")
    result = bench("run", "--plugin", margin, "--dry-run")
    assert result.exit_code == 2
    assert "TypeError: write @dataclass(frozen=True, kw_only=True) above class Margin (" in result.output


def test_a_failing_loss_is_told_with_its_line(bench: Call, tiny: Call, mine: Path) -> None:
    edit(mine, "self.strength *", "self.strenght *")
    line = next(n for n, text in enumerate(mine.read_text().splitlines(), 1) if "strenght" in text)
    for result in (tiny("--plugin", mine, "--sigma", "0.25"), bench("check", mine), bench("show", "mine", "--plugin", mine)):
        assert f"(mine.py, line {line})" in result.output
        ends_well(result)
    edit(mine, "self.strenght *", "self.strength *")
    edit(mine, ".mean(),", ",")
    assert "term 'cross_entropy' must be a scalar tensor, not a tensor of shape" in tiny("--plugin", mine, "--sigma", "0.25").output


def test_an_edited_method_is_not_taken_for_the_old_one_in_silence(tiny: Call, mine: Path) -> None:
    line, told = ("--plugin", mine, "--sigma", "0.25"), "another version of the file of mine trained 1 cell, kept unless"
    assert tiny(*line).exit_code == 0, "a plug-in without --method is that method"
    assert told not in tiny(*line).output
    edit(mine, "self.strength *", "2 * self.strength *")
    again = tiny(*line)
    assert (again.exit_code, told in again.output) == (0, True)
    assert told not in tiny(*line, "--rerun", "all").output


def test_names_cannot_write_to_the_terminal(bench: Call, tiny: Call, mine: Path, tmp_path: Path) -> None:
    edit(mine, "copies: int = 2", "word: str = 'x'\n    copies: int = 2")
    line = ("--plugin", mine, "--method", "mine", "--sigma", "0.25", "--set")
    assert tiny(*line, "word=\x1b[31mred").exit_code == 2
    assert tiny(*line, "word=[red]<b>").exit_code == 0
    assert "mine[word=[red]<b>]" in bench("status", "--results", tmp_path / "runs").output


def test_a_plugin_says_which_variants_were_not_asked_for(tiny: Call, margin: Path) -> None:
    note = "note: margin has also margin.hard; --method margin.soft,margin.hard runs all"
    assert note in tiny("--plugin", margin, "--sigma", "0.25", "--dry-run").output
    for method in ("margin", "margin.*", "margin.hard", "smoothmix"):
        assert "has also" not in tiny("--plugin", margin, "--method", method, "--sigma", "0.25", "--dry-run").output


def test_presets_that_are_missing_stop_nothing_unless_their_sigma_was_asked_for(tiny: Call, margin: Path) -> None:
    missing = "has no preset for mnist at sigma 1; there is sigma 0.25, 0.5"
    for words, rows in ((("--method", "margin.*"), ("margin.soft", "margin.hard")), ((), ("margin.soft",))):
        result = tiny("--plugin", margin, "--dry-run", *words)
        assert f"{2 * len(rows)} cells: rows {len(rows)}, noise levels 2" in result.output
        assert all(f"note: {row} {missing}" in result.output for row in rows)
    asked = tiny("--plugin", margin, "--dry-run", "--sigma", "0.25,1")
    assert asked.exit_code == 2
    assert f"bench: margin.soft {missing}" in asked.output


def test_the_variants_of_the_guide_run(bench: Call, tiny: Call, mine: Path) -> None:
    (block,) = blocks("guide/extend.md", "Mine.presets")
    in_class, _, below = block.partition("\n\n")
    edit(mine, "    copies: int", f"{in_class}\n    copies: int")
    edit(mine, "import dataclass\n", "import dataclass\nfrom typing import ClassVar\n")
    mine.write_text(f"{mine.read_text()}\n\n{below}")
    assert "3 cells: rows 1" in tiny("--plugin", mine, "--dry-run").output
    both = json.loads(tiny("--plugin", mine, "--method", "mine.*", "--dry-run", "--json").stdout)["cells"]
    assert [(cell["row"], cell["sigma"]) for cell in both] == [
        ("mine.weak", 0.25), ("mine.strong", 0.25), ("mine.weak", 0.5), ("mine.strong", 0.5), ("mine.weak", 1.0),
    ]  # fmt: skip
    assert bench("check", mine).exit_code == 0


# ---- what is stored


HOSTILE = {
    "training.json": ["", "{", "[]", '{"state":"diverged"}', '{"state":"banana"}', "\x00"],
    "failure.json": ["{}", '{"reason":5}', "nonsense"],
    "timing.json": ["{}", '{"training_seconds":"1","images_per_second":1,"pairs_per_image":1}'],
    "environment.json": ["[]", '{"history":5}', '{"history":[1]}'],
    "spec.json": ["", "garbage", "{}", '{"schema":99}'],
    "curve.csv": ["epoch,loss\n1,abc\n", "epoch\n1,2,3\n", "\udcff"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in HOSTILE.items() for text in texts])
def test_a_damaged_record_never_gives_a_traceback_nor_hides_other_runs(
    bench: Call, tiny: Call, two_cells: Path, tmp_path: Path, name: str, text: str
) -> None:
    runs = shutil.copytree(two_cells, tmp_path / "runs")
    run = next(iter(sorted((runs / "mnist" / "gaussian.default").iterdir())))
    (run / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    for words in (("status",), ("list", "runs"), ("table",), ("table", "--format", "json"), ("show", str(run))):
        result = bench(*words, "--results", runs)
        ends_well(result)
        if words[0] != "show":
            assert ("2 runs" if words[0] == "status" else "0.5") in result.output, words
    ends_well(tiny("--method", "gaussian", "--sigma", "0.25,0.5"))


def test_a_stopped_training_is_not_called_unbegun(bench: Call, tiny: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Gaussian.loss

    def ended(self: Gaussian, *args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(self, *args)

    def states() -> dict[str, tuple[str, str]]:
        rows = json.loads(bench("status", "--results", tmp_path / "runs", "--json").stdout)
        return {row["sigma"]: (row["state"], row["reason"]) for row in rows}

    monkeypatch.setattr(Gaussian, "loss", ended)
    monkeypatch.setattr("bench.matrix.cost.estimate", lambda *_, **__: {})  # it computes the loss, too
    result = tiny("--method", "gaussian", "--sigma", "0.25,0.5")
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    assert "1 interrupted, 1 not begun of 2 cells" in result.output
    (path,) = (tmp_path / "runs" / report.FOLDER).iterdir()
    write_json(path, read_json(path) | {"pid": ended_process()})
    assert states() == {
        "0.25": ("interrupted", "training stopped, and its checkpoint is kept; its `bench run` ended"),
        "0.5": ("interrupted", "not begun; its `bench run` ended"),
    }
    (newest,) = (tmp_path / "runs").rglob("checkpoint.bin")
    newest.rename(newest.with_suffix(".older.bin"))  # as a kill between two renames leaves it
    assert "its checkpoint is kept" in states()["0.25"][1]


def test_logs_of_no_known_collection_ask_for_a_manifest(bench: Call, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t0.5\t1\t0.1\n")
    result = bench("import", tmp_path / "logs", "--results", tmp_path / "runs")
    assert result.exit_code == 2
    assert "--draft FILE.csv` begins a manifest" in result.output
