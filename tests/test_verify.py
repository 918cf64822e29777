"""`bench verify`: real results pass, and forged ones, made as a forger would make them, do not."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from fake_logs import manifest
from fake_store import certificate, run_spec
from scipy.stats import beta, binom
from torch import nn
from typer.testing import CliRunner, Result

from bench.certify import sampler
from bench.cli import app
from bench.data import load
from bench.evidence.binding import FINISHED, SUBJECT
from bench.evidence.certificate import Certificate, from_line, to_line
from bench.files.writing import read_json, sha256, write_json
from bench.logs import import_logs
from bench.matrix.resume import load_weights
from bench.rules import bounds, rule
from bench.spec import CertifySpec, canonical, derive, to_json
from bench.store.checkpoints import Checkpoint
from bench.store.imports import Import
from bench.store.runs import Run, Store
from bench.store.subject import Certification, Subject
from bench.verify import Evidence, Report, recertify, verify
from bench.verify.radii import Radii, tail
from bench.verify.recertify import Again, Recertification, chance_of_missing, draw

Call = Callable[..., Result]
ROOT = Path(__file__).resolve().parent.parent
IMAGES, N, N0 = 20, 200, 20
RUN = ("run", "--protocol", "smoke", "--device", "cpu", "--method", "gaussian", "--sigma", "1")
TRAINED = ("train.images=first:512",)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two really trained and certified runs, of seeds 0 and 1: 40 rows."""
    root = tmp_path_factory.mktemp("made") / "runs"
    settings = (*TRAINED, f"certify.images=first:{IMAGES}", f"certify.n={N}", f"certify.n0={N0}")
    words = [*RUN, "--seeds", "2", *(word for setting in settings for word in ("--set", setting))]
    result = CliRunner().invoke(app, [*words, "--results", str(root)])
    assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy of it, to be forged."""
    return Store(Path(shutil.copytree(made, tmp_path / "runs")))


def first(store: Store) -> Run:
    return next(run for run in store.runs() if run.spec.seed == 0)


def only(run: Subject) -> Certification:
    return next(run.certifications())


def bodies(certification: Certification) -> list[dict[str, Any]]:
    """The rows as plain data, without their check sums."""
    rows = [json.loads(line) for line in certification.evidence.read_text().splitlines()]
    for row in rows:
        del row["~crc"]
    return rows


def sealed(rows: list[dict[str, Any]]) -> str:
    """Rows with check sums that fit, whatever they say: what a forger writes."""
    texts = map(canonical, rows)
    return "".join(f'{text[:-1]},"~crc":"{zlib.crc32(text.encode()):08x}"}}\n' for text in texts)


def edit(certification: Certification, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Changes the rows as a forger does, who lets every record follow."""
    rows = bodies(certification)
    change(rows)
    certification.evidence.write_text(sealed(rows))
    reseal(certification)


def reseal(certification: Certification) -> None:
    """Records that the evidence, as it now is, belongs to its run as that now is; of one that is not whole, that it was begun."""
    for name in (SUBJECT, FINISHED):
        (certification.path / name).unlink(missing_ok=True)
    certification.binding().begin(certification.path, started=False)
    if len(bodies(certification)) == len(certification.expected()):
        certification.binding().seal(certification.path, sha256(certification.evidence))


def lift(rows: list[dict[str, Any]], lines: list[int], samples: int) -> None:
    """Of the rows in some places, moves estimation samples from other classes to the selected one, so that the counts still add up."""
    for row in map(rows.__getitem__, lines):
        chosen, left = str(row["selected"]), samples
        for name in [name for name in row["n"] if name != chosen]:
            taken = min(left, row["n"][name])
            left -= taken
            row["n"][name] -= taken
        row["n"] = {name: count for name, count in row["n"].items() if count}
        row["n"][chosen] = row["n"].get(chosen, 0) + samples - left


def rewrite(run: Run, renamed: bool, **fields: object) -> Run:
    """Edits the spec of a run; with `renamed` its folder follows the new key."""
    spec = dataclasses.replace(run.spec, **fields)  # type: ignore[arg-type]
    write_json(run.path / "spec.json", to_json(spec))
    if not renamed:
        return run
    place = Store(run.path.parents[2]).run(spec)
    run.path.rename(place.path)
    reseal(only(place))
    return place


def rewrite_certification(certification: Certification, **fields: object) -> Certification:
    """Edits the spec of a certification and renames its folder."""
    spec: CertifySpec = dataclasses.replace(certification.spec, **fields)  # type: ignore[arg-type]
    write_json(certification.path / "spec.json", to_json(spec))
    place = certification.subject.certification(spec)
    certification.path.rename(place.path)
    reseal(place)
    return place


