"""Comparisons: two rows across seeds and across test images, a run with published logs, in a store and on the command line."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_logs import MANIFEST, manifest, write_log
from fake_store import CERTIFY, LABELS, N, add, run_spec, write_evidence
from numpy.typing import ArrayLike
from scipy import stats
from typer.testing import Result

from bench.data import load as load_images
from bench.errors import BenchError
from bench.logs import import_logs
from bench.rules.bounds import certified_radius
from bench.spec import CertifySpec
from bench.store.runs import Run, Store
from leaderboard.aggregate import Row, Seed
from leaderboard.compare import compare, compare_with_logs
from leaderboard.compare.logs import _printing
from leaderboard.compare.statistics import compare_accuracy, compare_images, compare_seeds, holm, runs_needed
from leaderboard.flips import flip_each
from leaderboard.metrics import Outcomes

GOLDEN = os.environ.get("CERTBENCH_GOLDEN")
needs_golden = pytest.mark.skipif(not GOLDEN, reason="CERTBENCH_GOLDEN names no folder of third-party logs")
A5 = (0.91, 0.90, 0.93, 0.92, 0.915)
B5 = (0.95, 0.93, 0.94, 0.96, 0.935)


def evidence(radii: ArrayLike, label: str = "a", runs: Sequence[int] = (), seeded: bool = True) -> Row:
    """A row of radii, one list per run; a negative one is wrong with that radius."""
    table = np.array(radii, dtype=np.float64)  # S I
    index = np.arange(table.shape[1])
    found = [Outcomes(index, index % 10, own > 0, np.zeros(index.shape, bool), np.abs(own)) for own in table]
    names = tuple(runs) or range(len(table))
    seeds = tuple(Seed(seed=n if seeded else str(n), state="done", outcomes=o) for n, o in zip(names, found, strict=True))
    return Row(name=label, method=label, seeds=seeds, images=len(index), notes=())


def of_means(means: Sequence[float], label: str = "a", seeded: bool = True) -> Row:
    """Runs with these ACRs on two images."""
    return evidence([(mean - 0.1, mean + 0.1) for mean in means], label, seeded=seeded)


def known(*values: float | None) -> tuple[float, ...]:
    """The values, none of which is missing."""
    found = tuple(value for value in values if value is not None)
    assert len(found) == len(values)
    return found


# ---- across seeds


def sign_flips(a: Sequence[float], b: Sequence[float]) -> float:
    differences = [y - x for x, y in zip(a, b, strict=True)]
    seen = abs(sum(differences))
    flips = list(itertools.product((1, -1), repeat=len(a)))
    return sum(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= seen - 1e-12 for signs in flips) / len(flips)


def relabelled(a: Sequence[float], b: Sequence[float]) -> float:
    """Twice the smaller tail over all splits."""
    everything = [*a, *b]
    seen = statistics.fmean(b) - statistics.fmean(a)
    moves = []
    for split in itertools.combinations(range(len(everything)), len(a)):
        mine = [everything[n] for n in split]
        rest = [v for n, v in enumerate(everything) if n not in split]
        moves.append(statistics.fmean(rest) - statistics.fmean(mine))
    tails = sum(move <= seen + 1e-12 for move in moves), sum(move >= seen - 1e-12 for move in moves)
    return min(1.0, 2 * min(tails) / len(moves))


@pytest.mark.parametrize(("size_a", "size_b"), [(2, 2), (3, 3), (6, 6), (5, 3), (2, 7)])
@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("move", [0.0, 0.01, 0.1])
def test_seeds_against_scipy_and_enumeration(size_a: int, size_b: int, seeded: bool, move: float) -> None:
    """Equal seeds are paired; anything else is Welch's, with Hedges' g under its exact correction."""
    rng = np.random.default_rng(size_a)
    a, b = rng.normal(0.9, 0.01, size_a).tolist(), (rng.normal(0.9, 0.01, size_b) + move).tolist()
    found = compare_seeds(of_means(a, seeded=seeded), of_means(b, "b", seeded=seeded))
    paired = seeded and size_a == size_b
    expected = (stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=False)).confidence_interval(0.95)
    assert found.paired is paired
    assert known(found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert known(found.std_a, found.std_b) == pytest.approx((statistics.stdev(a), statistics.stdev(b)))
    difference = statistics.fmean(b) - statistics.fmean(a)
    assert (found.difference, found.mean_b - found.mean_a) == pytest.approx((difference, difference))
    if paired:
        std = statistics.stdev(y - x for x, y in zip(a, b, strict=True))
        assert known(found.std_difference, found.effect) == pytest.approx((std, difference / std))
    else:
        whole = size_a + size_b - 2
        pooled = ((size_a - 1) * statistics.variance(a) + (size_b - 1) * statistics.variance(b)) / whole
        correction = math.gamma(whole / 2) / (math.sqrt(whole / 2) * math.gamma((whole - 1) / 2))
        assert known(found.effect) == pytest.approx((correction * difference / math.sqrt(pooled),))
        assert found.std_difference is None
    assert found.p_least == min(1, 2 / (2**size_a if paired else math.comb(size_a + size_b, size_a)))
    if found.p_least > 0.05:
        assert found.p is None
        assert "so nothing is tested; " in found.note
    else:
        assert known(found.p) == pytest.approx(((sign_flips if paired else relabelled)(a, b),))


def test_pairs_follow_the_seed_and_not_the_place() -> None:
    turned = evidence([(mean, mean) for mean in reversed(B5)], "b", runs=(4, 3, 2, 1, 0))
    straight = evidence([(mean, mean) for mean in B5], "b")
    assert compare_seeds(of_means(A5), turned) == compare_seeds(of_means(A5), straight)


def test_how_many_seeds_would_do() -> None:
    result = compare_seeds(of_means(A5), of_means(B5, "b"))
    assert result.note == "5 paired seeds: the smallest two-sided p is 0.0625, so nothing is tested; 6 paired seeds would do"
    result = compare_seeds(of_means(A5[:3], seeded=False), of_means(B5[:3], "b", seeded=False))
    assert "6 paired seeds or 4 runs of each row would do" in result.note
    assert [runs_needed(True, tests) for tests in (1, 2, 8)] == [6, 7, 9]
    for a, b in (((0.9,), (0.95,)), ((0.9,), B5)):
        result = compare_seeds(of_means(a), of_means(b, "b"))
        assert "no seed uncertainty is known; 6 paired seeds would allow a test" in result.note
        assert [result.low, result.high, result.effect, result.p, result.std_a] == [None] * 5


def test_equal_rows_have_no_effect_and_no_width() -> None:
    for seeded in (True, False):
        result = compare_seeds(of_means((0.9,) * 6, seeded=seeded), of_means((0.9,) * 6, "b", seeded=seeded))
        assert result.effect is None
        assert known(result.difference, result.low, result.high, result.p) == pytest.approx((0, 0, 0, 1), abs=1e-12)


# ---- across images


def test_images_by_hand() -> None:
    """Two seeds, four images; image 3 is wrong in one run of A, so its radius counts 0 there."""
    a = evidence([(1, 1, 1, -2), (1, 1, 1, 2)])
    b = evidence([(1, 2, 0.5, 1.5), (1, 2, 1.0, 1.5)], "b")
    (result,) = compare_images([(a, b)])
    differences = (0, 1, -0.25, 0.5)
    assert result.difference == pytest.approx(statistics.fmean(differences))
    assert result.error == pytest.approx(statistics.stdev(differences) / 2)
    assert (result.more_a, result.more_b, result.tie) == (0.25, 0.5, 0.25)
    assert result.images == 4
    assert compare_seeds(a, b).difference == pytest.approx(result.difference)


def test_each_pair_is_tested_where_it_can_be_and_holm_corrects_those() -> None:
    """Of 200 images the second pair differs on 20, which is no test; the p is that of the flips of each pair alone."""
    rng = np.random.default_rng(6)
    radii = rng.exponential(0.5, (3, 2, 200)) + 0.1
    radii[1] = radii[0] + 0.3 * (np.arange(200) < 20)
    radii[2] += 0.06
    a, close, far = (evidence(values, name) for name, values in zip("abc", radii, strict=True))
    untested, tested = compare_images([(a, close), (a, far)])
    assert "two rows differ on 20 of 200 images" in untested.note
    assert (untested.p, untested.p_holm, untested.low) == (None, None, None)
    alone = flip_each((radii[2] - radii[0]).mean(axis=0)[None])
    assert known(tested.p, tested.p_holm, tested.low) == pytest.approx((alone.p[0], alone.p[0], alone.low[0]))
    assert tested.note == ""


def test_the_other_way_round_flips_every_sign() -> None:
    rng = np.random.default_rng(2)
    radii = rng.exponential(0.5, (2, 6, 120))
    a, b = evidence(radii[0]), evidence(radii[1] + 0.02, "b")
    (there,), (back,) = compare_images([(a, b)]), compare_images([(b, a)])
    assert known(there.difference, there.low, there.high) == pytest.approx([-v for v in known(back.difference, back.high, back.low)])
    assert known(there.error, there.p, there.more_a, there.more_b) == pytest.approx(known(back.error, back.p, back.more_b, back.more_a))
    for seeded in (True, False):
        x, y = (evidence(v, seeded=seeded) for v in radii)
        one, two = compare_seeds(x, y), compare_seeds(y, x)
        assert known(one.difference, one.low, one.high, one.effect) == pytest.approx(
            tuple(-v for v in known(two.difference, two.high, two.low, two.effect))
        )
        assert known(one.p) == pytest.approx(known(two.p))
    a, b = evidence(radii[0][:1]), evidence(radii[1][:1], "b")
    (forth,), (back_,) = compare_accuracy(a, b, ["0.50"]), compare_accuracy(b, a, ["0.50"])
    assert (forth.difference, forth.p) == (-back_.difference, back_.p)


def test_other_images_are_refused() -> None:
    a, b = evidence([(1, 2, 3)]), evidence([(1, 2)], "b")
    with pytest.raises(BenchError, match="different test images"):
        compare_images([(a, b)])
    with pytest.raises(BenchError, match="at least two"):
        compare_images([(evidence([(1,)]), evidence([(1,)]))])


def test_accuracy_and_mcnemar_by_hand() -> None:
    """At 0.5: six images only in B, one only in A; binomial p = 2 * (1 + 7) / 2^7. A radius of exactly r does not count."""
    a = evidence([(1, 0.5, 0.5, 0.5, 0.5, 0.5, -1, 1)])
    b = evidence([(0.5, 1, 1, 1, 1, 1, 1, 1)], "b")
    half, far = compare_accuracy(a, b, ["0.50", "1.00"])
    assert (half.accuracy_a, half.accuracy_b, half.difference) == (25.0, 87.5, 62.5)
    assert known(half.p) == pytest.approx((2 * 8 / 128,))
    assert (far.difference, far.p) == (0.0, None)  # no image beyond it, so nothing to test
    two = evidence([(1, 1)] * 2), evidence([(1, 0.1)] * 2, "b")
    (several,) = compare_accuracy(*two, ["0.50"])
    assert (several.difference, several.p) == (-50.0, None)


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03])[::2] == pytest.approx([0.03, 0.06])
    assert holm([0.01, None])[1] is None
    assert holm([]) == []


# ---- rows of a store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def fill(store: Store, seeds: int = 2) -> None:
    for seed in range(seeds):
        add(store, run_spec(seed=seed), (N, 900, 900 - seed, 0))
        add(store, run_spec("macer", seed=seed), (N, 990, 950 - seed, 0))


def test_our_runs_by_hand(store: Store) -> None:
    fill(store)
    report = compare(store, "gaussian", "macer")
    r = {count: certified_radius(count, N, 0.001, 0.5) or 0.0 for count in (N, 990, 950, 949, 900, 899)}
    a, b = ([(r[N] + r[900] + r[x]) / 4 for x in pair] for pair in ((900, 899),) * 2)
    b = [(r[N] + r[990] + r[x]) / 4 for x in (950, 949)]
    (c,) = report.comparisons
    assert (c.a, c.b, c.sigma) == ("gaussian", "macer", 0.5)
    assert c.seeds.runs_a == c.seeds.runs_b == ("0", "1")
    assert (c.seeds.mean_a, c.seeds.mean_b) == pytest.approx((statistics.fmean(a), statistics.fmean(b)))
    assert c.images.difference == pytest.approx(statistics.fmean(b) - statistics.fmean(a))
    assert (c.images.more_a, c.images.more_b, c.images.tie) == (0.0, 0.5, 0.5)
    assert "protocol quick" in report.title
    assert "n = 1,000" in report.title
    assert report.source == "runs"
    assert c.images.note == "not tested across images (4 images; at least 100 are needed)"
    assert [c.images.low, c.images.high, c.images.p, c.images.p_holm] == [None] * 4
    strict, loose = (compare(store, "gaussian", "macer", alpha=alpha).comparisons[0].seeds.mean_a for alpha in (0.0001, 0.05))
    assert strict < c.seeds.mean_a < loose


def test_a_pattern_compares_with_every_row_and_corrects_over_all(store: Store) -> None:
    for seed in range(6):
        for sigma in (0.25, 0.5):
            add(store, run_spec(seed=seed, sigma=sigma), (800 - seed, 800, 800, 800))
            add(store, run_spec("smoothmix.eta5", seed=seed, sigma=sigma), (900 + seed * seed, 900, 900, 900))
            changed = run_spec("smoothmix.eta5", seed=seed, sigma=sigma, changes={"steps": 3}, hyperparameters={"steps": 3})
            add(store, changed, (850 + seed, 800, 700, 800))
    report = compare(store, "gaussian", "smoothmix*")
    assert [(c.sigma, c.b) for c in report.comparisons] == [
        (sigma, row) for sigma in (0.25, 0.5) for row in ("smoothmix.eta5", "smoothmix.eta5[steps=3]")
    ]
    seeds = [c.seeds for c in report.comparisons]
    assert known(*(s.p for s in seeds)) == pytest.approx((2 / 64,) * 4)
    assert known(*(s.p_holm for s in seeds)) == pytest.approx((8 / 64,) * 4)
    assert "over 4 tests Holm's smallest p is 0.125 where all are as strong; 8 paired seeds would do" in seeds[0].note
    (bracketed,) = compare(store, "smoothmix.eta5[steps=3]", "gaussian", sigmas=[0.5]).comparisons
    assert bracketed.a == "smoothmix.eta5[steps=3]"
    assert known(bracketed.seeds.p_holm) == known(bracketed.seeds.p)
    with pytest.raises(BenchError, match="A must be one row"):
        compare(store, "smoothmix*", "gaussian")


def test_unfinished_rows_are_refused_or_left_out(store: Store) -> None:
    fill(store)
    add(store, run_spec("smoothadv"), (N, N))
    add(store, run_spec("stability"), None, state=None)
    add(store, run_spec("gaussian", sigma=1.0))
    for row in ("smoothadv", "stability"):
        with pytest.raises(BenchError, match=f"{row} at sigma 0.5 is not finished"):
            compare(store, "gaussian", row, sigmas=[0.5])
        with pytest.raises(BenchError, match=r"nothing to compare .* not finished"):
            compare(store, row, "gaussian")
    with pytest.raises(BenchError, match="there is no macer at the sigma, protocol and recipe asked for; there is gaussian"):
        compare(store, "gaussian", "macer", sigmas=[1.0])
    damaged = add(store, run_spec("consistency")).certification(CERTIFY).evidence
    damaged.write_bytes(damaged.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(BenchError, match=r"not finished.*damaged"):
        compare(store, "gaussian", "consistency", sigmas=[0.5])
    report = compare(store, "gaussian", "*")
    assert [c.b for c in report.comparisons] == ["macer"]
    assert any("left out: smoothadv at sigma 0.5 is not finished (0/2 seeds)" in note for note in report.notes)


def test_other_seeds_are_told(store: Store) -> None:
    fill(store)
    add(store, run_spec("macer", seed=2), (N, 990, 940, 0))
    report = compare(store, "gaussian", "macer")
    assert not report.comparisons[0].seeds.paired
    assert any("over seed 0, 1, macer over seed 0, 1, 2; --seeds 0,1 compares" in note for note in report.notes)
    report = compare(store, "gaussian", "macer", seeds=[0, 1])
    assert report.comparisons[0].seeds.paired
    assert not any("--seeds" in note for note in report.notes)
    add(store, run_spec("stability", seed=2), (N, 990, 940, 0))
    assert any("they share no seed" in note for note in compare(store, "gaussian", "stability").notes)


def test_b_may_be_a_list(store: Store) -> None:
    fill(store)
    add(store, run_spec("smoothmix.eta5"))
    report = compare(store, "gaussian", ["macer", "smooth*"], sigmas=[0.5])
    assert [c.b for c in report.comparisons] == ["macer", "smoothmix.eta5"]
    with pytest.raises(BenchError, match="no run is of method 'macre'"):
        compare(store, "gaussian", ["macre", "smooth*"])


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"protocol": "smoke"}, 4),
        ({"recipe": "paper"}, 4),
        ({"changes": {"train.lr": 0.5}, "train": {"lr": 0.5}}, 4),
        ({}, 3),
    ],
)
def test_rows_of_other_groups_are_refused(store: Store, changes: dict[str, Any], images: int) -> None:
    add(store, run_spec())
    add(store, run_spec("macer", **changes), (N,) * images, certify=CertifySpec(n0=10, n=N, images=f"first:{images}"))
    with pytest.raises(BenchError, match=r"(?=.*gaussian in mnist)(?=.*macer in mnist).*in no comparable group"):
        compare(store, "gaussian", "macer")


def test_two_groups_need_a_choice(store: Store) -> None:
    for protocol in ("quick", "smoke"):
        for row in ("gaussian", "macer"):
            add(store, run_spec(row, protocol=protocol))
    with pytest.raises(BenchError, match="stand together in 2 groups"):
        compare(store, "gaussian", "macer")
    assert "protocol smoke" in compare(store, "gaussian", "macer", protocol="smoke").title
    for row in ("gaussian", "macer"):
        add(store, run_spec(row), certify=CertifySpec(n0=10, n=N, images="first:4", seed=1, changes={"seed": 1}))
    report = compare(store, "gaussian", "macer", protocol="quick")
    assert "certify.seed" not in report.title
    assert any("another comparable group" in note for note in report.notes)


def test_rows_that_share_a_name_are_told_apart(store: Store) -> None:
    for x in (2, 3):  # which their values do not show
        add(store, run_spec(changes={"x": x}))
    add(store, run_spec("macer"))
    with pytest.raises(BenchError, match="fits gaussian #1, gaussian #2"):
        compare(store, "gaussian", "macer")
    assert [c.b for c in compare(store, "macer", "gaussian").comparisons] == ["gaussian #1", "gaussian #2"]
    assert [c.b for c in compare(store, "gaussian #1", "gaussian #2").comparisons] == ["gaussian #2"]


@pytest.fixture
def logs(tmp_path: Path) -> Store:
    """Imported logs of three rows at sigma 0.5, the last on three images."""
    for run in (1, 2):
        write_log(tmp_path / f"logs/plain/noise_0.5_{run}", (0.5, 0.6 + run / 100, 0.7, 0))
        write_log(tmp_path / f"logs/other/noise_0.5_{run}", (0.5, 0.8, 0.6 + run / 100, 0.25))
    write_log(tmp_path / "logs/short/noise_0.5_1", (0.5, 0.8, 0.6))
    import_logs(tmp_path / "logs", tmp_path / "runs", MANIFEST, strict=True)
    return Store(tmp_path / "runs")


def test_imported_logs_compare_among_themselves(logs: Store) -> None:
    report = compare(logs, "plain", "other")
    (c,) = report.comparisons
    assert (report.source, c.seeds.paired, c.seeds.runs_a) == ("imported", False, ("1", "2"))
    assert c.seeds.difference == pytest.approx((0.5 + 0.8 + 0.615 + 0.25 - 0.5 - 0.615 - 0.7) / 4)
    assert (c.images.more_a, c.images.more_b, c.images.tie) == (0.25, 0.5, 0.25)


def test_imported_logs_of_other_images_or_our_runs_are_refused(logs: Store) -> None:
    with pytest.raises(BenchError, match=r"(?=.*first:4)(?=.*first:3).*in no comparable group"):
        compare(logs, "plain", "short")
    with pytest.raises(BenchError, match=r"no imported log is of method 'othr'.*other"):
        compare(logs, "plain", "othr")
    with pytest.raises(BenchError, match="no protocol"):
        compare(logs, "plain", "other", protocol="full")
    with pytest.raises(BenchError, match="cannot change that"):
        compare(logs, "plain", "other", alpha=0.01)
    with pytest.raises(BenchError, match="sigma 1"):
        compare(logs, "plain", "other", sigmas=[1.0])
    add(logs, run_spec())
    with pytest.raises(BenchError, match="never mix"):
        compare(logs, "plain", "gaussian")
    with pytest.raises(BenchError, match="no imported log is of method 'gaussian'"):
        compare(logs, "plain", "gaussian", source="imported")
    assert compare(logs, "plain", "other", source="imported").source == "imported"


@needs_golden
def test_the_golden_logs(tmp_path: Path, bench: Callable[..., Result]) -> None:
    """Table 5 at sigma 0.25: 0.9108 and 0.9332."""

    def others(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name.startswith("noise_") and not name.startswith("noise_0.25")]

    shutil.copytree(Path(str(GOLDEN)) / "smoothmix-logs", tmp_path / "logs", ignore=others)
    import_logs(tmp_path / "logs", tmp_path, strict=True)
    report = compare(Store(tmp_path), "gaussian", "smoothmix.eta5-onestep", sigmas=[0.25])
    (c,) = report.comparisons
    assert c.seeds.difference == pytest.approx(0.0224, abs=1e-4)
    assert c.images.difference == pytest.approx(c.seeds.difference, abs=1e-12)
    assert not c.seeds.paired  # run ids are no seeds
    low, high, p = known(c.seeds.low, c.seeds.high, c.seeds.p)
    assert p == pytest.approx(2 / 252)
    ends = known(c.images.low, c.images.high)
    assert ends[1] - ends[0] > 3 * (high - low) > 0  # seeds say far less than images
    assert ends == pytest.approx((c.images.difference - 1.96 * c.images.error, c.images.difference + 1.96 * c.images.error), abs=1e-4)
    assert any("rounded as printed" in note for note in report.notes)
    with pytest.raises(BenchError, match="cannot change that"):
        compare(Store(tmp_path), "gaussian", "smoothmix.eta5-onestep", alpha=0.01)
    add(Store(tmp_path), run_spec())
    with pytest.raises(BenchError, match="never mix"):
        compare(Store(tmp_path), "gaussian", "smoothmix.eta5-onestep")
    result = bench("compare", "gaussian", "smoothmix*", "--from", "imported", "--results", tmp_path)
    assert result.exit_code == 0, result.output
    assert "+0.0224" in result.output


# ---- the command


def test_the_command(store: Store, bench: Callable[..., Result]) -> None:
    fill(store, seeds=5)
    words = ("compare", "gaussian", "macer", "--dataset", "mnist", "--sigma", "0.5", "--results", store.root)
    for format in ("terminal", "markdown", "latex", "html"):
        result = bench(*words, "--format", format)
        assert result.exit_code == 0, result.output
        told = ("all trainings of both rows", "all images like these", "6 paired seeds would do", "5 paired", "9,999 flips, seed 0")
        for part in (*told, "not tested across images (4 images"):
            assert part in result.output, (format, part)
        assert ("effect:" in result.output, "p of methods:" in result.output) == (True, False), "what is not there is not explained"
    seeds, images, _ = (line for line in bench(*words, "--format", "markdown").output.splitlines() if line.startswith("| sigma"))
    assert ("effect" in seeds, "p of methods" in seeds, "95 % interval" in images, "tie" in images) == (True, False, False, True), "all -"
    lines = list(csv.DictReader(io.StringIO(bench(*words, "--format", "csv").output)))
    data = json.loads(bench(*words, "--format", "json").output)
    (c,) = data["comparisons"]
    assert [(x["uncertainty"], x["metric"]) for x in lines[:3]] == [("seeds", "ACR"), ("images", "ACR"), ("images", "0.00")]
    assert (float(lines[0]["low"]), lines[1]["low"], c["images"]["low"]) == (c["seeds"]["low"], "", None)
    assert [line["speaks_of"] for line in lines[:3]] == ["methods", "networks", "networks"]
    assert (data["flips"], data["p_speaks_of"]["seeds"]) == (9999, "methods")
    assert (lines[0]["p"], c["seeds"]["p"]) == ("", None)
    assert len(lines) == 2 + len(c["accuracies"])
    assert {"seeds", "images"} == set(data["meanings"])


def test_a_folder_that_is_called_like_a_row_is_no_run(store: Store, bench: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    (store.root.parent / "gaussian").mkdir()
    monkeypatch.chdir(store.root.parent)
    assert bench("compare", "gaussian", "macer", "--results", "runs").exit_code == 0


def test_what_the_command_refuses_of_rows(store: Store, bench: Callable[..., Result]) -> None:
    fill(store)
    gaussian, macer = (run_spec(row).key for row in ("gaussian", "macer"))
    for words, part in (
        (("gaussian", "gaussian"), "compared with itself"),
        (("gaussian", "macre"), "macer"),
        (("gaussian", "macer", "--sigma", "3"), "no run has sigma 3"),
        (("gaussian", "macer", "--sigma", "x"), "not a number"),
        (("gaussian", "macer", "--alpha", "0.7"), "--alpha"),
        (("gaussian", "macer", "--from", "logs"), "--from logs is unknown"),
        (("gaussian", "macer", "--from", "imported"), "no imported logs"),
        (("gaussian", "macer", "--format", "latx"), "did you mean 'latex'"),
        (("gaussian", "macer", "--protocol", "full"), "full"),
        (("gaussian", "macer,gaussian"), "compared with itself"),
        (("gaussian", ","), "B is empty"),
        (("gaussian", macer), "bench compare gaussian macer --sigma 0.5 --seeds 0, --protocol quick"),
        ((gaussian, macer), "bench compare gaussian macer --sigma 0.5 --seeds 0, --protocol quick"),
        ((gaussian, gaussian), "of the same row"),
    ):
        refused = bench("compare", *words, "--results", store.root)
        assert refused.exit_code == 2, words
        assert isinstance(refused.exception, SystemExit)
        assert part in refused.output, refused.output


def test_the_command_needs_no_torch(store: Store) -> None:
    fill(store)
    words = ["compare", "gaussian", "macer", "--results", str(store.root)]
    code = f"import sys; from bench.cli import app; app({words!r}, standalone_mode=False); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


# ---- a run and published logs, image by image

LOGGED = 100_000
AS_LOGGED = CertifySpec(n0=100, n=LOGGED, images="first:4")
COUNTS = (99_000, 80_000, LOGGED, 51_000)  # of images 0 to 3
PLAIN = ((1.03, 0.42, 1.91, 0.0), (1.01, 0.4, 1.85, 0.02), (1.1, 0.0, 1.91, 0.01))


def radius(count: int) -> float:
    return certified_radius(count, LOGGED, 0.001, 0.5) or 0.0


def imported(folder: Path, rows: Mapping[str, Sequence[float]]) -> Path:
    """A store with a log for each path below the folder of logs."""
    for name, radii in rows.items():
        write_log(folder / "logs" / name, radii)
    import_logs(folder / "logs", folder / "theirs", MANIFEST, strict=True)
    return folder / "theirs"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    names = [f"plain/noise_0.5_{run}" for run in (1, 2, 3)]
    return imported(tmp_path, {**dict(zip(names, PLAIN, strict=True)), "other/noise_0.5_1": (0.5,) * 4, "short/noise_0.5_1": (0.5,) * 3})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return add(Store(tmp_path / "runs"), run_spec(protocol="full"), COUNTS, certify=AS_LOGGED)


def test_a_run_and_logs_by_hand(run: Run, theirs: Path) -> None:
    found = compare_with_logs(run, "plain", theirs)
    ours = np.array([float(f"{radius(count):.3g}") for count in COUNTS])
    logs = np.array(PLAIN)
    assert ours.tolist() == [1.14, 0.414, 1.91, 0.0064]
    assert found.acr.run == pytest.approx(ours.mean(), abs=1e-15)
    assert found.acr_exact == pytest.approx(statistics.fmean(map(radius, COUNTS)), abs=1e-15)
    assert found.acr.logs == pytest.approx(logs.mean(axis=1), abs=1e-15)
    assert found.acr.difference == pytest.approx((ours - logs.mean(axis=0)).mean(), abs=1e-15)
    assert found.error == pytest.approx((ours - logs.mean(axis=0)).std(ddof=1) / 2)
    assert (found.acr.low, found.acr.high, found.half_width, found.within) == (None,) * 4  # four images have no interval
    means = logs.mean(axis=1)
    assert found.spread == pytest.approx(np.abs(means - means.mean()).max())
    assert found.acr.predicted == pytest.approx(float(stats.t.ppf(0.975, 2)) * means.std(ddof=1) * math.sqrt(4 / 3))
    assert found.agreement == (0.75, 1.0, 0.75)  # the first log abstains on image 3, the last on image 1
    assert found.agreement_among == (0.75, 0.5, 0.75)
    assert found.correlation == pytest.approx([np.corrcoef(ours, log)[0, 1] for log in logs])
    assert found.correlation_among[1] == pytest.approx(np.corrcoef(logs[0], logs[2])[0, 1])
    by_radius = {m.metric: m for m in found.metrics}
    assert by_radius["0.00"].logs == (75.0, 100.0, 75.0)
    assert by_radius["0.00"].difference == pytest.approx(100 - 250 / 3)
    assert (by_radius["1.00"].run, by_radius["1.00"].logs, by_radius["1.00"].difference) == (50.0, (50.0,) * 3, 0.0)
    assert "2.00" not in by_radius  # no image reaches it
    assert "the run is gaussian, the logs are plain" in found.notes
    changed = add(Store(run.path.parents[2]), run_spec(changes={"train.epochs": 30}), COUNTS, certify=AS_LOGGED)
    assert "the run was trained with train.epochs=30 instead of the recipe's" in compare_with_logs(changed, "plain", theirs).notes


def test_radii_are_rounded_as_the_logs_are(tmp_path: Path) -> None:
    """All samples of all images agree: without rounding the run would seem worse by 0.004 at every image."""
    run = add(Store(tmp_path / "runs"), run_spec(), (LOGGED,) * 4, certify=AS_LOGGED)
    assert radius(LOGGED) == pytest.approx(1.9057, abs=1e-4)
    found = compare_with_logs(run, "plain", imported(tmp_path, {"plain/noise_0.5_1": (1.91,) * 4}))
    assert found.acr.difference == 0.0
    assert found.acr_exact == pytest.approx(radius(LOGGED))
    assert any("3 significant digits" in note and "1.9057" in note for note in found.notes)
    assert found.correlation == (None,)  # nothing varies
    (tmp_path / "fine").mkdir()
    path = tmp_path / "fine/plain/noise_0.5_2"
    write_log(path, (1.91,) * 4)
    path.write_text(path.read_text().replace("1.91", "1.9057"))
    import_logs(tmp_path / "fine", tmp_path / "finer", MANIFEST, strict=True)
    found = compare_with_logs(run, "plain", tmp_path / "finer")
    assert found.acr.difference == 0.0
    assert any("4 decimals" in note for note in found.notes)


def test_a_run_on_some_of_the_images(tmp_path: Path, theirs: Path) -> None:
    """Image 2 only has its partner in image 2."""
    run = add(Store(tmp_path / "runs"), run_spec(), None)
    certification = run.certification(CertifySpec(n0=100, n=LOGGED, images="1-2"))
    write_evidence(certification, (80_000, LOGGED), LABELS[1:3])
    found = compare_with_logs(run, "plain", theirs)
    assert (found.images, found.selection) == (2, "1-2")
    assert found.acr.logs == pytest.approx([(0.42 + 1.91) / 2, (0.4 + 1.85) / 2, 1.91 / 2])


@pytest.mark.parametrize(
    ("texts", "radius", "expected", "words"),
    [
        (("0.953", "0.04", "0.0", "1.0"), 0.006494, 0.00649, "3 significant digits"),
        (("0.953", "0.040", "0.412", "0.000"), 0.006494, 0.006, "3 decimals"),
        (("1.9057", "0.5"), 0.006494, 0.0065, "4 decimals"),
        (("1.91", "0.00808"), 1.9057, 1.91, "3 significant digits"),
    ],
)
def test_how_logs_are_rounded_is_seen(texts: Sequence[str], radius: float, expected: float, words: str) -> None:
    printed, told = _printing(texts)
    assert (printed(radius), told) == (expected, words)


@pytest.mark.parametrize(
    ("counts", "within"), [((99_000, 79_500, LOGGED, 50_000), True), ((LOGGED, LOGGED, LOGGED, LOGGED), False), ((50_000,) * 4, False)]
)
def test_the_verdict(tmp_path: Path, counts: tuple[int, ...], within: bool) -> None:
    """Five logs that differ by a hundredth, so that only a run of their kind lies within; of 100 images, half of which differ."""
    labels = load_images("mnist", "test").labels[:100].tolist()
    for k in range(1, 6):
        write_log(tmp_path / f"logs/plain/noise_0.5_{k}", (1.12 + k / 100, 0.38 + k / 100, 1.91, 0.0) * 25, labels)
    import_logs(tmp_path / "logs", tmp_path / "theirs", manifest("plain/noise_0.5_*", images="first:100"), strict=True)
    run = add(Store(tmp_path / "runs"), run_spec(), None)
    write_evidence(run.certification(dataclasses.replace(AS_LOGGED, images="first:100")), counts * 25, labels)
    found = compare_with_logs(run, "plain", tmp_path / "theirs")
    low, high = known(found.acr.low, found.acr.high)
    assert low <= found.acr.difference <= high
    assert found.half_width == max(high - found.acr.difference, found.acr.difference - low)
    assert found.within is within
    assert ("ACR" not in found.outside) is within
    coinciding = {m.metric for m in found.metrics if len(set(m.logs)) == 1}
    assert "0.00" in coinciding  # every log certifies three of the four images
    assert {m.metric for m in found.metrics if m.predicted is None} == coinciding
    assert not coinciding & {*found.outside}
    assert found.spread == pytest.approx(0.01)
    assert all(m.low is None for m in found.metrics if not m.difference), "no image differs, so nothing bounds how many would"


def test_one_log_has_no_spread(run: Run, theirs: Path) -> None:
    found = compare_with_logs(run, "other", theirs)
    assert (found.spread, found.acr.predicted, found.within, found.agreement_among) == (None, None, None, ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("plian", r"no imported log at sigma 0\.5 is of row 'plian'.*plain"),
        ("short", r"noise_0\.5_1 does not hold image 3"),
    ],
)
def test_wrong_rows_are_refused(run: Run, theirs: Path, row: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        compare_with_logs(run, row, theirs)


@pytest.mark.parametrize(
    ("certify", "counts", "message"),
    [
        (CertifySpec(n0=100, n=1000, images="first:4"), (1000,) * 4, "no finished certification with n0=100, n=100000.*n=1000"),
        (CertifySpec(n0=10, n=LOGGED, images="first:4"), (LOGGED,) * 4, "n0=10"),
        (CertifySpec(n0=100, n=LOGGED, images="first:4", rule="curtailed"), (LOGGED,) * 4, "curtailed"),
        (CertifySpec(n0=100, n=LOGGED, images="first:4", sampling="grid"), (LOGGED,) * 4, "no finished certification"),
        (AS_LOGGED, (LOGGED,) * 3, "first:4 with n0=100, n=100000, clopper-pearson .certifying"),
        (AS_LOGGED, None, "no finished certification with n0=100, n=100000, clopper-pearson, as the logs have it$"),
        (CertifySpec(n0=100, n=LOGGED, images="first:1"), (LOGGED,), "at least two"),
    ],
)
def test_other_certifications_are_refused(
    tmp_path: Path, theirs: Path, certify: CertifySpec, counts: Sequence[int] | None, message: str
) -> None:
    run = add(Store(tmp_path / "runs"), run_spec(), counts, certify=certify)
    with pytest.raises(BenchError, match=message):
        compare_with_logs(run, "plain", theirs)


def test_other_sigmas_networks_and_labels_are_refused(tmp_path: Path, theirs: Path) -> None:
    store = Store(tmp_path / "runs")
    with pytest.raises(BenchError, match=r"no imported log of mnist at sigma 1;.*bench import"):
        compare_with_logs(add(store, run_spec(sigma=1.0), COUNTS, certify=AS_LOGGED), "plain", theirs)
    with pytest.raises(BenchError, match="is a resnet50, but the logs are of lenet"):
        compare_with_logs(add(store, run_spec(train={"arch": "resnet50"}), COUNTS, certify=AS_LOGGED), "plain", theirs)
    foreign = {"data_differences": ["made up"]}
    run = add(store, run_spec(seed=7), None, environment=foreign)
    certification = run.certification(AS_LOGGED)
    write_evidence(certification, COUNTS, (1, 2, 3, 4))
    with pytest.raises(BenchError, match=r"label"):
        compare_with_logs(run, "plain", theirs)


def test_the_command_of_a_run(run: Run, theirs: Path, bench: Callable[..., Result], tmp_path: Path) -> None:
    """A run is named by its folder or its key."""
    words = ("compare", run.path, "plain", "--logs", theirs)
    shown = bench(*words)
    assert shown.exit_code == 0, shown.output
    for part in (
        "3 imported logs of plain (mine: 1, 2, 3)",
        "n=100,000",
        "run - logs",
        "prediction interval",
        "same answer",
        "the run lies",
    ):
        assert part in shown.stdout
    assert bench("compare", run.spec.key[:6], "plain", "--logs", theirs, "--results", tmp_path / "runs").stdout == shown.stdout
    for format, part in (("markdown", "| ACR"), ("latex", r"\begin{tabular}"), ("html", "<table>")):
        assert part in bench(*words, "--format", format).stdout
    data = json.loads(bench(*words, "--format", "json").stdout)
    assert (data["within"], len(data["metrics"][0]["logs"])) == (compare_with_logs(run, "plain", theirs).within, 3)
    rows = list(csv.DictReader(io.StringIO(bench(*words, "--format", "csv").stdout)))
    assert [row["metric"] for row in rows[:2]] == ["ACR", "0.00"]
    assert float(rows[0]["run"]) == data["metrics"][0]["run"]
    assert [float(value) for value in rows[0]["logs"].split()] == data["metrics"][0]["logs"]
    assert {row["key"] for row in rows} == {run.spec.key}
    assert "the logs are plain" in rows[0]["note"]
    for refused, message in (
        (("gaussian", "plain", "--logs", theirs, "--results", tmp_path / "runs"), "no run in"),
        ((run.path, "plain", "--sigma", "0.5", "--alpha", "0.01"), "--sigma, --alpha: A is a run"),
        ((run.path, "plain", "--logs", tmp_path / "none"), "--logs"),
        ((run.path, "plain", "--results", theirs, "--format", "yaml"), "--format yaml is unknown"),
        (("fff0", "plain", "--results", tmp_path / "runs"), "no run in"),
    ):
        result = bench("compare", *refused)
        assert result.exit_code == 2
        assert message in result.stderr.replace("\n", " ")
        assert "Traceback" not in result.output
