"""Who carries cells out: the interface that the conductor of a matrix and every executor share.

A task says in plain words what a cell is, so that another process or another machine can act on it; plug-ins travel as paths.
An executor takes tasks in order, as places become free, and yields an outcome for each. A new one needs `outcomes` and, where its
cells run, `bench.executors.worker.carry_out`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench.errors import BenchError
from bench.spec import CertifySpec, RunSpec, canonical, from_json, parse_json, to_json
from bench.store.runs import State

if TYPE_CHECKING:
    from bench.system.signals import StopSignals


@dataclass(frozen=True, kw_only=True)
class Task:
    """One cell as words: all that a process elsewhere needs.

    Attributes:
        results: folder of the runs, absolute. plugins: files of methods and data sets, absolute.
        source_sha256: of the method's file as it was planned; a worker that finds another one refuses. presets_of: as `Cell`.
        options: `bench.matrix.cells.Options` as words, see `bench.executors.worker.as_words`.
        anew: set the old folder aside first.
    """

    spec: RunSpec
    certify: CertifySpec
    results: Path
    plugins: tuple[Path, ...]
    source_sha256: str
    options: Mapping[str, Any]
    presets_of: str = ""
    anew: bool = False

    @property
    def name(self) -> str:
        """What a person calls its cell."""
        return f"{self.spec.row} {self.spec.dataset} sigma {self.spec.sigma} seed {self.spec.seed}"

    def to_text(self) -> str:
        """One line of JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own = {"spec": to_json(self.spec), "certify": to_json(self.certify), "results": str(self.results)}
        return canonical(fields | own | {"plugins": [str(path) for path in self.plugins], "options": dict(self.options)})

    @classmethod
    def from_text(cls, text: str | bytes) -> Task:
        """The inverse of `to_text`.

        Raises:
            BenchError: not a task of this release.
        """
        try:
            data = parse_json(text)
            spec, certify = canonical(data["spec"]), canonical(data["certify"])
            paths = {"results": Path(data["results"]), "plugins": tuple(map(Path, data["plugins"]))}
            own = {"spec": from_json(RunSpec, spec, "task"), "certify": from_json(CertifySpec, certify, "task")}
            return cls(**data | own | paths)
        except (ValueError, TypeError, KeyError) as error:
            raise BenchError(f"not a task: {type(error).__name__}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt at a cell ended.

    Attributes:
        state: done, diverged, failed, or running: another process is at it.
        kind: of a failure: error, oom, disk, timeout, crash.
        reason: of a failure or divergence, one sentence.
    """

    state: State | Literal["running"]
    kind: str = ""
    reason: str = ""


class Watch(Protocol):
    """Whoever wants to know how tasks go on; `number` is a task's place in the sequence."""

    def begin(self, number: int) -> None:
        """It was handed out."""

    def progress(self, number: int, phase: str, done: int, total: int) -> None:
        """`phase` is training or certifying; counts are steps or images."""

    def say(self, text: str) -> None:
        """One line that the user should see."""


class Executor(Protocol):
    """Carries tasks out, in one process or many."""

    def outcomes(self, tasks: Sequence[Task], watch: Watch, stop: StopSignals) -> Iterator[tuple[int, Outcome]]:
        """Each task's place and outcome, as they end.

        Raises:
            Interrupted: a signal came; it was passed on, every process has ended, and what was finished is on disk.
        """
