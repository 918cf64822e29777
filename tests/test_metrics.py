"""Metrics on certificates whose radii are known."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fake_store import certificate
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from bench.errors import BenchError
from bench.evidence.columns import Columns
from bench.rules.bounds import certified_radius, lower_confidence_bound
from bench.spec import CertifySpec
from bench.store.runs import Store
from leaderboard.aggregate import Filters, collect
from leaderboard.metrics import (
    DEFAULT,
    METRICS,
    Cost,
    Outcomes,
    abstention_rate,
    average_certified_radius,
    certified_accuracy,
    columns_of,
    defined_in,
    metric,
    outcomes,
)
from leaderboard.metrics.known import bound_accuracy, budget_acr, radius_quantile

FULL = 2.463262615  # radius at sigma 1 of 1000 of 1000 samples, alpha 0.001
RIGHT, WRONG, ABSTAINS = (1000, None), (1000, 7), (549, None)  # 550 is the least count that certifies


def images(*cases: tuple[int, int | None]) -> Columns:
    return Columns.of([certificate(index, 3, count, selected=selected) for index, (count, selected) in enumerate(cases)])


def test_acr_counts_every_image() -> None:
    o = outcomes(images(RIGHT, WRONG, ABSTAINS, RIGHT), 0.001, 0.5)
    assert average_certified_radius(o) == pytest.approx(2 * 0.5 * FULL / 4, rel=1e-9)
    assert o.correct.tolist() == [True, False, False, True]
    assert o.abstained.tolist() == [False, False, True, False]
    assert o.radius.tolist() == pytest.approx([0.5 * FULL, 0.5 * FULL, 0, 0.5 * FULL], rel=1e-9)
    assert abstention_rate(o) == 0.25
    assert certified_accuracy(o, 0.0) == 0.5


def test_a_rule_that_certifies_given_radii_tells_accuracy_at_these_only() -> None:
    spec = CertifySpec(n0=100, n=1000, rule="rungs", radii="0,0.5")
    o = outcomes(images(RIGHT, WRONG, ABSTAINS, RIGHT), 0.001, 0.5, spec)
    asked = columns_of(["0", "0.25", "0.5", "0.75"], (), 10)
    assert [column.of_seed and column.of_seed(o) for column in asked] == [50, None, 50, None]


@pytest.mark.parametrize(("value", "said"), [("nan", "gives nan"), ("'x'", "gives 'x'"), ("1 / 0", "ZeroDivisionError"), ("None", "")])
def test_a_metric_that_gives_no_number_is_named(value: str, said: str) -> None:
    own = metric("own")(lambda o: eval(value, {"nan": math.nan}))
    (column,) = own.__metric__[1]((), 1)  # type: ignore[attr-defined]
    o = outcomes(images(RIGHT), 0.001, 0.5)
    if not said:
        assert column.of_seed(o) is None
        return
    with pytest.raises(BenchError, match=f"metric 'own' .*{said}"):
        column.of_seed(o)


def test_all_wrong_is_zero() -> None:
    o = outcomes(images(WRONG, ABSTAINS), 0.001, 0.5)
    assert (average_certified_radius(o), certified_accuracy(o, 0.0), abstention_rate(o)) == (0.0, 0.0, 0.5)


def test_certified_accuracy_is_strict_and_does_not_round() -> None:
    # 99,990 of 100,000 at sigma 0.5 is 1.745104: logs of three digits call it 1.75.
    o = outcomes(Columns.of([certificate(0, 3, 99_990, n=100_000)]), 0.001, 0.5)
    radius = float(o.radius[0])
    assert radius == pytest.approx(1.745104, abs=1e-6)
    assert certified_accuracy(o, 1.745) == 1
    assert certified_accuracy(o, radius) == 0
    assert certified_accuracy(o, math.nextafter(radius, 0)) == 1
    assert certified_accuracy(o, 1.75) == 0


def test_radii_are_those_of_the_bound_in_every_bit() -> None:
    counts = [550, 551, 700, 999, 1000]
    o = outcomes(images(*((count, None) for count in counts)), 0.001, 0.25)
    assert o.radius.tolist() == [certified_radius(count, 1000, 0.001, 0.25) for count in counts]


def test_order_of_evidence_does_not_matter() -> None:
    rows = [certificate(index, 3, count, selected=chosen) for index, (count, chosen) in enumerate([RIGHT, (700, None), (600, None), WRONG])]
    forward, backward = (outcomes(Columns.of(found), 0.001, 0.5) for found in (rows, rows[::-1]))
    assert forward.index.tolist() == backward.index.tolist() == [0, 1, 2, 3]
    assert average_certified_radius(forward) == average_certified_radius(backward)


def test_alpha_is_applied_when_read() -> None:
    rows = images((549, None))
    assert abstention_rate(outcomes(rows, 0.001, 0.5)) == 1
    assert abstention_rate(outcomes(rows, 0.01, 0.5)) == 0


def test_nothing_has_no_average() -> None:
    with pytest.raises(BenchError, match="no certificates"):
        outcomes(Columns.of([]), 0.001, 0.5)


def test_an_image_counts_once() -> None:
    with pytest.raises(BenchError, match="image 4 has two"):
        outcomes(Columns.of([certificate(4, 3, 1000), certificate(2, 3, 1000), certificate(4, 3, 900)]), 0.001, 0.5)


@pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf])
def test_strange_radius(radius: float) -> None:
    with pytest.raises(BenchError, match="must be a finite number from 0 up"):
        certified_accuracy(outcomes(images(RIGHT), 0.001, 0.5), radius)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.5, 0.5), (0.0, 0.5), (0.001, 0.0), (0.001, math.nan)])
def test_strange_alpha_or_sigma(alpha: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="must"):
        outcomes(images(RIGHT), alpha, sigma)


# ---- columns of a table


def value(word: str, o: Outcomes, number: int = 0) -> float | None:
    column = columns_of([word], ("0.50",), 10)[number]
    assert column.of_seed
    return column.of_seed(o)


def test_clean_accuracy_needs_no_certificate() -> None:
    # 501 of 1000 are a majority, but no certificate; a wrong selection does not hide a right majority.
    rows = [certificate(0, 3, 501), certificate(1, 3, 499), certificate(2, 3, 400, selected=2), certificate(3, 3, 1000)]
    o = outcomes(Columns.of(rows), 0.001, 0.5)
    assert o.right is not None
    assert o.right.tolist() == [True, False, True, True]
    assert value("clean", o) == 75
    assert value("0", o) == 25


def test_quantiles_are_over_all_images_with_wrong_ones_as_zero() -> None:
    o = outcomes(images(*[RIGHT] * 5, *[WRONG] * 4, ABSTAINS), 0.001, 0.5)
    assert [value("quantiles", o, number=k) for k in range(3)] == [0.0, 0.0, pytest.approx(0.5 * FULL, rel=1e-9)]
    low, middle, high = (value("bound", o, number=k) for k in range(3))
    assert low == lower_confidence_bound(549, 1000, 0.001)
    assert middle == high == lower_confidence_bound(1000, 1000, 0.001)


@given(st.lists(st.tuples(st.integers(0, 300), st.sampled_from([None, None, 7])), min_size=1), st.floats(0, 1, exclude_max=True))
def test_accuracy_at_a_threshold_of_the_bound_is_accuracy_at_its_radius(cases: list[tuple[int, int | None]], threshold: float) -> None:
    """Under the one-sided bound pA says the radius; nothing is certified below a half."""
    o = outcomes(Columns.of([certificate(i, 3, count, 300, chosen) for i, (count, chosen) in enumerate(cases)]), 0.01, 0.5)
    right = sum(
        chosen is None and lower_confidence_bound(count, 300, 0.01) > max(threshold, np.nextafter(0.5, 0)) for count, chosen in cases
    )
    assert bound_accuracy(o, threshold) == pytest.approx(100 * right / len(cases))


def test_the_median_is_the_middle_quantile() -> None:
    o = outcomes(images(*[RIGHT] * 3, ABSTAINS, WRONG), 0.001, 0.5)
    assert value("median", o) == radius_quantile(o, 50) == pytest.approx(0.5 * FULL, rel=1e-9)


@settings(max_examples=60)
@given(st.data())
def test_the_acr_of_a_smaller_budget_is_the_mean_over_sub_samples(data: st.DataObject) -> None:
    """By the definition: each possible count of the sub-sample with its probability; wrong images count 0 and stay in the denominator."""
    total = data.draw(st.integers(1, 400))
    n = data.draw(st.integers(1, total))
    counts = data.draw(st.lists(st.integers(0, total), min_size=1, max_size=5))
    rows = [certificate(i, 3, count, total) for i, count in enumerate(counts)] + [certificate(9, 3, total, total, selected=7)]
    found = budget_acr(outcomes(Columns.of(rows), 0.2, 0.5), n)
    radii = [certified_radius(k, n, 0.2, 0.5) or 0.0 for k in range(n + 1)]
    expected = sum(hypergeom.pmf(np.arange(n + 1), total, count, n) @ radii for count in counts) / len(rows)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if n == total:
        assert found == pytest.approx(average_certified_radius(outcomes(Columns.of(rows), 0.2, 0.5)), rel=1e-12)


def test_the_smaller_budgets_of_the_reference() -> None:
    """The numbers that docs/notes/tables.md states."""
    chosen = Filters(sigmas=[1.0], methods=["gaussian"], protocols=["full"])
    store = Store(Path(__file__).resolve().parent.parent / "results/reference")
    ((section,),) = (group.sections for group in collect(store, chosen, metrics=["budget", "ACR", "norms"]))
    found = {name: round(stat.mean, 4) for name, stat in section.rows[0].stats.items()}
    assert found == {"ACR-n-1000": 1.3805, "ACR-n-10000": 1.5471, "ACR": 1.6045, "ACR-L1": 1.6045, "ACR-Linf": round(1.6045 / 28, 4)}
    (group,) = collect(store, chosen, rule="two-sided", metrics=["budget"])
    assert not group.sections[0].rows[0].stats


def test_what_no_smaller_budget_can_be_read_from() -> None:
    o = outcomes(images(RIGHT, ABSTAINS), 0.001, 0.5)
    assert budget_acr(o, 1001) is None
    assert budget_acr(outcomes(Columns.of([certificate(0, 3, 900), certificate(1, 3, 900, n=2000)]), 0.001, 0.5), 100) is None
    stopping = outcomes(images(RIGHT), 0.001, 0.5, CertifySpec(n0=10, n=1000, rule="curtailed"))
    assert budget_acr(stopping, 100) is None
    assert budget_acr(outcomes(images(WRONG), 0.001, 0.5), 10) == 0


def test_an_acr_in_linf_needs_the_shape_of_the_images() -> None:
    o = outcomes(images(RIGHT, WRONG), 0.001, 0.5)
    assert [value("norms", o, k) for k in (0, 1)] == [average_certified_radius(o), None]
    assert value("norms", dataclasses.replace(o, dimension=784), 1) == pytest.approx(average_certified_radius(o) / 28)


def test_acr_by_class() -> None:
    o = outcomes(Columns.of([certificate(0, 3, 1000), certificate(1, 3, 549), certificate(2, 8, 1000)]), 0.001, 0.5)
    assert value("classes", o, number=3) == pytest.approx(0.5 * FULL / 2, rel=1e-9)
    assert value("classes", o, number=8) == pytest.approx(0.5 * FULL, rel=1e-9)
    assert value("classes", o, number=0) is None


def test_cost_is_what_was_recorded() -> None:
    o = outcomes(images(RIGHT), 0.001, 0.5)
    known = dataclasses.replace(o, cost=Cost(pairs=16, seconds=30.5))
    assert [value("cost", known, number) for number in (0, 1, 2)] == [16, 1010, 30.5]
    assert value("cost", o) is None


def test_what_imported_logs_cannot_say_is_not_said() -> None:
    o = outcomes(images(RIGHT, ABSTAINS), 0.001, 0.5)
    rounded = Outcomes(o.index, o.label, o.correct, o.abstained, o.radius)
    assert [value(word, rounded) for word in ("clean", "bound", "pa", "budget")] == [None] * 4
    assert value("abstention", rounded) == 50


def test_two_kinds_of_uncertainty_of_one_row() -> None:
    interval, error = columns_of(["errors"], (), 10)
    assert interval.of_row
    assert error.of_row
    rows = [outcomes(images(RIGHT, RIGHT, WRONG, third), 0.001, 0.5) for third in (RIGHT, WRONG)]
    full = 0.5 * FULL
    # ACR .75 and .5 of full: mean .625, std .17678; t(0.975, 1) = 12.7062. Image means 1, 1, 0, .5 of full: std .478714.
    assert interval.of_row(rows) == pytest.approx(12.706204736 * 0.25 / math.sqrt(2) / math.sqrt(2) * full, rel=1e-7)
    assert error.of_row(rows) == pytest.approx(0.4787135539 / 2 * full, rel=1e-7)
    assert interval.of_row(rows[:1]) is None
    assert error.of_row([outcomes(images(RIGHT), 0.001, 0.5)]) is None


def test_words_for_columns() -> None:
    def names(*words: str) -> list[str]:
        return [metric.name for metric in columns_of(words, ("0.00", "0.50"), 2)]

    assert names(*DEFAULT) == ["ACR", "0.00", "0.50"]
    assert names("accuracy", "0.5", "r=0.75", "1e-3") == ["0.00", "0.50", "0.75", "0.001"]
    assert names("classes", "ACR") == ["ACR-class-0", "ACR-class-1", "ACR"]
    assert names("-0.0") == ["0.00"]
    assert len(names("all")) == 3 + 1 + 1 + 3 + 2 + 2 + 2 + 3 + 4 + 3 + 2
    for word, told in (("clear", "did you mean 'clean'"), ("-1", "from 0 up"), ("nan", "finite"), ("inf", "finite")):
        with pytest.raises(BenchError, match=told):
            names(word)


def test_the_name_of_a_column_leads_to_its_metric() -> None:
    texts = {text for column in columns_of(["all"], (), 1) for text in (column.name, column.heading)} - set(METRICS)
    assert {"pA>0.9", "samples", "abstain"} <= texts
    for text in texts:
        for written in (text, text.upper()):
            with pytest.raises(BenchError) as raised:
                columns_of([written], (), 1)
            (word,) = re.findall(r"did you mean '(.+?)'", str(raised.value))
            assert text in {part for column in columns_of([word], (), 1) for part in (column.name, column.heading)}, written


def test_a_metric_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a module of one's own: one column, or a column for each value."""
    mine = ModuleType("mine")

    @metric("largest", decimals=3)
    def largest(o: Outcomes) -> float:
        """largest: the largest certified radius.

        Of all images.
        """
        return float(o.radius.max())

    @metric("at", each="radii", name="at-{}", heading="beyond {}", better="less", meaning="")
    def at(o: Outcomes, radius: str) -> float:
        return float((o.radius > float(radius)).sum())

    vars(mine).update(largest=largest, at=at, other=outcomes)
    for word, columns in defined_in(mine).items():
        monkeypatch.setitem(METRICS, word, columns)
    o = outcomes(images(RIGHT, WRONG, ABSTAINS), 0.001, 0.5)
    (one,) = columns_of(["largest"], (), 10)
    assert (one.name, one.heading, one.decimals, one.better, one.meaning) == (
        *("largest", "largest", 3, "more"),
        "largest: the largest certified radius.",
    )
    assert value("largest", o) == pytest.approx(0.5 * FULL)
    low, high = columns_of(["at"], ("0.5", "9.0"), 10)
    assert (low.name, low.heading, low.better, value("at", o)) == ("at-0.5", "beyond 0.5", "less", 2.0)
    assert high.of_seed
    assert high.of_seed(o) == 0.0
    assert {"largest", "at-0.5"} <= {column.name for column in columns_of(["all"], ("0.5",), 2)}
