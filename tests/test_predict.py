"""PREDICT: known answers, its error by enumeration, and its noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from bench.certify import Sampler
from bench.certify.predict import Prediction, check_samples, least_samples, predict, predicted, write
from bench.errors import BenchError


def two_sided(first: int, second: int) -> Fraction:
    """P(|K - n/2| >= |first - n/2|) for K ~ Binomial(n, 1/2), in whole numbers."""
    n = first + second
    far = abs(2 * first - n)
    return Fraction(sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= far), 2**n)


def test_the_rule_is_the_exact_two_sided_test() -> None:
    for n, alpha in itertools.product((5, 11, 12, 40), (0.001, 0.01, 0.05, 0.3)):
        for first in range((n + 1) // 2, n + 1):
            p = two_sided(first, n - first)
            if abs(float(p) - alpha) > 1e-12:
                assert (predicted({0: first, 1: n - first}, alpha) is not None) == (p < alpha)


def test_third_classes_do_not_matter_names_are_free_and_equality_decides() -> None:
    for counts, alpha, expected in (
        ({0: 61, 1: 39, 2: 38}, 0.05, 0),
        ({2: 61, 0: 39, 1: 5}, 0.05, 2),
        ({7: 60, 2: 40}, 0.05, None),
        ({1: 40, 2: 60, 0: 900}, 0.001, 0),
        ({0: 0, 4: 20}, 0.001, 4),
        ({0: 3}, 0.25, 0),  # 2 / 8
        ({0: 500, 1: 500}, 0.4, None),
    ):
        assert predicted(counts, alpha) == expected


@pytest.mark.parametrize("counts", [{}, {0: 0}, {0: 5, 1: -1}])
def test_impossible_counts(counts: dict[int, int]) -> None:
    with pytest.raises(ValueError, match="counts"):
        predicted(counts, 0.001)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, math.nan])
def test_impossible_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        predicted({0: 10}, alpha)
    with pytest.raises(BenchError, match="--alpha"):
        check_samples(1000, alpha)


def test_the_least_number_of_samples_that_can_decide() -> None:
    assert [least_samples(alpha) for alpha in (0.49, 0.05, 0.01, 0.001)] == [3, 6, 8, 11]
    check_samples(11, 0.001)
    with pytest.raises(BenchError, match=r"--n 10 always abstains at alpha 0\.001; the least that can decide is 11"):
        check_samples(10, 0.001)


Rule = Callable[[dict[int, int], float], int | None]


def error(n: int, p: Sequence[float], alpha: float, rule: Rule) -> float:
    """Chance that another class than class 0, which is the likeliest, is returned; over every way in which n samples fall."""
    wrong = 0.0
    for bars in itertools.combinations(range(n + len(p) - 1), len(p) - 1):
        counts = [after - before - 1 for before, after in itertools.pairwise((-1, *bars, n + len(p) - 1))]
        if rule(dict(enumerate(counts)), alpha) not in (0, None):
            ways = math.factorial(n) // math.prod(map(math.factorial, counts))
            wrong += ways * math.prod(q**k for q, k in zip(p, counts, strict=True))
    return wrong


def test_the_error_is_at_most_alpha_by_enumeration() -> None:
    for n, alpha, first in itertools.product((11, 50, 200), (0.001, 0.01, 0.05, 0.3), (0.5, 0.505, 0.6, 1.0)):
        assert error(n, (first, 1 - first), alpha, predicted) <= alpha
    for (n, alpha), p in itertools.product(((12, 0.05), (24, 0.01)), ((0.34, 0.33, 0.33), (0.5, 0.5, 0.0), (0.45, 0.45, 0.1))):
        assert error(n, p, alpha, predicted) <= alpha


def majority(counts: dict[int, int], alpha: float) -> int | None:
    return max(counts, key=lambda c: counts[c])


def doubled(counts: dict[int, int], alpha: float) -> int | None:
    return predicted(counts, min(0.49, 4 * alpha))


@pytest.mark.parametrize("rule", [majority, doubled])
def test_the_enumeration_sees_a_wrong_rule(rule: Rule) -> None:
    assert max(error(n, (0.5, 0.5), alpha, rule) / alpha for n in (50, 200) for alpha in (0.01, 0.05)) > 1


class Linear(nn.Module):
    """Class 1 where the mean pixel is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1).mean(1) - 0.5
        return torch.stack([-score, score], 1)


def test_all_samples_count_and_the_clear_image_is_decided() -> None:
    sampler = Sampler(Linear(), 0.5, 2, 0)
    for n in (11, 12, 499, 1000, 1001):
        row = predict(sampler, torch.full((1, 4, 4), 0.9), 3, 1, n, 0.001)
        assert (row.index, row.label, row.predict, row.correct) == (3, 1, 1, True)
        assert sum(row.counts.values()) == n
        torn = predict(sampler, torch.full((1, 4, 4), 0.5), 3, 1, n, 0.001)
        assert (torn.predict, torn.correct) == (None, False)


def test_a_prediction_repeats_and_depends_on_its_image_and_seed() -> None:
    x = torch.full((1, 4, 4), 0.52)
    counts = [predict(Sampler(Linear(), 0.5, 2, seed), x, index, 1, 1000, 0.001).counts for seed, index in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert counts[0] == counts[1]
    assert counts[0] != counts[2]
    assert counts[0] != counts[3]


def test_the_error_end_to_end() -> None:
    """An image whose likelier class is class 1 with p = 0.51: wrong with a chance of alpha / 2 at most."""
    score = 0.0125 * 0.5  # Phi(score * 4 / 0.5) = Phi(0.05)
    sampler = Sampler(Linear(), 0.5, 2, 5)
    x = torch.full((1, 4, 4), 0.5 + score)
    alpha, trials = 0.2, 400
    rows = [predict(sampler, x, index, 1, 100, alpha) for index in range(trials)]
    wrong = sum(row.predict == 0 for row in rows)
    assert wrong <= 55  # expected at most 40; above 55 in fewer than one of 100 runs of a right procedure
    assert 0 < sum(row.predict == 1 for row in rows) < trials


def test_the_table() -> None:
    rows = [
        Prediction(index=20, label=2, predict=None, counts={0: 500, 2: 500}),
        Prediction(index=0, label=7, predict=7, counts={3: 2, 7: 998}),
        Prediction(index=5, label=1, predict=4, counts={4: 1000}),
    ]
    assert write(rows).decode().splitlines() == [
        "idx\tlabel\tpredict\tcorrect\tcounts",
        "20\t2\t-1\t0\t0:500 2:500",
        "0\t7\t7\t1\t7:998 3:2",
        "5\t1\t4\t0\t4:1000",
    ]
