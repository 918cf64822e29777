"""The flags that say on what, and in what arithmetic, a cell is trained: short forms of `--set train.NAME=...`."""

from __future__ import annotations

from typing import Annotated

from bench.cli.command import CLUSTERS, TRAINING, option, switch
from bench.errors import nearest

Devices = Annotated[
    int | None, option("--devices-per-cell", "N", "Devices that train and certify one cell together; part of the run's key.", CLUSTERS)
]
Precision = Annotated[
    str | None,
    option(
        "--precision",
        "NAME",
        "Precision of the training: 32, bf16, 16 or tf32; part of the run's key. Certification is always float32.",
        TRAINING,
    ),
]
SyncBatchnorm = Annotated[bool, switch("--sync-batchnorm", "Compute batch norm over all devices of a cell (CUDA).", CLUSTERS)]

PRECISIONS = {"32": "float32", "bf16": "bf16", "16": "fp16", "tf32": "tf32"}
"""Words of --precision, and what a spec calls them; it takes the latter as well."""


def training_changes(devices: int | None, precision: str | None, sync_batchnorm: bool, wanted: dict[str, str], problems: list[str]) -> None:
    """Adds what the flags say to the changes that --set asks for; a contradiction between the two is a problem."""
    if precision is not None and precision not in (*PRECISIONS, *PRECISIONS.values()):
        problems.append(f"--precision {precision} is unknown{nearest(precision, PRECISIONS)}")
        precision = None
    flags = {
        "train.devices": ("--devices-per-cell", None if devices is None else str(devices)),
        "train.precision": ("--precision", None if precision is None else PRECISIONS.get(precision, precision)),
        "train.sync_batchnorm": ("--sync-batchnorm", "true" if sync_batchnorm else None),
    }
    for name, (flag, value) in flags.items():
        if value is not None and wanted.setdefault(name, value) != value:
            problems.append(f"{flag} says {name}={value}, but --set says {name}={wanted[name]}")
