"""How much is trained and certified: the protocols."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from bench.spec.certification import CertifySpec
from bench.spec.training import TrainSpec
from bench.spec.values import Scalar


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is trained and certified.

    Attributes:
        train: fields of TrainSpec that it fixes, for every method alike; the rest is the recipe's.
        survey_copies: most noisy copies of an image in a method's surveys of the training set; 0: as many as the method states.
    """

    name: str
    summary: str
    train: Mapping[str, Scalar]
    certify: CertifySpec
    seeds: tuple[int, ...]
    survey_copies: int = 0


PROTOCOLS: Mapping[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="full",
            summary="the paper's Appendix C: every epoch, every test image, n=100,000, seeds 0-4",
            train={},
            certify=CertifySpec(n0=100, n=100_000),
            seeds=(0, 1, 2, 3, 4),
        ),
        Protocol(
            name="quick",
            summary="minutes on two CPU cores, models good enough to compare",
            train={"epochs": 1, "images": "every:2", "batch": 32, "lr": 0.02},
            certify=CertifySpec(n0=100, n=10_000, images="every:100"),
            seeds=(0,),
            survey_copies=100,
        ),
        Protocol(
            name="smoke",
            summary="seconds: shows that everything runs, compares nothing",
            train={"epochs": 1, "images": "every:40", "batch": 16, "lr": 0.05},
            certify=CertifySpec(n0=100, n=1_000, images="every:400"),
            seeds=(0,),
            survey_copies=10,
        ),
    )
}
DEFAULT_PROTOCOL = "quick"
PROTOCOL_ALIASES = {"paper": "full"}
"""Words that are understood for a protocol on the command line; a spec has its name."""
RECIPES = ("official", "paper")


def survey_limit(train: TrainSpec, protocol: str) -> int:
    """The most noisy copies of an image in a survey of a training under a protocol; 0: no limit."""
    known = PROTOCOLS.get(protocol)
    return train.survey_copies or (known.survey_copies if known else 0)


def protocol_train(base: TrainSpec, protocol: Protocol) -> TrainSpec:
    """The recipe's training, shortened as the protocol says."""
    return dataclasses.replace(base, **dict(protocol.train))  # type: ignore[arg-type]
