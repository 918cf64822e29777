"""Published logs into the store and ours out of it; the map of the SmoothMix collection."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from fake_store import certificate, run_spec
from typer.testing import Result

from bench.datasets import DATASETS
from bench.errors import BenchError, UsageError
from bench.evidence import certification_log
from bench.evidence.certificate import Certificate, to_line
from bench.evidence.certification_log import FieldRow, Refused
from bench.files.writing import write_json
from bench.logs import ImportSpec, LogMap, Placed, import_logs, load_map, runs_of_table
from bench.registry import Registry
from bench.spec import CertifySpec, Scalar, row_name, to_json
from bench.store.imports import Import
from bench.store.runs import Run, Store

Call = Callable[..., Result]

GOLDEN = os.environ.get("CERTBENCH_GOLDEN", "")
golden = pytest.mark.skipif(not GOLDEN, reason="CERTBENCH_GOLDEN does not name the folder of the authors' logs")

MAP = """
collection = "toy"
images = ["first:6"]
n = 1000
[datasets.toy]
classes = 3
test_size = 20
[presets.gaussian]
"toy/0.5" = { copies = 4 }
"toy/1" = { copies = 4 }
[[logs]]
path = "logs/{copies}/noise_{sigma}_{run}"
dataset = "toy"
arch = "lenet"
method = "gaussian"
settings = { copies = "{copies}" }
[[logs]]
path = "mnist/noise_{sigma}_{run}"
dataset = "mnist"
arch = "lenet"
method = "gaussian"
images = ["first:4"]
[[logs]]
path = "{*}_acc"
skip = "no log"
"""


def text(*labels: int, radius: str = "0.5", seconds: str = "0.1") -> str:
    """A log of images 0, 1, ... that are all certified as what they are."""
    body = "".join(f"{i}\t{label}\t{label}\t{radius}\t1\t{seconds}\n" for i, label in enumerate(labels))
    return f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n{body}"


LABELS = (0, 1, 2, 0, 1, 2)


class Toy:
    """A folder of logs, a map of it and a store."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs = path / "collection", path / "runs"
        self.map_file = path / "map.toml"
        self.map_file.write_text(MAP)
        self.map = load_map(self.map_file)

    def write(self, name: str, content: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return file

    def snapshot(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.runs)): p.read_bytes() for p in self.runs.rglob("*") if p.is_file()}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    result = Toy(tmp_path)
    result.write("logs/4/noise_0.5_1", text(*LABELS))
    result.write("logs/4/noise_0.50_2", text(*LABELS, radius="0.6"))
    return result


# ---------------------------------------------------------------------------------------------------------- the store


def test_an_import_is_read_back(toy: Toy) -> None:
    report = import_logs(toy.path, toy.runs, toy.map)
    assert (len(report.read), report.already, report.same, report.skipped, report.refused) == (2, {}, {}, {}, [])
    entries = list(Store(toy.runs).subjects(Import))
    assert {entry.spec.source for entry in entries} == {"logs/4/noise_0.5_1", "logs/4/noise_0.50_2"}
    for entry in entries:
        assert (entry.spec.row, entry.spec.sigma, entry.spec.n, entry.spec.images) == ("gaussian", 0.5, 1000, "first:6")
        assert entry.path.parent == toy.runs / "imported" / "toy" / "gaussian"
        assert entry.path.name == f"0.5-{entry.spec.run}-{entry.spec.key}"
        assert hashlib.sha256((toy.path / entry.spec.source).read_bytes()).hexdigest() == entry.spec.sha256
        rows, columns = entry.rows(), entry.columns()
        assert rows == [FieldRow(i, label, label, "0.5" if entry.spec.run == "1" else "0.6") for i, label in enumerate(LABELS)]
        assert [*columns.index] == [*range(6)]
        assert [*columns.label] == [*columns.predict] == [*LABELS]
        assert [*columns.radius] == [row.radius for row in rows]
        assert columns.correct.all()


def test_importing_again_changes_nothing(toy: Toy) -> None:
    import_logs(toy.path, toy.runs, toy.map)
    before = toy.snapshot()
    report = import_logs(toy.path, toy.runs, toy.map)
    assert (len(report.read), len(report.already), report.refused) == (0, 2, [])
    assert toy.snapshot() == before
    assert len(import_logs(toy.path / "logs" / "4", toy.runs, toy.map).already) == 2  # from within the collection
    assert len(import_logs(toy.path / "logs" / "4" / "noise_0.5_1", toy.runs, toy.map).already) == 1
    assert len(import_logs(toy.path.parent, toy.runs, toy.map).already) == 2  # from above it
    assert toy.snapshot() == before


