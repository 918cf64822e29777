"""The networks of the CIFAR-10 experiments."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from bench.datasets import DatasetInfo


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if (channels_in, 1) != (channels, stride):
            self.downsample = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class CifarResNet(nn.Module):
    """A residual network for 3x32x32 images: a stem of 16 channels, three stages of 16, 32 and 64, average pool, linear.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, with projection shortcuts. Convolutions
    start from N(0, 2 / (k k out)), batch norms as the identity. Modules have the names of the field's checkpoints.

    Args:
        depth: 6 blocks + 2. For 10 classes, depth 20 has 272,474 parameters and depth 110 has 1,730,714.
    """

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        if blocks < 1 or depth != 6 * blocks + 2:
            raise ValueError(f"depth {depth} is not 6 blocks + 2, such as 20 or 110")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # B 16 32 32
        x = self.layer3(self.layer2(self.layer1(x)))  # B 64 8 8
        return self.fc(F.avg_pool2d(x, 8).flatten(1))  # type: ignore[no-any-return]


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (Block(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(Block(channels_in, channels, stride), *rest)


def cifar_resnet(depth: int, info: DatasetInfo) -> CifarResNet:
    """The network of that depth for a data set. BenchError: its images are not 3x32x32."""
    info.check_shape(f"cifar_resnet{depth}", (3, 32, 32))
    return CifarResNet(depth, info.classes)
