"""Numbers of one certification: pure functions of its certificates.

Source: Cohen, Rosenfeld and Kolter, ICML 2019 (certified accuracy); Zhai et al., "MACER", ICLR 2020 (average certified radius).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench import rules
from bench.errors import BenchError, nearest
from bench.evidence.columns import Columns
from bench.rules.bounds import Integers
from bench.rules.rule import Rule
from bench.spec import CertifySpec

ACR = "ACR"
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the certificates of I images say at one alpha and sigma.

    Attributes:
        index: I, position in the test set, ascending.
        label: I, true class.
        correct: I, certified and the class is the label.
        abstained: I, no class is certified.
        radius: I, certified L2 radius in pixels of [0, 1], float64, not rounded unless it was imported so; 0 where it abstained.
        bound: I, lower bound on pA, the probability of the selected class; None for imported logs, which hold no counts, and where
            not all samples of all images were drawn.
        right: I, whether most estimation samples fell on the label; None as for `bound`.
        complete: whether it is known of every image if it abstains; not so where misclassified ones were skipped.
        samples: mean per image; None for imported logs. drawn: those of them that count the class.
        rule: that read the counts; None for imported logs.
    """

    index: Integers
    label: Integers
    correct: NDArray[np.bool_]
    abstained: NDArray[np.bool_]
    radius: Floats
    bound: Floats | None = None
    right: NDArray[np.bool_] | None = None
    complete: bool = True
    samples: float | None = None
    drawn: float | None = None
    rule: type[Rule] | None = None

    @property
    def has_acr(self) -> bool:
        """Whether radii may be averaged."""
        return self.rule is None or self.rule.acr != "none"

    @property
    def values(self) -> Floats:
        """I: the radius where the certified class is right, else 0; its mean is the ACR."""
        return np.where(self.correct, self.radius, 0.0)


def outcomes(columns: Columns, alpha: float, sigma: float, certify: CertifySpec | None = None, rule: str | None = None) -> Outcomes:
    """The certificates at one alpha and sigma, ordered by image.

    Args:
        alpha: chance that a certificate is wrong, in (0, 1/2).
        sigma: noise level, in pixels of [0, 1].
        certify: how they came about; None: all samples of every image were drawn.
        rule: that reads the counts; None: the one under which they were sampled.

    Raises:
        BenchError: no certificate, two of one image, or a rule that does not read such counts at this alpha.
        ValueError: alpha or sigma out of range.
    """
    if not len(columns):
        raise BenchError("there are no certificates, and nothing has no average")
    complete = bool((columns.n > 0).all())
    reading = rules.of(certify or CertifySpec(n0=1, n=max(1, int(columns.n.max()))), rule)
    reading.check(alpha)
    fair = complete and not reading.stops
    if not (np.diff(columns.index) > 0).all():
        order = np.argsort(columns.index, kind="stable")
        columns = Columns(*(getattr(columns, field.name)[order] for field in fields(columns)))
    index, label = columns.index, columns.label
    if (doubled := index[1:][np.diff(index) == 0]).size:
        raise BenchError(f"image {doubled[0]} has two certificates, and each image counts once")
    radius = reading.radii(columns.counts, alpha, sigma)
    abstained = np.isnan(radius)
    return Outcomes(
        index=index,
        label=label,
        correct=(columns.selected == label) & ~abstained,
        abstained=abstained,
        radius=np.where(abstained, 0.0, radius),
        bound=reading.bounds(columns.counts, alpha) if fair else None,
        right=columns.majority == label if fair else None,
        complete=complete,
        samples=float(np.mean(columns.n0 + columns.n)),
        drawn=float(np.mean(columns.n)),
        rule=type(reading),
    )


def average_certified_radius(o: Outcomes) -> float:
    """ACR: the mean over ALL images of the radius where the certified class is right, 0 where it is wrong or abstained.

    Raises:
        BenchError: there is no image, or the rule gives no radii to average.
    """
    if o.rule and not o.has_acr:
        raise BenchError(f"no ACR can be read from evidence of rule {o.rule.name}. {o.rule.acr_note}")
    return math.fsum(o.radius[o.correct].tolist()) / _images(o)


