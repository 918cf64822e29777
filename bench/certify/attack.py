"""What an attack makes of a smoothed classifier: an upper bound on its robust accuracy, beside the certified lower bound.

Source of the attack: Salman, Li, Razenshteyn, Zhang, Zhang, Bubeck, Yang, "Provably Robust Deep Learning via Adversarially Trained
Smoothed Classifiers", NeurIPS 2019: projected gradient descent on -log of the softmax averaged over noise samples. Source of the
prediction with abstention: Cohen, Rosenfeld, Kolter, ICML 2019, procedure PREDICT.

Images are searched within [0, 1], as an attacker must; a certificate covers the whole L2 ball.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import binom, binomtest
from torch import Tensor, nn

from bench.attacks import ascend, project_l2
from bench.certify import Sampler
from bench.certify.predict import predicted
from bench.errors import BenchError
from bench.evidence.certificate import Certificate
from bench.rules.bounds import check_alpha
from bench.rules.rule import Rule
from bench.smoothing import SmoothedClassifier, gather, log_soft_vote
from bench.spec import derive

ROWS = 1024  # noisy images per gradient, as far as one image's copies leave room
CHANCE = 0.01
"""Contradictions are an error of the certificates once failures that alpha allows give so many with less than this probability."""


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """How images are attacked and g is then evaluated.

    Attributes:
        eps: L2 radii in pixels of [0, 1], each above 0.
        steps: T, gradient steps; each has length 2 * eps / T, so that the ball can be crossed.
        samples: noise copies that the gradient averages over.
        restarts: further starts, from random points of the ball; the first is the image itself.
        n: samples that evaluate g at the point that was found.
        alpha: failure probability of a prediction, and of a certificate.
        seed: decides all noise.
    """

    eps: tuple[float, ...]
    steps: int = 20
    samples: int = 128
    restarts: int = 0
    n: int = 1000
    alpha: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("samples", 1), ("n", 1), ("restarts", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")
        if not self.eps or any(not (math.isfinite(eps) and eps > 0) for eps in self.eps):
            raise ValueError("eps must be finite numbers greater than 0, such as 0.25; the images themselves are evaluated in any case")
        check_alpha(self.alpha)
        object.__setattr__(self, "eps", tuple(sorted(set(self.eps))))


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One image at one radius.

    Attributes:
        eps: radius of the ball; 0 is the image itself.
        distance: L2 distance of the point that was found, at most eps.
        radius: certified L2 radius, None for abstain. certified: the certified class.
        counts: class -> count of the n evaluation samples at that point.
        predict: g's class there, -1 for abstain.
    """

    index: int
    label: int
    certified: int
    radius: float | None
    eps: float
    distance: float
    counts: Mapping[int, int]
    predict: int

    def p_change(self) -> float:
        """How likely samples speak so clearly for one other class, if none is likelier here than the certified one.

        The two-sided test of the two most frequent classes that PREDICT makes (Hung and Fithian 2019): its level holds although the
        samples choose the class, however many classes tie. 1 where the certified class has the most samples.
        """
        rest = dict(self.counts)
        own = rest.pop(self.certified, 0)
        first, second, *_ = sorted((*rest.values(), 0, 0), reverse=True)
        return float(binomtest(first, first + max(own, second)).pvalue) if first > own else 1.0


