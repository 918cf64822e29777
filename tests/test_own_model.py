"""A model in memory: certified as the command certifies, refused where it must be, and left as it was."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import bench
from bench.certify import Sampler
from bench.certify.predict import predict
from bench.errors import BenchError
from bench.spec import derive
from leaderboard.frame.schema import COLUMNS


class Halves(nn.Module):
    """The brightest of the K horizontal strips of an image, as logits; works for any number of channels."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * torch.stack([part.mean((1, 2, 3)) for part in x.tensor_split(self.classes, 2)], 1)


def images() -> tuple[Tensor, Tensor]:
    """Strips that are clear, faint, and none."""
    x, labels = torch.full((6, 1, 12, 12), 0.4), torch.tensor([0, 1, 2, 0, 1, 2])
    for number, (label, light) in enumerate(zip(labels.tolist(), (1.0, 1.0, 1.0, 0.5, 0.45, 0.4), strict=True)):
        x[number, :, 4 * label : 4 * label + 4] = light
    return x, labels


X, Y = images()


def test_counts_are_those_of_the_sampler_and_radii_those_of_the_counts() -> None:
    frame = bench.SmoothedClassifier(Halves(), 0.5).certify(X, Y, n=1000, n0=50, seed=3)
    sampler = Sampler(Halves(), 0.5, 3, 3)
    rows = [sampler.certify(image, index, int(Y[index]), 50, 1000) for index, image in enumerate(X)]
    assert frame[["selected", "count", "runner_up"]].values.tolist() == [[row.selected, row.count, row.runner_up] for row in rows]
    assert frame["radius"].tolist() == [row.radius(0.001, 0.5) or 0.0 for row in rows]
    assert frame["correct"].tolist() == [row.correct(0.001, 0.5) for row in rows]
    assert frame["predicted"].tolist() == [row.selected if row.radius(0.001, 0.5) else -1 for row in rows]
    assert list(frame.columns) == list(COLUMNS)
    assert set(frame["source"]) == {"model"}
    assert frame.loc[:2, "correct"].all()
    assert frame.loc[5, "predicted"] == -1


def test_a_frame_of_a_model_goes_everywhere() -> None:
    frames = [bench.SmoothedClassifier(Halves(), 0.5, name=name).certify(X, Y, n=1000) for name in ("mine", "mine.v2")]
    both = pd.concat(frames)
    found = bench.summary(both, ["ACR"]).set_index("row")
    for name, frame in zip(("mine", "mine.v2"), frames, strict=True):
        assert found.loc[name, "mean"] == pytest.approx(bench.acr(frame["radius"], frame["correct"]))
    assert found["table"].nunique() == 1
    assert "mine.v2" in bench.table(both, "markdown")
    other = bench.SmoothedClassifier(Halves(), 0.5).certify(X.flip(3) * 0.9, Y, n=1000)
    assert bench.summary(pd.concat([both, other]))["table"].nunique() == 2  # other images share no table


def test_models_of_one_class_keep_their_own_numbers() -> None:
    """Other weights, other labels: each row of a shared frame has the ACR that it has alone."""
    faint = Halves()
    torch.nn.init.constant_(faint.gain, -1.0)
    made = [bench.SmoothedClassifier(model, 0.5, name=name).certify(X, Y, n=1000) for model, name in ((Halves(), "one"), (faint, "two"))]
    alone = [bench.acr(frame["radius"], frame["correct"]) for frame in made]
    assert alone[0] != alone[1]
    found = bench.summary(pd.concat(made), ["ACR"]).set_index("row")["mean"]
    assert [found["one"], found["two"]] == pytest.approx(alone)


def test_arrays_are_taken_as_tensors_are() -> None:
    smoothed = bench.SmoothedClassifier(Halves(), 0.5)
    frames = [smoothed.certify(x, y, n=500) for x, y in ((X, Y), (X.double().numpy(), Y.numpy()), (X.numpy().tolist(), Y.tolist()))]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame.drop(columns="record"), frames[0].drop(columns="record"))


def test_alpha_and_seed_are_heard() -> None:
    smoothed = bench.SmoothedClassifier(Halves(), np.float64(0.5))
    words: list[dict[str, Any]] = [{"n": 500}, {"n": np.int64(500)}, {"n": 500, "alpha": np.float64(0.05)}, {"n": 500, "seed": np.int32(1)}]
    first, again, loose, other = (smoothed.certify(X, Y, **own) for own in words)
    pd.testing.assert_frame_equal(first, again)
    assert loose["count"].tolist() == first["count"].tolist()
    assert (loose["radius"] >= first["radius"]).all()
    assert loose["radius"].sum() > first["radius"].sum()
    assert other["count"].tolist() != first["count"].tolist()


def test_prediction_is_that_of_the_procedure() -> None:
    found = bench.SmoothedClassifier(Halves(), 0.5).predict(X, n=400, seed=7)
    sampler = Sampler(Halves(), 0.5, 3, derive(7, "predict"))
    expected = [predict(sampler, image, index, 0, 400, 0.001).predict for index, image in enumerate(X)]
    assert found.tolist() == [-1 if c is None else c for c in expected]
    assert found[:3].tolist() == [0, 1, 2]
    assert found[5] == -1


def test_a_colour_image_and_one_alone() -> None:
    x = X[:1].expand(1, 3, 12, 12)
    assert len(bench.SmoothedClassifier(Halves(), 0.25).certify(x, Y[:1], n=200)) == 1


