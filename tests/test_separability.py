"""Which rows cannot be told from the best: the test's level on rows that exchange within images, its power, and where it is silent."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom, binomtest

from bench.errors import BenchError
from bench.rules.bounds import certified_radii, lower_confidence_bounds
from bench.store.runs import Store
from leaderboard.aggregate import Filters, collect
from leaderboard.compare import mark_ties, with_marks
from leaderboard.compare.separability import FLIPS, MARKS, pair_tests, reason_not_to_test
from leaderboard.compare.statistics import Floats
from leaderboard.tables.build import cells

GOLDEN = os.environ.get("CERTBENCH_GOLDEN")
LEVEL = 0.05
REFERENCE = Store(Path(__file__).resolve().parent.parent / "results" / "reference")


def radii(rows: int, images: int, spread: float, rng: np.random.Generator, sigma: float = 0.5, n: int = 10_000) -> Floats:
    """Radii of made-up counts, rows x images: images are harder or easier, rows get better by `spread` each, and every row errs on its own.

    About a third of the images reach the largest radius under all rows, as on MNIST at this sigma.
    """
    hard = rng.normal(2.6, 1.6, images) + spread * np.arange(rows)[:, None]
    counts = rng.binomial(n, ndtr(hard + rng.normal(0, 0.15, (rows, images)) * (hard < 4)))
    bounds = lower_confidence_bounds(counts.ravel(), np.full(counts.size, n), 0.001)
    return np.nan_to_num(certified_radii(bounds, sigma)).reshape(rows, images)


def published() -> Floats:
    """Ten trainings of two rows at sigma 0.25, where 83 % of the images tie: the logs of the golden folder. 10 x 10,000."""
    found = sorted(Path(GOLDEN or "").glob("smoothmix-logs/mnist/**/noise_0.25*"))
    assert len(found) == 10
    columns = (np.loadtxt(path, skiprows=1, usecols=(3, 4), unpack=True) for path in found)
    return np.stack([radius * correct for radius, correct in columns])


def rejected(values: Floats, images: int, draws: int, rng: np.random.Generator, *, exchanged: bool, flips: int = 199) -> int:
    """In how many draws of so many images any two rows are told apart; exchanged within each image, or left as they are."""
    count = 0
    for _ in range(draws):
        drawn = values[:, rng.integers(0, values.shape[1], images)]
        drawn = rng.permuted(drawn, axis=0) if exchanged else drawn
        count += bool((pair_tests(drawn, flips, int(rng.integers(2**31))) <= LEVEL).any())
    return count


@pytest.mark.parametrize("rows", [2, 9])
def test_equal_rows_are_told_apart_no_more_often_than_the_level_says(rows: int) -> None:
    """500 images, 1,000 draws; and the very same rows, not exchanged, are told apart nearly always."""
    rng = np.random.default_rng(rows)
    values = radii(rows, 10_000, 0.3 / rows, rng)
    assert rejected(values, 500, 1000, rng, exchanged=True) <= binom.ppf(0.999, 1000, LEVEL)
    assert rejected(values, 500, 20, rng, exchanged=False) >= 18


@pytest.mark.slow
@pytest.mark.parametrize("source", ["counts", pytest.param("logs", marks=pytest.mark.skipif(not GOLDEN, reason="no CERTBENCH_GOLDEN"))])
@pytest.mark.parametrize(("images", "draws"), [(500, 4000), (2000, 2000), (10_000, 600)])
def test_error_rates(source: str, images: int, draws: int) -> None:
    """Of nine rows of counts, or of ten published trainings; printed with exact 95 % intervals."""
    rng = np.random.default_rng(images)
    values = published() if source == "logs" else radii(9, 10_000, 0.03, rng)
    found = {exchanged: rejected(values, images, draws if exchanged else 50, rng, exchanged=exchanged) for exchanged in (True, False)}
    for (exchanged, count), n in zip(found.items(), (draws, 50), strict=True):
        low, high = binomtest(count, n).proportion_ci()
        what = "type I error" if exchanged else "power"
        print(f"\n{source}, {images:,} images, {len(values)} rows: {what} {count}/{n} = {count / n:.3f} [{low:.3f}, {high:.3f}]")
    assert found[True] <= binom.ppf(0.999, draws, LEVEL)
    assert found[False] >= 25


def by_enumeration(values: Floats) -> Floats:
    """The p of every pair, from all signs of all images and Student's t."""
    pairs = list(itertools.combinations(range(len(values)), 2))
    images = values.shape[1]
    d = np.stack([values[a] - values[b] for a, b in pairs])

    def t(signs: Floats) -> Floats:
        turned = d * signs
        error = turned.std(axis=1, ddof=1) / np.sqrt(images)
        found: Floats = np.abs(turned.mean(axis=1)) / np.where(error > 0, error, np.inf)
        return found

    seen = t(np.ones(images))
    largest = np.array([t(np.array(signs)).max() for signs in itertools.product((-1.0, 1.0), repeat=images)])
    p = np.ones((len(values), len(values)))
    for (a, b), own in zip(pairs, seen, strict=True):
        p[a, b] = p[b, a] = (largest >= own - 1e-9).mean()
    return p


