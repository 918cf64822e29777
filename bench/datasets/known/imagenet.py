"""ImageNet (ILSVRC 2012): photographs of 1,000 classes; the validation images are the test images.

Recipe: SmoothMix (Jeong et al., NeurIPS 2021), Appendix C. The published tables certify every 100th of the 50,000 images, ordered by
class folder and file name.
"""

from bench.datasets.info import DatasetInfo
from bench.datasets.tree import ImageTree
from bench.spec import TrainSpec

DATASET = DatasetInfo(
    name="imagenet",
    summary="photographs of 1,000 classes, 224x224; a tree of train/CLASS/*.JPEG and val/CLASS/*.JPEG",
    classes=1000,
    shape=(3, 224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    train_size=1_281_167,
    test_size=50_000,
    sigmas=(0.5, 1.0),
    train=TrainSpec(arch="resnet50", epochs=90, clock=90, batch=256, lr=0.1, lr_step=30, augment="resized-crop-flip"),
    source=ImageTree(
        places=(".", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"),
        class_name=r"n\d{8}",
        classes=1000,
        test_per_class=50,
        by_hand="image-net.org gives it to those who register",
    ),
    # On a CPU even this shows no more than that everything runs.
    protocols={
        "full": {"certify.images": "every:100"},
        "quick": {"train.arch": "resnet18", "train.images": "every:500", "certify.images": "every:5000", "certify.n": 1000},
        "smoke": {"train.arch": "test_resnet", "train.images": "every:20000", "certify.images": "every:10000", "certify.n": 200},
    },
)
