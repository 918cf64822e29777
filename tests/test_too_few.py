"""A number of samples with which no image could be certified is told, with the least that can."""

from __future__ import annotations

import dataclasses

import pytest

from bench import rules
from bench.spec import CertifySpec


@pytest.mark.parametrize("name", rules.names())
@pytest.mark.parametrize("alpha", [0.3, 0.01, 0.001, 1e-9])
@pytest.mark.parametrize("n", [1, 7, 10, 100])
def test_the_least_n_is_the_least_that_can_certify(name: str, alpha: float, n: int) -> None:
    rule = rules.named(name)
    spec = CertifySpec(n0=1, n=n, rule=rule.stored_as, radii="0,0.5" if rule.takes_radii else "", stop_alpha=alpha if rule.stops else 0.001)
    reason = rules.of(spec, name).too_few(alpha)

    def largest(samples: int) -> float:
        return rules.of(dataclasses.replace(spec, n=samples), name).largest_radius(alpha, 1.0)

    if reason:
        least = int(reason.rpartition(" ")[2])
        assert largest(n) == 0
        assert n < least
        assert largest(least - 1) == 0 < largest(least)
    else:
        assert largest(n) > 0
