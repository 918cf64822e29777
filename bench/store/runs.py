"""Where a run lives on disk.

    ROOT/mnist/smoothmix.eta5/0.25-seed0-<key>/
        spec.json            RunSpec; its key is the folder's last word
        dataset.json         facts of the data set, where it is none of the suite's
        environment.json     versions, hashes, device: what the numbers were made with (side file: not evidence)
        curve.csv            the training curve, one column per term
        training.json        written last: state trained or diverged, steps, SHA-256 of the weights
        weights.safetensors  the base classifier
        checkpoint.bin       only while training is unfinished
        failure.json         only while the last attempt failed: kind, reason, trace, end of its log
        claim-1.json         only while a process computes the run (bench.files.claims)
        timing.json          seconds and images per second (side file)
        certify-<key>/       one folder per certification
            spec.json        CertifySpec
            subject.json     what is certified: keys of run and certification, SHA-256 of the weights (bench.evidence.binding)
            environment.json what it was certified with (side file)
            evidence.jsonl   one line per image, written as soon as it exists
            finished.json    written last: as subject.json, and the SHA-256 of the evidence
            times.csv        seconds per image (side file)

Names are for people; what a run is stands in its spec.json and is checked against the folder's key.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
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
from bench.files import claims, disk
from bench.files.walk import Walk, misplaced, passing, strangers, walk
from bench.files.writing import make_folder, read_json_if_there, sweep, sync_folder, write_json
from bench.spec import CertifySpec, RunSpec, from_json, select_images, to_json
from bench.store.presets import changes_of
from bench.store.verified import key_of

DEFAULT_ROOT = Path("results/runs")
CHECKPOINT, OLDER_CHECKPOINT = "checkpoint.bin", "checkpoint.older.bin"
DIGEST = "evidence_sha256"


T = TypeVar("T")
State = Literal["missing", "training", "certifying", "failed", "diverged", "done"]


@dataclass(frozen=True)
class Standing:
    """How far a certification is, and its finished rows."""

    state: State
    columns: Columns


@dataclass(frozen=True)
class Damaged:
    """A folder that looks like a run but cannot be read as one."""

    path: Path
    fault: Fault

    @property
    def reason(self) -> str:
        return str(self.fault)


@dataclass(frozen=True)
class Certification:
    """One certification of a run: its folder and spec."""

    path: Path
    spec: CertifySpec
    run: Run

    @property
    def evidence(self) -> Path:
        return self.path / "evidence.jsonl"

    def begun(self) -> bool:
        """Whether its folder is there."""
        return self.path.exists()

    def expected(self) -> range:
        """Indices of the images it covers when finished."""
        return select_images(self.spec.images, self.run.info.test_size)

    def labels(self) -> tuple[int, ...] | None:
        """The labels that its rows must have; None where they are not known: its test files were others, or are not on this machine.

        Raises:
            BenchError: as `differences`.
        """
        return None if self.differences() else _labels(self.run.info, int(time.monotonic()))

    def differences(self) -> list[str]:
        """What makes the test files that it was certified on others than the published ones.

        Raises:
            BenchError: the record says what it cannot.
        """
        environment = self.environment()
        return _said(self.path, lambda: test_differences(environment, self.run.info))

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
        info, images, labels = self.run.info, self.expected(), self.labels()
        lacking = self.run.lacks("times.csv", self.path.name)
        finished = self.bound  # first, as it is written after the last row; and then the times, each of which is written before its row
        timed = NO_TIMES if lacking else cache.kept_times(self.path / "times.csv")
        log = cache.kept_log(self.evidence, len(images))
        rows = checked.check(self.evidence, log, timed, self.spec, info, images, labels)
        if rows.faults:
            return rows
        if self.run.seen is not None:
            self.run.seen[f"{self.path.name}/{DIGEST}"] = log.sha256
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
            run_key=self.run.spec.key, certify_key=self.spec.key, weights_sha256=(self.run.training() or {}).get("weights_sha256")
        )

    @property
    def bound(self) -> bool:
        """Whether its records say of what its rows are; `columns` has refused those that say something else."""
        return not self.run.lacks(FINISHED, self.path.name) and disk.there(self.path / FINISHED)

    def finding(self) -> str:
        """What `bench.store.verified` keeps of its evidence is under this key."""
        known = (self.run.seen or {}).get(f"{self.path.name}/{DIGEST}")
        return key_of(self.binding(), known or disk.sha256(self.evidence))

    def seal(self) -> None:
        """Records which rows are its own once all are there.

        Raises:
            BenchError: as `columns`.
        """
        if len(self.columns()) == len(self.expected()) and self.binding().open(self.path):
            sweep(self.path)  # what a kill left of the same attempt
            self.binding().seal(self.path, disk.sha256(self.evidence))

    def standing(self) -> Standing:
        """How far it is, with its finished rows.

        Raises:
            BenchError: damaged evidence, or damaged records of the certification or of the training.
        """
        if not self.run.path.exists():
            return Standing("missing", NOTHING)
        if faults := self.faults():
            raise faults[0]
        state = self.run.state()
        columns = NOTHING if state == "diverged" else self.columns()
        done = self.run.training() is not None and len(columns) == len(self.expected())
        return Standing("done" if done else state, columns)

    def environment(self) -> dict[str, Any] | None:
        """What it was certified with, None before its first start."""
        return _environment(self.run, self.path.name)

    def faults(self, *, damaged: bool = False) -> list[Fault]:
        """What is wrong with its folder and its records; its rows are not read. damaged: what is wrong with its run is known."""
        found: list[Fault] = []
        if self.run.lacks(self.path.name) or not disk.there(self.path):
            return found
        own = records.attempt(found, self.path, lambda: list(self.run.begun())) or []
        found += [item.fault for item in own if isinstance(item, Damaged) and item.path == self.path]
        names = records.attempt(found, self.path, lambda: self.run.names(self.path.name)) or {}
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


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, the newest first."""
    return [path for name in (CHECKPOINT, OLDER_CHECKPOINT) if (path := folder / name).exists()]


