"""What training and certification ask of a split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class Images(Protocol):
    """Images and labels of one split, in memory or not.

    Attributes:
        labels: N, int64.
        checksums: file name -> MD5, recorded beside each run.
        differences: what makes it another than the published data set; recorded too.
    """

    @property
    def labels(self) -> Tensor: ...
    @property
    def checksums(self) -> dict[str, str]: ...
    @property
    def differences(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Images:
        """The same split, whose images come on that device."""

    def shared(self, processes: int) -> Images:
        """The same split, for one of several processes that read it side by side."""

    def images(self, indices: Tensor) -> Tensor:
        """The chosen images as they are tested on, float32 in [0, 1]: B C H W."""

    def batches(self, order: Tensor, size: int, *, augment: str, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B C H W, float32 in [0, 1]) and labels (B) of one epoch, batch by batch; the last may be smaller.

        What an image looks like depends on its index and `seed` alone: neither on the batch it stands in nor on how many processes work.

        Args:
            order: indices, each batch a piece of it.
            augment: one of `bench.spec.AUGMENTS`.
            seed: that of the epoch.
            first: the batch to begin with, for a training that continues.
        """
