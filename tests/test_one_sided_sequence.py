"""The rule `one-sided-sequence`: its coverage exactly, and how much it gains over the two-sided one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

from bench.rules.bounds import anytime_bounds
from bench.rules.known.one_sided_sequence import lower_bounds


@pytest.mark.parametrize("p", [0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.05, 0.4])
def test_the_chance_of_ever_being_above_the_probability_is_at_most_alpha(p: float, alpha: float) -> None:
    """Exactly: a recursion over 200 samples with a look after each."""
    alive, false = np.ones(1), 0.0
    for n in range(1, 201):
        alive = np.append(alive * (1 - p), 0) + np.append(0, alive * p)
        above = lower_bounds(np.arange(n + 1), np.full(n + 1, n), alpha) > p
        false += float(alive[above].sum())
        alive[above] = 0
    assert alpha / 20 < false <= alpha


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.sampled_from([0.001, 0.05]))
def test_it_lies_below_the_share_and_seldom_below_the_two_sided_bound(drawn: tuple[int, int], alpha: float) -> None:
    n, count = np.array([drawn[0]]), np.array([drawn[1]])
    bound = lower_bounds(count, n, alpha)
    assert 0 <= bound <= count / n
    if count / n >= 0.5:
        assert bound >= anytime_bounds(count, n, alpha)[0]


def test_largest_radii_against_the_two_sided_rule() -> None:
    n = np.array([1_000, 10_000, 100_000])
    assert ndtri(lower_bounds(n, n, 0.001)) == pytest.approx([2.407, 3.153, 3.773], abs=5e-4)
    assert ndtri(anytime_bounds(n, n, 0.001)[0]) == pytest.approx([2.295, 3.034, 3.648], abs=5e-4)
    for wrong in ((np.array([2]), np.array([1])), (np.array([-1]), np.array([1])), (np.array([0]), np.array([0]))):
        with pytest.raises(ValueError, match="impossible"):
            lower_bounds(*wrong, 0.001)
