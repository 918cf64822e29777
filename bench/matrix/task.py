"""What an executor carries out and what it answers: a cell in words, and how an attempt at it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError
from bench.spec import CertifySpec, RunSpec, canonical, from_json, parse_json, to_json
from bench.store.subject import State


@dataclass(frozen=True, kw_only=True)
class Task:
    """One cell as words: all that a process elsewhere needs.

    Attributes:
        results: folder of the runs, absolute. plugins: files of methods and data sets, absolute.
        sources: of the code as it was planned; a worker that finds another one refuses. presets_of: as `Cell`.
        options: `bench.matrix.cells.Options` as words, see `bench.executors.worker.as_words`.
        anew: set the old folder aside first.
    """

    spec: RunSpec
    certify: CertifySpec
    results: Path
    plugins: tuple[Path, ...]
    sources: Mapping[str, Any]
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
        own |= {"plugins": [str(path) for path in self.plugins], "options": dict(self.options), "sources": dict(self.sources)}
        return canonical(fields | own)

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
