"""Rows of one certification taken over by another of the same run: equal bytes, nothing believed that a reader would refuse."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY
from typer.testing import CliRunner, Result

from bench.certify import Sampler
from bench.cli import app
from bench.errors import BenchError, Interrupted
from bench.files.writing import sha256, write_json
from bench.matrix.cells import certify
from bench.matrix.resume import load_weights
from bench.matrix.task import Options
from bench.spec import CertifySpec
from bench.store.runs import Run, Store
from bench.store.subject import Certification
from bench.system.signals import StopSignals

CPU = torch.device("cpu")
FEW = CertifySpec(n0=5, n=30, images="first:3 of every:2")
MANY = dataclasses.replace(FEW, images="0-6")
INSIDE = [0, 2, 4]
RECORDS = ("evidence.jsonl", "subject.json", "finished.json", "spec.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    assert CliRunner().invoke(app, ["run", *TINY, "--method", "gaussian", "--sigma", "0.5", "--results", str(root)]).exit_code == 0
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "runs")
    return next(Store(tmp_path / "runs").runs())


class Heard:
    """A report that is kept."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def progress(self, phase: str, done: int, total: int, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        self.told.append(text)


class Stops(StopSignals):
    """A signal that comes when so many times nobody had sent one."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def check(self) -> None:
        self.rows -= 1
        if self.rows < 0:
            raise Interrupted(2)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The images that are counted, as they are."""
    real, seen = Sampler.certify, list[int]()

    def noted(self: Sampler, x: torch.Tensor, index: int, *rest: object, **more: object) -> object:
        seen.append(index)
        return real(self, x, index, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Sampler, "certify", noted)
    return seen


def certified(run: Run, spec: CertifySpec, stop: StopSignals | None = None) -> tuple[Certification, list[str]]:
    report, found = Heard(), run.certification(spec)
    certify(found, load_weights(run, sha256(run.weights), CPU), {}, Options(device=CPU), report, stop or StopSignals())
    return found, report.told


def records(certification: Certification) -> dict[str, bytes]:
    return {name: (certification.path / name).read_bytes() for name in RECORDS}


