"""Architectures: sizes, initialisation, normalisation inside the model."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets import DATASETS, DatasetInfo
from bench.errors import BenchError
from bench.models import Normalize, build, check_arch
from bench.models.lenet import LeNet
from bench.models.resnet import CifarResNet

MNIST = DATASETS["mnist"]
COLOUR: DatasetInfo = dataclasses.replace(
    MNIST, name="colour", shape=(3, 32, 32), classes=7, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)
)


def test_lenet_has_the_published_shapes_and_no_batch_norm() -> None:
    model = build("lenet", MNIST, 0)
    shapes = [tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")]
    assert shapes == [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]
    assert sum(p.numel() for p in model.parameters()) == 431_080
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def relu_first(model: LeNet, x: Tensor) -> Tensor:
    """The order of facts.md: convolution, ReLU, pooling."""
    x = F.max_pool2d(F.relu(F.conv2d(x, model.conv1.weight, model.conv1.bias)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, model.conv2.weight, model.conv2.bias)), 2)
    x = F.relu(F.linear(x.reshape(len(x), -1), model.fc1.weight, model.fc1.bias))
    return F.linear(x, model.fc2.weight, model.fc2.bias)


def test_pooling_before_relu_is_relu_before_pooling() -> None:
    torch.manual_seed(0)
    model = LeNet(10).double()
    x = torch.randn(8, 1, 28, 28, dtype=torch.float64)
    gradients = []
    outputs = []
    for forward in (model, lambda x: relu_first(model, x)):
        model.zero_grad()
        output = forward(x)
        output.logsumexp(1).sum().backward()
        outputs.append(output.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert (outputs[0] - outputs[1]).abs().max() < 1e-12
    assert (gradients[0] - gradients[1]).abs().max() < 1e-10
    assert gradients[0].any()


@pytest.mark.parametrize(("arch", "info"), [("test_resnet", COLOUR), ("lenet", MNIST)])
def test_normalisation_is_the_first_layer_and_travels_with_the_weights(arch: str, info: DatasetInfo) -> None:
    model = build(arch, info, 0)
    first, state = model[0], model.state_dict()  # type: ignore[index]
    assert isinstance(first, Normalize)
    assert state["0.mean"].flatten().tolist() == pytest.approx(info.mean)
    assert state["0.std"].flatten().tolist() == pytest.approx(info.std)
    x = torch.rand(2, info.shape[0], 4, 4)
    expected = torch.stack([(x[:, c] - info.mean[c]) / info.std[c] for c in range(info.shape[0])], 1)
    assert torch.allclose(first(x), expected, atol=1e-6)
    assert not list(first.parameters())


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    models = [build("lenet", MNIST, seed).state_dict() for seed in (5, 2**64 - 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    again = build("lenet", MNIST, 5).state_dict()
    assert all(torch.equal(tensor, models[0][name]) for name, tensor in again.items())
    assert not torch.equal(again["1.fc1.weight"], models[1]["1.fc1.weight"])


@pytest.mark.parametrize("info", [MNIST, COLOUR], ids=["mnist", "colour"])
def test_a_timm_name_builds(info: DatasetInfo) -> None:
    model = build("test_resnet", info, 0).eval()
    assert model(torch.rand(2, *info.shape)).shape == (2, info.classes)


@pytest.mark.parametrize(
    ("arch", "part"),
    [
        ("lenett", "unknown architecture 'lenett'; did you mean 'lenet'"),
        ("resnet5O", "did you mean 'resnet50'"),
        ("???", "unknown architecture '???'; there are"),
        ("vit_tiny_patch16_224", "does not take mnist's images of 1x28x28"),
        ("inception_v3", "does not take mnist's images of 1x28x28"),
        ("cifar_resnet20", "cifar_resnet20 takes images of 3x32x32, but mnist has 1x28x28"),
        ("cifar_resnet110", "cifar_resnet110 takes images of 3x32x32, but mnist has 1x28x28"),
    ],
)
def test_an_architecture_that_does_not_fit_is_a_short_sentence(arch: str, part: str) -> None:
    for known in ("lenet", "test_resnet"):
        check_arch(known, MNIST)
    with pytest.raises(BenchError) as caught:
        check_arch(arch, MNIST)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(BenchError, match=r"lenet takes images of 1x28x28, but colour has 3x32x32"):
        build("lenet", COLOUR, 0)


# ------------------------------------------------------------------------------------------------------- networks of CIFAR-10

CIFAR: DatasetInfo = dataclasses.replace(COLOUR, classes=10)


@pytest.mark.parametrize(("depth", "parameters"), [(20, 272_474), (110, 1_730_714)])
def test_cifar_resnets_have_the_published_size(depth: int, parameters: int) -> None:
    model = build(f"cifar_resnet{depth}", CIFAR, 0)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == depth + 2  # and two projections
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_cifar_resnets_start_from_the_published_distribution() -> None:
    network = build("cifar_resnet110", CIFAR, 0)[1]  # type: ignore[index]
    for name, size, out in (("layer1.9.conv1", 3, 16), ("layer2.3.conv2", 3, 32), ("layer3.17.conv2", 3, 64)):
        weight = network.get_parameter(f"{name}.weight").detach()
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / (size * size * out)), rel=5 / math.sqrt(2 * weight.numel()))
        assert abs(float(weight.mean())) < 5 * float(weight.std()) / math.sqrt(weight.numel())
        assert network.get_submodule(name).bias is None


def test_cifar_resnets_have_the_names_of_the_fields_checkpoints() -> None:
    """Keys of a checkpoint begin with `1.` (or `1.module.`); what follows is the network's own."""
    names = set(CifarResNet(20, 10).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{part}" for part in norm)}
    for layer in (1, 2, 3):
        for block in range(3):
            for number in (1, 2):
                stem = f"layer{layer}.{block}"
                expected |= {f"{stem}.conv{number}.weight", *(f"{stem}.bn{number}.{part}" for part in norm)}
        if layer > 1:
            expected |= {f"layer{layer}.0.downsample.0.weight", *(f"layer{layer}.0.downsample.1.{part}" for part in norm)}
    assert names == expected
    given = build("cifar_resnet20", CIFAR, 3)
    checkpoint = {f"1.module.{name}": tensor for name, tensor in given[1].state_dict().items()}  # type: ignore[index]
    model = build("cifar_resnet20", CIFAR, 4)
    model.load_state_dict({name.replace("1.module.", "1."): tensor for name, tensor in checkpoint.items()}, strict=False)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.eval()(x), given.eval()(x))


