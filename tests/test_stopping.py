"""Certification that stops early: the same guarantee from fewer samples."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from math import lgamma, log
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_store import CERTIFY, N, add, certificate, new_store, run_spec
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor, nn
from typer.testing import Result

from bench import rules
from bench.certify import Sampler
from bench.errors import BenchError
from bench.evidence.certificate import Certificate, to_line
from bench.evidence.columns import Columns
from bench.rules.bounds import anytime_bounds, certified_radii, certified_radius, lower_confidence_bound, lower_confidence_bounds
from bench.spec import CertifySpec
from bench.store.runs import Store
from bench.verify import verify
from leaderboard.metrics import Outcomes, abstention_rate, average_certified_radius, certified_accuracy, outcomes
from leaderboard.metrics.known import bound_quantile, clean_accuracy

Call = Callable[..., Result]
SPEC = CertifySpec(n0=100, n=20_000)
CURTAILED, SEQUENCE = (dataclasses.replace(SPEC, rule=rule) for rule in ("curtailed", "confidence-sequence"))
SKIPPED = dataclasses.replace(SPEC, skip_misclassified=True)


class Half(nn.Module):
    """Class 1 where the first pixel is above 0: at x the smoothed classifier gives it with probability Phi(x / sigma)."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([-first, first], dim=1)


def certified(spec: CertifySpec, probability: float, label: int = 1, index: int = 0, batch: int | None = None) -> Certificate:
    x = torch.full((1, 2, 2), float(ndtri(probability)) * 0.5)
    sampler, stop = Sampler(Half(), 0.5, 2, 0, batch), rules.of(spec).stop(0.5)
    return sampler.certify(x, index, label, spec.n0, spec.n, stop, skip_misclassified=spec.skip_misclassified)


# ---- bounds


Ends = tuple[NDArray[np.float64], NDArray[np.float64]]


def ever_excluded(bounds: Callable[[NDArray[np.int64], NDArray[np.int64]], Ends], p: float, samples: int) -> float:
    """Exactly: the probability that the bounds exclude p after any of the first samples."""
    alive, excluded = np.ones(1), 0.0
    for n in range(1, samples + 1):
        alive = np.convolve(alive, [1 - p, p])
        lower, upper = bounds(np.arange(n + 1), np.full(n + 1, n))
        out = (lower > p) | (upper < p)
        excluded += float(alive[out].sum())
        alive[out] = 0.0
    return excluded


@pytest.mark.parametrize(("p", "alpha"), [(0.5, 0.05), (0.6, 0.01), (0.9, 0.05), (0.99, 0.01)])
def test_anytime_bounds_hold_at_all_sample_sizes_at_once(p: float, alpha: float) -> None:
    excluded = ever_excluded(lambda counts, n: anytime_bounds(counts, n, alpha), p, 600)
    assert 0.2 * alpha < excluded <= alpha, "neither too often nor hardly ever"
    fixed = ever_excluded(lambda counts, n: (lower_confidence_bounds(counts, n, 0.05), np.ones(len(n))), 0.6, 300)
    assert fixed > 0.15, "a bound for a fixed n, looked at often, does not hold, and that would be seen"


def test_anytime_bounds_solve_their_equation_and_are_wider_than_fixed_ones() -> None:
    for k, n in ((0, 10), (1, 1), (60, 100), (9_999, 10_000), (100_000, 100_000)):
        (lower,), (upper,) = anytime_bounds(np.array([k]), np.array([n]), 0.001)
        assert 0 <= lower <= k / n <= upper <= 1
        if k:
            mixture = lgamma(k + 0.5) + lgamma(n - k + 0.5) - lgamma(n + 1) - 2 * lgamma(0.5)
            likelihood = k * log(lower) + ((n - k) * log(1 - lower) if k < n else 0.0)
            assert mixture - likelihood == pytest.approx(log(1000), rel=1e-6, abs=1e-6)
            assert lower < lower_confidence_bound(k, n, 0.001)
    with pytest.raises(ValueError, match="count 11 of n 10"):
        anytime_bounds(np.array([11]), np.array([10]), 0.001)


# ---- sampling


