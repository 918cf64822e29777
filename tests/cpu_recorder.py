"""Records work on the CPU as a CUDA graph does it on a card: a replay is the operators that ran, on the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.train.graph import Unrecordable, Work, no_host_draws

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.", "repeat_interleave.Tensor")


def waits(func: Any, args: Any) -> bool:
    """Whether a GPU must finish for the operator's result, which a capture does not allow."""
    name = str(func)
    if name.startswith(("aten.index.", "aten.index_put")):  # by a mask: of a shape that only the device knows
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return any(word in name for word in WAITS)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps each operator with its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits(func, args):
            raise RuntimeError(f"{func.overloadpacket.__name__}: operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = {tensor.untyped_storage().data_ptr() for tensor in tensors((args, kwargs))}
        new = [(place, leaf) for place, leaf in enumerate(tensors(result)) if leaf.untyped_storage().data_ptr() not in given]
        self.calls.append((func, args, kwargs, new))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, new in self.calls:
            result = tensors(func(*args, **kwargs))
            for place, target in new:  # views and what was changed in place are where they were
                target.detach().copy_(result[place])


class CpuRecorder:
    """A recorder whose recordings can be counted.

    Args:
        state: all tensors that the work may change. A capture changes none, so they are put back after the work was recorded.
    """

    def __init__(self, state: Callable[[], Iterator[Tensor]]) -> None:
        self.state = state
        self.recordings = self.replays = 0

    def record(self, work: Work, generator: torch.Generator) -> Work:
        before = [(tensor, tensor.detach().clone()) for tensor in self.state()]
        drawn = generator.get_state()
        operators = _Operators()
        try:
            with no_host_draws(), operators:
                work()
        except Exception as error:
            raise error if isinstance(error, Unrecordable) else Unrecordable(f"{type(error).__name__}: {error}") from error
        finally:
            generator.set_state(drawn)
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
        self.recordings += 1

        def replay() -> None:
            self.replays += 1
            operators.replay()

        return replay
