"""Pictures of comparable rows: certified accuracy against radius or pA, ACR against certified accuracy at r = 0, training curves.

picture.py   from a store to numbers
draw.py      from numbers to a file; the only part that imports matplotlib, and only to draw
"""

from leaderboard.plots.draw import draw_curves, render
from leaderboard.plots.picture import Kind, Picture, picture_of, pictures

__all__ = ["Kind", "Picture", "draw_curves", "picture_of", "pictures", "render"]
