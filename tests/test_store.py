"""Where runs live: atomic writes, keys, torn lines, look-up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_store import CERTIFY, add, certificate, run_spec, weights_of

from bench.errors import BenchError
from bench.files.writing import read_json, sha256, write_atomically, write_json
from bench.store.runs import Store
from bench.store.subject import Damaged


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"half")
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_torn_last_line_is_cut_and_done_again(tmp_path: Path) -> None:
    run = add(Store(tmp_path), run_spec(), counts=[990, 980, 970, 960])
    certification = run.certification(CERTIFY)
    whole = certification.evidence.read_bytes()
    certification.evidence.write_bytes(whole[:-5])
    assert [row.index for row in certification.rows()] == [0, 1, 2]
    certification.begin(weights_of(run.spec))
    assert certification.evidence.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])
    certification.append(certificate(3, 0, 960, CERTIFY.n, n0=CERTIFY.n0), 0.1)
    assert certification.evidence.read_bytes() == whole
    assert certification.status().sound().state == "done"


def test_runs_are_found_by_key_and_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = add(store, run_spec(seed=0), counts=[990]), add(store, run_spec(seed=1), counts=[990])
    assert {run.spec.seed for run in store.runs()} == {0, 1}
    assert store.find(one.spec.key[:8]).path == one.path
    assert store.find(str(two.path)).spec == two.spec
    with pytest.raises(BenchError, match="no run"):
        store.find("zzzz")
    with pytest.raises(BenchError, match="2 runs"):
        store.find("")


def test_a_spec_that_does_not_fit_its_folder_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = add(store, run_spec(), counts=[990])
    text = (run.path / "spec.json").read_text()
    (run.path / "spec.json").write_text(text.replace('"seed":0', '"seed":1'))
    (found,) = store.scan()
    assert isinstance(found, Damaged)
    assert "but the folder is" in found.reason
    assert list(store.runs()) == []


def test_folders_set_aside_are_not_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = add(store, run_spec(), counts=[990])
    (tmp_path / ".replaced").mkdir()
    run.path.rename(tmp_path / ".replaced" / "old-1")
    assert list(store.runs()) == []


def test_names_with_brackets_make_no_strange_folders(tmp_path: Path) -> None:
    run = Store(tmp_path).run(run_spec("smoothmix.eta5", changes={"step_size": 0.5}))
    assert run.path.parent.name == "smoothmix.eta5"
    assert run.path.relative_to(tmp_path).parts[0] == "mnist"


def test_sha256_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
