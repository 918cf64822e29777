"""Certifies rows of stored evidence again, from the stored weights, and compares the counts.

Once with the recorded noise, which gives the same counts, and once with noise that is drawn here and that nobody could know before: a
network can be fitted to noise that is known. Counts inflated with all check sums made to fit can be seen in no other way. Rows are
drawn at random over every finished certification with weights: of N rows of which F are forged, k drawn ones miss them all with
probability C(N-F, k) / C(N, k).
"""

from __future__ import annotations

import dataclasses
import random
import secrets
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import accumulate, count, groupby
from math import comb
from typing import Any

import numpy as np
import torch
from torch import nn

from bench import models, rules
from bench.certify import Sampler, several
from bench.checkpoints.fit import is_factory
from bench.checkpoints.load import Wanted
from bench.checkpoints.load import load as load_base
from bench.data import load
from bench.datasets import DATASETS
from bench.errors import counted
from bench.evidence.certificate import Certificate
from bench.evidence.sources import came_from
from bench.matrix.resume import load_weights
from bench.rules.bounds import anytime_bounds, lower_confidence_bound
from bench.spec import canonical
from bench.store.checkpoints import Checkpoint
from bench.store.runs import Run
from bench.store.subject import Certification, Subject
from bench.system import environment
from bench.verify import Evidence, Report
from bench.verify.samples import Pair, difference, more_rows, more_samples

ERROR_LEVEL = 0.001
"""Chance that honest counts fail any of the statistical comparisons of one call: half of it for single rows, half for rows together."""

SLACK = 10_000
"""Where the noise is the same, rounding of two logits that nearly tie may move one sample, and one more for so many."""


@dataclass(frozen=True)
class Again:
    """One row, as recorded and as found again.

    Attributes:
        found: by the certification's rule, which may stop at another number of samples than it did.
        level: with as many estimation samples as are recorded, if any are; `found` where it has as many.
        stops: the rule looks at the counts to decide how many samples are enough.
        differing: conditions that are not, or not known to be, those of the recorded counts; see `_conditions`.
    """

    certification: Certification
    line: int
    recorded: Certificate
    found: Certificate
    level: Certificate
    stops: bool
    differing: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return self.recorded == self.found

    @property
    def count(self) -> int:
        """Estimation samples that fell on the recorded class when they were drawn again."""
        return self.level.estimation.get(self.recorded.selected, 0)

    @property
    def pairs(self) -> list[tuple[Mapping[int, int], Mapping[int, int]]]:
        """Recorded and found counts of as many samples: of selection and, where any are recorded, of estimation."""
        pairs = [(self.recorded.selection, self.level.selection), (self.recorded.estimation, self.level.estimation)]
        return pairs if self.recorded.estimation else pairs[:1]

    @property
    def moved(self) -> int:
        """Samples, of selection and estimation, that must have fallen on another class to make one row of the other."""
        return sum(abs(a.get(c, 0) - b.get(c, 0)) for a, b in self.pairs for c in {*a, *b}) // 2

    @property
    def rounding(self) -> bool:
        """Whether rounding of logits explains the difference, if the noise is the same; where no sample moved, it moved no end either."""
        return self.equal or 0 < self.moved <= 1 + self.recorded.n // SLACK

    def fail(self, report: Report, why: str, how: str = "") -> None:
        """Adds to a report that the row does not hold."""
        recorded = self.recorded
        told = f"{recorded.n} samples are recorded, but by its rule the certification stops at {self.found.n}"
        if self.moved:
            told = f"{recorded.count} of {recorded.n} samples on class {recorded.selected} are recorded, "
            told += f"{self.count} were found again, and {counted(self.moved, 'sample')} fell on another class"
        report.fail(self.certification.evidence, f"certified again: {how}image {recorded.index}: {told}; {why}", self.line)


@dataclass(kw_only=True)
class Recertification:
    """What came of certifying rows again.

    Attributes:
        seed: decided which rows were drawn.
        total: rows they were drawn from. drawn: rows certified again.
        equal: rows with exactly the recorded counts.
        fresh: rows counted with fresh noise too.
        missed: chance that so many drawn rows miss every forged one, if a tenth of the total is forged.
        remarks: sentences for the reader.
        rows: the certification and image of each.
    """

    seed: int
    total: int
    drawn: int = 0
    equal: int = 0
    fresh: int = 0
    missed: float = 1.0
    remarks: list[str] = field(default_factory=list)
    rows: list[tuple[Certification, int]] = field(default_factory=list, repr=False)

    @property
    def tenth(self) -> int:
        """A tenth of the rows they were drawn from, one at least."""
        return max(1, self.total // 10)

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "rows"}


