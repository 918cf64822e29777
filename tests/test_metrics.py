"""Metrics on certificates whose radii are known."""

from __future__ import annotations

import math

import pytest
from fake_store import certificate

from bench.bounds import certified_radius
from bench.errors import BenchError
from bench.records import Certificate
from leaderboard.metrics import abstention_rate, average_certified_radius, certified_accuracy, outcomes

FULL = 2.463262615  # radius at sigma 1 of 1000 of 1000 samples, alpha 0.001
RIGHT, WRONG, ABSTAINS = (1000, None), (1000, 7), (549, None)  # 550 is the least count that certifies


def images(*cases: tuple[int, int | None]) -> list[Certificate]:
    return [certificate(index, 3, count, selected=selected) for index, (count, selected) in enumerate(cases)]


def test_acr_counts_every_image() -> None:
    o = outcomes(images(RIGHT, WRONG, ABSTAINS, RIGHT), 0.001, 0.5)
    assert average_certified_radius(o) == pytest.approx(2 * 0.5 * FULL / 4, rel=1e-9)
    assert o.correct.tolist() == [True, False, False, True]
    assert o.abstained.tolist() == [False, False, True, False]
    assert o.radius.tolist() == pytest.approx([0.5 * FULL, 0.5 * FULL, 0, 0.5 * FULL], rel=1e-9)
    assert abstention_rate(o) == 0.25
    assert certified_accuracy(o, 0.0) == 0.5


def test_all_wrong_is_zero() -> None:
    o = outcomes(images(WRONG, ABSTAINS), 0.001, 0.5)
    assert (average_certified_radius(o), certified_accuracy(o, 0.0), abstention_rate(o)) == (0.0, 0.0, 0.5)


def test_certified_accuracy_is_strict_and_does_not_round() -> None:
    # 99,990 of 100,000 at sigma 0.5 is 1.745104: logs of three digits call it 1.75.
    o = outcomes([certificate(0, 3, 99_990, n=100_000)], 0.001, 0.5)
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
    rows = images(RIGHT, (700, None), (600, None), WRONG, ABSTAINS)
    forward, backward = outcomes(rows, 0.001, 0.5), outcomes(rows[::-1], 0.001, 0.5)
    assert forward.index.tolist() == backward.index.tolist() == [0, 1, 2, 3, 4]
    assert average_certified_radius(forward) == average_certified_radius(backward)


def test_alpha_is_applied_when_read() -> None:
    rows = images((549, None))
    assert abstention_rate(outcomes(rows, 0.001, 0.5)) == 1
    assert abstention_rate(outcomes(rows, 0.01, 0.5)) == 0


def test_nothing_has_no_average() -> None:
    with pytest.raises(BenchError, match="no certificates"):
        outcomes([], 0.001, 0.5)


def test_an_image_counts_once() -> None:
    with pytest.raises(BenchError, match="image 4 has two"):
        outcomes([certificate(4, 3, 1000), certificate(2, 3, 1000), certificate(4, 3, 900)], 0.001, 0.5)


@pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf])
def test_strange_radius(radius: float) -> None:
    with pytest.raises(BenchError, match="must be a finite number from 0 up"):
        certified_accuracy(outcomes(images(RIGHT), 0.001, 0.5), radius)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.5, 0.5), (0.0, 0.5), (0.001, 0.0), (0.001, math.nan)])
def test_strange_alpha_or_sigma(alpha: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="must"):
        outcomes(images(RIGHT), alpha, sigma)
