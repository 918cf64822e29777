"""Names, durations and estimates in words."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from bench.errors import counted

if TYPE_CHECKING:
    from bench.matrix.cost import Estimate

COLUMNS = ("device-hours", "memory")


def cost_columns(estimate: Estimate | None) -> tuple[str, str]:
    """Texts of `COLUMNS`; empty where there is no estimate."""
    if estimate is None:
        return "", ""
    return hours(estimate.device_seconds), memory(estimate.memory_bytes)


def hours(seconds: float) -> str:
    """Hours with three digits, `0.0123` or `157,000`."""
    return f"{float(f'{seconds / 3600:.3g}'):,.10g}"


def memory(size: int) -> str:
    """Bytes as `1.3 GiB` or `250 MiB`."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def cost_total(estimates: Collection[Estimate], cells: int) -> list[str]:
    """What all cells to do take together, in sentences."""
    if not estimates:
        return []
    total = hours(sum(estimate.device_seconds for estimate in estimates))
    largest = max(estimate.memory_bytes for estimate in estimates)
    lacking = f" ({counted(cells - len(estimates), 'cell')} could not be estimated)" if len(estimates) < cells else ""
    return [
        f"in all {total} device-hours{lacking}, from timed passes on random images; memory up to {memory(largest)} per device:",
        "weights, gradients, momentum, noise, training images, and what a step keeps for its backward pass, but no libraries",
    ]


def estimate_json(estimate: Estimate | None) -> dict[str, Any]:
    """The fields of an estimate, each None where there is none."""
    names = ("seconds", "certifying_seconds", "device_seconds", "memory_bytes")
    return {name: None if estimate is None else getattr(estimate, name) for name in names}


def total_json(estimates: Collection[Estimate]) -> dict[str, Any]:
    """Sums, and the largest memory."""
    return {
        "device_seconds": sum(estimate.device_seconds for estimate in estimates),
        "memory_bytes": max((estimate.memory_bytes for estimate in estimates), default=0),
        "cells": len(estimates),
    }


def clock(seconds: float) -> str:
    """A duration as a person says it: `45 s`, `6 minutes`, `1 h 20 min`, `5 days`, `18 years`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} minutes"
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60) if minutes < 10 * 60 else (round(minutes / 60), 0)
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days = round(minutes / (24 * 60))
    return f"{days} days" if days < 700 else f"{days / 365.25:,.0f} years"


def plain(value: object) -> str:
    """Text without control characters, which a name must not smuggle into a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(value))
