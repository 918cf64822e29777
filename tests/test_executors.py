"""Executors: tasks as words, slots, and what one worker's death costs."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_store import CERTIFY, add, run_spec
from test_contract import GOOD
from test_run import cell
from typer.testing import Result

from bench.errors import BenchError, Interrupted, UsageError
from bench.executors import job, local
from bench.executors.engine import Engine
from bench.executors.job import Job
from bench.executors.local import LocalExecutor, Slot, share_out
from bench.files import claims
from bench.matrix.plan import Request, make_plan
from bench.matrix.task import Options, Outcome, Task
from bench.registry import Registry
from bench.store.runs import Store
from bench.system.guards import settings_kept
from bench.system.signals import StopSignals

Call = Callable[..., Result]
COUNTS = (990, 980, 970, 960)


# ----------------------------------------------------------------------------------------------------------------- tasks


def task(root: Path, seed: int = 0, **fields: Any) -> Task:
    values: dict[str, Any] = {
        "spec": run_spec(seed=seed),
        "certify": CERTIFY,
        "results": root,
        "plugins": (),
        "sources": {"method_sha256": "a" * 64},
        "options": Options(device=torch.device("cpu"), batch=500),
    }
    return Task(**values | fields)


def test_a_task_survives_its_journey(tmp_path: Path) -> None:
    options = Options(device=torch.device("cuda"), batch=7, allow_changed_source=True, data_dir=tmp_path / "ü")
    one = task(
        tmp_path, 3, options=options, spec=run_spec("smoothmix.eta5", changes={"step_size": 0.5}), plugins=(tmp_path / "ä b.py",), anew=True
    )
    assert Task.from_text(one.to_text()) == one
    assert "\n" not in one.to_text()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"spec":{}}', '{"spec":{},"certify":{},"results":1,"plugins":[]}'])
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(BenchError):
        Task.from_text(text)


def test_a_worker_finds_the_cell_that_was_planned(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    request = Request(
        methods=("smoothmix", "mine"), seeds=(7,), sigmas=(0.25,), protocol="smoke", changes={"certify.n": "200", "train.epochs": "2"}
    )
    for planned in make_plan(request, Registry((path,))).cells:
        words = task(tmp_path, spec=planned.spec, certify=planned.certify, sources=planned.sources, plugins=(path,)).to_text()
        found = Task.from_text(words).cell()
        assert (found.spec, found.certify, found.id, found.sources) == (
            planned.spec,
            planned.certify,
            planned.id,
            planned.sources,
        )
        assert vars(found.method) == vars(planned.method)
    with pytest.raises(BenchError, match="was changed since the matrix was planned"):
        task(tmp_path, spec=planned.spec, plugins=(path,)).cell()


def test_a_file_that_a_worker_imports_leaves_no_setting_to_the_next_task(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    (planned,) = make_plan(Request(methods=("mine",), sigmas=(0.25,), protocol="smoke"), Registry((path,))).cells
    path.write_text(GOOD + "torch.backends.mkldnn.enabled = False\ntorch.set_default_dtype(torch.float64)\n")
    with settings_kept() as check:
        with pytest.raises(BenchError, match="was changed since the matrix was planned"):
            task(tmp_path, spec=planned.spec, plugins=(path,)).cell()
        check()


# ----------------------------------------------------------------------------------------------------------------- slots


@pytest.mark.parametrize(
    ("asked", "threads"),
    [
        ({"jobs": None, "cells": 27, "cores": 8}, ["1"] * 8),
        ({"jobs": None, "cells": 2, "cores": 8}, ["4"] * 2),
        ({"jobs": 3, "cells": 27, "cores": 8}, ["2"] * 3),
        ({"jobs": 16, "cells": 27, "cores": 8}, ["1"] * 16),
        ({"jobs": 2, "cells": 27, "cores": 8, "threads": 1}, ["1"] * 2),
        ({"jobs": 2, "cells": 27, "cores": 8, "threads": 64}, ["4"] * 2),
        ({"jobs": None, "cells": 0, "cores": 2}, ["2"]),
    ],
)
def test_the_cores_are_shared_out(asked: dict[str, Any], threads: list[str]) -> None:
    assert [slot["OMP_NUM_THREADS"] for slot in share_out(**asked)] == threads


@pytest.mark.parametrize(
    ("jobs", "limit", "here", "sooner"),
    [(None, "1", 1, 1), ("1", "1", 1, 1), ("2", "1", 1, 2), ("8", "1", 1, 4), ("auto", "1", 1, 4), ("2", "", 4, 1), ("2", "2", 2, 2)],
)
def test_how_much_sooner_cells_are_done_side_by_side(
    monkeypatch: pytest.MonkeyPatch, jobs: str | None, limit: str, here: int, sooner: int
) -> None:
    """Nine cells on four cores. here: threads of a cell that runs alone."""
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    for module in ("local", "engine"):
        monkeypatch.setattr(f"bench.executors.{module}.cores_here", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: here)
    cells = 9 * [cell()]
    assert Engine(jobs=jobs).side_by_side(cells, torch.device("cpu"), 9) == sooner
    assert Engine(name="ray", jobs=jobs).side_by_side(cells, torch.device("cpu"), 9) == 1


def test_every_gpu_gets_its_cells() -> None:
    slots = share_out(None, cells=100, cores=16, gpus=("0", "GPU-b"), per_gpu=2)
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "GPU-b", "0", "GPU-b"]
    assert [slot["OMP_NUM_THREADS"] for slot in slots] == ["4"] * 4
    with pytest.raises(UsageError, match="--jobs 5 is more than 2 GPUs x 2 slots; raise --slots-per-gpu"):
        share_out(5, cells=100, cores=16, gpus=("0", "1"), per_gpu=2)


# -------------------------------------------------------------------------------------------------- workers that misbehave

# Speaks as a worker does, without torch; what it does with a task is its seed.
FAKE = """
import json, os, signal, sys, time
events = os.fdopen(int(sys.argv[1]), "w")
def send(**event):
    events.write(json.dumps(event) + "\\n"); events.flush()
