"""A process that computes its share of a cell's steps and images: `python -m bench.executors.helper EVENTS`.

Commands come as lines of JSON on standard input, events leave on the file descriptor EVENTS. The first line is the cell, as a `Task`,
the second the `rank` of this process. Then `join` makes it one of a group, `train` trains with it, `certify` loads the weights that are
on disk, and `images` counts some with them. It writes no file. Whoever started it decides when it ends: signals are ignored, and it leaves
at once when its input ends.
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
from pathlib import Path
from typing import IO, Any

from bench.certify import Sampler, count_images
from bench.data import load
from bench.datasets import DATASETS
from bench.distributed.group import Group, Lost, joined
from bench.distributed.team import own_device
from bench.errors import BenchError
from bench.evidence.certificate import to_line
from bench.executors.worker import cell_of, from_words
from bench.matrix.cells import training_images
from bench.matrix.resume import load_weights, read_checkpoint
from bench.matrix.task import Task
from bench.store.runs import Run
from bench.system.processes import take_input
from bench.train.loop import Trainer, line_of

LOST_SECONDS = 60.0


class Helper:
    """One process's part in a cell.

    Args:
        commands: lines that came in. events: where answers go.
    """

    def __init__(self, commands: queue.SimpleQueue[bytes], events: IO[str]) -> None:
        self.commands, self.events = commands, events
        task = Task.from_text(commands.get())
        self.rank: int = self.command()["rank"]
        self.cell, self.options = cell_of(task), from_words(task.options)
        self.info = DATASETS[self.cell.spec.dataset]

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
                path, weights_sha256 = command["certify"]
                self.certify(Path(path), weights_sha256, self.command()["images"])

    def train(self, port: int) -> None:
        """The whole training, in step with the other processes."""
        spec, options = self.cell.spec, self.options
        data = training_images(spec, options)
        self.send(ready=True)
        group = Group(self.rank, self.cell.devices)
        with joined(group, options.device, port) as device:
            trainer = Trainer(spec, self.cell.method, self.info, data.to(device), device, micro_batch=options.micro_batch, group=group)
            if checkpoint := self.command()["train"]:
                if (state := read_checkpoint(Path(checkpoint), device)) is None:
                    raise BenchError(f"{checkpoint} is damaged")
                trainer.restore(state)
            trainer.run(lambda _: None)

    def certify(self, path: Path, weights_sha256: str, images: list[int]) -> None:
        """Counts images with the weights of a run's folder."""
        spec, certify, options = self.cell.spec, self.cell.certify, self.options
        device = own_device(options.device, self.rank)
        data = load(spec.dataset, "test", options.data_dir, allow_other=options.allow_other_data)
        model = load_weights(Run(path, spec), weights_sha256, device)
        sampler = Sampler(model, spec.sigma, self.info.classes, certify.seed, options.batch, certify.sampling)
        for row, seconds in count_images(sampler, data, certify, images, device, lambda: None):
            self.send(row=to_line(row), seconds=seconds)


def main() -> None:
    """Works until it is ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    events = os.fdopen(int(sys.argv[1]), "w")
    requests = take_input()
    commands: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, commands), daemon=True).start()
    helper = None
    try:
        helper = Helper(commands, events)
        helper.serve()
    except Lost:
        time.sleep(LOST_SECONDS)  # the process that keeps the results finds out whose end it was, and ends this one
    except BaseException as error:
        where = line_of(error, helper.cell.method) if helper else ""
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
