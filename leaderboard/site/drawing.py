"""Charts and pictures that need no JavaScript: numbers for the template, which draws them as SVG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bench.datasets import DATASETS
from bench.datasets.source import Arrays, roots
from bench.errors import BenchError
from bench.rules.bounds import Floats
from bench.store.runs import Run
from leaderboard.aggregate import Row
from leaderboard.plots.picture import certified_steps, over_seeds, training_terms

LEFT, TOP, RIGHT, BOTTOM = 42, 16, 10, 38


@dataclass(frozen=True)
class Chart:
    """A chart of `width` x `height` units; ticks are (place, word), lines (number of the style, name, path)."""

    width: int
    height: int
    x: tuple[tuple[float, str], ...]
    y: tuple[tuple[float, str], ...]
    x_label: str
    y_label: str
    lines: tuple[tuple[int, str, str], ...]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * 0.999) if raw > 0 else 1.0
    return [round(k * step, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _chart(
    found: Sequence[tuple[int, str, Floats, Floats]], x_label: str, y_label: str, *, high: float, width: int, height: int, steps: bool
) -> Chart:
    """found: style, name, x and y of each line; y from 0 to high."""
    end = max((float(x[-1]) for _, _, x, _ in found), default=1.0) or 1.0

    def across(x: float) -> float:
        return round(LEFT + x / end * (width - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(height - BOTTOM - y / high * (height - BOTTOM - TOP), 1)

    def path(x: Floats, y: Floats) -> str:
        first, *rest = zip(x.tolist(), y.tolist(), strict=True)
        there = [f"H{across(a)}V{down(b)}" if steps else f"L{across(a)} {down(b)}" for a, b in rest]
        return f"M{across(first[0])} {down(first[1])}{''.join(there)}"

    return Chart(
        width,
        height,
        tuple((across(x), f"{x:g}") for x in ticks(0, end)),
        tuple((down(y), f"{y:g}") for y in ticks(0, high, 4)),
        x_label,
        y_label,
        tuple((style, name, path(x, y)) for style, name, x, y in found),
    )


def curves(rows: Sequence[tuple[int, Row]]) -> Chart:
    """Certified accuracy against radius, as finely as a screen shows it.

    Args:
        rows: the style's number and the row, of finished rows.
    """
    bands = [(style, row, over_seeds([certified_steps(o.correct, o.radius) for o in row.outcomes])) for style, row in rows]
    end = max((float(band.x[-1]) for _, _, band in bands), default=1.0)
    x = np.linspace(0, end * 1.02 or 1.0, 256)
    found = [(style, row.label, x, band.mean[np.searchsorted(band.x, x, side="right") - 1]) for style, row, band in bands]
    return _chart(found, "radius r (L2)", "certified accuracy, %", high=100, width=380, height=300, steps=True)


def training(run: Run) -> Chart:
    """Loss and its terms against epochs.

    Raises:
        BenchError: the curve is unreadable.
    """
    terms = {name: (s.x + 1, s.y) for name, s in training_terms(run).items()}
    terms = {name: (x[keep], y[keep]) for name, (x, y) in terms.items() if (keep := np.isfinite(y)).any()}
    thin = {name: (x[:: -(-len(x) // 120)], y[:: -(-len(y) // 120)]) for name, (x, y) in terms.items()}
    high = max(float(y.max()) for _, y in thin.values()) or 1.0
    found = [(n, name, x, np.maximum(y, 0)) for n, (name, (x, y)) in enumerate(thin.items())]
    return _chart(found, "epoch of the recipe's clock", "loss and terms", high=high, width=360, height=200, steps=False)


@cache
def _pixels(dataset: str) -> NDArray[np.uint8] | None:
    """N C H W of a data set whose files ship; None where they cannot be read."""
    source = DATASETS[dataset].source
    folder = source.find(roots()) if source else None
    try:
        found = source.read(folder, "test") if source and folder else None
    except BenchError:
        return None
    return found.pixels if isinstance(found, Arrays) else None


def picture(dataset: str, index: int) -> str:
    """A test image as a PNG in a data URI; empty where it cannot be read."""
    pixels = _pixels(dataset)
    if pixels is None or pixels.shape[1] not in (1, 3):
        return ""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels[index].transpose(1, 2, 0).squeeze()).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