for line in sys.stdin.buffer:
    task = json.loads(json.loads(line)["task"])
    seed = task["spec"]["seed"]
    send(begin=0)
    send(progress=["training", 1, 2])
    print("at work on", seed)
    if seed == 1: os._exit(3)
    if seed == 2: os.kill(os.getpid(), signal.SIGSEGV)
    if seed == 3:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True: time.sleep(1)
    if seed == 4:
        for _ in range(200): print("x" * 100_000, flush=True)
        print("the end of the flood", flush=True)
        send(outcome={"state": "failed", "kind": "error", "reason": "RuntimeError: no"}, trace="a trace"); continue
    if seed == 5 and task["options"]["batch"] > 250: os.kill(os.getpid(), signal.SIGKILL)
    if seed == 6:
        if not os.fork():
            time.sleep(60)
    if seed == 7:
        sys.stdout.close(); os.close(1); os.close(2)
    send(say=f"pid {os.getpid()} batch {task['options']['batch']}")
    send(outcome={"state": "done"}, trace="")
"""


class Log:
    """A watch that remembers."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.said: list[str] = []
        self.steps: list[tuple[int, str, int, int]] = []

    def begin(self, number: int) -> None:
        self.begun.append(number)

    def progress(self, number: int, phase: str, done: int, total: int, note: str = "") -> None:
        self.steps.append((number, phase, done, total))

    def say(self, text: str) -> None:
        self.said.append(text)


def fakes(slots: int = 2, timeout: float | None = None) -> LocalExecutor:
    return LocalExecutor(share_out(slots, cells=9, cores=2), timeout, (sys.executable, "-c", FAKE))


def outcomes(root: Path, seeds: list[int], watch: Log | None = None, **fields: Any) -> dict[int, Outcome]:
    """Outcome by seed."""
    found = fakes(**fields).outcomes([task(root, seed) for seed in seeds], watch or Log(), StopSignals())
    return {seeds[number]: outcome for number, outcome in found}


@pytest.mark.parametrize(
    ("shown", "devices", "given"),
    [("0,1,2,3", 2, ["0,1", "2,3"]), ("4,5", 2, ["4,5", "4,5"]), ("7", 2, ["7", "7"]), ("0,1", 1, ["0", "1"])],
)
def test_slots_of_a_job_have_all_gpus_of_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, devices: int, given: list[str]
) -> None:
    found: list[str] = []

    def executor(slots: Sequence[Slot], timeout: float | None) -> LocalExecutor:
        found.extend(slot["CUDA_VISIBLE_DEVICES"] for slot in slots)
        return LocalExecutor(slots, timeout, (sys.executable, "-c", FAKE))

    monkeypatch.setattr(job, "LocalExecutor", executor)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    texts = [task(tmp_path, spec=run_spec(seed=seed, train={"devices": devices})).to_text() for seed in (0, 10)]
    told = Job(texts, threads=1, slots=2).run(str)
    assert [json.loads(text)["state"] for text in told] == ["done", "done"]
    assert found == given


