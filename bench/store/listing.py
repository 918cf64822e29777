"""What is in a results folder, and where every cell of it stands; fast for ten thousand runs.

What was read of each run is kept in the user's cache (`bench.evidence.cache`) beside a signature: identity of every file in its folder. A
run whose signature is not exactly that is read anew, so what is kept can be deleted or damaged and changes nothing but the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS
from bench.errors import BenchError, Fault
from bench.evidence import cache
from bench.files import claims, disk
from bench.files.walk import Walk, passing
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, differing, scalar_word
from bench.store.runs import Run, Store
from bench.store.subject import Certification, Damaged, Source, Subject

INDEXED_RUNS = 200
"""Fewer are read fast enough."""
SETTLED_SECONDS = 2.0
"""A file that was changed within this time before the listing began may change again without another time stamp."""
OTHERS = ("row", "file", "data set", "network", "sigma", "images", "n", "state", "images certified")
"""What people see of a certification of a subject that was not trained here."""
OTHER_STATES = ("done", "running", "unfinished", "damaged")
ORDER = ("damaged", "diverged", "failed", "missing", "training", "certifying", "done")  # the worst first
COLUMNS = ("key", "row", "data set", "sigma", "seed", "protocol", "recipe", "state", "images certified")
"""What people see of a run."""

Row = dict[str, Any]


class Listing:
    """The runs of a store, from its index where that holds."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._begun = claims.present(store.root)  # the times of files are by the same clock; what changed since is not settled either
        self._key = f"index {os.path.realpath(store.root)}"
        self._old: dict[str, Any] = {}
        self._new: dict[str, Any] = {}
        self._known: dict[str, bool] = {}
        self.unexpected: Sequence[Fault] = ()
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(cache.get(self._key) or b"{}")
            if isinstance(data, dict):
                self._old = data

    def rows(self) -> list[Row]:
        """One row per run, damaged ones too, ordered by folder, and one for what may not be there; keeps the index for next time."""
        walked = self.store.walk()
        self.unexpected = walked.unexpected
        there = {self._name(place.path): place for place in walked.of("run") if place.begun}
        rows = [self._row(name, place.path, place.seen, place.inner) for name, place in there.items()]
        self._save({name: entry for name, entry in self._old.items() if name in there})
        asked = {row.get("depends") for row in rows}
        for row in rows:
            if row["state"] == "certifying" and not row["certifications"] and row["key"] in asked:
                row |= {"state": "trained", "reason": "for the rows that ask its model; nobody asked for its certification"}
        return rows + [_read(Damaged(fault.file, fault)) | {"path": str(fault.file)} for fault in walked.faults]

    def row(self, folder: Path) -> Row:
        """What is on disk of a run, in words and numbers of JSON.

        Besides COLUMNS: path, reason, kind of failure, the end of its log, `certifications`: key -> [state, images done, images], and
        `source`: SHA-256 of its method's file.
        """
        return self._row(self._name(folder), folder)

    def _row(self, name: str, folder: Path, seen: dict[str, Any] | None = None, inner: Iterable[str] | None = None) -> Row:
        signature, newest = _signature(folder, inner)
        entry: Any = self._old.get(name)
        if not self._holds(entry, signature):
            found = _read(self.store.at(folder, "run", seen))
            entry = [signature, found, self._labelled(found["data set"])]
        if newest < self._begun - SETTLED_SECONDS and entry[1]["state"] != "damaged":
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
        """Writes the index if it is not what it was. before: the entries that are not forgotten."""
        runs = before | self._new
        if len(self._new) >= INDEXED_RUNS and runs != self._old:
            cache.put(self._key, json.dumps(runs).encode())


