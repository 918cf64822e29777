"""The network of the MNIST experiments."""

import torch.nn.functional as F
from torch import Tensor, nn


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
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # B 20 12 12
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # B 50 4 4
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]
