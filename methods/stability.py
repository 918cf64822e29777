"""Stability training: predictions on noisy images are held to those on clean ones.

Li, Chen, Wang, Carin: "Certified Adversarial Robustness with Additive Noise", NeurIPS 2019.
Deviations: none from the form that the SmoothMix paper compares with. The clean prediction is a target through which the
gradient flows.
Variant two-copy: both predictions are noisy ones, cross-entropy at the first and KL from it to the second: the consistency of
two copies that several later papers use. The gradient flows through both (ours).
"""

from dataclasses import dataclass, field
from typing import ClassVar

from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy, kl
from bench.spec import LATER


@dataclass(frozen=True, kw_only=True)
class Stability(Method):
    strength: float = 2.0  # lambda: weight of the stability term [Appendix C.2]
    two_copies: bool = field(default=False, metadata=LATER)  # hold two noisy predictions together, none of them clean [ours]

    variants: ClassVar = ("default", "two-copy")
    separable: ClassVar = True

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"strength={self.strength} must not be negative")

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        if self.two_copies:
            logits = g.logits(batch.x, g.noise(batch.x, 2))  # 2 B K
            return {
                "cross_entropy": cross_entropy(logits[:1], batch.y).mean(),
                "stability": self.strength * kl(logits[0].softmax(-1), logits[1:]).mean(),
            }
        clean = g.logits(batch.x)  # B K
        noisy = g.logits(batch.x, g.noise(batch.x))  # 1 B K
        return {
            "cross_entropy": cross_entropy(clean, batch.y).mean(),
            "stability": self.strength * cross_entropy(noisy, clean.softmax(-1)).mean(),
        }


# Source: SmoothMix paper, Appendix C.2; two-copy: lambda = 6.
Stability.presets = {
    (recipe, "default", dataset, sigma): Stability(strength=1.0 if (dataset, sigma) == ("cifar10", 1.0) else 2.0)
    for recipe in ("official", "paper")
    for dataset in ("mnist", "cifar10")
    for sigma in (0.25, 0.5, 1.0)
} | {
    (recipe, "two-copy", dataset, sigma): Stability(strength=6.0, two_copies=True)
    for recipe in ("official", "paper")
    for dataset in ("mnist", "cifar10")
    for sigma in (0.25, 0.5, 1.0)
}
