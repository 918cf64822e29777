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
        claim-1.json         only while a process computes the run (bench.claims)
        timing.json          seconds and images per second (side file)
        certify-<key>/       one folder per certification
            spec.json        CertifySpec
            subject.json     what is certified: keys of run and certification, SHA-256 of the weights (bench.binding)
            environment.json what it was certified with (side file)
            evidence.jsonl   one line per image, written as soon as it exists
            finished.json    written last: as subject.json, and the SHA-256 of the evidence
            columns.bin      the same as arrays, for reading fast; made from evidence.jsonl whenever it does not fit it
            times.csv        seconds per image (side file)

Names are for people; what a run is stands in its spec.json and is checked against the folder's key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench import claims, rules
from bench.binding import FINISHED, Binding
from bench.columns import Columns, pack, unpack
from bench.datasets import BUILT_IN, DATASETS, DatasetInfo, facts_of, from_facts
from bench.datasets.recorded import differences, test_differences
from bench.errors import BenchError, nearest
from bench.files import make_folder, read_json, read_record, sha256, sweep, sync_folder, write_atomically, write_json
from bench.presets import changes_of
from bench.records import Certificate, parse_log, read_log, to_line
from bench.spec import CertifySpec, RunSpec, describe_type, from_json, select_images, to_json
from bench.verified import key_of

