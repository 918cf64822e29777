"""A worker that computes its share of a cell's steps and images, for the process that runs the cell (`bench.distributed.team`).

    {"join": PORT}                     load the training images -> ready; then join the group whose rendezvous is there
    {"train": CHECKPOINT or null}      train with the group, from a checkpoint if there is one
    {"count": IMAGES, "weights": SHA}  count images with the weights that are on disk -> row, seconds for each

It writes no file. Whoever started it decides when it ends: signals are ignored, and it leaves at once when its input ends.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from bench.certify import Sampler, count_images
from bench.datasets import DATASETS
from bench.distributed.group import Group, Lost, joined
from bench.distributed.team import own_device
from bench.errors import BenchError
from bench.evidence.certificate import to_line
from bench.matrix.plan import Cell
from bench.matrix.resume import load_weights, read_state
from bench.matrix.task import Task
from bench.store.runs import Run
from bench.store.work import read_checkpoint
from bench.system.processes import Parent
from bench.train.loop import Trainer, line_of

LOST_SECONDS = 60.0


def help_with(task: Task, rank: int, parent: Parent) -> NoReturn:
    """Does what it is told, until this process is ended."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent.ended = lambda: os._exit(1)
    cell = None
    try:
        cell = task.cell()
        while command := parent.command():
            if "join" in command:
                _train(cell, task, Group(rank, cell.devices), command["join"], parent)
            else:
                _count(cell, task, rank, command, parent)
    except Lost:
        time.sleep(LOST_SECONDS)  # the process that keeps the results finds out whose end it was, and ends this one
    except BaseException as error:
        where = line_of(error, cell.method) if cell else ""
        parent.send(error=str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}{where}")
    os._exit(1)  # threads that a method left behind must not keep the process


def _train(cell: Cell, task: Task, group: Group, port: int, parent: Parent) -> None:
    """The whole training, in step with the other processes."""
    spec, options = cell.spec, task.options
    data = options.images(spec.dataset, "train").shared(group.size)
    parent.send(ready=True)
    with joined(group, options.device, port) as device:
        info, pixels = DATASETS[spec.dataset], data.to(device)
        trainer = Trainer(spec, cell.method, info, pixels, device, micro_batch=options.micro_batch, group=group)
        command = parent.command() or {"train": None}
        if checkpoint := command["train"]:
            if (payload := read_checkpoint(Path(checkpoint))) is None:
                raise BenchError(f"{checkpoint} is damaged")
            trainer.restore(read_state(payload, device))
        trainer.run(lambda _: None)


def _count(cell: Cell, task: Task, rank: int, command: dict[str, Any], parent: Parent) -> None:
    """Counts images with the weights of the run's folder."""
    spec, certify, options = cell.spec, cell.certify, task.options
    device = own_device(options.device, rank)
    data = options.images(spec.dataset, "test")
    model = load_weights(Run(task.results, spec), command["weights"], device)
    sampler = Sampler(model, spec.sigma, DATASETS[spec.dataset].classes, certify.seed, options.batch, certify.sampling)
    for row, seconds in count_images(sampler, data, certify, command["count"], device, lambda: None):
        parent.send(row=to_line(row), seconds=seconds)