def test_cells_go_to_few_workers_in_order(tmp_path: Path) -> None:
    watch = Log()
    found = outcomes(tmp_path, [0, 10, 11, 12, 13, 14], watch)
    assert {outcome.state for outcome in found.values()} == {"done"}
    assert watch.begun == [0, 1, 2, 3, 4, 5]
    assert len({text.split()[1] for text in watch.said}) == 2, "two processes for six cells"
    assert (3, "training", 1, 2) in watch.steps


def test_a_death_costs_one_cell(tmp_path: Path) -> None:
    found = outcomes(tmp_path, [0, 1, 10, 2, 11, 4, 6, 7])
    assert {seed for seed, outcome in found.items() if outcome.state == "done"} == {0, 10, 11, 6, 7}
    reasons = {1: "left with exit code 3 in the middle", 2: "was killed by SIGSEGV", 4: "RuntimeError: no"}
    for seed, reason in reasons.items():
        assert reason in found[seed].reason
        record = Store(tmp_path).run(run_spec(seed=seed)).failure()
        assert record
        assert reason in record["reason"]
        assert record["kind"] == {4: "error"}.get(seed, "crash")
        assert ("the end of the flood" if seed == 4 else f"at work on {seed}") in record["log"]
        assert len(record["log"]) <= local.LOG_BYTES
    assert (Store(tmp_path).run(run_spec(seed=4)).failure() or {})["trace"] == "a trace"
    assert not list(tmp_path.rglob("claim-*"))


def test_a_hang_costs_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.0)
    begun = time.monotonic()
    found = outcomes(tmp_path, [3, 0, 10], timeout=0.5)
    assert time.monotonic() - begun < 20
    assert (found[3].state, found[3].kind) == ("failed", "timeout")
    assert "took longer than --timeout 0.5 s" in found[3].reason
    assert (found[0].state, found[10].state) == ("done", "done")


@pytest.mark.parametrize("told", [True, False])
def test_a_worker_killed_for_memory_is_tried_again_once_with_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """The system counts such kills in /proc/vmstat; a SIGKILL without one may come from anybody and is a crash."""
    counts = iter(range(100))
    monkeypatch.setattr(local, "_oom_kills", lambda: next(counts) if told else 5)
    watch = Log()
    found = outcomes(tmp_path, [5], watch)
    if told:
        assert found[5].state == "done"
        assert any("tried again with 250 samples" in text for text in watch.said)
        assert watch.said[-1].endswith("batch 250")
    else:
        assert (found[5].state, found[5].kind) == ("failed", "crash")
        assert "SIGKILL" in found[5].reason


def test_the_system_counts_kills_for_memory() -> None:
    assert local._oom_kills() >= 0


def test_a_worker_that_dies_behind_its_last_row_did_its_work(tmp_path: Path) -> None:
    add(Store(tmp_path), run_spec(seed=1), counts=COUNTS)
    assert outcomes(tmp_path, [1])[1].state == "done"