def chance_of_missing(total: int, forged: int, drawn: int) -> Fraction:
    """The exact chance that `drawn` rows of `total`, without repeats, hold none of the `forged` ones."""
    return Fraction(comb(total - forged, drawn), comb(total, drawn))


def draw(evidence: Sequence[Evidence], rows: int, seed: int) -> list[tuple[Certification, int]]:
    """Rows drawn uniformly over all rows, without repeats: each a certification and a place in it, in the order of the store."""
    ends = list(accumulate(item.rows for item in evidence))
    total = ends[-1] if ends else 0
    chosen = sorted(random.Random(seed).sample(range(total), min(rows, total)))
    owners = [(place, bisect_right(ends, place)) for place in chosen]
    return [(evidence[owner].certification, place - ends[owner] + evidence[owner].rows) for place, owner in owners]


def recertify(
    report: Report, rows: int, seed: int, device: torch.device, progress: Callable[[int, int], None] = lambda done, total: None
) -> Recertification:
    """Draws rows of a verified store and certifies them again; what does not fit becomes a failure of the report.

    Args:
        rows: how many; all there are, if there are fewer.
        progress: told rows done and rows to do.

    Raises:
        BenchError: data that cannot be read.
    """
    missing = {evidence.certification.path: _missing(evidence.certification) for evidence in report.finished}
    pool = [evidence for evidence in report.finished if evidence.weights and not missing[evidence.certification.path]]
    report.unchecked += [f"{path} was not among the rows to certify again: {reason}" for path, reason in missing.items() if reason]
    drawn = draw(pool, rows, seed)
    result = Recertification(seed=seed, total=sum(evidence.rows for evidence in pool))
    if not drawn:
        there = any(evidence.weights for evidence in report.finished)
        why = "no finished certification in it with weights can be certified again here" if there else ""
        report.fail(report.top, why or "no finished certification in it has weights, so nothing can be certified again")
        return result
    pairs: list[tuple[Again, Again]] = []
    counted = count(1)

    def tick() -> None:
        progress(next(counted), len(drawn))

    for certification, group in groupby(drawn, key=lambda item: item[0]):
        load(certification.subject.spec.dataset, "test")
        places = [place for _, place in group]
        pairs += report.attempt(certification.subject.weights, partial(_certify, certification, places, device, tick)) or []
    again, fresh = [one for one, _ in pairs], [other for _, other in pairs]
    result.drawn, result.equal = len(again), sum(item.equal for item in again)
    result.missed = float(chance_of_missing(result.total, result.tenth, len(again)))
    result.rows = [(item.certification, item.recorded.index) for item in again]
    _compare(again, report, result, fresh)
    return result


def _certify(
    certification: Certification, places: Sequence[int], device: torch.device, tick: Callable[[], None]
) -> list[tuple[Again, Again]]:
    """The rows in some places of a certification, certified again with the recorded noise and with fresh noise.

    Args:
        tick: called after each row.

    Raises:
        BenchError: weights that are not those of the run's architecture, or logits that are not finite.
    """
    run, spec = certification.subject, certification.spec
    data, rows = load(run.spec.dataset, "test"), certification.rows()
    model = _model(run, device)
    sampler = Sampler(model, run.spec.sigma, run.info.classes, spec.seed, sampling=spec.sampling)
    secret = Sampler(model, run.spec.sigma, run.info.classes, secrets.randbits(62), sampling=spec.sampling)
    sample = several(data, device)
    for one in (sampler, secret):
        one.fit(sample)
    arch = run.spec.arch if isinstance(run, Checkpoint) else run.spec.train.arch
    network = {"network_code_sha256": models.OUTSIDE[arch]} if arch in models.OUTSIDE else {}
    now = _conditions(environment.describe(device, network, {}) | {"precision": sampler.arithmetic(sample[0])})
    before = certification.environment() or {}
    history = [_conditions(entry) for entry in (before, *before.get("history", []))]
    differing = tuple(name for name in now if any(entry[name] != now[name] for entry in history))
    again = []
    for place in places:
        recorded = rows[place]
        image = data.images(torch.tensor([recorded.index]))[0].to(device)
        stop, draw_again = rules.of(spec).stop(run.spec.sigma), partial(sampler.certify, image, recorded.index, recorded.label, spec.n0)
        found = level = draw_again(spec.n, stop, skip_misclassified=spec.skip_misclassified)
        if recorded.estimation and found.n != recorded.n:
            level = draw_again(recorded.n)
        # With fresh noise as many samples as are recorded, without looking: where sampling would stop is another place for other noise.
        fresh = secret.certify(image, recorded.index, recorded.label, spec.n0, recorded.n or 1)
        row = Again(certification, place + 1, recorded, found, level, stop is not None, differing)
        again.append((row, dataclasses.replace(row, found=fresh, level=fresh, differing=("noise",))))
        tick()
    return again


