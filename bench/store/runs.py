"""A results folder, and where a run lives in it.

    ROOT/mnist/smoothmix.eta5/0.25-seed0-<key>/
        spec.json            RunSpec; its key is the folder's last word
        dataset.json         facts of the data set, where it is none of the suite's
        environment.json     versions, hashes, device: what the numbers were made with (side file: not evidence)
        curve.csv            the training curve, one column per term
        training.json        written last: state trained or diverged, steps, SHA-256 of the weights
        weights.safetensors  the base classifier
        checkpoint.bin       only while training is unfinished
        failure.json         only while the last attempt failed: kind, reason, trace, end of its log
        claim-1.json         only while a process computes the run (bench.files.claims)
        timing.json          seconds and images per second (side file)
        survey-NAME-E.jsonl  what a model said of the training images before epoch E, where the method asks (bench.store.surveys)
        certify-<key>/       one folder per certification
            spec.json        CertifySpec
            subject.json     what is certified: keys of run and certification, SHA-256 of the weights (bench.evidence.binding)
            environment.json what it was certified with (side file)
            evidence.jsonl   one line per image, written as soon as it exists
            finished.json    written last: as subject.json, and the SHA-256 of the evidence
            times.csv        seconds per image (side file)

Names are for people; what a run is stands in its spec.json and is checked against the folder's key.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar, TypeVar, cast

from bench.errors import BenchError, Fault, UsageError, as_fault, counted
from bench.evidence import records
from bench.files import disk
from bench.files.walk import Place, Walk, What, misplaced, walk
from bench.spec import RunSpec, canonical, from_json, select_images, to_json
from bench.store.checkpoints import Checkpoint, CheckpointSpec
from bench.store.imports import Import, doubled
from bench.store.presets import changes_of
from bench.store.subject import DAMAGE, Certification, Damaged, Source, State, Subject, folder_name

DEFAULT_ROOT = Path("results/runs")
MOST_KEYS = 8
"""In a sentence."""
S = TypeVar("S", bound=Subject)
CHECKPOINT, OLDER_CHECKPOINT = "checkpoint.bin", "checkpoint.older.bin"


def results_flag(root: Path) -> str:
    """The flag that names a results folder, after a space; empty for the usual one."""
    return "" if root == DEFAULT_ROOT else f" --results {quote(str(root))}"


def several(word: str, places: Sequence[Path], root: Path) -> UsageError:
    """What is wrong with the beginning of a key that fits several folders."""
    keys = list(dict.fromkeys(path.name.rpartition("-")[2] for path in places))
    if len(keys) == 1:
        return UsageError([f"run {keys[0]} lies in {len(places)} folders of {root}; name one of them: {', '.join(map(str, places))}"])
    told = ", ".join(keys[:MOST_KEYS]) + (", ..." if len(keys) > MOST_KEYS else "")
    hint = f"`bench list runs{results_flag(root)}` names them"
    return UsageError([f"key {word!r} fits {len(keys)} runs of {root}: {told}; write more digits ({hint})"])


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder, the newest first."""
    return [path for name in (CHECKPOINT, OLDER_CHECKPOINT) if (path := folder / name).exists()]


