"""The network of the MNIST experiments."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE = 128
"""Images whose first layer is computed at once, so that its large output is used while it is in the cache."""


class LeNet(nn.Module):
    """The LeNet of the MNIST experiments: 431,080 parameters for 10 classes, 28x28 grey images, no batch norm.

    Pooling stands before ReLU: the two commute, and the smaller ReLU is faster. Where a CPU computes gradients, the first layer is
    `FirstLayer`.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        layer = FirstLayer.apply if _wants_cpu_gradients(x) else first_layer
        x = layer(x, self.conv1.weight, self.conv1.bias)  # B 20 12 12
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # B 50 4 4
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


def first_layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of a grey image, 2x2 max-pooling, ReLU: B 1 H W -> B N h w."""
    return F.relu(F.max_pool2d(F.conv2d(x, weight, bias), 2))


def _wants_cpu_gradients(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class FirstLayer(torch.autograd.Function):
    """`first_layer`, with faster gradients on a CPU: the same output, gradients equal to rounding.

    The output of the convolution is by far the largest tensor of the network. It is made and used in pieces that fit a cache, and only
    the places of the maxima are kept. The gradient of the image is that of a convolution with one output channel, which
    leaves vector units idle and is the slowest operation of an attack; here it is a matrix product, see `_input_gradient`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        pooled, places = zip(
            *(F.max_pool2d(F.conv2d(part, weight, bias), 2, return_indices=True) for part in torch.split(x, PIECE)), strict=True
        )
        out = torch.cat(pooled).relu_()
        ctx.save_for_backward(x, weight, bias, out, *places)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, out, *places = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a gradient of this gradient may be asked for
            inputs = [tensor for tensor, needed in zip((x, weight, bias), wanted, strict=True) if needed]
            found = iter(torch.autograd.grad(first_layer(x, weight, bias), inputs, gradient, create_graph=True))
            return tuple(next(found) if needed else None for needed in wanted)

        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)  # that of ReLU
        of_image, of_weight, of_bias = [], torch.zeros_like(weight), torch.zeros_like(bias)
        for part, at, place in zip(torch.split(x, PIECE), torch.split(gradient, PIECE), places, strict=True):
            spread = _unpool(at, place, part, weight.shape[-1])  # b N H-k+1 W-k+1
            if wanted[1] or wanted[2]:
                _, more_weight, more_bias = _parameter_gradients(spread, part, weight)
                of_weight += more_weight
                of_bias += more_bias
            if wanted[0]:
                of_image.append(_input_gradient(spread, weight))
        return torch.cat(of_image) if wanted[0] else None, of_weight if wanted[1] else None, of_bias if wanted[2] else None


def _unpool(gradient: Tensor, places: Tensor, image: Tensor, size: int) -> Tensor:
    """The gradient of the maxima, at their places in the output of the convolution."""
    shape = (*gradient.shape[:2], *(side - size + 1 for side in image.shape[2:]))
    like = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=_layout(gradient))  # read for its shape only
    spread: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(gradient, like, [2, 2], [2, 2], [0, 0], [1, 1], False, places)
    return spread


def _parameter_gradients(gradient: Tensor, image: Tensor, weight: Tensor) -> tuple[None, Tensor, Tensor]:
    # torch.nn.grad.conv2d_weight has no weight to see the layout of, and is slower for it.
    plain = ([weight.shape[0]], [1, 1], [0, 0], [1, 1], False, [0, 0], 1)  # sizes of the bias, stride, padding, dilation, ...
    result: tuple[None, Tensor, Tensor] = torch.ops.aten.convolution_backward(gradient, image, weight, *plain, [False, True, True])
    return result


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """That of a convolution of one channel, stride 1, no padding: b N H W, N 1 k k -> b 1 H+k-1 W+k-1.

    One matrix product gives what each output sends to each pixel under the kernel; shifted sums collect it.
    """
    images, channels, height, width = gradient.shape
    size = weight.shape[-1]
    sent = weight.view(channels, -1).t() @ gradient.permute(0, 2, 3, 1).reshape(-1, channels).t()
    sent = sent.view(size, size, images, height, width)
    total = gradient.new_zeros(images, height + size - 1, width + size - 1)
    for i in range(size):
        for j in range(size):
            total[:, i : i + height, j : j + width] += sent[i, j]
    return total.unsqueeze(1)
