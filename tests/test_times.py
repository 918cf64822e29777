"""The file of times beside evidence: written before the row, so that what a kill leaves between the two is no forgery."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_store import CERTIFY, add, certificate, run_spec

from bench.evidence.certificate import Certificate
from bench.store import subject
from bench.store.runs import Store
from bench.store.subject import Certification

COUNTS = (990, 980, 970, 960)
LABELS = (7, 2, 1, 0)


class Killed(BaseException):
    pass


def row(index: int) -> Certificate:
    return certificate(index, LABELS[index], COUNTS[index])


@pytest.fixture
def certification(tmp_path: Path) -> Certification:
    """Three of four images are certified."""
    found = add(Store(tmp_path), run_spec(), counts=()).certification(CERTIFY)
    for index in range(3):
        found.append(row(index), 0.5)
    return found


def failures(certification: Certification) -> list[str]:
    return [fault.reason for fault in certification.read().faults]


def killed(certification: Certification, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the time of an image and its row."""

    def kill(row: Certificate) -> str:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(subject, "to_line", kill)
        with pytest.raises(Killed):
            certification.append(row(index), 0.5)


def times(certification: Certification) -> str:
    return (certification.path / "times.csv").read_text()


def test_a_kill_between_a_time_and_its_row_is_no_failure(certification: Certification, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        killed(certification, 3, monkeypatch)
        assert failures(certification) == []
    certification.append(row(3), 0.5)
    assert failures(certification) == []
    assert times(certification) == "0,0.500000\n1,0.500000\n2,0.500000\n" + 3 * "3,0.500000\n"


def test_a_time_further_on_is_one(certification: Certification, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kill leaves the time of an image behind one that has no row."""
    lines = certification.evidence.read_bytes().splitlines(keepends=True)
    certification.evidence.write_bytes(b"".join(lines[:1]))
    assert failures(certification) == ["no row of images 1, 2, though times.csv says that it was certified"]
    certification.evidence.write_bytes(b"".join(lines[:2]))
    (certification.path / "times.csv").write_text("0,0.5\n1,0.5\n3,0.5\n")
    assert failures(certification) == ["no row of image 3, though times.csv says that it was certified"]


@pytest.mark.parametrize("torn", ["3", "3,", "3,0.4"])
def test_the_next_time_does_not_go_on_in_a_torn_line(certification: Certification, torn: str) -> None:
    """A full disk may keep the beginning of a line."""
    before = times(certification)
    (certification.path / "times.csv").write_text(before + torn)
    assert failures(certification) == []
    certification.append(row(3), 0.5)
    assert times(certification) == f"{before}{torn}\n3,0.500000\n"
    assert failures(certification) == []
