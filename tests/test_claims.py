"""Claims: exactly one holder, takeover from a dead or silent one, the old holder fenced off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_store import CERTIFY, add, certificate, run_spec

from bench.errors import BenchError
from bench.files import claims
from bench.files.claims import Claimed, Fenced, held, holder
from bench.files.writing import write_json
from bench.matrix import resume
from bench.store.runs import Store
from bench.store.work import hold

DEAD = {"host": "another", "pid": 1, "system": "another", "birth": "1", "token": "x"}


def forge(folder: Path, number: int = 1, age: float = 0.0, **fields: Any) -> Path:
    """A claim of another process, whose last heartbeat is some seconds old."""
    path = folder / f"claim-{number}.json"
    path.write_text(json.dumps(DEAD | fields))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_tells_who_holds_it_and_goes_with_the_block(tmp_path: Path) -> None:
    with held(tmp_path) as claim:
        found = holder(tmp_path)
        assert found
        assert (found.pid, found.dead, found.stale) == (os.getpid(), False, False)
        assert claim.before is None
        with pytest.raises(Claimed, match=f"another process \\(process {os.getpid()} on .*, heartbeat 0 s ago"), held(tmp_path):
            pass
        claim.check()
    assert list(tmp_path.iterdir()) == []
    assert holder(tmp_path) is None
    with pytest.raises(ValueError, match="out"), held(tmp_path):
        raise ValueError("out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fields", [{"system": claims._system(), "pid": 0}, {"system": claims._system(), "pid": -1}])
def test_the_claim_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path, fields: dict[str, Any]) -> None:
    fields = fields | ({"pid": ended_process()} if not fields["pid"] else {"pid": os.getpid()})  # gone, or its number is used again
    forge(tmp_path, **fields)
    with held(tmp_path) as claim:
        assert claim.before
        assert claim.before.dead
        assert [p.name for p in tmp_path.iterdir()] == ["claim-2.json"]
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_another_machine_is_taken_over_when_it_was_not_heard_of(tmp_path: Path) -> None:
    forge(tmp_path, age=claims.STALE_SECONDS - 5)
    with pytest.raises(Claimed, match="process 1 on another, heartbeat 5"), held(tmp_path):
        pass
    forge(tmp_path, age=claims.STALE_SECONDS + 5)
    with held(tmp_path) as claim:
        assert claim.before
        assert not claim.before.dead


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host":1}', '{"host":"a","pid":"x","token":""}'])
def test_a_claim_that_cannot_be_read_counts_by_its_age(tmp_path: Path, text: str) -> None:
    forge(tmp_path).write_text(text)
    with pytest.raises(Claimed), held(tmp_path):
        pass
    os.utime(tmp_path / "claim-1.json", (0, 0))
    with held(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_heartbeats_keep_a_claim_and_carry_the_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_SECONDS", 0.02)
    with held(tmp_path) as claim:
        os.utime(claim.path, (0, 0))
        claim.note("training", 10, 40)
        claim.note("training", 20, 40)
        limit = time.monotonic() + 20
        while ((found := holder(tmp_path)) is None or found.phase != "training" or found.age > 10) and time.monotonic() < limit:
            time.sleep(0.01)
        assert found
        assert (found.phase, found.done, found.total) == ("training", 20, 40)
        assert found.left is not None
        assert claim.path.stat().st_size == claims.WIDTH


@pytest.mark.parametrize("how", ["a higher number", "its file is gone", "its file is another one"])
def test_a_holder_that_was_given_up_writes_nothing_more(tmp_path: Path, how: str) -> None:
    run = add(Store(tmp_path), run_spec(), counts=[990])
    certification = run.certification(CERTIFY)
    before = certification.evidence.read_bytes()
    with run.claimed() as claim:
        certification.append(certificate(1, 2, 980, CERTIFY.n, n0=CERTIFY.n0), 0.1)
        after = certification.evidence.read_bytes()
        assert len(after) > len(before)
        if how == "a higher number":
            forge(run.path, 2)
        else:
            claim.path.unlink()
        if how == "its file is another one":
            forge(run.path, 1)
        theirs = {p.name: p.read_bytes() for p in run.path.glob("claim-*")}
        for write in writes(run.path, lambda: certification.append(certificate(2, 1, 970, CERTIFY.n, n0=CERTIFY.n0), 0.1)):
            with pytest.raises(Fenced, match="taken over by another process"):
                write()
    assert certification.evidence.read_bytes() == after
    assert not (run.path / "x.json").exists()
    assert {p.name: p.read_bytes() for p in run.path.glob("claim-*") if p.name in theirs} == theirs, "another's claim is left alone"
    assert not list(run.path.rglob("*.tmp"))


def test_a_holder_that_was_given_up_leaves_the_checkpoints_of_the_new_one_alone(tmp_path: Path) -> None:
    run = add(Store(tmp_path), run_spec(), counts=None, state=None)
    trainer: Any = SimpleNamespace(state=lambda: {"step": 1})
    with hold(run, CERTIFY) as work:
        resume.save(trainer, work, 1.0)
        forge(run.path, 2)
        run.checkpoint.write_bytes(b"of the new holder")
        with pytest.raises(Fenced, match="taken over by another process"):
            resume.save(trainer, work, 2.0)
    assert run.checkpoint.read_bytes() == b"of the new holder"
    assert not list(run.path.glob("*older*"))


def test_a_beginning_sweeps_what_was_killed_and_no_attempt_of_a_live_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else it finds may vanish before it is removed: a reader's columns.bin gets its name, say."""
    run = add(Store(tmp_path), run_spec(), counts=[990])
    live = claims.identity()
    attempts = {"live": json.dumps(live), "dead": json.dumps(live | {"pid": ended_process()}), "unwritten": "", "old": json.dumps(DEAD)}
    for token, text in attempts.items():
        (run.path / f".claim.{token}.tmp").write_text(text)
    os.utime(run.path / ".claim.old.tmp", (0, 0))
    found = Path.rglob

    def vanishing(folder: Path, pattern: str) -> Iterator[Path]:
        (folder / "certify-x" / ".columns.bin.1.tmp").touch()
        for path in [*found(folder, pattern)]:
            if "columns" in path.name:
                path.unlink()
            yield path

    (run.path / "certify-x").mkdir()
    (run.path / ".spec.json.1.tmp").touch()
    monkeypatch.setattr(Path, "rglob", vanishing)
    with run.claimed():
        run.begin()
    monkeypatch.undo()
    assert [path.name for path in run.path.rglob(".*")] == [".claim.live.tmp"]


