"""Small stores with made-up evidence, for the tests of the leaderboard. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS, recipe_train
from bench.evidence.certificate import Certificate, to_line
from bench.files.writing import write_json
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, protocol_train
from bench.store.presets import preset_of
from bench.store.runs import Run, Store
from bench.store.subject import Certification

N = 1000
CERTIFY = CertifySpec(n0=10, n=N, images="first:4")
LABELS = (7, 2, 1, 0)  # those of MNIST's first test images


def run_spec(row: str = "gaussian", seed: int = 0, sigma: float = 0.5, **changes: Any) -> RunSpec:
    """A spec of protocol quick as `bench run` makes it; `row` is method or method.variant, `changes` replace fields, `train` is merged.

    Values that are not given are those of the preset, where one is known, and of what `changes` says was changed.
    """
    method, _, variant = row.partition(".")
    protocol, recipe = changes.pop("protocol", "quick"), changes.pop("recipe", "official")
    info = DATASETS.get(changes.get("dataset", ""), DATASETS["mnist"])
    own, training = changes.pop("hyperparameters", {}), changes.pop("train", {})
    told = changes.get("changes", {})
    fields: dict[str, Any] = {
        "method": method,
        "variant": variant or "default",
        "hyperparameters": own,
        "dataset": "mnist",
        "sigma": sigma,
        "seed": seed,
        "recipe": recipe,
        "protocol": protocol,
        "train": recipe_train(info, recipe, 1),
    }
    spec = RunSpec(**{**fields, **changes})
    known = preset_of(spec, info) or {"hyperparameters": {}, "chunks": 1}
    values = {**known["hyperparameters"], **{k: v for k, v in told.items() if known["hyperparameters"] and "." not in k}, **own}
    pieces = values[known["chunks"]] if isinstance(known["chunks"], str) else known["chunks"]
    train = protocol_train(recipe_train(info, recipe, pieces), PROTOCOLS.get(protocol, PROTOCOLS["quick"]))
    set_ = {k.removeprefix("train."): v for k, v in told.items() if k.startswith("train.")}
    return dataclasses.replace(spec, hyperparameters=values, train=dataclasses.replace(train, **set_ | training))


def certificate(index: int, label: int, count: int, n: int = N, selected: int | None = None, n0: int = 10) -> Certificate:
    """`count` of n samples on the selected class (the label unless given), the rest on the next class."""
    chosen = label if selected is None else selected
    estimation = {c: k for c, k in ((chosen, count), ((chosen + 1) % 10, n - count)) if k}
    return Certificate(index=index, label=label, selected=chosen, selection={chosen: n0}, estimation=estimation)


def add(
    store: Store,
    spec: RunSpec,
    counts: Sequence[int] | None = (N, N, N, N),
    *,
    certify: CertifySpec = CERTIFY,
    state: str | None = "trained",
    environment: Mapping[str, object] | None = None,
    failure: bool = False,
) -> Run:
    """A run on disk, certified on its first len(counts) images; counts=None: not certified; state=None: not trained."""
    run = store.run(spec)
    run.begin()
    write_json(run.path / "environment.json", environment if environment is not None else {"method_sha256": "a" * 64})
    if state:
        write_json(
            run.path / "training.json",
            {"state": state, "reason": "NaN", "steps": run.steps() if spec.dataset in DATASETS else 1, "weights_sha256": weights_of(spec)},
        )
    if failure:
        write_json(run.path / "failure.json", {"reason": "no memory"})
    if counts is not None:
        write_evidence(run.certification(certify), counts)
    return run


def weights_of(spec: RunSpec) -> str:
    """The SHA-256 of weights that no other run has."""
    return hashlib.sha256(spec.key.encode()).hexdigest()


def write_evidence(certification: Certification, counts: Sequence[int], labels: Sequence[int] = LABELS) -> None:
    """One certificate per count, for the images of the certification in order."""
    certification.begin(certification.binding().weights_sha256 or "0" * 64)
    indices = certification.expected()
    rows = [
        certificate(index, labels[place % len(labels)], count, certification.spec.n, n0=certification.spec.n0)
        for place, (index, count) in enumerate(zip(indices, counts, strict=False))
    ]
    certification.evidence.write_text("".join(map(to_line, rows)))


def new_store(path: Path) -> Store:
    """A store in a folder."""
    return Store(path / "runs")
