"""What a listing says, however it was kept, and where every cell stands."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_store import CERTIFY, N, add, run_spec, write_evidence
from test_claims import ended_process, forge
from test_contract import GOOD
from typer.testing import CliRunner, Result

from bench.checkpoints import check
from bench.cli import app
from bench.evidence import cache
from bench.files import claims
from bench.files.writing import write_json
from bench.matrix import report, slurm_queue
from bench.matrix.report import Planned, announced, handed_over, matrices, withdraw
from bench.matrix.status import standings
from bench.spec import CertifySpec
from bench.store import listing
from bench.store.listing import Listing, command, names
from bench.store.runs import Run, Store
from bench.store.subject import Certification, Damaged
from leaderboard import layouts

Call = Callable[..., Result]


def by_seed(store: Store) -> dict[int, dict[str, Any]]:
    return {row["seed"]: row for row in standings(store)}


def planned(store: Store, seed: int, *plugins: str) -> Planned:
    spec = run_spec(seed=seed)
    folder = store.run(spec).path.relative_to(store.root).as_posix()
    return Planned(folder=folder, certification=CERTIFY.key, names=names(spec), words=command(spec, CERTIFY), plugins=plugins, seconds=5.0)


def test_every_state_is_told_from_the_others(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    add(store, run_spec(seed=0))
    for seed in range(1, 10):
        state = "diverged" if seed == 3 else None if seed == 4 else "trained"
        add(store, run_spec(seed=seed), counts=None if seed == 4 else [N, N], state=state)
    store.run(run_spec(seed=1)).fail("error", "RuntimeError: no", "trace", "line 1\nline 2")
    store.run(run_spec(seed=2)).fail("oom", "no memory")
    forge(store.run(run_spec(seed=5)).path, phase="training", done=30, total=60, left=12.5)
    forge(store.run(run_spec(seed=6)).path, age=claims.STALE_SECONDS + 9)
    forge(store.run(run_spec(seed=7)).path, system=claims._system(), pid=ended_process())
    (store.run(run_spec(seed=8)).path / "training.json").write_text("{")
    forge(store.run(run_spec(seed=2)).path, age=0)  # it is being tried again
    with announced(store.root, [planned(store, 9), planned(store, 10)], []):
        found = by_seed(store)
    assert {seed: row["state"] for seed, row in found.items()} == {
        0: "done",
        1: "failed",
        2: "running",
        3: "diverged",
        4: "interrupted",
        5: "running",
        6: "stale",
        7: "interrupted",
        8: "damaged",
        9: "queued",
        10: "queued",
    }
    assert (found[1]["reason"], found[1]["log"]) == ("RuntimeError: no", "line 1\nline 2")
    assert (found[5]["phase"], found[5]["done"], found[5]["total"], found[5]["left"]) == ("training", 30, 60, 12.5)
    assert "last heard of 69 s ago" in found[6]["reason"]
    assert "is gone" in found[7]["reason"]
    assert found[3]["retry"].endswith("--rerun diverged")
    (store.run(run_spec(seed=2)).path / "claim-1.json").unlink()
    assert by_seed(store)[2]["state"] == "oom"


def test_a_clock_that_is_ahead_makes_nobody_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the present is asked for once or twice, however many cells there are."""
    store = Store(tmp_path)
    for seed in range(6):
        forge(add(store, run_spec(seed=seed), counts=[N]).path, phase="certifying", done=1, total=4)
    clock, present, asked = time.time, claims.present, list[Path]()

    def ask(folder: Path) -> float:
        asked.append(folder)
        return present(folder)

    monkeypatch.setattr(time, "time", lambda: clock() + 2 * claims.STALE_SECONDS)
    monkeypatch.setattr(claims, "present", ask)
    with announced(store.root, [planned(store, 9)], []):
        assert [row["state"] for row in standings(store)] == ["running"] * 6 + ["queued"]
    assert len(asked) <= 3  # one of them by `announced`


