"""Pictures of comparable rows: certified accuracy against radius or pA, ACR against certified accuracy at r = 0, training curves.

picture.py   from a store to numbers
draw.py      from numbers to a file; the only part that imports matplotlib, and only to draw
labels.py    where labels of points stand
"""

from leaderboard.plots.draw import FORMATS, draw_curves, render, styles
from leaderboard.plots.picture import (
    Band,
    Kind,
    Picture,
    Seed,
    Series,
    Steps,
    build,
    certified_steps,
    envelope,
    over_seeds,
    picture_of,
    pictures,
)

__all__ = [
    "FORMATS",
    "Band",
    "Kind",
    "Picture",
    "Seed",
    "Series",
    "Steps",
    "build",
    "certified_steps",
    "draw_curves",
    "envelope",
    "over_seeds",
    "picture_of",
    "pictures",
    "render",
    "styles",
]
