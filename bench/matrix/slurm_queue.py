"""What a batch system says of its jobs, asked from any shell."""

from __future__ import annotations

import subprocess
from collections.abc import Collection

SECONDS = 20.0  # for a scheduler that is busy


def alive(jobs: Collection[str]) -> set[str] | None:
    """Those Slurm jobs that are waiting or running; None if nobody here can tell.

    Args:
        jobs: `123`, or `123_4` of an array.
    """
    wanted = set(jobs)
    if not wanted:
        return set()
    numbers = ",".join(sorted({job.partition("_")[0] for job in wanted}))
    line = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={numbers}"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:  # which it says of one that it has forgotten
        return None
    return wanted & set(done.stdout.split())
