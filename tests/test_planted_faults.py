"""Every way in which certification goes wrong in silence, planted on purpose: each turns the one check red that watches for it.

A fault is a small patch of source text. The checks are tests of other files, so what is shown here is that those tests can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_audit
import test_bounds
import test_certify
import test_columns
import test_empirical
import test_metrics
import test_models
import test_paper
import test_records
import test_reduced
import test_separability
import test_store
from planting import plant

from bench import models
from bench.certify import Sampler
from bench.certify.attack import Attacked
from bench.certify.audit import Audit, largest
from bench.certify.margin import leads, moves
from bench.certify.network import Network, _check_modes
from bench.certify.noise import NoisyCopies, _sum
from bench.evidence.certificate import Certificate
from bench.rules import bounds
from bench.store.runs import Store
from bench.store.subject import Certification
from bench.system import environment
from leaderboard import metrics
from leaderboard.flips import flip_each, flip_pairs
from leaderboard.paper.build import _share as share_of_paper
from leaderboard.paper.build import _values as values_of_paper

Check = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A patch and the check that sees it.

    Attributes:
        where: the function that is patched. old, new: its source text before and after.
        check: passes without the fault, fails with it.
        audited: whether base classifiers are audited meanwhile; else the check stands alone.
    """

    where: Callable[..., Any]
    old: str
    new: str
    check: Check
    audited: bool = False


def check(test: Callable[..., None], *values: Any) -> Check:
    """A test of another file as a check, with the values of its parameters."""
    return lambda folder: test(*values)


def radii_of_logs_meet_the_columns_of_tables() -> None:
    """A logged radius that reads as the column does is at least the column's, whatever the floating point."""
    for text in (f"{hundredths / 100:.2f}" for hundredths in range(5, 400, 5)):
        assert values_of_paper(np.array([True]), np.array([float(text)]), "3sig")(text) == 100, text


def torn_line(folder: Path) -> None:
    test_store.test_a_torn_last_line_is_cut_and_done_again(folder)


BOUND = "betaincinv(count, n - count + 1, alpha)"
KEY = 'derive(seed, "certify", index)'
NOT_SHARED = check(test_certify.test_images_and_seeds_do_not_share_noise)
SAME_BATCH = check(test_certify.test_counts_do_not_depend_on_the_batch)
SAME_ORDER = check(test_certify.test_counts_do_not_depend_on_the_order_of_images)
NORMAL = check(test_certify.test_the_noise_is_normal_with_standard_deviation_sigma_and_not_clipped)
SEEN = check(test_certify.test_counts_are_those_of_the_rows_seen)


def cheat(inner: str, name: str) -> Check:
    """That a network that is no function of one image is refused."""
    return check(test_audit.test_what_is_no_function_of_one_image_is_refused, inner, name)


def wrong_model(name: str) -> Check:
    """That a network of test_certify is refused."""
    return check(test_certify.test_wrong_models_are_refused, name)


LARGE_COUNTS = check(test_certify.test_counts_beyond_small_integers)