def test_skipping_draws_nothing_for_a_wrong_class_and_the_same_for_a_right_one() -> None:
    assert certified(SKIPPED, 0.9, label=0).estimation == {}
    assert certified(SKIPPED, 0.9, label=1) == certified(SPEC, 0.9, label=1)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.49, 0.5, 0.51, 0.55, 0.9, 0.999])
def test_curtailment_changes_no_certificate(p: float) -> None:
    """It stops only where the whole sample abstains too; where it does not stop, it has the same counts."""
    # The class is chosen by 1 sample, so that less likely ones are chosen as well.
    spec, whole = (dataclasses.replace(s, n0=1) for s in (CURTAILED, SPEC))
    stopped = 0
    for index in range(12):
        one, other = certified(spec, p, index=index), certified(whole, p, index=index)
        assert one.selected == other.selected
        if one.n < other.n:
            stopped += 1
            assert other.radius(0.001, 0.5) is None
            assert one.radius(0.001, 0.5) is None
            assert one.n % 5000 == 0
        else:
            assert one == other
    assert stopped or p != 0.3  # nearer to 1/2 it is open until the last samples; further off the likelier class is chosen


def test_a_sequence_stops_once_every_radius_of_the_ladder_is_decided() -> None:
    rows = {p: certified(SEQUENCE, p) for p in (0.6, 0.75, 0.95, 0.9999)}
    assert rows[0.95].n < SPEC.n
    for p, row in rows.items():
        (lower,), (upper,) = anytime_bounds(np.array([row.count]), np.array([row.n]), 0.001)
        reachable = anytime_bounds(np.array([SPEC.n]), np.array([SPEC.n]), 0.001)[0][0]
        undecided = [k for k in range(40) if lower <= (q := ndtr(k * 0.25 / 0.5)) < upper and q < reachable]
        assert not undecided or row.n == SPEC.n, p
    # Undecided to the end: the probability lies on the ladder itself.
    assert certified(SEQUENCE, float(ndtr(0.5))).n == SPEC.n


@pytest.mark.parametrize("spec", [CURTAILED, SEQUENCE, SKIPPED], ids=lambda spec: spec.rule)
def test_early_ends_do_not_depend_on_the_batch(spec: CertifySpec) -> None:
    assert len({to_line(certified(spec, 0.7, index=3, batch=batch)) for batch in (7, 500, 3000)}) == 1


# ---- evidence and tables


def rows_of(spec: CertifySpec, *cases: tuple[int, int, int]) -> Outcomes:
    """Images of label 3 with (selected, count, n)."""
    found = []
    for index, (selected, count, n) in enumerate(cases):
        if n:
            found.append(certificate(index, 3, count, n, selected))
        else:
            found.append(Certificate(index=index, label=3, selected=selected, selection={selected: 10}, estimation={}))
    return outcomes(Columns.of(found), 0.001, 0.5, spec)


def test_what_is_not_known_is_not_said() -> None:
    whole = rows_of(SPEC, (3, N, N), (7, N, N))
    skipped = rows_of(dataclasses.replace(SKIPPED, n=N), (3, N, N), (7, 0, 0))
    assert average_certified_radius(whole) == average_certified_radius(skipped)
    assert certified_accuracy(whole, 0.5) == certified_accuracy(skipped, 0.5) == 0.5
    assert abstention_rate(whole) == 0
    assert (abstention_rate(skipped), clean_accuracy(skipped), bound_quantile(skipped, 50)) == (None, None, None)
    assert skipped.samples == (2 * 10 + N) / 2


def test_a_curtailed_image_abstains_and_is_not_read_at_a_larger_alpha() -> None:
    spec = dataclasses.replace(CURTAILED, n=N)
    o = rows_of(spec, (3, 100, 700), (3, N, N))
    assert abstention_rate(o) == 0.5
    assert bound_quantile(o, 50) is None
    with pytest.raises(BenchError, match=r"stopped where nothing certifies at alpha 0\.001, so alpha 0\.01 is too large"):
        outcomes(Columns.of([certificate(0, 3, N)]), 0.01, 0.5, spec)


def test_radii_of_a_sequence_are_those_of_its_bound() -> None:
    o = rows_of(SEQUENCE, (3, 900, 1000), (3, 4990, 5000))
    lower, _ = anytime_bounds(np.array([900, 4990]), np.array([1000, 5000]), 0.001)
    assert o.radius.tolist() == certified_radii(lower, 0.5).tolist()
    assert o.radius[0] < (certified_radius(900, 1000, 0.001, 0.5) or 0)


