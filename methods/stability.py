"""Stability training: predictions on noisy images are held to those on clean ones.

Li, Chen, Wang, Carin: "Certified Adversarial Robustness with Additive Noise", NeurIPS 2019.
Deviations: none from the form that the SmoothMix paper compares with. The clean prediction is a target through which the
gradient flows.
"""

from dataclasses import dataclass
from typing import ClassVar

from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Stability(Method):
    strength: float = 2.0  # lambda: weight of the stability term [Appendix C.2]

    separable: ClassVar = True

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"strength={self.strength} must not be negative")

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        clean = g.logits(batch.x)  # B K
        noisy = g.logits(batch.x, g.noise(batch.x))  # 1 B K
        return {
            "cross_entropy": cross_entropy(clean, batch.y).mean(),
            "stability": self.strength * cross_entropy(noisy, clean.softmax(-1)).mean(),
        }


# Source: SmoothMix paper, Appendix C.2.
Stability.presets = {
    (recipe, "default", dataset, sigma): Stability(strength=1.0 if (dataset, sigma) == ("cifar10", 1.0) else 2.0)
    for recipe in ("official", "paper")
    for dataset in ("mnist", "cifar10")
    for sigma in (0.25, 0.5, 1.0)
}
