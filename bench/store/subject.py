"""Whatever was certified: the one thing that everybody above the store works on.

    Subject        a folder of a store: its spec, what its records say, its certifications
      Run          trained here                       source "runs"         bench.store.runs
      Checkpoint   trained elsewhere, certified here  source "checkpoints"  bench.store.checkpoints
      Import       a published log                    source "imported"     bench.store.imports

A kind says what its spec is, where its folder lies, and how it is written. Whoever reads asks all kinds the same:

    for subject in store.scan():            # or Damaged, where not even the spec can be read
        subject.source, .key, .dataset, .sigma, .row, .method, .variant, .training_name, .name
        subject.faults()                    # what is wrong with its folder and its records
        for certification in subject.begun():               # or Damaged
            certification.status()          # how far it is, its rows, what is wrong with them; never raises
            certification.status().sound()  # the same, but raises what is wrong

The rows of a run and of a checkpoint are counts (`bench.evidence.columns.Columns`). A published log has one certification,
whose rows are radii as printed (`bench.store.imports.Printed`).

`subject.seen` holds what its records said when they were read first. A subject of a DataFrame has nothing else: no file of it is opened.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

from bench.datasets import BUILT_IN, DATASETS, DatasetInfo, facts_of, from_facts
from bench.datasets.recorded import differences, test_differences
from bench.errors import BenchError, Fault, as_fault, nearest
from bench.evidence import cache, records
from bench.evidence import rows as checked
from bench.evidence.binding import FINISHED, SUBJECT, Binding
from bench.evidence.certificate import Certificate, read_log, read_rows, to_line
from bench.evidence.columns import Columns
from bench.evidence.log import NOTHING
from bench.evidence.rows import NO_TIMES, Rows
from bench.evidence.sources import came_from
from bench.files import claims, disk
from bench.files.walk import CERTIFICATION, What, passing, strangers
from bench.files.writing import make_folder, read_json_if_there, sweep, sync_folder, write_json
from bench.spec import CertifySpec, from_json, select_images, to_json
from bench.store.verified import key_of

T = TypeVar("T")
Source = Literal["runs", "checkpoints", "imported"]
State = Literal["missing", "training", "certifying", "failed", "diverged", "done", "damaged"]
DIGEST, DAMAGE = "evidence_sha256", "damage"


@dataclass(frozen=True)
class Status:
    """How far a certification is.

    Attributes:
        columns: its finished rows. fault: what is wrong with it, where its state is `damaged`.
    """

    state: State
    columns: Any = NOTHING
    fault: Fault | None = None

    def sound(self) -> Status:
        """Itself, or its fault raised."""
        if self.fault:
            raise self.fault
        return self


@dataclass(frozen=True)
class Damaged:
    """A folder that looks like that of a subject or of a certification, but does not say which one."""

    path: Path
    fault: Fault

    @property
    def reason(self) -> str:
        return str(self.fault)

    def status(self) -> Status:
        return Status("damaged", fault=self.fault)


@dataclass(frozen=True)
class Subject:
    """Anything that was certified: its folder, its spec and its records.

    Attributes:
        seen: what its records said when they were read first, for who reads results: so they agree with each other, and are read once.
            None: they are read whenever they are asked for, as of a run that is being computed.
    """

    source: ClassVar[Source]
    what: ClassVar[What]
    spec_type: ClassVar[type[Any]]
    spec_file: ClassVar[str] = "spec.json"

    path: Path
    spec: Any
    seen: MutableMapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def place(spec: Any) -> Path:
        """Where the subject of a spec lies below the root of a store."""
        raise NotImplementedError

    # what it is

    @property
    def key(self) -> str:
        return str(self.spec.key)

    @property
    def dataset(self) -> str:
        return str(self.spec.dataset)

    @property
    def sigma(self) -> float:
        """Noise level in pixels of [0, 1]."""
        return float(self.spec.sigma)

    @property
    def row(self) -> str:
        """The row of tables that it is a training of."""
        return str(self.spec.row)

    @property
    def method(self) -> str:
        return str(self.spec.method)

    @property
    def variant(self) -> str:
        return str(self.spec.variant)

    @property
    def protocol(self) -> str | None:
        """That of a run; None for others. So are recipe and seed."""
        return getattr(self.spec, "protocol", None)

    @property
    def recipe(self) -> str | None:
        return getattr(self.spec, "recipe", None)

    @property
    def seed(self) -> int | None:
        return getattr(self.spec, "seed", None)

    @property
    def training_name(self) -> str:
        """What tells the trainings of a row apart: the seed, the name of a checkpoint, the run id of a log."""
        return str(self.seed)

    @property
    def file_name(self) -> str:
        """Of the file that it came in, if it came in one."""
        return ""

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"{self.row} {self.dataset} sigma {self.sigma:g} seed {self.seed}"

    @property
    def info(self) -> DatasetInfo:
        """Facts of its data set; of one that is not at hand, those that it keeps. BenchError if there are none."""
        if self.dataset in DATASETS:
            return DATASETS[self.dataset]
        facts = self.once("dataset.json", read_json_if_there)
        if facts is not None:
            return from_facts(self.dataset, facts, str(self.path / "dataset.json"))
        hint = came_from(self.environment() or {}, self.dataset) or nearest(self.dataset, DATASETS)
        raise BenchError(f"{self.path}: unknown data set {self.dataset!r}{hint}")

    # its records

    def once(self, name: str, read: Callable[[Path], T]) -> T:
        """What a record says, by its name below the folder; see `seen`."""
        if self.seen is None:
            return read(self.path / name)
        if name not in self.seen:
            self.seen[name] = read(self.path / name)
        return cast(T, self.seen[name])

    def lacks(self, name: str, folder: str = "") -> bool:
        """Whether a file is known not to be in its folder or in that of a certification, without asking the disk."""
        return self.seen is not None and folder in self.seen and name not in self.seen[folder]

    def record(self, name: str, read: Callable[[Path], T | None]) -> T | None:
        """As `once`; None where there is no such file."""
        folder, _, file = name.rpartition("/")
        return None if self.lacks(file, folder) else self.once(name, read)

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    def training(self) -> dict[str, Any] | None:
        """`state` trained with `weights_sha256`, or diverged with a `reason`; None: unfinished."""
        raise NotImplementedError

    def failure(self) -> dict[str, Any] | None:
        """What the last attempt failed of: `reason`, and since claims exist `kind`, `trace` and `log`; None if it did not fail."""
        return self.record("failure.json", lambda path: records.record(path, {"reason": str}, {"kind": str, "trace": str, "log": str}))

    def state(self) -> State:
        """How far its training is: training, certifying (trained), failed or diverged."""
        return "certifying"

    def timing(self) -> dict[str, Any] | None:
        """Seconds, images per second and pairs per image of the training, None while it is unfinished.

        Raises:
            BenchError: not numbers from 0 up, or numbers that do not go together.
        """
        return self.record("timing.json", records.timing)

    def environment(self) -> dict[str, Any] | None:
        """What it was made with, None before its first start and of what was made elsewhere."""
        return self.record("environment.json", records.environment)

    def plugins(self) -> list[tuple[str, str]]:
        """The plug-ins that it was trained or certified with: name of the file, SHA-256 of its code.

        Raises:
            BenchError: as `environment`.
        """
        records = [self.environment(), *(found.environment() for found in self.certifications())]
        return [(str(name), str(code)) for record in records for name, code in ((record or {}).get("plugins") or {}).items()]

    def differences(self) -> list[str]:
        """What makes the files that it was trained on others than the published ones.

        Raises:
            BenchError: the record says what it cannot.
        """
        environment = self.environment()
        return _said(self.path, lambda: differences(environment))

    def told(self) -> dict[str, Any]:
        """What its records say, by file, as `seen` holds it: JSON values, from which a DataFrame makes it again."""
        failure = self.failure()
        facts = None if self.dataset in BUILT_IN else facts_of(self.info)
        found: dict[str, Any] = {"environment.json": self.environment(), "training.json": self.training(), "timing.json": self.timing()}
        found |= {"failure.json": failure and {"reason": failure["reason"]}, "dataset.json": facts, DAMAGE: self.damage or None}
        return {name: value for name, value in found.items() if value is not None}

    def faults(self) -> list[Fault]:
        """What is wrong with its folder and its own records, each with its file."""
        found: list[Fault] = []
        names = records.attempt(found, self.path, self.names) or {}
        found += strangers(self.path, names, self.what)[0]
        records.attempt(found, self.path / "spec.json", lambda: labels_of(self.info))
        if not found:
            found += self.faults_of_records()
        return found

    def faults_of_records(self) -> list[Fault]:
        """What is wrong with the records that only its kind has."""
        raise NotImplementedError

    @property
    def damage(self) -> str:
        """What is wrong with it, if it is `as_damaged`; else nothing."""
        return str((self.seen or {}).get(DAMAGE, ""))

    def as_damaged(self, reason: str) -> Subject | None:
        """Its spec and its certifications alone, which all say what is wrong; None where they do not tell of what row it is."""
        return None

    # its certifications

    def names(self, folder: str = "") -> Mapping[str, disk.Kind]:
        """What is in its folder, or in that of one of its certifications."""
        return self.once(folder, disk.children)

    def certification(self, spec: CertifySpec) -> Certification:
        """The folder of a certification, there or not."""
        return Certification(self.path / f"{CERTIFICATION}{spec.key}", spec, self)

    def begun(self) -> Iterator[Certification | Damaged]:
        """Its certifications by folder name, and what looks like one and cannot be read as one."""
        return iter(self.once("certify-*", lambda _: list(self._begun())))

    def _begun(self) -> Iterator[Certification | Damaged]:
        for name, kind in self.names().items():
            if name.startswith(CERTIFICATION) and kind == "folder":
                path = self.path / name
                try:
                    if all(map(passing, self.names(name))):  # claimed, and its first file is about to be written
                        continue
                    file = path / "spec.json"
                    spec = from_json(CertifySpec, disk.read(file), str(file))
                    if name != f"{CERTIFICATION}{spec.key}":
                        raise Fault(file, None, f"its key is {spec.key}, but the folder is {name}")
                    yield Certification(path, spec, self)
                except BenchError as error:
                    yield Damaged(path, as_fault(error, path / "spec.json"))

    def certifications(self) -> Iterator[Certification]:
        """Those that were begun and whose specs are whole, by folder name."""
        return (found for found in self.begun() if isinstance(found, Certification))

    # who computes it

    @contextlib.contextmanager
    def claimed(self) -> Iterator[claims.Claim]:
        """Keeps other processes from it, on this machine and on others that share its file system.

        Raises:
            Claimed: another process is at it.
        """
        make_folder(self.path)
        with claims.held(self.path) as claim:
            yield claim

    def begin(self) -> None:
        """Writes the spec, from when on it is listed even if it fails at once, and sweeps what killed writes and failures left."""
        sweep(self.path)
        self.forget_failure()
        if self.dataset in DATASETS and self.dataset not in BUILT_IN:
            write_json(self.path / "dataset.json", facts_of(DATASETS[self.dataset]))
        write_json(self.path / self.spec_file, to_json(self.spec))

    def fail(self, kind: str, reason: str, trace: str = "", log: str = "") -> None:
        """Records why the last attempt came to nothing; the next one removes it.

        Args:
            kind: a word for it, such as oom. log: the end of what the attempt printed.
        """
        if not (self.path / self.spec_file).exists():
            write_json(self.path / self.spec_file, to_json(self.spec))
        write_json(self.path / "failure.json", {"kind": kind, "reason": reason, "trace": trace, "log": log})

    def forget_failure(self) -> None:
        """Removes what the last attempt failed of, if it did."""
        if (failure := self.path / "failure.json").exists():  # a removal is a point at which tests crash a run
            failure.unlink(missing_ok=True)


@dataclass(frozen=True)
class Certification:
    """One certification of a subject: its folder and spec."""

    path: Path
    spec: CertifySpec
    subject: Subject

    @property
    def evidence(self) -> Path:
        return self.path / "evidence.jsonl"

    def begun(self) -> bool:
        """Whether its folder is there."""
        return not self.subject.lacks(self.path.name) and self.path.exists()

    def expected(self) -> range:
        """Indices of the images it covers when finished."""
        return select_images(self.spec.images, self.subject.info.test_size)

    def labels(self) -> tuple[int, ...] | None:
        """The labels that its rows must have; None where they are not known: its test files were others, or are not on this machine.

        Raises:
            BenchError: as `differences`.
        """
        return None if self.differences() else labels_of(self.subject.info)

    def differences(self) -> list[str]:
        """What makes the test files that it was certified on others than the published ones.

        Raises:
            BenchError: the record says what it cannot.
        """
        environment = self.environment()
        return _said(self.path, lambda: test_differences(environment, self.subject.info))

    def rows(self) -> list[Certificate]:
        """The finished rows, from the log itself.

        Raises:
            BenchError: as `columns`.
        """
        self.columns()
        return read_rows(self.evidence) if disk.there(self.evidence) else []

    def read(self) -> Rows:
        """Its rows, each checked against the spec, the data set, the others and the file of times; no fault hides another.

        Whether its records are whole, and of this run, `faults` says.

        Raises:
            BenchError: the data set is unknown, or a file cannot be read at all.
        """
        info, images, labels = self.subject.info, self.expected(), self.labels()
        lacking = self.subject.lacks("times.csv", self.path.name)
        finished = self.bound  # first, as it is written after the last row; and then the times, each of which is written before its row
        timed = NO_TIMES if lacking else cache.kept_times(self.path / "times.csv")
        log = cache.kept_log(self.evidence, len(images))
        rows = checked.check(self.evidence, log, timed, self.spec, info, images, labels)
        if rows.faults:
            return rows
        if self.subject.seen is not None:
            self.subject.seen[f"{self.path.name}/{DIGEST}"] = log.sha256
        try:
            bound = finished and self.binding().ended(self.path, log.sha256 if rows.images == len(images) else None)
        except BenchError as error:
            return replace(rows, faults=(as_fault(error, self.evidence),))
        return replace(rows, sha256=log.sha256, bound=bound)

    def columns(self) -> Columns:
        """The finished rows as arrays.

        Raises:
            BenchError: a damaged row, or one that this certification cannot have: an image that it does not cover, another label than
                the data set's (where that is known), a class that there is not, other sample sizes; a row that is missing; evidence of
                something else.
        """
        rows = self.read()
        if rows.faults:
            raise rows.faults[0]
        if rows.images:
            self.binding().read(self.path)
        return rows.columns

    def binding(self) -> Binding:
        """What its evidence must be of."""
        return Binding(
            run_key=self.subject.spec.key, certify_key=self.spec.key, weights_sha256=(self.subject.training() or {}).get("weights_sha256")
        )

    @property
    def bound(self) -> bool:
        """Whether its records say of what its rows are; `columns` has refused those that say something else."""
        return not self.subject.lacks(FINISHED, self.path.name) and disk.there(self.path / FINISHED)

    def finding(self) -> str:
        """What `bench.store.verified` keeps of its evidence is under this key."""
        known = (self.subject.seen or {}).get(f"{self.path.name}/{DIGEST}")
        return key_of(self.binding(), known or disk.sha256(self.evidence))

    def seal(self) -> None:
        """Records which rows are its own once all are there.

        Raises:
            BenchError: as `columns`.
        """
        if len(self.columns()) == len(self.expected()) and self.binding().open(self.path):
            sweep(self.path)  # what a kill left of the same attempt
            self.binding().seal(self.path, disk.sha256(self.evidence))

    def status(self) -> Status:
        """How far it is, with its finished rows, or what is wrong with its records, its rows or its subject."""
        if damage := self.subject.damage:
            return Status("damaged", fault=Fault(self.subject.path, None, damage))
        if self.subject.seen is None and not self.subject.path.exists():
            return Status("missing")
        try:
            if not self.begun():
                return Status(self.subject.state())
            if faults := self.faults():
                return Status("damaged", fault=faults[0])
            state = self.subject.state()
            columns = NOTHING if state == "diverged" else self.columns()
            done = self.subject.training() is not None and len(columns) == len(self.expected())
        except BenchError as error:
            return Status("damaged", fault=as_fault(error, self.path))
        return Status("done" if done else state, columns)

    def environment(self) -> dict[str, Any] | None:
        """What it was certified with, None before its first start."""
        return self.subject.record(f"{self.path.name}/environment.json", records.environment)

    def faults(self, *, damaged: bool = False) -> list[Fault]:
        """What is wrong with its folder and its records; its rows are not read. damaged: what is wrong with its run is known."""
        found: list[Fault] = []
        if self.subject.lacks(self.path.name) or not disk.there(self.path):
            return found
        own = records.attempt(found, self.path, lambda: list(self.subject.begun())) or []
        found += [item.fault for item in own if isinstance(item, Damaged) and item.path == self.path]
        names = records.attempt(found, self.path, lambda: self.subject.names(self.path.name)) or {}
        found += strangers(self.path, names, "certification")[0]
        records.attempt(found, self.path / "environment.json", self.environment if damaged else self.differences)
        if not records.attempt(found, self.path, self.expected) and not found:
            found.append(Fault(self.path / "spec.json", None, f"images={self.spec.images} selects no test image"))
        if not damaged and ("evidence.jsonl" in names or SUBJECT in names):
            if self.binding().weights_sha256 is None:
                found.append(Fault(self.path, None, "there is evidence, but no finished training whose weights it could be of"))
            records.attempt(found, self.path / SUBJECT, lambda: self.binding().read(self.path))
        return found

    def begin(self, weights_sha256: str) -> int:
        """Writes the spec and what is certified, and cuts a torn last line.

        Returns:
            bytes of the finished rows: where the next one goes.

        Raises:
            BenchError: there is evidence of something else, as of other weights, which must not be mixed with this.
        """
        write_json(self.path / "spec.json", to_json(self.spec))
        started = self.evidence.exists() and self.evidence.stat().st_size > 0
        replace(self.binding(), weights_sha256=weights_sha256).begin(self.path, started)
        if not self.evidence.exists():
            return 0
        keep = len(read_log(self.evidence))
        if keep < self.evidence.stat().st_size:
            with self.evidence.open("r+b") as file:
                file.truncate(keep)
                os.fsync(file.fileno())
        return keep

    def append(self, row: Certificate, seconds: float, at: int | None = None) -> int:
        """Adds a row; it counts as done once this returns (it is synced).

        Args:
            at: where the row goes, from `begin` and the append before; the end if None. A holder that is fenced off between its check and
                its write thereby writes what the new one wrote, in the same place, and no second row.

        Returns:
            where the next one goes.

        Raises:
            BenchError: this process lost its claim.
        """
        claims.guard(self.evidence)
        self._note(row.index, seconds)  # first, so that nothing can fail once the row is done
        line, first = to_line(row).encode(), not self.evidence.exists()
        at = at if at is not None else 0 if first else self.evidence.stat().st_size
        try:
            with os.fdopen(os.open(self.evidence, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:  # never cuts what is there
                file.seek(at)
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a line that may not have reached the disk must not be taken for a finished row
            with contextlib.suppress(OSError, BenchError):
                claims.guard(self.evidence)
                os.truncate(self.evidence, at)
            raise
        if first:
            sync_folder(self.path)
        return at + len(line)

    def _note(self, index: int, seconds: float) -> None:
        """Adds to the file of times; where a full disk cut its last line, the next one does not go on in it."""
        with (self.path / "times.csv").open("a+b") as file:
            file.seek(max(file.tell() - 1, 0))
            torn = file.read(1) not in (b"", b"\n")
            file.write(b"\n" * torn + f"{index},{seconds:.6f}\n".encode())


def folder_name(word: str) -> str:
    """A word as part of a path: what is no small letter, digit, dot, underscore or hyphen becomes an underscore."""
    return re.sub(r"[^a-z0-9._-]+", "_", word)


def labels_of(info: DatasetInfo) -> tuple[int, ...] | None:
    """Known labels of the test images. Looking for files takes longer than reading a run, so they are looked for once a second."""
    return _labels(info, int(time.monotonic()))


@lru_cache(maxsize=64)
def _labels(info: DatasetInfo, now: int) -> tuple[int, ...] | None:
    return info.known_labels()


def _said(folder: Path, work: Callable[[], list[str]]) -> list[str]:
    """What work finds in a folder's environment.json; its ValueError as BenchError."""
    try:
        return work()
    except ValueError as error:
        raise Fault(folder / "environment.json", None, str(error)) from None
