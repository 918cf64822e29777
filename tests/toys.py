"""Trainings of seconds on made-up images of 8 x 8 pixels and three classes, for several test files."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import torch

from bench.data import Split
from bench.datasets import DATASETS, DatasetInfo
from bench.method import Method
from bench.spec import RunSpec, TrainSpec
from bench.train.graph import Recorder
from bench.train.loop import Trainer

INFO: DatasetInfo = dataclasses.replace(DATASETS["mnist"], name="toy", shape=(1, 8, 8), classes=3)
CPU = torch.device("cpu")


def plain_spec(dataset: str = "toy", **train: Any) -> RunSpec:
    """Of a method that is handed to the trainer; `train` are fields of TrainSpec."""
    values: dict[str, Any] = {"method": "some", "variant": "default", "hyperparameters": {}, "dataset": dataset, "sigma": 0.5, "seed": 0}
    return RunSpec(**values, recipe="official", protocol="full", train=TrainSpec(**train))


def toy_trainer(method: Method, images: int, *, micro_batch: int | None = None, recorder: Recorder | None = None, **train: Any) -> Trainer:
    """Three epochs; `train` are fields of TrainSpec, of which arch and batch are missing here."""
    pixels = torch.randint(0, 256, (images, *INFO.shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    spec = plain_spec(**{"epochs": 3, "clock": 3, "lr": 0.1, "lr_step": 2, **train})
    return Trainer(spec, method, INFO, Split(pixels, torch.arange(images) % 3, {}), CPU, micro_batch=micro_batch, recorder=recorder)


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """A training's state as one finds it again."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)  # type: ignore[no-any-return]
