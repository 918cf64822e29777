"""The training loop: resumes to the bit, sees every image once per epoch, keeps the recipe's clock."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import through_a_file

import bench.models
from bench.data import Split
from bench.datasets import DATASETS, DatasetInfo
from bench.errors import Diverged
from bench.method import Batch, Method, Terms
from bench.smoothing import SmoothedClassifier
from bench.spec import RunSpec, TrainSpec
from bench.train.loop import Trainer

INFO: DatasetInfo = dataclasses.replace(DATASETS["mnist"], name="toy", shape=(1, 4, 4), classes=3)
CPU = torch.device("cpu")


class Toy(nn.Sequential):
    """Everything that has state: batch norm, dropout (which draws from the global generator), several layers."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, classes))


@pytest.fixture(autouse=True)
def _toy_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.models.ARCHITECTURES, "toy", lambda info: Toy(info.classes))


def toy_data(count: int = 23) -> Split:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(count)  # the first pixel names the image
    return Split(pixels, torch.arange(count) % 3, {})


@dataclass
class Seen:
    images: list[list[int]] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    lengths: set[float] = field(default_factory=set)


SEEN = Seen()


@dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """Noisy cross-entropy with noise of g, a draw of g.uniform and a term that comes late; writes down what it sees."""

    late: int = 2
    nan_at: int = -1
    log: Seen = field(default_factory=lambda: SEEN, compare=False)

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        self.log.images.append((batch.x[:, 0, 0, 0] * 255).round().int().tolist())
        self.log.epochs.append(batch.epoch)
        self.log.labels.append(batch.y.tolist())
        self.log.modes.append(g.base.training)
        self.log.places.append(batch.index.tolist())
        self.log.lengths.add(batch.epochs)
        logits = g.logits(batch.x, g.noise(batch.x, 2))
        weight = g.uniform(len(batch.x), like=batch.x)
        loss = -(logits.log_softmax(-1)[:, torch.arange(len(batch.y)), batch.y].mean(0) * weight).mean()
        if len(self.log.epochs) - 1 == self.nan_at:
            loss = loss * math.nan
        terms = {"cross_entropy": loss}
        if batch.epoch >= self.late:
            terms["size"] = 0.01 * (logits**2).mean()
        return terms


def spec(seed: int = 0, **train: Any) -> RunSpec:
    values: dict[str, Any] = {"arch": "toy", "epochs": 4, "clock": 4, "batch": 5, "lr": 0.1, "lr_step": 2, "lr_lag": 1, "nesterov": True}
    return RunSpec(
        method="plain",
        variant="default",
        hyperparameters={},
        dataset="toy",
        sigma=0.5,
        seed=seed,
        recipe="official",
        protocol="full",
        train=TrainSpec(**(values | train)),
    )


def trainer(run: RunSpec | None = None, method: Method | None = None) -> Trainer:
    return Trainer(run or spec(), method or Plain(log=Seen()), INFO, toy_data(), CPU)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def nothing(_: Trainer) -> None:
    pass


class Stop(Exception):
    pass


# --------------------------------------------------------------------------------------------------------------- resuming


def test_resuming_after_every_step_gives_the_same_weights_and_curve() -> None:
    whole = trainer()
    states: list[dict[str, Any]] = [through_a_file(whole.state())]
    final = weights(whole.run(lambda t: states.append(through_a_file(t.state()))))
    assert len(states) == whole.total + 1 == 21
    assert len(whole.curve) == 4
    for step, state in enumerate(states):
        torch.manual_seed(step)  # the global generator must not matter
        again = trainer()
        again.restore(state)
        assert again.step == step
        assert same(weights(again.run(nothing)), final), f"resumed after step {step}"
        assert again.curve == whole.curve


def test_stopping_and_going_on_in_one_process_gives_the_same_weights() -> None:
    final = weights(trainer().run(nothing))
    whole = trainer()

    def stop_once(t: Trainer) -> None:
        if t.step in (3, 7, 11):
            raise Stop

    for _ in range(3):
        with pytest.raises(Stop):
            whole.run(stop_once)
    assert whole.step == 11
    assert same(weights(whole.run(nothing)), final)


