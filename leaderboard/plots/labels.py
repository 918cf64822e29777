"""Where the labels of points stand, so that they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """A rectangle, in points."""

    left: float
    bottom: float
    right: float
    top: float

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The place in the rectangle that is nearest to a point."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.bottom), self.top)

    def overlap(self, other: Box) -> float:
        """Common area."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return wide * high if wide > 0 and high > 0 else 0.0


def place_labels(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], blocked: Sequence[Box], area: tuple[float, float]
) -> list[Box]:
    """A rectangle for the label of each point: the nearest place that covers nothing and lies in the area, else the least bad one."""
    placed: dict[int, Box] = {}
    lines: list[Box] = []
    # Points at the edge of the cloud first: they have the least choice that leaves room for others.
    centre = np.mean(points, axis=0)
    for number in sorted(range(len(points)), key=lambda n: (-math.dist(points[n], centre), n)):
        (x, y), (w, h) = points[number], sizes[number]
        best = min(_places(x, y, w, h), key=lambda place: _cost(place[1], place[0], (x, y), [*blocked, *lines], [*placed.values()], area))
        placed[number] = best[1]
        lines += _lead((x, y), best[1])
    return [placed[number] for number in range(len(points))]


def needs_line(number: int, points: Sequence[tuple[float, float]], box: Box) -> bool:
    """Whether the label of a point stands so far off, or so near to another point, that a line must say whose it is."""
    far = [math.dist(box.nearest(point), point) for point in points]
    return far[number] > 9 or min((d for n, d in enumerate(far) if n != number), default=math.inf) < far[number] + 6


def _places(x: float, y: float, w: float, h: float) -> Iterator[tuple[float, Box]]:
    """Distance and rectangle, nearest first."""
    for gap in (6.0, 12.0, 20.0, 30.0, 42.0, 56.0, 72.0):
        for turn in range(16):
            angle = turn * math.pi / 8
            middle_x = x + (gap + w / 2) * math.cos(angle) if turn % 8 == 0 else x + gap * math.cos(angle) + w / 2 * _sign(math.cos(angle))
            middle_y = y + (gap + h / 2) * math.sin(angle)
            yield gap, Box(middle_x - w / 2, middle_y - h / 2, middle_x + w / 2, middle_y + h / 2)


def _sign(value: float) -> float:
    return 0.0 if abs(value) < 1e-9 else math.copysign(1.0, value)


def _lead(point: tuple[float, float], box: Box) -> list[Box]:
    """Small rectangles along the line from a point to its label."""
    near = box.nearest(point)
    steps = [i / 12 for i in range(1, 12)]
    along = [(point[0] + t * (near[0] - point[0]), point[1] + t * (near[1] - point[1])) for t in steps]
    return [Box(x - 1, y - 1, x + 1, y + 1) for x, y in along] if math.dist(near, point) > 9 else []


def _cost(
    box: Box, gap: float, point: tuple[float, float], blocked: Sequence[Box], labels: Sequence[Box], area: tuple[float, float]
) -> float:
    outside = max(0.0, 2 - box.left, box.right - area[0] + 2) + max(0.0, 2 - box.bottom, box.top - area[1] + 2)
    covered = sum(box.overlap(other) for other in blocked) + 5 * sum(box.overlap(other) for other in labels)
    crossed = sum(piece.overlap(other) for piece in _lead(point, box) for other in (*blocked, *labels) if not _holds(other, point))
    return gap + 1000 * outside + 10 * covered + 20 * crossed


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box.left <= point[0] <= box.right and box.bottom <= point[1] <= box.top
