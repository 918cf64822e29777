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
        pieces = torch.split(order, size)[first:]
        if augment == "none":
            for rows in pieces:
                yield self.images(rows), self.labels[rows]
            return
        flip = augment.endswith("flip")
        draws = _draw(len(self), flip=flip, seed=seed).to(device)
        windows = self._crops_and_mirrored if flip else self._crops
        for rows in pieces:
            yield self._augmented(rows, draws[rows], windows), self.labels[rows]

    def _augmented(self, rows: Tensor, draws: Tensor, windows: Tensor) -> Tensor:
        """The chosen images, mirrored and cropped as drawn: B C H W."""
        mirrored, down, right = draws.unbind(1)
        crops = windows[rows, mirrored, down, right].view(len(rows), *self.pixels.shape[2:], -1)  # B H W C
        return crops.permute(0, 3, 1, 2).to(torch.float32).div_(255)

    @cached_property
    def _crops(self) -> Tensor:
        """The crops of every image: N 1 9 9 H W*C."""
        return _windows(self._padded.unsqueeze(1))

    @cached_property
    def _crops_and_mirrored(self) -> Tensor:
        """The crops of every image and of its mirror image: N 2 9 9 H W*C. Mirroring each batch would take twice the time."""
        return _windows(torch.stack([self._padded, self._padded.flip(2)], 1))

    @property
    def _padded(self) -> Tensor:
        return F.pad(self.pixels, (PADDING,) * 4).permute(0, 2, 3, 1).contiguous()  # N H+8 W+8 C


def _windows(padded: Tensor) -> Tensor:
    """Every crop as a view, in which each row of a crop is one piece of memory: N V H+8 W+8 C -> N V 9 9 H W*C."""
    size, views, height, width, channels = padded.shape
    image, view, row, column, _ = padded.stride()
    shifts = 2 * PADDING + 1
    shape = (size, views, shifts, shifts, height - 2 * PADDING, (width - 2 * PADDING) * channels)
    return padded.as_strided(shape, (image, view, row, column, row, 1))


def _draw(size: int, *, flip: bool, seed: int) -> Tensor:
    """For all images of an epoch 1 where one is mirrored, and row and column of its crop in 0 .. 8: N 3."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same images on every device
    shifts = torch.randint(2 * PADDING + 1, (size, 2), generator=generator)
    mirrored = torch.randint(2, (size, 1), generator=generator)
    return torch.cat([mirrored if flip else torch.zeros_like(mirrored), shifts], 1)
