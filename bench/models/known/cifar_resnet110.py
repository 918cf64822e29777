"""ResNet-110 for 3x32x32 images, the network of the CIFAR-10 experiments."""

from functools import partial

from bench.models.resnet import cifar_resnet

NETWORK = partial(cifar_resnet, 110)