def certified_accuracy(o: Outcomes, r: float) -> float:
    """Share of all images, in [0, 1], that are right with a radius strictly larger than r (L2, pixels of [0, 1]).

    Raises:
        BenchError: r is no finite number from 0 up, or there is no image.
    """
    if not (math.isfinite(r) and r >= 0):
        raise BenchError(f"radius {r} must be a finite number from 0 up, such as 0.5")
    return int(np.count_nonzero(o.correct & (o.radius > r))) / _images(o)


def abstention_rate(o: Outcomes) -> float | None:
    """Share of all images, in [0, 1], where no class is certified; None where it is not known of every image.

    Raises:
        BenchError: there is no image.
    """
    share = int(np.count_nonzero(o.abstained)) / _images(o)
    return share if o.complete else None


def clean_accuracy(o: Outcomes) -> float | None:
    """Share of all images, in [0, 1], where most estimation samples fall on the label: g's accuracy as estimated, with no certificate.

    None for imported logs, which hold no counts.
    """
    return None if o.right is None else int(np.count_nonzero(o.right)) / _images(o)


def radius_quantile(o: Outcomes, q: float) -> float:
    """The q quantile over ALL images of the radius where the certified class is right, else 0 (the smallest value that a share of q
    of the images does not exceed)."""
    return float(np.quantile(o.values, q, method="inverted_cdf"))


def bound_quantile(o: Outcomes, q: float) -> float | None:
    """The q quantile over all images of the lower bound on pA, whatever the selected class; None for imported logs."""
    return None if o.bound is None else float(np.quantile(o.bound, q, method="inverted_cdf"))


def class_acr(o: Outcomes, label: int) -> float | None:
    """ACR over the images of one true class; None where there is none."""
    own = o.values[o.label == label]
    return math.fsum(own.tolist()) / own.size if own.size else None


def standard_error(rows: Sequence[Outcomes]) -> float | None:
    """Standard error over test images of a row's ACR, its trainings fixed and averaged first; None for one image."""
    mean = np.mean([o.values for o in rows], axis=0)
    return float(mean.std(ddof=1)) / math.sqrt(mean.size) if mean.size > 1 else None


def _images(o: Outcomes) -> int:
    if not o.index.size:
        raise BenchError("there are no certificates, and nothing has no average")
    return int(o.index.size)


# ---- columns of a table


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training took; None where it is not recorded."""

    pairs: float | None = None  # forward and backward passes per training image
    seconds: float | None = None


UNKNOWN_COST = Cost()


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of a table.

    Attributes:
        name: in CSV and JSON. heading: in tables.
        better: which end is the good one; None: neither, and nothing in the column is marked.
        of_seed: value of one training, None where the evidence does not say; mean and deviation are taken over the trainings.
        of_row: value of all trainings together, in place of `of_seed`.
        of_radii: it is made of radii themselves, not of radii compared with a fixed one; not every rule ranks or gives such values.
        meaning: a sentence for the caption, shared by the columns of one group.
    """

    name: str
    heading: str
    decimals: int = 2
    better: Literal["more", "less"] | None = "more"
    of_seed: Callable[[Outcomes, Cost], float | None] | None = None
    of_row: Callable[[Sequence[Outcomes]], float | None] | None = None
    of_radii: bool = False
    meaning: str = ""


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _acr() -> Metric:
    meaning = "ACR: average certified radius over all images."
    return Metric(name=ACR, heading=ACR, decimals=4, of_seed=lambda o, _: average_certified_radius(o), of_radii=True, meaning=meaning)


def _accuracy(radius: str) -> Metric:
    r = float(radius)
    return Metric(name=radius, heading=f"r={radius}", of_seed=lambda o, _: 100 * certified_accuracy(o, r))


def _quantile(name: str, heading: str, value: Callable[[Outcomes, float], float | None], meaning: str, decimals: int) -> list[Metric]:
    def column(q: int) -> Metric:
        return Metric(
            name=f"{name}-{q}",
            heading=f"{heading} {q} %",
            decimals=decimals,
            of_seed=lambda o, _: value(o, q / 100),
            of_radii=True,
            meaning=meaning,
        )

    return [column(q) for q in (10, 50, 90)]


