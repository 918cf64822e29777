"""Two rows compared: across seeds, across test images, in a store and on the command line."""

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_logs import MANIFEST, write_log
from fake_store import CERTIFY, N, add, run_spec
from numpy.typing import ArrayLike
from scipy import stats
from typer.testing import Result

from bench.errors import BenchError
from bench.logs import import_logs
from bench.rules.bounds import certified_radius
from bench.spec import CertifySpec
from bench.store.runs import Store
from leaderboard import compare as comparing
from leaderboard.aggregate import collect
from leaderboard.compare import Evidence, compare, compare_accuracy, compare_images, compare_seeds, holm, separable_from_best

GOLDEN = os.environ.get("CERTBENCH_GOLDEN")
needs_golden = pytest.mark.skipif(not GOLDEN, reason="CERTBENCH_GOLDEN names no folder of third-party logs")
A5 = (0.91, 0.90, 0.93, 0.92, 0.915)
B5 = (0.95, 0.93, 0.94, 0.96, 0.935)


def evidence(radii: ArrayLike, label: str = "a", runs: Sequence[str] = (), seeded: bool = True) -> Evidence:
    """Rows of radii, one per run; a negative one is wrong with that radius."""
    table = np.array(radii, dtype=np.float64)  # S I
    names = tuple(runs) or tuple(map(str, range(len(table))))
    index = np.arange(table.shape[1])
    return Evidence(label=label, runs=names, seeded=seeded, index=index, truth=index % 10, correct=table > 0, radius=np.abs(table))


def of_means(means: Sequence[float], label: str = "a", seeded: bool = True) -> Evidence:
    """Runs with these ACRs on two images."""
    return evidence([(mean - 0.1, mean + 0.1) for mean in means], label, seeded=seeded)


def known(*values: float | None) -> tuple[float, ...]:
    """The values, none of which is missing."""
    found = tuple(value for value in values if value is not None)
    assert len(found) == len(values)
    return found


# ---- across seeds


