"""What cells that share a GPU cost each other: processes that train LeNet side by side on one card, as `--slots-per-gpu` has them.

    python benchmarks/slots.py

Prints the steps a second of all processes together for 1, 2 and 4 of them, and that as a multiple of one process's. Each process starts,
warms up, waits for the others, and trains for the same seconds, by replayed steps as `bench run` does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.data import load
from bench.datasets import DATASETS
from bench.matrix.plan import Request, make_plan
from bench.matrix.task import pick_device
from bench.registry import Registry
from bench.smoothing import now
from bench.train.graph import CudaGraphs
from bench.train.loop import Trainer

ROWS = ("gaussian", "smoothmix.eta5")
COUNTS = (1, 2, 4)
WARM = 20  # steps


class Enough(Exception):
    """The time is up."""


def work(row: str, device: torch.device, seconds: float) -> None:
    """One process: says that it is ready, waits for a line, trains, and prints its steps a second."""
    cell = make_plan(Request(methods=(row,), sigmas=(0.5,), protocol="full"), Registry()).cells[0]
    recorder = CudaGraphs(device) if device.type == "cuda" else None
    trainer = Trainer(cell.spec, cell.method, DATASETS["mnist"], load("mnist", "train").to(device), device, recorder=recorder)
    begun, end = 0.0, float("inf")

    def after_step(trainer: Trainer) -> None:
        nonlocal begun, end
        if trainer.step == WARM:
            now(device)
            print("ready", flush=True)
            sys.stdin.readline()
            begun = time.perf_counter()
            end = begun + seconds
        elif trainer.step % 10 == 0 and time.perf_counter() > end:
            now(device)
            raise Enough

    try:
        trainer.run(after_step)
    except Enough:
        print((trainer.step - WARM) / (time.perf_counter() - begun), flush=True)
    else:
        sys.exit("error: the training ended before the time was up")


def side_by_side(row: str, count: int, words: list[str]) -> float:
    """Steps a second of so many processes together."""
    line = [sys.executable, str(Path(__file__)), "--row", row, *words]
    workers = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for worker in workers:
            assert worker.stdout
            if worker.stdout.readline().strip() != "ready":
                sys.exit(f"error: a process of {row} did not start")
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        return sum(float(worker.stdout.readline()) for worker in workers if worker.stdout)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps a second of trainings that share a GPU.")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each process trains, after its start")
    parser.add_argument("--row", choices=ROWS, help="be one of the processes")
    words = parser.parse_args()
    if words.row:
        work(words.row, pick_device(words.device), words.seconds)
        return
    passed = ["--device", words.device, "--seconds", str(words.seconds)]
    print(f"{'row':<16} {'processes':>9} {'steps/s':>9} {'of one':>7}")
    for row in ROWS:
        one = 0.0
        for count in COUNTS:
            speed = side_by_side(row, count, passed)
            one = one or speed
            print(f"{row:<16} {count:>9} {speed:>9.0f} {speed / one:>6.2f}x", flush=True)


if __name__ == "__main__":
    main()
