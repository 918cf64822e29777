"""An imported log: what it is, where it lies in the result store, and how it is read back."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from bench.datasets import DATASETS
from bench.errors import BenchError, Fault, as_fault
from bench.evidence import cache, certification_log, records
from bench.evidence.certification_log import Expected, FieldRow, Refused
from bench.files import disk
from bench.files.walk import IMPORTED, What, strangers
from bench.rules.bounds import check_alpha
from bench.spec import MOST_SAMPLES, NAME, Scalar, canonical, check_sigma, digest, row_name, select_images, to_json
from bench.store.subject import Certification, Damaged, Source, Status, Subject, folder_name

RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ImportSpec:
    """One imported log: whose it is, how it was certified, and which file it was.

    Attributes:
        collection: such as smoothmix-logs.
        changes: hyperparameters that differ from those of the variant's preset, by name.
        run: which training of the configuration, as the path says it; `only` where the path has no number.
        images: the selection of test images that it covers entirely.
        source: path within the collection.
        sha256: of the file.
        rows_sha256: of rows.tsv.
    """

    collection: str
    method: str
    variant: str
    changes: Mapping[str, Scalar] = field(default_factory=dict)
    dataset: str
    sigma: float
    run: str
    arch: str
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    images: str = "all"
    source: str
    sha256: str
    rows_sha256: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", float(self.sigma))
        object.__setattr__(self, "images", self.images.replace("=", ":"))
        for name in ("collection", "method", "variant", "dataset", "arch"):
            if not NAME.match(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)!r} is not a name: lower case letters, digits, - and _")
        if not RUN.fullmatch(self.run):
            raise ValueError(f"run {self.run!r} is not a word of letters, digits, . - and _")
        if not (1 <= self.n0 <= MOST_SAMPLES and 1 <= self.n <= MOST_SAMPLES):
            raise ValueError(f"n0={self.n0:.6g} and n={self.n:.6g} must lie between 1 and {MOST_SAMPLES}")
        for name in ("sha256", "rows_sha256"):
            if not SHA256.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)!r} is not a SHA-256 in hex")
        check_sigma(self.sigma)
        check_alpha(self.alpha)
        select_images(self.images, 1)

    @property
    def row(self) -> str:
        """The name of the table row, in the syntax of `RunSpec.row`."""
        return row_name(self.method, self.variant, self.changes)

    @property
    def key(self) -> str:
        """16 hex digits; names the folder."""
        return digest(to_json(self))


@dataclass(frozen=True)
class Printed:
    """The rows of an imported log as arrays, by index."""

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]  # -1: abstained
    radius: NDArray[np.float64]  # as printed: rounded

    def __len__(self) -> int:
        return len(self.index)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Certified, and the class is the label."""
        return np.equal(self.predict, self.label)


