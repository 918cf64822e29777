"""How a matrix scales: cells side by side, and ten thousand of them.

    python benchmarks/matrix.py jobs [--rounds 3]       two Gaussian cells on two cores: one after the other, and side by side
    python benchmarks/matrix.py scale [--cells 10000]   planning, status and listing of a large matrix

`jobs` runs `bench run --jobs 1` and `--jobs 2` in turn, with one thread each, so that both compute the same bytes; the cells are
protocol quick at sigma 0.25 and 0.5 unless `--set` makes them smaller. Seconds are of the whole command, its imports included, and
of the cells alone, as timing.json and times.csv tell them: what two processes on two cores cost each other.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stores import write_run

from bench.datasets import DATASETS
from bench.evidence.certificate import Certificate
from bench.files import claims
from bench.matrix.task import Options
from bench.spec import CertifySpec
from bench.store.runs import Store

LINE = [sys.executable, "-c", "from bench.cli import app; app()"]


def jobs(words: argparse.Namespace) -> None:
    """Seconds of two cells, by how many run side by side."""
    whole: dict[int, list[float]] = {1: [], 2: []}
    inside: dict[int, list[float]] = {1: [], 2: []}
    sets = [part for change in words.set for part in ("--set", change)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(words.rounds):
        for count in whole:
            root = Path(tempfile.mkdtemp())
            line = [*LINE, "run", "--method", "gaussian", "--sigma", "0.25,0.5", "--protocol", "quick", "--device", "cpu", *sets, "--quiet"]
            begun = time.perf_counter()
            subprocess.run([*line, "--jobs", str(count), "--results", str(root)], env=environment, check=True)
            whole[count].append(time.perf_counter() - begun)
            inside[count].append(sum(cell_seconds(path) for path in root.glob("*/*/*/timing.json")))
            shutil.rmtree(root)
    ratios = [one / two for one, two in zip(whole[1], whole[2], strict=True)]
    print(
        f"two Gaussian cells, {os.cpu_count()} cores, 1 thread per cell, {words.rounds} rounds in turn; load now {os.getloadavg()[0]:.1f}"
    )
    for count in whole:
        print(f"--jobs {count}: {statistics.median(whole[count]):6.1f} s, of which in cells {statistics.median(inside[count]):6.1f} s")
    print(
        "one after the other / side by side: " + ", ".join(f"{ratio:.2f}" for ratio in ratios) + f"; median {statistics.median(ratios):.2f}"
    )


def cell_seconds(timing: Path) -> float:
    """Training and certification of one run."""
    rows = [line.split(",") for path in timing.parent.glob("*/times.csv") for line in path.read_text().splitlines()]
    return float(json.loads(timing.read_text())["training_seconds"]) + sum(float(seconds) for _, seconds in rows)


def generate(root: Path, cells: int) -> None:
    """Finished runs of one row, three noise levels and many seeds, of two images each."""
    info, certify = DATASETS["mnist"], CertifySpec(n0=10, n=1000, images="first:2", changes={"n0": 10, "n": 1000, "images": "first:2"})
    rows = [
        Certificate(index=index, label=label, selected=label, selection={label: 10}, estimation={label: 1000})
        for index, label in enumerate(info.test_labels()[:2])
    ]
    for number in range(cells):
        write_run(root, "gaussian", info.sigmas[number % 3], number // 3, "quick", certify, rows)


def seconds(work: Callable[[], object], rounds: int) -> str:
    """Median and extremes on the clock, and the median of processor time, which other processes change less."""
    clock, processor = [], []
    for _ in range(rounds):
        begun, used = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - begun)
        processor.append(time.process_time() - used)
    return (
        f"{statistics.median(clock):6.2f} s ({min(clock):.2f} to {max(clock):.2f}), {statistics.median(processor):.2f} s of the processor"
    )


def scale(words: argparse.Namespace) -> None:
    """Seconds beyond imports of what a person waits for."""
    import torch
    from rich.console import Console

    from bench.api.matrix import Matrix
    from bench.api.request import RunRequest
    from bench.matrix.plan import Request, make_plan
    from bench.matrix.report import announced
    from bench.matrix.status import standings
    from bench.registry import Registry
    from bench.store.listing import Listing
    from leaderboard.aggregate import collect

    root = words.folder or Path(tempfile.mkdtemp())
    kept = os.environ["BENCH_CACHE_DIR"] = tempfile.mkdtemp()
    try:
        if not root.exists() or not any(root.iterdir()):
            generate(root, words.cells)
        store, console = Store(root), Console(quiet=True)
        changes = {"certify.n0": "10", "certify.n": "1000", "certify.images": "first:2"}
        # Half of the cells are done, the other half is not begun.
        request = Request(methods=("gaussian",), seeds=range(words.cells // 6, words.cells // 2), changes=changes)
        registry = Registry()
        registry.load("gaussian")
        plan = make_plan(request, registry)
        asked, options = RunRequest(results=root), Options(device=torch.device("cpu"))
        load = os.getloadavg()[0]
        print(f"{words.cells} runs on disk, {len(plan.cells)} cells planned; {words.rounds} rounds; load now {load:.1f}")
        print("listing without an index  ", seconds(lambda: Listing(store).rows(), 1))
        time.sleep(3)  # what was written a moment ago is not kept
        Listing(store).rows()
        print("listing                   ", seconds(lambda: Listing(store).rows(), words.rounds))
        print("planning: cells           ", seconds(lambda: make_plan(request, registry), words.rounds))
        print("planning: what is done    ", seconds(lambda: Matrix(asked, plan, options, console), words.rounds))
        matrix = Matrix(asked, plan, options, console)
        matrix.announce()
        print("planning: estimate        ", seconds(matrix.announce, words.rounds))
        cells = [matrix._planned(cell) for cell in matrix.todo]
        with announced(root, cells, []):
            assert sum(row["state"] == "queued" for row in standings(store)) == len(cells) == words.cells // 2
            print("status, half of it queued ", seconds(lambda: standings(store), words.rounds))
        assert claims.holder(root) is None
        print("table, nothing kept       ", seconds(lambda: collect(store), 1))
        print("table                     ", seconds(lambda: collect(store), words.rounds))
    finally:
        shutil.rmtree(kept)
        if words.folder is None:
            shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("jobs", "scale"))
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--folder", type=Path, help="Keep the generated results here and take them from here.")
    words = parser.parse_args()
    (jobs if words.what == "jobs" else scale)(words)


if __name__ == "__main__":
    main()
