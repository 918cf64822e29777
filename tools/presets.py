#!/usr/bin/env python3
"""Writes bench/assets/presets.json: the presets of the suite's own methods, for what reads results and imports no method.

python tools/presets.py            # after a change to a preset; a test holds the file equal to the methods
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bench.method import Method
from bench.registry import Registry
from bench.spec import hyperparameters, replace_checked

FILE = Path(__file__).resolve().parent.parent / "bench" / "assets" / "presets.json"


def values(preset: Method) -> dict[str, Any]:
    """The hyperparameters of a preset as a spec holds them: a 5 in a float's place is 5.0."""
    whole = {field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)}
    checked, problems = replace_checked(preset, whole, "preset")
    assert not problems, problems
    return hyperparameters(checked, checked)


def text() -> str:
    """The content of the file: a line per preset; a method without presets has one for every data set, noise level and recipe."""
    registry, lines = Registry(), []
    for name, entry in sorted(registry.entries().items()):
        if entry.origin == "built in":
            cls = registry.load(name).cls
            own = {"method": name, "chunks": cls.chunks}
            for (recipe, variant, dataset, sigma), preset in sorted(cls.presets.items()):
                place = {"recipe": recipe, "variant": variant, "dataset": dataset, "sigma": sigma}
                lines.append(own | place | {"hyperparameters": values(preset)})
            lines += [] if cls.presets else [own | {"hyperparameters": values(cls())}]
    return "[\n" + ",\n".join(map(json.dumps, lines)) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(text())
