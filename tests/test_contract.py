"""The public contract: every method keeps it, and each promise can be broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.contract import check
from bench.errors import BenchError
from bench.registry import Registry

METHODS = sorted(name for name, entry in Registry().entries().items() if entry.origin == "built in")

GOOD = '''"""Mine. Somebody: "A title", Somewhere 2026."""
import random
from dataclasses import dataclass
import numpy as np
import torch
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy

STATE = []

@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    strength: float = 1.0

    def loss(self, g, batch):
        logits = g.logits(batch.x, g.noise(batch.x))
        loss = cross_entropy(logits, batch.y).mean()
        return {"cross_entropy": loss}
'''


def load(tmp_path: Path, text: str) -> list[str]:
    """Promises that a plug-in of this text breaks."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    try:
        loaded = Registry((path,)).load("mine")
    except BenchError as error:
        return [str(error)]
    return [result.promise for result in check(loaded) if result.problem]


def test_there_are_six_methods() -> None:
    assert METHODS == ["consistency", "gaussian", "macer", "smoothadv", "smoothmix", "stability"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str) -> None:
    results = check(Registry().load(name))
    assert len(results) == 7
    assert [r for r in results if r.problem] == []


def test_a_plain_plugin_keeps_the_contract(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD) == []


RETURN = "        return {"
LOSS = "batch.y).mean()"
LEFT = "left as found"
DECIDES = "handed generator decides"

BROKEN = {
    "positional": ("frozen=True, kw_only=True", "frozen=True", "write @dataclass(frozen=True, kw_only=True) above class Mine"),
    "no decorator": ("@dataclass(frozen=True, kw_only=True)\n", "", "write @dataclass(frozen=True, kw_only=True) above class Mine"),
    "a list as hyperparameter": ("strength: float = 1.0", "strength: tuple = (1,)", "cannot be imported: ValueError: must be"),
    "wrong default": ("strength: float = 1.0", "strength: int = 1.5", "must be a whole number"),
    "no default": ("strength: float = 1.0", "strength: float", "missing 1 required keyword-only argument"),
    "no source": (' Somebody: "A title", Somewhere 2026.', "", "docstring names a source"),
    "a term named as a column": ('{"cross_entropy": loss}', '{"lr": loss}', "named, finite scalar terms"),
    "exits": (RETURN, "        raise SystemExit(0)\n" + RETURN, "named, finite scalar terms"),
    "no variants": ("    strength:", "    variants = ()\n    strength:", "must be a tuple of names"),
    "a variant that is no name": ("    strength:", "    variants = ('Big Name',)\n    strength:", "must be a tuple of names"),
    "chunks without a field": ("    strength:", "    chunks = 'copies'\n    strength:", "chunks='copies' must be"),
    "no chunks": ("    strength:", "    chunks = 0\n    strength:", "chunks=0 must be"),
    "presets as a list": ("    strength:", "    presets = [1]\n    strength:", "presets must be a dict"),
    "a preset key of another form": ("    strength:", "    presets = {'x': 1}\n    strength:", "preset key 'x' must be"),
    "a check that refuses the defaults": ("    def loss", "    def __post_init__(self):\n        1 / 0\n\n    def loss", "ZeroDivision"),
    "an annotation of nothing": ("strength: float", "strength: 'Flaot'", "NameError"),
    "no terms": ('{"cross_entropy": loss}', "{}", "named, finite scalar terms"),
    "a bare tensor": ('{"cross_entropy": loss}', "loss", "named, finite scalar terms"),
    "a vector": (LOSS, "batch.y).mean(0)", "named, finite scalar terms"),
    "NaN": (LOSS, "batch.y).mean() * float('nan')", "named, finite scalar terms"),
    "NaN late": (LOSS, "batch.y).mean() / (0.0 if batch.epoch > 80 else 1.0)", "named, finite scalar terms"),
    "no gradient": (LOSS, "batch.y).mean().detach()", "named, finite scalar terms"),
    "gradient of one layer": ("g.noise(batch.x))", "g.noise(batch.x)).detach() + g.base.linear.bias", "a gradient"),
    "eval left on": (RETURN, "        g.base.eval()\n" + RETURN, LEFT),
    "frozen left on": (RETURN, "        [p.requires_grad_(False) for p in g.base.parameters()]\n" + RETURN, LEFT),
    "batch changed": ("        logits", "        batch.x.mul_(2)\n        logits", LEFT),
    "weights changed": (RETURN, "        with torch.no_grad():\n            g.base.conv.weight.mul_(1.1)\n" + RETURN, LEFT),
    "backward": (RETURN, "        loss.backward(retain_graph=True)\n" + RETURN, LEFT),
    "ambient torch": ("g.noise(batch.x)", "torch.randn_like(batch.x)[None]", DECIDES),
    "ambient python": (LOSS, "batch.y).mean() * random.random()", DECIDES),
    "ambient numpy": (LOSS, "batch.y).mean() * float(np.random.rand())", DECIDES),
    "state between calls": (RETURN, "        STATE.append(0)\n        loss = loss * len(STATE)\n" + RETURN, DECIDES),
    "fixed shape": ("        logits", "        assert batch.x.shape[1:] == (1, 8, 8)\n        logits", "any batch size"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_planted_fault_breaks_its_promise(tmp_path: Path, fault: str) -> None:
    old, new, promise = BROKEN[fault]
    assert GOOD.count(old) >= 1
    assert any(promise in broken for broken in load(tmp_path, GOOD.replace(old, new))), fault


PRESETS = """
Mine.presets = {%s}
"""


@pytest.mark.parametrize(
    "preset",
    [
        '("offical", "default", "mnist", 0.25): Mine()',
        '("official", "big", "mnist", 0.25): Mine()',
        '("official", "default", "mnist", -1.0): Mine()',
        '("official", "default", "mnist", 0.25): object()',
    ],
)
def test_a_misfit_preset_breaks_its_promise(tmp_path: Path, preset: str) -> None:
    assert any("method 'mine' (plug-in file): preset " in broken for broken in load(tmp_path, GOOD + PRESETS % preset))


def test_a_fitting_preset_keeps_it(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD + PRESETS % '("official", "default", "mnist", 0.25): Mine(strength=2.0)') == []