def test_cells_of_a_process_that_ended_are_not_queued(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with announced(store.root, [planned(store, 1, "/plug ins/gaussian.py")], []) as path:
        pass
    data = json.loads(path.read_text())
    write_json(path, data | {"pid": ended_process()})
    (row,) = standings(store)
    assert (row["state"], row["reason"]) == ("interrupted", "not begun; its `bench run` ended")
    assert row["retry"].endswith(f"--plugin '/plug ins/gaussian.py' --results {tmp_path}")
    with announced(store.root, [planned(store, 1)], []):
        assert len(matrices(store.root)) == 1, "who takes all of its cells in hand replaces it"
        assert standings(store)[0]["state"] == "queued"
        with announced(store.root, [planned(store, 2)], []) as other:
            assert len(matrices(store.root)) == 2
        withdraw(other)
    (tmp_path / report.FOLDER / "x.json").write_text("{")
    (tmp_path / report.FOLDER / "y.json").write_text('{"cells":[{}]}')
    assert len(matrices(store.root)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"words": "--method x; rm -rf ~"},
        {"words": "--method $(reboot)"},
        {"words": "--method 'x"},
        {"words": ["--method", "x"]},
        {"folder": "../../elsewhere"},
        {"folder": "/etc"},
        {"names": "x"},
        {"plugins": [1]},
        {"more": 1},
    ],
)
def test_a_forged_announcement_puts_no_line_into_anybodys_shell(tmp_path: Path, fields: dict[str, Any]) -> None:
    store = Store(tmp_path)
    with announced(store.root, [planned(store, 1)], []) as path:
        data = json.loads(path.read_text())
        assert len(standings(store)) == 1
        write_json(path, data | {"cells": [data["cells"][0] | fields]})
        assert standings(store) == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "smoothmix.eta1", "sets": {"step_size": "0.5", "train.epochs": "2", "certify.n": "300"}},
        {"method": "smoothmix.eta1[steps=1]", "sets": {"train.images": "first:64", "certify.images": "10-20"}},
        {"sets": {"certify.rule": "rungs", "certify.radii": "0,0.25,0.5", "train.epochs": "2"}},
        {"method": "macer", "sets": {"train.weight_decay": "1e-07", "train.nesterov": "true"}, "recipe": "paper", "sigma": "1.0"},
    ],
)
def test_the_line_that_retries_a_cell_names_that_cell(bench: Call, tmp_path: Path, changes: dict[str, Any]) -> None:
    from bench.matrix.plan import Request, make_plan
    from bench.registry import Registry

    request = Request(
        methods=(changes.get("method", "gaussian"),),
        sigmas=(float(changes.get("sigma", "0.25")),),
        seeds=(3,),
        protocol="smoke",
        recipe=changes.get("recipe", "official"),
        changes=changes.get("sets", {}),
    )
    (cell,) = make_plan(request, Registry()).cells
    words = shlex.split(command(cell.spec, cell.certify))
    (found,) = json.loads(bench("run", *words, "--results", tmp_path, "--dry-run", "--json").stdout)["cells"]
    assert (found["key"], found["certification"]) == cell.id