def test_a_damaged_import_is_told_and_mended(toy: Toy) -> None:
    import_logs(toy.path, toy.runs, toy.map)
    before = toy.snapshot()
    entry = next(Store(toy.runs).subjects(Import))
    for damaged in (entry.file.read_bytes().replace(b"0.5", b"0.4", 1), b""):
        entry.file.write_bytes(damaged)
        with pytest.raises(BenchError, match="SHA-256"):
            entry.rows()
    entry.file.unlink()
    with pytest.raises(BenchError, match="No such file"):
        entry.columns()
    assert len(import_logs(toy.path, toy.runs, toy.map).read) == 1
    assert toy.snapshot() == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"sigma":0.5', '"sigma":0.6', "its key is"),
        ('"run":"1"', '"run":"../1"', "is not a word"),
        ('"n":1000', '"n":0', "must lie between 1 and"),
        ('"method":"gaussian"', '"method":"Gaussian"', "is not a name"),
        ('"schema":1', '"schema":2', "schema version"),
        ('"run":"1"', '"rum":"1"', "unknown key 'rum'; did you mean 'run'"),
        ('"sha256":"', '"sha256":"0', "is not a SHA-256"),
        ('"alpha":0.001', '"alpha":0.7', "alpha"),
        ("{", "", "not a valid spec"),
    ],
)
def test_a_damaged_spec_is_told(toy: Toy, old: str, new: str, words: str) -> None:
    import_logs(toy.path / "logs" / "4" / "noise_0.5_1", toy.runs, toy.map)
    spec = next(Store(toy.runs).subjects(Import)).path / "spec.json"
    spec.write_text(spec.read_text().replace(old, new, 1))
    import_logs(toy.path / "logs" / "4" / "noise_0.50_2", toy.runs, toy.map)
    whole, (damaged,) = Store(toy.runs).read("imported")
    assert len(whole) == 1, "the other one is there"
    assert damaged.file == spec
    assert words in damaged.reason


def test_an_import_that_never_finished_is_none(toy: Toy) -> None:
    import_logs(toy.path, toy.runs, toy.map)
    next((toy.runs / "imported").rglob("spec.json")).unlink()
    assert len(list(Store(toy.runs).subjects(Import))) == 1
    assert len(import_logs(toy.path, toy.runs, toy.map).read) == 1
    assert len(list(Store(toy.runs).subjects(Import))) == 2
    assert list(Store(toy.runs / "nowhere").subjects(Import)) == []


def test_imports_are_no_runs(toy: Toy) -> None:
    import_logs(toy.path, toy.runs, toy.map)
    assert list(Store(toy.runs).runs()) == []


def test_the_same_content_is_read_once(toy: Toy) -> None:
    toy.write("logs/4/noise_0.5_7", text(*LABELS))
    report = import_logs(toy.path, toy.runs, toy.map)
    assert report.same == {"logs/4/noise_0.5_7": "logs/4/noise_0.5_1"}
    assert len(report.read) == 2
    (toy.path / "logs/4/noise_0.5_1").unlink()
    report = import_logs(toy.path, toy.runs, toy.map)
    assert report.same == {"logs/4/noise_0.5_7": "logs/4/noise_0.5_1"}
    assert len(report.already) == 1


def test_the_same_content_cannot_be_two_things(toy: Toy) -> None:
    toy.write("logs/4/noise_1.0_1", text(*LABELS))
    toy.write("logs/8/noise_0.5_1", text(*LABELS))
    refused = {error.file: error for error in import_logs(toy.path, toy.runs, toy.map).refused}
    assert set(refused) == {"logs/4/noise_1.0_1", "logs/8/noise_0.5_1"}
    assert "which is gaussian at sigma 0.5, while the path says gaussian[copies=8]" in refused["logs/8/noise_0.5_1"].reason


def test_one_run_cannot_have_two_contents(toy: Toy) -> None:
    toy.write("logs/4/noise_0.50_1", text(*LABELS, radius="0.7"))
    (error,) = import_logs(toy.path, toy.runs, toy.map).refused
    assert error.kind == "same place"
    assert len(list(Store(toy.runs).subjects(Import))) == 2


def test_another_map_of_the_same_log_is_told(toy: Toy) -> None:
    import_logs(toy.path, toy.runs, toy.map)
    toy.map_file.write_text(MAP.replace("n = 1000", "n = 100000"))
    refused = import_logs(toy.path, toy.runs, load_map(toy.map_file)).refused
    assert len(refused) == 2
    assert "imported under another map" in refused[0].reason


