"""What a table is made of: groups of comparable rows, their noise levels, rows and trainings."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from bench import rules
from bench.errors import counted
from bench.rules.bounds import Floats
from bench.rules.rule import Rule
from bench.store.subject import Certification, Source
from bench.store.verified import Trust, weakest
from leaderboard.metrics import Metric, Outcomes

SeedState = Literal["done", "certifying", "training", "missing", "failed", "diverged", "damaged", "copy"]
UNITS: Mapping[str, str] = {"runs": "seed", "imported": "run", "checkpoints": "checkpoint", "both": "seed"}
"""What a training is called in tables, by their source; in this order."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """One training of a row and its certification.

    Attributes:
        seed: its seed; of an imported log the run id, of a checkpoint its number in the row: these are words, for they pair with no other.
        state: only `done` has outcomes and enters a mean; `missing`: there is no such run; `copy`: it is another seed's training.
        done: images certified.
        key: the run's or checkpoint's key, empty for a missing one and for imported logs.
        reason: why it is damaged or a copy.
        trust: what its numbers rest on; None where it has none.
        certification: the folder of its evidence; None for a missing one.
        counts: `bench.store.copies.fingerprint` of its evidence, None where that tells nothing.
    """

    seed: int | str
    state: SeedState
    done: int = 0
    key: str = ""
    reason: str = ""
    counts: str | None = field(default=None, repr=False, compare=False)
    outcomes: Outcomes | None = field(default=None, repr=False, compare=False)
    trust: Trust | None = None
    certification: Certification | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Stat:
    """A metric over the seeds of a row; std is the sample standard deviation (ddof=1), None for one value.

    `values` has one value per seed, and none where the metric speaks of all seeds together.
    """

    mean: float
    std: float | None
    n: int
    values: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration at one sigma.

    Attributes:
        name: the row's name, e.g. `smoothmix.eta5[steps=2]`.
        mark: empty, or `#1`, `#2`, ... where several configurations have that name.
        stats: metric -> mean and deviation; empty unless every expected seed is done, and without metrics that its evidence lacks.
        images: test images of a finished certification.
        refused: why there is no mean although every seed is done.
        unit: what its trainings are called, see UNITS.
        conditions: those that differ from the rest of a mixed table.
        constant: no network but the constant classifier, see `leaderboard.aggregate.constant`; it is never ranked or marked.
        tied: its ACR cannot be told from the best of its section, see `leaderboard.tables.marks`; None where that was not tested.
        notes: what a reader of the table must know about the row.
    """

    name: str
    mark: str = ""
    method: str
    seeds: tuple[Seed, ...]
    images: int
    stats: Mapping[str, Stat] = field(default_factory=dict)
    refused: str = ""
    unit: str = "seed"
    conditions: Mapping[str, Any] = field(default_factory=dict)
    constant: bool = False
    tied: bool | None = None
    notes: tuple[str, ...]

    def measured(self, metrics: Iterable[Metric]) -> Row:
        """The row with its statistics, if every seed is done and it is not refused."""
        found = {metric.name: stat for metric in metrics if (stat := _stat(metric, self))} if self.finished else {}
        return dataclasses.replace(self, stats=found)

    @property
    def label(self) -> str:
        """Name and mark."""
        return f"{self.name} {self.mark}".strip()

    @property
    def outcomes(self) -> tuple[Outcomes, ...]:
        """Of its finished seeds."""
        return tuple(seed.outcomes for seed in self.seeds if seed.outcomes is not None)

    @property
    def values(self) -> Floats:
        """I: the radius where the certified class is right, else 0, averaged over its finished seeds, of which there is at least one."""
        return np.asarray(np.mean([o.values for o in self.outcomes], axis=0))

    @property
    def trust(self) -> str:
        """What its numbers rest on: that of the training of which least is known; `unfinished` where there is none."""
        if self.constant:
            return "computed"
        return str(weakest(seed.trust for seed in self.seeds if seed.trust and seed.outcomes) or "unfinished")

    @property
    def drawn(self) -> float | None:
        """Estimation samples per image, the mean over its finished seeds; None where it is not known of all of them."""
        found = [o.drawn for o in self.outcomes]
        return statistics.fmean(d for d in found if d is not None) if found and None not in found else None

    @property
    def finished(self) -> bool:
        """Every expected seed is done and nothing speaks against a mean, whatever metrics were asked for."""
        return not self.refused and all(seed.outcomes is not None for seed in self.seeds)

    @property
    def status(self) -> str:
        """Empty for a finished row, else what is there instead of a mean, e.g. `4/5 seeds`."""
        if self.finished:
            return ""
        if self.refused:
            return self.refused
        seed = self.seeds[0]
        if len(self.seeds) == 1 or {(s.state, s.done) for s in self.seeds} == {("certifying", seed.done)}:
            words = {"training": "in training", "certifying": f"{seed.done}/{counted(self.images, 'image')}"}
            return words.get(seed.state, seed.state)
        counts = Counter(seed.state for seed in self.seeds)
        words = {"diverged": "diverged", "failed": "failed", "damaged": "damaged", "copy": "copies" if counts["copy"] > 1 else "copy"}
        bad = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]  # type: ignore[index]
        return ", ".join([f"{counts['done']}/{len(self.seeds)} {self.unit}s", *bad])