def test_pairs_against_all_sign_flips() -> None:
    rng = np.random.default_rng(4)
    values = rng.exponential(0.5, (3, 10)).round(1) + np.array([[0.0], [0.0], [0.5]])
    assert pair_tests(values, 20_000) == pytest.approx(by_enumeration(values), abs=0.015)


def test_what_does_not_change_a_p() -> None:
    """The order of rows, their sign, a shift and a scale of all; equal rows tie; the same call says the same."""
    rng = np.random.default_rng(5)
    values = radii(4, 600, 0.02, rng)
    p = pair_tests(values, 999)
    order = rng.permutation(4)
    assert (np.diag(p) == 1).all()
    assert np.array_equal(p, p.T)
    assert np.array_equal(pair_tests(values, 999), p)
    assert np.array_equal(pair_tests(values[order], 999), p[np.ix_(order, order)])
    assert np.array_equal(pair_tests(-3 * values + rng.normal(size=600), 999), p)
    twins = np.stack([values[0], values[0] + 1e-14, values[1] + 1])
    assert pair_tests(twins, 999)[0] == pytest.approx([1, 1, 0.001])
    assert pair_tests(values[:2], 999)[0, 1] <= p[0, 1], "more rows, more pairs to correct for"


def test_few_images_and_few_that_differ_are_not_tested() -> None:
    base = np.linspace(0, 1, 10_000)

    def differing(images: int, share: float) -> Floats:
        return np.stack([base[:images], base[:images] + (np.arange(images) < share * images)])

    for images, share, tested in (
        (499, 1.0, False),
        (500, 1.0, True),
        (500, 0.6, True),
        (500, 0.4, False),
        (2000, 0.2, False),
        (10_000, 0.2, True),
    ):
        assert bool(reason_not_to_test(differing(images, share))) != tested, (images, share)
    assert FLIPS > 20 / LEVEL


def test_marks_of_the_reference_rows() -> None:
    """500 images tell rows apart at sigma 0.5; at sigma 0.25 most of them tie; 100 images are not tested at all."""
    groups = collect(REFERENCE, metrics=("ACR",))
    shown = {}
    for group in map(mark_ties, groups):
        name = f"{group.conditions['protocol']}{' changed' if group.conditions.get('changes') else ''}"
        shown[name] = group.ties, {(s.sigma, row.label): row.tied for s in group.sections for row in s.rows if row.finished}
    ties, tied = shown["quick"]
    assert set(tied.values()) == {None}
    assert ties.startswith("not tested (100 images")
    ties, tied = shown["full"]
    assert {label: value for (sigma, label), value in tied.items() if sigma == 0.5} == {
        "gaussian": False,
        "stability": False,
        "macer": False,
        "consistency": True,
    }
    assert {value for (sigma, _), value in tied.items() if sigma == 0.25} == {None}
    assert "not of methods" in ties
    assert f"{FLIPS:,} flips, seed 0" in ties
    assert "Not tested at sigma 0.25 (" in ties


def test_each_kind_of_marks_and_no_other() -> None:
    """Numbers stay; `paper` marks what is better and best, `test` what cannot be told from the best, `none` nothing."""
    (group,) = (g for g in collect(REFERENCE, Filters(protocols=["full"]), metrics=("ACR",)) if not g.conditions.get("changes"))
    shown = {}
    for marks in MARKS:
        marked = with_marks(group, marks)
        found = [cell for section in marked.sections for line in cells(marked, section) for cell in line]
        shown[marks] = [cell.text for cell in found]
        assert any(cell.bold for cell in found) == any(cell.underlined for cell in found) == (marks == "paper")
        assert any(cell.tied for cell in found) == (marks == "test")
    assert shown["paper"] == shown["test"] == shown["none"]
    with pytest.raises(BenchError):
        with_marks(group, "tests")
