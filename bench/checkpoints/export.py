"""A run's weights in the layout of the field's checkpoints."""

from __future__ import annotations

import io

import torch

from bench.checkpoints.load import Base
from bench.spec import RunSpec

DATA_PARALLEL = ("imagenet",)  # data sets whose networks the field wraps in DataParallel, so that its loaders ask for those names


def field_checkpoint(base: Base, spec: RunSpec) -> bytes:
    """A file of `torch.save`: `epoch`, `arch`, and `state_dict` with names `1.*` (`1.module.*` for ImageNet).

    As in the field's own, the normalisation is not in it. There is no `optimizer`: its state ends with the training, and a loader
    that goes on with a training should not find an empty one.
    """
    prefix = "1.module." if spec.dataset in DATA_PARALLEL else "1."
    state = {f"{prefix}{name}": tensor.contiguous() for name, tensor in base.model[1].state_dict().items()}
    file = io.BytesIO()
    torch.save({"epoch": spec.train.epochs, "arch": base.arch, "state_dict": state}, file)
    return file.getvalue()
