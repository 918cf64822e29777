"""The public contract: every method keeps it, and each promise can be broken."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.attacks import ascend
from bench.contract import check
from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.method import Batch
from bench.models import build
from bench.registry import Registry
from bench.smoothing import SmoothedClassifier
from bench.train.surveys import even

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


def test_these_are_the_methods() -> None:
    assert METHODS == ["adaptive", "catrs", "consistency", "gaussian", "macer", "smoothadv", "smoothmix", "sphere", "stability"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str) -> None:
    results = check(Registry().load(name))
    assert len(results) == (8 if name in ("adaptive", "catrs") else 7)  # and that of its surveys
    assert [r for r in results if r.problem] == []


@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_a_network_with_batch_norm(name: str) -> None:
    """ResNet-20: finite loss and gradients; only passes in training mode move the running statistics, so none of an attack."""
    method = Registry().load(name).cls
    preset = method.presets.get(("official", method.variants[0], "cifar10", 0.5)) or method()
    base = build("cifar_resnet20", DATASETS["cifar10"], 0).train()
    fresh = copy.deepcopy(base)
    trained_on: list[Tensor] = []
    base.register_forward_pre_hook(lambda module, inputs: trained_on.append(inputs[0].clone()) if module.training else None)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    g = SmoothedClassifier(base, 0.5, torch.Generator().manual_seed(2))
    terms = preset.loss(g, Batch(x=x, y=torch.tensor([3, 7]), epoch=140.0, surveys=even(preset, 2, 10)))
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in base.parameters())
    assert trained_on
    with torch.no_grad():
        for inputs in trained_on:
            fresh(inputs)
    wanted = dict(fresh.named_buffers())
    for where, buffer in base.named_buffers():
        assert torch.allclose(buffer, wanted[where], rtol=1e-4, atol=1e-6), where
    tracked = [buffer for where, buffer in base.named_buffers() if where.endswith("num_batches_tracked")]
    assert {int(count) for count in tracked} == {len(trained_on)}
    assert len(trained_on) == {"stability": 2, "smoothmix": 2, "catrs": 2}.get(name, 1)


def test_an_attack_leaves_batch_norm_alone() -> None:
    base = build("cifar_resnet20", DATASETS["cifar10"], 0).train()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    g = SmoothedClassifier(base, 0.5, torch.Generator().manual_seed(2))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    path = ascend(g, x, torch.tensor([3, 7]), g.noise(x, 2), steps=2, step_size=0.5)
    assert not torch.equal(path[-1], x)
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())
    assert all(module.training for module in base.modules())


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
