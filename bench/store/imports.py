"""An imported log: what it is, where it lies in the result store, and how it is read back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError, Fault, as_fault
from bench.evidence import certification_log
from bench.evidence.certification_log import FieldRow
from bench.files import disk
from bench.files.walk import IMPORTED, Walk, misplaced, strangers, walk
from bench.rules.bounds import check_alpha
from bench.spec import MOST_SAMPLES, NAME, Scalar, check_sigma, digest, from_json, row_name, select_images, to_json
from bench.store.runs import Damaged

FOLDER = IMPORTED
RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ImportSpec:
    """One imported log: whose it is, how it was certified, and which file it was.

    Attributes:
        collection: name of the map, such as smoothmix-logs.
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
            raise ValueError(f"run {self.run!r} is not a word of letters, digits, - and _")
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

    @property
    def folder(self) -> Path:
        """Where it lies below the store's root."""
        row = re.sub(r"[^a-z0-9._-]+", "_", self.row)[:100]
        return Path(FOLDER, self.collection, row, f"{self.sigma:g}-{self.run}-{self.key}")


@dataclass(frozen=True)
class Columns:
    """The rows of an imported log as arrays, by index."""

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predict: NDArray[np.int64]  # -1: abstained
    radius: NDArray[np.float64]  # as printed: rounded

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Certified, and the class is the label."""
        return np.equal(self.predict, self.label)


@dataclass(frozen=True)
class Import:
    """One imported log on disk: its folder and spec."""

    path: Path
    spec: ImportSpec

    @property
    def file(self) -> Path:
        return self.path / "rows.tsv"

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
        return certification_log.from_canonical(self.data(), name=str(self.file))

    def columns(self) -> Columns:
        """The rows as arrays; faster than `rows`, of a log that `reading` found whole.

        Raises:
            BenchError: as `data`.
        """
        cells = self.data().split()[len(certification_log.CANONICAL) :]
        index, label, predict = (np.array(cells[number::5]).astype(np.int64) for number in range(3))
        return Columns(index, label, predict, np.array(cells[3::5]).astype(np.float64))


def scan(root: Path, walked: Walk | None = None) -> Iterator[Import | Damaged]:
    """Every imported log of a store, by folder; its rows are not read.

    A folder without spec.json is an import that never finished, and is left out.

    Args:
        walked: what is in the store, if it is known.
    """
    for place in (walked or walk(root)).of("import"):
        if "spec.json" in place.names or (place.begun and "rows.tsv" not in place.names):
            try:
                yield at(place.path, root)
            except BenchError as error:
                yield Damaged(place.path, as_fault(error, place.path / "spec.json"))


def at(folder: Path, top: Path) -> Import:
    """The imported log in a folder somewhere below a top.

    Raises:
        Fault: its spec cannot be read, is no valid spec, or does not fit its folder; or something else is in the folder.
    """
    path = folder / "spec.json"
    spec = cast(ImportSpec, from_json(cast(Any, ImportSpec), disk.read(path), str(path)))
    if not folder.resolve().name.endswith(f"-{spec.key}"):
        raise Fault(path, None, f"its key is {spec.key}, but the folder is {folder.resolve().name}")
    if reason := misplaced(folder, top, spec.folder):
        raise Fault(path, None, reason)
    if faults := strangers(folder, disk.children(folder), "import")[0]:
        raise faults[0]
    return Import(folder, spec)


def imports(root: Path) -> Iterator[Import]:
    """Every imported log of a store whose spec is whole, by folder; see `reading.read` for those whose rows are."""
    return (entry for entry in scan(root) if isinstance(entry, Import))