def writes(folder: Path, append: Callable[[], Any]) -> list[Callable[[], Any]]:
    return [append, lambda: write_json(folder / "x.json", {}), lambda: write_json(folder / "certify-x" / "x.json", {})]


def test_a_late_row_of_a_fenced_holder_changes_nothing(tmp_path: Path) -> None:
    """Between its check and its write a holder may be stopped; the row then lands where the new holder wrote the same one."""
    run = add(Store(tmp_path), run_spec(), counts=[])
    certification = run.certification(CERTIFY)
    rows = [certificate(index, label, 990, CERTIFY.n, n0=CERTIFY.n0) for index, label in ((0, 7), (1, 2), (2, 1))]
    old = certification.append(rows[0], 0.1, 0)
    new = certification.append(rows[1], 0.1, old)
    certification.append(rows[2], 0.1, new)
    whole = certification.evidence.read_bytes()
    certification.append(rows[1], 0.1, old)
    assert certification.evidence.read_bytes() == whole


def test_a_folder_that_was_deleted_is_not_made_again(tmp_path: Path) -> None:
    import shutil

    run = add(Store(tmp_path), run_spec(), counts=[990])
    with run.claimed():
        shutil.rmtree(tmp_path / "mnist")
        with pytest.raises(BenchError, match="was deleted while it was being computed"):
            write_json(run.path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with held(tmp_path) as claim:
        claim.check()
        found = holder(tmp_path)
        assert found
        assert found.pid == os.getpid()
        with pytest.raises(Claimed), held(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


RACE = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from bench.files.claims import Claimed, held
folder, rounds, contenders, stale = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "stale"
for number in range(rounds):
    place = folder / str(number)
    place.mkdir()
    if stale:
        (place / "claim-1.json").write_text("{}")
        os.utime(place / "claim-1.json", (0, 0))
    start, ready = os.pipe(), []
    for contender in range(contenders):
        if not (pid := os.fork()):
            os.close(start[1])
            os.read(start[0], 1)  # the end of the pipe is the barrier
            try:
                with held(place):
                    os.open(place / f"won-{contender}", os.O_CREAT | os.O_EXCL)
                    while not (place / "over").exists():
                        time.sleep(0.001)
            except Claimed:
                os.open(place / f"lost-{contender}", os.O_CREAT | os.O_EXCL)
            os._exit(0)
        ready.append(pid)
    os.close(start[0]); os.close(start[1])
    while sum(name.startswith(("won", "lost")) for name in os.listdir(place)) < contenders:
        time.sleep(0.001)
    (place / "over").touch()
    for pid in ready:
        assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("kind", ["free", "stale"])
def test_of_many_that_start_at_once_exactly_one_wins(tmp_path: Path, kind: str) -> None:
    """F8: a barrier start, 100 times; free: no claim yet, stale: one to be taken over."""
    subprocess.run([sys.executable, "-c", RACE, str(tmp_path), "100", "4", kind], check=True, timeout=120, cwd=Path(__file__).parent.parent)
    for number in range(100):
        names = sorted(p.name.partition("-")[0] for p in (tmp_path / str(number)).iterdir())
        assert names == ["lost", "lost", "lost", "over", "won"], number


def test_what_a_dead_process_left_beside_finished_results_is_removed(tmp_path: Path) -> None:
    forge(tmp_path)
    claims.forget_dead(tmp_path)
    assert (tmp_path / "claim-1.json").exists(), "of another machine nobody here knows"
    forge(tmp_path, 2, system=claims._system(), pid=ended_process())
    claims.forget_dead(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_made_while_a_dead_one_is_removed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forge(tmp_path, system=claims._system(), pid=ended_process())
    judge = claims.is_dead

    def meanwhile(data: dict[str, Any]) -> bool:
        forge(tmp_path, 2)
        return judge(data)

    monkeypatch.setattr(claims, "is_dead", meanwhile)
    claims.forget_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["claim-2.json"]


@pytest.mark.parametrize("shift", [-3600.0, 3600.0])
def test_ages_do_not_depend_on_the_clock_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, age in ((one, 0.0), (two, claims.STALE_SECONDS + 5)):
        folder.mkdir()
        forge(folder, age=age)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + shift)
    found = [holder(folder) for folder in (one, two)]
    assert [each.stale for each in found if each] == [False, True]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["claim-1.json", "claim-1.json", "one", "two"], "measuring leaves no file"


def test_where_nothing_may_be_written_the_clock_of_this_machine_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**words: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    forge(tmp_path, age=claims.STALE_SECONDS + 5)
    found = holder(tmp_path)
    assert found
    assert found.stale
    assert found.age == pytest.approx(claims.STALE_SECONDS + 5, abs=5)
