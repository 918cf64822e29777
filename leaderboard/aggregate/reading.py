"""What the evidence of one training says, read at an alpha and under a rule; and what is unusual about how it came about."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench import rules
from bench.datasets import DATASETS, DatasetInfo
from bench.errors import BenchError
from bench.rules.bounds import check_alpha
from bench.spec import same_images
from bench.store.copies import fingerprint
from bench.store.imports import Import, Printed, Published
from bench.store.subject import Certification, Subject
from bench.store.verified import Trust, anything, recall
from leaderboard import metrics
from leaderboard.aggregate.groups import Seed
from leaderboard.metrics import Cost, Outcomes

ALPHA = 0.001
TEST_FILES = "test files"
"""The condition of a group whose labels are only claimed: its test images are not the published ones."""


@dataclass(frozen=True)
class Reading:
    """How evidence is read.

    Attributes:
        alpha: chance that a certificate is wrong, in (0, 1/2), for counts; radii of a published log have one of their own.
        rule: None: of each certification, the one under which it was sampled.
    """

    alpha: float
    rule: str | None = None

    @classmethod
    def asked(cls, alpha: float | None, rule: str | None) -> Reading:
        """As a user asks for it; alpha: 0.001 if None. BenchError for an alpha out of range and for an unknown rule."""
        try:
            check_alpha(alpha := ALPHA if alpha is None else alpha)
            if rule is not None:
                rules.named(rule)
        except ValueError as error:
            raise BenchError(str(error)) from None
        return cls(alpha, rule)

    def refuses(self, certification: Certification) -> str:
        """Why evidence is not read so; empty if it is."""
        if isinstance(certification, Published):
            known = self.rule is None or rules.named(self.rule).name == rules.DEFAULT
            return "" if known else f"imported logs hold no counts that rule {self.rule} could read"
        try:
            rules.of(certification.spec, self.rule).check(self.alpha)
        except BenchError as error:
            return str(error)
        return ""

    def notes(self, certification: Certification) -> tuple[str, ...]:
        """What a reader must know of numbers that are read so."""
        note = None if isinstance(certification, Published) else rules.of(certification.spec, self.rule).acr_note
        return (note,) if note else ()

    def outcomes(self, certification: Certification, columns: Any) -> Outcomes:
        """What finished rows say, ordered by image.

        Raises:
            BenchError: as `metrics.outcomes`.
        """
        if isinstance(columns, Printed):
            found = Outcomes(columns.index, columns.label, columns.correct, columns.predict < 0, columns.radius)
        else:
            found = metrics.outcomes(columns, self.alpha, certification.subject.sigma, certification.spec, self.rule)
        info = known_info(certification.subject)
        return dataclasses.replace(found, dimension=math.prod(info.shape) if info else None)


def conditions_of(certification: Certification, reading: Reading | None = None) -> dict[str, Any]:
    """What rows share of a certification. `test files` only where they are not the published ones. reading: None for a published log."""
    spec = comparable(certification)
    if isinstance(certification, Published):
        own = {"certify.n0": spec.n0, "certify.n": spec.n, "certify.images": spec.images}
        return own | {"alpha": spec.alpha, "rounding": "rounded as printed"}
    assert reading is not None
    own = {f"certify.{f.name}": getattr(spec, f.name) for f in dataclasses.fields(spec) if f.name != "changes"}
    other = {TEST_FILES: "; ".join(found)} if (found := other_files(certification)) else {}
    return own | other | {"certify.rule": reading.rule or spec.rule, "alpha": reading.alpha, "rounding": "exact"}


def comparable(certification: Certification) -> Any:
    """The spec of a certification, in which equal images have equal texts, whatever words asked for it: `changes` is empty."""
    spec, info = certification.spec, known_info(certification.subject)
    if info:
        spec = dataclasses.replace(spec, images=same_images(spec.images, info.test_size))
    return spec if isinstance(certification, Published) else dataclasses.replace(spec, changes={})


def known_info(subject: Subject) -> DatasetInfo | None:
    """Facts of its data set; None for a published log of one that is not known here."""
    return DATASETS.get(subject.dataset) if isinstance(subject, Import) else subject.info


def conditions_of_log(log: Import) -> dict[str, Any]:
    """What the rows of a group of published logs share."""
    (published,) = log.certifications()
    training = {"source": f"imported logs of {log.spec.collection}", "network": log.spec.arch}
    return training | conditions_of(published)


def other_files(certification: Certification) -> list[str]:
    """What makes its test files others than the published ones; nothing where that cannot be read, which is told of its row."""
    try:
        return certification.differences()
    except BenchError:
        return []


def read_seeds(certifications: Sequence[Certification], reading: Reading) -> list[Seed]:
    """What the evidence of trainings says, each under its seed or its name."""
    seeds = [_seed(certification, reading) for certification in certifications]
    done = [place for place, seed in enumerate(seeds) if seed.outcomes is not None]
    for place, trust in zip(done, trusts_of([certifications[place] for place in done]), strict=True):
        seeds[place] = dataclasses.replace(seeds[place], trust=trust)
    return seeds


def trusts_of(certifications: Sequence[Certification]) -> list[Trust]:
    """What the numbers of finished certifications rest on."""
    keys = [c.finding() for c in certifications] if anything() else [""] * len(certifications)
    known = recall([key for key in keys if key])
    return [_trust(certification, known.get(key)) for certification, key in zip(certifications, keys, strict=True)]


def _trust(certification: Certification, images: int | None) -> Trust:
    """Args: images: how many this user counted again; None: it was not verified with weights."""
    if isinstance(certification, Published):
        return Trust(level="log")
    if certification.labels() is None:
        return Trust(level="claimed", bound=certification.bound)
    level = "evidence" if images is None else "recertified" if images else "weights checked"
    return Trust(level=level, images=images or 0, bound=certification.bound)


def _seed(certification: Certification, reading: Reading) -> Seed:
    """How far a training is, and its outcomes if it is done."""
    subject, status = certification.subject, certification.status()
    number: int | str = subject.training_name if subject.seed is None else subject.seed
    key = "" if isinstance(subject, Import) else subject.key
    plain = Seed(seed=number, state=status.state, done=len(status.columns), key=key, certification=certification)
    if status.fault:
        return dataclasses.replace(plain, reason=subject.damage or str(status.fault))
    if status.state != "done":
        return plain
    try:
        outcomes = reading.outcomes(certification, status.columns)
        timing = subject.timing() or {}
    except BenchError as error:
        return dataclasses.replace(plain, state="damaged", done=0, reason=str(error))
    cost = Cost(pairs=timing.get("pairs_per_image"), seconds=timing.get("training_seconds"))
    counts = None if isinstance(status.columns, Printed) else fingerprint(status.columns, comparable(certification).key)
    return dataclasses.replace(plain, counts=counts, outcomes=dataclasses.replace(outcomes, cost=cost))


def environment_notes(certifications: Sequence[Certification]) -> tuple[str, ...]:
    """Notes where evidence was counted under different conditions: counts repeat only on one device, thread count and library version."""
    found: dict[str, set[str]] = defaultdict(set)
    for certification in certifications:
        environment = certification.environment()
        for entry in [environment, *environment.get("history", [])] if environment else []:
            for name in ("device", "threads", "torch"):
                found[name].add(str((entry.get("libraries") or {} if name == "torch" else entry).get(name)))
    return tuple(f"certified under different {name}: {' and '.join(sorted(values))}" for name, values in found.items() if len(values) > 1)


def data_notes(certifications: Sequence[Certification]) -> tuple[str, ...]:
    """What is unusual about the data behind evidence: other files than the published ones, labels unchecked, another data set's presets."""
    notes = []
    for c in certifications:
        name, environment = c.subject.dataset, c.subject.environment() or {}
        if differences := c.subject.differences() + c.differences():
            more = f", and {len(differences) - 1} more" if len(differences) > 1 else ""
            notes.append(f"not the published {name} data: {differences[0]}{more}")
        elif c.begun() and c.labels() is None:
            notes.append(f"the labels of {name} are not checked: its published files are not on this machine")
        if presets_of := environment.get("presets_of"):
            notes.append(f"no hyperparameters are published for {name}: those for {presets_of} are taken")
    return tuple(dict.fromkeys(notes))
