"""Specs and finished runs that no training made, for the other scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS, recipe_train
from bench.evidence.certificate import Certificate, to_line
from bench.spec import PROTOCOLS, CertifySpec, RunSpec, TrainSpec, canonical, protocol_train, to_json
from bench.store.runs import Store


def spec_of(train: TrainSpec, row: str = "some", **fields: Any) -> RunSpec:
    """A spec of a row (method or method.variant); `fields` replace the others' usual values."""
    method, _, variant = row.partition(".")
    usual: dict[str, Any] = {"dataset": "mnist", "sigma": 0.5, "seed": 0, "recipe": "official", "protocol": "full", "hyperparameters": {}}
    return RunSpec(method=method, variant=variant or "default", train=train, **(usual | fields))


def write_run(root: Path, row: str, sigma: float, seed: int, protocol: str, certify: CertifySpec, rows: Iterable[Certificate]) -> None:
    """A finished run on MNIST, written without syncing."""
    train = protocol_train(recipe_train(DATASETS["mnist"], "official", 1), PROTOCOLS[protocol])
    run = Store(root).run(spec_of(train, row, sigma=sigma, seed=seed, protocol=protocol))
    certification = run.certification(certify)
    certification.path.mkdir(parents=True)
    weights = hashlib.sha256(run.spec.key.encode()).hexdigest()  # its own, as of a training of its own
    files = {
        run.path / "spec.json": canonical(to_json(run.spec)),
        run.path / "environment.json": canonical({"method_sha256": "0" * 64}),
        run.path / "training.json": canonical({"state": "trained", "steps": run.steps(), "weights_sha256": weights}),
        certification.path / "spec.json": canonical(to_json(certify)),
        certification.path / "subject.json": canonical({"weights_sha256": weights}),
        certification.evidence: "".join(map(to_line, rows)),
    }
    for path, text in files.items():
        path.write_text(text)
