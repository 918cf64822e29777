"""The network of the MNIST experiments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


class LeNet(nn.Module):
    """The LeNet of the MNIST experiments: 431,080 parameters for 10 classes, 28x28 grey images, no batch norm.

    Pooling stands before ReLU: the two commute, and the smaller ReLU is faster.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        convolve = GreyConvolution.apply if _attacked_on_cpu(x) else F.conv2d
        x = F.relu(F.max_pool2d(convolve(x, self.conv1.weight, self.conv1.bias), 2))  # B 20 12 12
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # B 50 4 4
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


def _attacked_on_cpu(x: Tensor) -> bool:
    """Whether the gradient of the image will be asked for where `GreyConvolution` is the faster way to it."""
    if not torch.is_grad_enabled():
        return False
    return x.requires_grad and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


class GreyConvolution(torch.autograd.Function):
    """`conv2d` of one input channel, stride 1, no padding, with a fast gradient of the image on a CPU.

    The output is that of `conv2d` to the bit. Its own input gradient, a convolution with one output channel, leaves vector units
    idle and is the slowest operation of an attack. Here one matrix product gives what each output pixel sends to each
    pixel under the kernel, and shifted sums collect it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return F.conv2d(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a gradient of this gradient may be asked for
            inputs = [tensor for tensor, needed in zip((x, weight, bias), wanted, strict=True) if needed]
            found = iter(torch.autograd.grad(F.conv2d(x, weight, bias), inputs, gradient, create_graph=True))
            return tuple(next(found) if needed else None for needed in wanted)

        of_weight = conv2d_weight(x, weight.shape, gradient) if wanted[1] else None  # type: ignore[no-untyped-call]
        of_bias = gradient.sum((0, 2, 3)) if wanted[2] else None
        return _input_gradient(gradient, weight) if wanted[0] else None, of_weight, of_bias


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """B N H W of the output, N 1 k k -> B 1 H+k-1 W+k-1."""
    images, channels, height, width = gradient.shape
    size = weight.shape[-1]
    sent = weight.view(channels, -1).t() @ gradient.permute(0, 2, 3, 1).reshape(-1, channels).t()
    sent = sent.view(size, size, images, height, width)
    total = gradient.new_zeros(images, height + size - 1, width + size - 1)
    for i in range(size):
        for j in range(size):
            total[:, i : i + height, j : j + width] += sent[i, j]
    return total.unsqueeze(1)
