"""What training does for speed computes the same: LeNet's input gradient, steps in pieces, no waiting for the device."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from cpu_recorder import waits
from test_contract import GOOD
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from toys import CPU, toy_trainer
from typer.testing import Result

import bench.models
from bench.errors import BenchError, Diverged
from bench.method import Batch, Method, Terms
from bench.models import place
from bench.models.lenet import PIECE, FirstLayer, LeNet, first_layer
from bench.smoothing import Piecewise, SmoothedClassifier
from bench.system.environment import precisions
from bench.train.loop import Trainer
from methods.consistency import Consistency
from methods.gaussian import Gaussian
from methods.macer import Macer
from methods.smoothadv import SmoothAdv
from methods.smoothmix import SmoothMix
from methods.stability import Stability

METHODS: dict[str, Method] = {
    "gaussian": Gaussian(),
    "stability": Stability(),
    "smoothadv": SmoothAdv(copies=2, steps=3, warmup_epochs=0),
    "macer": Macer(copies=4, deferral=0),
    "consistency": Consistency(copies=2),
    "smoothmix": SmoothMix(copies=2, steps=2, warmup_epochs=0),
    "smoothmix one step": SmoothMix(copies=2, steps=2, one_step=True, norm_limit=2.0, one_step_limit=1.0),
}
each_method = pytest.mark.parametrize("name", METHODS)


class Smooth(nn.Sequential):
    """Without batch norm or dropout, and smooth: a step in pieces equals a whole one."""

    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, classes))


class Normed(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, classes))


@pytest.fixture(autouse=True)
def _toy_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.models.ARCHITECTURES, "smooth", lambda info: Smooth(info.classes))
    monkeypatch.setitem(bench.models.ARCHITECTURES, "normed", lambda info: Normed(info.classes))


def trainer(method: Method, images: int = 12, batch: int = 12, arch: str = "smooth", **more: Any) -> Trainer:
    return toy_trainer(method, images, batch=batch, arch=arch, **more)


class Stop(Exception):
    pass


def steps(t: Trainer, count: int) -> None:
    def after_step(t: Trainer) -> None:
        if t.step == count:
            raise Stop

    with pytest.raises(Stop):
        t.run(after_step)


def weights_of(t: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in t.model.parameters()])


def gradients(method: Method, piece: int, **more: Any) -> tuple[list[Trainer], Tensor, float]:
    """A whole step, and one in pieces: the trainings, the gradient of the first, and how far that of the second is from it."""
    trainers = [trainer(method, micro_batch=size, **more) for size in (None, piece)]
    for t in trainers:
        steps(t, 1)
    whole, split = (torch.cat([p.grad.flatten() for p in t.model.parameters() if p.grad is not None]) for t in trainers)
    return trainers, whole, float((whole - split).abs().max())


# ---------------------------------------------------------------------------------------------------- LeNet's first layer

Inputs = tuple[Tensor, Tensor, Tensor]


def inputs_of(dtype: torch.dtype, channels: int = 4, size: int = 5, images: int = 3) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    shapes = ((images, 1, 9 + size, 11 + size), (channels, 1, size, size), (channels,))
    x, weight, bias = (torch.randn(shape, dtype=dtype, generator=generator).requires_grad_() for shape in shapes)
    return x, weight, bias


def fast(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return FirstLayer.apply(x, weight, bias)  # type: ignore[no-any-return]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_gradients_against_finite_differences(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the gradient of the gradient."""
    monkeypatch.setattr("bench.models.lenet.PIECE", 2)
    assert torch.autograd.gradcheck(fast, inputs_of(torch.float64, channels=2, size=size))
    if size < 5:
        assert torch.autograd.gradgradcheck(lambda *x: fast(*x).square(), inputs_of(torch.float64, channels=2, size=size, images=1))


