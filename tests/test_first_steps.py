"""What the command line says to somebody who meets it for the first time."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_claims import ended_process
from typer.testing import Result

from bench.files.writing import read_json, write_json
from bench.matrix import report

Call = Callable[..., Result]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("t.tex", "latex"),
        ("t.md", "markdown"),
        ("t.csv", "csv"),
        ("t.JSON", "json"),
        ("t.txt", "terminal"),
    ],
)
def test_a_file_has_the_format_of_its_suffix(bench: Call, two_cells: Path, tmp_path: Path, name: str, form: str) -> None:
    by_suffix, by_name = tmp_path / name, tmp_path / "named"
    assert bench("table", "--results", two_cells, "--out", by_suffix).exit_code == 0
    assert bench("table", "--results", two_cells, "--out", by_name, "--format", form).exit_code == 0
    assert by_suffix.read_bytes() == by_name.read_bytes()
    other = tmp_path / "other.csv"
    bench("table", "--results", two_cells, "--out", other, "--format", "terminal")
    assert (other.read_bytes() == by_suffix.read_bytes()) == (form == "terminal"), "--format decides before the suffix does"


def test_a_compared_file_has_the_format_of_its_suffix(bench: Call, tiny: Call, tmp_path: Path) -> None:
    assert tiny("--method", "gaussian,stability", "--sigma", "0.25").exit_code == 0
    words = ("compare", "gaussian", "stability", "--results", tmp_path / "runs")
    assert bench(*words, "--out", tmp_path / "c.md").exit_code == 0
    assert bench(*words, "--out", tmp_path / "named", "--format", "markdown").exit_code == 0
    assert (tmp_path / "c.md").read_bytes() == (tmp_path / "named").read_bytes()


def test_printed_lines_can_be_pasted(tiny: Call, bench: Call, tmp_path: Path) -> None:
    runs = tmp_path / "results 1"
    result = tiny("--method", "gaussian", "--sigma", "0.25", "--results", runs)
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words == ["bench", "table", "--results", str(runs), "--protocol", "smoke"]
    assert bench(*words[1:]).exit_code == 0
    (tmp_path / "my methods").mkdir()
    made = bench("new-method", "mine", "--folder", tmp_path / "my methods")
    lines = [shlex.split(line) for line in made.output.splitlines() if line.startswith("  bench ")]
    assert [words[-1 if words[1] == "check" else 3] for words in lines] == [str(tmp_path / "my methods" / "mine.py")] * 2


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


def test_a_plugin_says_which_variants_were_not_asked_for(tiny: Call, margin: Path) -> None:
    note = "note: margin has also hard; --method 'margin.*' runs all"
    result = tiny("--plugin", margin, "--sigma", "0.25", "--dry-run")
    assert result.exit_code == 0, result.output
    assert note in result.output
    for method in ("margin", "margin.*", "margin.hard"):
        assert "has also" not in tiny("--plugin", margin, "--method", method, "--sigma", "0.25", "--dry-run").output
    assert "has also" not in tiny("--method", "smoothmix", "--sigma", "0.25", "--dry-run").output


def test_presets_that_are_missing_stop_nothing_unless_their_sigma_was_asked_for(tiny: Call, margin: Path) -> None:
    missing = "has no preset for mnist at sigma 1; there is sigma 0.25, 0.5"
    for words, rows in ((("--method", "margin.*"), ("margin.soft", "margin.hard")), ((), ("margin.soft",))):
        result = tiny("--plugin", margin, "--dry-run", *words)
        assert result.exit_code == 0, result.output
        assert f"{2 * len(rows)} cells: rows {len(rows)}, noise levels 2" in result.output
        for row in rows:
            assert f"note: {row} {missing}" in result.output
    asked = tiny("--plugin", margin, "--dry-run", "--sigma", "0.25,1")
    assert asked.exit_code == 2
    assert f"bench: margin.soft {missing}" in asked.output


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("n=500", "did you mean 'certify.n'?"),
        ("epochs=3", "did you mean 'train.epochs'?"),
        ("epoch=3", "did you mean 'train.epochs'?"),
        ("images=first:3", "did you mean 'certify.images' or 'train.images'?"),
        ("sigma=0.5", "use --sigma 0.5"),
        ("seed=3", "use --seeds 3,"),
        ("scal=3", "did you mean 'scale'?"),
        ("qwertz=3", "there is scale"),
    ],
)
def test_a_change_without_its_prefix_is_told_the_prefix(tiny: Call, margin: Path, word: str, hint: str) -> None:
    result = tiny("--plugin", margin, "--sigma", "0.25", "--dry-run", "--set", word)
    assert result.exit_code == 2
    assert f"method 'margin' has no field '{word.partition('=')[0]}'" in result.output
    assert hint in result.output


def test_a_stopped_training_is_not_called_unbegun(bench: Call, tiny: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.gaussian import Gaussian

    real = Gaussian.loss

    def ended(self: Gaussian, *args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(Gaussian, "loss", ended)
    monkeypatch.setattr("bench.matrix.cost.estimate", lambda *_, **__: {})  # it computes the loss, too
    result = tiny("--method", "gaussian", "--sigma", "0.25,0.5")
    assert result.exit_code == 128 + signal.SIGTERM, result.output
    assert "1 interrupted, 1 not begun of 2 cells" in result.output
    (path,) = (tmp_path / "runs" / report.FOLDER).iterdir()
    write_json(path, read_json(path) | {"pid": ended_process()})
    rows = json.loads(bench("status", "--results", tmp_path / "runs", "--json").stdout)
    assert {row["sigma"]: (row["state"], row["reason"]) for row in rows} == {
        "0.25": ("interrupted", "training stopped, and its checkpoint is kept; its `bench run` ended"),
        "0.5": ("interrupted", "not begun; its `bench run` ended"),
    }
    (newest,) = (tmp_path / "runs").rglob("checkpoint.bin")
    newest.rename(newest.with_suffix(".older.bin"))  # as a kill between two renames leaves it
    rows = json.loads(bench("status", "--results", tmp_path / "runs", "--json").stdout)
    assert "its checkpoint is kept" in rows[0]["reason"]


@pytest.mark.parametrize("verb", [("run", "--dry-run"), ("check", "gaussian"), ("data", "check", "mnist"), ("predict", "x.pth")])
def test_a_data_folder_that_is_not_there_is_refused(bench: Call, tmp_path: Path, verb: tuple[str, ...]) -> None:
    result = bench(*verb, "--data-dir", tmp_path / "nowhere")
    assert result.exit_code == 2, result.output
    assert f"bench: --data-dir {tmp_path / 'nowhere'}: there is no such folder" in result.output


def test_no_seed_and_no_folder_are_refused(bench: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    none = bench("run", "--method", "gaussian", "--seeds", "0", "--dry-run")
    assert none.exit_code == 2
    assert "bench: --seeds 0 asks for no seed" in none.output
    one = bench("run", "--method", "gaussian", "--seeds", "0,", "--sigma", "0.25", "--dry-run", "--json", "--results", ".")
    assert [cell["seed"] for cell in json.loads(one.stdout)["cells"]] == [0]
    for verb in (("run", "--method", "gaussian", "--dry-run"), ("table",), ("status",)):
        empty = bench(*verb, "--results", "")
        assert empty.exit_code == 2
        assert empty.output.startswith("bench: --results is empty")
    assert not list(tmp_path.iterdir())


def test_a_method_without_its_decorator_is_told_which(bench: Call, margin: Path) -> None:
    text = margin.read_text().replace("@dataclass(frozen=True, kw_only=True)\n", "")
    assert text != margin.read_text()
    margin.write_text(text)
    result = bench("run", "--plugin", margin, "--dry-run")
    assert result.exit_code == 2
    assert "TypeError: write @dataclass(frozen=True, kw_only=True) above class Margin (" in result.output


def test_a_loss_that_is_nan_is_told_without_a_warning(bench: Call, margin: Path) -> None:
    margin.write_text(margin.read_text().replace('"cross_entropy": self.scale', '"cross_entropy": float("nan")'))
    result = bench("check", margin)
    assert result.exit_code == 1
    assert "term 'cross_entropy' is nan at epoch 0" in result.output
    assert "Warning" not in result.output
    assert "margin: 2 of 7 promises hold, 4 were not tried" in result.output


def test_logs_of_no_known_collection_ask_for_a_manifest(bench: Call, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t0.5\t1\t0.1\n")
    result = bench("import", tmp_path / "logs", "--results", tmp_path / "runs")
    assert result.exit_code == 2
    assert "--draft FILE.csv` begins a manifest" in result.output


def test_the_variants_of_the_readme_run(bench: Call, tiny: Call, tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "Mine.presets" in block)
    in_class, _, below = block.partition("\n\n")
    bench("new-method", "mine", "--folder", tmp_path)
    path = tmp_path / "mine.py"
    text = path.read_text().replace("    copies: int", f"{in_class}\n    copies: int", 1)
    path.write_text(text.replace("import dataclass\n", "import dataclass\nfrom typing import ClassVar\n") + f"\n\n{below}")
    first = tiny("--plugin", path, "--dry-run")
    assert first.exit_code == 0, first.output
    assert "3 cells: rows 1" in first.output
    both = json.loads(tiny("--plugin", path, "--method", "mine.*", "--dry-run", "--json").stdout)["cells"]
    assert [(cell["row"], cell["sigma"]) for cell in both] == [
        ("mine.weak", 0.25), ("mine.strong", 0.25), ("mine.weak", 0.5), ("mine.strong", 0.5), ("mine.weak", 1.0),
    ]  # fmt: skip
    assert bench("check", path).exit_code == 0
