"""A results folder as JSON values: what the page shows, what travels in it, and what its script computes with."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import rules
from bench.datasets import DATASETS
from bench.errors import BenchError
from bench.files import disk
from bench.spec import digest, to_json
from bench.store.checkpoints import Checkpoint
from bench.store.imports import Import
from bench.store.listing import command
from bench.store.runs import Run, Store
from bench.store.subject import DIGEST, Certification
from leaderboard.aggregate import Group, Row, Section, Seed, collect, with_constant
from leaderboard.aggregate.mix import say
from leaderboard.compare.statistics import compare_images
from leaderboard.flips import LEVEL, flip_pairs
from leaderboard.formats import clean
from leaderboard.formats.values import picked
from leaderboard.metrics import ACR, Outcomes
from leaderboard.site import drawing
from leaderboard.tables import cells, headline, with_marks
from leaderboard.tables.captions import details

METRICS = (ACR, "accuracy", "clean", "abstention", "cost")
SCRIPT = (files(__package__) / "certificate.js").read_text(encoding="utf-8")
RECOMPUTED = tuple(re.findall(r'^  "(\S+)": \(count, n, ', SCRIPT, re.MULTILINE))
"""Rules that the script reads as well; evidence of others stands on the page at the alpha of its table alone."""
HARDEST = 6
KEPT = (
    *("spec.json", "subject.json", "origin.json", "dataset.json", "environment.json", "training.json", "timing.json", "curve.csv"),
    *("evidence.jsonl", "finished.json", "times.csv", "rows.tsv"),
)
"""Of a training and its certification, what a page is made of: all but weights."""
STATUSES = {
    "claimed": "labels that cannot be compared on the machine that made this page",
    "log": "radii of a published log, without counts",
    "evidence": "counts of every image that fit their specs, their labels and each other",
    "weights checked": "evidence, and the weights beside it are the recorded ones",
    "recertified on K images": "weights checked, and K images were counted again from them",
    "unbound": "an addition: no record says which weights the counts are of",
    "computed": "the constant classifier, which has no network",
}


@dataclass
class Content:
    """What a page is made of.

    Attributes:
        root: the results folder.
        data: JSON values, without control characters in any text; they travel in the page.
        images: those of them that hold the images of each training.
        drawings: id of a section or of a row -> its static chart. pictures: (data set, image) -> data URI.
        files: that stand behind the page, below the results folder.
    """

    root: Path
    data: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    drawings: dict[str, drawing.Chart] = field(default_factory=dict)
    pictures: dict[tuple[str, int], str] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)


def read(store: Store, *, alpha: float | None = None, title: str = "") -> Content:
    """Reads a results folder: every table of `bench table`, and those of the rules that read its counts in another way.

    Args:
        alpha: chance that a certificate is wrong, in (0, 1/2); 0.001 if None.
        title: of the page; one is made of the data sets if it is empty.

    Raises:
        BenchError: as `leaderboard.aggregate.collect`.
    """
    groups = list(collect(store, alpha=alpha, metrics=METRICS))
    sampled = {group.rule.name for group in groups if group.rule}
    for name in rules.names():
        if name not in sampled and rules.named(name).stored_as in sampled:
            with contextlib.suppress(BenchError):  # where no evidence can be read so
                groups += [group for group in collect(store, alpha=alpha, rule=name, metrics=METRICS) if group.source != "imported"]
    groups = [with_constant(with_marks(group, "test")) for group in groups]
    found = Content(store.root)
    tables = [_table(f"t{n}", group, label, found) for n, (group, label) in enumerate(zip(groups, _protocols(groups), strict=True))]
    names = ", ".join(dict.fromkeys(group.dataset for group in groups))
    made = {
        "schema": 1,
        "title": title or f"Certified robustness on {names}",
        "certbench": version("certbench"),
        "statuses": STATUSES,
        "tables": tables,
        "images": found.images,
    }
    sections = [section for table in tables for section in table["sections"]]
    made["first"] = max(sections, key=lambda s: (s["tested"], sum(not row["state"] for row in s["rows"])))["id"]
    found.data = _cleaned(made)
    hashes = sorted({t["evidence_sha256"] for t in trainings(found.data) if t["evidence_sha256"]})
    found.data |= {"version": digest(found.data), "evidence": hashlib.sha256("\n".join(hashes).encode()).hexdigest(), "changelog": []}
    return found


def trainings(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every training on a page, once for each row that it is in."""
    return [t for table in data["tables"] for section in table["sections"] for row in section["rows"] for t in row["trainings"]]