@pytest.mark.parametrize(
    "words",
    [
        ["--images", "every:20", "--n", "300", "--n0", "20"],
        ["--images", "0-5", "--n", "300", "--seed", "4", "--rule", "curtailed", "--alpha", "0.01", "--skip-misclassified"],
        ["--images", "0-5", "--n", "300", "--rule", "rungs", "--radii", "0,0.25"],
    ],
)
def test_the_line_that_continues_a_certification_names_that_certification(
    bench: Call, tiny: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Also beside finished ones, and where `bench run` announced another."""
    monkeypatch.setattr(check, "IMAGES", 20)
    store = Store(tmp_path / "runs")
    assert tiny("--method", "gaussian", "--sigma", "0.25").exit_code == 0
    (run,) = store.runs()
    (own,) = run.certifications()
    cell = Planned(
        folder=run.path.relative_to(store.root).as_posix(),
        certification=own.spec.key,
        names=names(run.spec),
        words=command(run.spec, own.spec),
        plugins=(),
        seconds=None,
    )
    for images in ("first:1", "first:2"):
        assert bench("certify", run.path, "--images", images, "--n", "100", "--results", store.root).exit_code == 0
    training = run.training()
    assert training

    asked: list[CertifySpec] = []

    class Stopped(Exception):
        pass

    def stop(self: Certification, weights_sha256: str) -> int:
        asked.append(self.spec)
        raise Stopped

    begin = Certification.begin
    monkeypatch.setattr(Certification, "begin", stop)
    assert isinstance(bench("certify", run.spec.key, *words, "--results", store.root).exception, Stopped)
    (spec,) = asked
    begin(run.certification(spec), training["weights_sha256"])

    with announced(store.root, [cell], []) as path:
        pass
    write_json(path, json.loads(path.read_text()) | {"pid": ended_process()})
    (row,) = standings(store)
    assert row["state"] == "interrupted"
    assert row["retry"].startswith(f"bench certify {run.spec.key} --images ")
    assert isinstance(bench(*shlex.split(row["retry"])[1:]).exception, Stopped)
    assert asked == [spec, spec]


def test_a_certification_that_no_line_asks_for_gets_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, run_spec(seed=1), counts=[N], certify=dataclasses.replace(CERTIFY, sampling="grid"))
    add(store, run_spec(seed=2), counts=[N], certify=dataclasses.replace(CERTIFY, changes={"of_another_release": 1}))
    assert [row["retry"] for row in standings(store)] == [None, None]


def test_status_from_any_shell(bench: Call, tiny: Call, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD.replace("        logits", "        raise RuntimeError('out of cheese')\n        logits"))
    assert tiny("--plugin", path, "--method", "mine,gaussian", "--sigma", "0.25").exit_code == 1
    runs = tmp_path / "runs"
    result = bench("status", "--results", runs)
    assert result.exit_code == 0
    assert "2 runs, 1 done, 1 failed" in result.output
    assert "RuntimeError: out of cheese (mine.py, line" in result.output
    (row,) = [row for row in json.loads(bench("status", "--results", runs, "--json").stdout) if row["state"] == "failed"]
    assert f"  {row['retry']}" in result.output
    assert "tiny" not in row["retry"]
    path.write_text(GOOD)
    assert row["retry"].startswith("bench run ")
    again = bench(*shlex.split(row["retry"])[1:])
    assert again.exit_code == 0, again.output
    assert "1 done of 1 cell\n" in again.output
    assert "2 runs, 2 done" in bench("status", "--results", runs).output
    assert bench("status", "--results", runs, "--watch", "--json").exit_code == 2


def test_a_running_cell_tells_epoch_and_image(bench: Call, tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = (add(store, run_spec(seed=seed, train={"epochs": 3}), counts=[N]) for seed in (1, 2))
    forge(one.path, phase="training", done=45, total=90, left=30.0)
    forge(two.path, phase="certifying", done=1, total=4, left=None)
    output = bench("status", "--results", tmp_path).output
    assert "training, epoch 2 of 3 (step 45 of 90), about 30 s left of it; process 1 on another" in output
    assert "certifying, image 1 of 4; process 1 on another" in output
    assert "2 running" in output


# ------------------------------------------------------------------------------------------------------------------ index


@pytest.fixture
def indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Five runs, long settled, and an index of them."""
    monkeypatch.setattr(listing, "INDEXED_RUNS", 2)
    monkeypatch.setattr(listing, "SETTLED_SECONDS", 0.0)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    store = Store(tmp_path / "runs")
    for seed in range(5):
        add(store, run_spec(seed=seed), counts=[N, N, N][: 1 + seed % 3])
    time.sleep(0.02)
    Listing(store).rows()
    assert index()
    assert not [path.name for path in store.root.iterdir() if path.name != "mnist"], "nothing is kept beside results"
    return store


def index() -> Path | None:
    """The file that keeps the index, if there is one."""
    folder = cache.folder()
    assert folder
    found = list(folder.iterdir())
    assert len(found) < 2
    return found[0] if found else None


def kept(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cache.get(Listing(store)._key) or b"{}")
    return found


def read_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], int]:
    """The rows, and how many runs were not taken from the index."""
    fresh, read, count = Listing(store), listing._read, 0

    def counted(run: Run | Damaged) -> dict[str, Any]:
        nonlocal count
        count += 1
        return read(run)

    with monkeypatch.context() as patch:
        patch.setattr(listing, "_read", counted)
        rows = [fresh.row(folder) for folder in folders(store)]
    return rows, count


