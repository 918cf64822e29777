"""Where the evidence of a foreign base classifier lives: beside the runs of a store, in the same files.

    ROOT/checkpoints/mnist/lenet/0.5-<key>/
        subject.json         SubjectSpec; its key is the folder's last word
        origin.json          what people call it: its file, the row of tables that it is a training of (side file)
        weights.safetensors  the base classifier, normalisation included, whatever file it came in
        certify-<key>/       as of a run: spec.json, subject.json, evidence.jsonl, finished.json, environment.json, times.csv

Equal weights under an equal normalisation are one subject, however their file was laid out or called.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from bench.errors import BenchError, Fault, as_fault, clipped
from bench.evidence import records
from bench.files import disk
from bench.files.walk import CHECKPOINTS, Walk, misplaced, walk
from bench.files.writing import read_json_if_there, sweep, write_atomically, write_json
from bench.spec import NAME, canonical, check_sigma, digest, from_json, parse_json, to_json
from bench.store.runs import Damaged, Run, State

FOLDER = CHECKPOINTS
COUNTER = "num_batches_tracked"
"""Of batch norm: evaluation never reads it, and files before PyTorch 0.4.1 lack it."""
SUFFIXES = (".tar", ".pth", ".pt", ".safetensors")
_ROW = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class SubjectSpec:
    """What is certified.

    Attributes:
        arch: of the suite, of timm, or module:factory.
        normalization: `none`, or MEAN/STD as numbers per channel; it stands in the weights too.
        weights_sha256: of weights.safetensors.
        source_sha256: of the factory's module, empty for an architecture by name.
    """

    dataset: str
    sigma: float  # noise level, in pixels of [0, 1]
    arch: str
    normalization: str
    weights_sha256: str
    source_sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", float(self.sigma))
        check_sigma(self.sigma)
        if not NAME.match(self.dataset):
            raise ValueError(f"dataset {self.dataset!r} is not a name: lower case letters, digits, - and _")
        for name, value in (("weights_sha256", self.weights_sha256), ("source_sha256", self.source_sha256 or "0" * 64)):
            if not _SHA256.fullmatch(value):
                raise ValueError(f"{name} {value!r} is not a SHA-256 in hex")

    @property
    def key(self) -> str:
        """16 hex digits; names the folder."""
        return digest(to_json(self))


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What people call a subject; in no key.

    Attributes:
        name: of the file that it came in, or the factory; empty where nothing was recorded.
        row: of tables, of which it is a training; None: nobody said, so it is averaged with no other.
        tensors_sha256: see `tensors_sha256`; empty in the folders of earlier releases.
    """

    name: str = ""
    row: str | None = None
    tensors_sha256: str = ""

    def __post_init__(self) -> None:
        if self.row is not None:
            check_row(self.row)
        if self.tensors_sha256 and not _SHA256.fullmatch(self.tensors_sha256):
            raise ValueError(f"tensors_sha256 {self.tensors_sha256!r} is not a SHA-256 in hex")

    @property
    def label(self) -> str:
        """Its row, or where nobody said one, a name made of the file's stem."""
        return self.row or row_of(self.name)


def check_row(row: str) -> None:
    """ValueError unless a word can name a row."""
    if not _ROW.match(row):
        raise ValueError(
            f"row {row[:80]!r} is not a name: at most 64 lower case letters, digits, '.', - and _, of which a letter or digit is the first"
        )


def row_of(name: str) -> str:
    """A name for a row, from that of a file: `Mine (2).pth.tar` gives `mine_2`."""
    stem = Path(name)
    while stem.suffix.lower() in SUFFIXES:
        stem = stem.with_suffix("")
    return re.sub(r"[^a-z0-9._-]+", "_", str(stem).lower()).strip("._-")[:64] or "checkpoint"


