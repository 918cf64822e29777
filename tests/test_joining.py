"""Convolutions joined with what follows them: the same function, however a network is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bench.certify.folding import fold, max_two_by_two
from bench.certify.joining import conv_relu, join
from bench.datasets import DATASETS
from bench.models import build, place

COLOUR = dataclasses.replace(DATASETS["mnist"], name="colour", shape=(3, 64, 64), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def joined(graph: fx.GraphModule) -> int:
    return sum(node.target is conv_relu for node in graph.graph.nodes)


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("lenet", 2), ("cifar_resnet20", 19), ("resnet18", 9), ("resnet50", 33), ("mobilenetv3_small_100", 9)],
)
def test_fewer_operations_are_the_same_function(arch: str, expected: int) -> None:
    """Folding moves logits by rounding, where there is batch norm; joining moves no bit."""
    info = DATASETS["mnist"] if arch == "lenet" else dataclasses.replace(COLOUR, shape=(3, 32, 32)) if "cifar" in arch else COLOUR
    model = place(build(arch, info, 0), torch.device("cpu"))
    x = torch.rand(2, *info.shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        model(x)
    folded = fold(model.eval())
    assert isinstance(folded, fx.GraphModule)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == (arch != "lenet"), "the network itself is as it was"
    assert not any(type(module) is nn.BatchNorm2d for module in folded.modules())
    with torch.inference_mode():
        plain, before = model(x), folded(x)
        moved = float((plain - before).abs().max() / plain.abs().max())
        assert moved < 1e-4, moved
        assert moved > 0 or "res" not in arch
        join(folded, max_two_by_two)
        assert joined(folded) == expected
        assert torch.equal(folded(x), before)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_maxima_are_the_pool(size: tuple[int, int]) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, *size).contiguous(memory_format=layout)
        assert torch.equal(max_two_by_two(x), F.max_pool2d(x, 2))


class Written(nn.Module):
    """One convolution and what some network does with its output."""

    def __init__(self, rest: Callable[[nn.Module, Tensor, Tensor], Tensor], **convolution: Any) -> None:
        super().__init__()
        self.conv, self.rest = nn.Conv2d(4, 4, 3, padding=1, **convolution), rest

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x * 2
        return self.rest(self, shortcut, self.conv(x))


@pytest.mark.parametrize(
    ("count", "rest"),
    [
        (1, lambda m, s, y: F.relu(y)),
        (1, lambda m, s, y: y.relu_()),
        (1, lambda m, s, y: torch.relu(s + y)),
        (1, lambda m, s, y: torch.relu(y.add_(s)) + s),
        (0, lambda m, s, y: torch.relu(s.add_(y)) + s),  # the shortcut itself is changed, and used again
        (0, lambda m, s, y: torch.relu(y) + y),  # the output has another user
        (0, lambda m, s, y: torch.relu(torch.add(y, s, alpha=2))),
        (0, lambda m, s, y: torch.relu(y + 1)),
        (0, lambda m, s, y: torch.relu(y * s)),
        (0, lambda m, s, y: torch.sigmoid(y)),
    ],
)
def test_only_what_is_the_same_is_joined(count: int, rest: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
    check(Written(rest), count)


@pytest.mark.parametrize(
    ("convolution", "count"),
    [({"groups": 2}, 0), ({"padding_mode": "circular"}, 0), ({"bias": False}, 1), ({"stride": 2}, 1), ({"dilation": 2}, 1)],
)
def test_a_convolution_keeps_its_numbers_or_is_left_alone(convolution: dict[str, Any], count: int) -> None:
    model = Written(lambda m, s, y: torch.relu(y), **convolution)
    check(model, count)
    assert fold(model.eval()) is model, "a stranger's forward, which a trace might not see through"


def check(model: nn.Module, count: int) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = fx.symbolic_trace(model.eval())
    with torch.inference_mode():
        expected = model(x)
        join(graph, max_two_by_two)
        assert joined(graph) == count
        assert torch.equal(graph(x), expected)
