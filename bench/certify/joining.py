"""Convolution, shortcut and ReLU in one kernel, for inference on a GPU."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

HALVES = (torch.float16, torch.bfloat16)
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
RELUS = (F.relu, torch.relu, "relu", "relu_")
_plain: set[tuple[Any, ...]] = set()
"""Convolutions that cuDNN does not join with what follows."""


def join(graph: fx.GraphModule, pool: Any) -> None:
    """Rewrites conv, conv + pool and conv + shortcut, where a ReLU follows, as calls of `conv_relu`, in place.

    The ReLU goes before the pool, which is a maximum, so that the result is the same to the bit.

    Args:
        pool: the function that stands for a max pool.
    """
    modules = dict(graph.named_modules())
    for relu in list(graph.graph.nodes):
        if not _is_relu(relu, modules):
            continue
        source, pooled, shortcut = relu.args[0], None, None
        between = source
        if source.target is pool and _only(source):
            pooled, source = source, source.args[0]
        elif source.target in ADDITIONS and _only(source) and len(source.args) == 2 and not source.kwargs:
            first, second = source.args
            if _conv_of(first, modules) and _only(first):
                source, shortcut = first, second
            elif source.target in (operator.add, torch.add, "add") and _conv_of(second, modules) and _only(second):
                source, shortcut = second, first
        conv = _conv_of(source, modules)
        if conv is None or not _only(source) or not (shortcut is None or isinstance(shortcut, fx.Node)):
            continue
        with graph.graph.inserting_before(relu):
            x, (weight, bias), numbers = conv
            words = [graph.graph.get_attr(name) if isinstance(name, str) else name for name in (weight, bias)]
            joined = graph.graph.call_function(conv_relu, (x, *words, shortcut, *numbers))
            if pooled is not None:
                joined = graph.graph.call_function(pool, (joined,))
        relu.replace_all_uses_with(joined)
        for node in dict.fromkeys((relu, between, source)):
            graph.graph.erase_node(node)
    graph.recompile()


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shortcut: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """relu(conv2d(x) + shortcut): B C H W -> B D h w. In float16 and bfloat16 on a GPU one kernel, where cuDNN has it."""
    if x.is_cuda and x.dtype in HALVES:
        kind = (x.dtype, *weight.shape, *stride, *padding, *dilation, shortcut is None, x.is_contiguous())
        if kind not in _plain:
            try:
                if shortcut is None:
                    return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
                return torch.cudnn_convolution_add_relu(x, weight, shortcut, 1.0, bias, stride, padding, dilation, 1)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                _plain.add(kind)
    found = F.conv2d(x, weight, bias, stride, padding, dilation)
    return (found if shortcut is None else found + shortcut).relu_()


def _only(node: fx.Node) -> bool:
    return len(node.users) == 1


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    return node.target in RELUS or (node.op == "call_module" and type(modules[str(node.target)]) is nn.ReLU)


_Conv = tuple[fx.Node, tuple[Any, Any], tuple[Any, Any, Any]]


def _conv_of(node: Any, modules: dict[str, nn.Module]) -> _Conv | None:
    """Input, weight and bias, and stride, padding and dilation of a plain convolution; None of anything else."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "call_module" and type(conv := modules[str(node.target)]) is nn.Conv2d:
        if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str) or len(node.args) != 1:
            return None
        bias = f"{node.target}.bias" if conv.bias is not None else None
        return node.args[0], (f"{node.target}.weight", bias), (conv.stride, conv.padding, conv.dilation)  # type: ignore[return-value]
    if node.target is F.conv2d and len(node.args) == 3 and not node.kwargs:
        return node.args[0], (node.args[1], node.args[2]), ((1, 1), (0, 0), (1, 1))  # type: ignore[return-value]
    return None