def by_formula(state: dict[str, Tensor], x: Tensor, depth: int) -> Tensor:
    """He et al.'s network from its weights alone: evaluation mode, float64."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp_min(0)
    for layer, block in ((layer, block) for layer in (1, 2, 3) for block in range((depth - 2) // 6)):
        stem, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
        out = norm(F.conv2d(x, state[f"{stem}.conv1.weight"], stride=stride, padding=1), f"{stem}.bn1").clamp_min(0)
        out = norm(F.conv2d(out, state[f"{stem}.conv2.weight"], padding=1), f"{stem}.bn2")
        if stride == 2:
            x = norm(F.conv2d(x, state[f"{stem}.downsample.0.weight"], stride=2), f"{stem}.downsample.1")
        x = (out + x).clamp_min(0)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("depth", [8, 20])
def test_cifar_resnets_are_the_published_function(depth: int) -> None:
    torch.manual_seed(0)
    model = CifarResNet(depth, 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor, 0.5, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    model = model.double().eval()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(model(x), by_formula(dict(model.state_dict()), x, depth), rtol=1e-9)


@pytest.mark.parametrize("depth", [2, 19, 21])
def test_cifar_resnets_refuse_impossible_depths(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth} is not 6 blocks"):
        CifarResNet(depth, 10)


def test_resnet50_is_the_one_of_timm() -> None:
    model = build("resnet50", dataclasses.replace(CIFAR, classes=1000), 0)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
