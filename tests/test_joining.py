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
from bench.models import build

COLOUR = dataclasses.replace(DATASETS["mnist"], name="colour", shape=(3, 64, 64), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def joined(graph: fx.GraphModule) -> int:
    return sum(node.target is conv_relu for node in graph.graph.nodes)


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("lenet", 2), ("cifar_resnet20", 19), ("resnet18", 9), ("resnet50", 33), ("mobilenetv3_small_100", 9)],
)
def test_logits_are_the_same_to_the_bit(arch: str, expected: int) -> None:
    info = DATASETS["mnist"] if arch == "lenet" else dataclasses.replace(COLOUR, shape=(3, 32, 32)) if "cifar" in arch else COLOUR
    model = build(arch, info, 0)
    x = torch.rand(2, *info.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(x)
    folded = fold(model.eval())
    assert isinstance(folded, fx.GraphModule)
    with torch.inference_mode():
        before = folded(x)
        join(folded, max_two_by_two)
        assert joined(folded) == expected
        assert torch.equal(folded(x), before)


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


@pytest.mark.parametrize("convolution", [{"groups": 2}, {"padding_mode": "circular"}])
def test_other_convolutions_are_left_alone(convolution: dict[str, Any]) -> None:
    check(Written(lambda m, s, y: torch.relu(y), **convolution), 0)


@pytest.mark.parametrize("convolution", [{"bias": False}, {"stride": 2}, {"dilation": 2}])
def test_a_convolution_keeps_its_numbers(convolution: dict[str, Any]) -> None:
    check(Written(lambda m, s, y: torch.relu(y), **convolution), 1)


def check(model: nn.Module, count: int) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    graph = fx.symbolic_trace(model.eval())
    with torch.inference_mode():
        expected = model(x)
        join(graph, max_two_by_two)
        assert joined(graph) == count
        assert torch.equal(graph(x), expected)
