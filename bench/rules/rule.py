"""What a rule has to answer: when to stop drawing samples of an image, and what the counts then certify."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bench.errors import BenchError
from bench.rules.bounds import Integers, certified_radii

if TYPE_CHECKING:
    from bench.spec import CertifySpec

Floats = NDArray[np.float64]
Acr = Literal["ranked", "shown", "none"]
Recomputed = Literal["tail", "mixture"]

BLOCKS = 10
"""Blocks of noise between two looks at the counts: fixed, so that neither batch nor workers move the end."""


@dataclass(frozen=True)
class Counts:
    """Estimation samples of I images, I each.

    Attributes:
        count: those on the selected class. n: all that were drawn, at least 1.
        runner_up: those on the class that has the most of the others; None where it is not known.
    """

    count: Integers
    n: Integers
    runner_up: Integers | None = None


@dataclass(frozen=True)
class Stopping:
    """When enough samples of an image have been drawn.

    Attributes:
        enough: whether a count of the selected class among so many samples is; it is asked at the looks before the last one.
    """

    enough: Callable[[int, int], bool]

    def looks(self, n: int, block: int) -> Iterable[int]:
        """Numbers of samples after which the counts are looked at, ascending, n at last.

        Args:
            n: the most samples. block: samples that are drawn together; looks before the last are multiples of it.
        """
        return (*range(BLOCKS * block, n, BLOCKS * block), n)


class Rule(ABC):
    """A rule at work on one certification.

    Attributes:
        name: in specs, flags and tables; the name of its file.
        stored_as: the rule in the key of the evidence that it reads. Another one's name: it is a way to read, and does not sample.
        stops: samples may end before n because of what was seen. Then counts of all classes are no fair sample of them, and no log
            of the field tells such a certification.
        takes_radii: it certifies the radii that the spec gives (certify.radii), and no others.
        acr: whether an ACR is `ranked` as usual, only `shown` (no marks, no tests), or `none` can be read.
        acr_note: the sentence that says why an ACR is not ranked; it stands below tables and pictures.
        recomputed: the second computation of `bench.verify.radii` that its bounds have to agree with; None: there is none, which
            verification says.
    """

    name: ClassVar[str]
    stored_as: ClassVar[str] = ""
    stops: ClassVar[bool] = False
    takes_radii: ClassVar[bool] = False
    acr: ClassVar[Acr] = "ranked"
    acr_note: ClassVar[str] = ""
    recomputed: ClassVar[Recomputed | None] = None

    def __init_subclass__(cls) -> None:
        cls.name = cls.__module__.rpartition(".")[2].replace("_", "-")
        cls.stored_as = cls.__dict__.get("stored_as", cls.name)

    def __init__(self, spec: CertifySpec) -> None:
        self.spec = spec

    @classmethod
    def check_spec(cls, spec: CertifySpec) -> None:
        """ValueError unless evidence can be stored under this rule, with what the spec says of it."""
        if cls.stored_as != cls.name:
            raise ValueError(f"rule={cls.name} is a way to read counts; they are stored under rule={cls.stored_as}")

    @classmethod
    def words(cls) -> str:
        """What captions call it."""
        return f"{cls.name} bound"

    @property
    def given_radii(self) -> tuple[float, ...]:
        """The only radii at which it says whether an image is certified; empty where that is any."""
        return tuple(map(float, self.spec.radii.split(","))) if self.takes_radii else ()

    # ---- how sampling stops

    def stop(self, sigma: float) -> Stopping | None:
        """When to stop; None: never before n samples."""
        return None

    def may_stop(self, counts: Counts) -> NDArray[np.bool_]:
        """I: whether sampling may have stopped at these counts, each of fewer than n samples."""
        return np.zeros(len(counts.n), dtype=np.bool_)

    # ---- how counts are read

    @property
    def alpha(self) -> float:
        """At which the evidence is read if nobody says another: where it stopped."""
        return self.spec.stop_alpha if self.stops else 0.001

    def refusal(self, alpha: float) -> str:
        """Why the evidence of this certification cannot be read at alpha, and what could be; empty if it can."""
        return ""

    def check(self, alpha: float) -> None:
        """BenchError where the evidence of this certification cannot be read at alpha."""
        if reason := self.refusal(alpha):
            raise BenchError(reason)

    @abstractmethod
    def bounds(self, counts: Counts, alpha: float) -> Floats:
        """I: lower bounds on pA, the probability of the selected class.

        Raises:
            ValueError: impossible counts; alpha outside (0, 1/2).
        """

    def radii(self, counts: Counts, alpha: float, sigma: float) -> Floats:
        """I: certified L2 radii in pixels of [0, 1]; NaN for abstain.

        Raises:
            ValueError: as `bounds`; a sigma that is not finite and above 0.
        """
        return certified_radii(self.bounds(counts, alpha), sigma)

    def formula(self, counts: Counts, alpha: float, sigma: float) -> str:
        """How the radius of one certified image comes about, with its numbers; empty where a rule of its own radii does not say."""
        if type(self).radii is not Rule.radii:
            return ""
        return f"sigma * Phi^-1(pA) = {sigma:g} * {ndtri(self.bounds(counts, alpha)[0]):.6f}"

    def largest_radius(self, alpha: float, sigma: float) -> float:
        """The radius of an image whose n samples all agree; 0 if even that abstains."""
        n = np.array([self.spec.n])
        return float(np.nan_to_num(self.radii(Counts(n, n, np.zeros_like(n)), alpha, sigma))[0])

    def too_few(self, alpha: float, sigma: float = 1.0) -> str:
        """Why no image could ever be certified with so few samples, and how many it takes; empty if one could."""

        def certifies(n: int) -> bool:
            return type(self)(replace(self.spec, n=n)).largest_radius(alpha, sigma) > 0

        if certifies(least := self.spec.n):
            return ""
        while not certifies(least := 2 * least):
            pass
        least = bisect.bisect_left(range(least), True, lo=self.spec.n, key=certifies)
        return f"every image would abstain with n {self.spec.n} at alpha {alpha:g}, even if all samples agree; the least n is {least}"


def drawn_words(n: int, drawn: float | None) -> str:
    """What stands behind n where fewer samples were drawn: ` at most, 64,700 drawn per image`.

    Args:
        drawn: estimation samples per image, the mean; None where it is not known.
    """
    return "" if drawn is None or drawn >= n else f" at most, {drawn:,.0f} drawn per image"
