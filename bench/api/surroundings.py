"""torch's settings and the random generators of the process, put back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from bench.system.guards import SETTINGS


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """At the end of the block torch's settings (threads, gradient mode, deterministic algorithms, precision, default dtype and device) and
    the global random generators of torch, NumPy and Python are as they were at its start."""
    settings = [(read, write, read()) for read, write in SETTINGS.values()]
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the user's generator
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for read, write, value in settings:
            if read() != value:
                write(value)
        if torch.is_deterministic_algorithms_warn_only_enabled() != warns:
            torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=warns)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
