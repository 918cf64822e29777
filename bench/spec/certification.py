"""What a certification is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from bench import rules
from bench.errors import nearest
from bench.spec.canonical import digest
from bench.spec.images import select_images
from bench.spec.stored import LATER, to_json
from bench.spec.training import normalise, positive
from bench.spec.values import Scalar

SAMPLINGS = ("float32", "grid")
MOST_SAMPLES = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class CertifySpec:
    """How a smoothed classifier is certified: CERTIFY of Cohen et al. (2019), Algorithm "certification"."""

    n0: int  # samples that choose the class
    n: int  # fresh samples that count it
    images: str = "all"  # which test images, see `select_images`
    seed: int = 0
    rule: str = rules.DEFAULT  # how sampling stops, see bench.rules
    precision: str = "float32"
    sampling: str = field(default="float32", metadata=LATER)  # float32, or grid: sums that are exact in floating point
    skip_misclassified: bool = field(default=False, metadata=LATER)  # no estimation where the selected class is wrong
    stop_alpha: float = field(default=0.001, metadata=LATER)  # at which the rules that stop early stop; evidence is read at it or below
    radius_step: float = field(default=0.25, metadata=LATER)  # rules that stop for fixed radii stop for its multiples
    radii: str = field(default="", metadata=LATER)  # rules that certify given radii certify these, ascending: 0,0.5,1
    first_look: int = field(default=500, metadata=LATER)  # samples after which such a rule first looks at the counts
    changes: Mapping[str, Scalar] = field(default_factory=dict)  # what --set changed of the protocol

    def __post_init__(self) -> None:
        normalise(self)
        positive(self, "n0", "n", "first_look")
        for name in ("n0", "n"):
            if getattr(self, name) > MOST_SAMPLES:
                raise ValueError(f"{name}={getattr(self, name)} is more than {MOST_SAMPLES}, the largest count that evidence holds")
        object.__setattr__(self, "radii", _ascending(self.radii))
        rules.check_spec(self)
        if not 0 < self.stop_alpha < 0.5:
            raise ValueError(f"stop_alpha={self.stop_alpha} must lie between 0 and 0.5, both excluded; 0.001 is usual")
        if not (math.isfinite(self.radius_step) and self.radius_step > 0):
            raise ValueError(f"radius_step={self.radius_step} must be a finite number greater than 0")
        if self.precision != "float32":
            raise ValueError(f"precision={self.precision} is not supported; there is float32")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling={self.sampling} is not supported{nearest(self.sampling, SAMPLINGS)}")
        select_images(self.images, 1)

    @cached_property
    def key(self) -> str:
        """16 hex digits; names the certification within a run."""
        return digest(to_json(self))


def _ascending(radii: str) -> str:
    """Radii with commas between, in one spelling.

    Raises:
        ValueError: they are not finite numbers of at least 0 that ascend.
    """
    try:
        found = [float(word) for word in radii.split(",")] if radii else []
    except ValueError:
        found = [math.nan]
    if not all(low < high for low, high in zip([-1.0, *found], [*found, math.inf], strict=True)) or any(radius < 0 for radius in found):
        raise ValueError(f"radii={radii} must be ascending numbers of at least 0 with commas between, such as 0,0.5,1")
    return ",".join(text if float(text := f"{radius:g}") == radius else repr(radius) for radius in found)
