"""On a Ray cluster: one Ray task per cell, whose arguments and results are text.

Ray gives every cell its CPUs and its share of GPUs, and hands a cell whose machine died to another one; there it continues from the
results folder, which all machines must see at the same place. Without an address a Ray of one's own is started on this machine.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.errors import BenchError, Interrupted
from bench.executors import Watch
from bench.executors.job import Job
from bench.executors.local import recorded
from bench.executors.resources import Resources, threads_of
from bench.files import claims
from bench.matrix.task import Outcome, Task
from bench.spec import parse_json
from bench.store.runs import Store
from bench.system.signals import GRACE_SECONDS, StopSignals

LEAST = (2, 54)
"""Release from which on Ray's token authentication covers every service that it opens."""
IN_FLIGHT = 1000
"""Cells that Ray is told of at a time, the long ones first."""
LOOPBACK = ("127.", "localhost:", "[::1]:")
ANSWER_SECONDS = 10.0
LOOK_SECONDS = 1.0
LAST_SECONDS = 1.5


class RayExecutor:
    """Carries tasks out on a Ray cluster.

    Args:
        needs: what a task asks for.
        address: of a running cluster, `HOST:PORT`; None: a cluster of this machine alone, on its loopback device, without a dashboard.
        jobs: cells at a time, None: as many as there is room for.
        timeout: seconds per cell.

    Raises:
        BenchError: no cluster that can be reached.
    """

    def __init__(
        self, needs: Callable[[Task], Resources], address: str | None = None, jobs: int | None = None, timeout: float | None = None
    ) -> None:
        self.needs, self.jobs, self.timeout = needs, jobs, timeout
        self.ray = connect(address, jobs)

    def outcomes(self, tasks: Sequence[Task], watch: Watch, stop: StopSignals) -> Iterator[tuple[int, Outcome]]:
        """As `bench.executors.Executor`."""
        waiting, flying = deque(range(len(tasks))), dict[Any, int]()
        begun: set[int] = set()
        try:
            while waiting or flying:
                stop.check()
                while waiting and len(flying) < (self.jobs or IN_FLIGHT):
                    number = waiting.popleft()
                    flying[self._submit(tasks[number])] = number
                ready, _ = self.ray.wait(list(flying), num_returns=len(flying), timeout=LOOK_SECONDS)
                _look(tasks, sorted(flying.values()), begun, watch)
                for ref in ready:
                    number = flying.pop(ref)
                    if number not in begun:
                        begun.add(number)
                        watch.begin(number)
                    yield number, self._outcome(ref, tasks[number], watch)
        except (Interrupted, KeyboardInterrupt):
            for ref in flying:
                self.ray.cancel(ref)
            self.ray.wait(list(flying), num_returns=len(flying), timeout=GRACE_SECONDS + LAST_SECONDS)
            raise

    def describe(self) -> str:
        """What the cluster has, in words."""
        found = self.ray.cluster_resources()
        nodes = sum(node["Alive"] for node in self.ray.nodes())
        return f"{nodes} machines, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"

    def room(self) -> int:
        """Cells at a time, if each took what a cell takes by default."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def _submit(self, task: Task) -> Any:
        need = self.needs(task)
        asked = {"num_cpus": need.cpus, "num_gpus": need.gpus} | ({"memory": int(need.memory * 2**30)} if need.memory else {})
        return self.ray.remote(carry_out).options(**asked, name=task.name).remote(task.to_text(), threads_of(need), self.timeout)

    def _outcome(self, ref: Any, task: Task, watch: Watch) -> Outcome:
        try:
            data = parse_json(self.ray.get(ref))
        except self.ray.exceptions.RayError as error:
            kind = "oom" if isinstance(error, self.ray.exceptions.OutOfMemoryError) else "crash"
            reason = f"Ray gave it up: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return recorded(task, Outcome(state="failed", kind=kind, reason=reason))
        for text in data.pop("said"):
            watch.say(text)
        return Outcome(**data)


def carry_out(text: str, threads: int, timeout: float | None) -> str:
    """What Ray calls on some machine: a task as text, its outcome as text."""
    return Job([text], threads, timeout=timeout).run(log=str)[0]


def connect(address: str | None, jobs: int | None) -> Any:
    """The module, connected to a cluster.

    Raises:
        BenchError: none answers.
    """
    if address is not None:
        _knock(address)
    prepare(address)
    import ray

    if not ray.is_initialized():
        own: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **({} if address else own))
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            what = f"--address {address}: no Ray cluster answers" if address else "--executor ray: no Ray could be started on this machine"
            raise BenchError(f"{what}: {' '.join(str(error).split())[:300]}") from None
    return ray


def _knock(address: str) -> None:
    """BenchError where nothing listens at an address: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise BenchError(
            f"--address {address}: no Ray cluster answers: {error}; write HOST:PORT, as `ray start --head` prints it"
        ) from None


def check_installed(address: str | None) -> None:
    """BenchError where there is no Ray, one that is too old, or no token for the cluster at an address."""
    try:
        found = version("ray")
    except PackageNotFoundError:
        raise BenchError("--executor ray needs Ray: pip install 'certbench[ray]'") from None
    if tuple(map(int, found.split(".")[:2])) < LEAST:
        raise BenchError(f"--executor ray needs Ray {'.'.join(map(str, LEAST))} or later, for its token authentication, not {found}")
    place = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    token = os.environ.get("RAY_AUTH_TOKEN") or place.is_file()
    if address is not None and os.environ.get("RAY_AUTH_MODE", "token") == "token" and not token:
        raise BenchError(
            f"--address {address}: there is no token for it in RAY_AUTH_TOKEN or {place}; RAY_AUTH_MODE=disabled does without, where "
            "nobody else can reach the cluster"
        )


def prepare(address: str | None) -> None:
    """What Ray reads from the environment as it is imported.

    Tokens are on unless the user turned them off, and a cluster of this process's own has one of its own. Ray takes 127.0.0.1 for a
    mistake and opens its ports to the network instead, unless it may not form clusters, by a setting that is named after other systems.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None or address.startswith(LOOPBACK):
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token" and address is None:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _look(tasks: Sequence[Task], numbers: Sequence[int], begun: set[int], watch: Watch) -> None:
    """Tells how tasks go on, as their claims in the results folder tell it."""
    for number in numbers:
        holder = claims.holder(Store(tasks[number].results).run(tasks[number].spec).path)
        if holder is None or holder.stale:
            continue
        if number not in begun:
            begun.add(number)
            watch.begin(number)
        if holder.total:
            watch.progress(number, holder.phase, holder.done, holder.total)
