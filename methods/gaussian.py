"""Gaussian augmentation: cross-entropy on noisy images.

Cohen, Rosenfeld, Kolter: "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, section 3.3.
"""

from dataclasses import dataclass
from typing import ClassVar

from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Gaussian(Method):
    separable: ClassVar = True

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        logits = g.logits(batch.x, g.noise(batch.x))  # 1 B K
        return {"cross_entropy": cross_entropy(logits, batch.y).mean()}