FAULTS: dict[str, Fault] = {
    # ---- the bound and the radius
    "two-sided bound": Fault(
        where=bounds.lower_confidence_bound,
        old=BOUND,
        new="betaincinv(count, n - count + 1, alpha / 2)",
        check=check(test_bounds.test_bound_is_where_the_tail_has_mass_alpha, 66, 100, 0.001),
    ),
    "doubled alpha": Fault(
        where=bounds.lower_confidence_bound,
        old=BOUND,
        new="betaincinv(count, n - count + 1, 2 * alpha)",
        check=check(test_bounds.test_exact_coverage, 1_000, 0.05),
    ),
    "one count too many": Fault(
        where=bounds.lower_confidence_bound,
        old=BOUND,
        new="betaincinv(min(n, count + 1), max(1, n - count), alpha)",
        check=check(test_bounds.test_exact_coverage, 100, 0.001),
    ),
    "normal approximation": Fault(
        where=bounds.lower_confidence_bound,
        old=BOUND,
        new="max(0.0, count / n + ndtri(alpha) * math.sqrt(count * (n - count) / n**3))",
        check=check(test_bounds.test_bound_at_100_000_samples, 99_990, test_bounds.BOUND[99_990]),
    ),
    "count 0 gives no number": Fault(
        where=bounds.lower_confidence_bound,
        old="return 0.0",
        new="return math.nan",
        check=check(test_bounds.test_bound_at_100_000_samples, 0, 0.0),
    ),
    "count n gives an infinite radius": Fault(
        where=bounds.lower_confidence_bound,
        old="if count == 0:\n",
        new="if count == n:\n        return 1.0\n    if count == 0:\n",
        check=check(test_bounds.test_largest_possible_radius, 100_000, 0.001, 3.811456563),
    ),
    "count above n accepted": Fault(
        where=bounds.lower_confidence_bound,
        old="if n < 1 or not 0 <= count <= n:",
        new="if n < 1 or count < 0:",
        check=check(test_bounds.test_impossible_values_are_refused, 101, 100, 0.001, 1.0, "count"),
    ),
    "n of 0 accepted": Fault(
        where=bounds.lower_confidence_bound,
        old="if n < 1 or not 0 <= count <= n:",
        new="if not 0 <= count <= n:",
        check=check(test_bounds.test_impossible_values_are_refused, 0, 0, 0.001, 1.0, "n 0"),
    ),
    "no abstention": Fault(
        where=bounds.certified_radius,
        old="if not bound >= 0.5:",
        new="if bound == 0.0:",
        check=check(test_bounds.test_least_count_that_certifies, 100_000, 50_490),
    ),
    "radius rounded up": Fault(
        where=bounds.certified_radius,
        old="return sigma * float(ndtri(bound))",
        new='return float(f"{sigma * float(ndtri(bound)):.3g}")',
        check=check(test_bounds.test_the_radius_that_a_three_digit_log_rounds_up),
    ),
    "radius above the maximum": Fault(
        where=bounds.certified_radius,
        old="return sigma * float(ndtri(bound))",
        new="return sigma * float(ndtri(count / n if count < n else 1 - 0.1 / n))",
        check=check(test_bounds.test_largest_possible_radius, 1_000, 0.001, 2.463262615),
    ),
    # ---- the samples
    "selection samples counted again": Fault(
        where=Sampler.certify,
        old="self._count(network, copies, n0 + drawn, look - drawn)",
        new="self._count(network, NoisyCopies(x, index, self.sigma, self.seed, self.sampling), n0 + drawn, look - drawn)",
        check=check(test_certify.test_selection_and_estimation_samples_are_disjoint),
    ),
    "selection is part of the estimation": Fault(
        where=Sampler.certify,
        old="estimation += self._count(network, copies, n0 + drawn, look - drawn)",
        new="estimation += selection + self._count(network, copies, n0 + drawn, look - drawn - n0)",
        check=SEEN,
    ),
    "sampling stops once it certifies": Fault(
        where=Sampler.certify,
        old="estimation += self._count(network, copies, n0 + drawn, look - drawn)",
        new="estimation += self._count(network, copies, n0, 1_000)\n"
        "                    while estimation.sum() < n and estimation.max() < 0.6 * estimation.sum():\n"
        "                        estimation += self._count(network, copies, n0, 500)",
        check=check(test_certify.test_linear_classifier_with_a_known_radius, 0.5, 0.25, 0.243587),
    ),
    "images share their noise": Fault(where=NoisyCopies.__init__, old=KEY, new='derive(seed, "certify")', check=NOT_SHARED),
    "seed plus index": Fault(where=NoisyCopies.__init__, old=KEY, new="seed + index", check=NOT_SHARED),
    "seed above 32 bits": Fault(where=NoisyCopies.__init__, old=KEY, new="(seed << 32) + index", check=NOT_SHARED),
    "ambient noise": Fault(
        where=NoisyCopies.__init__,
        old=f"torch.Generator(x.device).manual_seed({KEY})",
        new="torch.default_generator",
        check=SAME_ORDER,
    ),
    "noise depends on the batch": Fault(
        where=Sampler._count,
        old="span = copies.block * max(1, network.batch // copies.block)",
        new="span = network.batch",
        check=SAME_BATCH,
    ),
    "one worker's counts are lost": Fault(
        where=Sampler._count, old=".sum(0)", new="[0]", check=check(test_certify.test_counts_do_not_depend_on_workers, 2)
    ),
    "noisy pixels clipped": Fault(where=_sum, old="out=noisy)", new="out=noisy).clamp_(0, 1)", check=NORMAL),
    "variance taken for deviation": Fault(where=NoisyCopies.draw, old="else self.sigma\n", new="else self.sigma**2\n", check=NORMAL),
    "noise off the grid": Fault(
        where=_sum,
        old="noise.round_()",
        new="noise",
        check=check(test_certify.test_grid_copies_lie_on_the_grid),
    ),
    "float32 sums under the name of a grid": Fault(
        where=NoisyCopies.__init__,
        old='sampling == "grid"',
        new="False",
        check=check(test_certify.test_grid_sampling_does_not_certify_a_hostile_network_falsely),
    ),
    "small integer counters": Fault(where=Sampler._work, old="torch.int64", new="torch.int16", check=LARGE_COUNTS),
    "half-precision counters": Fault(where=Sampler._work, old="torch.int64", new="torch.float16", check=LARGE_COUNTS),
    "a torn row is kept": Fault(where=Certification.begin, old="if keep < self.evidence.stat().st_size:", new="if False:", check=torn_line),
    # ---- the network
    "NaN logits counted": Fault(
        where=largest,
        old="if not math.isfinite(found):",
        new="if found == math.inf:",
        check=check(test_certify.test_logits_that_are_not_finite_are_refused, float("nan"), 1),
    ),
    "infinite logits counted": Fault(
        where=largest,
        old="if not math.isfinite(found):",
        new="if math.isnan(found):",
        check=check(test_certify.test_logits_that_are_not_finite_are_refused, float("inf"), 0),
    ),
    "half-precision logits counted": Fault(
        where=Network._checked,
        old="(torch.float32, torch.float64)",
        new="(torch.float32, torch.float64, torch.bfloat16)",
        check=wrong_model("half"),
    ),
    "logits of another shape counted": Fault(
        where=Network._checked,
        old="check_shape(logits, rows, self.classes)",
        new="pass",
        check=check(test_certify.test_logits_of_another_shape_are_refused, (100, 4)),
    ),
    "training mode left on": Fault(
        where=Network.begin, old="module.eval()", new="pass", check=check(test_certify.test_training_mode_is_never_left_on)
    ),
    "a module in training mode overlooked": Fault(
        where=_check_modes,
        old="if part.training:",
        new="if part is module and part.training:",
        check=wrong_model("stays in training"),
    ),
    "batch mates that matter": Fault(
        where=Network._judge,
        old="if (exact - logits).abs().max() > DRIFT * self.scale:",
        new="if False:",
        check=wrong_model("batch mates"),
    ),
    "dropout at evaluation": Fault(where=Network.classify, old="if first == 0:", new="if False:", check=wrong_model("random")),
    "rounding decides close calls": Fault(
        where=Network.classify,
        old="CLOSE * self.scale",
        new="-1.0",
        check=check(test_certify.test_close_calls_are_decided_in_one_way_for_every_batch, True),
    ),
    "logits that overflow decide": Fault(
        where=leads,
        old="torch.where(finite, highest - second, -1.0)",
        new="highest - second",
        check=check(test_reduced.test_logits_that_overflow_never_lead, float("inf"), 0),
    ),
    "a margin of the least move": Fault(
        where=moves,
        old="risen.amax(1)",
        new="risen.amin(1)",
        check=check(test_reduced.test_where_the_lead_is_beyond_the_move_the_highest_logit_is_the_same),
    ),
    "rows lost when memory runs out": Fault(
        where=Network._logits,
        old="return self._logits(network, noisy)\n",
        new="return self._logits(network, noisy[: self.batch]).repeat(len(noisy), 1)[: len(noisy)]\n",
        check=check(test_certify.test_counts_are_the_same_after_memory_ran_out, 60, 3),
    ),
    # ---- the audit
    "no pass of the sizes that count": Fault(
        where=Audit.seen,
        old="self._sizes.add(size)\n",
        new="return\n",
        check=cheat("hard", "passes of 500 rows"),
        audited=True,
    ),
    "no pass of louder copies": Fault(
        where=Audit.seen,
        old="self._copies(size)\n",
        new="pass\n",
        check=cheat("hard", "vote"),
        audited=True,
    ),
    "no row alone": Fault(
        where=Audit.begin,
        old="1 + samples // ALONE_EVERY",
        new="0",
        check=cheat("sure", "ordinary copies of one image"),
        audited=True,
    ),
    "the referee is not audited": Fault(
        where=Audit._start,
        old="if self._network.referee != torch.float64:",
        new="if True:",
        check=lambda folder: test_audit.refused(test_audit.Cheat(test_audit.Hard(), test_audit.CHEATS["float64"]), images=1),
        audited=True,
    ),
    "the audit takes from the noise that counts": Fault(
        where=Sampler.certify,
        old="selection = self._count(network, copies, 0, n0)",
        new="network.audit._random.random() < 0.5 and copies.draw(1); selection = self._count(network, copies, 0, n0)",
        check=check(test_certify.test_counts_do_not_depend_on_the_order_of_images),
        audited=True,
    ),
    "shortcuts inside float32": Fault(
        where=environment.plain_float32, old='"ieee"', new='"bf16"', check=check(test_certify.test_float32_products_are_computed_in_float32)
    ),
    "normalisation outside the model": Fault(
        where=models.build,
        old="nn.Sequential(Normalize(info.mean, info.std), network)",
        new="nn.Sequential(nn.Identity(), network)",
        check=check(test_models.test_normalisation_is_the_first_layer_and_travels_with_the_weights, "lenet", test_models.MNIST),
    ),
    # ---- the metrics
    "label -1 accepted": Fault(
        where=Certificate.__post_init__,
        old='("index", "label", "selected")',
        new='("index", "selected")',
        check=check(test_records.test_impossible_certificates_are_refused, {"label": -1}),
    ),
    "ACR over certified images only": Fault(
        where=metrics.average_certified_radius,
        old="/ o.index.size",
        new="/ max(1, int(o.correct.sum()))",
        check=check(test_metrics.test_acr_counts_every_image),
    ),
    "ACR counts wrong classes": Fault(
        where=metrics.average_certified_radius,
        old="o.radius[o.correct]",
        new="o.radius",
        check=check(test_metrics.test_all_wrong_is_zero),
    ),
    "radii compared after rounding": Fault(
        where=metrics.certified_accuracy,
        old="(o.radius > r)",
        new="(o.radius.round(2) > r)",
        check=check(test_metrics.test_certified_accuracy_is_strict_and_does_not_round),
    ),
    "an image counted twice": Fault(
        where=metrics.outcomes,
        old="if (doubled := index[1:][np.diff(index) == 0]).size:",
        new="if (doubled := index[:0]).size:",
        check=check(test_metrics.test_an_image_counts_once),
    ),
    "another bound in tables than in certificates": Fault(
        where=bounds._bound,
        old="n - k + 1",
        new="n - k + 2",
        check=check(test_columns.test_many_bounds_and_radii_equal_single_ones_in_every_bit),
    ),
    "no abstention in tables": Fault(
        where=bounds.certified_radii,
        old="bounds >= 0.5",
        new="bounds > 0.0",
        check=check(test_columns.test_many_bounds_and_radii_equal_single_ones_in_every_bit),
    ),
    "ties of the paper's tables": Fault(
        where=share_of_paper,
        old="/ len(radius) * 100",
        new="* 100 / len(radius)",
        check=lambda folder: test_paper.test_ties_fall_as_those_of_the_paper(Store(folder / "runs"), folder),
    ),
    "columns in steps of floating point": Fault(
        where=values_of_paper,
        old="float(metric)",
        new="round(float(metric) / 0.05) * 0.05",
        check=check(radii_of_logs_meet_the_columns_of_tables),
    ),
    "each pair of rows tested as if it were alone": Fault(
        where=flip_pairs,
        old="exceeded += (largest[:, None] >= seen - 1e-9).sum(axis=0)",
        new="exceeded += (np.abs(flipped[:, first] - flipped[:, second]) / root >= seen - 1e-9).sum(axis=0)",
        check=check(test_separability.test_equal_rows_are_told_apart_no_more_often_than_the_level_says, 9),
    ),
    "signs of their own for each row": Fault(
        where=flip_pairs,
        old="flipped = signs @ centred.T",
        new="flipped = np.stack([(signs * (1 - 2 * n % 3)) @ row for n, row in enumerate(centred)], axis=1)",
        check=check(test_separability.test_pairs_against_all_sign_flips),
    ),
    "an interval of the images that a flip leaves alone": Fault(
        where=flip_each,
        old="np.where(whole, np.inf, pair.max(axis=0))",
        new="np.where(whole, np.inf, pair[1])",
        check=check(test_separability.test_the_interval_holds_what_is_not_rejected, 60),
    ),
    "a one-sided test of the class that the attack found": Fault(
        where=Attacked.p_change,
        old="binomtest(first, first + max(own, second))",
        new="binomtest(first, first + own, alternative='greater')",
        check=check(test_empirical.test_classes_that_tie_contradict_no_more_often_than_the_test_says, 3, 60),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_turns_its_check_red(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fault = FAULTS[name]
    if not fault.audited:
        test_certify.silence(monkeypatch)
    fault.check(tmp_path / "sound")
    plant(fault.where, fault.old, fault.new, monkeypatch)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        fault.check(tmp_path / "faulty")
    assert not isinstance(caught.value, (SyntaxError, NameError)), "the patch is no fault, but broken source"
    monkeypatch.undo()
    if not fault.audited:
        test_certify.silence(monkeypatch)
    fault.check(tmp_path / "sound again")


def test_the_faults_are_many_and_differ() -> None:
    assert len(FAULTS) >= 40
    assert len({(fault.where, fault.old, fault.new) for fault in FAULTS.values()}) == len(FAULTS)