@dataclass(frozen=True, kw_only=True)
class Section:
    """The rows of one noise level."""

    sigma: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that may stand in one table.

    Attributes:
        source: own runs, imported logs, checkpoints from outside, or (only if mixed) several of them.
        conditions: name -> value of what all rows share: `source`, `protocol`, `changes` of it, `recipe`, `network`, `normalisation` of
            checkpoints, `train.*` without the batch, which a method's recipe may cut, `certify.*`, `alpha`, `rounding`.
        images: test images of a finished certification, of test_size, which is 0 where nothing is known of the data set.
        seeds: those that a complete row has; empty where rows differ in it.
        baseline: the row that others are compared with.
        mixed: whether rows differ in conditions, or average trainings of several code versions; nothing is ranked then.
        show_trust: whether a table for people has a column `status`, on what the numbers of each row rest.
        ranked: whether better and best numbers are marked, which no test stands behind.
        ties: how its rows were tested for ties, or why they were not; empty where nobody asked.
        members: certifications of its rows, begun or not; of a mixture none.
        notes: what concerns the whole table.
    """

    dataset: str
    source: Source | Literal["both"]
    conditions: Mapping[str, Any]
    images: int
    test_size: int
    seeds: tuple[int | str, ...]
    baseline: str
    metrics: tuple[Metric, ...]
    sections: tuple[Section, ...]
    mixed: bool = False
    show_trust: bool = False
    ranked: bool = True
    ties: str = ""
    members: tuple[Certification, ...] = field(default=(), repr=False, compare=False)
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Those of all its sections."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def unit(self) -> str:
        """What a training is called in it."""
        return UNITS[self.source]

    @property
    def rule(self) -> type[Rule] | None:
        """That reads the counts; None where there are no counts, or where rows differ in it."""
        name = self.conditions.get("certify.rule")
        return rules.named(name) if name else None

    @property
    def drawn(self) -> float | None:
        """Estimation samples per image, the mean over the finished rows; None where it is not known of any."""
        known = [row.drawn for row in self.rows if row.finished and row.drawn is not None]
        return statistics.fmean(known) if known else None

    @property
    def footnotes(self) -> tuple[str, ...]:
        """The notes of the rows, each once, in order."""
        return tuple(dict.fromkeys(note for row in self.rows for note in row.notes))


def _stat(metric: Metric, row: Row) -> Stat | None:
    """None where the evidence of any seed does not say."""
    if metric.of_radii and not all(o.has_acr for o in row.outcomes):
        return None
    if metric.of_row:
        value = metric.of_row(row.outcomes)
        return None if value is None else Stat(mean=value, std=None, n=len(row.seeds))
    assert metric.of_seed
    values = [metric.of_seed(o) for o in row.outcomes]
    known = tuple(value for value in values if value is not None)
    if len(known) < len(values):
        return None
    # `statistics` is exact, so neither the order of the seeds nor equal values leave a trace in the last bit.
    std = statistics.stdev(known) if len(known) > 1 else None
    return Stat(mean=statistics.fmean(known), std=std, n=len(known), values=known)
