"""Certificates as arrays, and their cache: it never says anything but what the log says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from fake_store import CERTIFY, N, add, certificate, new_store, run_spec, write_evidence

from bench.errors import BenchError
from bench.evidence import cache
from bench.evidence.columns import Columns, pack, unpack
from bench.rules.bounds import certified_radii, certified_radius, lower_confidence_bound, lower_confidence_bounds
from bench.store.subject import Certification

ROWS = [certificate(5, 3, 900), certificate(2, 1, N, selected=4), certificate(9, 0, 0)]
FIELDS = tuple(Columns.__dataclass_fields__)


def same(a: Columns, b: Columns) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.fixture
def certification(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certification:
    """Its evidence is large enough, and old enough, to be kept."""
    monkeypatch.setattr(cache, "LEAST", 1)
    monkeypatch.setattr(cache, "SETTLED_SECONDS", -1.0)
    monkeypatch.setenv("BENCH_CACHE_DIR", str(tmp_path / "cache"))
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
    for rows in (ROWS, []):
        found = unpack(pack(Columns.of(rows)))
        assert found is not None
        assert same(found, Columns.of(rows))
    assert unpack(pack(Columns.of(ROWS))[:-4]) is None
    assert unpack(b"another" + pack(Columns.of(ROWS))) is None


def kept() -> list[Path]:
    folder = cache.folder()
    return sorted(folder.iterdir()) if folder else []


def test_what_was_read_is_kept_for_the_user_and_nothing_beside_the_results(certification: Certification) -> None:
    assert kept() == []
    first = certification.columns()
    assert len(kept()) == 1
    assert same(certification.columns(), first)
    assert not list(certification.path.rglob("*.bin"))


def test_kept_columns_give_way_to_a_log_that_changed(certification: Certification) -> None:
    certification.columns()
    write_evidence(certification, (N, 500, 700, 800))
    assert certification.columns().count.tolist() == [N, 500, 700, 800]
    status, content = certification.evidence.stat(), certification.evidence.read_bytes()
    certification.evidence.write_bytes(content.replace(b"1000", b"1001", 1))
    os.utime(certification.evidence, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(BenchError, match=r"evidence\.jsonl, line 1: the check sum"):
        certification.columns()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap"])
def test_damaged_kept_columns_are_not_taken(certification: Certification, damage: str) -> None:
    first = certification.columns()
    (path,) = kept()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": path.read_bytes()[:-9], "empty": b"", "swap": pack(first)}[damage])
    assert same(certification.columns(), first)


def test_what_was_changed_a_moment_ago_is_not_kept(certification: Certification, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED_SECONDS", 3600.0)
    certification.columns()
    assert kept() == []


@pytest.mark.parametrize("how", ["off", "unwritable", "others may write", "a file"])
def test_without_a_cache_everything_is_read_all_the_same(
    certification: Certification, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.write_text("x") if how == "a file" else place.mkdir()
    place.chmod(0o777 if how == "others may write" else 0o700)
    monkeypatch.setenv("BENCH_CACHE_DIR", {"off": "off", "unwritable": "/proc/1/nowhere"}.get(how, str(place)))
    for _ in range(2):
        assert certification.columns().count.tolist() == [N] * 4
    assert cache.folder() is None


def test_old_things_are_forgotten_and_nothing_else_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "old"
    place.mkdir(mode=0o700)
    for name in ("0" * 40, "1" * 40, "a file of people"):
        (place / name).touch()
        if not name.startswith("1"):
            os.utime(place / name, (0, 0))
    monkeypatch.setenv("BENCH_CACHE_DIR", str(place))
    assert [path.name for path in kept()] == ["1" * 40, "a file of people"]


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
        with pytest.raises(ValueError, match=f"count {k} of n {size} is impossible"):
            lower_confidence_bounds(np.array([5, k]), np.array([10, size]), 0.01)
    with pytest.raises(ValueError, match="alpha"):
        lower_confidence_bounds(counts, n, 0.5)
    with pytest.raises(ValueError, match="sigma"):
        certified_radii(np.array([0.9]), 0.0)
