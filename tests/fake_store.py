"""Small stores with made-up evidence, for the tests of the leaderboard. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS, recipe_train
from bench.files import write_json
from bench.records import Certificate, to_line
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, protocol_train
from bench.store import Certification, Run, Store

N = 1000
CERTIFY = CertifySpec(n0=10, n=N, images="first:4")
LABELS = (7, 2, 1, 0)  # those of MNIST's first test images


def run_spec(row: str = "gaussian", seed: int = 0, sigma: float = 0.5, **changes: Any) -> RunSpec:
    """A spec of protocol quick; `row` is method or method.variant, `changes` replace fields, `train` is merged."""
    method, _, variant = row.partition(".")
    protocol, recipe = changes.pop("protocol", "quick"), changes.pop("recipe", "official")
    train = protocol_train(recipe_train(DATASETS["mnist"], recipe, 1), PROTOCOLS[protocol])
    train = dataclasses.replace(train, **changes.pop("train", {}))
    fields: dict[str, Any] = {
        "method": method,
        "variant": variant or "default",
        "hyperparameters": {},
        "dataset": "mnist",
        "sigma": sigma,
        "seed": seed,
        "recipe": recipe,
        "protocol": protocol,
        "train": train,
    }
    return RunSpec(**{**fields, **changes})


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
            {"state": state, "reason": "NaN", "steps": run.steps() if spec.dataset in DATASETS else 1, "weights_sha256": "0" * 64},
        )
    if failure:
        write_json(run.path / "failure.json", {"reason": "no memory"})
    if counts is not None:
        write_evidence(run.certification(certify), counts)
    return run


def write_evidence(certification: Certification, counts: Sequence[int], labels: Sequence[int] = LABELS) -> None:
    """One certificate per count, for the images of the certification in order."""
    certification.begin((certification.run.training() or {}).get("weights_sha256", "0" * 64))
    indices = certification.expected()
    rows = [
        certificate(index, labels[place % len(labels)], count, certification.spec.n, n0=certification.spec.n0)
        for place, (index, count) in enumerate(zip(indices, counts, strict=False))
    ]
    certification.evidence.write_text("".join(map(to_line, rows)))


def new_store(path: Path) -> Store:
    """A store in a folder."""
    return Store(path / "runs")