@pytest.mark.parametrize("upstream_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weight_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [1, 40, PIECE + 7])
def test_outputs_are_those_of_the_plain_layer_to_the_bit_and_gradients_to_rounding(
    images: int, weight_layout: torch.memory_format, upstream_layout: torch.memory_format
) -> None:
    x, _, _ = inputs_of(torch.float32, images=images)
    layer = nn.Conv2d(1, 20, 5).to(memory_format=weight_layout)
    assert layer.bias is not None
    inputs = (x, layer.weight, layer.bias)
    outputs = [function(*inputs) for function in (fast, first_layer)]
    assert torch.equal(*outputs)
    assert outputs[0].stride() == outputs[1].stride()
    upstream = torch.randn_like(outputs[0]).contiguous(memory_format=upstream_layout)
    ours, theirs = (torch.autograd.grad(output, inputs, upstream) for output in outputs)
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape
        assert float((mine - reference).norm() / reference.norm()) < 5e-6  # float32 sums of 100,000 numbers in another order


def test_gradients_are_exact_where_sums_are() -> None:
    """Whole numbers: no rounding, many equal values in a window, of which the first gets the gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 1, 28, 28), (20, 1, 5, 5), (20,))
    inputs = [torch.randint(-1, 2, shape, generator=generator).float().requires_grad_() for shape in shapes]
    outputs = [function(*inputs) for function in (fast, first_layer)]
    upstream = torch.randint(-3, 4, outputs[0].shape, generator=generator).float()
    for mine, reference in zip(*(torch.autograd.grad(output, inputs, upstream) for output in outputs), strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, True), (False, False, True)])
def test_only_wanted_gradients_are_given(wanted: tuple[bool, ...]) -> None:
    inputs = inputs_of(torch.float32)
    for tensor, needed in zip(inputs, wanted, strict=True):
        tensor.requires_grad_(needed)
    with Calls() as calls:
        torch.autograd.backward(fast(*inputs).sum())
    assert tuple(tensor.grad is not None for tensor in inputs) == wanted
    assert any("convolution_backward" in name for name in calls.names) == any(wanted[1:])
    assert any("aten.mm" in name for name in calls.names) == wanted[0]


def lenet() -> LeNet:
    torch.manual_seed(0)
    return place(LeNet(10), CPU)  # type: ignore[return-value]


def plain_lenet(model: LeNet, x: Tensor) -> Tensor:
    x = F.relu(F.max_pool2d(F.conv2d(x, model.conv1.weight, model.conv1.bias), 2))
    x = F.relu(F.max_pool2d(F.conv2d(x, model.conv2.weight, model.conv2.bias), 2))
    return model.fc2(F.relu(model.fc1(x.flatten(1))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("flat", [False, True], ids=["noisy", "with ties"])
def test_lenet_is_its_plain_layers(flat: bool) -> None:
    """Logits to the bit, in each mode, and input gradients: where an image is flat, the first of equal values in a window gets it."""
    model, x = lenet(), torch.rand(64, 1, 28, 28)
    if flat:
        x[:, :, 4:20, 4:20] = 0.0
    with torch.inference_mode():
        assert torch.equal(model(x), plain_lenet(model, x))
    assert torch.equal(model(x), plain_lenet(model, x))
    x.requires_grad_()
    logits = [f(x) for f in (model, lambda x: plain_lenet(model, x))]
    assert torch.equal(*logits)
    ours, theirs = (torch.autograd.grad(each.logsumexp(1).sum(), x)[0] for each in logits)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-6


# --------------------------------------------------------------------------------------------------------- steps in pieces


@pytest.mark.parametrize("piece", [1, 5, 6])
@each_method
def test_pieces_give_the_gradient_terms_and_draws_of_the_whole_step(name: str, piece: int) -> None:
    trainers, whole, moved = gradients(METHODS[name], piece)
    assert moved < 1e-6 * max(1.0, float(whole.abs().max()))
    assert whole.abs().max() > 1e-3
    assert trainers[1].curve[0] == pytest.approx(trainers[0].curve[0], abs=1e-6)
    assert torch.equal(trainers[0].g.generator.get_state(), trainers[1].g.generator.get_state())


def test_a_last_batch_that_is_short_and_pieces_that_are_too_large() -> None:
    trainers = [trainer(Gaussian(), images=11, batch=4, micro_batch=size) for size in (None, 3, 100)]
    for t in trainers:
        t.run(lambda _: None)
    finals = [weights_of(t) for t in trainers]
    assert torch.equal(finals[0], finals[2])
    assert float((finals[0] - finals[1]).abs().max()) < 1e-6
    assert trainers[1].images == 33


@dataclass(frozen=True, kw_only=True)
class Undeclared(Method):
    """Its loss depends on the whole batch at once."""

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        logits = g.logits(batch.x, g.noise(batch.x))
        return {"spread": logits.mean(1).var()}


@dataclass(frozen=True, kw_only=True)
class Mistaken(Undeclared):
    separable: ClassVar = True


def test_a_loss_that_declares_nothing_is_refused() -> None:
    with pytest.raises(BenchError, match="some does not declare its loss a mean over images"):
        trainer(Undeclared(), micro_batch=4)


@pytest.mark.parametrize(("method", "arch"), [(Mistaken(), "smooth"), (Gaussian(), "normed")], ids=["no mean over images", "batch norm"])
def test_the_comparison_sees_pieces_that_differ(method: Method, arch: str) -> None:
    assert gradients(method, 4, arch=arch)[2] > 1e-4


def test_a_draw_that_cannot_be_cut_is_refused() -> None:
    g = Piecewise(SmoothedClassifier(nn.Identity(), 0.5, torch.Generator()), 6)
    g.take(slice(2, 5))
    assert g.noise(torch.zeros(3, 1, 2, 2), 4).shape == (4, 3, 1, 2, 2)
    with pytest.raises(BenchError, match="a draw for 2 images in a piece of 3"):
        g.noise(torch.zeros(2, 1, 2, 2))


# ------------------------------------------------------------------------------------------- nothing waits for the device


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations that run inside, by name; those whose result the host must wait for are kept in `waits`.

    `.item()`, `float()`, `bool()` and branches on a tensor all read a scalar; a mask as an index counts its entries; lists and
    arrays are copies, which torch makes without an operation on a CPU and so are seen as calls.
    """

    class Copies(TorchFunctionMode):
        def __init__(self, waits: list[str]) -> None:
            self.waits = waits

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(func, "__name__", "") in ("tolist", "numpy", "__array__", "cpu"):
                self.waits.append(func.__name__)
            return func(*args, **(kwargs or {}))

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.waits: list[str] = []
        self.copies = self.Copies(self.waits)

    def __enter__(self) -> Calls:
        self.copies.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self.copies.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        if waits(func, args):
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro_batch", [None, 5])
@each_method
def test_a_step_never_waits_for_the_device(name: str, micro_batch: int | None) -> None:
    t = trainer(METHODS[name], images=36, micro_batch=micro_batch)  # three steps an epoch, whose end reads the curve
    with Calls() as calls:
        steps(t, 2)
    assert len(calls.names) > 100
    assert calls.waits == []


WAITING: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda loss: loss * loss.item() ** 0,
    "float": lambda loss: loss * float(loss.detach()) ** 0,
    "branch": lambda loss: loss if loss > 0 else -loss,
    "tolist": lambda loss: loss * len(loss.reshape(1).tolist()),
    "mask": lambda loss: loss.reshape(1)[loss.reshape(1) > 0].sum(),
    "nonzero": lambda loss: loss * loss.reshape(1).nonzero().shape[1],
}


