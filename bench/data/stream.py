"""A split whose images stay on disk and are decoded and augmented one by one, by worker processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.datasets import Listing
from bench.errors import BenchError
from bench.spec import STREAMED, derive

MOST_WORKERS = 8


def default_workers() -> int:
    """One process per core, 8 at most; none on a single core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS) if cores > 1 else 0


@dataclass(frozen=True, eq=False)
class Stream:
    """Image files and labels of one split.

    Attributes:
        listing: where the files are.
        labels: N, int64.
        shape: channels, height, width of what comes out.
        workers: processes that decode; 0: none but this one. Images do not depend on it.
    """

    listing: Listing
    labels: Tensor
    shape: tuple[int, int, int]
    differences: tuple[str, ...] = ()
    workers: int = 0
    device: torch.device | None = None

    @classmethod
    def of(cls, listing: Listing, differences: tuple[str, ...], shape: tuple[int, int, int]) -> Stream:
        return cls(listing, torch.from_numpy(listing.labels), shape, differences, default_workers())

    @property
    def checksums(self) -> dict[str, str]:
        return self.listing.checksums

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Stream:
        return dataclasses.replace(self, labels=self.labels.to(device), device=device)

    def shared(self, processes: int) -> Stream:
        """The same split for one of several processes that read it side by side, with its share of the workers."""
        return dataclasses.replace(self, workers=-(-self.workers // processes))

    def images(self, indices: Tensor) -> Tensor:
        """The chosen images, resized and cropped in the middle, as float32 in [0, 1]: B C H W."""
        decoder = _Decoder(self.listing, self.shape, "none", 0)
        return self._on_device(_stack([decoder[int(index)] for index in indices]))

    def damaged(self) -> list[str]:
        """A sentence for every image that cannot be decoded."""
        loader: DataLoader[Any] = DataLoader(
            _Decoder(self.listing, self.shape, "none", 0), 32, num_workers=self.workers, collate_fn=_sentences, generator=torch.Generator()
        )
        return [sentence for batch in loader for sentence in batch]

    def batches(self, order: Tensor, size: int, *, augment: str, seed: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Images.batches`."""
        if augment not in STREAMED:
            raise BenchError(f"augment={augment} is for images that lie in memory; there is {', '.join(STREAMED)}")
        pieces = [piece.tolist() for piece in torch.split(order.cpu(), size)[first:]]
        loader: DataLoader[Any] = DataLoader(
            _Decoder(self.listing, self.shape, augment, seed),
            batch_sampler=pieces,
            num_workers=self.workers,
            collate_fn=_stack,
            pin_memory=self.device is not None and self.device.type == "cuda",
            generator=torch.Generator(),  # it takes a seed for its workers from somewhere; not from the global generator
        )
        for piece, decoded in zip(pieces, loader, strict=True):
            yield self._on_device(decoded), self.labels[torch.tensor(piece, device=self.labels.device)]

    def _on_device(self, decoded: Tensor | str) -> Tensor:
        if isinstance(decoded, str):
            raise BenchError(decoded)
        return decoded.to(self.device, non_blocking=True).to(torch.float32).div_(255)


class _Decoder(Dataset[Any]):
    """Image number -> C H W in uint8, or the sentence that says what is wrong with its file, which a worker can hand over."""

    def __init__(self, listing: Listing, shape: tuple[int, int, int], augment: str, seed: int) -> None:
        from torchvision.transforms import v2  # slow to import, and of use here only

        channels, height, width = shape
        self.listing, self.mode, self.seed = listing, "RGB" if channels == 3 else "L", seed
        if augment == "none":  # the field's: the shorter side to 256, the middle 224
            steps = [v2.Resize(round(min(height, width) * 256 / 224)), v2.CenterCrop((height, width))]
        else:
            steps = [v2.RandomResizedCrop((height, width)), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose([*steps, v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.listing.labels)

    def __getitem__(self, index: int) -> Tensor | str:
        path = self.listing.folder / os.fsdecode(self.listing.names[index])
        try:
            with Image.open(path) as file:
                image = file.convert(self.mode)
        except Exception as error:  # whatever a damaged file makes of the decoder
            return _sentence(path, error)
        # torchvision draws from the global generator, which must not notice.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(self.seed, index))
            transformed: Tensor = self.transform(image)
        return transformed


def _sentence(path: Path, error: Exception) -> str:
    reason = "it is no image" if type(error).__name__ == "UnidentifiedImageError" else f"{type(error).__name__}: {error}"
    return f"{path} cannot be decoded: {reason}"


def _sentences(images: Sequence[Tensor | str]) -> list[str]:
    return [image for image in images if isinstance(image, str)]


def _stack(images: Sequence[Tensor | str]) -> Tensor | str:
    wrong = _sentences(images)
    return wrong[0] if wrong else torch.stack([image for image in images if isinstance(image, Tensor)])
