"""What the certificates of one training say: the evidence that every metric is a function of."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bench import rules
from bench.errors import BenchError
from bench.evidence.columns import Columns
from bench.rules.bounds import Floats, Integers
from bench.rules.rule import Counts, Rule
from bench.spec import CertifySpec


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training took; None where it is not recorded."""

    pairs: float | None = None  # forward and backward passes per training image
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the certificates of I images say at one alpha and sigma, and what the training took.

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
        samples: mean per image; None for imported logs.
        drawn: those of them that count the class.
        rule: that read the counts; None for imported logs.
        radii: the only ones that it certifies; empty where it certifies any.
        cost: of the training.
        selected: I, class chosen by the selection samples.
        counts: of I images, what the rule read.
        alpha: chance that a certificate is
            wrong. sigma: noise level, in pixels of [0, 1]. All four are None for imported logs.
        dimension: numbers in one image (channels x height x width); None where the data set is not known.
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
    radii: tuple[float, ...] = ()
    cost: Cost = Cost()
    selected: Integers | None = None
    counts: Counts | None = None
    alpha: float | None = None
    sigma: float | None = None
    dimension: int | None = None

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
        selected=columns.selected,
        counts=columns.counts,
        alpha=alpha,
        sigma=sigma,
        radii=reading.given_radii,
    )