@pytest.mark.parametrize(
    ("change", "row", "fits"),
    [
        ({}, certificate(0, 7, 5, 10), False),
        ({"rule": "confidence-sequence"}, certificate(0, 7, 5, 10), True),
        ({"rule": "curtailed"}, certificate(0, 7, 10, 600), True),
        ({"rule": "curtailed"}, certificate(0, 7, 500, 600), False),  # 500 of 600 may still certify
        ({"rule": "confidence-sequence"}, certificate(0, 7, N, N + 1), False),
        ({"skip_misclassified": True}, Certificate(index=0, label=7, selected=1, selection={1: 10}, estimation={}), True),
        ({}, Certificate(index=0, label=7, selected=1, selection={1: 10}, estimation={}), False),
    ],
)
def test_evidence_must_be_what_its_rule_can_give(tmp_path: Path, change: dict[str, object], row: Certificate, *, fits: bool) -> None:
    spec = dataclasses.replace(CERTIFY, images="first:1", **change)  # type: ignore[arg-type]
    certification = add(new_store(tmp_path), run_spec(), None).certification(spec)
    certification.begin(certification.binding().weights_sha256 or "")
    certification.evidence.write_text(to_line(row))
    if fits:
        assert len(certification.columns()) == 1
    else:
        with pytest.raises(BenchError, match="samples, but the spec says"):
            certification.columns()
    found = [failure.reason for failure in verify(tmp_path / "runs").failures if failure.file == certification.evidence]
    assert bool(found) != fits, found


def test_specs_say_what_they_take() -> None:
    assert CertifySpec(n0=1, n=2).key == CertifySpec(n0=1, n=2, stop_alpha=0.001, radius_step=0.25, skip_misclassified=False).key
    for field, value in (("rule", "curtaild"), ("stop_alpha", 0.5), ("radius_step", 0.0), ("n", 2**31), ("n0", 2**31)):
        with pytest.raises(ValueError, match=field):
            CertifySpec(**{"n0": 1, "n": 2, field: value})  # type: ignore[arg-type]


def test_the_commands(tiny: Call, bench: Call, tmp_path: Path) -> None:
    """What such counts do not say is refused by everything that reads them, and hides nothing else."""
    hows = {"clopper-pearson": (), "skip_misclassified": ("--skip-misclassified",)}
    for words in (*hows.values(), *(("--set", f"certify.rule={rule}") for rule in ("confidence-sequence", "curtailed"))):
        assert tiny("--method", "gaussian", "--sigma", "0.5", *words).exit_code == 0
    store = Store(tmp_path / "runs")
    (run,) = store.runs()
    where = ("--results", store.root)
    result = bench("table", *where, "--metric", "ACR,abstention,cost")
    for told in ("misclassified images are skipped", "confidence-sequence bound", "curtailed bound", "clopper-pearson bound"):
        assert told in " ".join(result.output.split()), result.output
    assert bench("verify", store.root).exit_code == 0
    result = bench("table", *where, "--alpha", "0.01")
    refusal = "so alpha 0.01 is too large; give --alpha 0.001 or less" in " ".join(result.output.split())
    assert (result.exit_code, refusal) == (0, True), result.output
    for more, groups in ((), 4), (("--alpha", "0.01"), 3):
        assert len(json.loads(bench("table", *where, *more, "--format", "json").stdout)["groups"]) == groups
    refused = {}
    for spec in (certification.spec for certification in run.certifications()):
        how, which = "skip_misclassified" if spec.skip_misclassified else spec.rule, ("--certification", spec.key, *where)
        exported = bench("export", run.path, "--out", tmp_path / f"{how}.tsv", *which)
        attacked = bench("attack", run.path, "--eps", "0.1", "--steps", "1", "--n", "10", "--images", "first=1", "--alpha", "0.01", *which)
        refused[how] = (exported.exit_code, attacked.exit_code)
        assert exported.exit_code == 0 or f"{how} does not draw" in exported.output
    assert refused == {"clopper-pearson": (0, 0), "skip_misclassified": (2, 0), "confidence-sequence": (2, 0), "curtailed": (2, 2)}