def test_a_folder_is_known_from_within(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.path / "logs" / "4")
    assert len(import_logs(Path(), toy.runs, toy.map).read) == 2
    monkeypatch.chdir(toy.path)
    assert len(import_logs(Path("logs/4/../4/noise_0.5_1"), toy.runs, toy.map).already) == 1


def test_labels_of_one_data_set_agree(toy: Toy) -> None:
    """The odd one out is refused, though it comes first; later imports are held to those in the store."""
    toy.write("logs/4/noise_0.5_0", text(2, 1, 2, 0, 1, 2))
    toy.write("logs/4/noise_0.5_00", text(2, 1, 2, 0, 1, 2))
    report = import_logs(toy.path, toy.runs, toy.map)
    assert [error.file for error in report.refused] == ["logs/4/noise_0.5_0", "logs/4/noise_0.5_00"]
    assert "image 0 has label 2, but label 0 in most other logs of the data set" in report.refused[0].reason
    assert "same content as logs/4/noise_0.5_0, which is refused" in report.refused[1].reason
    assert len(report.read) == 2
    toy.write("logs/4/noise_1.0_3", text(0, 1, 2, 0, 1, 1))
    (error,) = import_logs(toy.path / "logs/4/noise_1.0_3", toy.runs, toy.map).refused
    assert (error.line, "in logs that were imported before" in error.reason) == (7, True)


def test_labels_are_those_of_a_data_set_that_ships(toy: Toy) -> None:
    labels = DATASETS["mnist"].test_labels()
    toy.write("mnist/noise_0.5_1", text(*labels[:4]))
    toy.write("mnist/noise_0.5_2", text(*labels[:3], 9))
    report = import_logs(toy.path, toy.runs, toy.map)
    (error,) = report.refused
    assert (error.file, error.line) == ("mnist/noise_0.5_2", 5)
    assert "mnist/noise_0.5_1" in report.read


def test_links_pipes_and_hidden_files(toy: Toy, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "noise_0.5_8").write_text(text(*LABELS, radius="0.8"))
    (toy.path / "logs/4/noise_0.5_8").symlink_to(outside / "noise_0.5_8")
    (toy.path / "logs/8").symlink_to(outside)
    (toy.path / "logs/16").symlink_to(toy.path / "logs/4")
    (toy.path / "logs/4/noise_0.5_9").symlink_to(tmp_path / "nothing")
    (toy.path / "logs/4/noise_0.5_3").symlink_to(toy.path / "logs/4/noise_0.5_1")
    os.mkfifo(toy.path / "logs/4/noise_0.5_4")
    toy.write(".git/noise", "x")
    toy.write("logs/4/.noise_0.5_5", "x")
    report = import_logs(toy.path, toy.runs, toy.map)
    assert {error.file: error.kind for error in report.refused} == {
        "logs/16": "link",
        "logs/8": "link",
        "logs/4/noise_0.5_8": "link",
        "logs/4/noise_0.5_9": "link",
        "logs/4/noise_0.5_4": "unreadable",
    }
    assert report.same == {"logs/4/noise_0.5_3": "logs/4/noise_0.5_1"}
    assert len(report.read) == 2


def test_the_store_is_not_imported_into_itself(toy: Toy) -> None:
    import_logs(toy.path, toy.path / "runs", toy.map)
    assert import_logs(toy.path, toy.path / "runs", toy.map).refused == []


# ------------------------------------------------------------------------------------------------------- the commands


def call(bench: Call, toy: Toy, *words: str | Path) -> Result:
    return bench("import", toy.path, "--format", "tsv", "--map", toy.map_file, "--results", toy.runs, *words)


def test_the_summary_counts_and_says_why(bench: Call, toy: Toy) -> None:
    toy.write("logs/4/noise_0.5_3", text(*LABELS))
    toy.write("logs/4/noise_1.0_1", text(*LABELS[:4]))
    toy.write("logs/4/noise_2.0_1", text(*LABELS))
    toy.write("notes.txt", "x")
    toy.write("logs/4/noise_1.0_1_acc", "x")
    result = call(bench, toy)
    assert result.exit_code == 0
    for words in (
        "refused: logs/4/noise_1.0_1, line 5: cut short: 4 of 6 images",
        "refused: notes.txt: no path pattern of",
        "there is no preset of gaussian for toy/2",
        "same content as logs/4/noise_0.5_1: logs/4/noise_0.5_3",
        "     2 read",
        "     1 same content as another",
        "     1 left out by the map",
        "     3 refused: 1 cut short, 1 no place, 1 no pattern",
    ):
        assert words in result.output
    data = json.loads(call(bench, toy, "--json").stdout)
    assert [len(data[name]) for name in ("read", "already", "same", "skipped", "refused")] == [0, 2, 1, 1, 3]
    assert data["refused"][0] == {
        "file": "logs/4/noise_1.0_1",
        "line": 5,
        "kind": "cut short",
        "reason": "cut short: 4 of 6 images",
    }
    assert len(list(Store(toy.runs).subjects(Import))) == 2