def _class(label: int) -> Metric:
    meaning = "class k: ACR over the images of true class k."
    return Metric(
        name=f"ACR-class-{label}",
        heading=f"class {label}",
        decimals=4,
        of_seed=lambda o, _: class_acr(o, label),
        of_radii=True,
        meaning=meaning,
    )


def _interval_half(rows: Sequence[Outcomes]) -> float | None:
    """Half the width of the 95 % t-interval of the mean ACR over trainings; None for one training."""
    if len(rows) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(rows) - 1)) * statistics.stdev(map(average_certified_radius, rows)) / math.sqrt(len(rows))


def _groups(radii: Sequence[str], classes: int) -> dict[str, list[Metric]]:
    """What a word of `--metric` stands for."""
    clean = "clean: share of all images in % on whose label most samples fall (no certificate)."
    abstain = "abstain: share of all images in % where no class is certified."
    radius = "radius q %: that quantile over all images of the certified radius, 0 where wrong or abstained."
    bound = "pA q %: that quantile over all images of the lower bound on the probability of the selected class."
    cost = (
        "pairs: forward and backward passes per training image; samples: drawn per test image, in the mean; "
        "seconds: of training, on the machine of each run."
    )
    errors = (
        "t 95 %: half width of the t-interval of the ACR over trainings; s.e. images: standard error of the ACR over test images. "
        "They are two kinds of uncertainty and are not pooled."
    )
    return {
        ACR: [_acr()],
        "accuracy": [_accuracy(r) for r in radii],
        "clean": [Metric(name="clean", heading="clean", of_seed=lambda o, _: _percent(clean_accuracy(o)), meaning=clean)],
        "abstention": [
            Metric(name="abstention", heading="abstain", better="less", of_seed=lambda o, _: _percent(abstention_rate(o)), meaning=abstain)
        ],
        "quantiles": _quantile("radius", "radius", radius_quantile, radius, 3),
        "classes": [_class(label) for label in range(classes)],
        "bound": _quantile("pA", "pA", bound_quantile, bound, 4),
        "cost": [
            Metric(name="pairs", heading="pairs", decimals=1, better=None, of_seed=lambda _, c: c.pairs, meaning=cost),
            Metric(name="samples", heading="samples", decimals=0, better=None, of_seed=lambda o, _: o.samples, meaning=cost),
            Metric(name="seconds", heading="seconds", decimals=0, better=None, of_seed=lambda _, c: c.seconds, meaning=cost),
        ],
        "errors": [
            Metric(name="t-interval", heading="t 95 %", decimals=4, better=None, of_row=_interval_half, of_radii=True, meaning=errors),
            Metric(
                name="standard-error", heading="s.e. images", decimals=4, better=None, of_row=standard_error, of_radii=True, meaning=errors
            ),
        ],
    }


WORDS = tuple(_groups((), 0))
DEFAULT = (ACR, "accuracy")


def columns_of(words: Iterable[str], radii: Sequence[str], classes: int) -> tuple[Metric, ...]:
    """The columns that words ask for: those of `WORDS`, `all`, or a radius such as `0.75`.

    Args:
        radii: those of `accuracy`. classes: K of the data set.

    Raises:
        BenchError: an unknown word, or a radius that is no finite number from 0 up.
    """
    known = _groups(radii, classes)
    found: dict[str, Metric] = {}
    for word in words:
        if word in ("all", *known):
            chosen = [m for group in known.values() for m in group] if word == "all" else known[word]
        else:
            chosen = [_accuracy(_radius(word))]
        found |= {metric.name: metric for metric in chosen if metric.name not in found}
    return tuple(found.values())


def _radius(word: str) -> str:
    """A radius as columns are named: at least two decimals."""
    try:
        r = float(word.removeprefix("r="))
    except ValueError:
        raise BenchError(f"there is no metric {word!r}{nearest(word, [*WORDS, 'all'])}") from None
    if not (math.isfinite(r) and r >= 0):
        raise BenchError(f"radius {word} must be a finite number from 0 up, such as 0.5")
    r += 0.0  # no -0.00
    return text if float(text := f"{r:.2f}") == r else repr(r)