def _model(run: Subject, device: torch.device) -> nn.Module:
    """The base classifier of a run, or of a checkpoint from outside, from the stored weights."""
    if isinstance(run, Run):
        return load_weights(run, (run.training() or {})["weights_sha256"], device)
    spec = run.spec
    wanted = Wanted(word=str(run.weights), dataset=spec.dataset, sigma=spec.sigma, arch=spec.arch, results=run.path)
    return models.place(load_base(wanted).model, device)


def _missing(certification: Certification) -> str:
    """What it would take to build the network and read the images, in words: code of a stranger is run only if the user names it."""
    run = certification.subject
    arch = run.spec.arch if isinstance(run, Checkpoint) else run.spec.train.arch
    if isinstance(run, Checkpoint) and is_factory(arch):
        return f"{arch} builds its network, which is code"
    record = (certification.environment() or {}) | (run.environment() or {})
    if not models.is_known(arch):
        return f"its network {arch} is not known{came_from(record, arch)}"
    return "" if run.spec.dataset in DATASETS else f"its data set {run.spec.dataset} is not known{came_from(record, run.spec.dataset)}"


def _conditions(described: Mapping[str, Any]) -> dict[str, Any]:
    """What counts depend on beyond weights, images and seeds: they move in the last bit of float32 logits, or with the noise itself."""
    libraries, precision = described.get("libraries"), described.get("precision")
    if isinstance(precision, dict):  # without what proposes classes: whatever it is, the referee's count
        precision = {name: value for name, value in precision.items() if name != "proposer"}
    return {
        "device": described.get("device"),
        "capability": described.get("capability"),
        "threads": described.get("threads"),
        "torch version": libraries.get("torch") if isinstance(libraries, dict) else None,
        "precision": precision,
        "engine": described.get("engine_code_sha256", described.get("engine_sha256")),
        "network": described.get("network_code_sha256"),
    }


def _compare(again: Sequence[Again], report: Report, result: Recertification, fresh: Sequence[Again] = ()) -> None:
    """Compares counts by the strictest rule that honest evidence passes.

    Under the recorded conditions the noise is the same. Under others, rows that were recorded under the same conditions share
    one answer to whether it is: it is if most of those that other noise would change are equal. Then a row may differ by the few
    samples that rounding moves, which it moves up as often as down. Otherwise, and with fresh noise, recorded and found counts are two
    samples of one binomial distribution, see `_compare_samples`. All tests of a call together fail honest evidence with probability
    `ERROR_LEVEL` at most.
    """
    groups: dict[str, list[Again]] = defaultdict(list)
    for item in again:
        recorded = _conditions(item.certification.environment() or {}) if item.differing else {}
        groups[canonical([item.differing, recorded])].append(item)
    independent = [group for group in groups.values() if group[0].differing and not _shares_noise(group)]
    samples = [*independent, *([list(fresh)] if fresh else [])]
    row_level = ERROR_LEVEL / 2 / max(1, sum(2 * len(group) for group in samples))
    level = ERROR_LEVEL / 2 / max(1, len(groups) - len(independent) + 2 * len(samples))
    for group in groups.values():
        equal, moved = sum(item.equal for item in group), max(item.moved for item in group)
        names = " and ".join(group[0].differing)
        where = f"{len(group)} under {f'another {names} than recorded' if names else 'the recorded conditions'}: {equal} equal"
        where += f", the others differ by {counted(moved, 'sample')} at most" if moved else ""
        if group in independent:
            result.remarks.append(f"{where}; compared as samples of other noise, error level {ERROR_LEVEL:g} in all")
            _compare_samples(group, row_level, level, report)
            continue
        result.remarks.append(where + (f"; 1 + n/{SLACK:,} samples are left to rounding" if moved else ""))
        why = f"{equal} of {len(group)} rows are equal, so the noise is the same" if names else "under the recorded conditions"
        for item in group:
            if not item.rounding:
                item.fail(report, why)
        _compare_rows(group, more_rows, level, report)
    if fresh:
        result.fresh = len(fresh)
        result.remarks.append(f"{len(fresh)} with fresh noise, drawn now: compared as samples, error level {ERROR_LEVEL:g} in all")
        _compare_samples(fresh, row_level, level, report, "with fresh noise, ")
    forged = f"{result.tenth:,} of the {result.total:,} rows were forged"
    result.remarks.append(f"if {forged}, these would all be honest ones with probability {result.missed:.2g}")


