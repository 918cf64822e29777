"""PREDICT: the class of the smoothed classifier, or abstention.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, procedure PREDICT; the
test is the exact two-sided one of Hung and Fithian (2019) on the two most frequent classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.stats import binomtest
from torch import Tensor

from bench.certify import Sampler
from bench.errors import BenchError
from bench.rules.bounds import check_alpha

COLUMNS = ("idx", "label", "predict", "correct", "counts")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The samples of one image and what they decide.

    Attributes:
        index: position in the test set.
        label: true class.
        predict: the class of g, None for abstain; another class than that of g with probability alpha at most.
        counts: class -> samples, zeros left out.
    """

    index: int
    label: int
    predict: int | None
    counts: Mapping[int, int]

    @property
    def correct(self) -> bool:
        """Not abstained, and the class is the label."""
        return self.predict == self.label


def predicted(counts: Mapping[int, int], alpha: float) -> int | None:
    """The class that the samples show to be the most likely one, or None for abstain.

    Args:
        counts: class -> samples, at least one.
        alpha: chance that another class than the most likely one is returned, at most; in (0, 1/2).

    Raises:
        ValueError: no samples, or alpha out of range.
    """
    check_alpha(alpha)
    ranked = sorted(((count, -label) for label, count in counts.items()), reverse=True)
    if not ranked or ranked[0][0] < 1 or ranked[-1][0] < 0:
        raise ValueError(f"counts {dict(counts)} must be whole numbers from 0 up, one of them at least 1")
    first, label = ranked[0]
    second = ranked[1][0] if ranked[1:] else 0
    return -label if binomtest(first, first + second, 0.5).pvalue <= alpha else None


def least_samples(alpha: float) -> int:
    """The smallest n with which PREDICT can return a class at all: 2 * (1/2)^n <= alpha."""
    check_alpha(alpha)
    return next(n for n in range(1, 2000) if predicted({0: n}, alpha) is not None)


def predict(sampler: Sampler, x: Tensor, index: int, label: int, n: int, alpha: float) -> Prediction:
    """PREDICT of one image.

    The noise is that of the sampler's seed, so a sampler that predicts has a seed of its own.

    Args:
        x: the image, C H W in [0, 1]. index: its position in the test set. label: its class.
        n: samples, at least 2.

    Raises:
        BenchError: as `Sampler.certify`.
    """
    # The sampler draws in two independent parts, and here all of the samples serve one purpose.
    drawn = sampler.certify(x, index, label, n // 2, n - n // 2)
    both = (drawn.selection, drawn.estimation)
    counts = {c: sum(part.get(c, 0) for part in both) for c in sorted(set().union(*both))}
    return Prediction(index=index, label=label, predict=predicted(counts, alpha), counts=counts)


def check_samples(n: int, alpha: float) -> None:
    """BenchError for an n with which every image abstains, or an alpha out of range."""
    try:
        least = least_samples(alpha)
    except ValueError as error:
        raise BenchError(f"--{error}") from None
    if n < least:
        raise BenchError(f"--n {n} always abstains at alpha {alpha:g}; the least that can decide is {least}")


def write(rows: Iterable[Prediction]) -> bytes:
    """Predictions as a table parted by tabs; abstain is predict -1, counts are `class:samples`, the most frequent first."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        counts = " ".join(f"{c}:{k}" for c, k in sorted(row.counts.items(), key=lambda item: (-item[1], item[0])))
        predict = -1 if row.predict is None else row.predict
        lines.append(f"{row.index}\t{row.label}\t{predict}\t{int(row.correct)}\t{counts}")
    return ("\n".join(lines) + "\n").encode("ascii")
