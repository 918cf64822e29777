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


def test_lenet_has_431_080_parameters_and_no_batch_norm() -> None:
    model = build("lenet", MNIST, 0)
    assert sum(p.numel() for p in model.parameters()) == 431_080
    assert {name: tuple(p.shape) for name, p in model[1].named_parameters()} == {  # type: ignore[index]
        "conv1.weight": (20, 1, 5, 5),
        "conv1.bias": (20,),
        "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,),
        "fc1.weight": (500, 800),
        "fc1.bias": (500,),
        "fc2.weight": (10, 500),
        "fc2.bias": (10,),
    }
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)


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


def test_normalisation_is_the_first_layer_and_travels_with_the_weights() -> None:
    model = build("test_resnet", COLOUR, 0)
    assert isinstance(model[0], Normalize)  # type: ignore[index]
    state = model.state_dict()
    assert state["0.mean"].flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    assert state["0.std"].flatten().tolist() == pytest.approx([0.2023, 0.1994, 0.2010])
    x = torch.rand(2, 3, 4, 4)
    expected = torch.stack([(x[:, c] - COLOUR.mean[c]) / COLOUR.std[c] for c in range(3)], 1)
    assert torch.allclose(model[0](x), expected, atol=1e-6)  # type: ignore[index]
    assert not list(model[0].parameters())  # type: ignore[index]


def test_mnist_is_not_normalised_but_says_so_in_its_buffers() -> None:
    model = build("lenet", MNIST, 0)
    state = model.state_dict()
    assert (state["0.mean"].item(), state["0.std"].item()) == (0.0, 1.0)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(model[0](x), x)  # type: ignore[index]


def test_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, same, other = build("lenet", MNIST, 5), build("lenet", MNIST, 5), build("lenet", MNIST, 6)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.named_parameters():
        assert torch.equal(tensor, same.get_parameter(name))
        assert not torch.equal(tensor, other.get_parameter(name))
    torch.manual_seed(1)
    assert torch.equal(build("lenet", MNIST, 5).state_dict()["1.fc1.weight"], first.state_dict()["1.fc1.weight"])


def test_seeds_of_64_bits_are_accepted() -> None:
    for seed in (0, 2**63, 2**64 - 1):
        build("lenet", MNIST, seed)


@pytest.mark.parametrize("info", [MNIST, COLOUR], ids=["mnist", "colour"])
def test_a_timm_name_builds(info: DatasetInfo) -> None:
    model = build("test_resnet", info, 0).eval()
    assert model(torch.rand(2, *info.shape)).shape == (2, info.classes)


def test_an_unknown_architecture_names_the_nearest() -> None:
    for arch, near in (("lenett", "lenet"), ("LeNet", "lenet"), ("resnet5O", "resnet50")):
        with pytest.raises(BenchError, match=f"unknown architecture '{arch}'; did you mean '{near}'"):
            check_arch(arch, DATASETS["mnist"])
        with pytest.raises(BenchError, match="unknown architecture"):
            build(arch, MNIST, 0)


def test_an_architecture_nearest_to_nothing_does_not_print_a_thousand_names() -> None:
    with pytest.raises(BenchError) as caught:
        check_arch("???", DATASETS["mnist"])
    assert len(str(caught.value)) < 500


def test_known_architectures_pass() -> None:
    check_arch("lenet", DATASETS["mnist"])
    check_arch("test_resnet", DATASETS["mnist"])


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "inception_v3"])
def test_an_architecture_for_other_images_is_refused(arch: str) -> None:
    with pytest.raises(BenchError, match=f"'{arch}' does not take mnist's images of 1x28x28"):
        check_arch(arch, DATASETS["mnist"])


def test_lenet_refuses_images_of_another_shape() -> None:
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


def test_cifar_resnets_train() -> None:
    model = build("cifar_resnet20", CIFAR, 0)
    model(torch.rand(4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_cifar_resnets_refuse_images_of_another_shape_and_impossible_depths() -> None:
    for depth in (20, 110):
        with pytest.raises(BenchError, match=rf"cifar_resnet{depth} takes images of 3x32x32, but mnist has 1x28x28"):
            check_arch(f"cifar_resnet{depth}", MNIST)
    for depth in (2, 19, 21):
        with pytest.raises(ValueError, match=f"depth {depth} is not 6 blocks"):
            CifarResNet(depth, 10)


def test_resnet50_is_the_one_of_timm() -> None:
    model = build("resnet50", dataclasses.replace(CIFAR, classes=1000), 0)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