@dataclass(frozen=True)
class Run(Subject):
    """One model that is trained here."""

    source: ClassVar[Source] = "runs"
    what: ClassVar[What] = "run"
    spec_type: ClassVar[type[RunSpec]] = RunSpec
    spec: RunSpec

    @staticmethod
    def place(spec: RunSpec) -> Path:
        row = folder_name(f"{spec.method}.{spec.variant}")
        return Path(spec.dataset, row, f"{spec.sigma:g}-seed{spec.seed}-{spec.key}")

    @property
    def row(self) -> str:
        """As `named` has it."""
        return self.named.row

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def older_checkpoint(self) -> Path:
        return self.path / OLDER_CHECKPOINT

    @property
    def curve(self) -> Path:
        return self.path / "curve.csv"

    @cached_property
    def named(self) -> RunSpec:
        """Its spec with the changes that its values show (`bench.store.presets`): its row and what is told of it, but not its key."""
        try:
            found = changes_of(self.spec, self.info)
        except BenchError:  # nothing is known of its data set
            return self.spec
        return self.spec if found is None else replace(self.spec, changes=found)

    def training(self) -> dict[str, Any] | None:
        """What `training.json` says: `state` trained with `steps` and `weights_sha256`, or diverged with a `reason`. None: unfinished.

        Raises:
            BenchError: it says something else.
        """
        return self.record("training.json", records.training)

    def state(self) -> State:
        training = self.training()
        if training and training["state"] == "diverged":
            return "diverged"
        return "failed" if self.failure() else "certifying" if training else "training"

    def as_damaged(self, reason: str) -> Run | None:
        try:
            begun = list(self.begun()) if self.info else []
        except BenchError:  # nothing is known of its data set
            return None
        seen: dict[str, Any] = {"": {}, DAMAGE: reason}
        held = replace(self, seen=seen)
        seen["certify-*"] = [found if isinstance(found, Damaged) else replace(found, subject=held) for found in begun]
        return held

    def faults_of_records(self) -> list[Fault]:
        found: list[Fault] = []
        training = records.attempt(found, self.path, self.training)
        for read in (self.failure, self.timing):
            records.attempt(found, self.path, read)
        other = records.attempt(found, self.path, self.differences)  # files, which may hold other numbers of images
        if training and training["state"] == "trained" and not other and training["steps"] != (steps := self.steps()):
            found.append(
                Fault(self.path / "training.json", None, f"{counted(training['steps'], 'step', '.6g')}, but the spec makes {steps:.6g}")
            )
        if not self.lacks("curve.csv"):
            records.attempt(found, self.curve, lambda: records.check_curve(self.curve))
        if not self.lacks("weights.safetensors"):
            records.attempt(found, self.weights, lambda: records.check_weights(self.weights, self.spec))
        return found

    def only_trained(self) -> bool:
        """Whether its training is whole, and no certification of it was ever begun."""
        return not self.damage and self.state() == "certifying" and not list(self.begun())

    def steps(self) -> int:
        """Optimiser steps of its training: in each pass, the last batch may be smaller."""
        train = self.spec.train
        return train.epochs * -(-len(select_images(train.images, self.info.train_size)) // train.batch)


def _rows_of(certification: Certification) -> str:
    """What certifications of one run share if they are one: their specs, with the images in place of the words for them, whoever asked."""
    spec = to_json(certification.spec)
    spec.pop("changes", None)
    with contextlib.suppress(BenchError):  # which is told of it
        spec["images"] = list(certification.expected())
    return canonical(spec)


KINDS: Mapping[What, type[Subject]] = {kind.what: kind for kind in (Run, Checkpoint, Import)}


class Store:
    """A results folder.

    Args:
        root: the folder; it need not exist yet.
    """

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self.root = root
        self.walked: Walk | None = None

    def run(self, spec: RunSpec) -> Run:
        """The place of a run, there or not."""
        return Run(self.root / Run.place(spec), spec)

    def checkpoint(self, spec: CheckpointSpec) -> Checkpoint:
        """The place of a checkpoint, there or not."""
        return Checkpoint(self.root / Checkpoint.place(spec), spec)

    def walk(self) -> Walk:
        """What is in it now; kept as `walked`."""
        self.walked = walk(self.root)
        return self.walked

    def at(self, folder: Path, what: What = "run", seen: MutableMapping[str, Any] | None = None) -> Subject | Damaged:
        """The subject in a folder; `Damaged` if its spec is unreadable, does not fit its key, or belongs elsewhere.

        Args:
            seen: of the subject; see `Subject`.
        """
        kind = KINDS[what]
        path = folder / kind.spec_file
        try:
            spec: Any = from_json(kind.spec_type, disk.read(path), str(path))
            name = folder.resolve().name if folder == self.root else folder.name
            if not name.endswith(f"-{spec.key}"):
                raise Fault(path, None, f"its key is {spec.key}, but the folder is {name}")
            if reason := misplaced(folder, self.root, kind.place(spec)):
                raise Fault(path, None, reason)
        except BenchError as error:
            return Damaged(folder, as_fault(error, path))
        return kind(folder, spec, {} if seen is None else seen)

    def of_place(self, place: Place) -> Subject | Damaged:
        """The subject in a folder that the walk found."""
        return self.at(place.path, place.what, place.seen)

    def scan(self, *sources: Source, walked: Walk | None = None) -> Iterator[Subject | Damaged]:
        """Every subject of some sources, of all if none is named, by folder; not an import that was killed before its end.

        Args:
            walked: what is in the folder, if it is known.
        """
        for place in (walked or self.walk()).places:
            if place.complete and (not sources or KINDS[place.what].source in sources):
                yield self.of_place(place)

    def read(self, *sources: Source, walked: Walk | None = None) -> tuple[list[Subject], list[Fault]]:
        """The subjects of some sources, of all if none is named, that can be believed, and what is wrong with the rest of the folder.

        A run may lie in several places with a certification of its own in each.

        A run that shows a spec and cannot be believed all the same stands among them `as_damaged`, so that its seed is missed.

        Args:
            walked: what is in the folder, if it is known.
        """
        walked = walked or self.walk()
        there: dict[tuple[Source, str], list[Subject]] = defaultdict(list)
        found: list[Subject] = []
        wrong: list[Fault] = []
        for subject in self.scan(*sources, walked=walked):
            if isinstance(subject, Damaged):
                wrong.append(subject.fault)
            else:
                there[subject.source, subject.key].append(subject)
        for subject in itertools.chain.from_iterable(self._once(same, wrong) if len(same) > 1 else same for same in there.values()):
            if not (faults := subject.faults()):
                found.append(subject)
                wrong += [begun.fault for begun in subject.begun() if isinstance(begun, Damaged)]
            elif held := subject.as_damaged("; ".join(map(str, faults))):
                found.append(held)
            else:
                wrong += faults
        asked = {subject.spec.depends for subject in found if isinstance(subject, Run)} - {""}
        if asked:  # what was trained for them alone is no row of its own
            found = [one for one in found if one.key not in asked or not isinstance(one, Run) or not one.only_trained()]
        doubles = doubled([subject for subject in found if isinstance(subject, Import)])
        return [subject for subject in found if subject.path not in doubles], [*wrong, *doubles.values(), *walked.faults]

    def _once(self, same: Sequence[Subject], wrong: list[Fault]) -> Iterator[Subject]:
        """Subjects of one key, each with the certifications that none before it has; adds to what is wrong whatever is left out so."""
        first, *twins = sorted(same, key=lambda one: (not any(one.certifications()), one.path != self.root / one.place(one.spec)))
        yield first
        held = dict.fromkeys(map(_rows_of, first.certifications()), first)
        for twin in twins:
            own, begun = {found.path: _rows_of(found) for found in twin.certifications()}, list(twin.begun())
            new = [found for found in begun if own.get(found.path) not in held]
            if len(new) < len(begun) or not own:
                other = next((held[rows] for rows in own.values() if rows in held), first)
                folder = Path(*other.path.parts[: -len(other.place(other.spec).parts)])
                wrong.append(Fault(twin.path, None, f"the same run is shown from {folder}"))
            if any(isinstance(found, Certification) for found in new):
                cast("dict[str, Any]", twin.seen)["certify-*"] = new
                held = dict.fromkeys(own.values(), twin) | held
                yield twin
            else:
                wrong += [found.fault for found in new if isinstance(found, Damaged)]

    def subjects(self, kind: type[S]) -> Iterator[S]:
        """Those of a kind whose specs are whole, by folder; their records are read when they are asked for."""
        return (replace(found, seen=None) for found in self.scan(kind.source) if isinstance(found, kind))

    def runs(self) -> Iterator[Run]:
        """Every run whose spec is whole, by folder."""
        return self.subjects(Run)

    def find(self, word: str) -> Run:
        """The one run in a folder, or whose key begins with a word.

        Raises:
            BenchError: none. UsageError: several.
        """
        folder = Path(word)
        if word and disk.there(folder / "spec.json"):
            found_here = Store(folder).at(folder)
            if isinstance(found_here, Damaged):
                raise BenchError(found_here.reason)
            return Run(folder, found_here.spec)
        return self.named(word, Run)

    def named(self, word: str, *kinds: type[S]) -> S:
        """The one subject of some kinds whose key begins with a word; raises as `find`."""
        if not self.root.is_dir():
            raise BenchError(f"there is no folder {self.root}, so no run in it with key or folder {word!r}")
        found = [subject for kind in kinds for subject in self.subjects(kind) if subject.key.startswith(word)]
        if len(found) == 1:
            return found[0]
        if found:
            raise several(word, [subject.path for subject in found], self.root)
        raise BenchError(f"no run in {self.root} has key or folder {word!r}; `bench list runs{results_flag(self.root)}` names them")
