"""Fashion-MNIST: pictures of clothes in the format of MNIST.

Xiao, Rasul, Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017.
No smoothing recipe is published for it: those of MNIST are taken.
"""

import dataclasses

from bench.datasets.idx import Idx, four_files
from bench.datasets.known.mnist import DATASET as MNIST

DATASET = dataclasses.replace(
    MNIST,
    name="fashion-mnist",
    summary="clothes, 28x28 grey, in the format of MNIST",
    like="mnist",
    source=Idx(
        # The last is the folder of Debian's package dataset-fashion-mnist, below /usr/share/datasets.
        places=(".", "FashionMNIST/raw", "fashion-mnist"),
        files=four_files(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        torchvision="FashionMNIST",
    ),
)
