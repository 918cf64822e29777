"""`bench theory`: Theorem 1 and Lemma 2 of the SmoothMix paper as numbers and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import bench.cli.options as options
from bench.cli.command import OUTPUT, option
from bench.cli.common import print_json, refuse, stop
from bench.errors import BenchError, counted

RATIOS = (1.02, 1.05, 1.06, 1.1, 2.0)
LEVELS = (0.9, 0.99, 0.999, 0.99993)
PIXELS = {"MNIST": 784, "CIFAR-10": 3072, "ImageNet": 150528}
CONDITIONS = """\
What the theorem says, and what it does not:
- sigma and tau differ and stay as they are while d grows. With
  tau = sigma (1 + a / sqrt(d)) the worst case does not vanish.
- It is about the worst of all measurable classifiers, a ball around x, and not
  about a trained network.
- The law of the noise must have no atoms: under random signs the norm is
  constant, and no such ball exists.
- For Gaussian noise the decay is exponential in d. C / d is what four moments
  of the noise give; it says nothing below d = C."""


def theory(
    p: Annotated[float, option("--p", "P", "Probability of the class at x, in (0, 1).")] = 0.99,
    sigma: Annotated[float, option("--sigma", "S", "Noise level at x, in pixels of [0, 1].")] = 0.5,
    distance: Annotated[float, option("--distance", "Z", "L2 distance of the two points.")] = 0.0,
    image: Annotated[int, option("--image", "I", "MNIST test image at the centre of the ball.")] = 0,
    n: Annotated[int, option("--n", "N", "Noise samples of that image.")] = 10_000,
    out: Annotated[Path | None, option("--out", "DIR", "Draw two pictures into this folder, which is made.", OUTPUT)] = None,
    as_json: options.Json = False,
) -> None:
    """Show why one noise level must serve all inputs (Theorem 1 and Lemma 2 of SmoothMix)."""
    problems = [f"--image {image} must be from 0 to 9999"] if not 0 <= image < 10_000 else []
    problems += [f"--n {n} must be at least 1"] if n < 1 else []
    problems += [f"--out {out} is not a folder"] if out is not None and out.exists() and not out.is_dir() else []
    try:
        from bench.theory.worst_case import worst_case

        worst_case(p, sigma, sigma, distance, 1)
    except BenchError as error:
        problems.append(f"--{error}")
    refuse(problems)
    found = _compute(p, sigma, distance, image, n)
    if out is not None:
        from bench.theory import plots

        try:
            out.mkdir(parents=True, exist_ok=True)
            found["pictures"] = list(map(str, plots.draw(out, p, sigma, 1.05 * sigma)))
        except OSError as error:
            stop([f"--out {out}: {error.strerror}"])
    if as_json:
        print_json(found)
    else:
        _print(found)


def _compute(p: float, sigma: float, distance: float, image: int, n: int) -> dict[str, Any]:
    import torch

    from bench.data import load
    from bench.theory.ball import share_inside
    from bench.theory.worst_case import constant, largest_ratio, worst_case

    rows = []
    x = load("mnist", "test").images(torch.tensor([image]))[0]
    for ratio in RATIOS:
        tau = ratio * sigma
        left = worst_case(p, sigma, tau, distance, list(PIXELS.values()))
        row = {"ratio": ratio, "worst_case": dict(zip(PIXELS, left.tolist(), strict=True))}
        rows.append(row | {"C": constant(p, sigma, tau, distance), "counted": share_inside(x, image, sigma, tau, p, n)})
    survives = [{"p": level} | dict(zip(PIXELS, largest_ratio(level, list(PIXELS.values())).tolist(), strict=True)) for level in LEVELS]
    return {
        "p": p,
        "sigma": sigma,
        "distance": distance,
        "image": image,
        "n": n,
        "same_noise": share_inside(x, image, sigma, sigma, p, n),
        "ratios": rows,
        "largest_ratio": survives,
    }


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    p, sigma = found["p"], found["sigma"]
    console.print(
        f"A class has probability {p:g} at x under noise sigma = {sigma:g}. At a point in\n"
        f"distance {found['distance']:g}, under noise tau, the worst classifier leaves it (exact):\n"
    )
    table = Table("tau / sigma", box=None, pad_edge=False)
    for name, d in PIXELS.items():
        table.add_column(f"{name}\nd = {d}", justify="right")
    table.add_column("C", justify="right")
    for row in found["ratios"]:
        left = (f"{value:.3g}" if value else "< 1e-300" for value in row["worst_case"].values())
        table.add_row(f"{row['ratio']:g}", *left, f"{row['C']:,.0f}")
    console.print(table)
    console.print("\nThe largest tau / sigma that leaves the class more than 1/2 at the very same point:\n")
    table = Table("p", box=None, pad_edge=False)
    for name in PIXELS:
        table.add_column(name, justify="right")
    for row in found["largest_ratio"]:
        table.add_row(f"{row['p']:g}", *(f"{row[name]:.4f}" for name in PIXELS))
    console.print(table)
    console.print(
        f"\nThe ball around MNIST test image {found['image']}, counted by the suite's own sampler in\n"
        f"{counted(found['n'], 'sample', ',')}, distance 0: {found['same_noise']:.4f} at tau = sigma, then\n"
        + ", ".join(f"{row['counted']:.4f} at {row['ratio']:g}" for row in found["ratios"])
        + ".\n"
    )
    console.print(CONDITIONS, markup=False)
    for path in found.get("pictures", []):
        console.print(f"wrote {path}", markup=False)
