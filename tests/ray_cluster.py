"""A Ray cluster of two machines, both of them processes of this one, on its loopback device and behind a token.

    python tests/ray_cluster.py

Prints the address, then obeys lines on standard input: `kill` ends everything of the second machine at once; the end of the input
ends the cluster. RAY_AUTH_TOKEN must be set.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from forks import descendants

SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # or it would not stay on the loopback device
    # A machine that is silent for a second is dead.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


def main() -> None:
    os.environ.update(SETTINGS)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "kill\n":
            (info,) = second.all_processes["raylet"]
            for pid in descendants(info.process.pid):
                os.kill(pid, signal.SIGKILL)
            print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout.flush()
        for pid in descendants(os.getpid())[1:]:
            subprocess.run(["kill", "-9", str(pid)], capture_output=True, check=False)
