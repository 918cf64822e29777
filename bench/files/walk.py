"""What lies where in a results folder: the folders of runs, checkpoints and imported logs, and whatever else is in it.

    ROOT/mnist/smoothmix.eta5/0.25-seed0-<key>/         a run
    ROOT/checkpoints/mnist/lenet/0.5-<key>/             a base classifier from outside
    ROOT/imported/smoothmix-logs/gaussian/0.5-1-<key>/  an imported log

Everybody who reads results finds them here, so that nobody sees what another does not. Only the top itself may be a link. What the
suite does not leave in such a folder is named, and never read.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.errors import Fault
from bench.files import disk

CHECKPOINTS, IMPORTED = "checkpoints", "imported"
SUBMISSION, PLUGINS = "submission.json", "plugins"
"""The list of a submission, which makes a folder one, and the folder beside it that holds texts; see `bench.store.submission`."""
DEEPEST = 12
"""Folders above the deepest that is looked into."""

What = Literal["run", "subject", "import"]
KEYED = re.compile(r".+-[0-9a-f]{16}\Z", re.DOTALL)
CERTIFICATION = "certify-"
_TEMPORARY = re.compile(r"\.[^/]*\.tmp\Z|\.clock-", re.DOTALL)
_CLAIM = re.compile(r"claim-[1-9]\d{0,8}\.json\Z")
_OF_PEOPLE = re.compile(r"(README|LICENSE|NOTICE)(\.\w+)?\Z|[^.].*\.md\Z|\.git(ignore|keep|attributes)\Z|\.DS_Store\Z|\.nfs[0-9a-f]+\Z")
_SET_ASIDE = {".matrix", ".replaced", ".studies", ".git", ".ipynb_checkpoints"}
_EARLIER = {".index.json", "columns.bin"}

_ENDING = ("dataset.json", "weights.safetensors", "failure.json")
_TRAINING = ("environment.json", "curve.csv", "training.json", "checkpoint.bin", "checkpoint.older.bin", "timing.json")
FILES: Mapping[str, frozenset[str]] = {
    "run": frozenset(("spec.json", *_TRAINING, *_ENDING)),
    "subject": frozenset(("subject.json", "origin.json", *_ENDING)),
    "import": frozenset(("rows.tsv", "spec.json")),
    "certification": frozenset(("spec.json", "subject.json", "evidence.jsonl", "environment.json", "times.csv", "finished.json")),
}
"""What the suite writes into each kind of folder, besides claims and files on their way to their names."""
_MARKS = frozenset.union(*FILES.values())


@dataclass(frozen=True)
class Place:
    """A folder that holds a run, a base classifier from outside or an imported log, or that should.

    Attributes:
        names: what is in it. faults: what of that may not be there.
        inner: what is in the folders of its certifications, by their names; those that cannot be read are left out.
    """

    path: Path
    what: What
    names: Mapping[str, disk.Kind]
    faults: tuple[Fault, ...] = ()
    inner: Mapping[str, Mapping[str, disk.Kind]] = field(default_factory=dict)

    @property
    def seen(self) -> dict[str, Any]:
        """What is in its folders, as `bench.store.subject.Subject.seen` has it."""
        return {"": self.names, **self.inner}

    @property
    def begun(self) -> bool:
        """Anything but a claim is in it, which is there before the first file."""
        return any(not passing(name) for name in self.names)

    @property
    def complete(self) -> bool:
        """Begun, and no import that was killed before its spec was written."""
        return self.begun and not (self.what == "import" and "rows.tsv" in self.names and "spec.json" not in self.names)


@dataclass(frozen=True)
class Walk:
    """Everything in a results folder.

    Attributes:
        faults: what may not be there, outside of places: links, pipes, hidden folders, stored files.
        unexpected: files and folders that the suite did not make, which nothing reads.
        submissions: folders with the list of a submission.
    """

    top: Path
    places: list[Place] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unexpected: list[Fault] = field(default_factory=list)
    submissions: list[Path] = field(default_factory=list)

    def of(self, what: What) -> Iterator[Place]:
        return (place for place in self.places if place.what == what)


def walk(top: Path) -> Walk:
    """Looks through a folder, which may be a results folder, above one, or within one; one that is absent holds nothing."""
    found = Walk(top)
    try:
        names = disk.children(top.resolve() if top.is_symlink() else top)
    except Fault as fault:
        if not disk.absent(fault):
            found.faults.append(Fault(top, None, fault.reason))
        return found
    _look(top, names, top.resolve().parts[-4:], 0, found)
    return found


def _look(folder: Path, names: Mapping[str, disk.Kind], trail: tuple[str, ...], depth: int, found: Walk) -> None:
    if what := _what(names, trail):
        faults, unexpected = strangers(folder, names, what)
        found.unexpected.extend(unexpected)
        inner = {}
        for name in names if what != "import" else ():
            if name.startswith(CERTIFICATION) and names[name] == "folder":
                with contextlib.suppress(Fault):  # whoever reads the certification will say so
                    inner[name] = disk.children(folder / name)
                    found.unexpected.extend(strangers(folder / name, inner[name], "certification")[1])
        found.places.append(Place(folder, what, names, tuple(faults), inner))
        return
    submitted = names.get(SUBMISSION) == "file"
    if submitted:
        found.submissions.append(folder)
    for name, kind in names.items():
        if (kind == "file" and passing(name)) or (submitted and (name, kind) in ((SUBMISSION, "file"), (PLUGINS, "folder"))):
            continue
        path = folder / name
        if kind == "folder" and not name.startswith("."):
            if depth >= DEEPEST:
                found.faults.append(Fault(path, None, f"folders more than {DEEPEST} deep are not looked into"))
                continue
            try:
                below = disk.children(path)
            except Fault as fault:
                if not disk.absent(fault):
                    found.faults.append(fault)
                continue
            _look(path, below, (*trail, name)[-4:], depth + 1, found)
        elif kind == "folder":
            if name not in _SET_ASIDE:
                found.faults.append(Fault(path, None, "a folder whose name begins with a dot is not read"))
        elif kind != "file":
            found.faults.append(Fault(path, None, _not_read(kind)))
        elif name in _MARKS:
            found.faults.append(Fault(path, None, "it is not in the folder of a run, a checkpoint or an imported log, so it is not read"))
        elif not _OF_PEOPLE.match(name):
            found.unexpected.append(_unexpected(path))


def _what(names: Mapping[str, disk.Kind], trail: tuple[str, ...]) -> What | None:
    """What a folder is, by its name and what is in it. trail: its name and those above."""
    inner = [name for name, kind in names.items() if kind == "folder" and not name.startswith((".", CERTIFICATION))]
    marks = _MARKS & names.keys() or any(name.startswith(CERTIFICATION) for name in names)
    keyed = bool(trail) and KEYED.match(trail[-1]) is not None
    if not (keyed and (marks or not inner)) and not (marks and not inner):
        return None
    if names.keys() & set(_TRAINING):  # only a run has these, whatever its folders above are called
        return "run"
    above = trail[0] if len(trail) == 4 else ""
    if above in (CHECKPOINTS, IMPORTED):
        return "subject" if above == CHECKPOINTS else "import"
    if "subject.json" in names:
        return "subject"
    return "import" if "rows.tsv" in names and not (_MARKS - FILES["import"]) & names.keys() else "run"


def strangers(folder: Path, names: Mapping[str, disk.Kind], what: str) -> tuple[list[Fault], list[Fault]]:
    """What does not belong into the folder of a run, or of a certification: what may not be there, and what nothing reads."""
    faults: list[Fault] = []
    unexpected: list[Fault] = []
    known = FILES[what]
    for name, kind in names.items():
        if kind == "file" and (name in known or passing(name) or (what == "run" and disk.SURVEY.match(name))):
            continue
        path, certification = folder / name, what in ("run", "subject") and name.startswith(CERTIFICATION)
        if kind == "folder":
            if not certification and name not in _SET_ASIDE:
                found = faults if name in _MARKS or name.startswith(".") or passing(name) else unexpected
                found.append(Fault(path, None, "the suite makes no such folder here, so it is not read"))
        elif kind != "file":
            faults.append(Fault(path, None, _not_read(kind)))
        elif certification:
            faults.append(Fault(path, None, "it is a file, not the folder of a certification"))
        elif name in _MARKS:
            faults.append(Fault(path, None, "this file does not belong here, so it is not read"))
        elif not _OF_PEOPLE.match(name):
            unexpected.append(_unexpected(path))
    return faults, unexpected


def _not_read(kind: disk.Kind) -> str:
    return f"it is a {kind}, which is not followed" + ("; put a copy in its place" if kind == "link" else " or read")


def passing(name: str) -> bool:
    """Claims, and files that are on their way to their names."""
    return bool(_CLAIM.match(name) or _TEMPORARY.match(name))


def _unexpected(path: Path) -> Fault:
    earlier = "a cache of an earlier release, which is not read any more; delete it"
    return Fault(path, None, earlier if path.name in _EARLIER else "not of the suite; it is not read")


def misplaced(folder: Path, top: Path, place: Path) -> str | None:
    """In what a folder below `top` is not where its spec belongs, as far as the path shows it; None if in nothing."""
    below = folder.relative_to(top).parts or (folder.resolve().name,)
    shown = min(len(below), len(place.parts))
    if below[-shown:] == place.parts[-shown:]:
        return None
    return f"what it describes belongs in {Path(*place.parts[-shown:])}, but the folder is {Path(*below[-shown:])}"
