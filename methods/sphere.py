"""Sphere attack: Gaussian training on noises turned, at their own length, until their copy is misclassified.

Sun et al.: "Average certified radius is a poor metric", 2025: the attack of its adaptive training, from the first epoch on and
without the rest: nothing is discarded, and no image is drawn more often than another.
Deviations: that it starts with the first epoch is ours; so is MNIST, with the settings of CIFAR-10. How many images a step has
is not stated: 256/M are taken.
"""

from dataclasses import dataclass
from typing import ClassVar

from bench.attacks import mislead
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy


@dataclass(frozen=True, kw_only=True)
class Sphere(Method):
    copies: int = 4  # M: noise samples per image [CIFAR-10]
    steps: int = 4  # T: steps of the attack on each noise [CIFAR-10, sigma 1]
    epsilon: float = 0.5  # eps: L2 length of a step [CIFAR-10, sigma 1]

    chunks: ClassVar = "copies"
    separable: ClassVar = True

    def __post_init__(self) -> None:
        if self.copies < 1 or self.steps < 1 or self.epsilon < 0:
            raise ValueError("copies and steps must be at least 1, epsilon not negative")

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        noise = g.noise(batch.x, self.copies)  # M B C H W
        noise = mislead(g, batch.x, batch.y, noise, steps=self.steps, step_size=self.epsilon)
        return {"cross_entropy": cross_entropy(g.logits(batch.x, noise), batch.y).mean()}


# Source: the authors' code: T 3, 6, 4 and eps .25, .25, .5 on CIFAR-10; MNIST takes the same [ours].
Sphere.presets = {
    (recipe, "default", dataset, sigma): Sphere(steps=steps, epsilon=epsilon)
    for recipe in ("official", "paper")
    for dataset in ("mnist", "cifar10")
    for sigma, steps, epsilon in ((0.25, 3, 0.25), (0.5, 6, 0.25), (1.0, 4, 0.5))
}
