"""Selections of images: one notation wherever images are chosen.

    all                     every image
    every:100               0, 100, 200, ...
    0-499                   both ends included; first:500 is the same
    5000-9999:20            every 20th of these
    first:427 of every:100  the first 427 of what the rest selects; of these parts any number

Two selections are equal if they name the same images. Their texts may differ, and a text is never rewritten: keys are made of it.
"""

from __future__ import annotations

import re
from functools import lru_cache

_NUMBER = r"[1-9]\d{0,8}"
_PART = re.compile(rf"all|(every|first):({_NUMBER})|(\d{{1,9}})-(\d{{1,9}})(?::({_NUMBER}))?", re.ASCII)


def normal(text: str) -> str:
    """A selection as it is stored: `every=20` was once written for `every:20`."""
    return text.replace("=", ":")


@lru_cache(maxsize=256)
def select_images(text: str, size: int) -> range:
    """Indices of the images that a selection names, ascending.

    Args:
        text: see this module.
        size: how many images there are; what lies beyond is left out.

    Raises:
        ValueError: not a selection.
    """
    chosen = range(size)
    for part in reversed(normal(text).split(" of ")):
        match = _PART.fullmatch(part)
        if not match or (match[3] and int(match[3]) > int(match[4])):
            known = "all, every:100, 0-499, 5000-9999:20 or first:427 of every:100"
            raise ValueError(f"images={text} is no selection of images: write {known}")
        if match[1] == "every":
            chosen = chosen[:: int(match[2])]
        elif match[1] == "first":
            chosen = chosen[: int(match[2])]
        elif match[3]:
            chosen = chosen[int(match[3]) : int(match[4]) + 1 : int(match[5] or 1)]
    return chosen


def describe_images(indices: range, size: int) -> str:
    """The text of a selection: one for all texts that name the same images.

    Args:
        indices: what `select_images` returns for `size` images, one at least.
    """
    first, step, many = indices[0], indices.step if len(indices) > 1 else 1, len(indices)
    if first:
        return f"{first}-{indices[-1]}" + (f":{step}" if step > 1 else "")
    if many == len(range(0, size, step)):
        return "all" if step == 1 else f"every:{step}"
    return f"first:{many}" + (f" of every:{step}" if step > 1 else "")


def same_images(text: str, size: int) -> str:
    """The text that equal selections share; one that names no image keeps its own."""
    indices = select_images(text, size)
    return describe_images(indices, size) if indices else normal(text)