@dataclass(frozen=True)
class Import(Subject):
    """One imported log: a subject with one certification, of which nothing else is known."""

    source: ClassVar[Source] = "imported"
    what: ClassVar[What] = "import"
    spec_type: ClassVar[type[ImportSpec]] = ImportSpec
    spec: ImportSpec

    @staticmethod
    def place(spec: ImportSpec) -> Path:
        row = folder_name(spec.row)[:100]
        return Path(IMPORTED, spec.collection, row, f"{spec.sigma:g}-{spec.run}-{spec.key}")

    @property
    def training_name(self) -> str:
        return self.spec.run

    @property
    def file_name(self) -> str:
        return self.spec.source

    @property
    def name(self) -> str:
        return f"{self.row} {self.dataset} sigma {self.sigma:g} run {self.spec.run} of {self.spec.collection}"

    @property
    def file(self) -> Path:
        return self.path / "rows.tsv"

    def training(self) -> dict[str, Any]:
        return {"state": "trained", "weights_sha256": None}

    def data(self) -> bytes:
        """The content of rows.tsv.

        Raises:
            BenchError: unreadable, or its check sum is not the one that was recorded.
        """
        try:
            data = disk.read(self.file)
        except Fault as fault:
            raise Fault(self.file, None, f"{fault.reason}; import {self.spec.source} again") from None
        if (found := hashlib.sha256(data).hexdigest()) != self.spec.rows_sha256:
            expected = self.spec.rows_sha256
            raise Fault(self.file, None, f"SHA-256 is {found[:12]}..., not {expected[:12]}...; import {self.spec.source} again")
        return data

    def rows(self) -> list[FieldRow]:
        """The rows, by index.

        Raises:
            BenchError: as `data`.
        """
        return self._parse(self.data()).rows

    def columns(self) -> Printed:
        """The rows as arrays; faster than `rows`, of a log without faults.

        Raises:
            BenchError: as `data`.
        """
        return self.once("rows.tsv", lambda _: _printed(self.data()))

    def faults(self) -> list[Fault]:
        """What is wrong with its folder and with its rows, read as they were when they were imported."""
        found: list[Fault] = []
        found += strangers(self.path, records.attempt(found, self.path, self.names) or {}, self.what)[0]
        if not found:
            records.attempt(found, self.file, self.check)
        return found

    def check(self) -> int:
        """Reads every row: its image, label, prediction, and radius, none above the largest for its n and alpha.

        A forger can write a check sum, too, so that of the rows says nothing of what they are.

        Returns:
            images.

        Raises:
            Fault: what does not hold, with its line.
        """
        data, spec = self.data(), self.spec
        labels = DATASETS[spec.dataset].known_labels() if spec.dataset in DATASETS else None
        said = hashlib.sha256(canonical([to_json(spec), labels]).encode()).hexdigest()
        if cache.get(key := f"import {said}") == b"whole":
            return data.count(b"\n") - 1
        try:
            log = self._parse(data)
            if labels is not None:
                certification_log.check_labels(log, dict(enumerate(labels)))
        except Refused as error:
            raise Fault(self.file, error.line, error.reason) from None
        if certification_log.canonical(log.rows) != data:
            raise Fault(self.file, None, "not the rows of an imported log; import the log again")
        cache.put(key, b"whole")
        return len(log.rows)

    def _parse(self, data: bytes) -> certification_log.Log:
        spec, info = self.spec, DATASETS.get(self.spec.dataset)  # of another data set only who imported it knew
        classes, size = (info.classes, info.test_size) if info else (None, None)
        expected = Expected(classes=classes, test_size=size, images=[spec.images], n=spec.n, alpha=spec.alpha, sigma=spec.sigma)
        return certification_log.parse(data, expected, name=str(self.file))

    def begun(self) -> Iterator[Certification | Damaged]:
        yield Published(self.path, cast(Any, self.spec), self)


class Published(Certification):
    """The certification of an imported log: its spec is that of the log, and its rows are `Printed`."""

    def expected(self) -> range:
        """Indices of its images; of a data set that is not known here, those that it has."""
        subject = cast(Import, self.subject)
        info = DATASETS.get(subject.dataset)
        return select_images(subject.spec.images, info.test_size if info else int(subject.columns().index.max(initial=0)) + 1)

    def labels(self) -> tuple[int, ...] | None:
        info = DATASETS.get(self.subject.dataset)
        return info.known_labels() if info else None

    def differences(self) -> list[str]:
        """Nobody knows on which files it was certified."""
        return []

    def environment(self) -> None:
        return None

    def finding(self) -> str:
        """There are no weights from which it could be counted again."""
        return ""

    def status(self) -> Status:
        try:
            columns = cast(Import, self.subject).columns()
            return Status("done" if len(columns) == len(self.expected()) else "certifying", columns)  # a frame may hold a part
        except BenchError as error:
            return Status("damaged", fault=as_fault(error, self.path))


def _printed(data: bytes) -> Printed:
    cells = data.split()[len(certification_log.CANONICAL) :]
    index, label, predict = (np.array(cells[number::5]).astype(np.int64) for number in range(3))
    return Printed(index, label, predict, np.array(cells[3::5]).astype(np.float64))


def doubled(logs: Sequence[Import]) -> dict[Path, Fault]:
    """Folder -> what is wrong with it, of logs that are one run, certified in one way, with different rows. Nobody knows which is right."""
    found: dict[str, list[Import]] = defaultdict(list)
    for log in logs:
        s = log.spec
        found[canonical([s.collection, s.dataset, s.arch, s.n0, s.n, s.images, s.alpha, s.row, s.sigma, s.run])].append(log)
    faults = {}
    for same in found.values():
        for log in same:
            if other := next((one for one in same if one.spec.rows_sha256 != log.spec.rows_sha256), None):
                told = f"{other.path} holds the same run with other rows, so neither counts; move one of them away"
                faults[log.path] = Fault(log.path, None, told)
    return faults