def test_the_summary_says_what_is_wrong_in_a_log(bench: Call, toy: Toy) -> None:
    toy.write("mnist/noise_0.5_1", text(7, 2, 1, 1))  # the fourth is a 0
    result = call(bench, toy)
    assert result.exit_code == 0
    assert "     1 refused: 1 wrong labels" in result.output


def test_strict_writes_nothing_if_anything_is_refused(bench: Call, toy: Toy) -> None:
    bad = toy.write("logs/4/noise_1.0_1", text(*LABELS[:4]))
    result = call(bench, toy, "--strict")
    assert result.exit_code == 1
    assert "nothing was written" in result.output
    assert not toy.runs.exists()
    assert json.loads(call(bench, toy, "--strict", "--json").stdout)["written"] is False
    bad.unlink()
    assert call(bench, toy, "--strict").exit_code == 0
    assert len(list(Store(toy.runs).subjects(Import))) == 2


def test_names_that_a_terminal_would_obey_are_escaped(bench: Call, toy: Toy) -> None:
    toy.write("logs/\x1b[31mred\nrefused: y", "x")
    result = call(bench, toy)
    assert "refused: logs/\\x1b[31mred\\nrefused: y: no path pattern" in result.output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["{path}x"], "there is no"),
        (["{path}", "--format", "csv"], "--format csv is unknown; did you mean 'tsv'?"),
        (["{path}", "--map", "nowhere.toml"], "nowhere.toml: No such file"),
        (["{path}", "--results", "{file}"], "is a file, not a folder"),
        (["{empty}"], "there are no files in"),
    ],
)
def test_usage_errors(bench: Call, toy: Toy, words: list[str], reason: str) -> None:
    (toy.path.parent / "empty").mkdir()
    names = {"path": toy.path, "file": toy.map_file, "empty": toy.path.parent / "empty"}
    result = bench("import", *(word.format(**names) for word in words), *(() if "--results" in words else ("--results", toy.runs)))
    assert result.exit_code == 2, result.output
    assert reason in result.output
    assert not toy.runs.exists()


BAD_MAPS = {
    "collection": ('"toy"', '"To y"', "is not a name"),
    "unknown key": ('collection = "toy"', 'collection = "toy"\ncolection = 1', "unknown key 'colection'; did you mean 'collection'?"),
    "unknown key of a log": ('arch = "lenet"', 'ach = "lenet"', "unknown key 'ach'; did you mean 'arch'?"),
    "no method": ('method = "gaussian"\nimages', "images", "key 'method' is missing"),
    "images": ('images = ["first:4"]', 'images = ["some"]', "images=some is no selection"),
    "no images": ('images = ["first:4"]', "images = []", "at least one selection"),
    "images beyond the end": ('images = ["first:4"]', 'images = ["20000-30000"]', "selects none of the 10000"),
    "alpha": ("n = 1000", "n = 1000\nalpha = 0.9", "alpha 0.9"),
    "n": ("n = 1000", "n = 0", "n=0 must be greater than 0"),
    "n as text": ("n = 1000", 'n = "1000"', "n must be a whole number"),
    "classes": ("classes = 3", "classes = 0", "needs classes and test_size"),
    "other facts of a known data set": ("[datasets.toy]", "[datasets.mnist]\nclasses = 3\ntest_size = 9\n[datasets.toy]", "10 classes"),
    "unknown data set": ('dataset = "mnist"', 'dataset = "mnits"', "unknown data set 'mnits'; did you mean 'mnist'?"),
    "a word that the path lacks": ('"{copies}" }', '"{copis}" }', "did you mean 'copies'?"),
    "a word twice": ("{sigma}_{run}", "{sigma}_{sigma}", "stands twice"),
    "a brace": ("{*}_acc", "{*_acc", "braces must hold a word"),
    "skip with more": ('skip = "no log"', 'skip = "no log"\nmethod = "gaussian"', "no other key"),
    "presets": ('"toy/1" = { copies = 4 }', '"toy/1" = 4', "must be tables of plain values"),
    "tables": ('collection = "toy"', 'collection = "toy"\ntables = { 4 = { gaussian = { "0.5" = [1] } } }', "lists of run ids"),
    "a table of words": ('collection = "toy"', 'collection = "toy"\ntables = { four = 4 }', "must be a number"),
    "a data set in the path that there is none of": (
        'path = "{*}_acc"\nskip = "no log"',
        'path = "{x}"\nmethod = "g"',
        "'dataset' is missing",
    ),
    "no TOML": ("collection =", "collection", "not a map in TOML"),
    "not text": ('collection = "toy"', "collection = \udcff", "not a map in TOML"),
}