def swap_weights(store: Store, *, hashes: bool = False, metadata: bool = False) -> None:
    """The weights of seed 0 become those of seed 1, on request with every record of their hash and what their header says."""
    run, other = first(store), next(run for run in store.runs() if run.spec.seed == 1)
    shutil.copy(other.weights, run.weights)
    if metadata:
        tensors = safetensors.torch.load_file(run.weights)
        run.weights.write_bytes(safetensors.torch.save(tensors, {"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}))
    if hashes:
        found = sha256(run.weights)
        write_json(run.path / "training.json", read_json(run.path / "training.json") | {"weights_sha256": found})
        reseal(only(run))


def export(store: Store, bench: Call, *words: str) -> Path:
    out = store.root / "log.tsv"
    result = bench("export", first(store).path, "--out", out, "--results", store.root, *words)
    assert result.exit_code == 0, result.output
    return out


LOG = ("--dataset", "mnist", "--sigma", "1", "--images", f"first:{IMAGES}")


# ------------------------------------------------------------------------------------------------------ what is honest


def test_honest_results_hold(bench: Call, store: Store) -> None:
    result = bench("verify", store.root)
    assert result.exit_code == 0, result.output
    assert re.search(r"2 runs, 2 of them with weights\n +2 certifications, 2 of them finished and whole, 40 rows", result.output)
    assert "everything that was checked holds" in result.output
    run = first(store)
    for what in (run.path, run.path.parent, run.spec.key[:9]):
        again = bench("verify", what, "--results", store.root, "--complete", "--json")
        assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) | {"checked": ""} == {
        "checked": "",
        "alpha": 0.001,
        "runs": 1,
        "checkpoints": 0,
        "weights": 1,
        "certifications": 1,
        "finished": 1,
        "rows": 20,
        "distinct_radii": len({row.count for row in only(run).rows()}),
        "imports": 0,
        "imported_rows": 0,
        "log_rows": 0,
        "listed": 0,
        "unchecked": [],
        "unexpected": [],
        "unfinished": [],
        "unbound": [],
        "without_weights": [],
        "recertified": None,
        "failures": [],
    }


def test_the_committed_results_hold_without_torch_and_without_methods() -> None:
    code = """
import sys
from bench.store.checkpoints import Checkpoint
from bench.cli import app
try:
    app(["verify", "results/reference/mnist"])
except SystemExit as end:
    assert not end.code, end.code
assert "torch" not in sys.modules
assert not [name for name in sys.modules if name.partition(".")[0] == "methods"]
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    count, rows = committed()
    assert f"{count} certifications, {count} of them finished and whole, {rows:,} rows" in result.stdout
    assert result.stdout in (ROOT / "docs" / "notes" / "verification.md").read_text(), "what the docs show is what is printed"


def committed(folder: str = "reference") -> tuple[int, int]:
    """How many certifications a folder of committed results holds, and their rows."""
    logs = [path.read_bytes().count(b"\n") for path in (ROOT / "results" / folder / "mnist").rglob("evidence.jsonl")]
    return len(logs), sum(logs)


def test_a_method_that_is_nowhere_is_no_matter(store: Store) -> None:
    run = first(store)
    run.weights.unlink()
    moved = Store(store.root).run(dataclasses.replace(run.spec, method="a_plugin_of_a_stranger"))
    shutil.copytree(run.path, moved.path)
    write_json(moved.path / "spec.json", to_json(moved.spec))
    reseal(only(moved))
    assert verify(store.root).failures == []


def test_an_exported_log_holds(bench: Call, store: Store) -> None:
    log = export(store, bench)
    result = bench("verify", log, *LOG)
    assert result.exit_code == 0, result.output
    assert "20 rows of a log" in result.output
    assert "recomputed in two ways" in result.output
    lines = [line.split("\t")[:6] for line in log.read_text().splitlines()]
    log.write_text("".join("\t".join(line) + "\n" for line in lines))  # the field's own columns, without counts
    assert "without counts to recompute radii from" in bench("verify", log, *LOG, "--n", "200").output


# ------------------------------------------------------------------------------------------------------- ten forgeries


def forge_radius(store: Store, bench: Call) -> None:
    log = export(store, bench)
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    certified = next(row for row in rows[1:] if float(row[3]) > 0.01)
    certified[3] = f"{float(certified[3]) - 0.01 if float(certified[3]) > 0.4 else float(certified[3]) + 0.01:.4f}"
    log.write_text("".join("\t".join(row) + "\n" for row in rows))


def forge_radius_above_the_largest(store: Store, bench: Call) -> None:
    log = export(store, bench)
    log.write_text(re.sub(r"^(0\t7\t)\S+\t\S+\t\d", r"\g<1>7\t1.9000\t1", log.read_text(), flags=re.M))


def forge_alpha(store: Store, bench: Call) -> None:
    """Radii at alpha .05 presented as those at .001, none of them above the largest one."""
    log = export(store, bench, "--alpha", "0.05")
    rows = [line.split("\t") for line in log.read_text().splitlines()]
    for row in rows[1:]:
        row[3] = min(row[3], "1.8256", key=float)
    log.write_text("".join("\t".join(row) + "\n" for row in rows))


def forge_count(store: Store, bench: Call) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[4]["n"][str(rows[4]["selected"])] += 5

    edit(only(first(store)), change)


def forge_selection_count(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows[4].update(n0={str(rows[4]["selected"]): N0 + 1}))


def forge_sigma(store: Store, bench: Call) -> None:
    rewrite(first(store), False, sigma=0.25)


def forge_sigma_and_folder(store: Store, bench: Call) -> None:
    rewrite(first(store), True, sigma=0.25)


def forge_seed_and_folder(store: Store, bench: Call) -> None:
    rewrite(first(store), True, seed=7)


def forge_missing_image(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows.__delitem__(4))


def forge_missing_last_images(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows.__delitem__(slice(-2, None)))


def forge_doubled_image(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows.__setitem__(5, rows[4]))


def forge_order(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows.insert(3, rows.pop(8)))


def forge_label(store: Store, bench: Call) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        wrong = next(row for row in rows if row["label"] != row["selected"])
        wrong["label"] = wrong["selected"]

    edit(only(first(store)), change)


def forge_class(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows[4].update(n={"10": N}))


def forge_selected(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows[4].update(selected=(rows[4]["selected"] + 1) % 10))


def forge_image(store: Store, bench: Call) -> None:
    edit(only(first(store)), lambda rows: rows[19].update(index=1000))


def forge_index_set(store: Store, bench: Call) -> None:
    """The first 20 images presented as every 500th."""
    rewrite_certification(only(first(store)), images="every:500")


def forge_index_set_in_place(store: Store, bench: Call) -> None:
    spec = only(first(store)).path / "spec.json"
    spec.write_text(spec.read_text().replace("first:20", "every:500"))


def forge_sample_size(store: Store, bench: Call) -> None:
    rewrite_certification(only(first(store)), n=100_000)


def forge_check_sum(store: Store, bench: Call) -> None:
    path = only(first(store)).evidence
    lines = path.read_text().splitlines(keepends=True)
    lines[4] = lines[4].replace('"label":', '"label":1', 1)
    path.write_text("".join(lines))


def forge_other_text(store: Store, bench: Call) -> None:
    path = only(first(store)).evidence
    row, text = bodies(only(first(store)))[4], path.read_text().splitlines(keepends=True)
    body = json.dumps(row)
    text[4] = f'{body[:-1]},"~crc":"{zlib.crc32(body.encode()):08x}"}}\n'
    path.write_text("".join(text))


def forge_weights(store: Store, bench: Call) -> None:
    swap_weights(store)


def forge_weights_and_hashes(store: Store, bench: Call) -> None:
    swap_weights(store, hashes=True)


def forge_certified_weights(store: Store, bench: Call) -> None:
    write_json(only(first(store)).path / SUBJECT, {"weights_sha256": "0" * 64})


def forge_rows_of_another_run(store: Store, bench: Call) -> None:
    one, other = map(only, store.runs())
    shutil.copy(other.evidence, one.evidence)


def forge_rows_and_records_of_another_run(store: Store, bench: Call) -> None:
    one, other = map(only, store.runs())
    for name in ("evidence.jsonl", SUBJECT, FINISHED):
        shutil.copy(other.path / name, one.path / name)


def forge_rows_of_another_certification(store: Store, bench: Call) -> None:
    """Of the same weights, under another seed."""
    certification = only(first(store))
    spec = dataclasses.replace(certification.spec, seed=1)
    place = certification.subject.certification(spec)
    certification.path.rename(place.path)
    write_json(place.path / "spec.json", to_json(spec))


FORGERIES: dict[Callable[[Store, Call], None], tuple[bool, str]] = {  # what it is -> whether it shows without weights, and how
    forge_radius: (True, r"log.tsv, line \d+: radius \S+, but \d+ of 200 samples .* certify [\d.]+, rounded down"),
    forge_radius_above_the_largest: (True, r"log.tsv, line 2: radius 1.9000 is above 1.82\d+, the largest"),
    forge_alpha: (True, r"log.tsv, line \d+: radius [\d.]+, but \d+ of 200 samples at alpha 0.001 and sigma 1 certify"),
    forge_count: (True, r"evidence.jsonl, line 5: counts add up to 20 and \d+ samples, but the spec says 20 and 200"),
    forge_selection_count: (True, r"evidence.jsonl, line 5: counts add up to 21 and 200 samples, but the spec says 20 and 200"),
    forge_sigma: (True, r"spec.json: its key is [0-9a-f]{16}, but the folder is 1-seed0-"),
    forge_sigma_and_folder: (False, r"weights.safetensors: they are those of another run: sigma 1.0 there, 0.25 in spec.json"),
    forge_seed_and_folder: (False, r"weights.safetensors: they are those of another run: seed 0 there, 7 in spec.json"),
    forge_missing_image: (True, r"evidence.jsonl: no valid row of image 4, though image 19 has one"),
    forge_missing_last_images: (True, r"evidence.jsonl: no row of images 18, 19, though times.csv says that"),
    forge_doubled_image: (True, r"evidence.jsonl, line 6: image 4 already stands in line 5"),
    forge_order: (True, r"evidence.jsonl, line 5: image 3 comes after image 8"),
    forge_label: (True, r"evidence.jsonl, line \d+: image \d+ has label (\d), but label (?!\1)\d in mnist"),
    forge_class: (True, r"evidence.jsonl, line 5: class 10, but mnist has classes 0 to 9"),
    forge_selected: (True, r"evidence.jsonl, line 5: class \d is not the most frequent of the selection samples"),
    forge_image: (True, r"evidence.jsonl, line 20: image 1000 is not among first:20 of 10000"),
    forge_index_set: (True, r"evidence.jsonl, line 2: image 1 is not among every:500 of 10000"),
    forge_index_set_in_place: (True, r"spec.json: its key is [0-9a-f]{16}, but the folder is certify-"),
    forge_sample_size: (True, r"evidence.jsonl, line 1: counts add up to 20 and 200 samples, but the spec says 20 and 100000"),
    forge_check_sum: (True, r"evidence.jsonl, line 5: the check sum does not fit the row"),
    forge_other_text: (True, r"evidence.jsonl, line 5: not in canonical form: the check sum fits"),
    forge_weights: (False, r"weights.safetensors: SHA-256 is [0-9a-f]{64}, but training.json says"),
    forge_weights_and_hashes: (
        True,
        r"(weights.safetensors: they are those of another run: seed 1 there|seed 1 is the training of seed 0 again)",
    ),
    forge_rows_of_another_run: (True, r"evidence.jsonl: its SHA-256 is [0-9a-f]{64}, but the certification ended with [0-9a-f]{64}"),
    forge_rows_and_records_of_another_run: (True, r"subject.json: run [0-9a-f]{16} was certified, but this is run [0-9a-f]{16}"),
    forge_rows_of_another_certification: (True, r"subject.json: it is of certification [0-9a-f]{16}, but this is [0-9a-f]{16}"),
    forge_certified_weights: (True, r"subject.json: weights 0{64} were certified, but the run's are [0-9a-f]{64}"),
}


@pytest.mark.parametrize("with_weights", [True, False], ids=["with weights", "evidence only"])
@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_forgeries_are_caught(bench: Call, store: Store, forge: Callable[[Store, Call], None], with_weights: bool) -> None:
    needs_none, told = FORGERIES[forge]
    assert verify(store.root).failures == []
    forge(store, bench)
    if not with_weights:
        for path in store.root.rglob("weights.safetensors"):
            path.unlink()
    log = store.root / "log.tsv"
    result = bench("verify", log, *LOG) if log.exists() else bench("verify", store.root)
    if with_weights or needs_none:
        assert result.exit_code == 1, result.output
        assert re.search(f"fails: .*{told}", result.output), result.output
        assert "everything that was checked holds" not in result.output
    else:
        assert result.exit_code == 0, "what no check can see must not be said to be caught"


def test_nothing_is_stopped_by_the_first_failure(bench: Call, store: Store) -> None:
    forge_label(store, bench)
    forge_missing_image(store, bench)
    certification = only(first(store))
    edit(certification, lambda rows: rows.__setitem__(8, rows[7]))
    (first(store).path / "curve.csv").write_text("epoch,loss\n1,nan\n")
    (first(store).path / "timing.json").write_text("{}")
    (store.root / "mnist" / "gaussian.default" / "1-seed3-00").mkdir()
    (store.root / "mnist" / "gaussian.default" / "1-seed3-00" / "training.json").write_text("{}")
    report = verify(store.root)
    reasons = [str(failure) for failure in report.failures]
    for word in (
        "has label",
        "no valid row of images 4, 9",
        "already stands",
        "nan is not a finite",
        "training_seconds is None",
        "1-seed3-00",
    ):
        assert any(word in reason for reason in reasons), (word, reasons)
    assert (report.runs, report.certifications, len(report.finished)) == (3, 2, 1)


# --------------------------------------------------------------------------------------- unfinished, damaged, misplaced


@pytest.mark.parametrize("kept", [0, 1, 19])
def test_a_stopped_certification_is_unfinished_and_no_failure(bench: Call, store: Store, kept: int) -> None:
    certification = only(first(store))
    edit(certification, lambda rows: rows.__delitem__(slice(kept, None)))
    times = certification.path / "times.csv"
    times.write_text("".join(times.read_text().splitlines(keepends=True)[:kept]))
    with certification.evidence.open("a") as file:
        file.write('{"index":')  # torn by the crash
    result = bench("verify", store.root)
    assert result.exit_code == 0, result.output
    assert f"{kept} of 20 images certified" in result.output
    result = bench("verify", store.root, "--complete")
    assert result.exit_code == 1
    assert re.search(rf"fails: .*unfinished: {kept} of 20 images", result.output)


def test_unfinished_trainings(bench: Call, store: Store) -> None:
    run = first(store)
    shutil.rmtree(only(run).path)
    assert "it is not certified" in bench("verify", store.root).output
    (run.path / "training.json").unlink()
    assert "its training is not finished" in bench("verify", store.root).output
    write_json(run.path / "failure.json", {"reason": "no memory"})
    result = bench("verify", store.root)
    assert result.exit_code == 0
    assert "its training failed" in result.output
    write_json(run.path / "training.json", {"state": "diverged", "reason": "NaN"})
    assert bench("verify", store.root, "--complete").exit_code == 0, "a training that diverged has come to its end"


def test_evidence_needs_a_training(store: Store) -> None:
    run = first(store)
    write_json(run.path / "training.json", {"state": "diverged", "reason": "NaN"})
    assert any("no finished training whose weights" in str(failure) for failure in verify(store.root).failures)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("spec.json", "{", "not a valid spec"),
        ("spec.json", None, "cannot be read: No such file"),
        ("training.json", '{"state":"trained","steps":1,"weights_sha256":"' + "0" * 64 + '"}', "1 step, but the spec makes"),
        ("training.json", '{"state":"trained"}', "steps is None"),
        ("failure.json", "[]", "expected an object"),
        ("environment.json", '{"history":1}', "history is 1"),
        ("curve.csv", "epoch,loss\n1\n", "line 2: it has 1 columns, but the header has 2"),
        ("curve.csv", "epoch,loss\n1,x\n", "not a training curve: could not convert"),
        ("curve.csv", "epoch,loss\n", "it has no row"),
        ("weights.safetensors", "", "not a safetensors file"),
        ("weights.safetensors", "\x02\0\0\0\0\0\0\0{}", "does not say which run it belongs to"),
        ("weights.safetensors", "\xff\xff\xff\x05\0\0\0\0{}", "a header of"),
        ("certify/spec.json", "{}", "schema version None"),
        ("certify/spec.json", None, "cannot be read: No such file"),
        ("certify/subject.json", None, "No such file"),
        ("certify/subject.json", "[1]", "expected an object"),
        ("certify/environment.json", "{", "environment.json: "),
        ("certify/evidence.jsonl", "x\n", "line 1: "),
        ("certify/evidence.jsonl", "\xff\xfe\n", "line 1: "),
        ("certify/evidence.jsonl", "{}\n", "not a row of evidence"),
        ("certify/evidence.jsonl", "1" * ((1 << 20) + 5), "a line longer than 1048576 bytes"),
    ],
)
def test_damaged_files(bench: Call, store: Store, file: str, content: str | None, told: str) -> None:
    run = first(store)
    path = only(run).path / file.partition("/")[2] if "/" in file else run.path / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content.encode("latin-1"))
    result = bench("verify", store.root)
    assert result.exit_code == 1, result.output
    assert told in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "2 runs" in result.output, "the other run was looked at too"


def test_bytes_after_the_last_row(store: Store) -> None:
    with only(first(store)).evidence.open("a") as file:
        file.write("more")
    assert [failure.reason for failure in verify(store.root).failures] == ["after the last image stands a line without an end"]


def test_a_run_in_the_place_of_another(store: Store) -> None:
    run = first(store)
    place = run.path.parent.with_name("smoothmix.eta5")
    place.mkdir()
    run.path.rename(place / run.path.name)
    (failure,) = verify(store.root).failures
    assert "belongs in mnist/gaussian.default/1-seed0-" in failure.reason
    assert verify(place).failures == [], "seen from the folder itself, nothing shows where it should be"
    other = place / f"9-seed0-{run.spec.key}"
    (place / run.path.name).rename(other)
    assert "but the folder is 9-seed0-" in verify(other).failures[0].reason


def test_only_the_top_may_be_a_link(store: Store) -> None:
    elsewhere = store.root.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(store.root)
    (store.root / ".replaced").mkdir()
    report = verify(elsewhere / "link")
    assert (report.failures, report.runs) == ([], 2)
    assert [fault.file.name for fault in verify(elsewhere).failures] == ["link"]
    (store.root / "again").symlink_to(store.root)
    report = verify(store.root)
    assert ([fault.file.name for fault in report.failures], report.runs) == (["again"], 2)


# ---------------------------------------------------------------------------------------------------------------- radii


@pytest.mark.parametrize("n", [1, 2, 100, 1_000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-9])
def test_radii_agree_with_their_definition(n: int, alpha: float) -> None:
    counts = sorted({0, 1, n // 2, n // 2 + 1, n - 1, n, *np.linspace(0, n, 400, dtype=int).tolist()})
    radii = Radii(alpha)
    assert radii.faults(counts, n, 0.5) == {}
    assert radii.distinct == len(counts)


def test_the_tail_is_that_of_the_binomial() -> None:
    count = np.array([501, 600, 990, 1000])
    p = np.array([0.5, 0.55, 0.97, 0.9])
    assert tail(count, 1000, p) == pytest.approx(binom.sf(count - 1, 1000, p), rel=1e-10)
    assert tail(np.array([51_000]), 100_000, np.array([0.5])) == pytest.approx(binom.sf(50_999, 100_000, 0.5), rel=1e-8)


def wald(count: int, n: int, alpha: float) -> float:
    share = count / n
    return max(0.0, share - 3.0902 * math.sqrt(share * (1 - share) / n))


FAULTS: dict[str, Callable[[int, int, float], float]] = {
    "twice alpha": lambda count, n, alpha: float(beta.ppf(2 * alpha, count, n - count + 1)) if count else 0.0,
    "two-sided": lambda count, n, alpha: float(beta.ppf(alpha / 2, count, n - count + 1)) if count else 0.0,
    "one more": lambda count, n, alpha: float(beta.ppf(alpha, min(count + 1, n), max(n - count, 1))),
    "Jeffreys": lambda count, n, alpha: float(beta.ppf(alpha, count + 0.5, n - count + 0.5)),
    "Wald": wald,
    "the share itself": lambda count, n, alpha: count / n,
    "nan": lambda count, n, alpha: math.nan,
    "upper": lambda count, n, alpha: float(beta.ppf(1 - alpha, count + 1, n - count)) if count < n else 1.0,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_bound_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "lower_confidence_bound", FAULTS[fault])
    for count in (600, 990):
        assert Radii(0.001).faults([count], 1000, 0.5), count


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        (lambda count, n, alpha, sigma: 0.5, 500),  # certifies what must abstain
        (lambda count, n, alpha, sigma: None, 990),  # abstains where it need not
        (lambda count, n, alpha, sigma: 2 * bounds.lower_confidence_bound(count, n, alpha), 990),
        (lambda count, n, alpha, sigma: math.ceil(1000 * sigma * 2.01) / 1000, 1000),
    ],
)
def test_a_fault_of_the_radius_is_seen(fault: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "certified_radius", fault)
    assert Radii(0.001).faults([count], 1000, 0.5)


def test_a_fault_of_the_bound_shows_in_results(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "lower_confidence_bound", FAULTS["twice alpha"])
    failures = verify(store.root).failures
    assert failures
    assert all(failure.line for failure in failures)


# ------------------------------------------------------------------------------------------------------------ imported

LOGS = manifest("mnist/noise_0.5_*", row="gaussian", n=1000, images="first:4")
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    log = tmp_path / "logs" / "mnist" / "noise_0.5_1"
    log.parent.mkdir(parents=True)
    log.write_text(HEADER + "".join(f"{i}\t{label}\t{label}\t0.5\t1\t0.1\n" for i, label in enumerate((7, 2, 1, 0))))
    assert len(import_logs(tmp_path / "logs", tmp_path / "runs", LOGS).read) == 1
    return tmp_path / "runs"


def test_an_imported_log_holds(bench: Call, imported: Path) -> None:
    result = bench("verify", imported)
    assert result.exit_code == 0, result.output
    assert "1 imported log, 4 rows" in result.output


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("0.5\t1\n1\t", "1.5\t1\n1\t", r"line 2: radius 1.5 is above 1.23163, the largest for n=1000"),
        ("0\t7\t7\t0.5\t1", "0\t7\t-1\t0.5\t0", "line 2: abstained, but with radius 0.5"),
        ("0\t7\t7", "0\t8\t8", "line 2: image 0 has label 8, but label 7 in the data set"),
        ("2\t1\t1\t0.5\t1\n", "", "image 3 stands where images=first:4 has image 2"),
    ],
)
def test_forged_imports(imported: Path, old: str, new: str, told: str) -> None:
    (entry,) = Store(imported).subjects(Import)
    data = entry.file.read_text()
    assert old in data
    entry.file.write_text(data.replace(old, new, 1))
    (failure,) = verify(imported).failures
    assert "SHA-256 is" in failure.reason
    from bench.files.walk import IMPORTED

    spec = dataclasses.replace(entry.spec, rows_sha256=sha256(entry.file))  # the check sum and the key follow
    write_json(entry.path / "spec.json", to_json(spec))
    assert any("its key is" in failure.reason for failure in verify(imported).failures)
    entry.path.rename(imported / Import.place(spec))
    assert (imported / IMPORTED).is_dir()
    (failure,) = verify(imported).failures
    assert re.search(told, str(failure)), failure


def test_an_import_that_never_finished(imported: Path) -> None:
    (entry,) = Store(imported).subjects(Import)
    (entry.path / "spec.json").unlink()
    report = verify(imported)
    assert (report.failures, len(report.unfinished)) == ([], 1)


def test_logs_that_do_not_hold(bench: Call, tmp_path: Path) -> None:
    log = tmp_path / "a.tsv"
    log.write_text(HEADER + "0\t7\t7\t0.5\t1\t0.1\n100\t6\t6\t0.7\t1\t0.1\n")
    result = bench("verify", log, "--dataset", "mnist", "--sigma", "0.5")
    assert result.exit_code == 1
    assert "cut short: 2 of 100 images" in result.output
    ours = HEADER.replace("time\n", "time\tcount\tn\n")
    log.write_text(ours + "0\t7\t-1\t0.0\t0\t0\t990\t1000\n1\t2\t2\t0.0001\t1\t0\t500\t1000\n")
    result = bench("verify", log, "--dataset", "mnist", "--sigma", "0.5", "--images", "first:2")
    assert "line 2: abstained, but 990 of 1000 samples at alpha 0.001 and sigma 0.5 certify radius" in result.output
    assert "line 3: radius 0.0001, but 500 of 1000 samples at alpha 0.001 and sigma 0.5 must abstain" in result.output


# ------------------------------------------------------------------------------------------------------ recertification


def test_how_many_rows_find_how_large_a_forgery() -> None:
    """The figures of the field's rule of thumb, exactly: with replacement, and without it from any store of rows."""
    for rows, share in ((66, Fraction(1, 10)), (135, Fraction(1, 20)), (688, Fraction(1, 100))):
        limit = Fraction(1, 1000)
        assert (1 - share) ** rows <= limit < (1 - share) ** (rows - 1)
        for total in (1_000, 10_000, 1_500_000):
            missed = chance_of_missing(total, int(total * share), rows)
            assert missed <= (1 - share) ** rows
    assert chance_of_missing(100, 10, 91) == 0
    assert chance_of_missing(10, 1, 1) == Fraction(9, 10)


def test_rows_are_drawn_uniformly_and_without_repeats(store: Store) -> None:
    evidence = [Evidence(only(run), IMAGES, True) for run in store.runs()]
    every = draw(evidence, 1000, 5)
    assert sorted((c.subject.spec.seed, place) for c, place in every) == [(seed, place) for seed in (0, 1) for place in range(IMAGES)]
    assert draw(evidence, 7, 5) == draw(evidence, 7, 5) != draw(evidence, 7, 6)
    hits = np.zeros((2, IMAGES))
    for seed in range(2000):
        for certification, place in draw(evidence, 4, seed):
            hits[certification.subject.spec.seed, place] += 1
    assert hits.sum() == 8000
    assert abs(hits - 200).max() < 70, "each of 40 rows about 200 times"  # 5 deviations of 13.8
    assert draw([], 5, 0) == []


def test_honest_rows_come_back_equal(bench: Call, store: Store) -> None:
    result = bench("verify", store.root, "--recertify", "6", "--seed", "1", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)["recertified"]
    assert (again["seed"], again["drawn"], again["total"], again["equal"]) == (1, 6, 40, 6)
    assert again["missed"] == pytest.approx(float(chance_of_missing(40, 4, 6)))
    assert "6 under the recorded conditions: 6 equal" in again["remarks"]


def forge_a_tenth(store: Store) -> list[tuple[str, int]]:
    """Lifts the counts of two rows of each run, with every check sum made to fit; returns key and line of each."""
    forged = []
    for run in store.runs():
        certification = only(run)
        rows = certification.rows()
        lines = [place for place, row in enumerate(rows) if row.n - row.count >= 20][:2]
        edit(certification, partial(lift, lines=lines, samples=20))
        forged += [(run.spec.key, line + 1) for line in lines]
    assert len(forged) == 4
    return forged


@pytest.mark.parametrize("claimed", [None, {"threads": 64}], ids=["recorded conditions", "other conditions claimed"])
def test_a_forged_tenth_is_found_by_certifying_again(bench: Call, store: Store, claimed: dict[str, int] | None) -> None:
    forged = forge_a_tenth(store)
    if claimed:
        for run in store.runs():
            path = only(run).path / "environment.json"
            write_json(path, read_json(path) | claimed)
    assert bench("verify", store.root).exit_code == 0, "every check sum fits, and counts add up"
    result = bench("verify", store.root, "--recertify", "24", "--seed", "2", "--json", "--device", "cpu")  # all four missed: p = .02
    assert result.exit_code == 1, result.output
    failures = [f for f in json.loads(result.stdout)["failures"] if Path(f["file"]) != store.root]  # there, all rows together fail
    found = {(Path(f["file"]).parent.parent.name[-16:], f["line"]) for f in failures}
    assert found
    assert found <= set(forged), "no honest row is accused"
    told = failures[0]["reason"]
    assert "certified again: image" in told
    assert ("so the noise is the same" if claimed else "under the recorded conditions") in told


def test_weights_swapped_with_every_record_are_found_by_certifying_again(bench: Call, store: Store) -> None:
    swap_weights(store, hashes=True, metadata=True)
    assert "seed 1 is the training of seed 0 again" in bench("verify", store.root).output
    shutil.rmtree(next(run for run in store.runs() if run.spec.seed == 1).path)
    assert bench("verify", store.root).exit_code == 0
    result = bench("verify", store.root, "--recertify", "8", "--seed", "0", "--device", "cpu")
    assert result.exit_code == 1
    assert "certified again: image" in result.output


def test_a_network_that_knows_the_noise_is_found_by_noise_that_nobody_knows(
    bench: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was fitted to the recorded noise gives lifted counts under it, and so they come back equal."""
    certification = only(first(store))
    words = ("verify", first(store).path, "--recertify", "20", "--device", "cpu")
    assert bench(*words).exit_code == 0
    edit(certification, partial(lift, lines=list(range(20)), samples=40))
    fitted = {row.index: row for row in certification.rows()}

    class Fitted(sampler.Sampler):
        def __init__(self, model: nn.Module, sigma: float, classes: int, seed: int, *rest: Any, **more: Any) -> None:
            super().__init__(model, sigma, classes, seed, *rest, **more)
            self.known = seed == certification.spec.seed

        def certify(self, x: torch.Tensor, index: int, *rest: Any, **more: Any) -> Certificate:
            return fitted[index] if self.known else super().certify(x, index, *rest, **more)

    monkeypatch.setattr(recertify, "Sampler", Fitted)
    result = bench(*words)
    assert "20 under the recorded conditions: 20 equal" in result.output
    assert result.exit_code == 1, result.output
    assert "certified again: with fresh noise, " in result.output


def test_evidence_without_weights_says_so(bench: Call, store: Store) -> None:
    first(store).weights.unlink()
    result = bench("verify", store.root, "--recertify", "3", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "3 rows certified again of 20 with weights" in result.output
    assert "20 rows of 1 certification without weights, which cannot be certified again:" in result.output
    assert str(only(first(store)).path) in result.output.replace("\n", "")
    result = bench("verify", ROOT / "results" / "tables-8-11" / "mnist", "--recertify", "66")
    assert result.exit_code == 1, "it was asked for, and nothing of it could be done"
    assert "no finished certification in it has weights" in result.output
    count, rows = committed("tables-8-11")
    assert f"{rows:,} rows of {count} certifications without weights" in result.output


def test_weights_of_another_architecture_are_a_sentence(bench: Call, store: Store) -> None:
    run = first(store)
    metadata = {"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}
    tensors = safetensors.torch.load_file(run.weights)
    run.weights.write_bytes(safetensors.torch.save({name: t for name, t in tensors.items() if "conv1" not in name}, metadata))
    write_json(run.path / "training.json", read_json(run.path / "training.json") | {"weights_sha256": sha256(run.weights)})
    reseal(only(run))
    result = bench("verify", run.path, "--recertify", "3", "--device", "cpu")
    assert result.exit_code == 1
    assert "does not hold the weights of a lenet: Error(s) in loading state_dict" in result.output
    assert "0 rows certified again of 20" in result.output


def compared(pairs: list[tuple[int, int]], n: int, store: Store) -> tuple[Report, Recertification]:
    """What the comparison says of (recorded, found again) counts under other conditions."""
    certification = only(first(store))
    again = [
        Again(certification, line, certificate(0, 7, a, n), found := certificate(0, 7, b, n), found, False, ("device",))
        for line, (a, b) in enumerate(pairs, 1)
    ]
    report = Report(top=store.root, alpha=0.001)
    result = Recertification(seed=0, total=1000, drawn=len(again))
    recertify._compare(again, report, result)
    return report, result


def test_other_noise_is_no_forgery_and_a_lift_is_one(store: Store) -> None:
    """Two independent draws, as on another device: honest ones pass; one large lift is found, and many small ones are."""
    n, rng = 1_000, np.random.default_rng(0)
    accused = 0
    for _ in range(20):
        p = rng.uniform(0.6, 0.99, 66)
        recorded, found = rng.binomial(n, p), rng.binomial(n, p)
        report, result = compared(list(zip(recorded.tolist(), found.tolist(), strict=True)), n, store)
        accused += bool(report.failures)
        assert "compared as samples of other noise, error level 0.001 in all" in result.remarks[0]
    assert accused == 0, "each time with probability .001"
    spread = np.sqrt(2 * n * p * (1 - p))
    one = recorded.copy()
    p[5], found[5], one[5] = 0.6, 600, 600 + int(6 * spread.max())
    report, _ = compared(list(zip(one.tolist(), found.tolist(), strict=True)), n, store)
    assert [failure.line for failure in report.failures] == [6]
    assert "differ by more than chance" in report.failures[0].reason
    lifted = np.minimum(n, found + np.ceil(1.5 * spread)).astype(int)
    report, _ = compared(list(zip(lifted.tolist(), found.tolist(), strict=True)), n, store)
    assert [failure.line for failure in report.failures] == [None, None], "the sign test and the sum"
    assert "66 of 66 differing rows record more samples of the selected class" in report.failures[0].reason


def test_where_the_noise_is_the_same_only_rounding_is_left(store: Store) -> None:
    n = 100_000
    same = [(60_000 + 7 * k, 60_000 + 7 * k) for k in range(10)]
    report, result = compared([*same, (70_000, 70_000 - 1 - n // 10_000)], n, store)
    assert report.failures == []
    assert "10 equal, the others differ by 11 samples at most; 1 + n/10,000 samples are left to rounding" in result.remarks[0]
    report, _ = compared([*same, (70_000, 70_000 - 2 - n // 10_000)], n, store)
    assert [failure.line for failure in report.failures] == [11]
    report, _ = compared([(count + 1, count) for count, _ in 2 * same], n, store)
    assert [failure.line for failure in report.failures] == [None], "each may be rounding, but not all of them upwards"
    report, _ = compared([(count + sign, count) for count, _ in same for sign in (1, -1)], n, store)
    assert report.failures == []
    agreeing = [(n, n)] * 10  # equal under any noise, so they tell nothing of it
    report, result = compared([*agreeing, (70_000, 69_980), (70_000, 70_030)], n, store)
    assert report.failures == []
    assert "other noise" in result.remarks[0]


def undecided(bench: Call, store: Store, *settings: str) -> Certification:
    """The only certification of a store: of a network between whose classes the noise decides, of 8 images, up to 2,000 samples each."""
    for run in store.runs():
        shutil.rmtree(run.path if run.spec.seed else only(run).path)
    run = first(store)
    trained = load_weights(run, sha256(run.weights), torch.device("cpu")).eval()
    images = load("mnist", "test").images(torch.arange(IMAGES))
    with torch.no_grad():
        usual = trained(images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).mean(0)
    tensors = safetensors.torch.load_file(run.weights)
    (bias,) = (name for name in tensors if name.endswith("fc2.bias"))
    metadata = {"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}
    run.weights.write_bytes(safetensors.torch.save(tensors | {bias: tensors[bias] - usual}, metadata))
    write_json(run.path / "training.json", read_json(run.path / "training.json") | {"weights_sha256": sha256(run.weights)})
    every = (*TRAINED, "certify.images=first:8", "certify.n=2000", "certify.n0=7", *settings)
    result = bench(*RUN, "--seeds", "0,", *(word for setting in every for word in ("--set", setting)), "--results", store.root)
    assert result.exit_code == 0, result.output
    return only(run)


@pytest.mark.parametrize(
    "settings",
    [("certify.rule=confidence-sequence", "certify.radius_step=0.5"), ("certify.rule=curtailed",), ("certify.skip_misclassified=true",)],
    ids=["confidence sequence", "curtailed", "skip"],
)
def test_rows_whose_number_of_samples_was_not_fixed(
    bench: Call, store: Store, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    monkeypatch.setattr(rule, "BLOCKS", 1)  # a look every 500 samples
    certification = undecided(bench, store, *settings)
    assert len({row.n for row in certification.rows()}) > 1

    def again() -> Result:
        return bench("verify", store.root, "--recertify", "8", "--device", "cpu")

    result = again()
    assert result.exit_code == 0, result.output
    assert "8 under the recorded conditions: 8 equal" in result.output

    monkeypatch.setattr("bench.certify.noise.derive", lambda seed, *words: derive(seed + 1, *words))
    path = certification.path / "environment.json"
    write_json(path, read_json(path) | {"device": "another"})
    result = again()
    assert result.exit_code == 0, result.output
    assert "compared as samples of other noise" in result.output

    row = max((row for row in certification.rows() if row.n == 2000), key=lambda row: row.n - row.count)  # so far any may come
    edit(certification, partial(lift, lines=[certification.rows().index(row)], samples=row.n))
    result = again()
    assert result.exit_code == 1, result.output
    assert f"certified again: image {row.index}" in result.output


def test_an_end_that_the_rule_does_not_give_is_found(bench: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """True counts of more samples than the rule draws: what they add may be to the liking of whoever draws them."""
    monkeypatch.setattr(rule, "BLOCKS", 1)

    usual = rule.Stopping.looks

    def late(self: rule.Stopping, n: int, block: int) -> Iterable[int]:
        return (look for look in usual(self, n, block) if look >= 1500)

    with monkeypatch.context() as patched:
        patched.setattr(rule.Stopping, "looks", late)
        certification = undecided(bench, store, "certify.rule=confidence-sequence", "certify.radius_step=0.5")
    assert bench("verify", store.root).exit_code == 0
    result = bench("verify", store.root, "--recertify", "8", "--device", "cpu")
    assert result.exit_code == 1
    assert "1500 samples are recorded, but by its rule the certification stops at 500" in result.output
    assert len(certification.rows()) == 8


def test_honest_rows_that_stopped_are_not_accused() -> None:
    """Counts that were drawn until they were low or high enough, against as many that were drawn without looking: the level holds."""
    rng, n, level = np.random.default_rng(0), 2_000, 0.05
    accused = 0
    for _ in range(trials := 2_000):
        p = rng.uniform(0.3, 0.7)
        path = np.cumsum(rng.random(n) < p)
        deviation = np.abs(path - p * np.arange(1, n + 1)) / np.sqrt(np.arange(1, n + 1))
        end = 50 + int(deviation[49:].argmax())  # the worst place to stop
        accused += recertify._apart(int(path[end - 1]), int(rng.binomial(end, p)), end, level)
    assert accused <= level * trials
    assert recertify._apart(700, 500, 1000, 0.001)
    assert recertify._apart(300, 500, 1000, 0.001)


# ------------------------------------------------------------------------------------------------ checkpoints from outside

FACTORY = """
from torch import nn
def make() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""


@pytest.fixture
def foreign(bench: Call, store: Store, tmp_path: Path) -> Checkpoint:
    """The weights of seed 0 as a checkpoint of the field, certified on its own; the only thing in the store."""
    file = tmp_path / "stranger.pth.tar"
    result = bench("export", first(store).path, "--format", "checkpoint", "--out", file, "--results", store.root)
    assert result.exit_code == 0, result.output
    shutil.rmtree(store.root / "mnist")
    certify_file(bench, store, file)
    return next(store.subjects(Checkpoint))


def certify_file(bench: Call, store: Store, word: str | Path) -> None:
    words = ("--dataset", "mnist", "--sigma", "1", "--images", "first=6", "--n", "200", "--n0", "20", "--device", "cpu")
    result = bench("certify", word, *words, "--results", store.root)
    assert result.exit_code == 0, result.output


def test_a_certified_checkpoint_holds_and_comes_back_equal(bench: Call, store: Store, foreign: Checkpoint) -> None:
    result = bench("verify", store.root, "--complete", "--recertify", "3", "--seed", "0", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "0 runs and 1 checkpoint from outside, 1 of them with weights" in result.output
    assert "3 rows certified again of 6 with weights (seed 0): 3 with equal counts" in result.output
    assert bench("verify", foreign.path).exit_code == 0


def test_forged_checkpoints(bench: Call, store: Store, foreign: Checkpoint) -> None:
    certification = only(foreign)
    before = certification.evidence.read_bytes()
    edit(certification, lambda rows: rows.__delitem__(2))
    assert "no valid row of image 2, though image 5 has one" in str(verify(store.root).failures[0])
    certification.evidence.write_bytes(before)
    write_json(certification.path / "subject.json", {"weights_sha256": "0" * 64})
    assert "were certified, but the run's are" in str(verify(store.root).failures[0])
    write_json(certification.path / "subject.json", {"weights_sha256": foreign.spec.weights_sha256})
    assert verify(store.root).failures == []

    origin = foreign.origin_file.read_text()
    for forged, told in (("0" * 64, "tensors_sha256 is 000"), ("x", "is not a SHA-256 in hex")):
        foreign.origin_file.write_text(origin.replace(foreign.origin().tensors_sha256, forged))
        assert told in str(verify(store.root).failures[0])
        foreign.origin_file.write_text(origin)
    foreign.origin_file.write_text('{"name":"x.pth","row":"../x"}')
    assert "row '../x' is not a name" in str(verify(store.root).failures[0])
    foreign.origin_file.write_text('{"name":"x.pth"}')
    assert verify(store.root).failures == [], "as earlier releases wrote it"

    with foreign.weights.open("ab") as file:
        file.write(b"0")
    assert "but its header tells of" in str(verify(store.root).failures[0])
    whole = foreign.weights.read_bytes()[:-1]
    foreign.weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "SHA-256 is" in str(verify(store.root).failures[0])
    foreign.weights.write_bytes(whole)

    other = dataclasses.replace(foreign.spec, sigma=2.0)
    write_json(foreign.path / "subject.json", to_json(other))
    assert "its key is" in str(verify(store.root).failures[0])
    place = Store(store.root).checkpoint(other)
    foreign.path.rename(place.path)
    assert verify(store.root).failures == [], "nothing in the weights of a stranger says at which sigma they were certified"
    result = bench("verify", store.root, "--recertify", "6", "--device", "cpu")
    assert result.exit_code == 1
    assert "certified again: image" in result.output
    (place.path / "subject.json").unlink()
    assert "subject.json: cannot be read" in str(verify(store.root).failures[0])


def test_a_factory_of_a_stranger_is_not_run(
    bench: Call, store: Store, foreign: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_strangers_module.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    certify_file(bench, store, "a_strangers_module:make")
    (tmp_path / "a_strangers_module.py").write_text("raise SystemExit(99)")
    monkeypatch.delitem(sys.modules, "a_strangers_module")
    result = bench("verify", store.root, "--recertify", "20", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "2 checkpoints from outside" in result.output
    assert "6 rows certified again of 6 with weights" in result.output
    assert "a_strangers_module:make builds its network, which is code" in result.output
    assert "a_strangers_module" not in sys.modules


# ------------------------------------------------------------------------------------------------------------- the verb


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere",), "nowhere: there is no such folder or file, nor a folder"),
        (("EMPTY",), "holds no run, no certified checkpoint and no imported log"),
        (("EMPTY", "--recertify", "0"), "--recertify 0 must be at least 1"),
        (("EMPTY", "--seed", "1"), "--seed goes with --recertify"),
        (("EMPTY", "--device", "cpu"), "--device goes with --recertify"),
        (("EMPTY", "--recertify", "1", "--seed", "-1"), "--seed -1 must be a whole number from 0 up"),
        (("EMPTY", "--alpha", "0.5"), "--alpha 0.5 must lie between 0 and 0.5"),
        (("EMPTY", "--sigma", "0.5"), "--sigma goes with a log"),
        (("LOG",), "a log does not say its sigma; add --sigma"),
        (("LOG", "--dataset", "mnits", "--sigma", "1"), "unknown data set 'mnits'; did you mean 'mnist'?"),
        (("LOG", "--dataset", "mnist", "--sigma", "-1"), "sigma -1.0 must be a finite number greater than 0"),
        (("LOG", "--dataset", "mnist", "--sigma", "1", "--images", "some"), "images=some is no selection"),
        (("LOG", "--dataset", "mnist", "--sigma", "1", "--n", "0"), "--n 0 must be at least 1"),
        (("LOG", "--dataset", "mnist", "--sigma", "1", "--recertify", "3"), "--recertify goes with results, not with a log"),
        (("CERTIFICATION",), "is one certification; name the folder of its run, 1-seed0-"),
    ],
)
def test_usage(bench: Call, store: Store, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tsv").write_text(HEADER)
    places = {"EMPTY": tmp_path / "empty", "LOG": tmp_path / "a.tsv", "CERTIFICATION": only(first(store)).path}
    result = bench("verify", *(places.get(word, word) for word in words), "--results", tmp_path / "none")
    assert result.exit_code == 2, result.output
    assert told in result.output
    assert isinstance(result.exception, SystemExit)


def test_many_failures_of_one_file_are_counted_on_the_terminal_and_listed_in_json(bench: Call, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    run = store.run(run_spec())
    run.begin()
    spec = CertifySpec(n0=10, n=100, images="first:300")
    certification = run.certification(spec)
    certification.begin("0" * 64)
    write_json(run.path / "training.json", {"state": "trained", "steps": 938, "weights_sha256": "0" * 64})
    rng = random.Random(0)
    rows = [certificate(i, rng.randrange(10), 90, 100) for i in range(300)]
    certification.evidence.write_text("".join(map(to_line, rows)))
    result = bench("verify", store.root)
    assert result.exit_code == 1
    count = len(json.loads(bench("verify", store.root, "--json").stdout)["failures"])
    assert count > 200
    assert f"{count - 20} more; --json lists all" in result.output
    assert result.output.count("fails: ") == 21


def test_seeds_of_a_recertification_are_those_of_the_certification(store: Store) -> None:
    """The forged rows above would be found under any noise; this holds the noise to the record, by hand."""
    import torch

    from bench.data import load
    from bench.matrix.resume import load_weights

    certification = only(first(store))
    model = load_weights(certification.subject, sha256(certification.subject.weights), torch.device("cpu"))
    model.eval()
    line = certification.evidence.read_bytes().splitlines(keepends=True)[4]
    generator = torch.Generator().manual_seed(derive(certification.spec.seed, "certify", 4))
    noise = torch.empty(500, 1, 28, 28).normal_(0, 1.0, generator=generator)
    x = load("mnist", "test").images(torch.tensor([4]))
    with torch.inference_mode():
        selection = model((x + noise).contiguous(memory_format=torch.channels_last)).argmax(1)[:N0].bincount(minlength=10)
    assert from_line(line).selection == {c: k for c, k in enumerate(selection.tolist()) if k}
