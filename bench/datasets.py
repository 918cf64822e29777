"""Facts of the data sets, without their images: shapes, classes, noise levels, and the paper's recipe for each.

Source of the recipes: SmoothMix (Jeong et al., NeurIPS 2021), Appendix C.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from bench.spec import TrainSpec


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a data set before its images are read.

    Attributes:
        shape: channels, height, width.
        mean, std: per channel, of pixels in [0, 1]; the model's first layer applies them.
        sigmas: the paper's noise levels.
        train: the paper's training with plain SGD switches; see `recipe_train`.
    """

    name: str
    summary: str
    classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_size: int
    test_size: int
    sigmas: tuple[float, ...]
    train: TrainSpec

    def test_labels(self) -> tuple[int, ...]:
        """True classes of the test images, in order; what evidence is checked against.

        Raises:
            BenchError: the files are not the published ones.
        """
        from bench import mnist  # numpy: only where labels are needed

        return mnist.test_labels()


DATASETS: Mapping[str, DatasetInfo] = {
    d.name: d
    for d in (
        DatasetInfo(
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
        ),
    )
}


def recipe_train(info: DatasetInfo, recipe: str, chunks: int) -> TrainSpec:
    """The training of a recipe, apart from the loss.

    The paper and its authors' code differ in three fields of it:
    `nesterov` (Appendix C: Nesterov momentum; code: plain), `lr_lag` (Appendix C: the rate drops at epochs 30 and 60;
    code: one epoch later), `batch` (the paper states none, so 256 for every method; code: a loader batch of 256 cut
    into `chunks` pieces with one optimiser step each).

    Args:
        chunks: pieces that the method's script cuts a loader batch into.
    """
    if recipe == "paper":
        return dataclasses.replace(info.train, nesterov=True, lr_lag=0)
    return dataclasses.replace(info.train, nesterov=False, lr_lag=1, batch=max(1, info.train.batch // chunks))
