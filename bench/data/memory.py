"""A split as one tensor, augmented in batches on the device it lies on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.datasets import Arrays
from bench.errors import BenchError
from bench.spec import IN_MEMORY

PADDING = 4  # pixels around an image that a random crop may reach [SmoothMix, Appendix C.1]


@dataclass(frozen=True, eq=False)
class Split:
    """Images and labels of one split.

    Attributes:
        pixels: N C H W, uint8. labels: N, int64.
        checksums: file name -> MD5, recorded beside each run.
        differences: what makes it another than the published data set.
    """

    pixels: Tensor
    labels: Tensor
    checksums: dict[str, str]
    differences: tuple[str, ...] = ()

    @classmethod
    def of(cls, arrays: Arrays, differences: tuple[str, ...]) -> Split:
        return cls(torch.from_numpy(arrays.pixels), torch.from_numpy(arrays.labels), arrays.checksums, differences)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        return dataclasses.replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def images(self, indices: Tensor) -> Tensor:
        """The chosen images as float32 in [0, 1]: B C H W."""
        return self.pixels[indices].to(torch.float32).div_(255)

    def batches(self, order: Tensor, size: int, *, augment: str, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Images.batches`."""
        if augment not in IN_MEMORY:
            raise BenchError(f"augment={augment} is for images that are decoded one by one; there is {', '.join(IN_MEMORY)}")
        device = self.labels.device
        order = order.to(device)
        draws = None if augment == "none" else _draw(len(self), flip=augment.endswith("flip"), seed=seed).to(device)
        for begin in range(first * size, len(order), size):
            rows = order[begin : begin + size]
            images = self.images(rows) if draws is None else self._augmented(rows, draws[rows])
            yield images, self.labels[rows]

    def _augmented(self, rows: Tensor, draws: Tensor) -> Tensor:
        """The chosen images, cropped at their offsets and mirrored where the third draw says so: B C H W."""
        down, right, mirrored = draws.unbind(1)
        crops = self._windows[rows, down, right]  # B H W*C
        crops = crops.view(len(rows), *self.pixels.shape[2:], -1)  # B H W C
        crops = torch.where(mirrored.view(-1, 1, 1, 1).bool(), crops.flip(2), crops)
        return crops.permute(0, 3, 1, 2).to(torch.float32).div_(255)

    @cached_property
    def _windows(self) -> Tensor:
        """Every crop of every padded image as a view, channels last so that each row of a crop is one piece of memory: N 9 9 H W*C."""
        channels, height, width = self.pixels.shape[1:]
        padded = F.pad(self.pixels, (PADDING,) * 4).permute(0, 2, 3, 1).contiguous()  # N H+8 W+8 C
        image, row, column, _ = padded.stride()
        shifts = 2 * PADDING + 1
        return padded.as_strided((len(self), shifts, shifts, height, width * channels), (image, row, column, row, 1))


def _draw(size: int, *, flip: bool, seed: int) -> Tensor:
    """Rows and columns of the crops in 0 .. 8, and 1 where an image is mirrored, for all images of an epoch: N 3."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same images on every device
    shifts = torch.randint(2 * PADDING + 1, (size, 2), generator=generator)
    mirrored = torch.randint(2, (size, 1), generator=generator)
    return torch.cat([shifts, mirrored if flip else torch.zeros_like(mirrored)], 1)