def test_a_state_kept_in_memory_does_not_run_on_with_the_training() -> None:
    """Its tensors are those of the model, so it must be written at once; its step and generators stay what they were."""
    whole = trainer()
    kept: list[dict[str, Any]] = []
    whole.run(lambda t: kept.append(t.state() | {"model": copy.deepcopy(t.state()["model"])}))
    assert [state["step"] for state in kept] == list(range(1, 21))
    assert len({bytes(state["generator"].numpy()) for state in kept}) == 20


@pytest.mark.parametrize("missing", ["optimiser", "generator", "ambient", "model"])
def test_the_resume_test_would_see_a_part_left_out(missing: str) -> None:
    final = weights(trainer().run(nothing))
    half = trainer()

    def stop(t: Trainer) -> None:
        if t.step == 6:
            raise Stop

    with pytest.raises(Stop):
        half.run(stop)
    again = trainer()
    again.restore(through_a_file(half.state()) | {missing: trainer().state()[missing]})
    assert not same(weights(again.run(nothing)), final)


# ------------------------------------------------------------------------------------------------------------------ seeds


def test_a_seed_decides_first_weights_order_and_noise_and_equal_ones_give_equal_weights() -> None:
    logs = [Seen(), Seen(), Seen()]
    first, same_seed, other = trainers = [trainer(spec(seed), Plain(log=log)) for seed, log in zip((0, 0, 1), logs, strict=True)]
    assert not torch.equal(*(t.model.state_dict()["1.0.weight"] for t in (first, other)))
    assert not torch.equal(*(t.g.noise(torch.zeros(1, 1, 2, 2)) for t in (first, other)))
    same_seed.g.noise(torch.zeros(1, 1, 2, 2))
    finals = [weights(t.run(nothing)) for t in trainers]
    assert logs[0].images == logs[1].images != logs[2].images
    assert same(finals[0], finals[1])
    trained = [name for name in finals[0] if name.endswith(("weight", "bias"))]
    assert trained
    assert not any(torch.equal(finals[0][name], finals[2][name]) for name in trained)


def test_the_global_generator_neither_matters_nor_moves() -> None:
    def stop(_: Trainer) -> None:
        raise Stop

    finals = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        before = torch.random.get_rng_state()
        finals.append(weights(trainer().run(nothing)))
        with pytest.raises(Stop):
            trainer().run(stop)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert same(*finals)


# ----------------------------------------------------------------------------------------------------- images and clock