def _cleaned(value: Any) -> Any:
    """Texts without control characters; the rest as it is."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(name)): _cleaned(v) for name, v in value.items()}
    return [_cleaned(v) for v in value] if isinstance(value, list | tuple) else value


def _protocols(groups: Sequence[Group]) -> list[str]:
    """What tells the tables of one data set and rule apart, in words."""

    def base(group: Group) -> str:
        known = group.conditions
        changes = f" ({known['changes']})" if known.get("changes") else ""
        return f"{known['protocol']}{changes}" if "protocol" in known else str(known["source"])

    labels = []
    for group in groups:
        place = group.dataset, group.conditions.get("certify.rule"), base(group)
        same = [g for g in groups if (g.dataset, g.conditions.get("certify.rule"), base(g)) == place]
        differ = {name: value for name, value in group.conditions.items() if any(g.conditions.get(name) != value for g in same)}
        labels.append(f"{base(group)}; {say(differ)}" if differ else base(group))
    return labels


def _table(name: str, group: Group, protocol: str, found: Content) -> dict[str, Any]:
    """A group of comparable rows."""
    rule = str(group.conditions.get("certify.rule", "as printed"))
    styles = {label: n for n, label in enumerate(dict.fromkeys(row.label for row in group.rows if not row.constant))}
    known = next((o for row in group.rows for o in row.outcomes), None)
    result = {
        "id": name,
        "dataset": group.dataset,
        "protocol": protocol,
        "rule": rule,
        "recomputed": rule in RECOMPUTED,
        "ranked": group.rule is None or group.rule.acr == "ranked",
        "source": group.source,
        "headline": headline(group),
        "details": details(group),
        **picked(group, "ties", "notes"),
        "alpha": group.conditions["alpha"],
        "n": group.conditions["certify.n"],
        "rounding": group.conditions["rounding"],
        "count": group.images,
        "unit": group.unit,
        "sentence": _sentence(group, protocol),
        "metrics": [picked(m, "name", "heading", "decimals", "better") for m in group.metrics],
        "radii": [m.name for m in group.metrics if m.heading.startswith("r=")],
        "index": _packed(known.index) if known else None,
        "labels": _packed(known.label) if known else None,
    }
    return result | {"sections": [_section(f"{name}-{s.sigma:g}", s, group, result, styles, found) for s in group.sections]}


def _sentence(group: Group, protocol: str) -> str:
    """What a number means, with a place for the noise level."""
    known = group.conditions
    of = f"{group.images:,} of {group.test_size:,}" if group.test_size > group.images else f"{group.images:,}"
    means = "images, a wrong or abstained one counting 0"
    read = "as printed in the logs" if group.rule is None else f"read by the {group.rule.words()}"
    return (
        f"ACR is the certified L2 radius, in pixels of [0, 1], averaged over {of} {group.dataset} test {means}: each was classified n = "
        f"{known['certify.n']:,} times under Gaussian noise of sigma {{sigma}}, and its certificate is wrong with a chance of at most "
        f"alpha = {known['alpha']:g} ({'protocol ' if 'protocol' in known else ''}{protocol}; {read})."
    )


def _section(
    name: str, section: Section, group: Group, table: Mapping[str, Any], styles: Mapping[str, int], found: Content
) -> dict[str, Any]:
    """The rows of one noise level, best first, unfinished ones and the constant classifier last."""
    ordered = sorted(section.rows, key=lambda row: (row.constant, not row.finished, -row.stats[ACR].mean if ACR in row.stats else 0))
    ranked = [row for row in ordered if table["ranked"] and ACR in row.stats and not row.constant]
    p = flip_pairs(np.stack([row.values for row in ranked])) if any(row.tied is not None for row in ranked) else None
    places = dict(zip((row.label for row in ranked), ranks(len(ranked), p), strict=True))
    both = list(itertools.combinations(range(len(ranked)), 2)) if group.images > 1 else []
    pairs = [
        {
            "a": ranked[a].label,
            "b": ranked[b].label,
            **picked(difference, "difference", "low", "high", "more_a", "more_b", "tie"),
            "p": None if p is None else float(p[a, b]),
        }
        for (a, b), difference in zip(both, compare_images([(ranked[a], ranked[b]) for a, b in both]), strict=True)
    ]
    beyond = {
        row.label: [metric.name for metric, cell in zip(group.metrics, line, strict=True) if cell.beyond]
        for row, line in zip(section.rows, cells(group, section), strict=True)
    }
    rows = []
    for number, row in enumerate(ordered):
        place = f"{name}-{number}"
        rank, band = places.get(row.label, (None, None))
        made = [_training(f"{place}-{n}", seed, row, table["recomputed"], found) for n, seed in enumerate(row.seeds)]
        first = next((seed.certification for seed in row.seeds if seed.outcomes and seed.certification), None)
        rows.append(
            {
                "id": place,
                **picked(row, "label", "method", "constant"),
                "state": row.status,
                "status": row.trust,
                "notes": row.notes,
                "rank": rank,
                "band": band,
                "tied": row.tied,
                "beyond": beyond[row.label],
                "style": styles.get(row.label, -1),
                "stats": {key: dataclasses.asdict(stat) for key, stat in row.stats.items()},
                "trainings": made,
                "settings": _settings(first) if first else {},
                "hardest": _hardest(row, group.dataset, found),
            }
        )
        if first and isinstance(first.subject, Run):
            with contextlib.suppress(BenchError):  # no training curve, which `bench verify` tells
                found.drawings[place] = drawing.training(first.subject)
    found.drawings[name] = drawing.curves([(styles.get(row.label, -1), row) for row in ordered if row.finished])
    return {"id": name, "sigma": section.sigma, "tested": p is not None, "rows": rows, "pairs": pairs}


def ranks(size: int, p: NDArray[np.float64] | None) -> list[tuple[tuple[int, int], int]]:
    """The ranks that the tests leave to each of so many rows, in order of ACR, and its band.

    A row ranks below those that are better by the test, and above those that are worse; without a test any rank is possible. A band is a
    best row and those that cannot be told from it; then the best of the rest.

    Args:
        p: of each pair of rows, size x size; None: not tested.
    """
    apart = np.zeros((size, size), dtype=bool) if p is None else p <= LEVEL
    found, band, first = [], 0, 0
    for n in range(size):
        if apart[first, n] and n > first:
            band, first = band + 1, n
        found.append(((1 + int(apart[n, :n].sum()), size - int(apart[n, n + 1 :].sum())), band))
    return found


def _training(place: str, seed: Seed, row: Row, recomputed: bool, found: Content) -> dict[str, Any]:
    """One training, how it came about, and where its images are."""
    c = seed.certification
    own: dict[str, Any] = {
        "name": str(seed.seed),
        **picked(seed, "state", "done", "reason"),
        "status": str(seed.trust or ("computed" if row.constant else "")),
        "key": seed.key,
        **dict.fromkeys(("certification", "file", "evidence_sha256", "command"), ""),
        "environment": {},
        "images": None,
    }
    if seed.outcomes is not None:
        own["images"], packed = _images(place, seed, seed.outcomes, recomputed)
        found.images.setdefault(own["images"], packed)
    if c is None:
        return own
    if seed.outcomes is not None:
        published = isinstance(c.subject, Import)
        file = c.subject.file if isinstance(c.subject, Import) else c.evidence
        seen = c.subject.spec.rows_sha256 if published else (c.subject.seen or {}).get(f"{c.path.name}/{DIGEST}")
        own |= {"certification": "" if published else c.spec.key, "file": str(file.relative_to(found.root))}
        own["evidence_sha256"] = seen or disk.sha256(file)
        there = (folder / name for folder in (c.subject.path, c.path) for name in KEPT)
        found.files |= {path.relative_to(found.root) for path in there if disk.there(path)}
    return own | {"command": _command(c), "environment": _environment(c)}


def _images(place: str, seed: Seed, o: Outcomes, recomputed: bool) -> tuple[str, dict[str, Any]]:
    """Name and numbers of a training's images: counts where the page reads them at any alpha, else radius * correct."""
    if not recomputed or o.counts is None or o.selected is None:
        return place, {"values": _packed(o.values)}
    right = o.selected == o.label
    counts, n = o.counts.count.astype(np.int64), np.unique(o.counts.n)
    packed = {"count": _packed(np.where(right, counts, ~counts)), "n": int(n[0]) if n.size == 1 else _packed(o.counts.n)}
    if o.counts.runner_up is not None:
        packed["runner_up"] = _packed(o.counts.runner_up)
    key = f"{seed.key}/{seed.certification.spec.key}" if seed.certification else f"constant/{digest(packed)}"
    return key, packed


