"""Published logs into the store and ours out of it; the manifests that ship."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_store import certificate, run_spec
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import Result

from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.evidence.certificate import Certificate, to_line
from bench.evidence.certification_log import FieldRow
from bench.files.writing import write_json
from bench.logs import ImportSpec, import_logs, load_manifest, parse_manifest, runs_of_table, shipped
from bench.logs.manifest import parse_row
from bench.registry import Registry
from bench.spec import CertifySpec, row_name, select_images, to_json
from bench.store.imports import Import
from bench.store.runs import Run, Store

Call = Callable[..., Result]

GOLDEN = os.environ.get("CERTBENCH_GOLDEN", "")
golden = pytest.mark.skipif(not GOLDEN, reason="CERTBENCH_GOLDEN does not name the folder of the authors' logs")

MANIFEST = """\
path,collection,row,dataset,arch,sigma,run,n0,n,alpha,images,classes,test images,skip
logs/4/noise_0.5_*,toy,gaussian,toy,lenet,0.5,*,100,1000,0.001,first:6,3,20,
logs/8/noise_0.5_1,toy,gaussian[copies=8],toy,lenet,0.5,1,100,1000,0.001,first:6,3,20,
logs/4/noise_1.0_*,toy,gaussian,toy,lenet,1,*,100,1000,0.001,first:6,3,20,
mnist/noise_0.5_*,toy,gaussian,mnist,lenet,0.5,*,100,1000,0.001,first:4,,,
**_acc,,,,,,,,,,,,,no log
"""
LABELS = (0, 1, 2, 0, 1, 2)


def text(*labels: int, radius: str = "0.5") -> str:
    """A log of images 0, 1, ... that are all certified as what they are."""
    body = "".join(f"{i}\t{label}\t{label}\t{radius}\t1\t0.1\n" for i, label in enumerate(labels))
    return f"idx\tlabel\tpredict\tradius\tcorrect\ttime\n{body}"


def imports(root: Path) -> Iterator[Import]:
    return Store(root).subjects(Import)


class Toy:
    """A folder of logs, a manifest of it and a store."""

    def __init__(self, path: Path) -> None:
        self.path, self.runs, self.file = path / "collection", path / "runs", path / "toy.csv"
        self.file.write_text(MANIFEST)
        self.manifest = load_manifest(self.file)

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
    result.write("logs/4/noise_0.5_2.b", text(*LABELS, radius="0.6"))
    return result


# ---------------------------------------------------------------------------------------------------------- the store


def test_an_import_is_read_back(toy: Toy) -> None:
    report = import_logs(toy.path, toy.runs, toy.manifest)
    assert (len(report.read), report.already, report.same, report.skipped, report.unnamed, report.refused) == (2, {}, {}, {}, [], [])
    assert [line.path for line in report.absent] == ["logs/8/noise_0.5_1", "logs/4/noise_1.0_*", "mnist/noise_0.5_*", "**_acc"]
    entries = {entry.spec.run: entry for entry in imports(toy.runs)}
    assert {run: entry.spec.source for run, entry in entries.items()} == {"1": "logs/4/noise_0.5_1", "2.b": "logs/4/noise_0.5_2.b"}
    for run, entry in entries.items():
        assert (entry.spec.row, entry.spec.sigma, entry.spec.n, entry.spec.images) == ("gaussian", 0.5, 1000, "first:6")
        assert entry.path == toy.runs / "imported" / "toy" / "gaussian" / f"0.5-{run}-{entry.spec.key}"
        assert hashlib.sha256((toy.path / entry.spec.source).read_bytes()).hexdigest() == entry.spec.sha256
        rows, columns = entry.rows(), entry.columns()
        assert rows == [FieldRow(i, label, label, "0.5" if run == "1" else "0.6") for i, label in enumerate(LABELS)]
        assert [*columns.index] == [*range(6)]
        assert [*columns.label] == [*columns.predict] == [*LABELS]
        assert [*columns.radius] == [row.radius for row in rows]
        assert columns.correct.all()
    assert list(Store(toy.runs).runs()) == [], "imports are no runs"


def test_importing_again_changes_nothing(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    import_logs(toy.path, toy.runs, toy.manifest)
    before = toy.snapshot()
    for place, count in ((toy.path, 2), (toy.path / "logs" / "4", 2), (toy.path / "logs" / "4" / "noise_0.5_1", 1), (toy.path.parent, 2)):
        report = import_logs(place, toy.runs, toy.manifest)
        assert (len(report.read), len(report.already), report.refused) == (0, count, []), place
    monkeypatch.chdir(toy.path / "logs" / "4")
    assert len(import_logs(Path(), toy.runs, toy.manifest).already) == 2
    assert len(import_logs(Path("../4/noise_0.5_1"), toy.runs, toy.manifest).already) == 1
    assert toy.snapshot() == before


def test_a_damaged_or_unfinished_import_is_told_and_mended(toy: Toy) -> None:
    assert list(imports(toy.runs)) == []
    import_logs(toy.path, toy.runs, toy.manifest)
    before = toy.snapshot()
    entry, other = imports(toy.runs)
    for damaged in (entry.file.read_bytes().replace(b"0.5", b"0.4", 1), b""):
        entry.file.write_bytes(damaged)
        with pytest.raises(BenchError, match="SHA-256"):
            entry.rows()
    entry.file.unlink()
    with pytest.raises(BenchError, match="No such file"):
        entry.columns()
    (other.path / "spec.json").unlink()  # it is written last
    assert [one.path for one in imports(toy.runs)] == [entry.path]
    assert len(import_logs(toy.path, toy.runs, toy.manifest).read) == 2
    assert toy.snapshot() == before


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"sigma":0.5', '"sigma":0.6', "its key is"),
        ('"schema":1', '"schema":2', "schema version"),
        ('"run":"1"', '"rum":"1"', "unknown key 'rum'; did you mean 'run'"),
        ('"alpha":0.001', '"alpha":0.7', "alpha"),
        ("{", "", "not a valid spec"),
    ],
)
def test_a_damaged_spec_is_told(toy: Toy, old: str, new: str, words: str) -> None:
    import_logs(toy.path / "logs" / "4" / "noise_0.5_1", toy.runs, toy.manifest)
    spec = next(imports(toy.runs)).path / "spec.json"
    spec.write_text(spec.read_text().replace(old, new, 1))
    import_logs(toy.path / "logs" / "4" / "noise_0.5_2.b", toy.runs, toy.manifest)
    whole, (damaged,) = Store(toy.runs).read("imported")
    assert len(whole) == 1, "the other one is there"
    assert damaged.file == spec
    assert words in damaged.reason


def test_the_same_content_is_read_once(toy: Toy) -> None:
    toy.write("logs/4/noise_0.5_7", text(*LABELS))
    for _ in range(2):
        report = import_logs(toy.path, toy.runs, toy.manifest)
        assert report.same == {"logs/4/noise_0.5_7": "logs/4/noise_0.5_1"}
        assert len(report.read) + len(report.already) == 2


def test_what_two_logs_cannot_both_be(toy: Toy) -> None:
    toy.write("logs/4/noise_1.0_1", text(*LABELS))  # another sigma
    toy.write("logs/8/noise_0.5_1", text(*LABELS))  # another row
    import_logs(toy.path / "logs/4/noise_0.5_1", toy.runs, toy.manifest)
    refused = {error.file: error.kind for error in import_logs(toy.path, toy.runs, toy.manifest).refused}
    assert refused == {"logs/4/noise_1.0_1": "same content", "logs/8/noise_0.5_1": "same content"}
    toy.write("logs/4/noise_0.5_1", text(*LABELS, radius="0.7"))
    refused = {error.file: error.kind for error in import_logs(toy.path, toy.runs, toy.manifest).refused}
    assert refused["logs/4/noise_0.5_1"] == "same place"


def test_the_halves_of_a_log_are_two_logs(toy: Toy) -> None:
    lines = [f"{half}.tsv,toy,gaussian,toy,lenet,0.5,1,100,1000,0.001,{half},3,20," for half in ("0-2", "3-5")]
    halves = "\n".join([MANIFEST.partition("\n")[0], *lines, ""])
    header, *rows = text(*LABELS).splitlines(keepends=True)
    for half, part in (("0-2", rows[:3]), ("3-5", rows[3:])):
        toy.write(f"halves/{half}.tsv", "".join([header, *part]))
    report = import_logs(toy.path / "halves", toy.runs, parse_manifest(halves.encode(), "halves.csv"), strict=True)
    assert {spec.images for spec in report.read.values()} == {"0-2", "3-5"}
    assert len(Store(toy.runs).read("imported")[0]) == 2


def test_another_line_for_the_same_log_is_told(toy: Toy) -> None:
    import_logs(toy.path, toy.runs, toy.manifest)
    other = parse_manifest(MANIFEST.replace(",1000,", ",100000,").encode(), "other.csv")
    assert [error.kind for error in import_logs(toy.path, toy.runs, other).refused] == ["same content"] * 2


def test_labels_of_one_data_set_agree(toy: Toy) -> None:
    """The odd one out is refused, though it comes first; later imports are held to those in the store."""
    toy.write("logs/4/noise_0.5_0", text(2, 1, 2, 0, 1, 2))
    toy.write("logs/4/noise_0.5_00", text(2, 1, 2, 0, 1, 2))
    report = import_logs(toy.path, toy.runs, toy.manifest)
    assert {(error.file, error.kind) for error in report.refused} == {("logs/4/noise_0.5_0", "label"), ("logs/4/noise_0.5_00", "label")}
    assert "image 0 has label 2, but label 0 in most other logs of the data set" in str(report.refused[0])
    assert (len(report.read), report.same) == (2, {})
    toy.write("logs/4/noise_1.0_3", text(0, 1, 2, 0, 1, 1))
    (error,) = import_logs(toy.path / "logs/4/noise_1.0_3", toy.runs, toy.manifest).refused
    assert (error.line, "in logs that were imported before" in error.reason) == (7, True)


def test_labels_are_those_of_a_data_set_that_ships(toy: Toy) -> None:
    labels = DATASETS["mnist"].test_labels()
    toy.write("mnist/noise_0.5_1", text(*labels[:4]))
    toy.write("mnist/noise_0.5_2", text(*labels[:3], 9))
    report = import_logs(toy.path, toy.runs, toy.manifest)
    assert [(error.file, error.line) for error in report.refused] == [("mnist/noise_0.5_2", 5)]
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
    report = import_logs(toy.path, toy.path / "runs", toy.manifest)
    assert {error.file: error.kind for error in report.refused} == {
        "logs/16": "link",
        "logs/8": "link",
        "logs/4/noise_0.5_8": "link",
        "logs/4/noise_0.5_9": "link",
        "logs/4/noise_0.5_4": "unreadable",
    }
    assert report.same == {"logs/4/noise_0.5_3": "logs/4/noise_0.5_1"}
    assert (len(report.read), report.unnamed) == (2, [])
    assert import_logs(toy.path, toy.path / "runs", toy.manifest).unnamed == [], "a store is not imported into itself"


def test_specs_are_checked() -> None:
    good = ImportSpec(
        collection="toy", method="gaussian", variant="default", dataset="toy", sigma=1, run="1", arch="lenet",
        source="x", sha256="0" * 64, rows_sha256="0" * 64, images="every=2",
    )  # fmt: skip
    assert good.key == dataclasses.replace(good, sigma=1.0, images="every:2").key
    for changes in (
        {"sigma": 0.0},
        {"run": "a/b"},
        {"collection": ".."},
        {"method": "G"},
        {"sha256": "0"},
        {"n0": 0},
        {"alpha": 0.5},
        {"images": "x"},
    ):
        with pytest.raises(ValueError):
            dataclasses.replace(good, **changes)


# -------------------------------------------------------------------------------------------------------- the manifest


def test_a_log_has_one_line_and_a_line_a_log(toy: Toy) -> None:
    """Two lines that name one log, a log without a line, lines without a log, and lines that leave one out."""
    toy.write("logs/4/noise_1.0_1_acc", "0.5 0.9")
    toy.write("notes/a.txt", "x")
    toy.write("logs/4/noise_0.5_1_acc", "0.5 0.9")
    report = import_logs(toy.path, toy.runs, toy.manifest)
    assert [(error.file, error.kind) for error in report.refused] == [(f"logs/4/noise_{s}_1_acc", "two lines") for s in ("0.5", "1.0")]
    assert report.unnamed == ["notes/a.txt"]
    assert [line.number for line in report.absent] == [3, 5]
    odd = toy.write("logs/4/noise_0.5_a b", text(*LABELS))
    assert [error.kind for error in import_logs(odd, toy.runs, toy.manifest).refused] == ["run"]
    toy.write("other/x_acc", "0.5 0.9")
    assert import_logs(toy.path, toy.runs, toy.manifest).skipped == {"other/x_acc": "no log"}


BAD = {  # what is put for what; line and column that are told, and words
    "a column": ("alpha,images", "alfa,images", "line 1: unknown column 'alfa'; did you mean 'alpha'?"),
    "a missing column": ("alpha,images", "classes,images", "line 1: column 'alpha' is missing"),
    "more cells": (",no log", ",no log,more", "line 6: more cells"),
    "an empty cell": ("mnist/noise_0.5_*,toy", "mnist/noise_0.5_*,", "line 5, column collection: the cell is empty"),
    "a path": ("mnist/noise", "/mnist/noise", "line 5: path '/mnist/noise_0.5_*' does not begin"),
    "a name": ("mnist/noise_0.5_*,toy", "mnist/noise_0.5_*,To y", "line 5: collection 'To y' is not a name"),
    "a row": ("copies=8", "copies", "line 3: row 'gaussian[copies]' is not the name of one"),
    "a row written otherwise": (
        "[copies=8]",
        "[copies=8.50]",
        "line 3: row 'gaussian[copies=8.50]' is written gaussian[",
    ),
    "a data set": (",mnist,", ",mnits,", "line 5: dataset 'mnits' is none of the suite; did you mean 'mnist'?"),
    "sigma": ("mnist,lenet,0.5", "mnist,lenet,half", "line 5, column sigma: 'half' must be a finite number"),
    "a negative sigma": ("mnist,lenet,0.5", "mnist,lenet,-0.5", "line 5: sigma -0.5 must be"),
    "a run": ("mnist,lenet,0.5,*", "mnist,lenet,0.5,a b", "line 5: run 'a b' is not a word"),
    "a run without a star": (
        "0.5_1,toy,gaussian[copies=8],toy,lenet,0.5,1",
        "0.5_1,toy,gaussian,toy,lenet,0.5,*",
        "line 3: run '*' is what",
    ),
    "n": ("100,1000,0.001,first:4", "100,1e3,0.001,first:4", "line 5, column n: '1e3' must be a whole number"),
    "alpha": ("0.001,first:4", "0.9,first:4", "line 5: alpha 0.9"),
    "images": ("first:4", "fist:4", "line 5: images=fist:4 is no selection"),
    "images beyond the end": ("first:4", "20000-30000", "line 5: images=20000-30000 selects none of the 10000"),
    "a row beside a reason to skip": ("**_acc,", "**_acc,toy", "line 6, column collection: 'toy' stands beside a reason to skip"),
    "facts of a known data set": ("first:4,,", "first:4,3,", "line 5: dataset 'mnist' is one of the suite; leave"),
    "quotes": (",no log", ',"no log', "not a CSV file"),
    "another encoding": (",no log", ",\udcff", "not a CSV file in UTF-8"),
    "no line": (MANIFEST.partition("\n")[2], "", "it names no logs"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_a_manifest_is_told(bench: Call, toy: Toy, name: str) -> None:
    old, new, reason = BAD[name]
    assert old in MANIFEST
    toy.file.write_bytes(MANIFEST.replace(old, new, 1).encode("utf-8", "surrogateescape"))
    result = call(bench, toy)
    assert result.exit_code == 2, result.output
    assert f"{toy.file}" in result.output
    assert reason in result.output
    assert not toy.runs.exists()


def test_a_manifest_as_spreadsheets_write_it() -> None:
    own = parse_manifest(MANIFEST.encode(), "x")
    assert parse_manifest(b"\xef\xbb\xbf" + MANIFEST.replace("\n", "\r\n").replace("first:4", "first=4").encode(), "x") == own


SCALARS = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(0.001, 1000) | st.sampled_from(["kl", "cross-entropy"])


@given(st.sampled_from(["default", "eta1"]), st.dictionaries(st.sampled_from(["copies", "strength", "loss"]), SCALARS))
def test_the_name_of_a_row_says_all_of_it(variant: str, changes: dict[str, bool | int | float | str | None]) -> None:
    name = row_name("mine", variant, changes)
    found = parse_row(name)
    assert found == ("mine", variant, changes)
    assert {key: type(value) for key, value in found[2].items()} == {key: type(value) for key, value in changes.items()}
    assert run_spec(f"mine.{variant}", changes=changes).row == name


# -------------------------------------------------------------------------------------------------------- the commands


def call(bench: Call, toy: Toy, *words: str | Path) -> Result:
    return bench("import", toy.path, "--manifest", toy.file, "--results", toy.runs, *words)


def test_the_summary_counts_and_says_why(bench: Call, toy: Toy) -> None:
    toy.write("logs/4/noise_0.5_3", text(*LABELS))
    toy.write("logs/4/noise_1.0_1", text(*LABELS[:4]))
    toy.write("mnist/noise_0.5_1", text(7, 2, 1, 1))  # the fourth is a 0
    toy.write("\x1b[31mred\nrefused: y", "x")
    toy.write("x_acc", "x")
    result = call(bench, toy)
    assert result.exit_code == 0
    for words in (
        "refused: logs/4/noise_1.0_1, line 5: cut short: 4 of 6 images",
        "not named: \\x1b[31mred\\nrefused: y\n",
        "same content as logs/4/noise_0.5_1: logs/4/noise_0.5_3",
        "not here: logs/8/noise_0.5_1 (line 3)",
        "     2 read",
        "     1 left out by the manifest: 1 no log",
        "     1 not named by a line",
        "     2 refused: 1 cut short, 1 label",
    ):
        assert words in result.output
    data = json.loads(call(bench, toy, "--json").stdout)
    counts = [len(data[name]) for name in ("read", "already", "same", "skipped", "unnamed", "absent", "refused")]
    assert counts == [0, 2, 1, 1, 1, 1, 2]
    assert {name: data["refused"][0][name] for name in ("file", "line", "kind")} == {
        "file": "logs/4/noise_1.0_1",
        "line": 5,
        "kind": "cut short",
    }
    assert len(list(imports(toy.runs))) == 2


@pytest.mark.parametrize("name", ["logs/4/noise_1.0_1", "notes.txt"])
def test_strict_writes_nothing_if_anything_is_refused_or_not_named(bench: Call, toy: Toy, name: str) -> None:
    bad = toy.write(name, text(*LABELS[:4]))
    assert call(bench, toy, "--strict").exit_code == 1
    assert not toy.runs.exists()
    assert json.loads(call(bench, toy, "--strict", "--json").stdout)["written"] is False
    bad.unlink()
    assert call(bench, toy, "--strict").exit_code == 0
    assert len(list(imports(toy.runs))) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["{path}x"], "there is no"),
        (["{path}", "--manifest", "smothmix-logs"], "did you mean 'smoothmix-logs'"),
        (["{path}"], "--draft FILE.csv` begins a manifest of your own"),
        (["{path}", "--results", "{file}"], "is a file, not a folder"),
        (["{empty}"], "there are no files in"),
        (["{empty}", "--draft", "{draft}"], "there are no files in"),
        (["{path}", "--draft", "{file}"], "exists already"),
        (["{path}", "--draft", "{draft}", "--strict"], "leave out"),
    ],
)
def test_usage_errors(bench: Call, toy: Toy, words: list[str], reason: str) -> None:
    (toy.path.parent / "empty").mkdir()
    names = {"path": toy.path, "file": toy.file, "empty": toy.path.parent / "empty", "draft": toy.path.parent / "draft.csv"}
    result = bench("import", *(word.format(**names) for word in words), *(() if "--results" in words else ("--results", toy.runs)))
    assert result.exit_code == 2, result.output
    assert reason in result.output
    assert not toy.runs.exists()
    assert not names["draft"].exists()


def test_a_draft_says_what_it_sees_and_leaves_blank_what_it_does_not(bench: Call, toy: Toy) -> None:
    labels = DATASETS["mnist"].test_labels()
    top, rest = "0.953", "0.5"  # the largest radius of sigma 0.25, n=100,000 and alpha 0.001
    for name, radius in (
        ("mnist/gaussian/cifar_resnet20/noise_0.25_7.tsv", top),
        ("mnist/lenet/sigma0.25/run3.tsv", top),
        ("mnist/lenet/noise_0.5.tsv", rest),
        ("mnist/lenet/noise_0.5", rest),
    ):
        toy.write(f"mine/{name}", text(*labels[:5], radius=radius))
    toy.write("mine/README", "x")
    draft = toy.path.parent / "draft.csv"
    result = bench("import", toy.path / "mine", "--draft", draft)
    assert result.exit_code == 0, result.output
    for words in ("no log: README, line 1", "4 logs", "left to fill in: row (3), n0 (2), n (2), alpha (2)"):
        assert words in result.output
    rows = {row["path"]: row for row in csv.DictReader(draft.read_text().splitlines())}
    (toy.path / "mine/README").unlink()
    told = ("row", "dataset", "arch", "sigma", "run", "n0", "n", "alpha", "images", "collection")
    assert [[rows[path][title] for title in told] for path in sorted(rows)] == [
        ["gaussian", "mnist", "resnet20", "0.25", "7", "100", "100000", "0.001", "first:5", "mine"],
        ["", "mnist", "lenet", "0.5", "only", "", "", "", "first:5", "mine"],
        ["", "mnist", "lenet", "0.5", "only", "", "", "", "first:5", "mine"],
        ["", "mnist", "lenet", "0.25", "3", "100", "100000", "0.001", "first:5", "mine"],
    ]
    line = ("import", toy.path / "mine", "--manifest", draft, "--results", toy.runs)
    result = bench(*line)
    assert result.exit_code == 2
    assert "line 3 and 2 more, column row: the cell is empty" in result.output
    blanks = {"n0": "100", "n": "1000", "alpha": "0.01"}
    with draft.open("w") as file:
        writer = csv.DictWriter(file, next(iter(rows.values())))
        writer.writeheader()
        for number, row in enumerate(rows.values()):
            writer.writerow(row | {title: value for title, value in (blanks | {"row": f"mine{number}"}).items() if not row[title]})
    for name in ("mnist/lenet/noise_0.5", "mnist/lenet/sigma0.25/run3.tsv"):  # else they are the same log
        file_ = toy.path / "mine" / name
        file_.write_text(file_.read_text().replace("0.1", "0.2"))
    result = bench(*line, "--strict")
    assert result.exit_code == 0, result.output
    assert "     4 read" in result.output


def test_imports_stand_in_listings(bench: Call, toy: Toy) -> None:
    import_logs(toy.path, toy.runs, toy.manifest)
    assert "imported logs: 2 logs, 2 done; `bench list logs --results" in bench("status", "--results", toy.runs).output
    rows = json.loads(bench("list", "logs", "--results", toy.runs, "--json").stdout)
    assert [(row["row"], row["file"], row["state"], row["images certified"]) for row in rows] == [
        ("gaussian", "logs/4/noise_0.5_1", "done", "6/6"),
        ("gaussian", "logs/4/noise_0.5_2.b", "done", "6/6"),
    ]
    next(imports(toy.runs)).file.write_text("")
    assert "damaged: " in bench("list", "logs", "--results", toy.runs).output
    result = bench("status", "--results", toy.runs)
    assert (result.exit_code, "imported logs: 2 logs, 1 done, 1 damaged" in result.output) == (1, True)


# ------------------------------------------------------------------------------------------------------------- export


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
    out.parent.mkdir()
    result = bench("export", run.spec.key[:8], "--format", "tsv", "--out", out, "--results", toy.runs)
    assert result.exit_code == 0, result.output
    assert "4 images of gaussian, sigma 0.5, seed 0" in result.output
    lines = out.read_text().splitlines()
    assert lines[0].split() == ["idx", "label", "predict", "radius", "correct", "time", "count", "n"]
    assert [line.split("\t")[5] for line in lines[1:]] == ["0:00:01.500000", "0:00:02.000000", "0:00:00", "0:00:00"]
    assert lines[4].split("\t")[2:5] == ["-1", "0.0", "0"]
    report = import_logs(toy.path, toy.runs, toy.manifest)
    assert report.refused == []
    (entry,) = [entry for entry in imports(toy.runs) if entry.spec.dataset == "mnist"]
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


# ---------------------------------------------------------------------------------------------- the manifests that ship


def test_every_line_of_a_shipped_manifest_has_a_place_of_its_own() -> None:
    """But for the copies of one log, which lie in each folder of a table that has it."""
    for name, manifest in shipped().items():
        places = defaultdict(list)
        for line in manifest.lines:
            if line.spec:
                assert line.spec.collection == name
                spec = line.spec
                places[spec.dataset, spec.arch, spec.row, spec.sigma, spec.run].append(line.path.split("/")[1])
        assert [folders for folders in places.values() if len(folders) > 1] == (
            [["alphat", "eta", "m", "restriction"]] if name == "smoothmix-logs" else []
        )


SETTINGS = {  # what a path says -> the hyperparameter
    r"smix_([\d.]+)_": "step_size",
    r"smix_[\d.]+_(\d+)_": "steps",
    r"_m(\d)(?:_|/)": "one_step",
    r"tau_([\d.]+)": "strength",
    r"num_(\d+)": "copies",
    r"lbd_([\d.]+)": "strength",
    r"max([\d.]+)": "norm_limit",
    r"/eta_([\d.]+)": "entropy_strength",
    r"gamma_([\d.]+)": "margin",
    r"beta_([\d.]+)": "temperature",
    r"pgd_[\d.]+_(\d+)_": "steps",
    r"pgd_[\d.]+_\d+_(\d+)": "warmup_epochs",
}


@pytest.mark.parametrize("name", ["smoothmix-logs", "consistency-logs"])
def test_the_rows_of_a_manifest_are_what_its_paths_say(name: str) -> None:
    """A row's preset with the changes in its brackets has the hyperparameters that stand in the path."""
    registry, checked = Registry(), 0
    for line in load_manifest(name).lines:
        if not (spec := line.spec):
            continue
        assert spec.sigma == float(re.findall(r"noise_([\d.]+)", line.path)[0])
        assert line.path.startswith((spec.dataset, "ablation"))
        changes = spec.changes
        if spec.variant == "on-smoothadv":  # no row of the suite: its name says every setting
            found = changes
        else:
            cls = registry.load(spec.method).cls
            preset = cls.presets["official", spec.variant, spec.dataset, spec.sigma] if cls.presets else cls()
            found = dataclasses.asdict(preset) | dict(changes)
            assert all(changes[key] != getattr(preset, key) for key in changes), line.path
        for pattern, key in SETTINGS.items():
            if match := re.search(pattern, line.path):
                assert float(found[key] or 0) == float(match[1]), (line.path, key)
                checked += 1
        if eps := re.search(r"(?:pgd|salman)_([\d.]+)", line.path):
            assert found["epsilon"] == float(eps[1]) / 256
    assert checked > 200


