"""Which weights and which specs evidence belongs to, as the records beside it say.

subject.json is written before the first row: the keys of the run and of the certification, and the SHA-256 of the weights. finished.json is
written after the last one and adds the SHA-256 of the evidence. A kill between the two leaves evidence *unbound* until the next start; that
of earlier releases, whose subject.json holds no keys, stays so. Whoever can write a row can write these records: they show mix-ups, not
forgers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import Fault
from bench.files import disk
from bench.files.writing import read_json, write_json

SUBJECT, FINISHED = "subject.json", "finished.json"
EVIDENCE = "evidence_sha256"
_WORDS = {
    "run_key": "run {} was certified, but this is run {}",
    "certify_key": "it is of certification {}, but this is {}",
    "weights_sha256": "weights {} were certified, but the run's are {}",
}


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What a certification is of.

    Attributes:
        run_key: of the trained model, or of the base classifier from outside.
        weights_sha256: of its weights file; None: not known, and then not compared.
    """

    run_key: str
    certify_key: str
    weights_sha256: str | None

    def conflict(self, record: Mapping[str, Any]) -> str | None:
        """Of what else a record is, in a sentence; None if of this, as far as it says. Every record names weights."""
        for name, own in vars(self).items():
            if own is not None and (found := record.get(name)) != own and (name in record or name == "weights_sha256"):
                return _WORDS[name].format(found, own)
        return None

    def read(self, folder: Path, name: str = SUBJECT) -> dict[str, Any]:
        """What a record of the certification in a folder says.

        Raises:
            Fault: there is none, it is no record, or it is that of something else.
        """
        record = read_json(folder / name)
        if told := self.conflict(record):
            raise Fault(folder / name, None, told)
        return record

    def begin(self, folder: Path, started: bool) -> None:
        """Writes the record of a certification that begins; of one that goes on, checks it.

        Args:
            started: there are rows.

        Raises:
            Fault: they are those of something else.
        """
        if started:
            self.read(folder)
        else:
            if disk.there(folder / FINISHED):  # its rows were removed, to be counted anew
                (folder / FINISHED).unlink()
            write_json(folder / SUBJECT, vars(self))

    def ended(self, folder: Path, evidence_sha256: str | None) -> bool:
        """Whether the record of the end says that all rows are there and are these; not so where there is none.

        Args:
            evidence_sha256: of all rows; None: some are missing.

        Raises:
            Fault: it says that they are not, or as `read`.
        """
        if not disk.there(folder / FINISHED):
            return False
        ended = self.read(folder, FINISHED).get(EVIDENCE)
        if evidence_sha256 is None:
            raise Fault(
                folder / FINISHED,
                None,
                "it says that the certification was finished, but rows are missing; to count them anew, delete it and times.csv too",
            )
        if ended != evidence_sha256:
            reason = f"its SHA-256 is {evidence_sha256}, but the certification ended with {ended}, so these are not its rows"
            raise Fault(folder / "evidence.jsonl", None, reason)
        return True

    def open(self, folder: Path) -> bool:
        """Whether the certification began with a record that names its keys, and lacks the one of its end.

        Raises:
            Fault: as `read`.
        """
        return "run_key" in self.read(folder) and not disk.there(folder / FINISHED)

    def seal(self, folder: Path, evidence_sha256: str) -> None:
        """Records that all rows are there, and which."""
        write_json(folder / FINISHED, vars(self) | {EVIDENCE: evidence_sha256})