def _packed(values: NDArray[Any]) -> str:
    """Whole numbers as int32, others as float64: little-endian, byte planes one after the other, deflated, base64."""
    array = np.ascontiguousarray(values, dtype="<f8" if values.dtype.kind == "f" else "<i4")
    planes = array.view(np.uint8).reshape(-1, array.itemsize).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def _settings(c: Certification) -> dict[str, Any]:
    """How a training and its certification were set, in groups."""
    spec = to_json(c.subject.spec)
    found: dict[str, dict[str, Any]] = {"specification": {}}
    for name, word in {"hyperparameters": "hyperparameters", "train": "training", "changes": "changes"}.items():
        found[word] = spec.pop(name, {})
    found |= {"specification": spec, "certification": {} if isinstance(c.subject, Import) else to_json(c.spec)}
    told = {name: {k: v for k, v in group.items() if v not in ({}, "") and k != "schema"} for name, group in found.items()}
    return {name: group for name, group in told.items() if group}


def _environment(c: Certification) -> dict[str, str]:
    """What a training was made with, in words."""
    environment, timing = c.subject.environment() or {}, c.subject.timing() or {}
    suite, libraries = environment.get("suite") or {}, environment.get("libraries") or {}
    certified = c.environment() or {}
    found = {
        "commit": f"{suite.get('commit')}{' with changes' if suite.get('dirty') else ''}" if suite.get("commit") else None,
        "trained on": environment.get("device"),
        "certified on": certified.get("device"),
        "Python": environment.get("python"),
        **{name: libraries.get(name) for name in ("torch", "numpy")},
        "method SHA-256": environment.get("method_sha256"),
        "weights SHA-256": (c.subject.training() or {}).get("weights_sha256"),
        "seconds of training": f"{timing['training_seconds']:.0f}" if "training_seconds" in timing else None,
    }
    return {name: str(value)[:200] for name, value in found.items() if value not in (None, "")}


