"""A process that computes its share of a cell's steps and images: `python -m bench.helper EVENTS`.

Commands come as lines of JSON on standard input, events leave on the file descriptor EVENTS. The first line says what the cell is; then
`join` makes it one of a group, `train` trains with it, `certify` loads the weights that are on disk, and `images` counts some with them.
It writes no file. Whoever started it decides when it ends: signals are ignored, and it leaves at once when its input ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from bench.certify import Sampler, count_images
from bench.data import load
from bench.datasets import BUILT_IN, DATASETS
from bench.errors import BenchError
from bench.method import Method
from bench.parallel.group import Group, Lost, joined
from bench.parallel.team import own_device
from bench.records import to_line
from bench.registry import Registry
from bench.run import load_weights, read_checkpoint, training_images
from bench.spec import CertifySpec, RunSpec, canonical, from_json
from bench.store import Run
from bench.train import Trainer, line_of

LOST_SECONDS = 60.0


class Helper:
    """One process's part in a cell.

    Args:
        task: `rank`, and what `bench.run` says of the cell: its spec, the files and hash of its method, options.
    """

    def __init__(self, task: Mapping[str, Any], commands: queue.SimpleQueue[bytes], events: IO[str]) -> None:
        self.task, self.commands, self.events = task, commands, events
        self.spec = from_json(RunSpec, canonical(task["spec"]), "task")
        registry = Registry(tuple(map(Path, task["plugins"])))
        if self.spec.dataset not in BUILT_IN:
            registry.load_dataset(self.spec.dataset)
        self.info = DATASETS[self.spec.dataset]
        self.loaded = registry.load(self.spec.method)
        if self.loaded.source_sha256 != task["source_sha256"]:
            raise BenchError(f"the file of method {self.spec.method!r} was changed since the matrix was planned; start `bench run` again")
        self.method: Method = self.loaded.cls(**self.spec.hyperparameters)

    def command(self) -> Any:
        return json.loads(self.commands.get())

    def send(self, **event: Any) -> None:
        self.events.write(json.dumps(event) + "\n")
        self.events.flush()

    def serve(self) -> None:
        """Does what it is told, for ever."""
        while True:
            command = self.command()
            if "join" in command:
                self.train(command["join"])
            else:
                self.certify(command["certify"], self.command()["images"])

    def train(self, port: int) -> None:
        """The whole training, in step with the other processes."""
        task, spec = self.task, self.spec
        data = training_images(spec, task["data_dir"] and Path(task["data_dir"]), allow_other=task["allow_other_data"])
        self.send(ready=True)
        group = Group(task["rank"], spec.train.devices)
        with joined(group, torch.device(task["device"]), port) as device:
            trainer = Trainer(spec, self.method, self.info, data.to(device), device, micro_batch=task["micro_batch"], group=group)
            if checkpoint := self.command()["train"]:
                if (state := read_checkpoint(Path(checkpoint), device)) is None:
                    raise BenchError(f"{checkpoint} is damaged")
                trainer.restore(state)
            if task["compile"]:
                trainer.compile()
            trainer.run(lambda _: None)

    def certify(self, subject: Mapping[str, Any], images: list[int]) -> None:
        """Counts images with the weights on disk."""
        task, spec = self.task, self.spec
        device = own_device(torch.device(task["device"]), task["rank"])
        certify = from_json(CertifySpec, canonical(subject["spec"]), "task")
        data = load(spec.dataset, "test", task["data_dir"] and Path(task["data_dir"]), allow_other=task["allow_other_data"])
        model = load_weights(Run(Path(subject["run"]), spec), subject["weights_sha256"], device)
        sampler = Sampler(model, spec.sigma, self.info.classes, certify.seed, task["batch"], certify.sampling)
        for row, seconds in count_images(sampler, data, certify, images, device, lambda: None):
            self.send(row=to_line(row), seconds=seconds)


def main() -> None:
    """Works until it is ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    events = os.fdopen(int(sys.argv[1]), "w")
    requests = os.fdopen(os.dup(0), "rb")
    with open(os.devnull) as nothing:  # noqa: PTH123 - a method that reads its input must not read the commands
        os.dup2(nothing.fileno(), 0)
    commands: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, commands), daemon=True).start()
    helper = None
    try:
        helper = Helper(json.loads(commands.get()), commands, events)
        helper.serve()
    except Lost:
        time.sleep(LOST_SECONDS)  # the process that keeps the results finds out whose end it was, and ends this one
    except BaseException as error:
        where = line_of(error, helper.method) if helper else ""
        reason = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}{where}"
        with contextlib.suppress(OSError):
            events.write(json.dumps({"error": reason}) + "\n")
            events.flush()
    os._exit(1)  # threads that a method left behind must not keep the process


def _listen(requests: IO[bytes], commands: queue.SimpleQueue[bytes]) -> None:
    for line in requests:
        commands.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
