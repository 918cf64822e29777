"""Where the evidence of a foreign base classifier lives: beside the runs of a store, in the same files.

    ROOT/checkpoints/mnist/lenet/0.5-<key>/
        subject.json         SubjectSpec; its key is the folder's last word
        origin.json          the name that it was given by (side file)
        weights.safetensors  the base classifier, normalisation included, whatever file it came in
        certify-<key>/       as of a run: spec.json, subject.json, evidence.jsonl, environment.json, times.csv

Equal weights under an equal normalisation are one subject, however their file was laid out or called.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bench.errors import BenchError
from bench.files import sha256, write_atomically, write_json
from bench.spec import NAME, check_sigma, digest, from_json, to_json
from bench.store import Run, State

FOLDER = "checkpoints"
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


@dataclass(frozen=True)
class Subject(Run):
    """A base classifier that the suite did not train, as the run of its certifications."""

    spec: SubjectSpec  # type: ignore[assignment]

    @property
    def origin(self) -> Path:
        return self.path / "origin.json"

    def training(self) -> dict[str, Any]:
        """Trained elsewhere, so always there."""
        return {"state": "trained", "weights_sha256": self.spec.weights_sha256}

    def state(self) -> State:
        return "certifying"

    def begin(self) -> None:
        """Sweeps what killed writes left, and writes the spec."""
        for leftover in self.path.rglob(".*.tmp"):
            leftover.unlink()
        write_json(self.path / "subject.json", to_json(self.spec))

    def keep(self, weights: bytes, name: str) -> None:
        """Writes the weights, so that any row can be certified again, and the name they were given by.

        Raises:
            BenchError: there are other weights, which these must not replace.
        """
        if self.weights.exists() and (found := sha256(self.weights)) != self.spec.weights_sha256:
            raise BenchError(f"{self.weights}: SHA-256 is {found}, but subject.json says {self.spec.weights_sha256}; remove that folder")
        if not self.weights.exists():
            write_atomically(self.weights, weights)
        write_json(self.origin, {"name": name})


def subject(root: Path, spec: SubjectSpec) -> Subject:
    """The place of a subject in a store, there or not."""
    arch = re.sub(r"[^a-z0-9._-]+", "_", spec.arch.lower())[:64]
    return Subject(root / FOLDER / spec.dataset / arch / f"{spec.sigma:g}-{spec.key}", spec)


def subjects(root: Path) -> Iterator[Subject]:
    """Every subject of a store, by folder; its `certifications()` are those that were begun.

    Raises:
        BenchError: a spec that is no valid spec, or does not fit its folder.
        OSError: a spec that cannot be read.
    """
    for path in sorted((root / FOLDER).glob("[!.]*/*/*/subject.json")):
        spec = cast(SubjectSpec, from_json(cast(Any, SubjectSpec), path.read_bytes(), str(path)))
        if not path.parent.name.endswith(f"-{spec.key}"):
            raise BenchError(f"{path}: its key is {spec.key}, but the folder is {path.parent.name}")
        yield Subject(path.parent, spec)
