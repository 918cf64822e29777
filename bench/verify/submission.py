"""Whether a submission is what its list says, and its texts what its records say; nothing of it is run."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from bench.errors import BenchError
from bench.files import disk
from bench.files.walk import PLUGINS, SUBMISSION
from bench.registry import code_of_plugin
from bench.store import submission
from bench.store.runs import Store
from bench.store.subject import Subject
from bench.store.submission import WEIGHTS, Listed
from bench.verify.report import Report


def check(folder: Path, report: Report) -> None:
    """Adds to a report what in a submission is not as its submission.json lists it; every file of it is read."""
    path = folder / SUBMISSION
    said = report.attempt(path, lambda: submission.read(folder))
    there = report.attempt(folder, lambda: dict(submission.content(folder)))
    if said is None or there is None:
        return
    listed = {**said.files, **said.elsewhere}
    for name, kind in there.items():
        if kind != "file":
            report.fail(folder / name, f"it is a {kind}, which no submission holds")
        elif name in listed:
            report.attempt(folder / name, lambda name=name: _compare(folder / name, listed[name]))  # type: ignore[misc]
        elif name != SUBMISSION:
            report.fail(folder / name, f"{SUBMISSION} does not list it")
        if name.startswith(f"{PLUGINS}/") and not submission.of_source(name):
            report.fail(folder / name, f"{PLUGINS} holds texts of plug-ins, NAME/NAME.py, and nothing else")
    for name in said.files.keys() - there.keys():
        report.fail(folder / name, f"{SUBMISSION} lists it, but it is not there")
    report.listed += len(listed.keys() & there.keys())
    subjects = [found for found in Store(folder).scan() if isinstance(found, Subject)]
    _check_elsewhere(folder, said.elsewhere, subjects, report)
    if not any(failure.file.is_relative_to(folder / PLUGINS) for failure in report.failures):
        _check_texts(folder, [name for name in there if submission.of_source(name)], subjects, report)


def _compare(path: Path, listed: Listed) -> None:
    """BenchError unless a file is as the list says."""
    with disk.opened(path) as (_, status):
        size = status.st_size
    if size != listed.bytes:
        raise BenchError(f"it has {size:,} bytes, but {SUBMISSION} says {listed.bytes:,}")
    if (found := disk.sha256(path)) != listed.sha256:
        raise BenchError(f"SHA-256 is {found}, but {SUBMISSION} says {listed.sha256}")


def _check_elsewhere(folder: Path, elsewhere: Mapping[str, Listed], subjects: list[Subject], report: Report) -> None:
    """Weights that are said to be elsewhere are those of the runs in whose folders they would be."""
    recorded: dict[str, str | None] = {}
    for subject in subjects:
        with contextlib.suppress(BenchError):  # which was told
            recorded[subject.weights.relative_to(folder).as_posix()] = (subject.training() or {}).get("weights_sha256")
    for name, listed in elsewhere.items():
        if recorded.get(name) != listed.sha256:
            report.fail(folder / SUBMISSION, f"{name} is no {WEIGHTS} that a run in it has recorded with SHA-256 {listed.sha256}")


def _check_texts(folder: Path, texts: list[str], subjects: list[Subject], report: Report) -> None:
    """The code of each plug-in has the SHA-256 that runs have recorded of it. Comments and docstrings may differ."""
    codes: dict[str, set[str]] = defaultdict(set)
    for subject in subjects:
        with contextlib.suppress(BenchError):  # which was told
            for name, code in subject.plugins():
                codes[name].add(code)
    for name in sorted({PurePosixPath(text).parts[1] for text in texts}):
        path = folder / PLUGINS / name / f"{name}.py"
        known = codes.get(path.name, set())
        if not disk.there(path):
            report.fail(path, "it is not there, but its folder is")
            continue
        try:
            code = code_of_plugin(path)
        except (RecursionError, MemoryError, ValueError, OSError) as error:
            report.fail(path, f"its code cannot be read ({type(error).__name__})")
            continue
        if not known:
            report.fail(path, "no run in it was made with a plug-in of this name")
        elif known != {code}:
            report.fail(path, f"the SHA-256 of its code is {code}, but runs in it record {' and '.join(sorted(known))}")
