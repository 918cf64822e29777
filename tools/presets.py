#!/usr/bin/env python3
"""Writes bench/assets/presets.json: the presets of the suite's own methods, for what reads results and imports no method.

python tools/presets.py            # after a change to a preset; a test holds the file equal to the methods
"""

from __future__ import annotations

import json
from pathlib import Path

from bench.registry import Registry, presets_of

FILE = Path(__file__).resolve().parent.parent / "bench" / "assets" / "presets.json"


def text() -> str:
    """The content of the file: a line per preset; a method without presets has one for every data set, noise level and recipe."""
    registry, lines = Registry(), []
    for name, entry in sorted(registry.entries().items()):
        if entry.origin == "built in":
            lines += presets_of(registry.load(name))
    return "[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(text())
