"""MNIST: handwritten digits, which ship with the package.

Recipe: SmoothMix (Jeong et al., NeurIPS 2021), Appendix C.
"""

from bench.datasets.idx import Shipped, four_files
from bench.datasets.info import DatasetInfo
from bench.spec import TrainSpec

DATASET = DatasetInfo(
    name="mnist",
    summary="handwritten digits, 28x28 grey; ships with the package",
    classes=10,
    shape=(1, 28, 28),
    mean=(0.0,),
    std=(1.0,),
    train_size=60_000,
    test_size=10_000,
    sigmas=(0.25, 0.5, 1.0),
    train=TrainSpec(arch="lenet", epochs=90, clock=90, batch=256, lr=0.01, lr_step=30),
    source=Shipped(
        places=("mnist",),
        files=four_files(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
    ),
)
