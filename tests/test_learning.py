"""Two epochs of each method on 2,000 digits and the certification of 50: a change that breaks learning moves a number here.

learning.json holds mean and sample standard deviation of each measure over five seeds. `python tests/test_learning.py FOLDER` writes it
again: after a change that is meant to move the numbers, never because this test failed.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from planting import plant
from typer.testing import CliRunner

from bench.attacks import ascend
from bench.cli import app
from bench.store.runs import Store
from leaderboard import metrics
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothmix import SmoothMix
from methods.stability import Stability

REFERENCE = Path(__file__).with_name("learning.json")
SEEDS = range(5)
SIGMA, ALPHA = 0.5, 0.001
WIDTH = 6  # standard deviations: one seed of another machine stays inside, a wrong sign does not
LAST = 20  # rows of the curve
SIZES = "train.images=first:2000,train.epochs=2,train.batch=16,certify.images=every:200,certify.n=500,certify.n0=50"
CASES: Mapping[str, str] = {  # fewer copies and steps than the presets', to be fast
    "gaussian": "train.lr=0.03",
    "stability": "train.lr=0.03",
    "smoothadv": "train.lr=0.03,copies=2,steps=2,warmup_epochs=0",
    "macer": "train.lr=0.03,copies=4,deferral=0,strength=1,temperature=4",
    "consistency": "train.lr=0.03",
    "smoothmix": "train.lr=0.03,copies=2,steps=2,warmup_epochs=0,one_step=true",
}
Measures = dict[str, float]


def measure(folder: Path, method: str, seed: int) -> Measures | None:
    """ACR in pixels of [0, 1], certified accuracies, and each term of the loss at the end of training; None where it diverged."""
    words = ["--protocol", "smoke", "--device", "cpu", "--sigma", f"{SIGMA}", "--seeds", f"{seed},", "--results", str(folder)]
    sets = [word for change in f"{SIZES},{CASES[method]}".split(",") for word in ("--set", change)]
    result = CliRunner().invoke(app, ["run", "--method", method, *words, *sets, "--quiet"])
    (run,) = (run for run in Store(folder).runs() if (run.spec.method, run.spec.seed) == (method, seed))
    if run.state() == "diverged":
        return None
    assert result.exit_code == 0, result.output
    (certification,) = run.certifications()
    o = metrics.outcomes(certification.columns(), ALPHA, SIGMA)
    with (run.path / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))[-LAST:]
    terms = {name: statistics.fmean(float(row[name]) for row in rows) for name in rows[0] if name not in ("epoch", "step", "lr", "loss")}
    accuracies = {f"accuracy at {r}": metrics.certified_accuracy(o, r) for r in (0.0, 0.5)}
    return {"ACR": metrics.average_certified_radius(o), **accuracies, **terms}


def outside(found: Measures | None, method: str) -> list[str]:
    """The measures that lie outside of their bounds."""
    if found is None:
        return ["diverged"]
    reference = json.loads(REFERENCE.read_text())[method]
    assert found.keys() == reference.keys()
    return [
        f"{name}: {found[name]:.4f}, not {mean:.4f} ± {WIDTH} * {std:.4f}"
        for name, (mean, std) in reference.items()
        if not abs(found[name] - mean) <= WIDTH * std
    ]


@pytest.mark.parametrize("method", CASES)
def test_every_method_learns_what_it_did(method: str, tmp_path: Path) -> None:
    assert outside(measure(tmp_path, method, 0), method) == []


FAULTS: Mapping[str, tuple[str, Callable[..., object], str, str]] = {
    "loss": ("gaussian", Gaussian.loss, "cross_entropy(", "-cross_entropy("),
    "stability term": ("stability", Stability.loss, "self.strength *", "-self.strength *"),
    "attack of SmoothAdv": ("smoothadv", ascend, "point + step_size", "point - step_size"),
    "robustness term": ("macer", Macer.loss, "self.strength *", "-self.strength *"),
    "consistency term": ("consistency", Consistency.loss, "self.strength *", "-self.strength *"),
    "entropy term": ("consistency", Consistency.loss, "self.entropy_strength *", "-self.entropy_strength *"),
    "attack of SmoothMix": ("smoothmix", ascend, "point + step_size", "point - step_size"),
    "mixed term": ("smoothmix", SmoothMix.loss, "self.strength *", "-self.strength *"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_sign_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, where, old, new = FAULTS[name]
    plant(where, old, new, monkeypatch)
    assert outside(measure(tmp_path, method, 0), method)


def write(folder: Path) -> None:
    """learning.json from five seeds of each method."""
    reference: dict[str, dict[str, tuple[float, float]]] = {}
    for method in CASES:
        found = [m for seed in SEEDS if (m := measure(folder, method, seed))]
        assert len(found) == len(SEEDS), f"{method} diverges"
        reference[method] = {}
        for name in found[0]:
            values = [m[name] for m in found]
            reference[method][name] = (round(statistics.fmean(values), 5), round(statistics.stdev(values), 5))
            print(method, name, reference[method][name], [round(value, 4) for value in values])
    REFERENCE.write_text(json.dumps(reference, indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