def folders(store: Store) -> list[Path]:
    return [place.path for place in store.walk().of("run") if place.begun]


def without_index(store: Store) -> list[dict[str, Any]]:
    fresh = Listing(store)
    fresh._old = {}
    return [fresh.row(folder) for folder in folders(store)]


CHANGES: dict[str, Callable[[Path], object]] = {
    "a row more": lambda path: write_evidence(next(certification(path)), (N, N, N, N)),
    "a failure": lambda path: write_json(path / "failure.json", {"reason": "no"}),
    "training.json in place": lambda path: (path / "training.json").write_text("{"),
    "a byte of the spec": lambda path: (path / "spec.json").write_text((path / "spec.json").read_text().replace('"seed":0', '"seed":9')),
    "a byte of evidence and its time": lambda path: flip(next(path.glob("*/evidence.jsonl"))),
    "a certification less": lambda path: next(path.glob("certify-*")).rename(path / "x"),
    "evidence less": lambda path: next(path.glob("*/evidence.jsonl")).unlink(),
}


def certification(path: Path) -> Any:
    return Store(path.parents[2]).runs().__next__().certifications()


def flip(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b'"label":7', b'"label":1'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_that_changed_is_read_anew(indexed: Store, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    rows, count = read_anew(indexed, monkeypatch)
    assert count == 0
    folder = sorted(folders(indexed), key=lambda path: "seed0" not in path.name)[0]
    time.sleep(0.02)
    CHANGES[change](folder)
    changed, count = read_anew(indexed, monkeypatch)
    assert count == 1
    assert changed != rows
    assert changed == without_index(indexed)


@pytest.mark.parametrize("shift", [-86_400.0, 86_400.0])
def test_what_is_settled_does_not_depend_on_the_clock_of_this_machine(
    indexed: Store, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    """The times of files are those of their file system: a clock that is ahead must not keep what may still change."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + shift)
    monkeypatch.setattr(listing, "SETTLED_SECONDS", 3600.0)
    path = index()
    assert path
    path.unlink()
    Listing(indexed).rows()
    assert not index()
    monkeypatch.setattr(listing, "SETTLED_SECONDS", 0.0)
    Listing(indexed).rows()
    assert index()


@pytest.mark.parametrize("text", ["runs", "row", b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_index_changes_nothing(indexed: Store, text: bytes | str) -> None:
    """Whatever its text, and also where the format is right and the runs, or one of them, are not what they should be."""
    rows = without_index(indexed)
    path, key = index(), Listing(indexed)._key
    assert path
    if isinstance(text, str):
        wrong: Any = [] if text == "runs" else {name: [entry[0], None] for name, entry in kept(indexed).items()}
        cache.put(key, json.dumps(wrong).encode())
    else:
        cache.put(key, text)
        assert Listing(indexed).rows() == rows
        path.write_bytes(text)
    assert Listing(indexed).rows() == rows
    assert Listing(indexed).rows() == rows


def test_an_index_of_other_folders_is_not_believed(
    indexed: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "runs"
    shutil.copytree(indexed.root, copy)
    rows, count = read_anew(Store(copy), monkeypatch)
    assert count == 5, "times of a copy are others"
    assert [row["key"] for row in rows] == [row["key"] for row in without_index(indexed)]


def test_an_index_forgets_the_runs_that_are_gone_and_is_written_no_more_often_than_it_changes(indexed: Store) -> None:
    def runs() -> tuple[int, int]:
        path = index()
        assert path
        return len(kept(indexed)), path.stat().st_ino  # each write makes another file

    _, first = runs()
    Listing(indexed).rows()
    assert runs() == (5, first)
    gone, *there = folders(indexed)
    shutil.rmtree(gone)
    part = Listing(indexed)
    for folder in there[:3]:
        part.row(folder)
    part.save()
    assert runs() == (5, first), "who looks at some runs only neither forgets nor writes the others"
    Listing(indexed).rows()
    _, second = runs()
    assert runs() == (4, second)
    assert second != first
    Listing(indexed).rows()
    assert runs() == (4, second)
    write_json(there[0] / "failure.json", {"reason": "no"})
    time.sleep(0.02)
    part = Listing(indexed)
    for folder in there[:3]:
        part.row(folder)
    part.save()
    count, third = runs()
    assert count == 4
    assert third != second
    assert [row["key"] for row in Listing(indexed).rows()] == [row["key"] for row in without_index(indexed)]


@pytest.mark.parametrize("least", [1, 2])
def test_neither_what_was_changed_a_moment_ago_nor_a_small_folder_is_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    monkeypatch.setattr(listing, "INDEXED_RUNS", least)
    monkeypatch.setattr(listing, "SETTLED_SECONDS", 0.0 if least == 2 else listing.SETTLED_SECONDS)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
    store = Store(tmp_path / "runs")
    add(store, run_spec())
    time.sleep(0.02)
    assert len(Listing(store).rows()) == 1
    assert not index()
    assert sorted(p.name for p in store.root.iterdir()) == ["mnist"]


def test_claims_do_not_spoil_the_index(indexed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(folders(indexed)[0])
    assert read_anew(indexed, monkeypatch)[1] == 0


# ------------------------------------------------------------------------------------------------------------- cells with jobs


def says(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A squeue of our own, first on the path."""
    folder.mkdir(exist_ok=True)
    place = folder / "squeue"
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_what_slurm_says_of_a_job_decides_what_its_cell_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "runs")
    add(store, run_spec(seed=0))
    for seed in (2, 3):
        add(store, run_spec(seed=seed), counts=[N, N])
    store.run(run_spec(seed=2)).fail("oom", "no memory")
    forge(store.run(run_spec(seed=3)).path, phase="training", done=30, total=60, left=12.5)
    cells = [dataclasses.replace(planned(store, seed), job=f"12_{seed}") for seed in range(6)]
    handed_over(store.root, cells, [])

    says(tmp_path / "bin", 'case "$*" in *"--jobs=12"*) printf "12_4\\n13_5\\n";; esac', monkeypatch)
    states = {0: "done", 1: "interrupted", 2: "oom", 3: "running", 4: "queued", 5: "interrupted"}
    found = by_seed(store)
    assert {seed: row["state"] for seed, row in found.items()} == states
    assert found[1]["reason"] == "not begun; its job 12_1 ended"
    assert found[4]["job"] == "12_4"

    says(tmp_path / "bin", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", monkeypatch)
    assert by_seed(store)[4]["state"] == "interrupted", "Slurm has forgotten it"

    for script in ("echo 'Unable to contact slurm controller' >&2; exit 1", "exec sleep 60"):
        monkeypatch.setattr(slurm_queue, "SECONDS", 0.3)
        says(tmp_path / "bin", script, monkeypatch)
        found = by_seed(store)
        assert found[4]["state"] == found[1]["state"] == "queued"
        assert found[4]["reason"] == "its job 12_4 was submitted; Slurm cannot be asked here"
        assert found[2]["state"] == "oom"


def test_an_announcement_of_jobs_goes_when_they_ended_and_its_cells_are_in_hand_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "runs")
    store.root.mkdir()
    cells = [planned(store, seed) for seed in range(2)]
    handed_over(store.root, [dataclasses.replace(cell, job="7") for cell in cells], [])
    for script, left in (("echo 7", 1), ("exit 9", 1), ("true", 0)):
        says(tmp_path / "bin", script, monkeypatch)
        with announced(store.root, cells, []) as mine:
            assert len(matrices(store.root)) == 1 + left
        mine.unlink()


def test_a_shell_line_for_every_cell(tiny: Call, tmp_path: Path) -> None:
    """What `--emit commands` prints computes the matrix, whoever runs the lines."""
    plugin = tmp_path / "my folder" / "mine.py"
    plugin.parent.mkdir()
    plugin.write_text(GOOD)
    words = ("--method", "gaussian,mine", "--plugin", plugin, "--sigma", "0.25")
    result = tiny(*words, "--emit", "commands")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert not (tmp_path / "runs").exists()
    assert f"--results {tmp_path / 'runs'}" in lines[0]
    for line in lines:
        name, *rest = shlex.split(line)
        assert name == "bench"
        assert CliRunner().invoke(app, rest).exit_code == 0
    again = tiny(*words, "--emit", "commands")
    assert again.exit_code == 0
    assert again.stdout == ""
    whole = tiny(*words, "--emit", "commands", "--rerun", "all")
    assert [line.endswith(" --rerun all") for line in whole.stdout.splitlines()] == [True, True]
    assert tiny(*words, "--emit", "command").exit_code == 2


def test_shell_lines_keep_what_was_asked_for(tiny: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also several plug-ins, in a folder whose name has a comma."""
    folder = tmp_path / "one, two"
    folder.mkdir()
    (folder / "mine.py").write_text(GOOD)
    (folder / "other.py").write_text(GOOD)
    monkeypatch.chdir(folder)
    flags = ("--batch", "7", "--allow-changed-source", "--timeout", "1234567.5")
    result = tiny("--plugin", "mine.py,other.py", "--sigma", "0.25", *flags, "--emit", "commands")
    assert result.exit_code == 0, result.output
    lines = [shlex.split(line) for line in result.stdout.splitlines()]
    assert [line[line.index("--plugin") + 1] for line in lines] == [str(folder / "mine.py"), str(folder / "other.py")]
    for line in lines:
        assert all(f" {words} " in f" {shlex.join(line)} " for words in ("--batch 7", "--allow-changed-source", "--timeout 1234567.5"))
        found = CliRunner().invoke(app, [*line[1:], "--dry-run"])
        assert found.exit_code == 0, found.output
    assert report.line("run x", ["/a b/c.py", "/d,e/f.py"], tmp_path).startswith("bench run x --plugin '/a b/c.py' --plugin /d,e/f.py ")


def test_lines_or_a_plan(tiny: Call) -> None:
    result = tiny("--method", "gaussian", "--emit", "commands", "--dry-run")
    assert result.exit_code == 2
    assert "--dry-run prints the plan and --emit commands the lines" in result.output
    for flags in (("--json",), ("--jobs", "2")):
        result = tiny("--method", "gaussian", "--emit", "commands", *flags)
        assert (result.exit_code, f"leave out {' '.join(flags)}" in result.output) == (2, True), result.output
    result = tiny("--method", "gaussian", "--slots-per-gpu", "2")
    assert (result.exit_code, "add --jobs or --executor" in result.output) == (2, True), result.output


def test_a_plug_in_joins_the_rows_of_a_table(bench: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    words = ("--table", "5", "--plugin", tmp_path / "mine.py", "--protocol", "smoke", "--dry-run", "--json", "--results", tmp_path / "runs")
    result = bench("run", *words)
    assert result.exit_code == 0, result.output
    rows = {cell["row"] for cell in json.loads(result.stdout)["cells"]}
    assert rows == {*layouts.load(5).rows, "mine"}
