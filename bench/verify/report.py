"""What a verification found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchError
from bench.fieldlog import Refused
from bench.store import Certification, Run

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """Something that does not hold.

    Attributes:
        file: the file or folder that shows it.
        line: counted from 1; None where the whole file is meant.
        reason: one sentence.
    """

    file: Path
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f', line {self.line}'}: {self.reason}"


@dataclass(frozen=True)
class Unfinished:
    """A training, certification or import that was begun and has not come to its end."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Evidence:
    """A finished certification in which nothing fails.

    Attributes:
        rows: images.
        weights: whether the weights of its run lie beside it, with the recorded check sum.
        sha256: of the evidence.
        bound: whether its records say of which weights and specs these rows are, see `bench.binding`.
    """

    certification: Certification
    rows: int
    weights: bool
    sha256: str = ""
    bound: bool = False


@dataclass(kw_only=True)
class Report:
    """Everything that was checked and everything that does not hold.

    Attributes:
        top: the folder or file that was checked.
        alpha: at which radii were recomputed.
        subjects: certified base classifiers that the suite did not train.
        trainings: runs that are trained, and whether their weights lie beside them and are theirs.
        weights: files of weights whose check sum was compared.
        rows: of evidence. imported_rows: of imported logs. log_rows: of log files.
        distinct: radii that were computed twice, one per distinct count.
        unchecked: what could not be checked here, and why.
        finished: certifications that recertification can draw from.
    """

    top: Path
    alpha: float
    runs: int = 0
    trainings: list[tuple[Run, bool]] = field(default_factory=list)
    subjects: int = 0
    weights: int = 0
    certifications: int = 0
    rows: int = 0
    imports: int = 0
    imported_rows: int = 0
    log_rows: int = 0
    distinct: int = 0
    finished: list[Evidence] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, file: Path, reason: str, line: int | None = None) -> None:
        """Notes a failure."""
        self.failures.append(Failure(file, line, reason))

    def attempt(self, file: Path, work: Callable[[], T]) -> T | None:
        """What work returns; None where it raises, which becomes a failure of that file."""
        try:
            return work()
        except Refused as error:
            self.fail(file, error.reason, error.line)
        except BenchError as error:
            self.fail(file, str(error).removeprefix(f"{file}: "))
        except OSError as error:
            self.fail(file, f"cannot be read: {error.strerror}")
        return None


def misplaced(folder: Path, top: Path, place: Path) -> str | None:
    """In what a folder below `top` is not where its spec belongs, as far as the path shows it; None if in nothing."""
    below = folder.relative_to(top).parts or (folder.resolve().name,)
    shown = min(len(below), len(place.parts))
    if below[-shown:] == place.parts[-shown:]:
        return None
    return f"what it describes belongs in {Path(*place.parts[-shown:])}, but the folder is {Path(*below[-shown:])}"
