"""On a Slurm cluster: job arrays, submitted through submitit and left alone.

A job carries out one cell after the other, each in a process of its own. Before its time is up Slurm warns it; it then writes
checkpoints and is put back into the queue, where it continues. `bench status` tells from any shell how the cells stand; this
module waits for nothing.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.errors import BenchError, UsageError, counted
from bench.executors.job import Job
from bench.executors.resources import Resources, threads_of, whole_gpus
from bench.matrix.report import FOLDER
from bench.matrix.task import Task
from bench.system.processes import search_path

ARRAY_JOBS = 1000
"""Jobs of one array; what Slurm allows unless it is told otherwise is 1,001."""
TIMEOUTS = 1000
"""Times that a job may be requeued because its time was up: it continues each time, so the number only ends what makes no progress."""
CLUSTER = "slurm"
"""Which of submitit's clusters takes the jobs; tests say `local`."""
MESSAGE = 300
"""Characters of Slurm's own words in a sentence."""
WARN_SECONDS = 60
"""Before the end of a job's time: enough for a checkpoint of every cell at work."""


class SlurmJob(Job):
    """The cells of one job, as submitit calls them on a machine of the cluster."""

    def __call__(self) -> list[str]:
        return self.run(logging.getLogger("submitit").info)

    def checkpoint(self) -> Any:
        """What submitit calls when the job's time is up or it must make room; the same job then goes back into the queue."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(type(self)(self.texts, self.threads, self.slots, self.timeout))


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Submits cells.

    Attributes:
        needs: what a task asks for; arrays are made of those that ask for the same.
        folder: where the jobs' files and logs go. cells_per_job: one after the other in the same job.
        slots: cells of a job side by side. cap: jobs at a time, None: as many as Slurm lets run. timeout: seconds per cell.
        cluster: `slurm`; submitit's `local` runs jobs as processes of this machine.
    """

    needs: Callable[[Task], Resources]
    folder: Path
    cells_per_job: int = 1
    slots: int = 1
    cap: int | None = None
    timeout: float | None = None
    cluster: str = "slurm"

    def check(self, tasks: Sequence[Task]) -> None:
        """Everything that is wrong before anything is submitted.

        Raises:
            UsageError: resources that Slurm cannot give, or a cap that cannot be kept.
        """
        for task in tasks:
            whole_gpus(self.needs(task))
        self._shares(self._arrays(tasks))

    def submit(self, tasks: Sequence[Task]) -> Iterator[dict[int, str]]:
        """Hands tasks over, array by array: for each that Slurm has taken, the job of each of its tasks, by the task's place.

        Raises:
            BenchError: Slurm refuses an array; those before it are with Slurm.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        self.folder.mkdir(mode=0o700, parents=True)  # submitit keeps its jobs as pickles, which nobody else may put there
        arrays = self._arrays(tasks)
        taken = 0
        for (need, groups), share in zip(arrays, self._shares(arrays), strict=True):
            executor = self._executor(need, share)
            jobs = [
                SlurmJob([tasks[n].to_text() for n in group], threads_of(need, self.slots), self.slots, self.timeout) for group in groups
            ]
            try:
                with executor.batch():
                    submitted = [executor.submit(job) for job in jobs]
            except (FailedJobError, FailedSubmissionError) as error:
                raise BenchError(
                    f"submitted {taken} of {counted(len(tasks), 'cell')}, and Slurm refused the next array, so {len(tasks) - taken} "
                    f"will not run: {' '.join(str(error).split())[:MESSAGE]}"
                ) from None
            found = {number: str(job.job_id) for group, job in zip(groups, submitted, strict=True) for number in group}
            taken += len(found)
            yield found

    def _arrays(self, tasks: Sequence[Task]) -> list[tuple[Resources, list[list[int]]]]:
        """Per array: what its jobs need, and the places of the tasks of each job. A long cell is not put behind another long one."""
        alike: dict[Resources, list[int]] = {}
        for number, task in enumerate(tasks):
            alike.setdefault(self.needs(task), []).append(number)
        found = []
        for need, numbers in alike.items():
            count = -(-len(numbers) // self.cells_per_job)
            groups = [numbers[first::count] for first in range(count)]  # tasks come longest first
            found += [(need, groups[first : first + ARRAY_JOBS]) for first in range(0, count, ARRAY_JOBS)]
        return found

    def _shares(self, arrays: Sequence[tuple[Resources, list[list[int]]]]) -> list[int]:
        """Jobs at a time of each array, by its size; they add up to the cap."""
        sizes = [len(groups) for _, groups in arrays]
        if self.cap is None or self.cap >= sum(sizes):
            return sizes
        if self.cap < len(sizes):
            needed = f"the {len(sizes)} arrays that these cells need: one for each choice of resources and {ARRAY_JOBS} jobs"
            raise UsageError([f"--jobs {self.cap} is less than {needed}"])
        shares = [1] * len(sizes)
        for _ in range(self.cap - len(sizes)):
            place = max(range(len(sizes)), key=lambda n: sizes[n] / shares[n])
            shares[place] += 1
        return shares

    def _executor(self, need: Resources, share: int) -> Any:
        import submitit

        executor = submitit.AutoExecutor(self.folder / "%j", cluster=self.cluster, slurm_max_num_timeout=TIMEOUTS)
        words = {name: getattr(need, name) for name in ("partition", "account", "qos", "constraint") if getattr(need, name)}
        executor.update_parameters(
            name="certbench",
            timeout_min=need.minutes,
            cpus_per_task=need.cpus,
            tasks_per_node=1,
            nodes=1,
            slurm_array_parallelism=share,
            slurm_signal_delay_s=min(WARN_SECONDS, need.minutes * 60 // 2),
            slurm_setup=[f"export PYTHONPATH={shlex.quote(search_path())}"],
            **({"mem_gb": need.memory} if need.memory else {}),
            **({"gpus_per_node": gpus} if (gpus := whole_gpus(need)) else {}),
            **{f"slurm_{name}": value for name, value in words.items()},
        )
        return executor


def check_installed() -> None:
    """BenchError where there is no submitit or no Slurm."""
    if not find_spec("submitit"):
        raise BenchError("--executor slurm needs submitit: pip install 'certbench[slurm]'")
    if CLUSTER == "slurm" and not shutil.which("sbatch"):
        raise BenchError("--executor slurm: there is no sbatch here; run it where Slurm's commands are, or use --emit commands")


def folder_of(results: Path) -> Path:
    """A new folder for the files and logs of jobs; the results folder is the one that every machine sees."""
    return results.absolute() / FOLDER / f"jobs-{uuid.uuid4().hex[:8]}"
