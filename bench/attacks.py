"""Adversarial examples of the smoothed classifier, found by normalised L2 gradient ascent.

`climb` ascends anything; `ascend` and `mislead` are the ascents that published methods share.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench.smoothing import SmoothedClassifier, cross_entropy, gather, log_soft_vote

LOG_FLOOR = math.log(1e-20)  # below this probability of the label the ascent has no gradient

Objective = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
"""What is ascended, as a scalar of the point: a sum over images, whose gradients then do not mix. Or that, and a mask of the images (of
the point's shape without C H W) that stay where they are."""


def climb(
    g: SmoothedClassifier,
    start: Tensor,
    objective: Objective,
    *,
    steps: int,
    step_size: float,
    restrict: Callable[[Tensor], Tensor] | None = None,
    guard: float = 0.0,
) -> list[Tensor]:
    """Ascends any objective in any images or noises, in steps of fixed L2 length along the gradient.

    The base classifier is in evaluation mode and its parameters are frozen meanwhile. There is no random start.

    Args:
        start: ... C H W, such as images B C H W or noises M B C H W.
        steps: T.
        step_size: L2 length of a step of each C H W, in pixels of [0, 1].
        restrict: maps each new iterate to an allowed one.
        guard: added to the gradient's norm before dividing; what has no gradient stays where it is.

    Returns:
        all iterates 0 .. T, of the shape of start, detached.
    """
    iterates = [start.detach()]
    with g.frozen(), torch.enable_grad():
        for _ in range(steps):
            point = iterates[-1].requires_grad_()
            found = objective(point)
            value, held = found if isinstance(found, tuple) else (found, None)
            gradient = g.gradient_of_images(value, point)
            point.requires_grad_(False)
            norm = l2_norm(gradient) + guard
            moved = point + step_size * gradient / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            moved = restrict(moved) if restrict else moved
            iterates.append(moved if held is None else torch.where(held[..., None, None, None], point, moved))
    return iterates


def ascend(
    g: SmoothedClassifier,
    x: Tensor,
    y: Tensor,
    noise: Tensor,
    *,
    steps: int,
    step_size: float,
    restrict: Callable[[Tensor], Tensor] | None = None,
    guard: float = 0.0,
) -> list[Tensor]:
    """Ascends -log pbar_y, pbar the softmax averaged over fixed noise copies, in steps of fixed L2 length.

    The base classifier is in evaluation mode and its parameters are frozen meanwhile. There is no random start.

    Args:
        x: start, B C H W.
        y: labels, B.
        noise: M B C H W, the same in every step.
        steps: T.
        step_size: alpha, L2 length of a step in pixels of [0, 1].
        restrict: maps each new iterate to an allowed one.
        guard: added to the gradient's norm before dividing; an image without gradient stays where it is.

    Returns:
        all iterates x~(0) .. x~(T), each B C H W, detached.
    """

    def objective(point: Tensor) -> Tensor:
        return -gather(log_soft_vote(g.logits(point, noise)), y).clamp_min(LOG_FLOOR).sum()

    return climb(g, x, objective, steps=steps, step_size=step_size, restrict=restrict, guard=guard)


def mislead(g: SmoothedClassifier, x: Tensor, y: Tensor, noise: Tensor, *, steps: int, step_size: float, guard: float = 1e-8) -> Tensor:
    """Turns every noise until its copy is misclassified: ascends the cross-entropy of x + noise on the sphere of the noise's own length.

    The first iterate that is misclassified is kept. Each is looked at before its step, so the last one is not.
    Source: Sun et al., "Average certified radius is a poor metric", 2025, as their code has it.

    Args:
        x: images, B C H W.
        y: labels, B.
        noise: M B C H W; each copy is attacked on its own.
        steps: T.
        step_size: epsilon, L2 length of a step before it is put back on the sphere.
        guard: added to the norms of gradient and noise before dividing.

    Returns:
        noises of the lengths of those given, M B C H W, detached.
    """
    length = l2_norm(noise)

    def objective(turned: Tensor) -> tuple[Tensor, Tensor]:
        logits = g.logits(x, turned)  # M B K
        return cross_entropy(logits, y).sum(), logits.argmax(-1) != y

    def restrict(turned: Tensor) -> Tensor:
        return length * turned / (l2_norm(turned) + guard)

    return climb(g, noise, objective, steps=steps, step_size=step_size, restrict=restrict, guard=guard)[-1]


def project_l2(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The nearest point of the L2 ball of that radius around each image of `centre`: ... C H W."""
    shift = x - centre
    norm = l2_norm(shift)
    return torch.where(norm > radius, centre + shift * (radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)), x)


def l2_norm(x: Tensor) -> Tensor:
    """The L2 norm of each image: ... C H W -> ... 1 1 1."""
    # Summed in float64: the squares of a confident image's gradient underflow in float32, and its norm would be 0.
    norm: Tensor = torch.linalg.vector_norm(x, dim=(-3, -2, -1), keepdim=True, dtype=torch.float64)
    return norm.to(x.dtype)
