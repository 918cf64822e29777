"""Evidence belongs to one run, one certification and one set of weights, and its records say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_store import CERTIFY, N, add, run_spec
from typer.testing import Result

from bench.errors import BenchError
from bench.evidence.binding import FINISHED, SUBJECT, Binding
from bench.evidence.certificate import read_rows
from bench.files.writing import read_json, write_json
from bench.store.runs import Store
from bench.store.subject import Certification
from bench.verify import verify
from leaderboard.aggregate import collect

Call = Callable[..., Result]
COUNTS = (N - 10, N - 20, N - 30, N - 40)


def finished(store: Store, seed: int, counts: tuple[int, ...] = COUNTS) -> Certification:
    certification = add(store, run_spec(seed=seed), counts).certification(CERTIFY)
    certification.seal()
    return certification


def reads(certification: Certification) -> bool:
    """Whether its rows can be read; the reason, if not, must be the records'."""
    try:
        return len(certification.rows()) == len(certification.columns()) == 4
    except BenchError as error:
        assert any(word in str(error) for word in ("certified, but", "it is of certification", "not its rows"))  # noqa: PT017
        return False


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_only_its_own_evidence_is_read(store: Store) -> None:
    one, two = finished(store, 0), finished(store, 1, tuple(count - 1 for count in COUNTS))
    assert reads(one)
    assert reads(two)
    kept = {name: (one.path / name).read_bytes() for name in ("evidence.jsonl", SUBJECT, FINISHED)}
    for names in (("evidence.jsonl",), ("evidence.jsonl", FINISHED), ("evidence.jsonl", SUBJECT), tuple(kept), (SUBJECT,), (FINISHED,)):
        for name in names:
            shutil.copy(two.path / name, one.path / name)
        assert not reads(one), names
        assert one.path in {failure.file.parent for failure in verify(store.root).failures}, names
        (group,) = collect(store)
        assert [seed.state for seed in group.sections[0].rows[0].seeds] == ["damaged", "done"], names
        assert any(str(one.path) in note for note in group.footnotes), names
        for name, content in kept.items():
            (one.path / name).write_bytes(content)
    assert reads(one)


def test_a_kill_before_the_last_record_leaves_evidence_unbound_until_the_next_start(store: Store) -> None:
    certification = finished(store, 0)
    record = (certification.path / FINISHED).read_bytes()
    (certification.path / FINISHED).unlink()
    assert reads(certification)
    assert not certification.binding().ended(certification.path, "0")
    certification.seal()
    assert (certification.path / FINISHED).read_bytes() == record
    with pytest.raises(BenchError, match="not its rows"):
        certification.binding().ended(certification.path, "0")


def test_evidence_of_an_earlier_release_stays_unbound(store: Store) -> None:
    certification = finished(store, 0)
    (certification.path / FINISHED).unlink()
    write_json(certification.path / SUBJECT, {"weights_sha256": certification.binding().weights_sha256})
    before = (certification.path / SUBJECT).read_bytes()
    certification.begin(str(certification.binding().weights_sha256))
    certification.seal()
    assert reads(certification)
    assert (certification.path / SUBJECT).read_bytes() == before
    assert not (certification.path / FINISHED).exists()


def test_a_finished_certification_that_lost_rows_is_damage_and_heals(store: Store) -> None:
    certification = finished(store, 0)
    whole = certification.evidence.read_bytes()
    certification.evidence.write_bytes(whole[: whole.rfind(b"\n", 0, -1) + 1])
    assert any("it says that the certification was finished" in failure.reason for failure in verify(store.root).failures)
    row = read_rows(certification.evidence)[-1]
    end = certification.begin(str(certification.binding().weights_sha256))
    certification.evidence.write_bytes(whole)
    certification.seal()
    assert reads(certification)
    certification.evidence.write_bytes(whole[:end] + whole[end:].replace(b'"0":10', b'"0":10'))
    certification.append(row, 0.0, 0)  # other rows than it ended with
    with pytest.raises(BenchError):
        certification.seal()
    certification.evidence.unlink()  # who wants it anew
    certification.begin(str(certification.binding().weights_sha256))
    assert not (certification.path / FINISHED).exists()


def test_rows_are_never_added_to_those_of_something_else(store: Store) -> None:
    certification = finished(store, 0)
    for change in ({"run_key": "0" * 16}, {"certify_key": "0" * 16}, {"weights_sha256": "1" * 64}):
        write_json(certification.path / SUBJECT, vars(certification.binding()) | change)
        with pytest.raises(BenchError):
            certification.begin(str(certification.binding().weights_sha256))


def test_bench_run_writes_the_records_and_heals_them(tiny: Callable[..., Result], tmp_path: Path) -> None:
    words = ("--method", "gaussian", "--sigma", "0.5")
    assert tiny(*words).exit_code == 0
    (run,) = Store(tmp_path / "runs").runs()
    (certification,) = run.certifications()
    finished = (certification.path / FINISHED).read_bytes()
    assert read_json(certification.path / SUBJECT) == vars(certification.binding())
    assert verify(tmp_path / "runs").finished[0].bound
    (certification.path / FINISHED).unlink()
    assert not verify(tmp_path / "runs").finished[0].bound
    assert tiny(*words).exit_code == 0
    assert (certification.path / FINISHED).read_bytes() == finished


def test_what_is_not_known_is_not_compared() -> None:
    own = Binding(run_key="a", certify_key="b", weights_sha256=None)
    assert own.conflict({"weights_sha256": "x"}) is None
    assert own.conflict({"weights_sha256": "x", "run_key": "b"})
    assert Binding(run_key="a", certify_key="b", weights_sha256="x").conflict({})
