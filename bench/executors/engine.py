"""Who carries the cells of `bench run` out, as its flags say it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

from bench.errors import BenchError, UsageError, counted, unknown
from bench.executors import Executor
from bench.executors import ray as on_ray
from bench.executors import slurm as on_slurm
from bench.executors.here import Here
from bench.executors.local import LocalExecutor, Slot, cores_here, slots_here
from bench.executors.resources import Resources, fits, resources_for, unfit
from bench.matrix.plan import Cell
from bench.matrix.task import Task, pick_device

CLUSTERS = ("ray", "slurm")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The flags `--executor`, `--address`, `--jobs`, `--slots-per-gpu`, `--timeout`, `--resources`, `--cells-per-job`, as given."""

    name: str | None = None
    address: str | None = None
    jobs: str | None = None
    slots_per_gpu: int = 1
    timeout: float | None = None
    resources: tuple[str, ...] = ()
    cells_per_job: int = 1
    device: str = "auto"

    def problems(self) -> list[str]:
        """Everything that is wrong with them."""
        found = unknown("--executor", self.name, ("local", *CLUSTERS))
        if self.address is not None and self.name != "ray":
            found.append(f"--address {self.address} is for --executor ray")
        if self.resources and not self.cluster:
            found.append("--resources is for --executor ray and slurm; on one machine --jobs shares the cores out")
        if self.cells_per_job < 1:
            found.append(f"--cells-per-job {self.cells_per_job} must be at least 1")
        elif self.cells_per_job > 1 and self.name != "slurm":
            found.append(f"--cells-per-job {self.cells_per_job} is for --executor slurm")
        jobs = self.jobs
        if jobs not in (None, "auto") and not (jobs.isascii() and jobs.isdigit() and int(jobs[:4]) > 0 and len(jobs) < 5):
            found.append(f"--jobs {jobs} is neither auto nor a whole number from 1 to 9999")
        if self.slots_per_gpu < 1:
            found.append(f"--slots-per-gpu {self.slots_per_gpu} must be at least 1")
        elif self.slots_per_gpu > 1 and not self.isolated:
            found.append(f"--slots-per-gpu {self.slots_per_gpu} is for cells that run side by side; add --jobs or --executor")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            found.append(f"--timeout {self.timeout:g} must be a number of seconds greater than 0")
        if not found and self.cluster:
            try:
                self.needs_of("")
            except UsageError as error:
                found += error.problems
        return found

    @property
    def cluster(self) -> bool:
        """Cells run on other machines."""
        return self.name in CLUSTERS

    @property
    def isolated(self) -> bool:
        """Every cell has a process of its own."""
        return self.name is not None or self.jobs is not None or self.timeout is not None

    @cached_property
    def count(self) -> int | None:
        """Cells at a time; None: as many as there is room for."""
        if self.jobs == "auto" or (self.jobs is None and self.cluster):
            return None
        return int(self.jobs or 1)

    def flags(self, row: str) -> list[str]:
        """The words that hand a cell of a row to the same cluster again."""
        found = [] if self.name is None else ["--executor", self.name]
        found += [] if self.address is None else ["--address", self.address]
        found += [part for word in self.resources if fits(row, word) for part in ("--resources", word)]
        return found + ([] if self.timeout is None else ["--timeout", repr(self.timeout)])

    def needs_of(self, row: str, devices: int = 1) -> Resources:
        """What a cell of a row asks of a cluster, if it is computed on so many devices.

        Raises:
            UsageError: `--resources` that make no sense.
        """
        # Slurm gives whole GPUs, which the slots of a job share.
        share = 0.0 if self.device != "cuda" else float(devices) if devices > 1 or self.name == "slurm" else 1 / self.slots_per_gpu
        return resources_for(row, self.resources, Resources(cpus=devices, gpus=share))

    def needs(self) -> Callable[[Task], Resources]:
        """`needs_of` for tasks, worked out once per row and number of devices."""
        needs_of = cache(self.needs_of)
        return lambda task: needs_of(task.spec.row, task.spec.train.devices)

    def pick_device(self) -> torch.device:
        """The device of this machine's cells. Of a cluster's only its kind is known: a GPU where one is asked for.

        Raises:
            BenchError: one that is not here.
        """
        return torch.device("cuda") if self.cluster and self.device == "cuda" else pick_device("cpu" if self.cluster else self.device)

    def device_of(self, cell: Cell, device: torch.device) -> torch.device:
        """The device of a cell, of which only the kind is known on a cluster. device: what `pick_device` found."""
        if not self.cluster or self.device != "auto":
            return device
        return torch.device("cuda" if self.needs_of(cell.spec.row).gpus else "cpu")

    def problems_of(self, cells: Sequence[Cell], device: torch.device) -> list[str]:
        """What is wrong with the resources that these cells ask of a cluster. device: as of `device_of`."""
        if not self.cluster:
            return []
        shared = {(cell.spec.row, cell.devices): cell for cell in cells if cell.devices > 1}
        found = unfit({cell.spec.row for cell in cells}, self.resources)
        for (row, devices), cell in shared.items():
            gpus = self.needs_of(row, devices).gpus
            if self.device_of(cell, device).type == "cuda" and gpus < devices:
                found.append(f"--resources gpus={gpus:g} is less than the {devices} GPUs, train.devices, of a cell of {row}")
        return found

    def executor(
        self, cells: Mapping[tuple[str, str], Cell], device: torch.device, planned: int, say: Callable[[str], None]
    ) -> tuple[Executor, int]:
        """What carries cells out while this process waits, and how many at a time, as far as that is known.

        Args:
            cells: those to do, by `Cell.id`. device: as of `device_of`. planned: cells of the whole matrix.

        Raises:
            BenchError: it is not there, or cannot be had so.
        """
        if self.name == "ray":
            executor = on_ray.RayExecutor(self.needs(), self.address, self.count, self.timeout)
            say(f"Ray: {executor.describe()}")
            return executor, self.count or executor.room()
        if not self.isolated:
            return Here(cells), 1
        slots = self.slots_here(cells.values(), device, planned)
        say(f"{counted(len(slots), 'cell')} side by side, {counted(int(slots[0]['OMP_NUM_THREADS']), 'CPU thread')} each")
        return LocalExecutor(slots, self.timeout), len(slots)

    def slots_here(self, cells: Collection[Cell], device: torch.device, planned: int) -> list[Slot]:
        """Places for cells side by side on this machine; see `executor`."""
        devices = max((cell.devices for cell in cells), default=1)
        return slots_here(self.count, device, self.slots_per_gpu, planned, devices)

    def side_by_side(self, cells: Collection[Cell], device: torch.device, planned: int) -> float:
        """How many times sooner than one after the other here, at best: by the threads of all slots, or their GPUs. 1 on a cluster."""
        if self.cluster or not self.isolated:
            return 1.0
        slots = self.slots_here(cells, device, planned)[: len(cells)]
        if device.type == "cuda":
            return len({slot["CUDA_VISIBLE_DEVICES"] for slot in slots})
        threads = sum(int(slot["OMP_NUM_THREADS"]) for slot in slots)
        return max(1.0, min(threads, cores_here()) / torch.get_num_threads())

    def slurm(self, results: Path) -> on_slurm.Slurm:
        """What submits cells to Slurm."""
        return on_slurm.Slurm(
            needs=self.needs(),
            folder=on_slurm.folder_of(results),
            cells_per_job=self.cells_per_job,
            slots=self.slots_per_gpu,
            cap=self.count,
            timeout=self.timeout,
            cluster=on_slurm.CLUSTER,
        )

    def missing(self) -> list[str]:
        """What this machine lacks for it, told before anything is planned."""
        try:
            if self.name == "slurm":
                on_slurm.check_installed()
            if self.name == "ray":
                on_ray.check_installed(self.address)
        except BenchError as error:
            return [str(error)]
        return []
