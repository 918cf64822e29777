"""Example: what `bench new-method` writes, handed in as docs/submit.md says. It compares nothing.

Cohen, Rosenfeld, Kolter: "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, for the noise in training.
Deviations: the entropy of the prediction averaged over the noisy copies is added, as an example of a second term.
"""

from dataclasses import dataclass

from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy, entropy, soft_vote


@dataclass(frozen=True, kw_only=True)
class Example(Method):
    copies: int = 2  # m: noise samples per image
    strength: float = 0.1  # lambda: weight of the entropy of the averaged prediction

    def __post_init__(self) -> None:
        if self.copies < 1 or self.strength < 0:
            raise ValueError("copies must be at least 1, strength not negative")

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        noise = g.noise(batch.x, self.copies)  # M B C H W
        logits = g.logits(batch.x, noise)  # M B K
        return {
            "cross_entropy": cross_entropy(logits, batch.y).mean(),
            "entropy": self.strength * entropy(soft_vote(logits)).mean(),
        }
