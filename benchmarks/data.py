"""Images per second of CIFAR-10 training batches: ours (augmented as one tensor) against torchvision's transforms of one image at a time.

Both give float32 batches of 256 images, cropped at random after padding by 4 and mirrored at random, from the same random bytes:
(a) torchvision's RandomCrop, RandomHorizontalFlip and ToTensor through a DataLoader with two worker processes, as the scripts of the
field do; (b) `Split.batches` in this process, on so many threads. They alternate; the median of the rounds counts.
The start of the workers and their first batch are not timed.

    python benchmarks/data.py [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench.data import Split

BATCH = 256


class OneByOne(Dataset[Any]):
    """As `torchvision.datasets.CIFAR10` gives images: from an array over PIL through the transforms."""

    def __init__(self, pixels: np.ndarray[Any, Any], labels: list[int]) -> None:
        self.pixels, self.labels = pixels, labels
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def rate(batches: Callable[[int], Iterator[Any]], epoch: int) -> float:
    """Images per second from the end of the first batch to that of the last full one."""
    iterator = batches(epoch)
    next(iterator)
    begun, images = time.perf_counter(), 0
    for x, _ in iterator:
        images += len(x)
    return images / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = 50_000
    pixels = np.random.default_rng(0).integers(0, 256, (size, 32, 32, 3), np.uint8)
    labels = torch.arange(size) % 10
    ours = Split(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, {})
    loader = DataLoader(OneByOne(pixels, labels.tolist()), BATCH, shuffle=True, num_workers=2, persistent_workers=True)

    def fast(epoch: int) -> Iterator[Any]:
        return ours.batches(torch.randperm(size), BATCH, augment="crop-flip", seed=epoch)

    def slow(epoch: int) -> Iterator[Any]:
        return iter(loader)

    rate(fast, 0)
    rate(slow, 0)
    results: dict[str, list[float]] = {"torchvision": [], "ours": []}
    for epoch in range(1, options.rounds + 1):
        results["torchvision"].append(rate(slow, epoch))
        results["ours"].append(rate(fast, epoch))
    for name, rates in results.items():
        print(f"{name:<12} {statistics.median(rates):>9,.0f} images/s  ({min(rates):,.0f} to {max(rates):,.0f}, n = {len(rates)})")
    ratios = [a / b for a, b in zip(results["ours"], results["torchvision"], strict=True)]
    best = max(results["ours"]) / max(results["torchvision"])
    spread = f"{min(ratios):.1f} to {max(ratios):.1f}, of the best rounds {best:.1f}"
    print(f"ratio {statistics.median(ratios):.1f} ({spread}); threads: {options.threads}, worker processes: 2")


if __name__ == "__main__":
    main()
