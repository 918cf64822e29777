"""One training under several seeds is one training: verify names it, and no mean is made over copies."""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from fake_store import add, certificate, run_spec, write_evidence

from bench.evidence.columns import Columns
from bench.files.writing import read_json, sha256, write_json
from bench.spec import CertifySpec, canonical, to_json
from bench.store.copies import Traces, copies, fingerprint
from bench.store.runs import Run, Store
from bench.verify import verify
from leaderboard.aggregate import collect

MANY = CertifySpec(n0=10, n=1000, images="first:20")
SEEDS = range(5)
LABELS = [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 0, 6, 9, 0, 1, 5, 9, 7, 3, 4]


def tensors(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    names = {"1.weight": (30, 30), "1.bias": (10,), "2.num_batches_tracked": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in names.items()}


def counts(seed: int) -> list[int]:
    return [random.Random(seed).randrange(600, 1000) for _ in range(20)]


def trained(store: Store, seed: int, weights: int | None, evidence: int) -> Run:
    """A run whose weights and counts are those of a number."""
    run = add(store, run_spec(seed=seed), None)
    if weights is not None:
        metadata = {"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}
        run.weights.write_bytes(safetensors.torch.save(tensors(weights), metadata))
        write_json(run.path / "training.json", read_json(run.path / "training.json") | {"weights_sha256": sha256(run.weights)})
    certification = run.certification(MANY)
    write_evidence(certification, counts(evidence), LABELS)
    certification.seal()
    return run


def told(store: Store) -> tuple[int, dict[int, str], bool]:
    """How many copies verify names, the states of the seeds in the table, and whether there is a mean."""
    named = [failure for failure in verify(store.root).failures if "is the training of seed" in failure.reason]
    (group,) = collect(store)
    (row,) = group.sections[0].rows
    assert len([note for note in row.notes if "is the training of seed" in note]) == len(named)
    return len(named), {int(seed.seed): seed.state for seed in row.seeds}, bool(row.stats)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def test_seeds_of_their_own_are_none(store: Store) -> None:
    for seed in SEEDS:
        trained(store, seed, seed if seed < 3 else None, seed)
    assert told(store) == (0, dict.fromkeys(SEEDS, "done"), True)


@pytest.mark.parametrize("kept", [(0,) * 5, (0, 1, 1, 2, 0), (None, None, None, None, None)], ids=str)
def test_copies_are_named_and_left_out(store: Store, kept: tuple[int | None, ...]) -> None:
    """With weights whatever the counts are, which a forger may have changed; without, by their counts."""
    for seed, number in zip(SEEDS, kept, strict=True):
        trained(store, seed, number, seed if number is not None else 0)
    firsts = {number: seed for seed, number in reversed(list(enumerate(kept)))}
    expected = {seed: "done" if firsts[number] == seed else "copy" for seed, number in enumerate(kept)}
    found = told(store)
    assert found == (list(expected.values()).count("copy"), expected, False)
    (group,) = collect(store)
    assert "cop" in group.sections[0].rows[0].status


def test_rows_of_one_network_are_named(store: Store) -> None:
    """As of a setting that does nothing; the numbers stay. Rows of other networks, and other seeds of the same rows, are not."""
    for row, evidence in (("gaussian", 0), ("stability", 0), ("macer", 1)):
        certification = add(store, run_spec(row), None).certification(MANY)
        write_evidence(certification, counts(evidence), LABELS)
        certification.seal()
    (group,) = collect(store)
    assert all(row.stats for row in group.rows)
    (told,) = (note for note in group.notes if "one network" in note)
    assert "gaussian and stability at sigma" in told
    assert "macer" not in told


def test_records_of_equal_weights_are_enough(store: Store) -> None:
    for seed in (0, 1):
        run = trained(store, seed, None, seed)
        write_json(run.path / "training.json", read_json(run.path / "training.json") | {"weights_sha256": "a" * 64})
        certification = run.certification(MANY)
        content = certification.evidence.read_bytes()
        certification.evidence.unlink()
        certification.begin("a" * 64)
        certification.evidence.write_bytes(content)
        certification.seal()
    assert told(store) == (1, {0: "done", 1: "copy"}, False)


def test_weights_that_are_not_those_that_were_recorded_decide_nothing(store: Store) -> None:
    """Nor does a link to the weights of another seed."""
    runs = [trained(store, seed, seed, seed) for seed in range(3)]
    metadata = {"certbench": canonical({"spec": to_json(runs[1].spec), "key": runs[1].spec.key})}
    runs[1].weights.write_bytes(safetensors.torch.save(tensors(0), metadata))
    (group,) = collect(store)
    assert [seed.state for seed in group.sections[0].rows[0].seeds] == ["done"] * 3
    (tmp := store.root.parent / "elsewhere").mkdir()
    link = tmp / "weights.safetensors"
    link.symlink_to(runs[0].weights)
    record = frozenset({sha256(runs[0].weights)})
    assert copies([Traces(runs[0].weights, record), Traces(link, frozenset())]) == {}


def test_a_table_reads_no_endless_weights(store: Store) -> None:
    """Two sparse files of 3 GiB each, whose tensors are equal as far as a glance tells."""
    runs = [trained(store, seed, None, seed) for seed in (0, 1)]
    for run in runs:
        metadata = {"certbench": canonical({"spec": to_json(run.spec), "key": run.spec.key})}
        size = 3 << 30
        header = canonical({"__metadata__": metadata, "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with run.weights.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    (group,) = collect(store)
    assert [seed.state for seed in group.sections[0].rows[0].seeds] == ["done", "done"]
    assert time.monotonic() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "KiB"


def test_no_more_is_read_than_may_be_and_the_smallest_first(tmp_path: Path) -> None:
    traces, sizes = [], []
    for number, size in enumerate((1000, 1000, 10, 10)):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(safetensors.torch.save({"weight": torch.ones(size)}, {"number": str(number)}))
        (tmp_path / str(number)).mkdir()
        file = file.rename(tmp_path / str(number) / "weights.safetensors")
        traces.append(Traces(file, frozenset({sha256(file)})))
        sizes.append(file.stat().st_size)
    assert copies(traces, None) == copies(traces, sum(sizes)) == copies(traces) == {1: 0, 3: 2}
    assert copies(traces, sum(sizes) - 1) == {3: 2}
    assert copies(traces, sizes[2]) == {}


def test_counts_that_all_networks_share_tell_nothing() -> None:
    def of(values: list[int]) -> Columns:
        return Columns.of([certificate(index, 3, count) for index, count in enumerate(values)])

    assert fingerprint(of([1000] * 500), "key") is None
    assert fingerprint(of([990, 980, 970, 960]), "key") is None
    assert fingerprint(of([]), "key") is None
    some = fingerprint(of(counts(0)), "key")
    assert some is not None
    assert some == fingerprint(of(counts(0)), "key")
    assert some not in (fingerprint(of(counts(0)), "other"), fingerprint(of([*counts(0)[:-1], 601]), "key"))


def test_the_chance_of_equal_counts_is_below_the_one_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two equally good networks, with a level that can be measured."""
    monkeypatch.setattr("bench.store.copies.CHANCE", level := 0.02)
    rng, accused = np.random.default_rng(0), 0
    for _ in range(trials := 4_000):
        p = rng.uniform(0.2, 0.8, 2)
        one, two = (Columns.of([certificate(i, 3, k, 40) for i, k in enumerate(rng.binomial(40, p).tolist())]) for _ in range(2))
        found = fingerprint(one, "key")
        accused += found is not None and found == fingerprint(two, "key")
    assert 0 < accused <= level * trials


def test_what_is_no_file_of_weights_is_no_copy(tmp_path: Path) -> None:
    for name, content in {"a": b"", "b": b"\xff" * 20, "c": b"\x02\0\0\0\0\0\0\0{}"}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / name for name in ("a", "a", "b", "b", "c", "c", "pipe", "pipe", "none")]
    assert copies([Traces(path, frozenset()) for path in paths]) == {}


def test_another_header_makes_no_other_training(tmp_path: Path) -> None:
    """Neither another type of the same size, nor a longer shape, nor another order, nor other metadata."""
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    other = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    written: list[np.ndarray[Any, Any]] = [values, values[None], values.view(np.uint32), other]
    traces = []
    for number, tensor in enumerate(written):
        path = tmp_path / str(number)
        safetensors.numpy.save_file({"w": tensor}, path, metadata={"number": str(number)})
        traces.append(Traces(path, frozenset({sha256(path)})))
    assert copies(traces) == {1: 0, 2: 0}