DEFAULT_ROOT = Path("results/runs")
CACHED_ROWS = 1000
"""Evidence of fewer rows is read fast enough without columns.bin."""
NOTHING = Columns.of([])
CHECKPOINT, OLDER_CHECKPOINT = "checkpoint.bin", "checkpoint.older.bin"


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
    reason: str


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
        return None if self.differences() else self.run.info.known_labels()

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
        if not self.evidence.exists():
            return []
        log = read_log(self.evidence)
        rows = parse_log(log, self.evidence)
        self._check(Columns.of(rows), log)
        return rows

    def columns(self) -> Columns:
        """The finished rows as arrays, from columns.bin where that fits the log; else it is written, if the folder lets it be.

        Raises:
            BenchError: a damaged row, or one that this certification cannot have: an image that it does not cover, another label than
                the data set's (where that is known), a class that there is not, other sample sizes; evidence of something else.
        """
        log = read_log(self.evidence) if self.evidence.exists() else b""
        cache = self.path / "columns.bin"
        # What a cache says that the spec does not allow is looked up in the log, which alone can be wrong.
        with contextlib.suppress(OSError, BenchError):
            if cache.exists() and (columns := unpack(cache.read_bytes(), log)) is not None:
                self._check(columns, log)
                return columns
        columns = Columns.of(parse_log(log, self.evidence))
        self._check(columns, log)
        if len(columns) >= CACHED_ROWS:
            with contextlib.suppress(OSError):
                for leftover in self.path.glob(f".{cache.name}.*.tmp"):  # of a run that is done nobody sweeps any more
                    leftover.unlink()
                write_atomically(cache, pack(columns, log))
        return columns

    def binding(self) -> Binding:
        """What its evidence must be of."""
        return Binding(
            run_key=self.run.spec.key, certify_key=self.spec.key, weights_sha256=(self.run.training() or {}).get("weights_sha256")
        )

    @property
    def bound(self) -> bool:
        """Whether its records say of what its rows are; `columns` has refused those that say something else."""
        return (self.path / FINISHED).exists()

    def finding(self) -> str:
        """What `bench.verified` keeps of its evidence is under this key."""
        return key_of(self.binding(), sha256(self.evidence))

    def seal(self) -> None:
        """Records which rows are its own once all are there.

        Raises:
            BenchError: as `columns`.
        """
        if len(self.columns()) == len(self.expected()) and self.binding().open(self.path):
            sweep(self.path)  # what a kill left of the same attempt
            self.binding().seal(self.path, sha256(self.evidence))

    def _check(self, columns: Columns, log: bytes) -> None:
        info, spec = self.run.info, self.spec
        expected, labels = self.expected(), self.labels()
        places, rest = np.divmod(columns.index - expected.start, expected.step)
        known = (rest == 0) & (places >= 0) & (places < len(expected))
        label = columns.label if labels is None else _array(labels)[np.where(known, columns.index, 0)]
        sizes = (columns.n0 != spec.n0) | ~possible(columns, spec) | (columns.count < 0) | (columns.count > columns.n)
        for line in np.flatnonzero(sizes | ~known | (columns.label != label) | (columns.highest >= info.classes))[:1].tolist():
            index = columns.index[line]
            if sizes[line]:
                wrong = f"{columns.n0[line]} + {columns.n[line]} samples, but the spec says {spec.n0} + {spec.n}"
            elif not known[line]:
                wrong = f"image {index} is not among {spec.images} of {info.test_size}"
            elif columns.label[line] != label[line]:
                wrong = f"image {index} has label {columns.label[line]}, but label {label[line]} in {info.name}"
            else:
                wrong = f"class {columns.highest[line]}, but {info.name} has classes 0 to {info.classes - 1}"
            raise BenchError(f"{self.evidence}, line {line + 1}: {wrong}")
        if len(columns) == len(expected):
            self.binding().holds(self.path, hashlib.sha256(log).hexdigest())
        elif log:
            self.binding().read(self.path)

    def standing(self) -> Standing:
        """How far it is, with its finished rows.

        Raises:
            BenchError: damaged evidence or training record.
        """
        if not self.run.path.exists():
            return Standing("missing", NOTHING)
        state = self.run.state()
        columns = NOTHING if state == "diverged" else self.columns()
        done = self.run.training() is not None and len(columns) == len(self.expected())
        return Standing("done" if done else state, columns)

    def environment(self) -> dict[str, Any] | None:
        """What it was certified with, None before its first start."""
        return _environment(self.path)

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
    """One trained (or to be trained) model: its folder and spec."""

    path: Path
    spec: RunSpec

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
        name, facts = self.spec.dataset, self.path / "dataset.json"
        if name in DATASETS:
            return DATASETS[name]
        if facts.exists():
            return from_facts(name, read_json(facts), str(facts))
        raise BenchError(f"{self.path}: unknown data set {name!r}{nearest(name, DATASETS)}")

    @cached_property
    def named(self) -> RunSpec:
        """Its spec with the changes that its values show (`bench.presets`): its row and what is told of it, but not its key."""
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
        fields: dict[str, dict[str, type]] = {"trained": {"steps": int, "weights_sha256": str}, "diverged": {"reason": str}}
        path = self.path / "training.json"
        if not path.exists():
            return None
        data = read_json(path)
        _require(path, data, {"state": str})
        if data["state"] not in fields:
            raise BenchError(f"{path}: state {data['state']!r} is neither trained nor diverged")
        return _require(path, data, fields[data["state"]])

    def failure(self) -> dict[str, Any] | None:
        """What the last attempt failed of: `reason`, and since claims exist `kind`, `trace` and `log`; None if it did not fail."""
        path = self.path / "failure.json"
        return _require(path, read_json(path), {"reason": str}) if path.exists() else None

    def state(self) -> State:
        """How far its training is: training, certifying (trained), failed or diverged."""
        training = self.training()
        if training and training["state"] == "diverged":
            return "diverged"
        return "failed" if self.failure() else "certifying" if training else "training"

    def timing(self) -> dict[str, Any] | None:
        """Seconds, images per second and pairs per image of the training, None while it is unfinished."""
        path = self.path / "timing.json"
        numbers = dict.fromkeys(("training_seconds", "images_per_second", "pairs_per_image"), float)
        return _require(path, read_json(path), numbers) if path.exists() else None

    def environment(self) -> dict[str, Any] | None:
        """What the run was made with, None before its first start."""
        return _environment(self.path)

    def differences(self) -> list[str]:
        """What makes the files that it was trained on others than the published ones.

        Raises:
            BenchError: the record says what it cannot.
        """
        environment = self.environment()
        return _said(self.path, lambda: differences(environment))

    def certification(self, spec: CertifySpec) -> Certification:
        """The folder of a certification, there or not."""
        return Certification(self.path / f"certify-{spec.key}", spec, self)

    def certifications(self) -> Iterator[Certification]:
        """Those that were begun, by folder name.

        Raises:
            BenchError: a folder whose spec does not fit its key.
        """
        for path in sorted(self.path.glob("certify-*/spec.json")):
            spec = from_json(CertifySpec, read_record(path), str(path))
            if path.parent.name != f"certify-{spec.key}":
                raise BenchError(f"{path}: its key is {spec.key}, but the folder is {path.parent.name}")
            yield Certification(path.parent, spec, self)

    def check(self) -> None:
        """BenchError where a record of the run or of its certifications cannot be believed; evidence itself is not read."""
        self.info.known_labels()
        self.state()
        self.differences()
        for certification in self.certifications():
            certification.differences()

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

    def begin(self) -> None:
        """Writes the spec, from when on the run is listed even if it fails at once, and sweeps what killed writes and failures left."""
        sweep(self.path)
        if (failure := self.path / "failure.json").exists():  # a removal is a point at which tests crash a run
            failure.unlink(missing_ok=True)
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

    def run(self, spec: RunSpec) -> Run:
        """The place of a spec, there or not."""
        row = re.sub(r"[^a-z0-9._-]+", "_", f"{spec.method}.{spec.variant}")
        return Run(self.root / spec.dataset / row / f"{spec.sigma:g}-seed{spec.seed}-{spec.key}", spec)

    def folders(self) -> list[Path]:
        """Those of all runs, in order."""
        return sorted(path.parent for path in self.root.glob("[!.]*/*/*/spec.json"))  # not those set aside in .replaced

    def at(self, folder: Path) -> Run | Damaged:
        """The run in a folder; `Damaged` if its spec is unreadable or does not fit its key."""
        path = folder / "spec.json"
        try:
            spec = from_json(RunSpec, read_record(path), str(path))
            if not folder.name.endswith(f"-{spec.key}"):
                raise BenchError(f"{path}: its key is {spec.key}, but the folder is {folder.name}")
        except BenchError as error:
            return Damaged(folder, str(error))
        return Run(folder, spec)

    def scan(self) -> Iterator[Run | Damaged]:
        """Every run, ordered by folder."""
        return map(self.at, self.folders())

    def runs(self) -> Iterator[Run]:
        """Every run whose spec is whole, ordered by folder."""
        return (run for run in self.scan() if isinstance(run, Run))

    def find(self, word: str) -> Run:
        """The one run whose folder or key begins with a word.

        Raises:
            BenchError: none, or several.
        """
        folder = Path(word)
        if word and (folder / "spec.json").is_file():
            return Run(folder, from_json(RunSpec, read_record(folder / "spec.json"), str(folder / "spec.json")))
        found = [run for run in self.runs() if run.spec.key.startswith(word)]
        if len(found) != 1:
            what = "no run" if not found else f"{len(found)} runs"
            raise BenchError(f"{what} in {self.root} with key or folder {word!r}; `bench list runs` names them")
        return found[0]


