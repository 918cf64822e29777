"""Theorem 1 and Lemma 2 of the SmoothMix paper: the exact worst case, the paper's bounds, the ball, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from typer.testing import CliRunner

from bench.cli import app
from bench.data import load
from bench.errors import BenchError
from bench.theory.ball import share_inside
from bench.theory.worst_case import constant, largest_ratio, limit, shell_bound, worst_case

DIMENSIONS = [1, 10, 100, 784, 3072, 150528]


def test_the_worst_case_has_the_known_values() -> None:
    """Computed apart from this code, to the digits shown."""
    assert worst_case(0.9, 0.25, 0.5, 0, DIMENSIONS) == pytest.approx([0.589166, 0.0525085, 5.79107e-13, 1.25043e-102, 0, 0], rel=1e-5)
    fifth = [0.98584, 0.979263, 0.942205, 0.637352, 0.0654350, 1.60700e-128]
    assert worst_case(0.99, 0.5, 0.525, 0, DIMENSIONS) == pytest.approx(fifth, rel=1e-5)
    ratios = np.array([1.02, 1.05, 1.06, 1.1, 2])
    assert worst_case(0.99, 1, ratios, 0, 784) == pytest.approx([0.935357, 0.637352, 0.490088, 0.0704286, 2.77208e-96], rel=1e-5)
    assert largest_ratio([[0.9], [0.99], [0.999], [0.99993]], [784, 3072, 150528]) == pytest.approx(
        np.array([[1.0325, 1.0164, 1.0023], [1.0593, 1.0298, 1.0042], [1.0791, 1.0397, 1.0056], [1.0977, 1.0490, 1.0069]]), abs=5e-5
    )
    assert constant(0.99, 0.5, 0.525, 0) == pytest.approx(76_145, abs=1)


def test_a_noise_level_that_comes_nearer_as_the_dimension_grows_leaves_a_probability() -> None:
    d = np.array([100, 784, 3072, 150528])
    assert worst_case(0.9, 1, 1 + 1 / np.sqrt(d), 0, d) == pytest.approx([0.46018, 0.45182, 0.44955, 0.44756], abs=5e-6)
    assert limit(0.9, 1) == pytest.approx(0.44723, abs=5e-6)


@pytest.mark.parametrize("tau", [0.4, 0.7])
def test_no_better_than_the_likelihood_ratio_test_by_simulation(tau: float) -> None:
    """Neyman and Pearson's classifier found by sorting likelihood ratios, without the geometry of balls. 400,000 points, 3 dimensions."""
    rng, n, sigma, p = np.random.default_rng(0), 400_000, 0.5, 0.9
    shift = np.array([0.3, 0, 0])

    def ratio(points: np.ndarray) -> np.ndarray:
        return np.asarray(np.sum(norm.logpdf(points, shift, tau) - norm.logpdf(points, 0, sigma), axis=1))

    threshold = np.quantile(ratio(sigma * rng.standard_normal((n, 3))), p)
    left = np.mean(ratio(shift + tau * rng.standard_normal((n, 3))) <= threshold)
    assert worst_case(p, sigma, tau, 0.3, 3) == pytest.approx(left, abs=0.004)


@given(
    p=st.floats(0.51, 0.999),
    sigma=st.floats(0.1, 1),
    ratio=st.floats(0.5, 2).filter(lambda r: abs(r - 1) > 0.01),
    distance=st.floats(0, 0.5),
    d=st.integers(1, 4000),
)
@example(p=0.75, sigma=1.0, ratio=2.0, distance=7.934357897054385e-160, d=1)
def test_the_bounds_lie_above_the_worst_case(p: float, sigma: float, ratio: float, distance: float, d: int) -> None:
    tau = ratio * sigma
    left = float(worst_case(p, sigma, tau, distance, d))
    assert 0 <= left <= p + 1e-9
    assert left <= shell_bound(p, sigma, tau, distance, d) + 1e-9
    assert left <= constant(p, sigma, tau, distance) / d
    assert left <= worst_case(p, sigma, tau, distance / 2, d) + 1e-9, "a nearer point keeps more"


@given(p=st.floats(0.6, 0.99), distance=st.floats(0.01, 0.5))
def test_equal_noise_is_the_certificate_itself(p: float, distance: float) -> None:
    half_space = norm.cdf(norm.ppf(p) - distance / 0.5)
    assert worst_case(p, 0.5, 0.5, distance, 784) == pytest.approx(half_space)
    assert worst_case(p, 0.5, 0.5 * (1 + 1e-5), distance, 784) == pytest.approx(half_space, abs=1e-3)


def test_the_suites_sampler_counts_the_ball_as_the_theorem_says() -> None:
    x, n = load("mnist", "test").images(torch.tensor([3]))[0], 4000
    for tau in (0.5, 0.525, 0.55):
        counted = share_inside(x, 3, 0.5, tau, 0.99, n)
        expected = 0.99 if tau == 0.5 else float(worst_case(0.99, 0.5, tau, 0, x.numel()))
        assert binomtest(round(counted * n), n, expected).pvalue > 1e-3


def test_values_outside_of_their_range_are_refused() -> None:
    good = {"p": 0.9, "sigma": 0.5, "tau": 1.0, "distance": 0.0, "dimensions": 3}
    for name, value in [("p", 1), ("p", np.nan), ("sigma", 0), ("tau", np.inf), ("distance", -1), ("dimensions", 0.5)]:
        with pytest.raises(BenchError, match=name):
            worst_case(**(good | {name: value}))
    with pytest.raises(BenchError):
        constant(0.9, 0.5, 0.5, 0)


def test_the_command_prints_tables_and_draws_pictures(tmp_path: Path) -> None:
    tmp_path = tmp_path / "new"
    command = CliRunner().invoke(app, ["theory", "--n", "500", "--out", str(tmp_path), "--json"])
    assert command.exit_code == 0, command.output
    found = json.loads(command.stdout)
    for row in found["ratios"]:
        for d, left in zip((784, 3072, 150528), row["worst_case"].values(), strict=True):
            assert left == worst_case(0.99, 0.5, row["ratio"] * 0.5, 0, d)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == {"theory-dimensions.svg", "theory-limit.svg"}
    text = CliRunner().invoke(app, ["theory", "--n", "500", "--out", str(tmp_path)])
    assert text.exit_code == 0
    assert max(len(line) for line in text.stdout.splitlines() if not line.startswith("wrote ")) <= 90
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    wrong = CliRunner().invoke(app, ["theory", "--p", "1", "--image", "-1", "--out", str(tmp_path / "theory-limit.svg")])
    assert wrong.exit_code == 2
    assert len(wrong.stderr.splitlines()) == 3
