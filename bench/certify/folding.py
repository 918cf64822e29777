"""The same function in fewer operations, for inference only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from bench.certify.joining import join

TRACED = ("torch.nn.", "bench.models", "timm.")
"""Packages whose forward passes are traced. A stranger's may do what a trace does not see, so it is left as it is."""
PLAIN_POOL = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}


def fold(base: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode with batch norms folded into the convolutions before them, which moves logits in the
    last bits, and 2x2 max pools as maxima, which does not; on a GPU, convolutions are joined with what follows them. The network itself
    if it cannot be traced.
    """
    if not all(type(module).__module__.startswith(TRACED) for module in base.modules()):
        return base
    try:
        with torch.no_grad():  # networks may take another way where a gradient will be asked for
            folded = fuse(base)
    except Exception:  # whatever tracing raises on a forward that branches on its input
        return base
    assert isinstance(folded, fx.GraphModule)
    for node in list(folded.graph.nodes):
        if node.target is F.max_pool2d and (node.args[1:], node.kwargs) == ((2,), PLAIN_POOL):
            with folded.graph.inserting_after(node):
                maxima = folded.graph.call_function(max_two_by_two, (node.args[0],))
            node.replace_all_uses_with(maxima)
            folded.graph.erase_node(node)
    folded.recompile()
    if any(parameter.is_cuda for parameter in folded.parameters()):
        join(folded, max_two_by_two)
    return folded.eval().to(memory_format=torch.channels_last)


def max_two_by_two(x: Tensor) -> Tensor:
    """`max_pool2d(x, 2)` without the indices that it computes for its gradient: B C H W -> B C H/2 W/2."""
    height, width = (size - size % 2 for size in x.shape[-2:])
    rows = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
