"""The network of the MNIST experiments."""

from bench.datasets import DatasetInfo
from bench.models.lenet import LeNet


def lenet(info: DatasetInfo) -> LeNet:
    info.check_shape("lenet", (1, 28, 28))
    return LeNet(info.classes)


NETWORK = lenet
