"""The classifier of the worst case, in the suite's own hands."""

from __future__ import annotations

import torch
from scipy.stats import chi2
from torch import Tensor, nn

from bench.certify import Sampler


class Ball(nn.Module):
    """Class 1 inside a ball around x, class 0 outside: for tau > sigma no classifier keeps less of class 1 at x under noise tau.

    Args:
        x: the centre, C H W. sigma: noise level at which class 1 has probability p, in pixels of [0, 1]. p: in (0, 1).
    """

    def __init__(self, x: Tensor, sigma: float, p: float) -> None:
        super().__init__()
        self.register_buffer("centre", x.clone())
        # |noise|^2 / sigma^2 is chi-squared with d degrees of freedom.
        self.square = sigma**2 * float(chi2.ppf(p, x.numel()))

    def forward(self, u: Tensor) -> Tensor:
        """Logits, B 2, of inputs B C H W."""
        inside = self.square - (u - self.get_buffer("centre")).flatten(1).square().sum(1)
        return torch.stack([-inside, inside], 1)


def share_inside(x: Tensor, index: int, sigma: float, tau: float, p: float, n: int, seed: int = 0) -> float:
    """The share of n samples of x with noise tau that the ball of noise sigma takes in, counted by the sampler that certifies.

    Args:
        x: an image, C H W in [0, 1]. index: its place in the test set; with the seed it decides the noise.
    """
    counted = Sampler(Ball(x, sigma, p), tau, 2, seed).certify(x, index, 1, 1, n)
    return counted.estimation.get(1, 0) / n
