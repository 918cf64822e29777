"""Adversarial examples of the smoothed classifier, found by normalised L2 gradient ascent."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench.smoothing import SmoothedClassifier, gather, log_soft_vote

LOG_FLOOR = math.log(1e-20)  # below this probability of the label the ascent has no gradient


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
        x: start, B C H W. y: labels, B. noise: M B C H W, the same in every step.
        steps: T. step_size: alpha, L2 length of a step in pixels of [0, 1].
        restrict: maps each new iterate to an allowed one.
        guard: added to the gradient's norm before dividing; an image without gradient stays where it is.

    Returns:
        all iterates x~(0) .. x~(T), each B C H W, detached.
    """
    iterates = [x.detach()]
    with g.frozen(), torch.enable_grad():
        for _ in range(steps):
            point = iterates[-1].requires_grad_()
            loss = -gather(log_soft_vote(g.logits(point, noise)), y).clamp_min(LOG_FLOOR).sum()
            gradient = g.gradient_of_images(loss, point)
            point.requires_grad_(False)
            norm = _norm(gradient) + guard
            moved = point + step_size * gradient / norm.clamp_min(torch.finfo(norm.dtype).tiny)
            iterates.append(restrict(moved) if restrict else moved)
    return iterates


def project_l2(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """The nearest point of the L2 ball of that radius around each image of `centre`: B C H W."""
    shift = x - centre
    norm = _norm(shift)
    return torch.where(norm > radius, centre + shift * (radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)), x)


def _norm(x: Tensor) -> Tensor:
    # Summed in float64: the squares of a confident image's gradient underflow in float32, and its norm would be 0.
    norm: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    return norm.to(x.dtype)  # B 1 1 1
