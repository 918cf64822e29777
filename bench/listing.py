"""What is in a results folder, and where every cell of it stands; fast for ten thousand runs.

ROOT/.index.json keeps what was read of each run beside a signature: name, size and times of every file in its folder. A run
whose signature is not exactly that is read anew, so the index can be deleted, copied or damaged and changes nothing but the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from bench.claims import present
from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.files import write_atomically
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, scalar_word
from bench.store import Damaged, Run, Store

INDEXED_RUNS = 200
"""Fewer are read fast enough, and a folder under version control should not grow a file by being listed."""
SETTLED_SECONDS = 2.0
"""A file that was changed within this time before the listing began may change again without another time stamp."""
ORDER = ("damaged", "diverged", "failed", "missing", "training", "certifying", "done")  # the worst first
COLUMNS = ("key", "row", "data set", "sigma", "seed", "protocol", "recipe", "state", "images certified")
"""What people see of a row."""

Row = dict[str, Any]


class Listing:
    """The runs of a store, from its index where that holds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._begun = present(store.root)  # the times of files are by the same clock; what changed since is not settled either
        self._path = store.root / ".index.json"
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._known: dict[str, bool] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            data = json.loads(self._path.read_bytes())
            if isinstance(data, dict) and data.get("format") == _format() and isinstance(data.get("runs"), dict):
                self._old = data["runs"]

    def rows(self) -> list[Row]:
        """One row per run, damaged ones too, ordered by folder; keeps the index for next time."""
        there = {self._name(folder): folder for folder in self.store.folders()}
        rows = [self._row(name, folder) for name, folder in there.items()]
        self._save({name: entry for name, entry in self._old.items() if name in there})
        return rows

    def row(self, folder: Path) -> Row:
        """What is on disk of a run, in words and numbers of JSON.

        Besides COLUMNS: path, reason, kind of failure, the end of its log, `certifications`: key -> [state, images done, images], and
        `source`: SHA-256 of its method's file.
        """
        return self._row(self._name(folder), folder)

    def _row(self, name: str, folder: Path) -> Row:
        signature, newest = _signature(folder)
        entry: Any = self._old.get(name)
        if not self._holds(entry, signature):
            found = _read(self.store.at(folder))
            entry = [signature, found, self._labelled(found["data set"])]
        if newest < self._begun - SETTLED_SECONDS:
            self._new[name] = entry
        row: Row = entry[1]
        return row | {"path": str(folder)}

    def _holds(self, entry: object, signature: str) -> bool:
        """Whether an entry of the index says what reading the run would say; evidence is checked against labels, which may come or go."""
        if not (isinstance(entry, list) and len(entry) == 3 and entry[0] == signature and isinstance(entry[1], dict)):
            return False
        return entry[2] is self._labelled(entry[1].get("data set"))

    def _labelled(self, dataset: object) -> bool:
        """Whether the labels of a data set's test images are known on this machine."""
        name = str(dataset)
        if name not in self._known:
            with contextlib.suppress(BenchError):
                self._known[name] = name in DATASETS and DATASETS[name].known_labels() is not None
        return self._known.setdefault(name, False)

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.store.root).as_posix()

    def save(self) -> None:
        """Keeps the index for next time; of runs that were not looked at, what it said before."""
        self._save(self._old)

    def _save(self, before: dict[str, Any]) -> None:
        """Writes the index if it is not what it was and the folder lets it be. before: the entries that are not forgotten."""
        runs = before | self._new
        if len(self._new) >= INDEXED_RUNS and runs != self._old:
            with contextlib.suppress(OSError):
                write_atomically(self._path, json.dumps({"format": _format(), "runs": runs}).encode())


