"""What a verification found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.errors import BenchError, Fault
from bench.evidence.certification_log import Refused
from bench.files.walk import What
from bench.store.runs import Run
from bench.store.subject import Certification, Subject

T = TypeVar("T")
Failure = Fault
"""Something that does not hold: file, line and reason."""


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
        bound: whether its records say of which weights and specs these rows are, see `bench.evidence.binding`.
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
        places: where each run lies, by key.
        trainings: runs that are trained, and whether their weights lie beside them and are theirs.
        verified: runs and checkpoints that were looked into, whatever came of it.
        weights: files of weights whose check sum was compared.
        listed: files of submissions that were compared with the lists of these.
        rows: of evidence. imported_rows: of imported logs. log_rows: of log files.
        distinct: radii that were computed twice, one per distinct count.
        unchecked: what could not be checked here, and why.
        unexpected: files that the suite did not write, and that nothing reads.
        finished: certifications that recertification can draw from.
        asked: keys of trainings whose models other runs asked. uncertified: by key, trainings without any certification.
    """

    top: Path
    alpha: float
    runs: int = 0
    places: dict[str, Path] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    uncertified: dict[str, Unfinished] = field(default_factory=dict)
    trainings: list[tuple[Run, bool]] = field(default_factory=list)
    subjects: int = 0
    verified: list[Subject] = field(default_factory=list)
    weights: int = 0
    listed: int = 0
    certifications: int = 0
    rows: int = 0
    imports: int = 0
    imported_rows: int = 0
    log_rows: int = 0
    distinct: int = 0
    finished: list[Evidence] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    unexpected: list[Fault] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    failures: list[Fault] = field(default_factory=list)
    _told: set[str] = field(default_factory=set, repr=False)

    def count(self, what: What) -> None:
        """Notes that a subject was looked at."""
        self.runs += what == "run"
        self.subjects += what == "subject"
        self.imports += what == "import"

    def fail(self, file: Path, reason: str, line: int | None = None) -> None:
        """Notes a failure."""
        self._note(Fault(file, line, reason))

    def add(self, faults: Iterable[Fault]) -> bool:
        """Notes failures; whether there are any."""
        found = list(faults)
        for fault in found:
            self._note(fault)
        return bool(found)

    def _note(self, fault: Fault) -> None:
        """What two checks meet is told once."""
        if str(fault) not in self._told:
            self._told.add(str(fault))
            self.failures.append(fault)

    def attempt(self, file: Path, work: Callable[[], T]) -> T | None:
        """What work returns; None where it raises, which becomes a failure of that file."""
        try:
            return work()
        except Fault as fault:
            self._note(fault)
        except Refused as error:
            self.fail(file, error.reason, error.line)
        except BenchError as error:
            self.fail(file, str(error).removeprefix(f"{file}: "))
        except OSError as error:
            self.fail(file, f"cannot be read: {error.strerror}")
        return None