@dataclass(frozen=True, kw_only=True)
class Waiting(Gaussian):
    how: str

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        return {"cross_entropy": WAITING[self.how](Gaussian.loss(self, g, batch)["cross_entropy"])}


@pytest.mark.parametrize("how", WAITING)
def test_the_count_sees_each_way_of_waiting(how: str) -> None:
    t = trainer(Waiting(how=how), images=36)
    with Calls() as calls:
        steps(t, 2)
    assert len(calls.waits) >= 2


# ----------------------------------------------------------------------------------------------------------------- timing


@pytest.mark.parametrize(("name", "attacks"), [("gaussian", False), ("smoothadv", True)])
def test_the_share_of_the_attack(name: str, attacks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks when it is looked at: a step takes from its 1st to its 4th tick, the attack in it from the 2nd to the 3rd."""
    ticks = itertools.count()
    monkeypatch.setattr("bench.train.stopwatch.now", lambda device: float(next(ticks)))
    t = trainer(METHODS[name], images=36)
    assert t.attack_share is None
    steps(t, 2)
    assert t.attack_share == (1 / 3 if attacks else 0.0)
    assert t.g.mark is None


def test_few_steps_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 step in 10, from the second on."""
    ticks = itertools.count()
    monkeypatch.setattr("bench.train.stopwatch.now", lambda device: float(next(ticks)))
    t = trainer(Gaussian(), images=36, batch=1)
    t.run(lambda _: None)
    assert t.total == 108
    assert next(ticks) == 2 * 11  # steps 2, 12, ..., 102


# -------------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(("precision", "inside"), [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_precision_of_the_passes(precision: str, inside: torch.dtype) -> None:
    """Weights and the logits that a method gets are float32; lower precision changes the result, but not much."""
    t, seen = trainer(METHODS["smoothadv"], precision=precision), list[torch.dtype]()
    t.model[-1].register_forward_hook(lambda module, args, output: seen.append(output.dtype))  # type: ignore[index]
    assert t.g.logits(torch.rand(2, 1, 8, 8)).dtype == torch.float32
    assert seen == [inside]
    t.run(lambda _: None)
    assert {tensor.dtype for tensor in t.model.state_dict().values()} == {torch.float32}
    plain = trainer(METHODS["smoothadv"])
    plain.run(lambda _: None)
    moved = float((weights_of(t) - weights_of(plain)).norm() / weights_of(plain).norm())
    assert 0 < moved < 0.05 if precision != "float32" else moved == 0


def test_float16_scales_the_loss_and_leaves_out_steps_without_a_finite_gradient() -> None:
    t = trainer(Gaussian(), images=36, precision="fp16")
    assert t.scaler is not None
    t.scaler.load_state_dict(t.scaler.state_dict() | {"scale": 2.0**60})  # overflows where a gradient enters float16
    before = weights_of(t).clone()
    steps(t, 2)
    assert torch.equal(before, weights_of(t))
    assert t.scaler.get_scale() == 2.0**58
    other = trainer(Gaussian(), images=36, precision="fp16")
    other.restore(t.state())
    assert other.scaler is not None
    assert other.scaler.get_scale() == 2.0**58


def test_a_loss_without_finite_gradients_in_float16_diverges() -> None:
    t = trainer(Exploding(), images=120, batch=4, precision="fp16")
    with pytest.raises(Diverged, match="no gradient is finite in float16"):
        t.run(lambda _: None)


@dataclass(frozen=True, kw_only=True)
class Exploding(Gaussian):
    """A finite loss whose gradient is infinite at any scale that float16 training goes down to."""

    def loss(self, g: SmoothedClassifier, batch: Batch) -> Terms:
        terms = super().loss(g, batch)
        return terms | {"zero": (terms["cross_entropy"] - terms["cross_entropy"].detach()).abs().sqrt() * 0}


def test_an_attack_in_float16_sees_gradients_that_float16_would_lose() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    g, full = (SmoothedClassifier(network, 0.5, torch.Generator(), reduced=dtype) for dtype in (torch.float16, None))
    x = torch.full((1, 1, 2, 2), 0.5, requires_grad=True)
    (lost,) = torch.autograd.grad(g.logits(x).sum() * 1e-8, x)
    assert not lost.any()
    found, exact = (g.gradient_of_images(g.logits(x).sum() * 1e-8, x) for g in (g, full))
    assert float((found - exact).norm()) < 0.05 * float(exact.norm())
    assert not g.gradient_of_images(g.logits(x).sum() * 1e6, x).any(), "out of range: the image stays"


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(BenchError, match=r"train\.precision=tf32 needs a CUDA device, not cpu"):
        trainer(Gaussian(), precision="tf32")


def test_float32_means_float32_on_cuda_while_training_and_settings_come_back() -> None:
    before, inside = precisions(), set[str]()
    trainer(Gaussian()).run(lambda _: inside.update(precisions()))
    assert inside == {"ieee"}
    assert precisions() == before


# ----------------------------------------------------------------------------------------------------- at the command line

Call = Callable[..., Result]


def test_a_run_in_pieces_says_so_and_shows_its_speed(bench: Call, tiny: Call, tmp_path: Path) -> None:
    result = tiny("--method", "smoothadv", "--sigma", "0.5", "--micro-batch", "5")
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("runs/mnist/*/*")
    assert json.loads((path / "environment.json").read_text())["micro_batch"] == 5
    timing = json.loads((path / "timing.json").read_text())
    assert timing["seconds_per_epoch"] == pytest.approx(64 / timing["images_per_second"])
    assert 0.2 < timing["attack_share"] < 1
    assert 50e6 < timing["peak_memory_bytes"] < 20e9
    shown = bench("show", path, "--results", tmp_path / "runs").output
    for words in ("images/s", "44 pairs/image", "per epoch", "% of it in the attack", "GiB of memory"):
        assert words in shown, words
    (path / "timing.json").write_text('{"training_seconds":100,"images_per_second":7,"pairs_per_image":1}')  # of an earlier release
    assert ", 2 minutes, 7 images/s, 1 pairs/image\n" in bench("show", path, "--results", tmp_path / "runs").output


def test_what_cannot_be_trained_so_is_refused_before_anything_is_written(bench: Call, tmp_path: Path) -> None:
    plugin = tmp_path / "whole.py"
    plugin.write_text(GOOD)
    for words, message in (
        (("--plugin", plugin, "--micro-batch", "4"), "--micro-batch 4: whole does not declare its loss a mean over images"),
        (("--method", "gaussian", "--micro-batch", "0"), "--micro-batch 0 must be at least 1"),
        (("--method", "gaussian", "--set", "train.precision=tf32", "--device", "cpu"), "train.precision=tf32 needs a CUDA device"),
        (("--method", "gaussian", "--set", "train.precision=bf61"), "did you mean 'bf16'?"),
    ):
        result = bench("run", "--protocol", "smoke", "--results", tmp_path / "runs", *words)
        assert result.exit_code == 2, result.output
        assert message in result.output
    assert not (tmp_path / "runs").exists()
