"""The processes that train one model together, joined by Lightning Fabric."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from bench.errors import BenchError

WAIT = timedelta(minutes=10)
"""For the other processes to come to a sum; a helper that dies is noticed before, one that hangs is not."""
LOOPBACK = "127.0.0.1"
INTERFACE = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that say on which network interface a library listens."""


class Lost(BenchError):
    """The connection to another process of the group broke."""


class Group:
    """The processes that compute each training step together, as one of them sees them.

    Args:
        rank: this process; 0 is the one that keeps the results. size: how many there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over all processes, in one reduction. All float32, in the same order everywhere."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        _reduce(flat, torch.distributed.ReduceOp.SUM)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    @torch.no_grad()
    def agree(self, model: nn.Module) -> None:
        """BenchError if the processes do not hold the same weights, bit for bit."""
        state = model.state_dict()
        sums = torch.stack([tensor.contiguous().view(-1).view(torch.uint8).sum(dtype=torch.int64) for tensor in state.values()])
        both = torch.cat([sums, -sums])
        _reduce(both, torch.distributed.ReduceOp.MAX)
        if wrong := [name for name, differs in zip(state, (both[: len(sums)] + both[len(sums) :]).tolist(), strict=True) if differs]:
            raise BenchError(
                f"after the last step the {self.size} processes hold other values of {wrong[0]}, so one of them computed wrongly"
            )


def _reduce(flat: Tensor, how: Any) -> None:
    # Not Fabric's all_reduce, which waits for all processes at a barrier before each sum.
    try:
        torch.distributed.all_reduce(flat, how)
    except RuntimeError as error:
        raise Lost(_broken(error)) from error


def _broken(error: RuntimeError) -> str:
    return f"the connection to another process broke: {' '.join(str(error).split())[:300]}"


def running_statistics(model: nn.Module) -> list[Tensor]:
    """What batch norm has seen so far, which each process sees of its share alone."""
    kinds = (nn.modules.batchnorm._NormBase,)
    found = (getattr(module, name) for module in model.modules() if isinstance(module, kinds) for name in ("running_mean", "running_var"))
    return [value for value in found if value is not None]


def check_fabric() -> None:
    """BenchError if Lightning Fabric is not installed."""
    try:
        _fabric()
    except ImportError as error:
        raise BenchError(f"more than one device per cell needs Lightning Fabric ({error}); pip install 'certbench[fabric]'") from None


def fabric_version() -> str:
    """The release of Lightning Fabric, for the record."""
    return str(_fabric().__version__)


def _fabric() -> Any:
    import lightning_fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets on standard error
    return lightning_fabric


def rendezvous(size: int) -> Any:
    """The place where the processes find each other, kept by the first: a TCPStore, on this machine only, whose port the system picks."""
    distributed: Any = torch.distributed  # which may lack parts where torch was built without them
    listener = socket.create_server((LOOPBACK, 0))
    port = listener.getsockname()[1]
    return distributed.TCPStore(LOOPBACK, port, size, True, wait_for_workers=False, master_listen_fd=listener.detach())


@contextlib.contextmanager
def joined(group: Group, device: torch.device, port: int) -> Iterator[torch.device]:
    """Inside, this process is one of the group, on a device of its own: yields that device.

    Args:
        device: cpu, or cuda for one GPU per process. port: of the `rendezvous`.
    """
    with _environment(port):
        try:
            fabric = _launched(group, device, port)
        except RuntimeError as error:
            raise Lost(_broken(error)) from error
        try:
            yield fabric.device
        finally:
            torch.distributed.destroy_process_group()


def _launched(group: Group, device: torch.device, port: int) -> Any:
    _fabric()
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    class Started(ClusterEnvironment):
        """Tells Fabric of processes that are there already."""

        creates_processes_externally = True
        main_address = LOOPBACK
        main_port = port

        @staticmethod
        def detect() -> bool:
            return False

        def world_size(self) -> int:
            return group.size

        def set_world_size(self, size: int) -> None:
            pass

        def global_rank(self) -> int:
            return group.rank

        def set_global_rank(self, rank: int) -> None:
            pass

        def local_rank(self) -> int:
            return group.rank

        def node_rank(self) -> int:
            return 0

    strategy = DDPStrategy(cluster_environment=Started(), timeout=WAIT)
    fabric = Fabric(accelerator=device.type, devices=group.size, strategy=strategy)
    fabric.launch()
    return fabric


@contextlib.contextmanager
def _environment(port: int) -> Iterator[None]:
    """Variables that torch and Fabric read or write when a group is made; afterwards as they were."""
    before = dict(os.environ)
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    os.environ |= {
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there already, as under torchrun
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # else Fabric changes it
        **{name: loopback[0] for name in INTERFACE if loopback and name not in before},
    }
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ |= before
