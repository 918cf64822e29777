"""Certified checkpoints from outside: as rows of tables, in listings, and never beside what they cannot be compared with. No torch."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_logs import MANIFEST, write_log
from fake_store import CERTIFY, N, add, new_store, run_spec, write_evidence
from test_claims import ended_process, forge
from typer.testing import Result

from bench.errors import BenchError, UsageError
from bench.files import claims
from bench.files.walk import CHECKPOINTS
from bench.files.writing import write_json
from bench.logs import import_logs
from bench.spec import CertifySpec
from bench.store.checkpoints import Checkpoint, CheckpointSpec, Origin
from bench.store.listing import others
from bench.store.runs import Store
from leaderboard import plots
from leaderboard.aggregate import Filters, Group, Row, Source, collect
from leaderboard.compare import compare
from leaderboard.tables import render

Call = Callable[..., Result]
FULL = 0.5 * 2.463262615  # ACR at sigma 0.5 when every image is certified by 1000 of 1000 samples
HALF = (N, N, 500, 500)
ALL = (N, N, N, N)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def foreign(
    store: Store,
    name: str,
    row: str | None = "mine",
    counts: Sequence[int] | None = ALL,
    *,
    certify: CertifySpec = CERTIFY,
    tensors: str | None = None,
    **changes: Any,
) -> Checkpoint:
    """A certified checkpoint on disk, without its weights; counts=None: no certification was begun."""
    weights = hashlib.sha256(f"{name} {changes}".encode()).hexdigest()
    spec = CheckpointSpec(
        **{"dataset": "mnist", "sigma": 0.5, "arch": "lenet", "normalization": "none", "weights_sha256": weights, **changes}
    )
    own = Store(store.root).checkpoint(spec)
    own.begin()
    digest = weights if tensors is None else hashlib.sha256(tensors.encode()).hexdigest()
    write_json(own.origin_file, {"name": name, "tensors_sha256": digest} | ({"row": row} if row else {}))
    if counts is not None:
        write_evidence(own.certification(certify), counts)
    return own


def only(store: Store, **filters: Any) -> Group:
    (group,) = collect(store, Filters(**filters), source="checkpoints")
    return group


def rows(group: Group, sigma: float = 0.5) -> dict[str, Row]:
    return {row.label: row for section in group.sections if section.sigma == sigma for row in section.rows}


# -------------------------------------------------------------------------------------------------------------------- groups


def test_checkpoints_of_a_row_are_averaged_in_the_order_of_their_files(store: Store) -> None:
    second, first = foreign(store, "seed1.pth", counts=HALF), foreign(store, "seed0.pth")
    group = only(store)
    row = rows(group)["mine"]
    assert row.stats["ACR"].mean == pytest.approx(0.75 * FULL, rel=1e-9)
    assert row.stats["ACR"].std == pytest.approx(0.5 * FULL / math.sqrt(2), rel=1e-9)
    assert (row.stats["0.00"].values, row.stats["0.00"].n) == ((100, 50), 2)
    assert [(seed.seed, seed.key) for seed in row.seeds] == [("0", first.spec.key), ("1", second.spec.key)]
    assert (group.source, group.conditions["network"], group.conditions["normalisation"]) == ("checkpoints", "lenet", "none")
    assert (group.images, group.test_size, group.seeds) == (4, 10_000, ())


def test_an_unfinished_certification_shows_no_mean(store: Store) -> None:
    foreign(store, "a.pth")
    foreign(store, "b.pth", counts=(N, N, N))
    foreign(store, "c.pth", "alone", counts=(N,))
    found = rows(only(store))
    assert (found["mine"].status, found["mine"].stats) == ("1/2 checkpoints", {})
    assert (found["alone"].status, found["alone"].stats) == ("1/4 images", {})


def test_rows_of_different_numbers_of_checkpoints_say_so(store: Store) -> None:
    for number in range(3):
        foreign(store, f"a{number}.pth")
    foreign(store, "b.pth", "other", HALF)
    group = only(store)
    assert {label: (row.stats["ACR"].n, row.stats["ACR"].std is None) for label, row in rows(group).items()} == {
        "mine": (3, False),
        "other": (1, True),
    }
    assert (
        "The numbers of checkpoints differ, and each mean is over its own: 1 of other at sigma 0.5; 3 of mine at sigma 0.5." in group.notes
    )
    assert not any("numbers" in note for note in only(store, methods=["mine"]).notes)


def test_nobody_said_a_row_so_nothing_is_averaged(store: Store) -> None:
    """Files of different methods are all called checkpoint.pth.tar."""
    foreign(store, "checkpoint.pth.tar", None, weights_sha256="a" * 64)
    foreign(store, "checkpoint.pth.tar", None, HALF, weights_sha256="b" * 64)
    foreign(store, "x.pth", "checkpoint", weights_sha256="c" * 64)
    foreign(store, "y.pth", "checkpoint", HALF, weights_sha256="d" * 64)
    group = only(store)
    found = rows(group)
    assert list(found) == ["checkpoint #1", "checkpoint #2", "checkpoint #3"]
    assert [len(row.seeds) for row in found.values()] == [2, 1, 1]
    assert group.footnotes == ("checkpoint at sigma 0.5 stands 3 times: only `bench certify --row` makes checkpoints one row",)


def test_equal_weights_count_once(store: Store) -> None:
    foreign(store, "a.pth", tensors="same", counts=(N, N, N))
    foreign(store, "b.pth", counts=HALF)
    foreign(store, "c.pth", tensors="same")
    row = rows(only(store))["mine"]
    assert row.notes == ("mine at sigma 0.5: a.pth and c.pth hold the same weights, which count once",)
    assert row.stats["0.00"].values == (100, 50), "the finished one of the two"


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "fashion-mnist"},
        {"arch": "resnet20"},
        {"normalization": "0.1307/0.3081"},
        {"source_sha256": "f" * 64},
        {"certify": dataclasses.replace(CERTIFY, n=2000)},
        {"certify": dataclasses.replace(CERTIFY, rule="curtailed")},
        {"certify": dataclasses.replace(CERTIFY, sampling="grid")},
        {"certify": dataclasses.replace(CERTIFY, skip_misclassified=True)},
    ],
    ids=lambda change: str(next(iter(change.values())))[:60],
)
def test_what_differs_in_anything_stands_in_another_table(store: Store, change: dict[str, Any]) -> None:
    foreign(store, "a.pth")
    n = change["certify"].n if "certify" in change else N
    foreign(store, "b.pth", counts=(n,) * 4, **change)
    groups = collect(store)
    assert [[len(row.seeds) for row in rows(group).values()] for group in groups] == [[1], [1]]
    assert len({(group.dataset, str(group.conditions)) for group in groups}) == 2
    assert len({render([group], "csv").splitlines()[1] for group in groups}) == 2


def test_a_checkpoint_that_is_certified_otherwise_is_named(store: Store) -> None:
    foreign(store, "a.pth")
    foreign(store, "b.pth", counts=None)
    foreign(store, "c.pth", certify=dataclasses.replace(CERTIFY, seed=1))
    foreign(store, "d.pth", sigma=1.0)
    foreign(store, "e.pth", "other", counts=None)
    group = next(group for group in collect(store) if group.conditions["certify.seed"] == 0)
    assert rows(group)["mine"].stats["ACR"].n == 1
    assert rows(group)["mine"].notes == (
        "mine at sigma 0.5: b.pth is not certified in this way",
        "mine at sigma 0.5: c.pth is not certified in this way",
    )


def test_sections_per_sigma_with_rows_that_are_missing(store: Store) -> None:
    foreign(store, "a.pth")
    foreign(store, "b.pth", sigma=0.25)
    foreign(store, "c.pth", "other", sigma=0.25)
    group = only(store)
    assert {s.sigma: [(r.name, r.status) for r in s.rows] for s in group.sections} == {
        0.25: [("mine", ""), ("other", "")],
        0.5: [("mine", ""), ("other", "missing")],
    }
    assert not any("numbers" in note for note in group.notes)


def test_damage_is_named_and_hides_nothing(store: Store) -> None:
    foreign(store, "a.pth")
    bad = foreign(store, "b.pth", "broken")
    evidence = bad.certification(CERTIFY).evidence
    evidence.write_text(evidence.read_text().replace(f":{N}", f":{N - 1}", 1))
    torn, lost, unknown = (foreign(store, f"{name}.pth", name) for name in ("torn", "lost", "unknown"))
    torn.origin_file.write_text('{"name": 7}')
    (lost.certification(CERTIFY).path / "spec.json").write_text("{")
    (unknown.path / "subject.json").unlink()
    group = only(store)
    assert [(label, row.status) for label, row in rows(group).items()] == [("broken", "damaged"), ("mine", "")]
    assert "line 1: the check sum" in rows(group)["broken"].notes[0]
    left = [note for note in group.notes if note.startswith("left out: ")]
    assert len(left) == 3
    for part in ("origin.json: expected the texts", "spec.json: not a valid spec", "subject.json: cannot be read: No such file"):
        assert sum(part in note for note in left) == 1
    for path in (store.root / CHECKPOINTS).rglob("subject.json"):
        path.write_text("{")
    with pytest.raises(BenchError, match=r"nothing in .* can be read: .*subject\.json"):
        collect(store)


# ------------------------------------------------------------------------------------------------------------ beside the others


@pytest.fixture
def three(store: Store, bench: Call, tmp_path: Path) -> Store:
    """Own runs, imported logs and checkpoints in one store."""
    add(store, run_spec())
    add(store, run_spec("macer"))
    write_log(tmp_path / "logs" / "plain" / "noise_0.5_1", [0.5, 0.25, 0, 1])
    import_logs(tmp_path / "logs", store.root, MANIFEST, strict=True)
    foreign(store, "a.pth")
    foreign(store, "b.pth", counts=HALF)
    foreign(store, "c.pth", "other")
    return store


def test_the_three_sources_never_share_a_table(three: Store) -> None:
    assert {group.source: sorted(rows(group)) for group in collect(three)} == {
        "runs": ["gaussian", "macer"],
        "imported": ["plain"],
        "checkpoints": ["mine", "other"],
    }
    sources: tuple[Source, ...] = ("runs", "imported", "checkpoints")
    for source in sources:
        assert {group.source for group in collect(three, source=source)} == {source}
    (merged,) = collect(three, mix=True)
    assert (merged.mixed, len(rows(merged))) == (True, 5)


def test_filters(three: Store) -> None:
    assert [sorted(rows(group)) for group in collect(three, Filters(methods=["mine"]))] == [["mine"]]
    assert [sorted(rows(group)) for group in collect(three, Filters(methods=["*er"]))] == [["macer"], ["other"]]
    assert {group.source for group in collect(three, Filters(protocols=["quick"]))} == {"runs"}
    for filters in (Filters(protocols=["quick"]), Filters(recipes=["paper"]), Filters(seeds=[0])):
        with pytest.raises(BenchError, match="certified checkpoints have no protocol, recipe or seeds; leave out --protocol"):
            collect(three, filters, source="checkpoints")
    with pytest.raises(UsageError, match="no checkpoint is of method 'mnie'; did you mean 'mine'"):
        collect(three, Filters(methods=["mnie"]), source="checkpoints")
    foreign(three, "d.pth", "wide", sigma=1.0)
    with pytest.raises(BenchError, match=r"no checkpoint has all of: sigma 1; method other; `bench list checkpoints` names"):
        collect(three, Filters(methods=["other"], sigmas=[1.0]), source="checkpoints")


def test_compare_takes_checkpoints_as_unpaired_trainings(three: Store, bench: Call) -> None:
    foreign(three, "e.pth", "other")
    report = compare(three, "mine", "other")
    (comparison,) = report.comparisons
    assert (report.source, comparison.seeds.paired) == ("checkpoints", False), "the numbers of checkpoints are no seeds"
    assert comparison.seeds.difference == pytest.approx(0.25 * FULL)
    foreign(three, "f.pth", "gaussian")
    foreign(three, "g.pth", "macer")
    result = bench("compare", "gaussian", "macer", "--results", three.root)
    assert result.exit_code == 2
    assert "holds certified checkpoints and runs of its own, which never mix; say --from checkpoints or --from runs" in result.output
    assert bench("compare", "gaussian", "macer", "--from", "checkpoints", "--results", three.root).exit_code == 0


def test_every_picture_is_drawn_or_refused_in_a_sentence(three: Store, bench: Call, tmp_path: Path) -> None:
    refused = bench("plot", "curves", "--results", three.root)
    assert refused.exit_code == 2
    assert "say --from checkpoints or --from imported or --from runs" in refused.output
    drawn = bench("plot", "curves", "--from", "checkpoints", "--results", three.root, "--out", tmp_path / "x.svg")
    assert drawn.exit_code == 0, drawn.output
    assert "checkpoints trained elsewhere, certified here, network lenet, normalisation none" in drawn.output
    (curves,), (tradeoff,) = (plots.pictures(kind, three, source="checkpoints") for kind in ("curves", "tradeoff"))
    assert "Line: mean over the checkpoints. Band" in curves.notes[0]
    assert tradeoff.name == "tradeoff-mnist-checkpoints"
    training = bench("plot", "training", "--from", "checkpoints", "--results", three.root)
    assert "checkpoints from outside have no training curves; leave out --from checkpoints" in training.output


# ----------------------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("format", ["terminal", "markdown", "latex", "csv", "json"])
def test_every_format_and_metric(three: Store, bench: Call, tmp_path: Path, format: str) -> None:
    out = tmp_path / "table"
    ties = ["--marks", "test"] if format == "json" else []
    result = bench("table", "--from", "checkpoints", "--format", format, "--metric", "all", *ties, "--out", out, "--results", three.root)
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "mine" in text
    assert "checkpoints trained elsewhere, certified here" in text
    if format == "json":
        (group,) = json.loads(text)["groups"]
        assert group["source"] == "checkpoints"
        assert [row["tied"] for row in group["sections"][0]["rows"]] == [None, None], "four images are not tested"
        assert "1 or 2 checkpoints" in group["caption"]
        assert "sample standard deviation over the checkpoints" in group["caption"]
    if format == "csv":
        row = next(csv.DictReader(io.StringIO(text)))
        assert (row["arch"], row["normalisation"], row["seeds"], row["seeds_done"]) == ("lenet", "none", "0 1", "2")


def test_words_that_do_not_apply_are_refused(three: Store, bench: Call) -> None:
    for words, told in (
        (("--seeds", "2"), "certified checkpoints have no protocol, recipe or seeds"),
        (("--table", "4"), "the paper's tables are filled by imported logs or our own runs; leave out --from checkpoints"),
        (("--mix", "--marks", "test", "--method", "mine"), ""),
    ):
        result = bench("table", "--from", "checkpoints", *words, "--results", three.root)
        assert (result.exit_code, told in result.output, "Traceback" in result.output) == (2 if told else 0, True, False), result.output


def test_the_list_of_checkpoints(store: Store, bench: Call) -> None:
    foreign(store, "b.pth", "mine", counts=(N,))
    foreign(store, "a.pth")
    foreign(store, "run.pth", "mine", counts=(N, N), sigma=1.0)
    foreign(store, "none.pth", None, counts=None)
    bad = foreign(store, "bad.pth", "bad")
    (bad.certification(CERTIFY).path / "spec.json").write_text("{")
    lost = foreign(store, "lost.pth", "lost")
    (lost.path / "subject.json").unlink()
    running = next(path for path in (store.root / CHECKPOINTS).rglob("origin.json") if b"run.pth" in path.read_bytes()).parent
    forge(running, phase="certifying", done=1, total=4)
    data = json.loads(bench("list", "checkpoints", "--results", store.root, "--json").stdout)
    assert [(row["row"], row["file"], row["sigma"], row["state"], row["images certified"]) for row in data] == [
        ("", "", "", "damaged", ""),
        ("bad", "bad.pth", "0.5", "damaged", ""),
        ("mine", "a.pth", "0.5", "done", "4/4"),
        ("mine", "b.pth", "0.5", "unfinished", "1/4"),
        ("mine", "run.pth", "1.0", "running", "2/4"),
        ("none", "none.pth", "0.5", "unfinished", "none"),
    ]
    assert {(row["network"], row["images"], row["n"]) for row in data[2:5]} == {("lenet", "first:4", N)}
    text = bench("list", "checkpoints", "--results", store.root).output
    assert re.search(r"mine +a\.pth +mnist +lenet +0\.5 +first:4 +1000 +done +4/4", text)
    assert f"damaged: {lost.path}: {lost.path}/subject.json: cannot be read: No such file or directory" in text
    assert f"damaged: {bad.certification(CERTIFY).path}: " in text
    forge(running, system=claims._system(), pid=ended_process())
    assert {row["state"] for row in others(store, "checkpoints")} == {"damaged", "done", "unfinished"}


def test_status_counts_them_in_one_line(store: Store, bench: Call) -> None:
    add(store, run_spec())
    before = bench("status", "--results", store.root)
    assert "checkpoint" not in before.output
    foreign(store, "a.pth")
    foreign(store, "b.pth", counts=(N,))
    forge(foreign(store, "c.pth", counts=(N,)).path, phase="certifying", done=1, total=4)
    after = bench("status", "--results", store.root)
    line = "certified checkpoints: 3 certifications, 1 done, 1 running, 1 unfinished; `bench list checkpoints --results "
    line += f"{store.root}` names them\n"
    assert after.output == before.output + line
    data = json.loads(bench("status", "--results", store.root, "--json").stdout)
    assert [(row["state"], row.get("file")) for row in data] == [
        ("done", None),
        ("done", "a.pth"),
        ("unfinished", "b.pth"),
        ("running", "c.pth"),
    ]
    assert set(data[0]) - {"phase"} <= set(data[1]), "whoever reads a run's fields finds them in each"
    assert after.exit_code == 0
    foreign(store, "d.pth").origin_file.write_text("{")
    damaged = bench("status", "--results", store.root)
    assert damaged.exit_code == 1
    assert "1 unfinished, 1 damaged" in damaged.output
    assert "origin.json: " in damaged.output


def test_names_of_files_stay_text(store: Store, bench: Call) -> None:
    foreign(store, "\x1b[31m[red]<b>|$x$.pth", None)
    foreign(store, "=1+1.pth", "two.v2")
    (origin,) = (found.origin() for found in store.subjects(Checkpoint) if found.origin().row)
    assert origin == Origin(name="=1+1.pth", row="two.v2", tensors_sha256=origin.tensors_sha256)
    for words in (("list", "checkpoints"), ("status",), ("table",), ("table", "--format", "markdown"), ("table", "--format", "latex")):
        result = bench(*words, "--results", store.root)
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.output
    assert "[red]<b>" in bench("list", "checkpoints", "--results", store.root).output
