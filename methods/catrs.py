"""CAT-RS: confidence-aware training: less asked of images that the model is unsure of, the worst noise of those it is sure of.

Jeong, Kim, Shin: "Confidence-aware Training of Smoothed Classifiers for Certified Robustness", AAAI 2023, as its authors' code has it.
Deviations: on ImageNet the code drops the learning rate once more at epoch 85, which no schedule of the suite does. MNIST
trains 90 epochs as every method here, not 150; its lambda is published for sigma .25 alone, and 1 is taken for .5 and 1 (ours).
Variant self: the target is the model's own averaged prediction of the batch, detached, so no other model is needed (ours).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.attacks import climb, project_l2
from bench.method import Batch, Method, Prior, Survey, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy, gather, kl, soft_vote

PIXELS = (-3, -2, -1)  # C H W


@dataclass(frozen=True, kw_only=True)
class CatRS(Method):
    copies: int = 4  # M: noise samples per image [code]
    steps: int = 4  # T: steps of the attack on each noise [code]
    epsilon: float = 1.0  # eps: L2 radius of the attack around each noise [code]
    strength: float = 1.0  # lambda: weight of the worst noise [code]
    target: Literal["prior", "self"] = "prior"  # whose votes the attack flees: a Gaussian model's, or its own [self: ours]
    votes: int = 10_000  # N: noisy copies that the prior is counted of [code]
    prior_sigma: float = 0.25  # noise level of the prior, whatever that of the training [code]
    confidence: Literal["batch", "prior"] = "batch"  # share of right copies: of the batch's own, or the prior's [prior: code, ImageNet]
    doubled_from: int | None = None  # epoch from which eps is doubled [code, ImageNet]

    variants: ClassVar = ("default", "self")
    chunks: ClassVar = "copies"
    separable: ClassVar = True

    def __post_init__(self) -> None:
        if self.copies < 1 or self.steps < 1 or self.votes < 1 or self.epsilon < 0 or self.strength < 0 or self.prior_sigma <= 0:
            raise ValueError("copies, steps and votes >= 1, epsilon and strength >= 0, prior_sigma > 0 are needed")

    def surveys(self) -> Mapping[str, Survey]:
        if (self.target, self.confidence) == ("self", "batch"):
            return {}
        return {"prior": Survey(copies=self.votes, votes=True, augmented=True, of=Prior(method="gaussian", sigma=self.prior_sigma))}

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        x, y = batch.x, batch.y
        noise = g.noise(x, self.copies)  # d, M B C H W
        draws = torch.stack([g.uniform(len(x), like=x) for _ in range(self.copies)])  # M B
        logits = g.logits(x, noise)  # M B K
        target = soft_vote(logits).detach() if self.target == "self" else batch.surveys["prior"].to(x.dtype)  # pb, B K
        right = (logits.argmax(-1) == y).to(x.dtype).mean(0) if self.confidence == "batch" else gather(batch.surveys["prior"], y)  # a, B
        kept = (draws < right).sum(0).clamp_min(1)  # k ~ Binomial(M, a), at least 1: B

        smallest = cross_entropy(logits, y).sort(0).values  # M B
        among = torch.arange(self.copies, device=x.device).unsqueeze(1) < kept  # the k smallest of each image, M B
        low = (smallest * among).sum(0) / self.copies  # B
        high = kl(target, g.logits(x, self.worst(g, batch, target, noise))).max(0).values  # B
        return {"low": low.mean(), "high": self.strength * (high * (kept == self.copies)).mean()}

    def worst(self, g: SmoothedClassifier, batch: Batch, target: Tensor, noise: Tensor) -> Tensor:
        """Each noise moved away from the target, within a ball around it, with its own mean and size: M B C H W."""
        radius = self.epsilon * (2 if self.doubled_from is not None and batch.epoch >= self.doubled_from else 1)
        mean, size = noise.mean(PIXELS, keepdim=True), rms(noise)

        def objective(moved: Tensor) -> Tensor:
            return kl(target, g.logits(batch.x, moved)).mean(0).sum()

        def restrict(moved: Tensor) -> Tensor:
            moved = project_l2(moved, noise, radius)
            return mean + size * (moved - moved.mean(PIXELS, keepdim=True)) / rms(moved)

        return climb(g, noise, objective, steps=self.steps, step_size=2 * radius / self.steps, restrict=restrict, guard=1e-8)[-1]


def rms(noise: Tensor) -> Tensor:
    """Root of the mean square over the pixels, of which no mean is taken before: ... 1 1 1."""
    return noise.square().mean(PIXELS, keepdim=True).sqrt()


# Source: the authors' code; lambda by sigma. MNIST at .5 and 1 is ours.
_STRENGTH = {"mnist": {0.25: 1.0, 0.5: 1.0, 1.0: 1.0}, "cifar10": {0.25: 0.5, 0.5: 1.0, 1.0: 2.0}}
CatRS.presets = {
    (recipe, variant, dataset, sigma): CatRS(strength=strength, target="self" if variant == "self" else "prior")
    for recipe in ("official", "paper")
    for variant in CatRS.variants
    for dataset, strengths in _STRENGTH.items()
    for sigma, strength in strengths.items()
} | {
    (recipe, "default", "imagenet", 1.0): CatRS(copies=2, steps=1, strength=2.0, confidence="prior", doubled_from=80)
    for recipe in ("official", "paper")
}
