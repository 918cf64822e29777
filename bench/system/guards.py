"""What can go wrong with a cell, by kind, and what a method must not change in the process that runs it."""

from __future__ import annotations

import contextlib
import errno
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bench.errors import BenchError
from bench.system.environment import precisions, set_precisions

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
        _put_back(before)


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """At the end of the block torch's settings (threads, gradient mode, deterministic algorithms, precision, default dtype and device) and
    the global random generators of torch, NumPy and Python are as they were at its start."""
    settings, warns = _settings(), torch.is_deterministic_algorithms_warn_only_enabled()
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the user's generator
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        _put_back(settings)
        if torch.is_deterministic_algorithms_warn_only_enabled() != warns:
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=warns)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _put_back(settings: dict[str, Any]) -> None:
    for name, (read, write) in SETTINGS.items():
        if read() != settings[name]:
            write(settings[name])


def _settings() -> dict[str, Any]:
    return {name: read() for name, (read, _) in SETTINGS.items()}


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _flushes_subnormals() -> bool:
    return sys.float_info.min / 2 == 0.0  # torch can set it only


def _uses_mkldnn() -> bool:
    return bool(torch.backends.mkldnn.enabled)


def _use_mkldnn(enabled: bool) -> None:
    torch.backends.mkldnn.enabled = enabled  # type: ignore[assignment]


def _cudnn() -> tuple[bool, bool, bool]:
    return torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic


def _set_cudnn(values: tuple[bool, bool, bool]) -> None:
    torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = values


def _generators() -> dict[str, Any]:
    numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - what a method must not use
    inside = numpy["state"]
    return {"Python": random.getstate(), "NumPy": (inside["key"].tobytes(), inside["pos"])}


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "thread count": (torch.get_num_threads, torch.set_num_threads),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "default device": (torch.get_default_device, _set_default_device),
    "float32 matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "precision of float32 products": (precisions, set_precisions),  # after the one before, which changes it too
    "use of oneDNN": (_uses_mkldnn, _use_mkldnn),
    "use of cuDNN": (_cudnn, _set_cudnn),
    "flushing of subnormal numbers": (_flushes_subnormals, torch.set_flush_denormal),
}
"""How torch's global settings are read and put back. All decide bits of the weights."""
