"""SmoothAdv: adversarial training of the smoothed classifier (SmoothAdv-PGD).

Salman, Yang, Li, Zhang, Zhang, Razenshteyn, Bubeck: "Provably Robust Deep Learning via Adversarially Trained Smoothed
Classifiers", NeurIPS 2019 (the m-sample PGD attack on -log of the averaged softmax).
Deviations: an image whose gradient is exactly 0 stays where it is; the authors' code draws a random direction for it. All else is
the form that the SmoothMix paper compares with. After each step the point is clipped to [0, 1] first and projected to the ball second.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from bench.attacks import ascend, project_l2
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy, warmup


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Method):
    copies: int = 4  # m: noise samples per image [Appendix C.2]
    steps: int = 10  # T: PGD steps [Appendix C.2]
    epsilon: float = 255 / 256  # epsilon: L2 radius of the attack; paper 1.0 [code]
    warmup_epochs: int = 10  # the radius grows to epsilon over so many epochs [Appendix C.2]
    warmup_first: float = 1.0  # increments of the radius in epoch 0: 1 starts at epsilon/10; paper: 0, from zero [code]

    chunks: ClassVar = "copies"
    separable: ClassVar = True

    def __post_init__(self) -> None:
        if self.copies < 1 or self.steps < 1 or self.epsilon < 0 or self.warmup_epochs < 0:
            raise ValueError("copies and steps must be at least 1, epsilon and warmup_epochs not negative")
        if not 0 <= self.warmup_first <= 1:
            raise ValueError(f"warmup_first={self.warmup_first} must lie in 0 .. 1")

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        x, y = batch.x, batch.y
        radius = self.epsilon * warmup(batch.epoch, self.warmup_epochs, self.warmup_first)  # epsilon_t
        noise = g.noise(x, self.copies)  # M B C H W
        adversary = ascend(
            g, x, y, noise, steps=self.steps, step_size=2 * radius / self.steps, restrict=lambda z: project_l2(z.clamp(0, 1), x, radius)
        )[-1]  # B C H W
        return {"cross_entropy": cross_entropy(g.logits(adversary, noise), y).mean()}


# Sources: SmoothMix paper, Appendix C.2 (paper); its authors' code (official): epsilon 255/256, from epsilon/10 up.
_RECIPES: dict[str, dict[str, Any]] = {
    "official": {"epsilon": 255 / 256, "warmup_first": 1.0},
    "paper": {"epsilon": 1.0, "warmup_first": 0.0},
}
SmoothAdv.presets = {
    (recipe, "default", dataset, sigma): SmoothAdv(copies=copies, **switches)
    for recipe, switches in _RECIPES.items()
    for dataset, copies in (("mnist", 4), ("cifar10", 8))
    for sigma in (0.25, 0.5, 1.0)
} | {
    # Table 7's rows are released models: one PGD step, epsilon by noise level. Their m is not stated; 1 is taken.
    (recipe, "default", "imagenet", sigma): SmoothAdv(copies=1, steps=1, epsilon=epsilon, warmup_first=switches["warmup_first"])
    for recipe, switches in _RECIPES.items()
    for sigma, epsilon in ((0.5, 255 / 256), (1.0, 512 / 256))
}
