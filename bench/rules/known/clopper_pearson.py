"""All n samples are drawn; one-sided Clopper-Pearson bound, as in the field.

Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019 (procedure CERTIFY).
"""

from __future__ import annotations

from typing import ClassVar

from bench.rules.bounds import lower_confidence_bounds
from bench.rules.rule import Counts, Floats, Recomputed, Rule


class ClopperPearson(Rule):
    recomputed: ClassVar[Recomputed | None] = "tail"

    def bounds(self, counts: Counts, alpha: float) -> Floats:
        return lower_confidence_bounds(counts.count, counts.n, alpha)


RULE = ClopperPearson
