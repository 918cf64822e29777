"""The files of a run's surveys of its training images: `survey-NAME-EPOCH.jsonl`, a line of facts and a line for each image.

    {"copies":100,"epoch":36,...,"survey":"right"}     what was asked, and the SHA-256 of the weights that answered
    {"counts":{"3":97,"5":3},"index":0}                images in their order; classes without a vote are left out

What a training rests on is bound by the SHA-256 of these files in its checkpoints and in training.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import Fault, counted
from bench.files import disk
from bench.spec import canonical, parse_json

Votes = Mapping[int, int]


def file_name(survey: str, epoch: int) -> str:
    """Of a survey, in the folder of its run."""
    return f"survey-{survey}-{epoch}.jsonl"


def line(index: int, votes: Votes) -> str:
    """One image. index: its place in the training set."""
    return canonical({"index": index, "counts": {str(c): k for c, k in sorted(votes.items())}}) + "\n"


def facts(path: Path) -> dict[str, Any]:
    """What a file's first line says.

    Raises:
        Fault: it says nothing that can be read.
    """
    return _facts(path, disk.read(path).partition(b"\n")[0])


def _facts(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise Fault(path, 1, f"not the facts of a survey: {error}") from None
    if not isinstance(found, dict) or type(found.get("copies")) is not int:
        raise Fault(path, 1, "not the facts of a survey: it does not say how many copies an image has")
    return found


def read(path: Path, places: range) -> tuple[dict[str, Any], list[Votes]]:
    """What was asked, and the votes of the images that are there; a torn last line is none of them.

    Args:
        places: of the images in the training set, in order.

    Raises:
        Fault: a line that is not that of its image.
    """
    first, *lines = disk.read(path).split(b"\n")
    found: list[Votes] = []
    for number, (text, index) in enumerate(zip(lines[:-1], places, strict=False), start=2):
        try:
            row = json.loads(text)
            votes = {int(c): k for c, k in row["counts"].items()}
            fits = row["index"] == index and all(type(k) is int and k > 0 for k in votes.values())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Fault(path, number, f"not an image of a survey: {type(error).__name__}: {error!s:.80}") from None
        if not fits:
            raise Fault(path, number, f"it is not image {index}, or its counts are none")
        found.append(votes)
    if len(lines) - 1 > len(places):
        raise Fault(path, len(places) + 2, f"more lines than {counted(len(places), 'image')} that were asked about")
    return _facts(path, first), found
