"""SVHN (cropped digits): house numbers from photographs of streets.

Netzer, Wang, Coates, Bissacco, Wu, Ng: "Reading Digits in Natural Images with Unsupervised Feature Learning", 2011.
No smoothing recipe is published for it: those of CIFAR-10 are taken, without the flip, since a mirrored digit is another sign.
"""

import dataclasses

from bench.datasets.known.cifar10 import DATASET as CIFAR10
from bench.datasets.matlab import Matlab
from bench.datasets.source import File

DATASET = dataclasses.replace(
    CIFAR10,
    name="svhn",
    summary="digits of house numbers in photographs, 32x32 colour",
    mean=(0.4377, 0.4438, 0.4728),  # these are in common use
    std=(0.1980, 0.2010, 0.1970),
    train_size=73_257,
    test_size=26_032,
    train=dataclasses.replace(CIFAR10.train, augment="crop"),
    like="cifar10",
    source=Matlab(
        places=(".", "svhn", "SVHN"),
        files=(
            File("train_32x32.mat", "train", "e26dedcc434d2e4c54c9b2d4a06d8373"),
            File("test_32x32.mat", "test", "eb5a983be6a315427106f1b164d9cef3"),
        ),
        torchvision="SVHN",
    ),
    protocols={
        "quick": {"train.arch": "cifar_resnet20", "train.images": "every:15", "certify.images": "every:1300"},
        "smoke": {"train.arch": "cifar_resnet20", "train.images": "every:700", "certify.images": "every:5200"},
    },
)
