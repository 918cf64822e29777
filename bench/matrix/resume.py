"""What a cell is continued from: checkpoints of an unfinished training, weights of a finished one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.files.writing import sha256
from bench.models import build, place
from bench.store.subject import Subject
from bench.store.work import Work
from bench.train.loop import Trainer


def save(trainer: Trainer, work: Work, seconds: float) -> None:
    """A checkpoint, after so many seconds of training."""
    buffer = io.BytesIO()
    torch.save(trainer.state() | {"seconds": seconds}, buffer)
    work.save_checkpoint(buffer.getvalue())


def read_state(payload: bytes, device: torch.device) -> dict[str, Any]:
    """What `save` wrote."""
    state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True, map_location=device)
    return state


def restore(trainer: Trainer, work: Work, say: Callable[[str], None]) -> tuple[float, Path | None]:
    """Continues from the newest checkpoint that is whole; returns the seconds of training behind it, and which it was.

    Raises:
        BenchError: it was written on another kind of device, or by another release.
    """
    for path, payload in work.checkpoints():
        if payload is None:
            say(f"{path} is damaged and was left out")
            continue
        try:
            state = read_state(payload, trainer.device)
            if len(state["generator"]) != len(trainer.g.generator.get_state()):
                there, here = ("GPU", "CPU") if trainer.device.type == "cpu" else ("CPU", "GPU")
                told = f"{path} was written on a {there}, whose random numbers a {here} cannot continue"
                raise BenchError(f"{told}; finish the training there (--device), or start over with --rerun all")
            trainer.restore(state)
            seconds = float(state["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BenchError(f"{path} is not a checkpoint of this release ({error}); --rerun all starts over") from None
        work.continue_from(path)
        return seconds, path
    return 0.0, None


def load_weights(run: Subject, expected: str, device: torch.device) -> nn.Module:
    """The base classifier of a run, from disk.

    Args:
        expected: SHA-256 of the weights.

    Raises:
        BenchError: no weights, others than expected, or not those of the run's architecture.
    """
    if not run.weights.exists():
        hint = "`bench pull` brings them, --rerun all trains it again"
        raise BenchError(f"{run.path} holds no weights (evidence only), so it cannot be certified further; {hint}")
    found = sha256(run.weights)
    if found != expected:
        raise BenchError(f"{run.weights}: SHA-256 is {found}, but training.json says {expected}; --rerun all trains it again")
    model = build(run.spec.train.arch, DATASETS[run.spec.dataset], 0, run.spec.sigma)
    try:
        model.load_state_dict(safetensors.torch.load_file(run.weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        told = " ".join(str(error).split())[:300]
        raise BenchError(f"{run.weights} does not hold the weights of a {run.spec.train.arch}: {told}") from None
    return place(model, device)
