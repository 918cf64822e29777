"""What can go wrong with a cell, by kind, and what a method must not change in the process that runs it."""

from __future__ import annotations

import contextlib
import errno
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bench.errors import BenchError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
DRAWS = 3
"""Checks in a row that find a global generator moved, before the method is blamed: a thread of a library may draw now and then."""
NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory")


def kind_of(error: BaseException) -> str:
    """oom, disk or error."""
    if out_of_memory(error):
        return "oom"
    return "disk" if isinstance(error, OSError) and error.errno in DISK else "error"


def out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine or of a GPU did not suffice; torch has a class for the latter, a message for the former."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


@contextlib.contextmanager
def settings_kept() -> Iterator[Callable[[], None]]:
    """torch's global settings, which cells that share a process share, are put back at the end of the block.

    Yields:
        a check that raises BenchError where one differs from its value at the start, or where every step draws from a global generator
        of Python or NumPy: no seed decides what comes of it. (Torch's is seeded by the trainer.)
    """
    before = _settings()
    drawn, in_a_row = _generators(), Counter[str]()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    wanted = _settings()

    def check() -> None:
        for name, value in _settings().items():
            if value != wanted[name]:
                raise BenchError(f"the method changed torch's {name} from {wanted[name]} to {value}, which other cells would inherit")
        for name, state in _generators().items():
            in_a_row[name] = 0 if state == drawn[name] else in_a_row[name] + 1
            drawn[name] = state
            if in_a_row[name] == DRAWS:
                raise BenchError(
                    f"the training drew from {name}'s global random generator; draw from g.noise and g.uniform, which have a seed"
                )

    try:
        yield check
    finally:
        torch.set_default_dtype(before["default dtype"])
        torch.set_grad_enabled(before["gradient mode"])
        torch.use_deterministic_algorithms(before["deterministic algorithms"])
        if torch.get_num_threads() != before["thread count"]:
            torch.set_num_threads(before["thread count"])
        if torch.get_default_device() != before["default device"]:
            torch.set_default_device(None if before["default device"].type == "cpu" else before["default device"])


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "thread count": torch.get_num_threads(),
        "gradient mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default device": torch.get_default_device(),
    }


def _generators() -> dict[str, Any]:
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - what a method must not use
    inside = numpy["state"]
    return {"Python": random.getstate(), "NumPy": (inside["key"].tobytes(), inside["pos"])}