def _signature(folder: Path, inner: Iterable[str] | None = None) -> tuple[str, float]:
    """A digest over name and identity of every file of a run but claims, and the newest of the times.

    Args:
        inner: the names of its certifications' folders, if they are known.
    """
    parts, newest = [], 0.0
    top = str(folder)
    for place in [top, *(os.path.join(top, name) for name in (_inner(top) if inner is None else inner))]:  # noqa: PTH118 - for each of many
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if passing(entry.name):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and entry.name.startswith("certify-"):
                        parts.append(entry.name)
                        continue
                    parts.append(f"{entry.path[len(top) :]} {status.st_mode} {disk.identity(status)}")
                    newest = max(newest, status.st_mtime, status.st_ctime)
        except OSError as error:
            parts.append(f"{place[len(top) :]} {error.errno}")
    return hashlib.blake2b("\n".join(sorted(parts)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest(), newest


def _inner(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.startswith("certify-") and entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _read(run: Subject | Damaged) -> Row:
    """A run as its own files tell it."""
    if not isinstance(run, Run):
        return dict.fromkeys(COLUMNS, "") | _outcome("damaged", reason=run.reason if isinstance(run, Damaged) else None)
    try:
        depends = {"depends": run.spec.depends} if run.spec.depends else {}
        return names(run.spec) | {"row": run.named.row} | depends | _standing(run)
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
    certifications: dict[str, list[Any]] = {}
    lines: dict[str, str | None] = {}
    states: list[str] = []
    if faults := run.faults():
        return _outcome("damaged", reason="; ".join(map(str, faults))) | {"images certified": ""}
    training, failure, own, environment = run.training(), run.failure(), run.state(), run.environment() or {}
    damaged: list[str] = []
    for certification in run.begun():
        try:
            if isinstance(certification, Damaged):
                raise certification.fault
            status, key = certification.status().sound(), certification.spec.key
            certifications[key] = [status.state, len(status.columns), len(certification.expected())]
        except BenchError as error:
            damaged.append(str(error))
            key = certification.path.name.partition("-")[2]
            certifications[key] = ["damaged", 0, 0]
            continue
        states.append(status.state)
        lines[key] = _line(run.spec, certification.spec, trained=training is not None and training["state"] == "trained")
    if not lines:
        lines[""] = f"run {command(run.spec, None)}"
    state = "damaged" if damaged else min(states, key=ORDER.index, default=own)
    record = {"reason": "; ".join(damaged)} if damaged else training if state == "diverged" else failure if state == "failed" else None
    progress = ", ".join(f"{done}/{total}" if total else "damaged" for _, done, total in certifications.values())
    found = _outcome(state, *(str((record or {}).get(name) or "") for name in ("reason", "kind", "log")))
    return found | {
        "reason": record["reason"] if record else None,
        "images certified": progress or "none",
        "certifications": certifications,
        "own": own,
        "source": environment.get("method_code_sha256", environment.get("method_sha256")),
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
        own = replace(own, rule=certify.rule, stop_alpha=certify.stop_alpha, radii=certify.radii)
        words += ["--rule", certify.rule, "--alpha", repr(certify.stop_alpha), *(["--radii", certify.radii] if certify.radii else [])]
    if certify.skip_misclassified:
        own = replace(own, skip_misclassified=True)
        words += ["--skip-misclassified"]
    return f"certify {spec.key} {shlex.join(words)}" if own == certify else None


def _asked(protocol: str, certify: CertifySpec) -> bool:
    """Whether a certification is what `bench run` makes of a protocol with the changes that it records."""
    try:
        return certify == replace(PROTOCOLS[protocol].certify, **certify.changes, changes=certify.changes)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return False  # changes of another release


def command(spec: RunSpec, certify: CertifySpec | None) -> str:
    """The words after `bench run` that ask for one cell, apart from plug-ins and folders."""
    name = spec.method if spec.variant == "default" else f"{spec.method}.{spec.variant}"
    words = ["--method", name, "--dataset", spec.dataset, "--sigma", repr(spec.sigma), "--seeds", f"{spec.seed},"]
    words += ["--protocol", spec.protocol, "--recipe", spec.recipe]
    changes = dict(spec.changes)
    if certify and spec.dataset in DATASETS and spec.protocol in PROTOCOLS:  # by its values: `bench certify` records no change
        usual = DATASETS[spec.dataset].protocol(PROTOCOLS[spec.protocol]).certify
        changes |= differing(usual, certify, [f.name for f in fields(certify) if f.name != "changes"], "certify.")
    elif certify:
        changes |= {f"certify.{name}": value for name, value in certify.changes.items()}
    for key, value in sorted(changes.items()):
        words += ["--set", f"{key}={scalar_word(value)}"]
    return shlex.join(words)


def others(store: Store, source: Source, walked: Walk | None = None) -> list[Row]:
    """Checkpoints or published logs: one row per certification, by row, data set, sigma and file; one too for a folder that is damaged.

    Besides OTHERS: `key` of the subject, `n0`, `normalisation`, `path`, `reason` (of a damaged one) and `holder`. A process claims a
    checkpoint, so all of its unfinished certifications are `running` while it is at one of them.

    Args:
        walked: what is in the store, if it is known.
    """
    now = claims.present(store.root)
    found = [row for item in store.scan(source, walked=walked) for row in _of_other(item, now)]
    return sorted(found, key=lambda row: tuple(str(row[name]) for name in ("row", "data set", "sigma", "file", "path")))


def _of_other(subject: Subject | Damaged, now: float) -> list[Row]:
    hidden = {"key": "", "n0": "", "normalisation": "", "path": str(subject.path), "reason": None, "holder": None}
    facts: Row = dict.fromkeys(OTHERS, "") | hidden | {"state": "unfinished"}
    if isinstance(subject, Damaged):
        return [facts | {"state": "damaged", "reason": subject.reason}]
    spec = subject.spec
    facts |= {"data set": subject.dataset, "network": spec.arch, "sigma": f"{subject.sigma}", "key": subject.key}
    facts |= {"normalisation": getattr(spec, "normalization", "")}
    if faults := subject.faults():
        return [facts | {"state": "damaged", "reason": "; ".join(map(str, faults))}]
    facts |= {"row": subject.row, "file": subject.file_name}
    holder = claims.holder(subject.path, now)
    if holder and not holder.stale:
        facts |= {"state": "running", "holder": str(holder)}
    return [facts | _of_certification(item) for item in subject.begun()] or [facts | {"images certified": "none"}]


def _of_certification(item: Certification | Damaged) -> Row:
    """What is known of one beside the facts of its subject."""
    status = item.status()
    known: Row = {"path": str(item.path)}
    if isinstance(item, Certification):
        known |= {"images": item.spec.images, "n": item.spec.n, "n0": item.spec.n0}
    if status.fault or isinstance(item, Damaged):
        return known | {"state": "damaged", "reason": str(status.fault)}
    known["images certified"] = f"{len(status.columns)}/{len(item.expected())}"
    return known | ({"state": "done", "holder": None} if status.state == "done" else {})