@dataclass(frozen=True)
class Run:
    """One trained (or to be trained) model: its folder and spec.

    Attributes:
        seen: what its records said when they were read first, for who reads results: so they agree with each other, and are read once.
            None: they are read whenever they are asked for, as of a run that is being computed.
    """

    kind: ClassVar[Literal["run", "subject"]] = "run"
    path: Path
    spec: RunSpec
    seen: MutableMapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def once(self, name: str, read: Callable[[Path], T]) -> T:
        """What a record says, by its name below the run's folder; see `seen`."""
        if self.seen is None:
            return read(self.path / name)
        if name not in self.seen:
            self.seen[name] = read(self.path / name)
        return cast(T, self.seen[name])

    def lacks(self, name: str, folder: str = "") -> bool:
        """Whether a file is known not to be in its folder or in that of a certification, without asking the disk."""
        return self.seen is not None and folder in self.seen and name not in self.seen[folder]

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def older_checkpoint(self) -> Path:
        return self.path / OLDER_CHECKPOINT

    @property
    def curve(self) -> Path:
        return self.path / "curve.csv"

    @property
    def info(self) -> DatasetInfo:
        """Facts of its data set; of one that is not at hand, those that the run keeps. BenchError if there are none."""
        name = self.spec.dataset
        if name in DATASETS:
            return DATASETS[name]
        facts = self.once("dataset.json", read_json_if_there)
        if facts is not None:
            return from_facts(name, facts, str(self.path / "dataset.json"))
        raise BenchError(f"{self.path}: unknown data set {name!r}{nearest(name, DATASETS)}")

    @cached_property
    def named(self) -> RunSpec:
        """Its spec with the changes that its values show (`bench.store.presets`): its row and what is told of it, but not its key."""
        try:
            found = changes_of(self.spec, self.info)
        except BenchError:  # nothing is known of its data set
            return self.spec
        return self.spec if found is None else replace(self.spec, changes=found)

    def training(self) -> dict[str, Any] | None:
        """What `training.json` says: `state` trained with `steps` and `weights_sha256`, or diverged with a `reason`. None: unfinished.

        Raises:
            BenchError: it says something else.
        """
        if self.lacks("training.json"):
            return None
        return self.once("training.json", records.training)

    def failure(self) -> dict[str, Any] | None:
        """What the last attempt failed of: `reason`, and since claims exist `kind`, `trace` and `log`; None if it did not fail."""
        if self.lacks("failure.json"):
            return None
        return self.once("failure.json", lambda path: records.record(path, {"reason": str}, {"kind": str, "trace": str, "log": str}))

    def state(self) -> State:
        """How far its training is: training, certifying (trained), failed or diverged."""
        training = self.training()
        if training and training["state"] == "diverged":
            return "diverged"
        return "failed" if self.failure() else "certifying" if training else "training"

    def timing(self) -> dict[str, Any] | None:
        """Seconds, images per second and pairs per image of the training, None while it is unfinished.

        Raises:
            BenchError: not numbers from 0 up, or numbers that do not go together.
        """
        if self.lacks("timing.json"):
            return None
        return self.once("timing.json", records.timing)

    def environment(self) -> dict[str, Any] | None:
        """What the run was made with, None before its first start."""
        return _environment(self, "")

    def differences(self) -> list[str]:
        """What makes the files that it was trained on others than the published ones.

        Raises:
            BenchError: the record says what it cannot.
        """
        environment = self.environment()
        return _said(self.path, lambda: differences(environment))

    def faults(self) -> list[Fault]:
        """What is wrong with its folder and its own records, each with its file."""
        found: list[Fault] = []
        names = records.attempt(found, self.path, self.names) or {}
        found += strangers(self.path, names, self.kind)[0]
        records.attempt(found, self.path / "spec.json", lambda: _labels(self.info, int(time.monotonic())))
        if not found:
            found += self._faults_of_records()
        return found

    def _faults_of_records(self) -> list[Fault]:
        found: list[Fault] = []
        training = records.attempt(found, self.path, self.training)
        for read in (self.failure, self.timing):
            records.attempt(found, self.path, read)
        other = records.attempt(found, self.path, self.differences)  # files, which may hold other numbers of images
        if training and training["state"] == "trained" and not other and training["steps"] != (steps := self.steps()):
            found.append(Fault(self.path / "training.json", None, f"{training['steps']:.6g} steps, but the spec makes {steps:.6g}"))
        if not self.lacks("curve.csv"):
            records.attempt(found, self.curve, lambda: records.check_curve(self.curve))
        if not self.lacks("weights.safetensors"):
            records.attempt(found, self.weights, lambda: records.check_weights(self.weights, self.spec))
        return found

    def steps(self) -> int:
        """Optimiser steps of its training: in each pass, the last batch may be smaller."""
        train = self.spec.train
        return train.epochs * -(-len(select_images(train.images, self.info.train_size)) // train.batch)

    def certification(self, spec: CertifySpec) -> Certification:
        """The folder of a certification, there or not."""
        return Certification(self.path / f"certify-{spec.key}", spec, self)

    def names(self, folder: str = "") -> Mapping[str, disk.Kind]:
        """What is in its folder, or in that of one of its certifications."""
        return self.once(folder, disk.children)

    def begun(self) -> Iterator[Certification | Damaged]:
        """Its certifications by folder name, and what looks like one and cannot be read as one."""
        return iter(self.once("certify-*", lambda _: list(self._begun())))

    def _begun(self) -> Iterator[Certification | Damaged]:
        for name, kind in self.names().items():
            if name.startswith("certify-") and kind == "folder":
                path = self.path / name
                try:
                    if all(map(passing, self.names(name))):  # claimed, and its first file is about to be written
                        continue
                    file = path / "spec.json"
                    spec = from_json(CertifySpec, disk.read(file), str(file))
                    if name != f"certify-{spec.key}":
                        raise Fault(file, None, f"its key is {spec.key}, but the folder is {name}")
                    yield Certification(path, spec, self)
                except BenchError as error:
                    yield Damaged(path, as_fault(error, path / "spec.json"))

    def certifications(self) -> Iterator[Certification]:
        """Those that were begun and whose specs are whole, by folder name."""
        return (found for found in self.begun() if isinstance(found, Certification))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[claims.Claim]:
        """Keeps other processes from the run, on this machine and on others that share its file system.

        Raises:
            Claimed: another process is at it.
        """
        make_folder(self.path)
        with claims.held(self.path) as claim:
            yield claim

    def fail(self, kind: str, reason: str, trace: str = "", log: str = "") -> None:
        """Records why the last attempt came to nothing; the next one removes it.

        Args:
            kind: a word for it, such as oom. log: the end of what the attempt printed.
        """
        if not (self.path / "spec.json").exists():
            write_json(self.path / "spec.json", to_json(self.spec))
        write_json(self.path / "failure.json", {"kind": kind, "reason": reason, "trace": trace, "log": log})

    def forget_failure(self) -> None:
        """Removes what the last attempt failed of, if it did."""
        if (failure := self.path / "failure.json").exists():  # a removal is a point at which tests crash a run
            failure.unlink(missing_ok=True)

    def begin(self) -> None:
        """Writes the spec, from when on the run is listed even if it fails at once, and sweeps what killed writes and failures left."""
        sweep(self.path)
        self.forget_failure()
        name = self.spec.dataset
        if name in DATASETS and name not in BUILT_IN:
            write_json(self.path / "dataset.json", facts_of(DATASETS[name]))
        write_json(self.path / "spec.json", to_json(self.spec))


class Store:
    """A folder of runs.

    Args:
        root: the folder; it need not exist yet.
    """

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self.root = root
        self.walked: Walk | None = None

    def run(self, spec: RunSpec) -> Run:
        """The place of a spec, there or not."""
        row = re.sub(r"[^a-z0-9._-]+", "_", f"{spec.method}.{spec.variant}")
        return Run(self.root / spec.dataset / row / f"{spec.sigma:g}-seed{spec.seed}-{spec.key}", spec)

    def walk(self) -> Walk:
        """What is in it now; kept as `walked`."""
        self.walked = walk(self.root)
        return self.walked

    def folders(self) -> list[Path]:
        """Those of all runs that were begun, in order."""
        return [place.path for place in self.walk().of("run") if place.begun]

    def at(self, folder: Path, seen: MutableMapping[str, Any] | None = None) -> Run | Damaged:
        """The run in a folder; `Damaged` if its spec is unreadable, does not fit its key, or belongs elsewhere.

        Args:
            seen: of the run; see `Run`.
        """
        path = folder / "spec.json"
        try:
            spec = from_json(RunSpec, disk.read(path), str(path))
            name = folder.resolve().name if folder == self.root else folder.name
            if not name.endswith(f"-{spec.key}"):
                raise Fault(path, None, f"its key is {spec.key}, but the folder is {name}")
            if reason := misplaced(folder, self.root, Store(Path()).run(spec).path):
                raise Fault(path, None, reason)
        except BenchError as error:
            return Damaged(folder, as_fault(error, path))
        return Run(folder, spec, {} if seen is None else seen)

    def scan(self, walked: Walk | None = None) -> Iterator[Run | Damaged]:
        """Every run, ordered by folder, and then what else may not be in a results folder. walked: what is in it, if it is known."""
        found = walked or self.walk()
        yield from (self.at(place.path, place.seen) for place in found.of("run") if place.begun)
        yield from (Damaged(fault.file, fault) for fault in found.faults)

    def runs(self) -> Iterator[Run]:
        """Every run whose spec is whole, ordered by folder; its records are read when they are asked for."""
        return (Run(run.path, run.spec) for run in self.scan() if isinstance(run, Run))

    def find(self, word: str) -> Run:
        """The one run whose folder or key begins with a word.

        Raises:
            BenchError: none, or several.
        """
        folder = Path(word)
        if word and disk.there(folder / "spec.json"):
            found_here = Store(folder).at(folder)
            if isinstance(found_here, Damaged):
                raise BenchError(found_here.reason)
            return Run(folder, found_here.spec)
        found = [run for run in self.runs() if run.spec.key.startswith(word)]
        if len(found) != 1:
            what = "no run" if not found else f"{len(found)} runs"
            raise BenchError(f"{what} in {self.root} with key or folder {word!r}; `bench list runs` names them")
        return found[0]


@lru_cache(maxsize=64)
def _labels(info: DatasetInfo, now: int) -> tuple[int, ...] | None:
    """Known labels; looking for files takes longer than reading a run, so it is not done for each. now: a second."""
    return info.known_labels()


def _environment(run: Run, folder: str) -> dict[str, Any] | None:
    return None if run.lacks("environment.json", folder) else run.once(f"{folder}/environment.json".lstrip("/"), records.environment)


def _said(folder: Path, work: Callable[[], list[str]]) -> list[str]:
    """What work finds in a folder's environment.json; its ValueError as BenchError."""
    try:
        return work()
    except ValueError as error:
        raise Fault(folder / "environment.json", None, str(error)) from None
