"""The two pictures of `bench theory`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.files.writing import write_atomically
from bench.theory.worst_case import constant, limit, shell_bound, worst_case

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIMENSIONS = (1, 10, 100, 784, 3072, 150528)
"""1 to 100, and the pixels of MNIST, CIFAR-10 and ImageNet."""
STEPS = (0.5, 1.0, 2.0)
SMALLEST = 1e-12


def draw(folder: Path, p: float, sigma: float, tau: float) -> list[Path]:
    """Writes both pictures as SVG files; returns where they are. The same arguments give the same bytes.

    Args:
        p: probability of the class at x. sigma, tau: the two noise levels, in pixels of [0, 1].
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "certbench", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        pictures = {"theory-dimensions.svg": _dimensions(p, sigma, tau), "theory-limit.svg": _limit(p)}
        for name, figure in pictures.items():
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            write_atomically(folder / name, file.getvalue())
    return [folder / name for name in pictures]


def _figure() -> tuple[Figure, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    figure.subplots().set_xscale("log")
    return figure, np.unique(np.geomspace(1, max(DIMENSIONS), 120).round())


def _dimensions(p: float, sigma: float, tau: float) -> Figure:
    """The worst case and its bounds against the dimension, at distance 0."""
    figure, d = _figure()
    axes = figure.axes[0]
    axes.set_yscale("log")
    axes.plot(d, worst_case(p, sigma, tau, 0, d), color="#0072b2", label="worst case (exact)")
    axes.plot(d, shell_bound(p, sigma, tau, 0, d), color="#d55e00", linestyle="--", label="the proof's shell, equation (12)")
    c = constant(p, sigma, tau, 0)
    axes.plot(d, np.minimum(1, c / d), color="#666666", linestyle=":", label=f"C / d, C = {c:,.0f}")
    axes.set(ylim=(SMALLEST, 2), xlabel="dimensions d", ylabel="probability of the class at x'")
    axes.set_title(f"p = {p:g} at x, sigma = {sigma:g}, tau = {tau:g}, distance 0", fontsize=9)
    axes.axhline(0.5, color="#bbbbbb", linewidth=0.8)
    axes.legend(frameon=False, loc="lower left")
    return figure


def _limit(p: float) -> Figure:
    """What the theorem does not say: noise levels that come nearer as d grows leave the class a probability."""
    figure, d = _figure()
    axes = figure.axes[0]
    for a, color in zip(STEPS, ("#0072b2", "#d55e00", "#009e73"), strict=True):
        axes.plot(d, worst_case(p, 1, 1 + a / np.sqrt(d), 0, d), color=color, label=f"a = {a:g}")
        axes.axhline(float(limit(p, a)), color=color, linestyle=":", linewidth=0.9)
    axes.set(ylim=(0, 1), xlabel="dimensions d", ylabel="worst case at x'")
    axes.set_title(f"tau = sigma (1 + a / sqrt(d)), p = {p:g}, distance 0; dotted: the limit", fontsize=9)
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.78))
    return figure
