"""CIFAR-100: as CIFAR-10, with 100 classes.

No smoothing recipe is published for it: those of CIFAR-10 are taken.
"""

import dataclasses

from bench.datasets.known.cifar10 import DATASET as CIFAR10
from bench.datasets.pickled import Pickled
from bench.datasets.source import File

DATASET = dataclasses.replace(
    CIFAR10,
    name="cifar100",
    summary="small colour photographs of 100 classes, 32x32",
    classes=100,
    mean=(0.5071, 0.4865, 0.4409),  # these are in common use
    std=(0.2673, 0.2564, 0.2762),
    like="cifar10",
    source=Pickled(
        places=("cifar-100-python", ".", "cifar100/cifar-100-python"),
        files=(
            File("train", "train", "16019d7e3df5f24257cddd939b257f8d"),
            File("test", "test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
        ),
        label_key="fine_labels",
        torchvision="CIFAR100",
    ),
)