# -------------------------------------------------------------------------------------------------------------- what is refused


class Averages(Halves):
    """Adds what the rows of a pass have in common."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + 10 * logits.mean(0)


class Loses(Halves):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


class Guesses(Halves):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(len(x), self.classes)


class Images(Halves):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("model", [Averages(), Loses(), Guesses(), Images()], ids=lambda model: type(model).__name__)
def test_a_model_that_is_no_function_of_the_image_is_refused(model: nn.Module) -> None:
    with pytest.raises(BenchError):
        bench.SmoothedClassifier(model, 0.5).certify(X, Y, n=1000)


class Untouched(Halves):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was called before the numbers were checked")


MODELS: list[tuple[Any, ...]] = [(Halves(), sigma) for sigma in (0.0, -1.0, float("nan"), "half", "0.5", True, None)]
MODELS += [(lambda x: x, 0.5), (Halves().half(), 0.5)]
PICTURES: list[Any] = [(X[0], Y[:1]), (X[:0], Y[:0]), (X * 255, Y), (X - 0.5, Y), ((X * 255).byte(), Y), (X * float("nan"), Y)]
PICTURES += [([["a"]], Y[:1]), (X, Y[:5]), (X, Y.float()), (X, Y + 1), (X, Y - 1)]
NUMBERS: list[dict[str, Any]] = [{"n": n} for n in (0, 1e3, True, 2**40)] + [{"n0": 0}, {"seed": -1}, {"seed": "1"}]
NUMBERS += [{"alpha": alpha} for alpha in (0.5, float("nan"), "0.001")]


@pytest.mark.parametrize("words", MODELS, ids=range(len(MODELS)))
def test_a_model_is_a_module_in_float32_with_a_sigma_above_0(words: tuple[Any, ...]) -> None:
    with pytest.raises(BenchError, match="sigma" if words[1] != 0.5 else "model"):
        bench.SmoothedClassifier(*words)
    with pytest.raises(BenchError):
        bench.SmoothedClassifier(Halves(), 0.5, name="Not A Row")


@pytest.mark.parametrize("pictures", PICTURES, ids=range(len(PICTURES)))
def test_bad_images_and_labels_are_refused(pictures: Any) -> None:
    with pytest.raises(BenchError):
        bench.SmoothedClassifier(Halves(), 0.5).certify(*pictures, n=100)


@pytest.mark.parametrize("words", NUMBERS, ids=str)
def test_numbers_are_checked_before_anything_is_sampled(words: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=next(iter(words))):
        bench.SmoothedClassifier(Untouched(), 0.5).certify(X, Y, **words)


@pytest.mark.parametrize("words", [{"n": 5}, {"n": 1e3}, {"alpha": 0.0}, {"alpha": "0.001"}, {"seed": -1}], ids=str)
def test_a_prediction_that_always_abstains_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=f"^{next(iter(words))}"):
        bench.SmoothedClassifier(Untouched(), 0.5).predict(X, **words)


# ---------------------------------------------------------------------------------------------------------- what is left behind


class Remembers(Halves):
    """Fails at the given pass, and notes modes."""

    def __init__(self, fail_at: int) -> None:
        super().__init__()
        self.inner, self.fail_at, self.passes = nn.Dropout(0.5), fail_at, 0

    def forward(self, x: Tensor) -> Tensor:
        assert not self.inner.training
        self.passes += 1
        if self.passes == self.fail_at:
            raise KeyboardInterrupt
        return super().forward(self.inner(x))


@pytest.mark.parametrize("fail_at", [0, 1, 4])
def test_the_model_and_torch_are_as_they_were(fail_at: int) -> None:
    from bench.system.guards import SETTINGS

    model = Remembers(fail_at).train()
    model.gain.requires_grad_(False)
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    smoothed = bench.SmoothedClassifier(model, 0.5)
    if fail_at:
        with pytest.raises(KeyboardInterrupt):
            smoothed.certify(X, Y, n=1000)
    else:
        smoothed.certify(X, Y, n=1000)
        smoothed.predict(X, n=100)
    assert model.training
    assert model.inner.training
    assert not model.gain.requires_grad
    assert {name: read() for name, (read, _) in SETTINGS.items()} == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # type: ignore[index]  # noqa: NPY002


def test_part_of_a_model_may_be_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.1), Halves()).train()
    model[0].eval()
    bench.SmoothedClassifier(model, 0.5).certify(X, Y, n=100)
    assert [module.training for module in model.modules()] == [True, False, True]


def test_certification_from_the_command_is_the_same(tmp_path: Path, tiny: Any) -> None:
    """The weights that a run kept, on the images that it was certified on: the same noise, so the same counts."""
    from bench.data import load
    from bench.matrix.resume import load_weights
    from bench.store.runs import Store

    assert tiny("--method", "gaussian", "--sigma", "0.5").exit_code == 0
    frame = bench.load_results(tmp_path / "runs")
    run = next(Store(tmp_path / "runs").runs())
    model = load_weights(run, run.training()["weights_sha256"], torch.device("cpu"))  # type: ignore[index]
    data = load("mnist", "test", None)
    mine = bench.SmoothedClassifier(model, 0.5).certify(data.images(torch.arange(3)), data.labels[:3], n=200, n0=20)
    for name in ("image", "label", "selected", "predicted", "count", "runner_up", "radius", "correct"):
        assert mine[name].tolist() == frame[name].tolist()
