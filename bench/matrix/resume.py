"""What a cell is continued from: checkpoints of an unfinished training, weights of a finished one."""

from __future__ import annotations

import hashlib
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
from bench.files import claims, disk
from bench.files.writing import sha256, write_atomically
from bench.models import build, place
from bench.store.runs import Run, checkpoints
from bench.store.subject import Subject
from bench.train.loop import Trainer


def save(trainer: Trainer, run: Run, seconds: float) -> None:
    """A checkpoint behind its SHA-256; the one before it is kept."""
    buffer = io.BytesIO()
    torch.save(trainer.state() | {"seconds": seconds}, buffer)
    payload = buffer.getvalue()
    if run.checkpoint.exists():
        claims.guard(run.checkpoint)
        run.checkpoint.replace(run.older_checkpoint)
    write_atomically(run.checkpoint, hashlib.sha256(payload).hexdigest().encode() + payload)


def read_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What a checkpoint holds, None if it is damaged."""
    content = disk.read(path)
    digest, payload = content[:64], content[64:]
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(payload), weights_only=True, map_location=device)
    return state


def restore(trainer: Trainer, run: Run, say: Callable[[str], None]) -> tuple[float, Path | None]:
    """Continues from the newest checkpoint that is whole; returns the seconds of training behind it, and which it was."""
    for path in checkpoints(run.path):
        if (state := read_checkpoint(path, trainer.device)) is None:
            say(f"{path} is damaged and was left out")
            continue
        try:
            trainer.restore(state)
            seconds = float(state["seconds"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BenchError(f"{path} is not a checkpoint of this release ({error}); --rerun all starts over") from None
        if path != run.checkpoint:  # the next one to be saved must not push a damaged one over this one
            claims.guard(run.checkpoint)
            run.checkpoint.unlink(missing_ok=True)
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
        raise BenchError(f"{run.path} holds no weights (evidence only), so it cannot be certified further; --rerun all trains it again")
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
