"""Consistency regularization: predictions under several noises are held together.

Jeong, Shin: "Consistency Regularization for Certified Robustness of Smoothed Classifiers", NeurIPS 2020.
Deviations: none from the form that the SmoothMix paper compares with (on the Gaussian baseline). The averaged prediction is
not detached.
"""

from dataclasses import dataclass
from typing import ClassVar

from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy, entropy, kl, soft_vote


@dataclass(frozen=True, kw_only=True)
class Consistency(Method):
    copies: int = 2  # m: noise samples per image [Consistency paper]
    strength: float = 5.0  # lambda: weight of the consistency term [Appendix C.2]
    entropy_strength: float = 0.5  # eta: weight of the entropy of the averaged prediction [Appendix C.2]

    chunks: ClassVar = "copies"
    separable: ClassVar = True

    def __post_init__(self) -> None:
        if self.copies < 1 or self.strength < 0 or self.entropy_strength < 0:
            raise ValueError("copies must be at least 1, strength and entropy_strength not negative")

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        logits = g.logits(batch.x, g.noise(batch.x, self.copies))  # M B K
        mean = soft_vote(logits)  # pbar, B K
        return {
            "cross_entropy": cross_entropy(logits, batch.y).mean(),
            "consistency": self.strength * kl(mean, logits).mean(),
            "entropy": self.entropy_strength * entropy(mean).mean(),
        }


# Sources: SmoothMix paper, Appendix C.2; ImageNet: the Consistency paper's published settings.
_SETTINGS = {
    ("mnist", 0.25): (10.0, 0.5),
    ("mnist", 0.5): (5.0, 0.5),
    ("mnist", 1.0): (5.0, 0.5),
    ("cifar10", 0.25): (20.0, 0.5),
    ("cifar10", 0.5): (10.0, 0.5),
    ("cifar10", 1.0): (10.0, 0.5),
    ("imagenet", 0.5): (5.0, 0.5),
    ("imagenet", 1.0): (5.0, 0.1),
}
Consistency.presets = {
    (recipe, "default", *where): Consistency(strength=strength, entropy_strength=eta)
    for recipe in ("official", "paper")
    for where, (strength, eta) in _SETTINGS.items()
}
