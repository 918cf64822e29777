"""SmoothMix: mixes each image with an unrestricted adversary of the smoothed classifier, towards the uniform label.

Jeong, Park, Kim, Lee, Kim, Shin: "SmoothMix: Training Confidence-calibrated Smoothed Classifiers for Certified Robustness",
NeurIPS 2021, Algorithm 1.
Deviations: none under `--recipe paper`, which is Algorithm 1. `--recipe official` (the default) is the authors' code, whose
differences are the fields from `clip` on.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.attacks import ascend, project_l2
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy, kl, soft_vote, warmup


@dataclass(frozen=True, kw_only=True)
class SmoothMix(Method):
    copies: int = 4  # m: noise samples per image [Algorithm 1]
    steps: int = 4  # T: steps to the adversary [Algorithm 1]
    step_size: float = 1.0  # alpha: L2 length of a step [Algorithm 1]
    strength: float = 5.0  # eta: weight of the mixed loss [Algorithm 1]
    one_step: bool = False  # use_single_step: the first iterate replaces the clean image [Algorithm 1, line 9]
    norm_limit: float | None = None  # epsilon: the adversary stays in this L2 ball [Table 10]
    one_step_limit: float | None = None  # the replacement is projected to this L2 ball [Appendix G]
    clip: bool = True  # iterates are clipped to pixels in 0..1; paper: unrestricted [code]
    mask_wrong: bool = True  # mix only images whose averaged prediction is right; paper: every image [code]
    warmup_epochs: int = 10  # eta and the one-step radius ramp up over so many epochs; paper: 0, no ramp [code]
    reproject: bool = True  # the replacement is projected to the ramped radius w*alpha; paper: taken as it is [code]
    mix_loss: Literal["kl", "cross-entropy"] = "kl"  # L of the mixed term; paper: cross-entropy [code]
    guard: float = 1e-8  # added to the gradient's norm; paper: 0 [code]
    detach_target: bool = False  # no gradient through y_mix; neither the paper nor the code stops it [ours]

    variants: ClassVar = ("eta5", "eta5-onestep", "eta1", "eta1-onestep", "eta1-norm2", "eta1-norm4", "eta1-norm6", "eta1-norm8")
    chunks: ClassVar = "copies"
    separable: ClassVar = True

    def __post_init__(self) -> None:
        if self.copies < 1 or self.steps < 1 or self.step_size <= 0 or self.strength < 0 or self.warmup_epochs < 0 or self.guard < 0:
            raise ValueError("copies and steps >= 1, step_size > 0, strength, warmup_epochs and guard >= 0 are needed")
        for name in ("norm_limit", "one_step_limit"):
            if (limit := getattr(self, name)) is not None and limit <= 0:
                raise ValueError(f"{name}={limit} must be greater than 0, or none")

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        x, y = batch.x, batch.y
        ramp = warmup(batch.epoch, self.warmup_epochs)
        noise = g.noise(x, self.copies)  # delta, M B C H W
        share = g.uniform(len(x), like=x) / 2  # lambda, B

        def restrict(z: Tensor) -> Tensor:
            if self.norm_limit is not None:
                z = project_l2(z, x, self.norm_limit)
            return z.clamp(0, 1) if self.clip else z

        path = ascend(g, x, y, noise, steps=self.steps, step_size=self.step_size, restrict=restrict, guard=self.guard)
        clean, adversary = (path[1] if self.one_step else x), path[-1]  # B C H W
        if self.one_step and self.reproject:
            clean = project_l2(clean, x, ramp * self.step_size)
        if self.one_step and self.one_step_limit is not None:
            clean = project_l2(clean, x, self.one_step_limit)

        logits = g.logits(clean, noise)  # M B K
        mean = soft_vote(logits)  # F^(x), B K
        x_mix = torch.lerp(clean, adversary, share[:, None, None, None])
        y_mix = torch.lerp(mean, torch.full_like(mean, 1 / mean.shape[-1]), share[:, None])
        if self.detach_target:
            y_mix = y_mix.detach()
        logits_mix = g.logits(x_mix, noise)  # M B K
        mixed = kl(y_mix, logits_mix) if self.mix_loss == "kl" else cross_entropy(logits_mix, y_mix)  # M B
        if self.mask_wrong:
            mixed = mixed * (mean.argmax(-1) == y)
        return {"cross_entropy": cross_entropy(logits, y).mean(), "mix": self.strength * ramp * mixed.mean()}


# Sources: SmoothMix paper, sections 4 and Appendices C, G and H; the official switches are its authors' code.
_RECIPES: dict[str, dict[str, Any]] = {
    "official": {},
    "paper": {"clip": False, "mask_wrong": False, "warmup_epochs": 0, "reproject": False, "mix_loss": "cross-entropy", "guard": 0.0},
}
_ONE_STEP = {"": False, "-onestep": True}
_MNIST_STEPS = {(1, 0.25): 3, (1, 0.5): 4, (1, 1.0): 8, (5, 0.25): 2, (5, 0.5): 4, (5, 1.0): 8}
SmoothMix.presets = {
    key: preset
    for recipe, switches in _RECIPES.items()
    for key, preset in {
        **{
            (recipe, f"eta{eta}{suffix}", "mnist", sigma): SmoothMix(strength=float(eta), steps=steps, one_step=one_step, **switches)
            for (eta, sigma), steps in _MNIST_STEPS.items()
            for suffix, one_step in _ONE_STEP.items()
        },
        **{
            (recipe, f"eta1-norm{limit:g}", "mnist", 1.0): SmoothMix(strength=1.0, steps=8, norm_limit=limit, **switches)
            for limit in (2.0, 4.0, 6.0, 8.0)
        },
        **{
            (recipe, f"eta5{suffix}", "cifar10", sigma): SmoothMix(copies=2, steps=4, step_size=step_size, one_step=one_step, **switches)
            for sigma, step_size in ((0.25, 0.5), (0.5, 1.0), (1.0, 2.0))
            for suffix, one_step in _ONE_STEP.items()
        },
        # The released code cannot replace the clean image when T = 1; both recipes follow Appendix G. Its eta is not stated.
        **{
            (recipe, "eta5-onestep", "imagenet", sigma): SmoothMix(
                copies=1, steps=1, step_size=8.0, one_step=True, one_step_limit=1.0, **switches
            )
            for sigma in (0.5, 1.0)
        },
    }.items()
}
