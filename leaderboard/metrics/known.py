"""The metrics of the suite, one function each. A new one is a function more, here or in a file of your own.

Source: Cohen, Rosenfeld and Kolter, ICML 2019 (certified accuracy); Zhai et al., "MACER", ICLR 2020 (average certified radius).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bench import rules
from bench.errors import BenchError
from bench.rules.bounds import Floats, certified_radii, lower_confidence_bounds
from leaderboard.metrics.metric import ACCURACY, metric
from leaderboard.metrics.outcomes import Outcomes

ACR = "ACR"
_COST = (
    "pairs: forward and backward passes per training image; samples: drawn per test image, in the mean; "
    "seconds: of training, on the machine of each run."
)
_ERRORS = (
    "t 95 %: half width of the t-interval of the ACR over trainings; s.e. images: standard error of the ACR over test images. "
    "They are two kinds of uncertainty and are not pooled."
)
_QUANTILES = (10, 50, 90)


@metric(ACR, decimals=4, of_radii=True)
def average_certified_radius(o: Outcomes) -> float:
    """ACR: average certified radius over all images.

    The mean over ALL images of the radius where the certified class is right, 0 where it is wrong or abstained; in pixels of [0, 1].

    Raises:
        BenchError: the rule gives no radii to average.
    """
    if o.rule and not o.has_acr:
        raise BenchError(f"no ACR can be read from evidence of rule {o.rule.name}. {o.rule.acr_note}")
    return math.fsum(o.radius[o.correct].tolist()) / o.index.size


def certified_accuracy(o: Outcomes, r: float) -> float:
    """Share of all images, in [0, 1], that are right with a radius strictly larger than r (L2, pixels of [0, 1]).

    Raises:
        BenchError: r is no finite number from 0 up.
    """
    if not (math.isfinite(r) and r >= 0):
        raise BenchError(f"radius {r} must be a finite number from 0 up, such as 0.5")
    return int(np.count_nonzero(o.correct & (o.radius > r))) / o.index.size


@metric(ACCURACY, each="radii", name="{}", heading="r={}", meaning="")  # captions say it, with the rule
def _accuracy(o: Outcomes, radius: str) -> float | None:
    known = not o.radii or float(radius) in o.radii
    return 100 * certified_accuracy(o, float(radius)) if known else None


@metric("clean")
def clean_accuracy(o: Outcomes) -> float | None:
    """clean: share of all images in % on whose label most samples fall (no certificate).

    It is g's accuracy as estimated; None for imported logs, which hold no counts.
    """
    return None if o.right is None else 100 * (int(np.count_nonzero(o.right)) / o.index.size)


def abstention_rate(o: Outcomes) -> float | None:
    """Share of all images, in [0, 1], where no class is certified; None where it is not known of every image."""
    return int(np.count_nonzero(o.abstained)) / o.index.size if o.complete else None


@metric("abstention", heading="abstain", better="less")
def _abstention(o: Outcomes) -> float | None:
    """abstain: share of all images in % where no class is certified."""
    share = abstention_rate(o)
    return None if share is None else 100 * share


@metric("quantiles", each=_QUANTILES, name="radius-{}", heading="radius {} %", decimals=3, of_radii=True)
def radius_quantile(o: Outcomes, percent: int) -> float:
    """radius q %: that quantile over all images of the certified radius, 0 where wrong or abstained.

    The smallest value that a share of q of the images does not exceed.
    """
    return float(np.quantile(o.values, percent / 100, method="inverted_cdf"))


@metric("median", name="radius-50", heading="median radius", decimals=3, of_radii=True)
def median_radius(o: Outcomes) -> float:
    """median radius: over all images, 0 where wrong or abstained; the column `radius 50 %` under its own name."""
    return radius_quantile(o, 50)


@metric("budget", each=(1_000, 10_000), name="ACR-n-{}", heading="ACR n={}", decimals=4, of_radii=True)
def budget_acr(o: Outcomes, n: int) -> float | None:
    """ACR n=k: the ACR to expect from k of the n samples, drawn without replacement from those that were counted; selection as it was.

    Of a class with `count` of N samples such a draw holds K ~ Hypergeometric(N, count, n), and its radius is that of K of n under the
    Clopper-Pearson bound at the same alpha, 0 where that abstains and where the selected class is wrong.

    None for other rules, for imported logs, and where fewer than n samples were drawn of an image or not of all images the same number.
    """
    if o.counts is None or o.selected is None or o.alpha is None or o.sigma is None or o.rule is None:
        return None
    if o.rule.name != rules.DEFAULT:
        return None
    right = o.selected == o.label
    drawn = np.unique(o.counts.n[right])
    if drawn.size != 1 or drawn[0] < n:
        return None if drawn.size else 0.0
    counts, images = np.unique(o.counts.count[right].astype(np.int64), return_counts=True)
    values = [_expected_radius(count, int(drawn[0]), n, o.alpha) for count in counts.tolist()]
    return o.sigma * float(np.dot(values, images)) / o.index.size


@lru_cache(maxsize=8)
def _radii(n: int, alpha: float) -> Floats:
    """n + 1: the radius at sigma 1 by count, 0 where it abstains."""
    found = np.arange(n + 1)
    return np.nan_to_num(certified_radii(lower_confidence_bounds(found, np.full(n + 1, n), alpha), 1.0))


@lru_cache(maxsize=2**17)  # a leaderboard of many cells meets the same counts again and again
def _expected_radius(count: int, total: int, n: int, alpha: float) -> float:
    """The mean radius at sigma 1 of K of n for K ~ Hypergeometric(total, count, n).

    K within sqrt(20 n) of its mean: by Hoeffding's inequality (1963, sections 4 and 6) the rest has a probability below 1e-17.
    """
    mean, reach = n * count / total, math.sqrt(20 * n)
    low, high = max(0, n - total + count, math.floor(mean - reach)), min(n, count, math.ceil(mean + reach))
    k = np.arange(low, high)
    # The probability of k + 1 over that of k; logarithms, because their product may leave the range of a double.
    steps = np.log((count - k) / (k + 1)) + np.log((n - k) / (total - count - n + k + 1))
    weights = np.concatenate([[0.0], np.cumsum(steps)])
    weights = np.exp(weights - weights.max())
    return float(weights @ _radii(n, alpha)[low : high + 1] / weights.sum())


@metric("norms", each=("L1", "Linf"), name="ACR-{}", decimals=5, of_radii=True)
def norm_acr(o: Outcomes, norm: str) -> float | None:
    """ACR-L1, ACR-Linf: ACR in other norms; an L2 radius r holds an L1 radius of r and an Linf radius of r / sqrt(d), d numbers per image.

    None for Linf where the data set is not known.
    """
    if norm == "L1":
        return average_certified_radius(o)
    return None if o.dimension is None else average_certified_radius(o) / math.sqrt(o.dimension)


@metric("classes", each="classes", name="ACR-class-{}", heading="class {}", decimals=4, of_radii=True)
def class_acr(o: Outcomes, label: int) -> float | None:
    """class k: ACR over the images of true class k.

    None where there is none.
    """
    own = o.values[o.label == label]
    return math.fsum(own.tolist()) / own.size if own.size else None


@metric("bound", each=_QUANTILES, name="pA-{}", heading="pA {} %", decimals=4, of_radii=True)
def bound_quantile(o: Outcomes, percent: int) -> float | None:
    """pA q %: that quantile over all images of the lower bound on the probability of the selected class.

    None for imported logs.
    """
    return None if o.bound is None else float(np.quantile(o.bound, percent / 100, method="inverted_cdf"))


@metric("pa", each=(0.5, 0.75, 0.9, 0.99), name="pA>{}")
def bound_accuracy(o: Outcomes, threshold: float) -> float | None:
    """pA>t: certified accuracy at a threshold, the share of all images in % that are certified right with a lower bound on pA above t.

    A probability is the same scale at every sigma. None as for `bound`.
    """
    return None if o.bound is None else 100 * int(np.count_nonzero(o.correct & (o.bound > threshold))) / o.index.size


@metric("cost", name="pairs", decimals=1, better=None, meaning=_COST)
def _pairs(o: Outcomes) -> float | None:
    return o.cost.pairs


@metric("cost", name="samples", decimals=0, better=None, meaning=_COST)
def _samples(o: Outcomes) -> float | None:
    return o.samples


@metric("cost", name="seconds", decimals=0, better=None, meaning=_COST)
def _seconds(o: Outcomes) -> float | None:
    return o.cost.seconds


@metric("errors", name="t-interval", heading="t 95 %", decimals=4, better=None, of_row=True, of_radii=True, meaning=_ERRORS)
def _interval_half(rows: Sequence[Outcomes]) -> float | None:
    """Half the width of the 95 % t-interval of the mean ACR over trainings; None for one training."""
    if len(rows) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(rows) - 1)) * statistics.stdev(map(average_certified_radius, rows)) / math.sqrt(len(rows))


@metric("errors", name="standard-error", heading="s.e. images", decimals=4, better=None, of_row=True, of_radii=True, meaning=_ERRORS)
def standard_error(rows: Sequence[Outcomes]) -> float | None:
    """Standard error over test images of a row's ACR, its trainings fixed and averaged first; None for one image."""
    mean = np.mean([o.values for o in rows], axis=0)
    return float(mean.std(ddof=1)) / math.sqrt(mean.size) if mean.size > 1 else None
