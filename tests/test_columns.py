"""Certificates as arrays, and their cache: it never says anything but what the log says."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from fake_store import CERTIFY, N, add, certificate, new_store, run_spec, write_evidence

from bench import store as storing
from bench.bounds import certified_radii, certified_radius, lower_confidence_bound, lower_confidence_bounds
from bench.columns import FORMAT, Columns, pack, unpack
from bench.errors import BenchError
from bench.records import to_line
from bench.store import Certification
from leaderboard.aggregate import collect

ROWS = [certificate(5, 3, 900), certificate(2, 1, N, selected=4), certificate(9, 0, 0)]
LOG = "".join(map(to_line, ROWS)).encode()
FIELDS = tuple(Columns.__dataclass_fields__)


def same(a: Columns, b: Columns) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.fixture
def certification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certification:
    monkeypatch.setattr(storing, "CACHED_ROWS", 1)
    return add(new_store(tmp_path), run_spec()).certification(CERTIFY)


def test_columns_are_those_of_the_rows_in_their_order() -> None:
    columns = Columns.of(ROWS)
    assert columns.index.tolist() == [5, 2, 9]
    assert columns.label.tolist() == [3, 1, 0]
    assert columns.selected.tolist() == [3, 4, 0]
    assert columns.majority.tolist() == [3, 4, 1]
    assert columns.count.tolist() == [900, N, 0]
    assert columns.highest.tolist() == [4, 4, 1]
    assert (columns.n0.tolist(), columns.n.tolist()) == ([10] * 3, [N] * 3)
    assert len(Columns.of([])) == 0


def test_a_tie_of_the_majority_goes_to_the_lowest_class() -> None:
    assert Columns.of([certificate(0, 3, 500)]).majority.tolist() == [3]
    assert Columns.of([certificate(0, 9, 500)]).majority.tolist() == [0]


def test_packed_columns_come_back() -> None:
    for rows, log in ((ROWS, LOG), ([], b"")):
        found = unpack(pack(Columns.of(rows), log), log)
        assert found is not None
        assert same(found, Columns.of(rows))


def test_packed_columns_of_another_log_or_with_any_flipped_bit_are_not_taken() -> None:
    packed = pack(Columns.of(ROWS), LOG)
    assert unpack(packed, LOG[:-1]) is None
    assert unpack(packed, LOG.replace(b"900", b"901")) is None
    for place in range(len(packed)):
        for bit in range(8):
            damaged = bytearray(packed)
            damaged[place] ^= 1 << bit
            assert unpack(bytes(damaged), LOG) is None
    for size in range(len(packed)):
        assert unpack(packed[:size], LOG) is None


def test_the_cache_follows_the_log(certification: Certification) -> None:
    cache = certification.path / "columns.bin"
    assert not cache.exists()
    first = certification.columns()
    assert cache.exists()
    assert same(certification.columns(), first)
    write_evidence(certification, (N, 500, 700, 800))
    assert certification.columns().count.tolist() == [N, 500, 700, 800]
    cache.write_bytes(b"nonsense")
    assert certification.columns().count.tolist() == [N, 500, 700, 800]
    assert cache.read_bytes() == pack(certification.columns(), certification.evidence.read_bytes())


def test_a_damaged_log_is_refused_whatever_the_cache_says(certification: Certification) -> None:
    certification.columns()
    content = certification.evidence.read_bytes()
    certification.evidence.write_bytes(content.replace(b"1000", b"1001", 1))
    with pytest.raises(BenchError, match=r"evidence\.jsonl, line 1: the check sum"):
        certification.columns()


def test_a_cache_is_checked_against_the_spec_as_the_log_is(certification: Certification) -> None:
    rows = [certificate(0, 7, N), certificate(1, 3, N)]
    log = "".join(map(to_line, rows)).encode()
    certification.evidence.write_bytes(log)
    (certification.path / "columns.bin").write_bytes(pack(Columns.of(rows), log))
    with pytest.raises(BenchError, match=r"line 2: image 1 has label 3, but label 2 in mnist"):
        certification.columns()


@pytest.mark.parametrize(("field", "value"), [("count", N + 1), ("count", -1), ("label", 9), ("index", 7), ("n", 5), ("highest", 10)])
def test_a_forged_cache_that_the_spec_does_not_allow_gives_way_to_the_log(certification: Certification, field: str, value: int) -> None:
    columns, log = certification.columns(), certification.evidence.read_bytes()
    forged = dataclasses.replace(columns, **{field: np.full(4, value)})
    (certification.path / "columns.bin").write_bytes(pack(forged, log))
    assert same(certification.columns(), columns)
    assert (certification.path / "columns.bin").read_bytes() == pack(columns, log)


def test_a_cache_of_another_shape_is_not_taken() -> None:
    payload = b"\0" * (8 * len(FIELDS) + 8)
    digest = hashlib.sha256(LOG).hexdigest().encode()
    assert unpack(b"%s %s %08x\n%s" % (FORMAT, digest, zlib.crc32(payload), payload), LOG) is None


def test_a_folder_that_cannot_be_written_is_read_all_the_same(certification: Certification, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(storing, "write_atomically", refuse)
    assert certification.columns().count.tolist() == [N] * 4


def test_few_rows_are_not_cached(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    run = add(store, run_spec())
    assert collect(store)
    assert not list(run.path.rglob("columns.bin"))


def test_many_bounds_and_radii_equal_single_ones_in_every_bit() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 100, 1000, 100_000, 20_000_000):
        counts = np.unique(np.concatenate([[0, 1, n // 2, n - 1, n], rng.integers(0, n + 1, 300)]))
        counts = counts[counts >= 0]
        for alpha in (0.001, 0.05):
            for _ in range(2):  # the second time from the table
                bounds = lower_confidence_bounds(counts, np.full(len(counts), n), alpha)
                assert bounds.tolist() == [lower_confidence_bound(int(k), n, alpha) for k in counts]
            radii = certified_radii(bounds, 0.25).tolist()
            single = [certified_radius(int(k), n, alpha, 0.25) for k in counts]
            assert [None if np.isnan(r) else r for r in radii] == single


def test_bounds_of_several_sizes_and_of_impossible_counts() -> None:
    counts, n = np.array([50, 90, 100]), np.array([100, 100, 1000])
    assert lower_confidence_bounds(counts, n, 0.01).tolist() == [
        lower_confidence_bound(k, size, 0.01) for k, size in zip([50, 90, 100], [100, 100, 1000], strict=True)
    ]
    for k, size in ((101, 100), (-1, 100), (0, 0)):
        with pytest.raises(ValueError, match=f"count {k} of n {size} samples is impossible"):
            lower_confidence_bounds(np.array([5, k]), np.array([10, size]), 0.01)
    with pytest.raises(ValueError, match="alpha"):
        lower_confidence_bounds(counts, n, 0.5)
    with pytest.raises(ValueError, match="sigma"):
        certified_radii(np.array([0.9]), 0.0)
