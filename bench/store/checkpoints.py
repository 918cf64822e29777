"""Where the evidence of a foreign base classifier lives: beside the runs of a store, in the same files.

    ROOT/checkpoints/mnist/lenet/0.5-<key>/
        subject.json         CheckpointSpec; its key is the folder's last word
        origin.json          what people call it: its file, the row of tables that it is a training of (side file)
        weights.safetensors  the base classifier, normalisation included, whatever file it came in
        certify-<key>/       as of a run: spec.json, subject.json, evidence.jsonl, finished.json, environment.json, times.csv

Equal weights under an equal normalisation are one subject, however their file was laid out or called.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bench.errors import BenchError, Fault, clipped
from bench.evidence import records
from bench.files import disk
from bench.files.walk import CHECKPOINTS, What
from bench.files.writing import read_json_if_there, write_atomically, write_json
from bench.spec import NAME, canonical, check_sigma, digest, parse_json, to_json
from bench.spec.stored import LATER
from bench.store.subject import Source, Subject, folder_name

COUNTER = "num_batches_tracked"
"""Of batch norm: evaluation never reads it, and files before PyTorch 0.4.1 lack it."""
SUFFIXES = (".tar", ".pth", ".pt", ".safetensors")
_ROW = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ANEW = "remove that file and certify the checkpoint again"


@dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
    """What is certified.

    Attributes:
        arch: of the suite, of timm, or module:factory.
        normalization: `none`, or MEAN/STD as numbers per channel; it stands in the weights too.
        weights_sha256: of weights.safetensors.
        source_sha256: of the text of the factory's module; of earlier releases. code_sha256: of the code of a network from outside the
            suite, without comments. Both are empty for an architecture of the suite or of timm.
    """

    dataset: str
    sigma: float  # noise level, in pixels of [0, 1]
    arch: str
    normalization: str
    weights_sha256: str
    source_sha256: str = ""
    code_sha256: str = field(default="", metadata=LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", float(self.sigma))
        check_sigma(self.sigma)
        if not NAME.match(self.dataset):
            raise ValueError(f"dataset {self.dataset!r} is not a name: lower case letters, digits, - and _")
        for name in ("weights_sha256", "source_sha256", "code_sha256"):
            value = getattr(self, name)
            if not _SHA256.fullmatch(value) and (value or name == "weights_sha256"):
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
    return folder_name(str(stem).lower()).strip("._-")[:64] or "checkpoint"


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
class Checkpoint(Subject):
    """A base classifier that the suite did not train, as the subject of its certifications."""

    source: ClassVar[Source] = "checkpoints"
    what: ClassVar[What] = "subject"
    spec_type: ClassVar[type[CheckpointSpec]] = CheckpointSpec
    spec_file: ClassVar[str] = "subject.json"
    spec: CheckpointSpec

    @staticmethod
    def place(spec: CheckpointSpec) -> Path:
        arch = folder_name(spec.arch.lower())[:64]
        return Path(CHECKPOINTS, spec.dataset, arch, f"{spec.sigma:g}-{spec.key}")

    @property
    def row(self) -> str:
        """What people said that it is a training of, or a name made of its file's."""
        return self.origin().label

    @property
    def method(self) -> str:
        """What stands before the first dot of the row."""
        return self.row.partition(".")[0]

    @property
    def variant(self) -> str:
        return self.row.partition(".")[2] or "default"

    @property
    def training_name(self) -> str:
        return self.origin().name or self.key

    @property
    def file_name(self) -> str:
        return self.origin().name

    @property
    def name(self) -> str:
        return f"checkpoint {self.training_name} of {self.row}, {self.dataset} sigma {self.sigma:g}"

    @property
    def origin_file(self) -> Path:
        return self.path / "origin.json"

    def origin(self) -> Origin:
        """What people call it; of a folder in which nothing was recorded, nothing.

        Raises:
            BenchError: the record cannot be read, or says what it cannot.
        """
        return Origin(**(self.record("origin.json", _origin) or {}))

    def told(self) -> dict[str, Any]:
        return super().told() | {"origin.json": self.record("origin.json", _origin) or {}}

    def faults_of_records(self) -> list[Fault]:
        found: list[Fault] = []
        records.attempt(found, self.origin_file, self.origin)
        records.attempt(found, self.weights, lambda: records.tensors(self.weights))
        return found

    def training(self) -> dict[str, Any]:
        """Trained elsewhere, so always there."""
        return self.once("training.json", lambda _: {"state": "trained", "weights_sha256": self.spec.weights_sha256})

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


def _origin(path: Path) -> dict[str, str] | None:
    data = read_json_if_there(path)
    try:
        if data is not None and not all(isinstance(value, str) for value in data.values()):
            raise TypeError
        Origin(**(data or {}))
    except TypeError:
        raise Fault(path, None, f"expected the texts name, row and tensors_sha256; {_ANEW}") from None
    except ValueError as error:
        raise Fault(path, None, clipped(f"{error}; {_ANEW}")) from None
    return data
