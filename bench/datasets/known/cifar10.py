"""CIFAR-10: small colour photographs.

Recipe: SmoothMix (Jeong et al., NeurIPS 2021), Appendix C.
"""

from bench.datasets.info import DatasetInfo
from bench.datasets.pickled import Pickled
from bench.datasets.source import File
from bench.spec import TrainSpec

DATASET = DatasetInfo(
    name="cifar10",
    summary="small colour photographs, 32x32",
    classes=10,
    shape=(3, 32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    train_size=50_000,
    test_size=10_000,
    sigmas=(0.25, 0.5, 1.0),
    train=TrainSpec(arch="cifar_resnet110", epochs=150, clock=150, batch=256, lr=0.1, lr_step=50, augment="crop-flip"),
    source=Pickled(
        places=("cifar-10-batches-py", ".", "cifar10/cifar-10-batches-py"),
        files=(
            File("data_batch_1", "train", "c99cafc152244af753f735de768cd75f"),
            File("data_batch_2", "train", "d4bba439e000b95fd0a9bffe97cbabec"),
            File("data_batch_3", "train", "54ebc095f3ab1f0389bbae665268c751"),
            File("data_batch_4", "train", "634d18415352ddfa80567beed471001a"),
            File("data_batch_5", "train", "482c414d41f54cd18b22e5b47cb7c3cb"),
            File("test_batch", "test", "40351d587109b95175f43aff81a1287e"),
        ),
        torchvision="CIFAR10",
    ),
    # On two CPU cores ResNet-110 takes days; a smaller network of its family and fewer images take minutes or seconds.
    protocols={
        "quick": {"train.arch": "cifar_resnet20", "train.images": "every:10", "certify.images": "every:500"},
        "smoke": {"train.arch": "cifar_resnet20", "train.images": "every:500", "certify.images": "every:2000"},
    },
)
