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

    def shared(self, processes: int) -> Split:
        """Nothing to share out: no process but the caller works for it."""
        return self

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
        padded = self._padded_and_mirrored if flip else self._padded
        for rows in pieces:
            yield self._augmented(rows, draws[rows], padded), self.labels[rows]

    def _augmented(self, rows: Tensor, draws: Tensor, padded: Tensor) -> Tensor:
        """The chosen images, mirrored and cropped as drawn: B C H W."""
        channels, height, width = self.pixels.shape[1:]
        _, views, tall, wide, _ = padded.shape
        mirrored, down, right = draws.unbind(1)
        starts = ((rows * views + mirrored) * tall + down) * wide + right  # the pixel that each crop begins with
        # Every crop is a view that begins at its pixel; picking views by their first pixel copies whole rows of memory at once.
        last = (height - 1) * wide + width - 1
        crops = padded.as_strided((padded[..., 0].numel() - last, height, width * channels), (channels, wide * channels, 1))
        crops = crops.index_select(0, starts).view(len(rows), height, width, channels)
        return crops.permute(0, 3, 1, 2).to(torch.float32).div_(255)

    def _with_border(self) -> Tensor:
        return F.pad(self.pixels, (PADDING,) * 4).permute(0, 2, 3, 1).unsqueeze(1).contiguous()

    @cached_property
    def _padded(self) -> Tensor:
        """Every image with its border, channels last: N 1 H+8 W+8 C."""
        return self._with_border()

    @cached_property
    def _padded_and_mirrored(self) -> Tensor:
        """The same, and its mirror image: N 2 H+8 W+8 C. Mirroring each batch would take longer than all the rest."""
        images = self._with_border()
        return torch.cat([images, images.flip(3)], 1)


def _draw(size: int, *, flip: bool, seed: int) -> Tensor:
    """For all images of an epoch 1 where one is mirrored, and row and column of its crop in 0 .. 8: N 3."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same images on every device
    shifts = torch.randint(2 * PADDING + 1, (size, 2), generator=generator)
    mirrored = torch.randint(2, (size, 1), generator=generator)
    return torch.cat([mirrored if flip else torch.zeros_like(mirrored), shifts], 1)