def _shares_noise(group: Sequence[Again]) -> bool:
    """Whether counts show that the noise is that of the record; a row whose samples all agree would be equal under any."""
    telling = [item for item in group if len(item.found.estimation) > 1]
    return sum(item.equal for item in telling) > len(telling) / 2


def _compare_samples(group: Sequence[Again], row_level: float, level: float, report: Report, how: str = "") -> None:
    """Compares counts that were drawn with unrelated noise.

    Each row by Fisher's exact test on its selected class. Of selection samples that class has the most, so the level is shared among all
    that could have had: it is the winner's count that is compared. Over the rows, since a forger lifts counts, by a sign test and by
    the sum. Neither holds for estimation samples that were drawn until their counts were enough: there the recorded interval is one that
    holds wherever sampling stops, and it must meet that of as many samples that were drawn without looking.

    Args:
        row_level: of each of the two tests of a row. level: of each test over all rows.
    """
    for item in group:
        for name, (recorded, found) in zip(("selection", "estimation"), item.pairs, strict=False):
            a, b, n = recorded.get(item.recorded.selected, 0), found.get(item.recorded.selected, 0), sum(recorded.values())
            if name == "estimation" and item.stops:
                if _apart(a, b, n, row_level):
                    item.fail(report, f"no probability explains both where sampling may stop (level {row_level:.2g})", how)
                continue
            own = row_level if name == "estimation" else row_level / item.certification.subject.info.classes
            if (p := difference(a, b, n)) < own:
                item.fail(report, f"{name} samples differ by more than chance (p = {p:.2g}, level {own:.2g})", how)
                break
    fixed = [item for item in group if not item.stops]
    _compare_rows(fixed, more_rows, level, report, how)
    _compare_rows(fixed, more_samples, level, report, how)


def _compare_rows(group: Sequence[Again], test: Callable[[Sequence[Pair]], float], level: float, report: Report, how: str = "") -> None:
    """Fails the whole where rows together record more of their selected classes than was found."""
    pairs = [(item.recorded.count, item.count, item.recorded.n) for item in group if item.recorded.estimation]
    if (p := test(pairs)) < level:
        higher, differing = sum(a > b for a, b, _ in pairs), sum(a != b for a, b, _ in pairs)
        told = f"{higher} of {differing} differing rows record more samples of the selected class than were found"
        more = f", {sum(a - b for a, b, _ in pairs)} in all" if test is more_samples else ""
        report.fail(report.top, f"certified again: {how}{told}{more} (p = {p:.2g}, level {level:.2g})")


def _apart(stopped: int, fixed: int, n: int, level: float) -> bool:
    """Whether two counts of one class, of n samples each, lie further apart than happens with probability `level`.

    Args:
        stopped: n was decided by looking. fixed: n was decided beforehand.
    """
    (low,), (high,) = anytime_bounds(np.array([stopped]), np.array([n]), level / 2)
    return bool(lower_confidence_bound(fixed, n, level / 4) > high or 1 - lower_confidence_bound(n - fixed, n, level / 4) < low)