@pytest.fixture(scope="module")
def alone(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The superset, certified where there is nothing to take over."""
    folder = tmp_path_factory.mktemp("alone") / "runs"
    shutil.copytree(trained, folder)
    return records(certified(next(Store(folder).runs()), MANY)[0])


def test_a_superset_takes_over_what_is_there_and_is_byte_equal(run: Run, alone: dict[str, bytes], counted: list[int]) -> None:
    source, _ = certified(run, FEW)
    before = {path: path.read_bytes() for path in source.path.iterdir()}
    counted.clear()
    found, told = certified(run, MANY)
    assert counted == [index for index in range(7) if index not in INSIDE]
    assert told == [f"3 of 7 images taken over from {source.path.name}"]
    assert {path: path.read_bytes() for path in source.path.iterdir()} == before
    assert found.status().sound().state == "done"
    times = [(path / "times.csv").read_text().splitlines() for path in (source.path, found.path)]
    assert set(times[0]) <= set(times[1])
    assert records(found) == alone


@pytest.mark.parametrize("rows", range(0, 11, 2))
def test_a_kill_anywhere_loses_nothing(run: Run, alone: dict[str, bytes], rows: int) -> None:
    certified(run, FEW)
    with pytest.raises(Interrupted):
        certified(run, MANY, Stops(rows))
    evidence = run.certification(MANY).evidence
    if evidence.exists():  # and a torn line
        evidence.write_bytes(evidence.read_bytes()[:-7])
    found, _ = certified(run, MANY)
    assert records(found) == alone


def test_rows_of_an_unfinished_one_are_taken(run: Run, alone: dict[str, bytes]) -> None:
    with pytest.raises(Interrupted):
        certified(run, FEW, Stops(3))
    found, told = certified(run, MANY)
    assert [line.split(" from ")[0] for line in told] == ["1 of 7 images taken over"]
    assert records(found) == alone


def test_the_same_images_in_other_words_and_fewer_are_taken(run: Run, counted: list[int]) -> None:
    source, _ = certified(run, MANY)
    elsewhere = (source.environment() or {}) | {"device": "another"}
    write_json(source.path / "environment.json", elsewhere)
    counted.clear()
    for images, number in (("first:7", 7), ("2-4", 3)):
        found, told = certified(run, dataclasses.replace(FEW, images=images, changes={"images": images}))
        assert counted == []
        assert [line.split(" from ")[0] for line in told] == [f"{number} of {number} images taken over"]
        assert found.status().sound().state == "done"
        assert found.environment() == elsewhere, "this machine counted no row"


@pytest.mark.parametrize("change", [{"n": 31}, {"n0": 6}, {"seed": 1}, {"rule": "curtailed"}, {"sampling": "grid"}])
def test_what_is_sampled_otherwise_is_not_taken(run: Run, change: dict[str, object]) -> None:
    certified(run, dataclasses.replace(FEW, **change))  # type: ignore[arg-type]
    assert certified(run, MANY)[1] == []


def break_a_check_sum(source: Certification) -> None:
    text = source.evidence.read_text()
    source.evidence.write_text(text.replace('"~crc":"', '"~crc":"0', 1))


def drop_a_row(source: Certification) -> None:
    lines = source.evidence.read_bytes().splitlines(keepends=True)
    source.evidence.write_bytes(b"".join(lines[:1] + lines[2:]))


def other_weights(source: Certification) -> None:
    path = source.path / "subject.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": "0" * 64}))


def no_record(source: Certification) -> None:
    (source.path / "subject.json").unlink()


def lose_the_last_row(source: Certification) -> None:
    lines = source.evidence.read_bytes().splitlines(keepends=True)
    source.evidence.write_bytes(b"".join(lines[:2]))


@pytest.mark.parametrize("harm", [break_a_check_sum, drop_a_row, other_weights, no_record, lose_the_last_row])
def test_a_damaged_source_is_named_and_not_taken(
    run: Run, alone: dict[str, bytes], harm: Callable[[Certification], None], counted: list[int]
) -> None:
    source, _ = certified(run, FEW)
    harm(source)
    with pytest.raises(BenchError):
        source.status().sound()
    counted.clear()
    found, told = certified(run, MANY)
    assert counted == list(range(7))
    assert len(told) == 1
    assert source.path.name in told[0]
    assert "damaged" in told[0]
    assert records(found) == alone


def test_rows_of_other_test_images_are_not_taken_and_other_machines_are_recorded(run: Run) -> None:
    source, _ = certified(run, FEW)
    path = source.path / "environment.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"threads": 77}))
    found, told = certified(run, MANY)
    assert len(told) == 1
    assert [entry["threads"] for entry in (found.environment() or {})["history"]] == [77]
    path.write_text(json.dumps(known | {"data_md5": {"t10k-images-idx3-ubyte.gz": "0" * 32}, "data_differs": ["other images"]}))
    shutil.rmtree(found.path)
    found, told = certified(run, MANY)
    assert told == []
    assert "history" not in (found.environment() or {})


def test_the_commands_take_over(run: Run, bench: Callable[..., Result]) -> None:
    root, common = run.path.parents[2], ["--n", "30", "--n0", "5"]
    assert bench("certify", run.spec.key, "--images", "every:5000", *common, "--results", root).exit_code == 0
    result = bench("certify", run.spec.key, "--images", "every:2500", *common, "--results", root)
    assert "2 of 4 images taken over from certify-" in " ".join(result.output.split())
    words = [word.replace("first:3", "first:5") for word in TINY]
    result = bench("run", *words, "--method", "gaussian", "--sigma", "0.5", "--results", root)
    assert result.exit_code == 0, result.output
    assert "3 of 5 images taken over from certify-" in " ".join(result.output.split())
    assert bench("verify", root).exit_code == 0