@pytest.mark.parametrize(
    ("images", "expected"), [("all", list(range(23))), ("every:2", list(range(0, 23, 2))), ("first:7", list(range(7)))]
)
@pytest.mark.parametrize("batch", [1, 5, 23, 100])
def test_every_chosen_image_once_per_epoch(images: str, expected: list[int], batch: int) -> None:
    log = Seen()
    t = trainer(spec(epochs=3, images=images, batch=batch), Plain(log=log))
    t.run(nothing)
    per_epoch = math.ceil(len(expected) / batch)
    assert t.total == len(log.images) == 3 * per_epoch
    orders = []
    for epoch in range(3):
        batches = log.images[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert all(len(rows) == min(batch, len(expected)) for rows in batches[:-1])
        order = [image for rows in batches for image in rows]
        assert sorted(order) == expected
        orders.append(order)
    assert len({tuple(order) for order in orders}) == 3  # a fresh shuffle each time
    for rows, labels in zip(log.images, log.labels, strict=True):
        assert labels == [image % 3 for image in rows]
    assert all(log.modes)
    assert log.places == log.images  # the first pixel names the image
    assert log.lengths == {float(t.spec.train.clock)}


@pytest.mark.parametrize(("epochs", "clock"), [(4, 4), (1, 90), (3, 90), (1, 4), (5, 4)])
def test_any_training_runs_over_the_whole_clock_and_a_full_one_in_epochs(epochs: int, clock: int) -> None:
    log = Seen()
    t = trainer(spec(epochs=epochs, clock=clock, batch=1, lr_step=30, lr_lag=1), Plain(log=log))
    t.run(nothing)
    total = 23 * epochs
    assert log.epochs == [math.floor(clock * step / total) for step in range(total)]
    assert log.epochs[0] == 0
    assert clock * (1 - 1 / total) - 1 < log.epochs[-1] < clock
    rates = [row["lr"] for row in t.curve]
    assert rates == [t.spec.train.lr_at(int(row["epoch"])) for row in t.curve]
    if clock == 90:
        assert {round(rate, 9) for rate in rates} == {0.1, 0.01, 0.001}


def test_the_learning_rate_of_each_step() -> None:
    t = trainer(spec(epochs=7, clock=7))
    rates: list[float] = []
    t.run(lambda t: rates.append(t.optimiser.param_groups[0]["lr"]))
    assert rates == pytest.approx([0.1] * 15 + [0.01] * 10 + [0.001] * 10)


def test_the_optimiser_is_the_one_of_the_recipe() -> None:
    """Three steps against SGD written out: weight decay on every parameter, Nesterov or plain momentum."""
    for nesterov in (False, True):
        t = trainer(spec(nesterov=nesterov, momentum=0.9, weight_decay=1e-2, lr=0.1, lr_step=100))
        expected = {name: p.detach().double() for name, p in t.model.named_parameters()}
        speed = {name: torch.zeros_like(p) for name, p in expected.items()}

        def check(t: Trainer, expected: dict[str, Tensor] = expected, speed: dict[str, Tensor] = speed, nesterov: bool = nesterov) -> None:
            for name, p in t.model.named_parameters():
                assert p.grad is not None
                gradient = p.grad.double() + 1e-2 * expected[name]
                speed[name] = 0.9 * speed[name] + gradient
                expected[name] = expected[name] - 0.1 * (gradient + 0.9 * speed[name] if nesterov else speed[name])
                assert torch.allclose(p.double(), expected[name], atol=1e-6)
            if t.step == 3:
                raise Stop

        with pytest.raises(Stop):
            t.run(check)


def test_the_curve_has_one_row_per_epoch_with_the_mean_of_each_term() -> None:
    t = trainer()
    losses: list[float] = []

    @dataclass(frozen=True, kw_only=True)
    class Spy(Plain):
        def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
            terms = Plain.loss(self, g, batch)
            losses.append(float(terms["cross_entropy"].detach()))
            return terms

    t = trainer(method=Spy(log=Seen()))
    t.run(nothing)
    assert [(row["epoch"], row["step"]) for row in t.curve] == [(0, 5), (1, 10), (2, 15), (3, 20)]
    for number, row in enumerate(t.curve):
        assert row["cross_entropy"] == pytest.approx(sum(losses[5 * number : 5 * number + 5]) / 5)
        assert ("size" in row) == (number >= 2)
        assert row["loss"] == pytest.approx(row["cross_entropy"] + row.get("size", 0.0))


# -------------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("nan_at", [0, 4, 5, 12, 19])
@pytest.mark.parametrize("checked", [False, True])
def test_a_loss_that_is_no_number_ends_the_training(nan_at: int, checked: bool) -> None:
    """By the end of the epoch, or at once where somebody asks."""
    t = trainer(method=Plain(log=Seen(), nan_at=nan_at))
    with pytest.raises(Diverged, match="term cross_entropy of the loss became nan"):
        t.run(Trainer.check_finite if checked else nothing)
    assert nan_at < t.step <= nan_at + (1 if checked else 5)


def test_a_weight_that_is_no_number_ends_the_training() -> None:
    t = trainer()

    def spoil(t: Trainer) -> None:
        if t.step == t.total:
            with torch.no_grad():
                next(t.model.parameters()).view(-1)[0] = math.inf

    with pytest.raises(Diverged, match="not finite after step 20 of 20"):
        t.run(spoil)


def test_a_sound_training_is_finite_and_learns() -> None:
    t = trainer(spec(epochs=40, clock=40, lr_step=100))
    t.run(Trainer.check_finite)
    assert t.curve[-1]["cross_entropy"] < 0.9 * t.curve[0]["cross_entropy"]