@dataclass(frozen=True, kw_only=True)
class Level:
    """What the attack and the certificates say at one radius, as shares of all attacked images.

    Attributes:
        certified: right, with a certified radius above eps: at least this share is robust.
        survived: g predicts the label at the point that was found, here and at every smaller radius.
        undecided: g abstains somewhere, and never predicts another class.
        broken: g predicts another class here or at a smaller radius; 1 - broken bounds robust accuracy from above.
        inside: images whose certified radius is above eps. contradictions: those of them where g's class changed.
    """

    eps: float
    certified: float
    survived: float
    undecided: float
    broken: float
    inside: int
    contradictions: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an attack.

    Attributes:
        levels: by radius, the images themselves (eps 0) first.
        attacked: each image at each radius.
        contradictions: attacked inside a certified radius, and g's class changed with significance.
        inside: images that were attacked inside their certified radius at least once.
        p_value: how likely so many contradicted images are, if each has probability 2 alpha at most.
    """

    levels: tuple[Level, ...]
    attacked: tuple[Attacked, ...]
    contradictions: tuple[Attacked, ...]
    inside: int
    p_value: float

    @property
    def refuted(self) -> bool:
        """Whether failures that alpha allows do not explain the contradictions."""
        return self.p_value < CHANCE


def attack(
    base: nn.Module,
    images: Tensor,
    rows: Sequence[Certificate],
    sigma: float,
    classes: int,
    spec: AttackSpec,
    rule: Rule | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Attacks the smoothed classifier at every image and radius, and evaluates it at the points that were found.

    An image is moved away from its certified class; where that abstained, from its label.

    Args:
        base: f, on the device of the images. images: I C H W in [0, 1].
        rows: evidence of the images, in their order. rule: that reads it, see `Certificate.radius`.
        progress: told images done and images to do.

    Raises:
        BenchError: no images, or logits that are not finite or of another shape.
    """
    if not rows:
        raise BenchError("there is no image to attack")
    found: list[Attacked] = []
    together = max(1, ROWS // spec.samples)
    evaluate = {eps: Sampler(base, sigma, classes, derive(spec.seed, "evaluate", repr(eps))) for eps in (0.0, *spec.eps)}
    for first in range(0, len(rows), together):
        chunk = rows[first : first + together]
        x = images[first : first + together]
        radii = [row.radius(spec.alpha, sigma, rule) for row in chunk]
        targets = [row.label if radius is None else row.selected for row, radius in zip(chunk, radii, strict=True)]
        y = torch.tensor(targets, device=x.device)
        for eps, sampler in evaluate.items():
            points = _find(base, x, y, [row.index for row in chunk], sigma, eps, spec) if eps else x
            for row, radius, start, point in zip(chunk, radii, x, points, strict=True):
                counts = sampler.certify(point, row.index, row.label, 1, spec.n).estimation
                shown, distance = predicted(counts, spec.alpha), float((point.double() - start.double()).norm())
                own: dict[str, Any] = {"certified": row.selected, "radius": radius, "eps": eps, "distance": distance, "counts": counts}
                found.append(Attacked(index=row.index, label=row.label, predict=-1 if shown is None else shown, **own))
        progress(min(first + together, len(rows)), len(rows))
    return summarise(found, spec)


def _find(base: nn.Module, x: Tensor, y: Tensor, indices: Sequence[int], sigma: float, eps: float, spec: AttackSpec) -> Tensor:
    """Of all starts, the point with the lowest averaged softmax of class y: B C H W, within eps of x and within [0, 1]."""

    def generators(purpose: str | int) -> list[torch.Generator]:
        return [torch.Generator(x.device).manual_seed(derive(spec.seed, "attack", index, repr(eps), purpose)) for index in indices]

    def noise(drawing: Sequence[torch.Generator]) -> Tensor:  # M B C H W
        drawn = [SmoothedClassifier(base, sigma, own).noise(image, spec.samples) for own, image in zip(drawing, x, strict=True)]
        return torch.stack(drawn, dim=1)

    def restrict(point: Tensor) -> Tensor:
        return project_l2(point.clamp(0, 1), x, eps)

    g = SmoothedClassifier(base, sigma, torch.Generator(x.device))
    points = []
    for restart in range(1 + spec.restarts):
        own = generators(restart)
        start = restrict(torch.stack([_within(image, eps, drawing) for image, drawing in zip(x, own, strict=True)])) if restart else x
        points.append(ascend(g, start, y, noise(own), steps=spec.steps, step_size=2 * eps / spec.steps, restrict=restrict)[-1])
    if len(points) == 1:
        return points[0]
    judge = noise(generators("judge"))  # one for all starts: each has fitted its own
    with g.frozen(), torch.inference_mode():
        best = torch.stack([gather(log_soft_vote(g.logits(point, judge)), y) for point in points]).argmin(0)  # B
    return torch.stack(points)[best, torch.arange(len(x), device=x.device)]


def _within(image: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """A point drawn uniformly from the L2 ball around an image."""
    direction = torch.empty_like(image).normal_(generator=generator)
    share = torch.rand((), generator=generator, device=image.device) ** (1 / image.numel())
    length: Tensor = eps * share / direction.norm()
    return image + length * direction


def summarise(attacked: Iterable[Attacked], spec: AttackSpec) -> Outcome:
    """Counts what an attack came to.

    A certificate is false with probability alpha at most, and over all radii a change of class is seen where there is none with
    probability alpha at most (a test at alpha / radii each); so an image contradicts with probability 2 alpha at most.
    """
    points = tuple(attacked)
    images = len({item.index for item in points})
    radii = sorted({item.eps for item in points})
    levels: list[Level] = []
    contradictions: list[Attacked] = []
    broken, doubtful, inside_once = set[int](), set[int](), set[int]()
    for eps in radii:
        here = [item for item in points if item.eps == eps]
        # What breaks an image within a ball breaks it within every larger one.
        broken |= {item.index for item in here if item.predict not in (-1, item.label)}
        doubtful |= {item.index for item in here if item.predict == -1}
        inside = [item for item in here if item.radius is not None and item.radius > eps]
        against = [item for item in inside if item.p_change() <= spec.alpha / len(radii)]
        inside_once |= {item.index for item in inside}
        contradictions += against
        certified = sum(item.certified == item.label for item in inside)
        undecided = len(doubtful - broken)
        levels.append(
            Level(
                eps=eps,
                certified=certified / images,
                survived=(images - len(broken) - undecided) / images,
                undecided=undecided / images,
                broken=len(broken) / images,
                inside=len(inside),
                contradictions=len(against),
            )
        )
    contradicted = len({item.index for item in contradictions})
    p_value = float(binom.sf(contradicted - 1, len(inside_once), 2 * spec.alpha)) if contradicted else 1.0
    return Outcome(levels=tuple(levels), attacked=points, contradictions=tuple(contradictions), inside=len(inside_once), p_value=p_value)
