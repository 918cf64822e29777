"""Noisy copies of one image, drawn as one stream."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.spec import derive

GRID = 255 * 256
"""Steps of the grid per unit of pixel value: 8-bit pixels lie on it, and 256 steps part two of them."""

LARGEST_BLOCK = 500
BLOCK_FLOATS = LARGEST_BLOCK * 3 * 64 * 64
CUDA_BLOCKS = 10
"""Blocks that a GPU draws in one call. It decides what a seed means there."""


def block_rows(shape: Sequence[int]) -> int:
    """Copies that are drawn in one call, for images of shape C H W. It decides what a seed means, so it depends on nothing else."""
    return max(1, min(LARGEST_BLOCK, BLOCK_FLOATS // math.prod(shape)))


class NoisyCopies:
    """x + noise, noise ~ N(0, sigma^2 I), keyed by (seed, image index): the same stream for any size of the forward passes.

    With sampling `grid`, x and the noise are rounded to multiples of 1 / GRID and added without error, so that the bits of a copy say
    nothing about x but the value of x + noise (Voracek and Hein, "Sound Randomized Smoothing in Floating-Point
    Arithmetics", ICLR 2023). The noise is drawn in float64: float32 draws leave gaps in the tails that the grid would show.

    Args:
        x: the image, C H W in [0, 1].
        sampling: float32 or grid.
    """

    def __init__(self, x: Tensor, index: int, sigma: float, seed: int, sampling: str) -> None:
        self.x, self.sigma, self.grid = x, sigma, sampling == "grid"
        self.block = block_rows(x.shape) * (CUDA_BLOCKS if x.is_cuda else 1)
        self._generator = torch.Generator(x.device).manual_seed(derive(seed, "certify", index))

    def draw(self, rows: int) -> Tensor:
        """The next copies: rows C H W, float32, channels-last. Blocks are drawn whole; what is left of the last one is dropped."""
        blocks = -(-rows // self.block)
        # Drawn in plain memory order, block by block, and only then laid out for the passes, so that the layout does not change the noise.
        drawn = torch.empty((blocks, self.block, *self.x.shape), dtype=torch.float64 if self.grid else torch.float32, device=self.x.device)
        scale = self.sigma * GRID if self.grid else self.sigma
        for block in drawn:
            block.normal_(0.0, scale, generator=self._generator)
        return _sum(self.x, drawn.flatten(0, 1)[:rows], self.grid)


def noisy_images(images: Tensor, sigma: float, sampling: str, generator: torch.Generator) -> Tensor:
    """Each image with noise of its own, as `NoisyCopies` adds it, from another generator: B C H W -> B C H W, float32, channels-last."""
    grid = sampling == "grid"
    noise = torch.empty_like(images, dtype=torch.float64 if grid else torch.float32, memory_format=torch.contiguous_format)
    return _sum(images, noise.normal_(0.0, sigma * GRID if grid else sigma, generator=generator), grid)


def _sum(x: Tensor, noise: Tensor, grid: bool) -> Tensor:
    """x + noise; the noise is in steps of the grid, if there is one, and is overwritten."""
    noisy = torch.empty_like(noise, dtype=torch.float32, memory_format=torch.channels_last)
    if grid:
        # Whole numbers below 2^53 until the division, so that the sum is exact and its rounding a function of the sum alone.
        return noisy.copy_(noise.round_().add_((x.double() * GRID).round_()).div_(GRID))
    return torch.add(noise, x, out=noisy)