@lru_cache(maxsize=16)
def _array(labels: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(labels)


def possible(columns: Columns, spec: CertifySpec) -> NDArray[np.bool_]:
    """I: where the estimation samples are as many as the spec lets them be."""
    whole = columns.n == spec.n
    begun = (columns.n > 0) & (columns.n < spec.n)
    if begun.any():
        whole = whole | (begun & rules.of(spec).may_stop(columns.counts))
    if spec.skip_misclassified:
        whole = whole | ((columns.n == 0) & (columns.selected != columns.label))
    return np.asarray(whole)


def _require(path: Path, data: dict[str, Any], fields: Mapping[str, type]) -> dict[str, Any]:
    """The data, or BenchError where a field is missing or of another type (an int is a float)."""
    for name, kind in fields.items():
        value = data.get(name)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise BenchError(f"{path}: {name} is {value!r}, not {describe_type(kind)}")
    return data


def _environment(folder: Path) -> dict[str, Any] | None:
    path = folder / "environment.json"
    if not path.exists():
        return None
    data = read_json(path)
    history = data.get("history", [])
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise BenchError(f"{path}: history is {history!r}, not a list of objects")
    return data


def _said(folder: Path, work: Callable[[], list[str]]) -> list[str]:
    """What work finds in a folder's environment.json; its ValueError as BenchError."""
    try:
        return work()
    except ValueError as error:
        raise BenchError(f"{folder / 'environment.json'}: {error}") from None
