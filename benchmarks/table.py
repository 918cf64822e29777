"""How fast `bench table` answers over a whole study: 150 cells of 10,000 images, on generated evidence.

    python benchmarks/table.py [--cells 150] [--rounds 5] [--folder DIR]

Each answer is a process of its own, from start to exit. First: nothing of it was ever read. Cold: it was, but the files are dropped from
the page cache (Linux only). Warm: the same once more. What was read is kept in a folder of this script's own.
Prints seconds (median; those of the processor feel other work on the machine less), the largest resident memory, and whether
torch was imported.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from stores import write_run

from bench.datasets import DATASETS
from bench.evidence.certificate import Certificate
from bench.spec import CertifySpec
from leaderboard import layouts

N0, N = 100, 100_000
ANSWER = """
import resource, sys
from bench.cli import app
sys.argv = ["bench", "table", "--results", {root!r}]
try:
    app()
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{{peak}} {{'torch' in sys.modules}}", file=sys.stderr)
"""


def generate(root: Path, cells: int, images: int) -> None:
    """Cells of the paper's matrix, with counts as a trained LeNet has them: half of the images nearly sure, the rest spread."""
    info, rng = DATASETS["mnist"], np.random.default_rng(0)
    labels = info.test_labels()
    certify = CertifySpec(n0=N0, n=N, images=f"first:{images}")
    rows = layouts.load(4).rows
    names = [*rows, *(f"extra{number}" for number in range(max(0, -(-cells // 15) - len(rows))))]
    specs = [(row, sigma, seed) for row in names for sigma in info.sigmas for seed in range(5)][:cells]
    for row, sigma, seed in specs:
        miss = np.minimum(certify.n, rng.exponential(10.0 ** rng.uniform(0, 4.5, images))).astype(int)
        write_run(root, row, sigma, seed, "full", certify, map(of_count, range(images), labels, miss.tolist()))


def of_count(index: int, label: int, miss: int) -> Certificate:
    """Evidence of an image of which so many samples got another class."""
    counts = {c: k for c, k in ((label, N - miss), ((label + 1) % 10, miss)) if k}
    return Certificate(index=index, label=label, selected=label, selection={label: N0}, estimation=counts)


def forget(root: Path) -> None:
    """Drops the files from the page cache."""
    for path in root.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def answer(root: Path) -> tuple[float, float, float, bool]:
    """Seconds from start to exit, those of processor time, peak memory in MB, whether torch was imported."""
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", ANSWER.format(root=str(root))], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak, torch = done.stderr.split()[-2:]
    return seconds, busy, float(peak), torch == "True"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=150)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Keep the generated results here and take them from here.")
    words = parser.parse_args()
    root = words.folder or Path(tempfile.mkdtemp())
    kept = os.environ["BENCH_CACHE_DIR"] = tempfile.mkdtemp()
    try:
        if not root.exists() or not any(root.iterdir()):
            generate(root, words.cells, words.images)
            time.sleep(3)  # what was written a moment ago is not kept
        first = answer(root)
        rounds = []
        for _ in range(words.rounds):
            forget(root)
            rounds.append((answer(root), answer(root)))
        print(f"{words.cells} cells x {words.images:,} images, {os.cpu_count()} cores, median of {words.rounds} rounds; each a new process")
        lines = {"cold": [cold for cold, _ in rounds], "warm": [warm for _, warm in rounds], "first": [first]}
        for name, found in lines.items():
            seconds, busy = (statistics.median(one[place] for one in found) for place in (0, 1))
            peak, torch = max(one[2] for one in found), any(one[3] for one in found)
            print(f"{name:26} {seconds:6.2f} s, {busy:5.2f} s of a processor  {peak:5.0f} MB  torch imported: {torch}")
    finally:
        shutil.rmtree(kept)
        if words.folder is None:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
