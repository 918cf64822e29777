"""Every verb of the command line."""

from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

Call = Callable[..., Result]
SIX = {"gaussian", "stability", "smoothadv", "macer", "consistency", "smoothmix"}


def without(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, which fails if torch was imported."""
    code = f"""
import sys
from bench.cli import app
try:
    app({list(words)!r})
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules and "scipy" not in sys.modules
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_help_needs_no_torch_and_names_every_verb() -> None:
    result = without("--help")
    for verb in ("run", "table", "status", "list", "show", "check", "new-method"):
        assert verb in result.stdout


@pytest.mark.parametrize("verb", ["methods", "datasets", "protocols"])
def test_lists_need_no_torch(verb: str) -> None:
    assert without("list", verb).stdout


def test_version(bench: Call) -> None:
    assert bench("--version").output.startswith("certbench 0.")


def test_list(bench: Call, tmp_path: Path) -> None:
    assert {row["name"] for row in json.loads(bench("list", "methods", "--json").stdout)} >= SIX
    assert json.loads(bench("list", "datasets", "--json").stdout)[0]["sigmas"] == "0.25, 0.5, 1"
    assert [row["name"] for row in json.loads(bench("list", "protocols", "--json").stdout)] == ["full", "quick", "smoke"]
    assert "eta5-onestep" in bench("list", "methods").output
    nowhere = bench("list", "runs", "--results", tmp_path / "none")
    assert nowhere.exit_code == 2
    assert "there is no such folder" in nowhere.output


def test_show_method(bench: Call) -> None:
    text = bench("show", "smoothmix").output
    assert "NeurIPS 2021, Algorithm 1" in text
    for line in ("step_size", "alpha", "L2 length of a step", "Sources: SmoothMix paper"):
        assert line in text
    data = json.loads(bench("show", "smoothmix", "--json").stdout)
    assert {f["field"]: f["symbol"] for f in data["fields"]}["step_size"] == "alpha"
    cost = {
        p["sigma"]: p["pairs/image"] for p in data["presets"] if (p["recipe"], p["variant"], p["data set"]) == ("official", "eta1", "mnist")
    }
    assert cost == {0.25: 20, 0.5: 24, 1.0: 40}
    assert all(f["meaning"] for f in data["fields"])


def test_every_hyperparameter_says_what_it_means(bench: Call) -> None:
    for name in SIX:
        assert all(f["meaning"] for f in json.loads(bench("show", name, "--json").stdout)["fields"]), name


def test_show_nothing(bench: Call, tmp_path: Path) -> None:
    result = bench("show", "smothmix", "--results", tmp_path)
    assert result.exit_code == 2
    assert "did you mean 'smoothmix'?" in result.output


def test_run_status_show_and_table(bench: Call, tiny: Call, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    dry = tiny("--method", "gaussian,smoothmix", "--sigma", "0.25,1.0", "--seeds", "2", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "8 cells: rows 2, noise levels 2, seeds 2; protocol smoke, recipe official, device cpu" in dry.output
    assert not runs.exists(), "a dry run writes nothing"

    result = tiny("--method", "gaussian,smoothmix", "--sigma", "0.25,1.0", "--seeds", "2")
    assert result.exit_code == 0, result.output
    assert "0 done, 0 diverged, 8 to do" in result.output
    assert "[8/8]" in result.output
    assert "8 done of 8 cells" in result.output
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*")}
    again = tiny("--method", "gaussian,smoothmix", "--sigma", "0.25,1.0", "--seeds", "2")
    assert again.exit_code == 0
    assert "8 done, 0 diverged, 0 to do" in again.output
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*")} == before, "a finished matrix is left alone"

    states = json.loads(bench("status", "--results", runs, "--json").stdout)
    assert [row["state"] for row in states] == ["done"] * 8
    assert "8 runs, 8 done" in bench("status", "--results", runs).output
    key = states[0]["key"]
    text = bench("show", key[:10], "--results", runs).output
    for part in ("training: trained", "3/3 images, ACR 0.", "method_sha256", "cross_entropy"):
        assert part in text
    assert json.loads(bench("show", key, "--results", runs, "--json").stdout)["spec"]["protocol"] == "smoke"

    table = bench("table", "--dataset", "mnist", "--results", runs)
    assert table.exit_code == 0, table.output
    for part in ("gaussian", "smoothmix.eta5", "n=200", "smoke", "official", "first:3"):
        assert part in table.output, part
    rows = list(csv.DictReader(io.StringIO(bench("table", "--results", runs, "--format", "csv").stdout)))
    by_hand = json.loads(bench("show", key, "--results", runs, "--json").stdout)["certifications"][0]["acr (alpha 0.001)"]
    data = json.loads(bench("table", "--results", runs, "--format", "json").stdout)
    assert str(by_hand) in json.dumps(data)
    assert len(rows) >= 2 * 2 * 7
    out = tmp_path / "t.md"
    assert bench("table", "--results", runs, "--format", "markdown", "--out", out).exit_code == 0
    assert "| gaussian" in out.read_text()


def test_protocols_and_recipes_never_share_a_table(bench: Call, tiny: Call, tmp_path: Path) -> None:
    for extra in ((), ("--recipe", "paper"), ("--set", "train.epochs=2"), ("--set", "certify.seed=1")):
        assert tiny("--method", "gaussian", "--sigma", "0.25", *extra).exit_code == 0
    data = json.loads(bench("table", "--results", tmp_path / "runs", "--format", "json").stdout)
    assert len(data["groups"]) == 4


def test_an_interrupted_run_says_so(tiny: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.certify import Sampler

    real = Sampler.certify

    def press(self: Sampler, *args: Any, **more: Any) -> object:
        signal.raise_signal(signal.SIGINT)
        return real(self, *args, **more)

    monkeypatch.setattr(Sampler, "certify", press)
    monkeypatch.setattr("bench.matrix.cost.estimate", lambda *_, **__: {})  # it certifies, too
    result = tiny("--method", "gaussian", "--sigma", "0.25,0.5")
    assert result.exit_code == 130
    assert "the same line again continues" in result.output
    monkeypatch.undo()
    assert tiny("--method", "gaussian", "--sigma", "0.25,0.5").exit_code == 0


def test_quiet_prints_nothing(tiny: Call) -> None:
    result = tiny("--method", "gaussian", "--sigma", "0.25", "--quiet")
    assert result.exit_code == 0
    assert result.output == ""


def test_counts_do_not_depend_on_batch(tiny: Call, tmp_path: Path) -> None:
    evidence = []
    for batch in ("1000", "7"):
        assert tiny("--method", "gaussian", "--sigma", "0.25", "--batch", batch, "--rerun", "all").exit_code == 0
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
    assert "Traceback" not in result.output
    for part in (
        "'gaussian'?", "'bad'", "'mnist'?", "--sigma x", "sigma -1.0", "--seeds a", "--set foo", "'quick'?", "'official'?", "'tpu'",
        "is a file", "--rerun some", "--batch 0",
    ):  # fmt: skip
        assert sum(part in line for line in lines) == 1, part
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["bad.py", "file"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("5",), [0, 1, 2, 3, 4]),
        (("0,",), [0]),
        (("3,",), [3]),
        (("0,3,4",), [0, 3, 4]),
        (("0", "3"), [0, 3]),
        (("3,3",), [3]),
        ((), []),
    ],
)
def test_seeds(words: tuple[str, ...], expected: list[int]) -> None:
    from bench.cli.common import seeds

    assert seeds(words, []) == expected


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--alpha", "0.5"), "between 0 and 0.5"),
        (("--alpha", "nan"), "between 0 and 0.5"),
        (("--format", "latx"), "did you mean 'latex'?"),
        (("--dataset", "mnits"), "mnist"),
        (("--protocol", "smok"), "smoke"),
        (("--sigma", "x"), "--sigma x is not a number"),
        (("--out", "/"), "is a folder"),
        (("--out", "."), "is a folder"),
        (("--out", "/proc/no/such/table.md"), "there is no folder"),
    ],
)
def test_a_wrong_table_is_refused(bench: Call, tiny: Call, tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    assert tiny("--method", "gaussian", "--sigma", "0.25").exit_code == 0
    result = bench("table", "--results", tmp_path / "runs", *words)
    assert result.exit_code == 2, result.output
    assert part in result.output
    assert "Traceback" not in result.output


def test_new_method_runs_as_it_is(bench: Call, tiny: Call, tmp_path: Path) -> None:
    assert bench("new-method", "my-idea", "--folder", tmp_path).exit_code == 0
    path = tmp_path / "my-idea.py"
    result = bench("check", path)
    assert result.exit_code == 0, result.output
    assert "7 of 7 promises hold" in result.output
    assert tiny("--plugin", path, "--method", "my-idea", "--sigma", "0.3").exit_code == 0
    again = bench("new-method", "my-idea", "--folder", tmp_path)
    assert again.exit_code == 2
    assert "already there" in again.output
    assert "strength" in bench("show", "my-idea", "--plugin", path).output


@pytest.mark.parametrize("name", ["My-Idea", "2fast", "a.b", "gaussian", "../x", "a b", ""])
def test_a_wrong_name_makes_no_file(bench: Call, tmp_path: Path, name: str) -> None:
    assert bench("new-method", name, "--folder", tmp_path).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_check_says_what_is_broken(bench: Call, tmp_path: Path) -> None:
    assert bench("check", "macer").exit_code == 0
    bench("new-method", "mine", "--folder", tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace(".mean(),", ","))
    result = bench("check", path)
    assert result.exit_code == 1
    assert "must be a scalar tensor" in result.output
    assert "mine: 2 of 7 promises hold, 4 were not tried" in result.output
    assert bench("check", tmp_path / "absent.py").exit_code == 2
    assert "did you mean 'macer'?" in bench("check", "maser").output


@pytest.mark.parametrize("flag", ["--method", "--dataset", "--sigma", "--seeds", "--set", "--plugin"])
@pytest.mark.parametrize("value", ["", ",", " , "])
def test_an_empty_value_is_not_everything(bench: Call, tmp_path: Path, flag: str, value: str) -> None:
    result = bench("run", flag, value, "--results", tmp_path / "runs", "--dry-run")
    assert result.exit_code == 2
    assert f"{flag} is empty" in result.output


def test_problems_of_every_kind_are_told_together(bench: Call, tmp_path: Path) -> None:
    result = bench(
        "run", "--method", "gausian", "--set", "certify.nn=3", "--set", "certify.alpha=.1", "--set", "train.epoch=1",
        "--plugin", "no1.py,no2.py", "--results", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 2
    for part in ("no1.py", "no2.py", "did you mean 'n'?", "bench table --alpha", "did you mean 'epochs'?"):
        assert part in result.output, part


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
        assert result.exit_code in (0, 1, 2), words
        assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)
        if words[0] != "show":
            assert ("2 runs" if words[0] == "status" else "0.5") in result.output, words
    result = tiny("--method", "gaussian", "--sigma", "0.25,0.5")
    assert result.exit_code in (0, 1)
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("results", ["x" * 300, "/proc/no/such", "/dev/null"])
def test_a_results_folder_that_cannot_be(tiny: Call, bench: Call, results: str) -> None:
    for result in (tiny("--method", "gaussian", "--sigma", "0.25", "--results", results), bench("table", "--results", results)):
        assert result.exit_code == 2
        assert "--results" in result.output
        assert isinstance(result.exception, SystemExit)


def test_a_sigma_without_end_is_no_number(bench: Call, tmp_path: Path) -> None:
    for word in ("inf", "nan", "1_0", "٣", "0x1", "1e999"):
        assert bench("run", "--sigma", word, "--results", tmp_path, "--dry-run").exit_code == 2, word


@pytest.mark.parametrize("name", ["none", "true", "method", "terms", "batch"])
def test_a_name_that_would_not_import_makes_no_file(bench: Call, tmp_path: Path, name: str) -> None:
    assert bench("new-method", name, "--folder", tmp_path).exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_show_and_check_refuse_an_unknown_variant(bench: Call) -> None:
    assert "has no variant 'bogus'" in bench("show", "smoothmix.bogus").output
    assert bench("show", "smoothmix.bogus").exit_code == 2
    assert bench("check", "smoothmix.bogus").exit_code == 2


def test_a_rerun_that_was_interrupted_says_how_to_continue(tiny: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.certify import Sampler

    assert tiny("--method", "gaussian", "--sigma", "0.25,0.5").exit_code == 0
    real = Sampler.certify

    def press(self: Sampler, *args: Any, **more: Any) -> object:
        if self.sigma == 0.5:
            signal.raise_signal(signal.SIGTERM)
        return real(self, *args, **more)

    monkeypatch.setattr(Sampler, "certify", press)
    result = tiny("--method", "gaussian", "--sigma", "0.25,0.5", "--rerun", "all")
    assert result.exit_code == 143
    assert "the same line again without --rerun all continues" in result.output
    monkeypatch.undo()
    again = tiny("--method", "gaussian", "--sigma", "0.25,0.5")
    assert again.exit_code == 0
    assert "1 done, 0 diverged, 1 to do" in again.output


def test_names_cannot_write_to_the_terminal(bench: Call, tiny: Call, tmp_path: Path) -> None:
    assert bench("new-method", "mine", "--folder", tmp_path).exit_code == 0
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace("copies: int = 2", "word: str = 'x'\n    copies: int = 2"))
    assert tiny("--plugin", path, "--method", "mine", "--sigma", "0.25", "--set", "word=\x1b[31mred").exit_code == 2
    assert tiny("--plugin", path, "--method", "mine", "--sigma", "0.25", "--set", "word=[red]<b>").exit_code == 0
    assert "mine[word=[red]<b>]" in bench("status", "--results", tmp_path / "runs").output


def test_the_cells_of_a_published_table(bench: Call, tmp_path: Path) -> None:
    result = bench("run", "--table", "9", "--protocol", "smoke", "--results", tmp_path / "runs", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    rows = [(c["row"], c["sigma"]) for c in json.loads(result.stdout)["cells"]]
    assert ("smoothmix.eta1[step_size=8.0,steps=1]", 1.0) in rows
    assert len(rows) == 5
    assert bench("run", "--table", "12", "--results", tmp_path, "--dry-run").exit_code == 2
    assert bench("run", "--table", "9", "--sigma", "1", "--results", tmp_path, "--dry-run").exit_code == 2


def test_commas_within_brackets_do_not_split() -> None:
    from bench.cli.common import words

    assert words(["a[b=1,c=2],d", "e"], "--method", []) == ["a[b=1,c=2]", "d", "e"]


def test_an_edited_method_is_not_taken_for_the_old_one_in_silence(bench: Call, tiny: Call, tmp_path: Path) -> None:
    assert bench("new-method", "mine", "--folder", tmp_path).exit_code == 0
    path = tmp_path / "mine.py"
    assert tiny("--plugin", path, "--sigma", "0.25").exit_code == 0, "a plug-in without --method is that method"
    assert "another version" not in tiny("--plugin", path, "--sigma", "0.25").output
    path.write_text(path.read_text().replace("self.strength *", "2 * self.strength *"))
    again = tiny("--plugin", path, "--sigma", "0.25")
    assert again.exit_code == 0
    assert "1 cells of mine were trained from another version of its file" in again.output
    assert "another version" not in tiny("--plugin", path, "--sigma", "0.25", "--rerun", "all").output


def test_a_failing_loss_is_told_with_its_line(bench: Call, tiny: Call, tmp_path: Path) -> None:
    assert bench("new-method", "mine", "--folder", tmp_path).exit_code == 0
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace("self.strength *", "self.strenght *"))
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "strenght" in text)
    for result in (tiny("--plugin", path, "--sigma", "0.25"), bench("check", path), bench("show", "mine", "--plugin", path)):
        assert f"(mine.py, line {line})" in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
    path.write_text(path.read_text().replace("self.strenght *", "self.strength *").replace(".mean(),", ","))
    assert "term 'cross_entropy' must be a scalar tensor, not a tensor of shape" in tiny("--plugin", path, "--sigma", "0.25").output
