"""Sign flips of rows: their level and power, the interval that inverts them, where they are silent, and what a table marks by them."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_store import add, new_store, run_spec, write_evidence
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import DOCS, flat
from scipy.special import ndtr
from scipy.stats import binom, binomtest

from bench.data import load
from bench.errors import BenchError
from bench.rules.bounds import Floats, certified_radii, lower_confidence_bounds
from bench.spec import CertifySpec
from bench.store.runs import Store
from leaderboard.aggregate import Filters, collect
from leaderboard.flips import FLIPS, LEVEL, flip_each, flip_pairs, reason_not_to_test, summable
from leaderboard.tables import with_marks
from leaderboard.tables.build import cells
from leaderboard.tables.marks import MARKS, mark_ties

GOLDEN = os.environ.get("CERTBENCH_GOLDEN")
needs_logs = pytest.mark.skipif(not GOLDEN, reason="CERTBENCH_GOLDEN names no folder of third-party logs")
REFERENCE = Store(Path(__file__).resolve().parent.parent / "results" / "reference")


def radii(rows: int, images: int, spread: float, rng: np.random.Generator, sigma: float = 0.5, n: int = 10_000) -> Floats:
    """Radii of made-up counts, rows x images: images are harder or easier, rows get better by `spread` each, and every row errs on its own.

    About a third of the images reach the largest radius under all rows, as on MNIST at this sigma.
    """
    hard = rng.normal(2.6, 1.6, images) + spread * np.arange(rows)[:, None]
    counts = rng.binomial(n, ndtr(hard + rng.normal(0, 0.15, (rows, images)) * (hard < 4)))
    bounds = lower_confidence_bounds(counts.ravel(), np.full(counts.size, n), 0.001)
    return np.nan_to_num(certified_radii(bounds, sigma)).reshape(rows, images)


def published(sigma: float) -> Floats:
    """Five trainings each of two rows, from the logs of the golden folder: 10 x 10,000. At sigma 0.25 two rows differ on 17 %."""
    found = [path for path in sorted(Path(GOLDEN or "").glob("smoothmix-logs/mnist/**/noise_*")) if float(path.name.split("_")[1]) == sigma]
    assert len(found) == 10
    columns = (np.loadtxt(path, skiprows=1, usecols=(3, 4), unpack=True) for path in found)
    return np.stack([radius * correct for radius, correct in columns])


def reference(protocol: str, sigma: float) -> Floats:
    """A training of each finished row of results/reference at a noise level: 14 x 500 of protocol quick, 4 x 500 of full at sigma 0.5."""
    groups = collect(REFERENCE, Filters(protocols=[protocol], sigmas=[sigma]), metrics=("ACR",))
    (section,) = next(group for group in groups if not group.conditions.get("changes")).sections
    return np.stack([row.outcomes[0].values for row in section.rows if row.finished])


def of_equal_means(values: Floats) -> Floats:
    """The rows, scaled where they do not all tie so that their means are equal: their differences stay skewed."""
    free = np.ptp(values, axis=0) > 0
    wanted, fixed = values.mean() * values.shape[1], values[:, ~free].sum(axis=1)
    result = values.copy()
    result[:, free] *= ((wanted - fixed) / values[:, free].sum(axis=1))[:, None]
    return result


def all_pairs(values: Floats, seed: int) -> bool:
    """Whether any two rows are told apart."""
    return bool((flip_pairs(values, 199, seed) <= LEVEL).any())


def first_and_last(values: Floats, seed: int) -> bool:
    """Whether these two rows are, as `bench compare` does it."""
    return bool(flip_each(values[-1:] - values[:1], 199, seed).p[0] <= LEVEL)


def rejected(
    values: Floats,
    images: int,
    draws: int,
    rng: np.random.Generator,
    *,
    exchanged: bool,
    differ: Callable[[Floats, int], bool] = all_pairs,
    silent: bool = False,
) -> int:
    """In how many draws of so many images rows are told apart; exchanged within each image, or left as they are.

    silent: where a table would not test, nothing is told apart.
    """
    count = 0
    for _ in range(draws):
        drawn = values[:, rng.integers(0, values.shape[1], images)]
        drawn = rng.permuted(drawn, axis=0) if exchanged else drawn
        count += not (silent and reason_not_to_test(drawn)) and differ(drawn, int(rng.integers(2**31)))
    return count


def told(what: str, count: int, draws: int) -> None:
    low, high = binomtest(count, draws).proportion_ci()
    print(f"{what:<74} {count:>4}/{draws} = {count / draws:.3f} [{low:.3f}, {high:.3f}]")


@pytest.mark.parametrize("rows", [2, 9])
def test_equal_rows_are_told_apart_no_more_often_than_the_level_says(rows: int) -> None:
    """500 images, 1,000 draws; and the very same rows, not exchanged, are told apart nearly always."""
    rng = np.random.default_rng(rows)
    values = radii(rows, 10_000, 0.3 / rows, rng)
    assert rejected(values, 500, 1000, rng, exchanged=True) <= binom.ppf(0.999, 1000, LEVEL)
    assert rejected(values, 500, 20, rng, exchanged=False) >= 18


# ---- the simulation: `pytest -m slow -s tests/test_separability.py` prints it

SOURCES = [None, *(pytest.param(sigma, marks=needs_logs, id=f"logs-{sigma:g}") for sigma in (0.25, 0.5, 1.0))]


def drawn_from(sigma: float | None, rng: np.random.Generator) -> tuple[Floats, str]:
    """Rows of 10,000 images and what they are called: of the published logs of a noise level, or of made-up counts."""
    return (radii(9, 10_000, 0.03, rng), "made-up counts") if sigma is None else (published(sigma), f"published logs at sigma {sigma:g}")


@pytest.mark.slow
@pytest.mark.parametrize("sigma", SOURCES)
@pytest.mark.parametrize(("images", "draws"), [(100, 4000), (500, 3000), (10_000, 600)])
def test_error_rates(sigma: float | None, images: int, draws: int) -> None:
    """Of the marks of a table and of the p of a comparison, with exact 95 % intervals: nine rows of counts or ten published trainings.

    Type I errors from rows that are exchanged within images, and from rows that have equal means and no more; where so many images tie
    that nothing is tested, none is made.
    """
    rng = np.random.default_rng(images)
    values, where = drawn_from(sigma, rng)
    silent = bool(reason_not_to_test(values[:, :images]))
    print(f"\n{where}, {images:,} images" + ": not tested" * silent)
    for name, differ in (("any two of all rows", all_pairs), ("the first and the last row", first_and_last)):
        for exchanged, n in ((True, draws), (False, 50)):
            count = rejected(values, images, n, rng, exchanged=exchanged, differ=differ, silent=True)
            told(f"  {'type I error' if exchanged else 'told apart as they are'}, {name}", count, n)
            assert not exchanged or count <= binom.ppf(0.999, n, LEVEL)
            assert exchanged or silent or count >= n / 2
    count = rejected(of_equal_means(values), images, draws // 2, rng, exchanged=False, silent=True)
    told("  equal means, skewed differences, any two of all rows", count, draws // 2)
    assert count <= binom.ppf(0.999, draws // 2, 0.075), "which no exchange makes equal, and the test is only nearly right"


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "sigma"), [("full", 0.5), ("quick", 0.5), ("quick", 1.0)])
def test_power(protocol: str, sigma: float) -> None:
    """On images drawn from the reference rows: silence would pass the simulation above."""
    rng = np.random.default_rng(7)
    values = reference(protocol, sigma)
    print(f"\nresults/reference, protocol {protocol}, sigma {sigma:g}, {values.shape[1]} images, {len(values)} rows")
    for name, differ in (("any two of all rows", all_pairs), ("the first and the last row", first_and_last)):
        count = rejected(values, values.shape[1], 300, rng, exchanged=False, differ=differ, silent=True)
        told(f"  told apart, {name}", count, 300)
        assert count >= 240


@pytest.mark.slow
@pytest.mark.parametrize("sigma", SOURCES)
@pytest.mark.parametrize("images", [100, 500, 2000])
def test_coverage(sigma: float | None, images: int) -> None:
    """How often the interval of a comparison holds the difference on all 10,000 images, where the difference is not 0."""
    rng = np.random.default_rng(images)
    values, where = drawn_from(sigma, rng)
    difference = values[-1] - values[0]
    held = made = 0
    for _ in range(1000):
        drawn = rng.integers(0, 10_000, images)
        if not reason_not_to_test(values[[0, -1]][:, drawn]):
            found = flip_each(difference[None, drawn], 999, int(rng.integers(2**31)))
            made += 1
            held += bool(found.low[0] <= difference.mean() <= found.high[0])
    print(f"\n{where}, {images:,} images; intervals made: {made}")
    if made:
        told("  the interval holds the difference", held, made)
        assert held >= binom.ppf(0.001, made, 0.93)


# ---- against other ways to compute it


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
    assert flip_pairs(values, 20_000) == pytest.approx(by_enumeration(values), abs=0.015)


def test_a_pair_alone_is_a_table_of_two_rows() -> None:
    rng = np.random.default_rng(8)
    values = radii(4, 300, 0.01, rng)
    values[3] = values[0]
    pairs = list(itertools.combinations(range(4), 2))
    found = flip_each(np.stack([values[b] - values[a] for a, b in pairs]), 999)
    assert found.p.tolist() == [flip_pairs(values[[a, b]], 999)[0, 1] for a, b in pairs]
    assert (found.p[2], found.low[2], found.high[2]) == (1, 0, 0)
    alone = [flip_each((values[b] - values[a])[None], 999) for a, b in pairs]
    assert [(one.low[0], one.high[0]) for one in alone] == list(zip(found.low, found.high, strict=True)), "to the last bit"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 10_000), st.floats(1e-6, 1e3), st.randoms(use_true_random=False))
def test_sums_are_exact_in_any_order(images: int, size: float, chance: random.Random) -> None:
    values = np.random.default_rng(chance.randrange(2**32)).standard_normal((2, images)) * size
    found = summable(values)
    assert (np.abs(found - values).max(axis=1) <= 1e-15 * images * np.abs(values).max(axis=1)).all()
    for row in found:
        flipped = [value * chance.choice((1, -1)) for value in row.tolist()]
        assert sum(sorted(flipped)) == sum(flipped) == math.fsum(flipped)


@pytest.mark.parametrize("images", [7, 60])
def test_the_interval_holds_what_is_not_rejected(images: int) -> None:
    """Each value around the ends, moved to 0, has a p above the level where the interval holds it, and there alone."""
    rng = np.random.default_rng(images)
    differences = rng.exponential(0.2, (3, images)) * (rng.random((3, images)) < 0.7)
    found = flip_each(differences, 1999)
    assert (found.low < differences.mean(axis=1)).all()
    ends = np.concatenate([found.low, found.high])
    for value in (ends[:, None] + np.array([-1e-7, 1e-7, *rng.normal(0, 0.02, 6)])).ravel():
        kept = flip_each(differences - value, 1999).p > LEVEL
        assert kept.tolist() == ((found.low <= value) & (value <= found.high)).tolist()


def test_five_images_reject_nothing() -> None:
    """Of six, two of 64 flips do: p = 0.031."""
    for images, least in ((5, 0.0625), (6, 0.03125)):
        found = flip_each(np.linspace(1, 2, images)[None], 20_000)
        assert found.p[0] == pytest.approx(least, abs=0.005)
        assert np.isfinite([found.low[0], found.high[0]]).all() == (least <= LEVEL)


@pytest.mark.parametrize(("images", "least"), [(100, 0.91), (500, 0.925)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(images: int, least: float) -> None:
    """Skewed differences with ties, true mean 0.1; 600 draws, from which the bounds are three deviations below what they should be."""
    rng = np.random.default_rng(0)
    d = rng.exponential(0.2, (600, images)) * (rng.random((600, images)) < 0.5)
    found = flip_each(d, 999)
    assert least <= float(((found.low <= 0.1) & (found.high >= 0.1)).mean()) <= 0.98


def test_what_does_not_change_a_p() -> None:
    """The order of rows, their sign, a shift and a scale of all; equal rows tie; the same call says the same."""
    rng = np.random.default_rng(5)
    values = radii(4, 600, 0.02, rng)
    p = flip_pairs(values, 999)
    order = rng.permutation(4)
    assert (np.diag(p) == 1).all()
    assert np.array_equal(p, p.T)
    assert np.array_equal(flip_pairs(values, 999), p)
    assert np.array_equal(flip_pairs(values[order], 999), p[np.ix_(order, order)])
    assert np.array_equal(flip_pairs(-3 * values + rng.normal(size=600), 999), p)
    twins = np.stack([values[0], values[0] + 1e-14, values[1] + 1])
    assert flip_pairs(twins, 999)[0] == pytest.approx([1, 1, 0.001])
    assert flip_pairs(values[:2], 999)[0, 1] <= p[0, 1], "more rows, more pairs to correct for"


# ---- where nothing is tested, and what a table shows


def test_few_images_and_few_that_differ_are_not_tested() -> None:
    base = np.linspace(0, 1, 10_000)

    def differing(images: int, share: float) -> Floats:
        return np.stack([base[:images], base[:images] + (np.arange(images) < share * images)])

    for images, share, tested in (
        (99, 1.0, False),
        (100, 1.0, True),
        (100, 0.5, True),
        (100, 0.49, False),
        (499, 0.49, False),
        (500, 0.1, True),
        (10_000, 0.005, True),
        (10_000, 0.004, False),
    ):
        assert bool(reason_not_to_test(differing(images, share))) != tested, (images, share)
    assert FLIPS > 20 / LEVEL


def test_marks_of_the_reference_rows() -> None:
    """500 images tell rows apart at every noise level."""
    groups = collect(REFERENCE, metrics=("ACR",))
    shown = {}
    for group in map(mark_ties, groups):
        name = f"{group.conditions['protocol']}{' changed' if group.conditions.get('changes') else ''}"
        shown[name] = group.ties, {(s.sigma, row.label): row.tied for s in group.sections for row in s.rows if row.finished}
    for ties, _ in (shown["quick changed"], shown["full"]):
        assert "not of methods" in ties
        assert f"{FLIPS:,} flips, seed 0" in ties
        assert "not tested" not in ties
    _, tied = shown["quick changed"]
    assert {key for key, value in tied.items() if value} == {
        *((0.25, row) for row in ("smoothadv", "smoothmix.eta1-onestep", "sphere")),
        (0.5, "sphere"),
        *((1.0, row) for row in ("adaptive", "sphere")),
    }
    _, tied = shown["full"]
    assert {key for key, value in tied.items() if value} == {(sigma, "consistency") for sigma in (0.25, 0.5, 1.0)}
    assert len(tied) == 12
    assert shown["full changed"][0] == "Nothing is marked: not tested (one finished row)."


def test_a_noise_level_where_most_images_tie_is_named(tmp_path: Path) -> None:
    """The line below the table names it; the other levels are tested."""
    store, labels = new_store(tmp_path), load("mnist", "test").labels[:100].tolist()
    for sigma, (row, more) in itertools.product((0.25, 0.5), (("gaussian", 0), ("macer", 90))):
        certification = add(store, run_spec(row, sigma=sigma), None).certification(CertifySpec(n0=100, n=1000, images="first:100"))
        write_evidence(certification, [900 + more * (sigma == 0.5 or image < 20) for image in range(100)], labels)
    (group,) = map(mark_ties, collect(store, metrics=("ACR",)))
    tied = [{row.label: row.tied for row in section.rows} for section in group.sections]
    assert tied == [{"gaussian": None, "macer": None}, {"gaussian": False, "macer": True}]
    assert "not tested at sigma 0.25: two rows differ on 20 of 100 images;" in group.ties


def test_a_row_that_differs_from_the_best_on_few_images_is_never_told_from_it(tmp_path: Path) -> None:
    """On 8 of 500, always the same way, though the two differ from a third row on all: alone they would not be tested."""
    store, labels = new_store(tmp_path), load("mnist", "test").labels[:500].tolist()
    for row, count, more in (("gaussian", 900, 0), ("macer", 900, 90), ("stability", 600, 0)):
        certification = add(store, run_spec(row), None).certification(CertifySpec(n0=100, n=1000, images="first:500"))
        write_evidence(certification, [count + more * (image < 8) for image in range(500)], labels)
    (group,) = collect(store, metrics=("ACR",))
    (section,) = mark_ties(group).sections
    assert {row.label: row.tied for row in section.rows} == {"gaussian": True, "macer": True, "stability": False}
    values = np.stack([row.values for row in section.rows if row.label != "stability"])
    assert reason_not_to_test(values)
    assert flip_pairs(values, 999)[0, 1] <= LEVEL


def test_each_kind_of_marks_and_no_other() -> None:
    """Numbers stay; `test` has bold what cannot be told from the best, `paper` marks what is better and best, `none` nothing."""
    (group,) = (g for g in collect(REFERENCE, Filters(protocols=["full"]), metrics=("ACR", "0.5")) if not g.conditions.get("changes"))
    shown = {}
    for marks in MARKS:
        marked = with_marks(group, marks)
        found = [(row, cell) for s in marked.sections for row, line in zip(s.rows, cells(marked, s), strict=True) for cell in line]
        shown[marks] = [cell.text for _, cell in found]
        assert any(cell.underlined for _, cell in found) == (marks == "paper")
        bold = [(row.label, cell.text) for row, cell in found if cell.bold]
        assert bool(bold) == (marks != "none")
        if marks == "test":
            assert bold == [("consistency", "0.9180"), ("consistency", "1.6312"), ("consistency", "1.7253")]
    assert shown["paper"] == shown["test"] == shown["none"]
    with pytest.raises(BenchError):
        with_marks(group, "tests")


def test_the_page_on_tables_tells_what_its_picture_shows() -> None:
    """docs/guide/reading-a-table.md: the picture is small, and its bold numbers and deviations are those of results/reference."""
    (group,) = map(mark_ties, collect(REFERENCE, Filters(protocols=["quick"], sigmas=[1.0]), metrics=("ACR",)))
    found = {
        row.label: (f"{row.stats['ACR'].mean:.4f}", np.mean([o.values for o in row.outcomes], axis=0)) for row in group.sections[0].rows
    }
    bold = [found[row.label][0] for row in group.sections[0].rows if row.tied]
    deviations = [(found["sphere"][1] - found[label][1]).std(ddof=1) for label in ("adaptive", "smoothmix.eta1-onestep")]
    page = flat("guide/reading-a-table.md")
    assert f"these are {', '.join(bold[:-1])} and {bold[-1]}" in page
    assert f"is {deviations[0]:.2f}, the other's {deviations[1]:.2f}" in page
    assert (DOCS / "guide" / "table.png").stat().st_size < 150_000
