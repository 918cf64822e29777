"""How near to each other two logits of a proposer may lie before the referee decides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WIDE, LEAST = 2.0, 1.5
"""A margin is set to WIDE times the furthest move seen; where it is less than LEAST times a move, it is too narrow."""
MOST_JUDGED = 0.05
"""A margin that sends more than this share of the rows to the referee is too wide to be worth it."""


def moves(proposed: Tensor, exact: Tensor) -> Tensor:
    """How far each row's highest logit rose against another one in arithmetic that is less exact: R K and R K -> R.

    Where the highest proposed logit leads by more, it is the highest of the exact ones too. Rows whose proposed logits are not
    finite count as unmoved: the referee decides them, whatever the margin.
    """
    moved = proposed.double() - exact.double()
    risen = moved.gather(1, proposed.argmax(1, keepdim=True)) - moved
    return torch.where(proposed.isfinite().all(1), risen.amax(1), 0.0)


def leads(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The class with the highest logit, and its lead over the next one, below 0 where a logit is not finite: R K -> R, R."""
    highest, classes = logits.max(1)
    second = logits.scatter(1, classes.unsqueeze(1), -math.inf).amax(1)  # sooner found on a GPU than by `topk`
    finite = logits.abs().amax(1) < math.inf  # not where it is NaN
    return classes, torch.where(finite, highest - second, -1.0)


@dataclass
class Margin:
    """The margin of one proposer: wide enough for every row that was seen.

    Attributes:
        found: leads of rows of several images, as proposed.
        floor: the lead below which float32 itself is not trusted.
        moved: the furthest move seen. fitted: that of which the margin is a multiple.
    """

    found: Tensor
    floor: float = 0.0
    moved: float = 0.0
    fitted: float = 0.0

    @property
    def value(self) -> float:
        return max(WIDE * self.fitted, self.floor)

    @property
    def share(self) -> float:
        """Rows among those of `found` that the referee would decide."""
        return float((self.found < self.value).double().mean())

    def see(self, moved: float) -> bool:
        """Takes note of a row's move; whether the margin was too narrow for it, and is wider now."""
        self.moved = max(self.moved, moved)
        narrow = LEAST * moved > self.value
        if narrow:
            self.fitted = moved
        return narrow
