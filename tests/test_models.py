"""Architectures: sizes, initialisation, normalisation inside the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets import DATASETS, DatasetInfo
from bench.errors import BenchError
from bench.models import LeNet, Normalize, build, check_arch

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