def test_the_runs_of_the_published_tables() -> None:
    import tomllib

    layouts = tomllib.loads((Path(__file__).parents[1] / "results/published/layouts.toml").read_text())
    for number in (4, 5):
        for row, _ in layouts[f"table{number}"]["rows"]:
            for sigma in (0.25, 0.5, 1.0):
                assert len(set(runs_of_table(number, row, sigma))) == 5, (number, row, sigma)
    for number in (8, 9, 10, 11):
        for row, _ in layouts[f"table{number}"]["rows"]:  # the log of the first row was not published
            assert len(runs_of_table(number, row, 1.0)) == (row != "gaussian"), (number, row)
    assert runs_of_table(4, "gaussian", 0.5) == ("393", "880", "1801", "4490", "4608")
    assert runs_of_table(6, "consistency", 1.0) == ("only",)
    assert runs_of_table(99, "gaussian", 1.0) == ()


# --------------------------------------------------------------------------------------------------------- golden logs


@golden
@pytest.mark.parametrize(
    ("name", "listing"),
    [
        ("smoothmix-logs", "LISTING"),
        ("consistency-logs", "LISTING-consistency"),
        ("catrs-logs", "LISTING-catrs"),
        ("acr-weakness-logs", "LISTING-acr-weakness"),
    ],
)
def test_a_shipped_manifest_names_all_logs_of_its_collection(name: str, listing: str) -> None:
    top, facts = Path("/collection"), {}
    for text in (Path(GOLDEN) / f"{listing}.txt").read_text().splitlines():
        if not text.startswith("#"):
            path, *facts_of = text.split("\t")
            facts[top / path] = facts_of
    manifest = load_manifest(name)
    claims = manifest.claims(facts, top)
    assert {file for file in facts if len(claims.get(file, [])) != 1} == set()
    named = {claim.line.number for found in claims.values() for claim in found}
    assert all(line.skip for line in manifest.lines if line.number not in named)
    for file, found in claims.items():
        if facts[file] and not (line := found[0].line).skip:
            indices = select_images(line.images[0], line.test_size)
            assert [str(len(indices)), f"{indices[0]}..{indices[-1]}"] == facts[file][:2], file


@golden
def test_the_golden_logs_are_imported(bench: Call, tmp_path: Path) -> None:
    folder = Path(GOLDEN) / "smoothmix-logs"
    result = bench("import", folder, "--results", tmp_path, "--strict", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["manifest"] == "smoothmix-logs"
    assert (len(data["read"]), data["refused"], [entry["file"] for entry in data["skipped"]]) == (30, [], ["LICENSE"])
    cells: dict[tuple[str, float], set[str]] = defaultdict(set)
    for entry in imports(tmp_path):
        cells[entry.spec.row, entry.spec.sigma].add(entry.spec.run)
        assert len(entry.columns().index) == 10_000
    assert cells == {
        (row, sigma): set(runs_of_table(4, row, sigma)) for row in ("gaussian", "smoothmix.eta5-onestep") for sigma in (0.25, 0.5, 1.0)
    }
    (key,) = [entry.spec.key for entry in imports(tmp_path) if entry.spec.run == "919"]
    assert key == "ec24f8a841075f37", "as imported before there were manifests"
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    again = json.loads(bench("import", folder, "--results", tmp_path, "--json").stdout)
    assert (len(again["read"]), len(again["already"])) == (0, 30)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