@pytest.mark.parametrize("name", BAD_MAPS)
def test_bad_maps_are_usage_errors(bench: Call, toy: Toy, name: str) -> None:
    old, new, reason = BAD_MAPS[name]
    assert old in MAP
    toy.map_file.write_bytes(MAP.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    result = call(bench, toy)
    assert result.exit_code == 2, result.output
    assert reason in result.output
    assert not toy.runs.exists()


def finished_run(root: Path, **changes: object) -> tuple[Run, list[Certificate]]:
    """A run that is trained and certified on four images."""
    run = Store(root).run(run_spec("gaussian", sigma=0.5))
    write_json(run.path / "spec.json", to_json(run.spec))
    write_json(run.path / "training.json", {"state": "trained", "steps": run.steps(), "weights_sha256": "0" * 64})
    labels = DATASETS["mnist"].test_labels()
    rows = [certificate(i, labels[i], count) for i, count in enumerate((1000, 990, 900, 500))]
    certify = dataclasses.replace(CertifySpec(n0=10, n=1000, images="first:4"), **changes)  # type: ignore[arg-type]
    folder = run.certification(certify).path
    run.certification(certify).begin("0" * 64)
    (folder / "evidence.jsonl").write_text("".join(map(to_line, rows[: certify.seed or 4])))
    (folder / "times.csv").write_text("0,1.500000\n1,9.000000\n1,2.000000\n2\n")
    return run, rows


def test_export_and_import_are_inverse(bench: Call, toy: Toy) -> None:
    run, rows = finished_run(toy.runs)
    out = toy.path / "mnist" / "noise_0.5_1"
    result = bench("export", run.spec.key[:8], "--format", "tsv", "--out", out, "--results", toy.runs)
    assert result.exit_code == 0, result.output
    assert "4 images of gaussian, sigma 0.5, seed 0" in result.output
    lines = out.read_text().splitlines()
    assert lines[0].split() == ["idx", "label", "predict", "radius", "correct", "time", "count", "n"]
    assert [line.split("\t")[5] for line in lines[1:]] == ["0:00:01.500000", "0:00:02.000000", "0:00:00", "0:00:00"]
    assert lines[4].split("\t")[2:5] == ["-1", "0.0", "0"]
    report = import_logs(toy.path, toy.runs, toy.map)
    assert report.refused == []
    (entry,) = [entry for entry in Store(toy.runs).subjects(Import) if entry.spec.dataset == "mnist"]
    for row, back in zip(rows, entry.rows(), strict=True):
        assert (back.index, back.label, back.correct) == (row.index, row.label, row.correct(0.001, 0.5))
        assert 0 <= (row.radius(0.001, 0.5) or 0.0) - back.radius < 1e-4
    strict = bench("export", run.path, "--out", out, "--alpha", "0.01", "--results", toy.runs)
    assert strict.exit_code == 0
    assert float(out.read_text().splitlines()[1].split("\t")[3]) > entry.rows()[0].radius


def test_export_of_what_is_not_finished_is_refused(bench: Call, tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path / "runs", seed=3)  # three of four images
    words = ("export", run.spec.key, "--out", tmp_path / "x", "--results", tmp_path / "runs")
    result = bench(*words)
    assert result.exit_code == 2
    assert "is not finished (certifying, 3 of 4 images)" in result.output
    (tmp_path / "runs" / "y").mkdir()
    for path in run.path.glob("certify-*/*"):
        path.unlink()
    assert "has no certification" in bench(*words).output
    assert not (tmp_path / "x").exists()


def test_export_of_one_of_several_certifications(bench: Call, tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path / "runs")
    finished_run(tmp_path / "runs", seed=4)
    words = ("export", run.spec.key, "--out", tmp_path / "x", "--results", tmp_path / "runs")
    result = bench(*words)
    assert result.exit_code == 2
    keys = [certification.spec.key for certification in run.certifications()]
    assert all(key in result.output for key in keys)
    assert bench(*words, "--certification", keys[0][:6]).exit_code == 0
    assert "has no certification with key 'zz'" in bench(*words, "--certification", "zz").output


def test_export_usage(bench: Call, tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path / "runs")
    result = bench("export", run.spec.key, "--out", tmp_path, "--alpha", "0.5", "--format", "tvs", "--results", tmp_path / "runs")
    assert result.exit_code == 2
    for words in ("--format tvs is unknown; did you mean 'tsv'?", "--alpha 0.5 must lie", "is a folder; name a file"):
        assert words in result.output
    assert "no run in" in bench("export", "zz", "--out", tmp_path / "x", "--results", tmp_path / "runs").output


# ------------------------------------------------------------------------------------------------- the map that ships


@pytest.fixture(scope="module")
def shipped() -> LogMap:
    return load_map()


def shapes() -> Iterator[tuple[str, str, float]]:
    """Every shape of a path in the collection, with the row and sigma that it means; row `skip` for what is no log."""
    mnist = ((0.25, "0.25"), (0.5, "0.50"), (1.0, "1.00"))
    for sigma, printed in mnist:
        yield f"mnist/cohen/noise_{printed}_919", "gaussian", sigma
        yield f"mnist/stab/lbd_2/noise_{sigma}_4654", "stability", sigma
        yield f"mnist/salman/pgd_255.0_10_10/num_4/noise_{printed}_647", "smoothadv", sigma
        strength = "6.0" if sigma == 1 else "16.0"
        yield f"mnist/macer_deferred30/num_16/lbd_{strength}/gamma_8.0/beta_16.0/noise_{printed}_12", "macer", sigma
        own = "10.0" if sigma == 0.25 else "5.0"
        for copies, strength in product((2, 4, 8), ("1.0", "5.0", "10.0", "15.0", "20.0", "25.0", "30.0", "50.0")):
            changes = ([f"copies={copies}"] if copies != 2 else []) + ([f"strength={strength}"] if strength != own else [])
            row = f"consistency[{','.join(changes)}]" if changes else "consistency"
            path = f"mnist/consistency/cohen/num_{copies}/lbd_{strength}/eta_0.5/noise_{printed}_3"
            yield path, row, sigma
            yield f"{path}_acc", "skip", 0
        base = "[copies=4,entropy_strength=0.5,epsilon=0.99609375,steps=10,strength=1.0,warmup_epochs=10]"
        path = f"mnist/consistency/salman_255.0_10_10/num_4/lbd_1.0/eta_0.5/noise_{printed}_5"
        yield path, f"consistency.on-smoothadv{base}", sigma
        yield f"{path}_acc", "skip", 0
        for one_step, eta, steps in product((0, 1), (1, 2, 5), (2, 3) if sigma == 0.25 else (int(8 * sigma),)):
            preset = {(5, 0.25): 2, (1, 0.25): 3, (2, 0.25): 3}.get((eta, sigma), steps)
            changes = ([f"steps={steps}"] if steps != preset else []) + (["strength=2.0"] if eta == 2 else [])
            row = f"smoothmix.eta{5 if eta == 5 else 1}{'-onestep' if one_step else ''}"
            row += f"[{','.join(changes)}]" if changes else ""
            yield f"mnist/smoothmix/smix_1.0_{steps}_m{one_step}/tau_{eta}.0/num_4/21/noise_{sigma}", row, sigma
    for table in ("alphat", "eta", "m", "restriction"):
        yield f"ablation/{table}/smix_1.0_8_m0/tau_1.0/num_4/10/noise_1.0", "smoothmix.eta1", 1.0
    for size, steps in ((2, 4), (4, 2), (8, 1)):
        row = f"smoothmix.eta1[step_size={size}.0,steps={steps}]"
        yield f"ablation/alphat/smix_{size}.0_{steps}_m0/tau_1.0/num_4/10/noise_1.0", row, 1.0
    for eta in (2, 4, 8, 16):
        yield f"ablation/eta/smix_1.0_8_m0/tau_{eta}.0/num_4/11/noise_1.0", f"smoothmix.eta1[strength={eta}.0]", 1.0
    for copies in (1, 2, 8):
        yield f"ablation/m/smix_1.0_8_m0/tau_1.0/num_{copies}/9/noise_1.0", f"smoothmix.eta1[copies={copies}]", 1.0
    for limit in (2, 4, 6, 8):
        path = f"ablation/restriction/smix_1.0_8_m0_max{limit}.0/tau_1.0/num_4/12/noise_1.0"
        yield path, f"smoothmix.eta1-norm{limit}", 1.0
    for arch in ("densenet40", "resnet20", "resnet110"):
        yield f"cifar10/cohen/cifar_{arch}/noise_0.50_2341", "gaussian", 0.5
        yield f"cifar10/stab/lbd_2/cifar_{arch}/noise_0.5_9093", "stability", 0.5
        yield f"cifar10/macer/num_16/lbd_4.0/gamma_8.0/beta_16.0/cifar_{arch}/noise_0.50_8966", "macer", 0.5
        yield f"cifar10/salman/pgd_255.0_10_10/num_8/cifar_{arch}/noise_0.50_6091", "smoothadv", 0.5
        yield f"cifar10/salman/pgd_512.0_10_10/num_2/cifar_{arch}/noise_0.50_1149", "smoothadv[copies=2,epsilon=2.0]", 0.5
        yield f"cifar10/salman/pgd_512.0_10_10/num_2/cifar_{arch}/noise_0.50_1149_o", "skip", 0
        for sigma, strength in product((0.25, 0.5, 1.0), ("5.0", "10.0", "20.0")):
            own = "20.0" if sigma == 0.25 else "10.0"
            path = f"cifar10/consistency/cohen/num_2/lbd_{strength}/eta_0.5/cifar_{arch}/noise_{sigma:.2f}"
            yield path, "consistency" if strength == own else f"consistency[strength={strength}]", sigma
            yield f"{path}_acc", "skip", 0
        for eps, copies, weight in ((255, 4, 2), (512, 2, 1)):
            path = f"cifar10/consistency/salman_{eps}.0_10_10/num_{copies}/lbd_{weight}.0/eta_0.5/cifar_{arch}/noise_1.00"
            row = f"[copies={copies},entropy_strength=0.5,epsilon={eps / 256},steps=10,strength={weight}.0,warmup_epochs=10]"
            yield path, f"consistency.on-smoothadv{row}", 1.0
            yield f"{path}_acc", "skip", 0
    for sigma in (0.25, 0.5):
        yield f"cifar10/smoothmix/noise_{sigma}", "smoothmix.eta5", sigma
        yield f"cifar10/smoothmix/noise_{sigma}_adv", "smoothmix.eta5-onestep", sigma


def test_every_shape_of_path_is_placed(shipped: LogMap) -> None:
    seen: dict[object, str] = {}
    for path, row, sigma in shapes():
        placed = shipped.place(path)
        if row == "skip":
            assert placed.skip, path
            continue
        assert (placed.row, placed.sigma, placed.source, placed.skip) == (row, sigma, path, ""), path
        assert placed.dataset == path.split("/")[0].replace("ablation", "mnist")
        assert seen.setdefault(placed.place, path) == path or path.startswith("ablation/"), path
        assert shipped.place(f"some/folder/{path}") == placed
        head, _, tail = path.partition("/")
        assert shipped.place(tail, ["some", head]) == placed
    for path in (
        "mnist/cohen/noise_0.25",
        "mnist/cohen/noise_x_1",
        "cohen/noise_0.25_919",
        "mnist/smoothmix/smix_1.0_8_m2/tau_1.0/num_4/0/noise_1.0",
    ):
        with pytest.raises(Refused, match="no path pattern"):
            shipped.place(path)


def test_the_presets_of_the_map_are_those_of_the_methods(shipped: LogMap) -> None:
    registry = Registry()
    for row, cells in shipped.presets.items():
        method, _, variant = row.partition(".")
        presets = registry.load(method).cls.presets
        for cell, values in cells.items():
            dataset, sigma = cell.split("/")
            own = presets["official", variant or "default", dataset, float(sigma)]
            assert {name: getattr(own, name) for name in values} == values, (row, cell)
            assert all(type(getattr(own, name)) is type(value) for name, value in values.items()), (row, cell)


def test_the_rows_of_the_map_are_named_as_ours() -> None:
    cases: list[dict[str, Scalar]] = [{}, {"strength": 2.0}, {"step_size": 8.0, "steps": 1}, {"a": None, "b": True, "c": "kl"}]
    for variant, changes in product(("default", "eta1"), cases):
        spec = run_spec(f"smoothmix.{variant}", changes=changes)
        assert row_name("smoothmix", variant, changes) == spec.row


def test_runs_of_the_tables(shipped: LogMap) -> None:
    assert runs_of_table(4, "gaussian", 0.5) == ("393", "880", "1801", "4490", "4608")
    assert runs_of_table(5, "smoothmix.eta5-onestep", 1.0) == ("21", "22", "23", "24", "25")
    assert runs_of_table(8, "gaussian", 1.0) == ()
    assert runs_of_table(11, "smoothmix.eta1[copies=8]", 1.0, shipped) == ("9",)
    assert runs_of_table(99, "gaussian", 1.0) == ()
    assert shipped.tables[4] == shipped.tables[5]
    for table in (4, 5):
        assert len(shipped.tables[table]) == 9
        for cells in shipped.tables[table].values():
            assert {sigma: len(set(runs)) for sigma, runs in cells.items()} == {0.25: 5, 0.5: 5, 1.0: 5}


def test_the_shipped_tables_name_the_rows_of_the_layouts(shipped: LogMap) -> None:
    import tomllib

    layouts = tomllib.loads(Path(shipped.origin).with_name("layouts.toml").read_text())
    for number in (4, 5, 8, 9, 10, 11):
        assert list(shipped.tables[number]) == [row for row, _ in layouts[f"table{number}"]["rows"]]


# --------------------------------------------------------------------------------------------------------- golden logs


@golden
def test_all_paths_of_the_collection_are_placed(shipped: LogMap) -> None:
    paths = (Path(GOLDEN) / "LISTING.txt").read_text().split()
    assert len(paths) == 260
    placed = [shipped.place(path) for path in paths]
    assert sum(bool(p.skip) for p in placed) == 28
    places: dict[object, list[Placed]] = defaultdict(list)
    for p in placed:
        if not p.skip:
            places[p.place].append(p)
    assert [sorted(p.source.split("/")[1] for p in same) for same in places.values() if len(same) > 1] == [
        ["alphat", "eta", "m", "restriction"]
    ]
    found = {(p.dataset, p.row, p.sigma, p.run) for p in placed}
    for number, rows in shipped.tables.items():
        dataset = "cifar10" if number == 6 else "mnist"
        for row, cells in rows.items():
            for sigma, runs in cells.items():
                assert {(dataset, row, sigma, run) for run in runs} <= found, (number, row, sigma)


@golden
def test_the_golden_logs_are_imported(bench: Call, tmp_path: Path) -> None:
    folder = Path(GOLDEN) / "smoothmix-logs"
    result = bench("import", folder, "--results", tmp_path, "--strict", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (len(data["read"]), data["refused"], [entry["file"] for entry in data["skipped"]]) == (30, [], ["LICENSE"])
    cells: dict[tuple[str, float], set[str]] = defaultdict(set)
    for entry in Store(tmp_path).subjects(Import):
        cells[entry.spec.row, entry.spec.sigma].add(entry.spec.run)
        assert len(entry.columns().index) == 10_000
    assert cells == {
        (row, sigma): set(runs_of_table(4, row, sigma)) for row in ("gaussian", "smoothmix.eta5-onestep") for sigma in (0.25, 0.5, 1.0)
    }
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    again = json.loads(bench("import", folder, "--results", tmp_path, "--json").stdout)
    assert (len(again["read"]), len(again["already"])) == (0, 30)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@golden
def test_a_golden_log_cut_anywhere_is_refused() -> None:
    data = (Path(GOLDEN) / "smoothmix-logs/mnist/cohen/noise_0.25_919").read_bytes()
    expected = certification_log.Expected(classes=10, test_size=10_000, n=100_000, alpha=0.001, sigma=0.25)
    assert len(certification_log.read(data, expected)) == 10_000
    for end in range(0, len(data), 9_973):
        with pytest.raises(Refused):
            certification_log.read(data[:end], expected)


def test_specs_are_checked() -> None:
    good = ImportSpec(
        collection="toy", method="gaussian", variant="default", dataset="toy", sigma=1, run="1", arch="lenet",
        source="x", sha256="0" * 64, rows_sha256="0" * 64, images="every=2",
    )  # fmt: skip
    assert good.key == dataclasses.replace(good, sigma=1.0, images="every:2").key
    for changes in ({"sigma": 0.0}, {"run": "a/b"}, {"collection": ".."}, {"sha256": "0"}, {"n0": 0}, {"alpha": 0.5}, {"images": "x"}):
        with pytest.raises(ValueError):
            dataclasses.replace(good, **changes)
    with pytest.raises(UsageError, match="there is no"):
        import_logs(Path("/nowhere/at/all"), Path("/nowhere"), load_map())
