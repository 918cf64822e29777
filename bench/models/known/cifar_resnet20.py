"""ResNet-20 for 3x32x32 images."""

from functools import partial

from bench.models.resnet import cifar_resnet

NETWORK = partial(cifar_resnet, 20)
