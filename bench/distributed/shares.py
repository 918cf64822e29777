"""Which images of a step a process computes, and in which pieces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """Rows of a batch that are computed at once.

    Attributes:
        weight: the share of the batch's images that they count for; 0 where a process has no image left, but must keep pace.
    """

    rows: slice
    weight: float


def share(images: int, rank: int, processes: int) -> range:
    """The rows of a batch that one of several processes computes: consecutive, the first processes have one more where it does not divide.

    A process for which there is none gets the last row, which `pieces` then counts as nothing.
    """
    size, more = divmod(images, processes)
    start = rank * size + min(rank, more)
    return range(start, start + size + (rank < more)) or range(images - 1, images)


def pieces(images: int, rank: int, processes: int, micro_batch: int | None) -> list[Piece]:
    """The pieces of a process's share, as many for every process.

    Args:
        images: of the whole batch.
        micro_batch: images of a piece; all of a share at once if None.
    """
    own = share(images, rank, processes)
    largest = len(share(images, 0, processes))
    size = micro_batch or largest
    parts = [own[start : start + size] for start in range(0, largest, size)]
    counts = [len(part) if rank < images else 0 for part in parts]
    parts = [part or own[-1:] for part in parts]
    return [Piece(slice(part.start, part.stop), count / images) for part, count in zip(parts, counts, strict=True)]
