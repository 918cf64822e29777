"""Crashes a tiny training, certification and table at every I/O step, in processes forked after the imports.

    python tests/crash.py FOLDER '[{"fault": "crash"}, {"fault": "power"}, {"fault": "full"}, {"fault": "kill", "count": 50}]'

Prints a line of JSON for each: how many points were tried and what went wrong, the steps of an undisturbed run, and seconds.
Without faults: a server of forked command lines, see `serve`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from faulty_disk import CRASHED, Disk
from torch import nn
from typer.main import get_command

from bench import models
from bench.cli import app
from bench.data import load
from bench.files import claims
from bench.matrix.cells import run_cell
from bench.matrix.plan import Request, make_plan
from bench.matrix.task import Options
from bench.registry import Registry
from bench.store import runs
from bench.system import environment
from bench.system.signals import StopSignals

RESULTS = {"spec.json", "curve.csv", "training.json", "weights.safetensors", "subject.json", "evidence.jsonl", "finished.json", "table.md"}
SIZES = {
    "train.arch": "tiny",
    "train.images": "first:64",
    "train.batch": "16",
    "certify.images": "first:3",
    "certify.n": "50",
    "certify.n0": "5",
}

models.ARCHITECTURES["tiny"] = lambda info: nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, info.classes))
torch.set_num_threads(1)
CELL = make_plan(Request(methods=("gaussian",), sigmas=(0.25,), protocol="smoke", changes=SIZES), Registry()).cells[0]
TABLE = get_command(app)
PLAIN: dict[str, Any] = {"standalone_mode": False}
OPTIONS = Options(device=torch.device("cpu"), checkpoint_seconds=0.0)


class Events:
    """A report that writes what happens to a pipe at once: what arrived there had been done."""

    def __init__(self, handle: int) -> None:
        self.file = os.fdopen(handle, "w")

    def send(self, *words: object) -> None:
        self.file.write(json.dumps(words) + "\n")
        self.file.flush()

    def progress(self, phase: str, done: int, total: int, note: str = "") -> None:
        self.send(phase, done)

    def say(self, text: str) -> None:
        self.send("say", text)


def work(base: Path, events: Events) -> None:
    """One plain run of the cell, and the table of what there is."""
    outcome = run_cell(CELL, runs.Store(base / "runs"), OPTIONS, events, StopSignals())
    events.send("outcome", outcome.state, outcome.kind, outcome.reason)
    if outcome.state == "done":
        words = ["table", "--results", str(base / "runs"), "--protocol", "smoke", "--format", "markdown", "--out", str(base / "table.md")]
        events.send("table", TABLE.main(words, **PLAIN))


def in_a_fork(base: Path, prepare: Callable[[Disk], None] | None, meanwhile: Callable[[int], None] | None = None) -> tuple[int, list[Any]]:
    """Exit status and events of a run in a process of its own; the last event are its I/O steps, if it came to its end."""
    base.mkdir(exist_ok=True)
    reader, writer = os.pipe()
    if not (process := os.fork()):
        code = 1
        try:
            os.close(reader)
            for standard in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), standard)
            events = Events(writer)
            disk = Disk(base)
            disk.install()
            if prepare:
                prepare(disk)
            work(base, events)
            events.send("steps", *disk.steps)
            code = 0
        except BaseException:
            events.send("trace", traceback.format_exc())
        finally:
            os._exit(code)
    os.close(writer)
    if meanwhile:
        meanwhile(process)
    with os.fdopen(reader) as file:
        lines = file.readlines()
    _, status = os.waitpid(process, 0)
    return status, [json.loads(line) for line in lines if line.endswith("\n")]


def results_of(base: Path) -> dict[str, bytes]:
    return {str(p.relative_to(base)): p.read_bytes() for p in sorted(base.rglob("*")) if p.name in RESULTS}


def a_minute_later(disk: Disk) -> None:
    """A claim that power left without its content says nothing of its holder, so only time makes it void."""
    claims.STALE_SECONDS = 0.0


def find_faults(base: Path, expected: dict[str, bytes], before: list[Any], power: bool) -> list[str]:
    """What is wrong after a fault and one plain rerun."""
    status, events = in_a_fork(base, a_minute_later if power else None)
    wrong = [event[1] for event in events if event[0] == "trace"]
    if status or ["outcome", "done", "", ""] not in events:
        wrong.append(f"the rerun ended with {status}, {[e for e in events if e[0] in ('outcome', 'say')]}")
    if (found := results_of(base)) != expected:
        wrong.append(f"other results: {[n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)]}")
    finished = max((count for phase, count in before if phase == "certifying"), default=0) if before else 0
    again = [count for phase, count, *_ in events if phase == "certifying" and count <= finished]
    if again:
        wrong.append(f"rows {again} were computed again")
    if finished and any(event[0] == "training" for event in events):
        wrong.append("it was trained again")
    if left := [
        p.name for p in (base / "runs").rglob("*") if p.name.endswith(".tmp") or p.name.startswith(("claim", "checkpoint", "failure"))
    ]:
        wrong.append(f"left behind: {left}")
    return wrong


def warm_up(folder: Path) -> None:
    """What every fork shares: data, and whatever is imported or asked of the system only once."""
    for split in ("train", "test"):
        load("mnist", split, None, allow_other=False)  # exactly as a run asks for it: that is what is cached
    environment.describe(OPTIONS.device, {}, {})
    TABLE.main(["table", "--results", str(Path(__file__).parent.parent / "results" / "reference"), "--out", str(folder / "x.md")], **PLAIN)
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)  # not by a backward pass, behind which torch refuses to be forked
    torch.optim.SGD([weight], lr=0.1).step()


def main() -> None:
    folder = Path(sys.argv[1])
    warm_up(folder)
    if sys.argv[2:]:
        for what in json.loads(sys.argv[2]):
            print(json.dumps(try_points(folder / what["fault"], what)))
    else:
        serve(folder)


def serve(folder: Path) -> None:
    """Runs command lines in forks: `{"words": [...], "out": FILE, "set": {"bench.files.claims": {...}}}` -> pid; `{"wait": pid}` -> code.

    `{"fault": ...}` -> what comes of its points.
    """
    for line in sys.stdin:
        order = json.loads(line)
        answer: Any
        if "fault" in order:
            answer = json.dumps(try_points(folder / order["fault"], order))
        elif "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        elif not (answer := os.fork()):
            run_command(order)
        print(answer, flush=True)


def run_command(order: dict[str, Any]) -> NoReturn:
    code: Any = 1
    try:
        out = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for standard in (1, 2):
            os.dup2(out, standard)
        for module, values in order.get("set", {}).items():
            for name, value in values.items():
                setattr(sys.modules[module], name, value)
        if seconds := order.get("checkpoint_seconds"):
            (Options.__init__.__kwdefaults__ or {})["checkpoint_seconds"] = seconds
        app(order["words"])
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def try_points(folder: Path, what: dict[str, Any]) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    status, events = in_a_fork(folder / "undisturbed", None)
    steps = events[-1][1:]
    assert status == 0, events
    expected = results_of(folder / "undisturbed")
    assert len(expected) == 9, expected.keys()
    begun, points, faults = time.monotonic(), [], []
    for number, (name, prepare, meanwhile) in enumerate(make_points(what, steps, folder)):
        base = folder / f"{number}"
        status, events = in_a_fork(base, prepare, meanwhile)
        points.append(name)
        wrong = [event[1] for event in events if event[0] == "trace"]
        if what["fault"] in ("crash", "power") and status != CRASHED << 8:
            wrong.append(f"no crash: {status} {events}")
        if what["fault"] == "full":
            wrong += judge_full(events)
        done = [event[:2] for event in events if event[0] in ("training", "certifying")]
        wrong += find_faults(base, expected, done, what["fault"] == "power")
        faults += [f"{name}: {text}" for text in wrong]
        shutil.rmtree(base)
    seconds = time.monotonic() - begun
    return {"fault": what["fault"], "points": len(points), "faults": faults, "steps": len(steps), "seconds": round(seconds, 1)}


def judge_full(events: list[Any]) -> list[str]:
    """A write that failed is told with its reason, or was of a file that nothing depends on."""
    outcome = next((event for event in events if event[0] == "outcome"), None)
    if outcome is None:
        return [f"no outcome: {events}"]
    if outcome[1] == "done":
        return []
    said = [event[1] for event in events if event[0] == "say"]
    told = outcome[1:3] == ["failed", "disk"] and "No space left" in outcome[3]
    return [] if told and any(text.startswith(CELL.name) and "No space left" in text for text in said) else [f"{outcome} {said}"]


def make_points(what: dict[str, Any], steps: list[str], folder: Path) -> list[Any]:
    """Name, preparation of the disk, and what happens meanwhile, per point."""
    stride, offset = what.get("stride", 1), what.get("offset", 0)
    points: list[Any] = []
    numbered = list(enumerate(steps, start=1))
    if what["fault"] == "crash":
        for number, name in numbered:
            whens = ("before", "half", "after") if name == "write" else ("before", "after")
            points += [(f"{when} step {number} {name}", partial(Disk.crash, fatal=number, when=when), None) for when in whens]
    elif what["fault"] == "power":
        for number, name in numbered:
            seeds = (None, *range(what.get("seeds", 1)))
            points += [(f"{name} {number}, choice {seed}", partial(Disk.lose_power, fatal=number, seed=seed), None) for seed in seeds]
    elif what["fault"] == "full":
        points = [(f"full at step {number} {name}", partial(Disk.fail, fatal=number, code=errno.ENOSPC), None) for number, name in numbered]
    else:
        rng = random.Random(what.get("seed", 0))
        begun = time.monotonic()
        in_a_fork(folder / "timed", None)
        length = time.monotonic() - begun

        def kill(process: int, seconds: float) -> None:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)

        for number in range(what["count"]):
            seconds = rng.uniform(0, length)
            points.append((f"kill {number} after {seconds:.3f} s of {length:.3f}", None, lambda process, s=seconds: kill(process, s)))
    return points[offset::stride]


if __name__ == "__main__":
    main()