def _command(c: Certification) -> str:
    """The command that makes a training again; of a checkpoint, that certifies it; of a log, that imports it."""
    subject = c.subject
    if isinstance(subject, Import):
        return f"bench import FOLDER  # {subject.spec.source} of {subject.spec.collection}"
    if not isinstance(subject, Checkpoint):
        return f"bench run {command(subject.spec, c.spec)}"
    own = {"--dataset": subject.dataset, "--sigma": f"{subject.sigma:g}", "--n": c.spec.n, "--n0": c.spec.n0, "--images": c.spec.images}
    own |= {"--rule": c.spec.rule, "--seed": c.spec.seed, "--arch": subject.spec.arch, "--normalize": subject.spec.normalization}
    own |= {"--row": subject.origin().row} if subject.origin().row else {}
    words = [str(word) for pair in own.items() for word in pair]
    return shlex.join(["bench", "certify", subject.file_name or "CHECKPOINT", *words])


def _hardest(row: Row, dataset: str, found: Content) -> list[dict[str, Any]]:
    """The images that a row's first training gets most wrong, then those that it gets right with the fewest samples."""
    o = next((o for o in row.outcomes if o.counts is not None), None)
    if row.constant or o is None or o.counts is None or o.selected is None:
        return []
    share = o.counts.count / o.counts.n
    order = np.argsort(np.where(o.selected == o.label, share, -share), kind="stable")[:HARDEST]
    info = DATASETS.get(dataset)
    if info and info.source and info.source.ships:
        found.pictures |= {(dataset, int(o.index[k])): drawing.picture(dataset, int(o.index[k])) for k in order}
    told = {"image": o.index, "label": o.label, "selected": o.selected, "count": o.counts.count, "n": o.counts.n, "radius": o.values}
    return [{name: column[k].item() for name, column in told.items()} for k in order]