def test_a_signal_ends_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker ignores it; it is killed when the grace is over."""
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.2)
    stop, watch = StopSignals(), Log()
    executor = fakes()

    def interrupt() -> None:
        while len(watch.steps) < 2:
            time.sleep(0.01)
        stop.received = signal.SIGTERM

    thread = threading.Thread(target=interrupt)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(Interrupted):
        list(executor.outcomes([task(tmp_path, 3), task(tmp_path, 3, spec=run_spec("macer", seed=3))], watch, stop))
    thread.join()
    assert time.monotonic() - begun < 20
    assert executor.workers == [None, None]


# ------------------------------------------------------------------------------------------------------- the real workers


def test_side_by_side_gives_the_same_bytes_and_a_crash_costs_one_cell(tiny: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes: two cells of a built-in method and one of a plug-in that leaves by os._exit."""
    from test_run import results_of

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = tmp_path / "mine.py"
    path.write_text(
        GOOD.replace("        logits =", "        print('last words', flush=True)\n        __import__('os')._exit(7)\n        logits =")
    )
    words = ("--method", "gaussian", "--sigma", "0.25,0.5")
    assert tiny(*words).exit_code == 0
    alone = results_of(tmp_path / "runs")
    result = tiny(
        "--method", "gaussian,mine", "--plugin", path, "--sigma", "0.25,0.5", "--jobs", "2", "--results", tmp_path / "side", "--json"
    )
    assert result.exit_code == 1, result.output
    states = {(c["row"], c["sigma"]): (c["state"], c["reason"]) for c in json.loads(result.stdout)["cells"]}
    assert states["gaussian", 0.25][0] == states["gaussian", 0.5][0] == "done"
    assert states["mine", 0.25] == ("failed", "its process left with exit code 7 in the middle")
    failed = next((tmp_path / "side" / "mnist" / "mine.default").glob("*/failure.json"))
    assert "last words" in json.loads(failed.read_text())["log"]
    both = {name: content for name, content in results_of(tmp_path / "side").items() if "mine" not in name}
    assert both == alone
    assert not list((tmp_path / "side").rglob("claim-*"))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        *(("--jobs", value) for value in ("0", "-1", "many", "1.5", "", "99999", "²")),
        *(("--timeout", value) for value in ("0", "-3", "nan", "inf")),
    ],
)
def test_a_wrong_number_is_refused(tiny: Call, flag: str, value: str) -> None:
    result = tiny("--method", "gaussian", flag, value, "--dry-run")
    assert result.exit_code == 2
    assert f"{flag} {value}" in result.output


ONE = ("--method", "gaussian", "--sigma", "0.25")


@pytest.fixture
def elsewhere(tiny: Call) -> Path:
    """The claim of another machine on the only cell."""
    path = Path(json.loads(tiny(*ONE, "--json", "--dry-run").stdout)["cells"][0]["path"]) / "claim-1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"host": "another", "pid": 5, "system": "x", "birth": "1"}))
    return path


def test_cells_of_another_process_are_waited_for(tiny: Call, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claim expires while this one waits; it then does the cell itself, and says so."""
    monkeypatch.setattr(claims, "STALE_SECONDS", 1.5)
    result = tiny(*ONE)
    assert result.exit_code == 0, result.output
    for told in (
        "is being computed by another process (process 5 on another",
        "waiting for other processes, which compute 1 of these cells",
        "taken over from process 5 on another",
        "1 done of 1 cell\n",
    ):
        assert told in result.output


def test_waiting_with_a_clock_that_is_ahead_says_so_once_and_sleeps(tiny: Call, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rounds = time.time, []

    def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 3:
            elsewhere.unlink()

    monkeypatch.setattr(time, "time", lambda: clock() + 2 * claims.STALE_SECONDS)
    monkeypatch.setattr("bench.api.matrix.time.sleep", sleep)
    result = tiny(*ONE)
    assert result.exit_code == 0, result.output
    assert "1 done of 1 cell\n" in result.output
    assert len(rounds) >= 3, "the holder lives until its claim goes"
    assert [result.output.count(text) for text in ("waiting for other processes", "is being computed by another process")] == [1, 1]


@pytest.fixture
def handed_out(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Tasks in the order in which they are handed to processes; none of them is carried out."""
    seen: list[Task] = []

    def look(self: LocalExecutor, tasks: list[Task], watch: Log, stop: object) -> list[tuple[int, Outcome]]:
        seen.extend(tasks)
        for number in range(len(tasks)):
            watch.begin(number)
        return [(number, Outcome(state="done")) for number in range(len(tasks))]

    monkeypatch.setattr(LocalExecutor, "outcomes", look)
    return seen


def test_a_plugin_travels_by_its_absolute_path(
    handed_out: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Call
) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    words = ("--plugin", "mine.py", "--method", "mine,gaussian", "--sigma", "0.25", "--jobs", "1", "--protocol", "smoke", "--results", "r")
    assert bench("run", *words).exit_code == 0
    assert {t.spec.method: t.plugins for t in handed_out} == {"mine": (tmp_path / "mine.py",), "gaussian": ()}
    assert {t.results for t in handed_out} == {tmp_path / "r"}


def test_long_cells_go_first(handed_out: list[Task], tiny: Call) -> None:
    assert tiny("--method", "gaussian,smoothmix,stability", "--sigma", "0.25", "--jobs", "2").exit_code == 0
    assert [t.spec.row for t in handed_out] == ["smoothmix.eta5", "stability", "gaussian"]
