"""Training steps that are recorded and replayed: the same weights as eager ones, and eager steps where that cannot be."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cpu_recorder import CpuRecorder
from torch import Tensor, nn
from toys import CPU, through_a_file, toy_trainer

import bench.models
from bench.errors import BenchError
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier, cross_entropy
from bench.train.loop import WORTH_RECORDING, Trainer, layout_of, why_eager
from methods.adaptive import Adaptive
from methods.catrs import CatRS
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.sphere import Sphere
from methods.stability import Stability

BATCH = 4
METHODS: dict[str, Method] = {
    "gaussian": Gaussian(),
    "stability": Stability(),
    "stability two-copy": Stability(two_copies=True),
    "catrs.self": CatRS(copies=2, steps=2, target="self"),
    "sphere": Sphere(copies=2, steps=2),
    "adaptive (sphere)": Adaptive(copies=2, steps=2, start=1, every=1, threshold=0.0),
    "consistency": Consistency(),
    "smoothadv": SmoothAdv(copies=2, steps=3, warmup_epochs=3),
    "macer": Macer(copies=4, deferral=1),
    "smoothmix": SmoothMix(copies=2, steps=2, warmup_epochs=3),
    "smoothmix one step": SmoothMix(copies=2, steps=2, one_step=True, norm_limit=2.0, one_step_limit=1.0, warmup_epochs=3),
}


class Toy(nn.Sequential):
    """Everything that has state, but for dropout, whose draws on a CPU are the host's."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))


class Dropping(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))


@pytest.fixture(autouse=True)
def _toy_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.models.ARCHITECTURES, "toy", lambda info: Toy(info.classes))
    monkeypatch.setitem(bench.models.ARCHITECTURES, "dropping", lambda info: Dropping(info.classes))


def trainer(method: Method, *, recorded: bool, images: int = 7 * BATCH + 2, micro_batch: int | None = None, **train: Any) -> Trainer:
    made: list[Trainer] = []

    def state() -> Iterator[Tensor]:
        yield from made[0].model.state_dict().values()
        yield from (value for held in made[0].optimiser.state.values() for value in held.values() if isinstance(value, Tensor))

    recorder = CpuRecorder(state) if recorded else None
    values = {"arch": "toy", "batch": BATCH, "lr_lag": 0} | train
    made.append(toy_trainer(method, images, micro_batch=micro_batch, recorder=recorder, **values))
    return made[0]


def recorder_of(t: Trainer) -> CpuRecorder:
    assert isinstance(t._recorder, CpuRecorder)
    return t._recorder


def end(t: Trainer) -> dict[str, Tensor]:
    t.run(lambda _: None)
    return {name: tensor.clone() for name, tensor in t.model.state_dict().items()} | {"generator": t.g.generator.get_state()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_replayed_steps_give_the_weights_of_eager_ones(name: str, precision: str) -> None:
    """Bit for bit, over three epochs whose constants differ: learning rate, ramps, a term that comes late."""
    plain = trainer(METHODS[name], recorded=False, precision=precision)
    replayed = trainer(METHODS[name], recorded=True, precision=precision)
    assert same(end(plain), end(replayed))
    assert plain.curve == replayed.curve
    assert replayed.why_eager is None
    # of the 8 steps of an epoch the first and the last, short one are eager
    assert (recorder_of(replayed).recordings, recorder_of(replayed).replays) == (3, 18)
    assert 0 <= (replayed.attack_share or 0.0) < 1
    assert (replayed.attack_share != 0.0) == any(word in name for word in ("smoothadv", "smoothmix", "sphere", "catrs"))


@dataclass(frozen=True, kw_only=True)
class Stale(Method):
    """A number of Python's that changes from step to step, which no recording can notice."""

    counter: Iterator[int]

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        return {"cross_entropy": (1 + next(self.counter)) * cross_entropy(g.logits(batch.x, g.noise(batch.x)), batch.y).mean()}


def test_the_comparison_would_see_a_stale_constant() -> None:
    found = [end(trainer(Stale(counter=itertools.count()), recorded=recorded)) for recorded in (False, True)]
    assert not same(*found)


@pytest.mark.parametrize("name", ["gaussian", "smoothmix"])
def test_a_resumed_training_replays_to_the_same_weights(name: str) -> None:
    """From every step on, whatever is replayed before or after it."""
    whole = trainer(METHODS[name], recorded=True)
    states: list[dict[str, Any]] = []
    whole.run(lambda t: states.append(through_a_file(t.state())))
    expected = {key: tensor.clone() for key, tensor in whole.model.state_dict().items()}
    for state in states:
        again = trainer(METHODS[name], recorded=True)
        again.restore(state)
        again.run(lambda _: None)
        assert same(dict(again.model.state_dict()), expected)
        assert again.curve == whole.curve


def test_a_trainer_that_goes_back_records_anew() -> None:
    """A restored optimiser has other momentum buffers than those of the recording."""
    t = trainer(Gaussian(), recorded=True)
    kept: list[dict[str, Any]] = []

    class Back(Exception):
        pass

    def after(t: Trainer) -> None:
        if t.step == 3 and not kept:
            kept.append(through_a_file(t.state()))
        if t.step == 5 and len(kept) == 1:
            kept.append({})
            raise Back

    with pytest.raises(Back):
        t.run(after)
    t.restore(kept[0])
    assert same(end(t), end(trainer(Gaussian(), recorded=False)))


@dataclass(frozen=True, kw_only=True)
class Waiting(Method):
    """Looks at its loss, as scripts do, or draws where it should not."""

    how: str

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        loss = cross_entropy(g.logits(batch.x, g.noise(batch.x)), batch.y).mean()
        if self.how == "item" and loss.item() > 1e6:
            loss = 2 * loss
        if self.how == "branch" and loss > 1e6:
            loss = 2 * loss
        if self.how == "mask":
            loss = loss + g.logits(batch.x)[batch.y == 0].sum() * 0.01
        if self.how == "host draw":
            loss = loss * (1 + float(torch.rand(()).numpy()))
        return {"cross_entropy": loss}


@pytest.mark.parametrize("how", ["item", "branch", "mask", "host draw", "dropout"])
def test_what_cannot_be_recorded_is_trained_eagerly_and_says_why(how: str) -> None:
    """On a CPU dropout draws from the host."""
    arch = "dropping" if how == "dropout" else "toy"
    plain, other = (trainer(Waiting(how=how), recorded=recorded, arch=arch) for recorded in (False, True))
    assert same(end(plain), end(other))
    assert plain.curve == other.curve
    assert plain.why_eager is None
    assert other.why_eager
    assert "\n" not in other.why_eager
    assert other._recorder is None


def test_an_error_of_the_method_is_told_as_it_is() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Method):
        def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
            loss = cross_entropy(g.logits(batch.x), batch.y)
            return {"cross_entropy": loss.mean() if batch.epoch < 1 else loss}

    with pytest.raises(BenchError, match="scalar"):
        end(trainer(Wrong(), recorded=True))


