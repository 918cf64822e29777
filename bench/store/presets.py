"""What a run's values differ in from the preset of its row: what its name says, whatever its spec claims of changes.

The presets are those of bench/assets/presets.json, which `tools/presets.py` writes from the methods' files, so that no method is imported
to read results. Those of a plug-in are known while it is loaded, for runs of the same code; else its spec is taken at its word.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bench.datasets import DatasetInfo, recipe_train
from bench.evidence.sources import came_from
from bench.spec import PROTOCOLS, RECIPES, RunSpec, Scalar, TrainSpec, protocol_train, scalar_word

UNCHECKED = "not checked: "
_ABSENT = object()
_LEARNED: dict[tuple[str, str], list[dict[str, Any]]] = {}


@cache
def _presets() -> dict[str, list[dict[str, Any]]]:
    """Method -> its presets."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for preset in json.loads((Path(__file__).parents[1] / "assets" / "presets.json").read_bytes()):
        found[preset["method"]].append(preset)
    return dict(found)


def learn(method: str, code_sha256: str, presets: list[dict[str, Any]]) -> None:
    """Makes the presets of a plug-in's method known to this process, for runs of that code."""
    _LEARNED[method, code_sha256] = presets


def preset_of(spec: RunSpec, info: DatasetInfo, code_sha256: str = "") -> dict[str, Any] | None:
    """`hyperparameters` and `chunks` of a run's variant, data set, noise level and recipe; None if none are known.

    code_sha256: of the method's code, as the run recorded it; empty: only the suite's own methods are known.
    """
    presets = _presets().get(spec.method) or _LEARNED.get((spec.method, code_sha256), [])
    if any("recipe" not in preset for preset in presets):  # one for all
        return presets[0] if spec.variant == "default" else None
    for dataset in (info.name, info.like):  # those of the data set that it is like, where it has none of its own
        same = [p for p in presets if (p["recipe"], p["variant"], p["dataset"]) == (spec.recipe, spec.variant, dataset)]
        if same:
            return next((preset for preset in same if preset["sigma"] == spec.sigma), None)
    return None


def changes_of(spec: RunSpec, info: DatasetInfo, code_sha256: str = "") -> dict[str, Scalar] | None:
    """What hyperparameters and training differ in from preset, recipe and protocol, as `--set` would say it; None if no preset is known.

    A hyperparameter that only one of them has is `unset` where it is missing.
    """
    known = preset_of(spec, info, code_sha256)
    if known is None or spec.recipe not in RECIPES or spec.protocol not in PROTOCOLS:
        return None
    own, preset, chunks = spec.hyperparameters, known["hyperparameters"], known["chunks"]
    found = {name: own.get(name, "unset") for name in {*preset, *own} if own.get(name, _ABSENT) != preset.get(name, _ABSENT)}
    pieces = own.get(chunks) if isinstance(chunks, str) else chunks
    if isinstance(pieces, int) and pieces > 0:
        usual = _training(info, spec.recipe, pieces, spec.protocol)
        fields = [field.name for field in dataclasses.fields(usual)]
        found |= {f"train.{f}": getattr(spec.train, f) for f in fields if getattr(spec.train, f) != getattr(usual, f)}
    return dict(sorted(found.items()))


_TRAININGS: dict[tuple[str, str, int, str], tuple[DatasetInfo, TrainSpec]] = {}


def _training(info: DatasetInfo, recipe: str, pieces: int, protocol: str) -> TrainSpec:
    """That of a recipe under a protocol, nothing changed; kept, for a store holds thousands of them."""
    key = info.name, recipe, pieces, protocol
    known, train = _TRAININGS.get(key, (None, None))
    if train is None or known is not info:
        train = protocol_train(recipe_train(info, recipe, pieces), info.protocol(PROTOCOLS[protocol]))
        _TRAININGS[key] = info, train
    return train


def disagreement(spec: RunSpec, info: DatasetInfo, environment: Mapping[str, Any]) -> str | None:
    """What is to be said of a run's name: that its preset is not checked, or in what its record of changes is not what its values say."""
    code = str(environment.get("method_code_sha256", ""))
    found = changes_of(spec, info, code)
    if found is None:
        if code and (loaded := [other for method, other in _LEARNED if method == spec.method and other != code]):
            told = f"it was trained by version {code[:8]} of {spec.method}'s code, and {loaded[-1][:8]} is loaded"
            return f"{UNCHECKED}{told}; --rerun all trains it anew"
        told = f"{UNCHECKED}no preset of {spec.method}.{spec.variant} is known here, so its name is what its spec says"
        return told + came_from(environment, spec.method)
    if found == dict(spec.changes):
        return None
    said = _words(spec.changes) or "nothing"
    return f"its spec says that {said} was changed, but its values differ from the preset in {_words(found) or 'nothing'}"


def _words(changes: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{name}={scalar_word(value)}" for name, value in sorted(changes.items()))