@cache
def _format() -> str:
    """Another release may read runs differently, so each believes its own index only."""
    folder = Path(__file__).parent
    modules = ("listing", "store", "binding", "presets", "files", "spec", "columns", "records")
    files = [folder / f"{name}.py" for name in modules]
    files += sorted((folder / "rules").rglob("*.py"))
    return "certbench index " + hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _signature(folder: Path) -> tuple[str, float]:
    """A digest over name, size and times of every file of a run but claims, and the newest of the times."""
    parts, newest = [], 0.0
    for place in _folders(folder):
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "claim-")) or (entry.name.startswith("certify-") and entry.is_dir()):
                        continue
                    stat = entry.stat()
                    parts.append((place, entry.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
                    newest = max(newest, stat.st_mtime, stat.st_ctime)
        except OSError as error:
            parts.append((place, str(error), 0, 0, 0))
    return hashlib.blake2b(repr(sorted(parts)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest(), newest


def _folders(folder: Path) -> list[str]:
    try:
        return [str(folder), *(entry.path for entry in os.scandir(folder) if entry.name.startswith("certify-") and entry.is_dir())]
    except OSError:
        return [str(folder)]


def _read(run: Run | Damaged) -> Row:
    """A run as its own files tell it."""
    if isinstance(run, Damaged):
        return dict.fromkeys(COLUMNS, "") | _outcome("damaged", reason=run.reason)
    try:
        return names(run.spec) | {"row": run.named.row} | _standing(run)
    except BenchError as error:
        return names(run.spec) | {"row": run.named.row, "images certified": ""} | _outcome("damaged", reason=str(error))


def _outcome(state: str, reason: str | None = None, kind: str = "", log: str = "") -> Row:
    return {"state": state, "reason": reason, "kind": kind, "log": log, "certifications": {}, "epochs": 0, "lines": {}}


def names(spec: RunSpec) -> Row:
    """What a listing calls a run."""
    found = {"key": spec.key, "row": spec.row, "data set": spec.dataset, "sigma": f"{spec.sigma}", "seed": spec.seed}
    return found | {"protocol": spec.protocol, "recipe": spec.recipe}


def _standing(run: Run) -> Row:
    """The state of the certification that is furthest behind, and the reason where it failed or diverged."""
    training, failure, own = run.training(), run.failure(), run.state()
    certifications, lines, states = {}, {}, []
    for certification in run.certifications():
        standing, key = certification.standing(), certification.spec.key
        states.append(standing.state)
        certifications[key] = [standing.state, len(standing.columns), len(certification.expected())]
        lines[key] = _line(run.spec, certification.spec, trained=training is not None and training["state"] == "trained")
    if not lines:
        lines[""] = f"run {command(run.spec, None)}"
    state = min(states, key=ORDER.index, default=own)
    record = training if state == "diverged" else failure if state == "failed" else None
    progress = ", ".join(f"{done}/{total}" for _, done, total in certifications.values())
    found = _outcome(state, *(str((record or {}).get(name) or "") for name in ("reason", "kind", "log")))
    return found | {
        "reason": record["reason"] if record else None,
        "images certified": progress or "none",
        "certifications": certifications,
        "own": own,
        "source": (run.environment() or {}).get("method_sha256"),
        "epochs": run.spec.train.epochs,
        "lines": lines,
    }


def _line(spec: RunSpec, certify: CertifySpec, *, trained: bool) -> str | None:
    """The words after `bench` that continue a certification, or the training that it waits for; None if no words ask for it."""
    if not trained or _asked(spec.protocol, certify):
        return f"run {command(spec, certify)}"
    words = ["--images", certify.images, "--n", f"{certify.n}", "--n0", f"{certify.n0}", "--seed", f"{certify.seed}"]
    own = CertifySpec(images=certify.images, n=certify.n, n0=certify.n0, seed=certify.seed)
    if certify.rule != own.rule:
        own = replace(own, rule=certify.rule, stop_alpha=certify.stop_alpha)
        words += ["--rule", certify.rule, "--alpha", repr(certify.stop_alpha)]
    if certify.skip_misclassified:
        own = replace(own, skip_misclassified=True)
        words += ["--skip-misclassified"]
    return f"certify {spec.key} {shlex.join(words)}" if own == certify else None


def _asked(protocol: str, certify: CertifySpec) -> bool:
    """Whether a certification is what `bench run` makes of a protocol with the changes that it records."""
    try:
        return certify == replace(PROTOCOLS[protocol].certify, **certify.changes, changes=certify.changes)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return False  # changes of another release


def command(spec: RunSpec, certify: CertifySpec | None) -> str:
    """The words after `bench run` that ask for one cell, apart from plug-ins and folders."""
    name = spec.method if spec.variant == "default" else f"{spec.method}.{spec.variant}"
    words = ["--method", name, "--dataset", spec.dataset, "--sigma", repr(spec.sigma), "--seeds", f"{spec.seed},"]
    words += ["--protocol", spec.protocol, "--recipe", spec.recipe]
    changes = dict(spec.changes) | ({f"certify.{key}": value for key, value in certify.changes.items()} if certify else {})
    for key, value in sorted(changes.items()):
        words += ["--set", f"{key}={scalar_word(value)}"]
    return shlex.join(words)