def read_in_a_pass(header: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and entry of the tensors in a safetensors header that a forward pass reads, by name: all but the counters of batch norm."""
    return sorted((name, tensor) for name, tensor in header.items() if name != "__metadata__" and name.rpartition(".")[2] != COUNTER)


def tensors_sha256(weights: bytes | mmap.mmap) -> str:
    """Hex SHA-256 of the tensors of a safetensors file that a forward pass reads: all but the counters of batch norm.

    One model saved with and without them is two subjects, but no second training.

    Raises:
        BenchError: no safetensors file.
    """
    start = 8 + int.from_bytes(weights[:8], "little")
    hashed = hashlib.sha256()
    try:
        for name, tensor in read_in_a_pass(parse_json(weights[8:start])):
            begin, end = tensor["data_offsets"]
            hashed.update(canonical([name, tensor["dtype"], tensor["shape"]]).encode())
            hashed.update(weights[start + begin : start + end])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"this is no safetensors file ({type(error).__name__}: {error})") from None
    return hashed.hexdigest()


@dataclass(frozen=True)
class Subject(Run):
    """A base classifier that the suite did not train, as the run of its certifications."""

    kind: ClassVar[Literal["run", "subject"]] = "subject"
    spec: SubjectSpec  # type: ignore[assignment]

    @property
    def origin_file(self) -> Path:
        return self.path / "origin.json"

    def origin(self) -> Origin:
        """What people call it; of a folder in which nothing was recorded, nothing.

        Raises:
            BenchError: the record cannot be read, or says what it cannot.
        """
        return self.once("origin.json", _origin)

    def _faults_of_records(self) -> list[Fault]:
        found: list[Fault] = []
        records.attempt(found, self.origin_file, self.origin)
        records.attempt(found, self.weights, lambda: records.tensors(self.weights))
        return found

    def training(self) -> dict[str, Any]:
        """Trained elsewhere, so always there."""
        return {"state": "trained", "weights_sha256": self.spec.weights_sha256}

    def state(self) -> State:
        return "certifying"

    def begin(self) -> None:
        """Sweeps what killed writes left, and writes the spec."""
        sweep(self.path)
        write_json(self.path / "subject.json", to_json(self.spec))

    def keep(self, weights: bytes, name: str, row: str | None = None) -> Origin | None:
        """Writes the weights, so that any row can be certified again, and what people call them.

        Args:
            row: of tables, of which it is a training; None leaves what was said before.

        Returns:
            what it was called before, None where nothing was recorded.

        Raises:
            BenchError: there are other weights, which these must not replace, or a damaged record.
        """
        there = disk.there(self.weights)
        if there and (found := disk.sha256(self.weights)) != self.spec.weights_sha256:
            raise BenchError(f"{self.weights}: SHA-256 is {found}, but subject.json says {self.spec.weights_sha256}; remove that folder")
        before = self.origin() if disk.there(self.origin_file) else None
        if not there:
            write_atomically(self.weights, weights)
        said = row or (before.row if before else None)
        record = {"name": name.encode("utf-8", "replace").decode(), "tensors_sha256": tensors_sha256(weights)}
        write_json(self.origin_file, record | ({"row": said} if said else {}))
        return before


def subject(root: Path, spec: SubjectSpec) -> Subject:
    """The place of a subject in a store, there or not."""
    arch = re.sub(r"[^a-z0-9._-]+", "_", spec.arch.lower())[:64]
    return Subject(root / FOLDER / spec.dataset / arch / f"{spec.sigma:g}-{spec.key}", spec)


def scan(root: Path, walked: Walk | None = None) -> Iterator[Subject | Damaged]:
    """Every subject of a store, by folder; its `begun()` are its certifications. walked: what is in the store, if it is known."""
    for place in (walked or walk(root)).of("subject"):
        if place.begun:
            try:
                yield at(place.path, root, place.seen)
            except BenchError as error:
                yield Damaged(place.path, as_fault(error, place.path / "subject.json"))


def at(folder: Path, top: Path, seen: MutableMapping[str, Any] | None = None) -> Subject:
    """The subject in a folder somewhere below a top. seen: see `bench.store.runs.Run`.

    Raises:
        Fault: its spec cannot be read, is no valid spec, or does not fit its folder.
    """
    path = folder / "subject.json"
    spec = cast(SubjectSpec, from_json(cast(Any, SubjectSpec), disk.read(path), str(path)))
    if not folder.resolve().name.endswith(f"-{spec.key}"):
        raise Fault(path, None, f"its key is {spec.key}, but the folder is {folder.resolve().name}")
    if reason := misplaced(folder, top, subject(Path(), spec).path):
        raise Fault(path, None, reason)
    return Subject(folder, spec, {} if seen is None else seen)


def subjects(root: Path) -> Iterator[Subject]:
    """Every subject of a store, by folder; its records are read when they are asked for.

    Raises:
        BenchError: a spec that cannot be read, is no valid spec, or does not fit its folder.
    """
    for found in scan(root):
        if isinstance(found, Damaged):
            raise found.fault
        yield Subject(found.path, found.spec)


def _origin(path: Path) -> Origin:
    data = read_json_if_there(path)
    if data is None:
        return Origin()
    known = {"name": data.get("name", ""), "row": data.get("row"), "tensors_sha256": data.get("tensors_sha256", "")}
    try:
        if data.keys() - known or not all(isinstance(value, str) for value in data.values()):
            raise ValueError("expected the texts name, row and tensors_sha256")
        return Origin(**known)
    except ValueError as error:
        raise Fault(path, None, clipped(f"{error}; remove that file and certify the checkpoint again")) from None