def test_paired_seeds_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, deviation 1, t(2) = 4.30265."""
    result = compare_seeds(of_means((1, 2, 3)), of_means((2, 4, 6), "b"))
    low, high, effect, own = known(result.low, result.high, result.effect, result.std_difference)
    assert result.paired
    assert (result.mean_a, result.mean_b, result.std_a, result.std_b) == pytest.approx((2, 4, 1, 2))
    assert (result.difference, own, effect) == pytest.approx((2, 1, 2))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), abs=1e-6)


def test_paired_interval_is_that_of_scipy() -> None:
    result = compare_seeds(of_means(A5), of_means(B5, "b"))
    expected = stats.ttest_rel(B5, A5).confidence_interval(0.95)
    assert known(result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_pairs_follow_the_seed_and_not_the_place() -> None:
    turned = evidence([(mean, mean) for mean in reversed(B5)], "b", runs=("4", "3", "2", "1", "0"))
    straight = evidence([(mean, mean) for mean in B5], "b")
    assert compare_seeds(of_means(A5), turned) == compare_seeds(of_means(A5), straight)


@pytest.mark.parametrize("other", [B5, B5[:3]])
def test_unpaired_interval_is_that_of_welch(other: tuple[float, ...]) -> None:
    result = compare_seeds(of_means(A5, seeded=False), of_means(other, "b", seeded=False))
    expected = stats.ttest_ind(other, A5, equal_var=False).confidence_interval(0.95)
    assert not result.paired
    assert result.std_difference is None
    assert known(result.low, result.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_other_seeds_are_not_paired() -> None:
    assert not compare_seeds(of_means(A5), of_means(B5[:3], "b")).paired


def test_hedges_g_by_hand() -> None:
    """Means 2 and 5, variances 1 and 4, 3 runs each: pooled deviation sqrt(2.5), correction of 4 degrees of freedom."""
    result = compare_seeds(of_means((1, 2, 3), seeded=False), of_means((3, 5, 7), "b", seeded=False))
    correction = math.gamma(2) / (math.sqrt(2) * math.gamma(1.5))
    assert correction == pytest.approx(0.797885, abs=1e-6)
    assert known(result.effect) == pytest.approx((3 / math.sqrt(2.5) * correction,))


def sign_flips(a: Sequence[float], b: Sequence[float]) -> float:
    differences = [y - x for x, y in zip(a, b, strict=True)]
    seen = abs(sum(differences))
    flips = list(itertools.product((1, -1), repeat=len(a)))
    return sum(abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= seen - 1e-12 for signs in flips) / len(flips)


def relabelled(a: Sequence[float], b: Sequence[float]) -> float:
    everything = [*a, *b]
    seen = abs(statistics.fmean(b) - statistics.fmean(a))
    splits = list(itertools.combinations(range(len(everything)), len(a)))
    hits = 0
    for split in splits:
        mine = [everything[n] for n in split]
        rest = [v for n, v in enumerate(everything) if n not in split]
        hits += abs(statistics.fmean(rest) - statistics.fmean(mine)) >= seen - 1e-12
    return hits / len(splits)


@pytest.mark.parametrize("move", [0.0, 0.01, 0.1])
def test_permutation_p_by_enumeration(move: float) -> None:
    a = (0.913, 0.902, 0.937, 0.921, 0.9155, 0.908)
    b = tuple(x + move + d for x, d in zip(a, (0.011, -0.007, 0.004, 0.0031, -0.0022, 0.0053), strict=True))
    paired = compare_seeds(of_means(a), of_means(b, "b"))
    assert known(paired.p) == pytest.approx((sign_flips(a, b),))
    assert paired.p_least == 2 / 2**6
    unpaired = compare_seeds(of_means(a, seeded=False), of_means(b, "b", seeded=False))
    assert known(unpaired.p) == pytest.approx((relabelled(a, b),))
    assert unpaired.p_least == 2 / math.comb(12, 6)


def test_nothing_is_tested_where_no_p_is_small_enough() -> None:
    result = compare_seeds(of_means(A5), of_means(B5, "b"))
    assert (result.p, result.p_least) == (None, 0.0625)
    assert result.note == "5 paired seeds: the smallest two-sided p is 0.0625, so nothing is tested; 6 paired seeds would do"
    result = compare_seeds(of_means(A5[:3], seeded=False), of_means(B5[:3], "b", seeded=False))
    assert (result.p, result.p_least) == (None, 0.1)
    assert "6 paired seeds or 4 runs of each row would do" in result.note
    assert comparing.least_p(5, 5, False) == pytest.approx(2 / 252)
    assert [comparing.runs_needed(True, tests) for tests in (1, 2, 8)] == [6, 7, 9]


def test_one_seed_has_no_seed_uncertainty() -> None:
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


def test_bootstrap_agrees_with_the_exact_one() -> None:
    """All 4^4 resamples of four images, against 10,000 drawn ones; chunks join up."""
    d = np.array([0.0, 1.0, -0.25, 0.5])
    exact = sorted(statistics.fmean(draw) for draw in itertools.product(d.tolist(), repeat=4))
    means = comparing.bootstrap_means(np.stack([d, -d]))
    assert means.shape == (2, 10_000)
    assert np.array_equal(means[0], -means[1])
    assert float(means[0].mean()) == pytest.approx(statistics.fmean(exact), abs=0.01)
    for q in (0.025, 0.5, 0.975):
        assert float(np.quantile(means[0], q)) == pytest.approx(float(np.quantile(exact, q)), abs=0.07)


def test_bootstrap_is_the_same_in_every_call_and_company(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(size=(3, 50))
    whole = comparing.bootstrap_means(d)
    assert np.array_equal(whole, comparing.bootstrap_means(d))
    assert np.allclose(whole[1], comparing.bootstrap_means(d[1:2])[0], rtol=0, atol=1e-12)
    monkeypatch.setattr("leaderboard.compare.statistics.CHUNK", 50 * 1000)
    assert comparing.bootstrap_means(d[:1], 2500).shape == (1, 2500)
    assert np.isfinite(comparing.bootstrap_means(d[:1], 2500)).all()


@pytest.mark.parametrize(("images", "expected"), [(100, 0.932), (500, 0.944)])
def test_the_interval_covers_the_truth_nearly_as_often_as_it_says(images: int, expected: float) -> None:
    """Skewed differences with ties, true mean 0.1. Expected: measured with 12,000 samples of other seeds; 4 deviations here are 0.022.

    Few images cover a little less than 95 %, which the report says (`FEW_IMAGES`).
    """
    rng = np.random.default_rng(0)
    d = rng.exponential(0.2, (2000, images)) * (rng.random((2000, images)) < 0.5)
    low, high = np.quantile(comparing.bootstrap_means(d, 2000), (0.025, 0.975), axis=1)
    assert float(((low <= 0.1) & (high >= 0.1)).mean()) == pytest.approx(expected, abs=0.022)


def test_few_images_are_told(store: Store) -> None:
    fill(store)
    assert any("covers a little less than 95 %" in note for note in compare(store, "gaussian", "macer").notes)


def test_the_other_way_round_flips_every_sign() -> None:
    rng = np.random.default_rng(2)
    radii = rng.exponential(0.5, (2, 6, 60))
    a, b = evidence(radii[0]), evidence(radii[1] + 0.02, "b")
    (there,), (back,) = compare_images([(a, b)]), compare_images([(b, a)])
    assert (there.difference, there.low, there.high) == pytest.approx((-back.difference, -back.high, -back.low))
    assert (there.error, there.p, there.more_a, there.more_b) == pytest.approx((back.error, back.p, back.more_b, back.more_a))
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
    assert math.isnan(holm([0.01, None])[1])
    assert holm([]) == []


def test_which_rows_cannot_be_separated_from_the_best() -> None:
    rng = np.random.default_rng(3)
    base = rng.exponential(0.5, 400) + 0.2
    noise = rng.normal(0, 0.05, (2, 400))
    best = evidence([base + 0.03], "best")
    close = evidence([base + 0.029 + noise[0]], "close")
    far = evidence([base - 0.1 + noise[1]], "far")
    assert separable_from_best([far, close, best]) == ("close", "best")
    assert separable_from_best([far]) == ("far",)
    assert separable_from_best([]) == ()
    assert separable_from_best([best, evidence([base + 0.03], "twin")]) == ("best", "twin")


# ---- from a store


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


def test_alpha_is_applied_when_evidence_is_read(store: Store) -> None:
    fill(store)
    strict, loose = (compare(store, "gaussian", "macer", alpha=alpha).comparisons[0].seeds.mean_a for alpha in (0.0001, 0.05))
    assert strict < loose


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
    (bracketed,) = compare(store, "gaussian", "smoothmix.eta5[steps=3]", sigmas=[0.5]).comparisons
    assert known(bracketed.seeds.p_holm) == known(bracketed.seeds.p)
    (bracketed,) = compare(store, "smoothmix.eta5[steps=3]", "gaussian", sigmas=[0.5]).comparisons
    assert bracketed.a == "smoothmix.eta5[steps=3]"
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
    report = compare(store, "gaussian", "*")
    assert [c.b for c in report.comparisons] == ["macer"]
    assert any("left out: smoothadv at sigma 0.5 is not finished (0/2 seeds)" in note for note in report.notes)


def test_other_seeds_are_told(store: Store) -> None:
    fill(store)
    add(store, run_spec("macer", seed=2), (N, 990, 940, 0))
    report = compare(store, "gaussian", "macer")
    assert not report.comparisons[0].seeds.paired
    assert any("gaussian at sigma 0.5 has no run of seed 2" in note for note in report.notes)


@pytest.mark.parametrize("changes", [{"protocol": "smoke"}, {"recipe": "paper"}, {"changes": {"train.lr": 0.5}, "train": {"lr": 0.5}}])
def test_rows_of_other_groups_are_refused(store: Store, changes: dict[str, Any]) -> None:
    add(store, run_spec())
    add(store, run_spec("macer", **changes))
    with pytest.raises(BenchError, match=r"(?=.*gaussian in mnist)(?=.*macer in mnist).*in no comparable group"):
        compare(store, "gaussian", "macer")


def test_rows_certified_in_another_way_are_refused(store: Store) -> None:
    add(store, run_spec())
    add(store, run_spec("macer"), (N,) * 3, certify=CertifySpec(n0=10, n=N, images="first:3"))
    with pytest.raises(BenchError, match=r"(?=.*first:4)(?=.*first:3).*in no comparable group"):
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


def test_damaged_evidence_is_refused(store: Store) -> None:
    fill(store)
    run = next(run for run in store.runs() if run.spec.method == "macer")
    path = run.certification(CERTIFY).evidence
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(BenchError, match=r"not finished.*damaged"):
        compare(store, "gaussian", "macer", sigmas=[0.5])


def test_sections_of_a_table_can_be_marked(store: Store) -> None:
    fill(store)
    add(store, run_spec("smoothadv"), (N, N))
    (group,) = collect(store)
    (section,) = comparing.mark_ties(group).sections
    assert {row.label: row.tied for row in section.rows} == {
        "gaussian": True,
        "smoothadv": False,
        "macer": True,
    }  # 4 images separate nothing
    (mixture,) = collect(store, mix=True)
    with pytest.raises(BenchError, match="not ranked"):
        comparing.mark_ties(dataclasses.replace(mixture, mixed=True))


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
    assert c.images.high - c.images.low > 3 * (high - low) > 0  # seeds say far less than images
    assert (c.images.low, c.images.high) == pytest.approx(
        (c.images.difference - 1.96 * c.images.error, c.images.difference + 1.96 * c.images.error), abs=1e-4
    )
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


@pytest.mark.parametrize("format", ["terminal", "markdown"])
def test_the_command_prints_both_kinds(store: Store, bench: Callable[..., Result], format: str) -> None:
    fill(store, seeds=5)
    result = bench("compare", "gaussian", "macer", "--dataset", "mnist", "--sigma", "0.5", "--format", format, "--results", store.root)
    assert result.exit_code == 0, result.output
    for part in (
        "Across seeds",
        "another training",
        "Across images",
        "another sample of test images",
        "6 paired seeds would do",
        "5 paired",
    ):
        assert part in result.output, part


def test_csv_and_json_have_everything(store: Store, bench: Callable[..., Result]) -> None:
    fill(store, seeds=1)
    words = ("compare", "gaussian", "macer", "--results", store.root, "--format")
    lines = list(csv.DictReader(io.StringIO(bench(*words, "csv").output)))
    data = json.loads(bench(*words, "json").output)
    (c,) = data["comparisons"]
    assert [(x["uncertainty"], x["metric"]) for x in lines[:3]] == [("seeds", "ACR"), ("images", "ACR"), ("images", "0.00")]
    assert float(lines[1]["low"]) == c["images"]["low"]
    assert lines[0]["low"] == ""
    assert c["seeds"]["low"] is None
    assert float(lines[2]["p"]) == c["accuracies"][0]["p"] == 1.0
    assert len(lines) == 2 + len(c["accuracies"])
    assert "images" in data["meanings"]


def test_what_the_command_refuses(store: Store, bench: Callable[..., Result]) -> None:
    fill(store)
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
