"""Where a run lives on disk.

    ROOT/mnist/smoothmix.eta5/0.25-seed0-<key>/
        spec.json            RunSpec; its key is the folder's last word
        environment.json     versions, hashes, device: what the numbers were made with (side file: not evidence)
        curve.csv            the training curve, one column per term
        training.json        written last: state trained or diverged, steps, SHA-256 of the weights
        weights.safetensors  the base classifier
        checkpoint.bin       only while training is unfinished
        failure.json         only while the last attempt failed
        timing.json          seconds and images per second (side file)
        certify-<key>/       one folder per certification
            spec.json        CertifySpec
            evidence.jsonl   one line per image, written as soon as it exists
            times.csv        seconds per image (side file)

Names are for people; what a run is stands in its spec.json and is checked against the folder's key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.records import Certificate, finished_bytes, indices, read_rows, to_line
from bench.spec import CertifySpec, RunSpec, canonical, from_json, parse_json, select_images, to_json

DEFAULT_ROOT = Path("results/runs")


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file so that a reader or a crash sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Canonical JSON with a line end, atomically."""
    write_atomically(path, (canonical(value) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        BenchError: unreadable, or not an object.
    """
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise BenchError(f"{path}: expected an object, found {type(data).__name__}")
    return data


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Certification:
    """One certification of a run: its folder and spec."""

    path: Path
    spec: CertifySpec
    run: Run

    @property
    def evidence(self) -> Path:
        return self.path / "evidence.jsonl"

    def expected(self, test_size: int) -> range:
        """Indices of the images it covers when finished."""
        return select_images(self.spec.images, test_size)

    def rows(self) -> list[Certificate]:
        """The finished rows.

        Raises:
            BenchError: a damaged row, one that is not of this certification, or one with other sample sizes.
        """
        if not self.evidence.exists():
            return []
        rows = read_rows(self.evidence)
        for number, row in enumerate(rows, start=1):
            if (row.n0, row.n) != (self.spec.n0, self.spec.n):
                raise BenchError(
                    f"{self.evidence}, line {number}: {row.n0} + {row.n} samples, but the spec says {self.spec.n0} + {self.spec.n}"
                )
        return rows

    def begin(self) -> None:
        """Writes the spec and cuts a torn last line."""
        write_json(self.path / "spec.json", to_json(self.spec))
        if self.evidence.exists():
            keep = finished_bytes(self.evidence)
            if keep < self.evidence.stat().st_size:
                with self.evidence.open("r+b") as file:
                    file.truncate(keep)
                    os.fsync(file.fileno())

    def append(self, row: Certificate, seconds: float) -> None:
        """Adds a row; it counts as done once this returns (it is synced)."""
        with self.evidence.open("ab") as file:
            file.write(to_line(row).encode())
            file.flush()
            os.fsync(file.fileno())
        with (self.path / "times.csv").open("a") as file:
            file.write(f"{row.index},{seconds:.6f}\n")


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
        return self.path / "checkpoint.bin"

    @property
    def curve(self) -> Path:
        return self.path / "curve.csv"

    def training(self) -> dict[str, Any] | None:
        """What `training.json` says, None while training is unfinished."""
        path = self.path / "training.json"
        return read_json(path) if path.exists() else None

    def failure(self) -> dict[str, Any] | None:
        """What the last attempt failed of, None if it did not."""
        path = self.path / "failure.json"
        return read_json(path) if path.exists() else None

    def environment(self) -> dict[str, Any] | None:
        """What the run was made with, None before its first start."""
        path = self.path / "environment.json"
        return read_json(path) if path.exists() else None

    def certification(self, spec: CertifySpec) -> Certification:
        """The folder of a certification, there or not."""
        return Certification(self.path / f"certify-{spec.key}", spec, self)

    def certifications(self) -> Iterator[Certification]:
        """Those that were begun, by folder name.

        Raises:
            BenchError: a folder whose spec does not fit its key.
        """
        for path in sorted(self.path.glob("certify-*/spec.json")):
            spec = from_json(CertifySpec, path.read_bytes(), str(path))
            if path.parent.name != f"certify-{spec.key}":
                raise BenchError(f"{path}: its key is {spec.key}, but the folder is {path.parent.name}")
            yield Certification(path.parent, spec, self)

    def begin(self) -> None:
        """Writes the spec: from then on the run is listed, even if it fails at once."""
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

    def runs(self) -> Iterator[Run]:
        """Every run, ordered by folder.

        Raises:
            BenchError: a folder whose spec is unreadable or does not fit its key.
        """
        for path in sorted(self.root.glob("[!.]*/*/*/spec.json")):  # not those set aside in .replaced
            spec = from_json(RunSpec, path.read_bytes(), str(path))
            if not path.parent.name.endswith(f"-{spec.key}"):
                raise BenchError(f"{path}: its key is {spec.key}, but the folder is {path.parent.name}")
            yield Run(path.parent, spec)

    def find(self, word: str) -> Run:
        """The one run whose folder or key begins with a word.

        Raises:
            BenchError: none, or several.
        """
        folder = Path(word)
        found = [run for run in self.runs() if run.spec.key.startswith(word) or run.path == folder]
        if not found and (folder / "spec.json").exists():
            return Run(folder, from_json(RunSpec, (folder / "spec.json").read_bytes(), str(folder / "spec.json")))
        if len(found) != 1:
            what = "no run" if not found else f"{len(found)} runs"
            raise BenchError(f"{what} in {self.root} with key or folder {word!r}; `bench list runs` names them")
        return found[0]


def missing(certification: Certification, test_size: int) -> list[int]:
    """Images still to be certified, ascending.

    Raises:
        BenchError: a row of an image that the certification does not cover.
    """
    expected = certification.expected(test_size)
    done = indices(certification.rows())
    if strange := sorted(done - set(expected)):
        raise BenchError(f"{certification.evidence}: image {strange[0]} is not among {certification.spec.images}")
    return [index for index in expected if index not in done]