@pytest.mark.parametrize(
    ("train", "micro_batch"), [({"precision": "fp16"}, None), ({"devices": 2}, None), ({}, 2)], ids=["fp16", "devices", "pieces"]
)
def test_what_is_known_not_to_be_replayed(train: dict[str, Any], micro_batch: int | None) -> None:
    spec = dataclasses.replace(trainer(Gaussian(), recorded=False).spec.train, **train)
    assert why_eager(spec, micro_batch)
    if spec.devices == 1:
        t = trainer(Gaussian(), recorded=True, micro_batch=micro_batch, **train)
        assert t.why_eager
        assert t._recorder is None


@pytest.mark.parametrize("clock", [3, 6, 24])
def test_no_recording_for_a_few_steps(clock: int) -> None:
    """A shortened training runs through the recipe's epochs; where one has few steps, a recording costs more than it gains."""
    t = trainer(Gaussian(), recorded=True, images=8 * BATCH, clock=clock)
    plain = trainer(Gaussian(), recorded=False, images=8 * BATCH, clock=clock)
    steps = 24 // clock
    worth = steps - 1 >= WORTH_RECORDING
    assert same(end(t), end(plain))
    assert (recorder_of(t).recordings, recorder_of(t).replays) == ((clock, clock * (steps - 1)) if worth else (0, 0))


def test_a_term_that_is_no_number_is_seen_in_a_replay() -> None:
    from bench.errors import Diverged

    @dataclass(frozen=True, kw_only=True)
    class Late(Method):
        def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
            bad = torch.where(batch.x.mean() > 0, math.nan, 0.0)
            return {"cross_entropy": cross_entropy(g.logits(batch.x), batch.y).mean() + bad}

    with pytest.raises(Diverged):
        end(trainer(Late(), recorded=True))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
def test_layouts(precision: str) -> None:
    assert layout_of(precision, CPU) == torch.channels_last
    nchw = layout_of(precision, torch.device("cuda")) == torch.contiguous_format
    assert nchw == (precision == "float32")


def test_either_layout_gives_the_same_step_to_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for layout in (torch.channels_last, torch.contiguous_format):
        monkeypatch.setattr("bench.train.loop.layout_of", lambda *_, layout=layout: layout)
        t = trainer(SmoothMix(copies=2, steps=2, warmup_epochs=0), recorded=False, epochs=1, clock=1)
        t.run(lambda _: None)
        found.append(torch.cat([p.detach().flatten() for p in t.model.parameters()]))
        assert next(t.model.parameters()).is_contiguous(memory_format=layout)
    assert torch.allclose(found[0], found[1], atol=1e-4)


Call = Callable[..., Any]


def test_no_graph_is_recorded_and_in_no_key(tiny: Call, tmp_path: Any) -> None:
    import json

    words = ("--method", "gaussian", "--sigma", "0.5")
    assert tiny(*words, "--no-graph").exit_code == 0
    (path,) = (tmp_path / "runs").rglob("training.json")
    assert json.loads((path.parent / "environment.json").read_text())["no_graph"] is True
    result = tiny(*words)
    assert result.exit_code == 0
    assert len(list((tmp_path / "runs").rglob("training.json"))) == 1
