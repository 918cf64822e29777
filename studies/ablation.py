"""The switches of studies/ablation.toml against the recipes that they are switched in, as a markdown table.

python studies/ablation.py results/ablation

A difference is "as the paper prints it" (D11: uncut batches; it states none) minus "as the code does it". ± is half of a 95 % t-interval
for the mean over all trainings, from the paired seeds; one seed has none. "Across images": 95 % interval for the mean over all images like
these, of these networks, by sign flips. "Images up, down": on how many the mean over the seeds of what they add to the ACR is larger, and
smaller.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from scipy import stats

import bench
from bench.errors import BenchError
from leaderboard.flips import TIE, flip_each

FIVE, ONE_STEP = "smoothmix.eta5", "smoothmix.eta5-onestep"
SWITCHES = [  # of docs/notes/recipes.md: what is switched, the row as the code has it, as the paper has it, the change of its training
    ("D1 Nesterov momentum", FIVE, FIVE, "nesterov=true"),
    ("D2 learning rate drops an epoch earlier", FIVE, FIVE, "lr_lag=0"),
    ("D3 mix every image", FIVE, f"{FIVE}[mask_wrong=false]", ""),
    ("D4 no warm-up", FIVE, f"{FIVE}[warmup_epochs=0]", ""),
    ("D4 no warm-up, one step", ONE_STEP, f"{ONE_STEP}[warmup_epochs=0]", ""),
    ("D5 adversary not clipped", FIVE, f"{FIVE}[clip=false]", ""),
    ("D6 cross-entropy to the mixed label", FIVE, f"{FIVE}[mix_loss=cross-entropy]", ""),
    ("D7 one-step image as it is", ONE_STEP, f"{ONE_STEP}[reproject=false]", ""),
    ("D9 epsilon 1, from zero", "smoothadv", "smoothadv[epsilon=1.0,warmup_first=0.0]", ""),
    ("D10 no deferral", "macer", "macer[deferral=0]", ""),
    ("D11 batches of 128 for 32", FIVE, FIVE, "batch=128"),
]

STUDY = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

Side = tuple[str, str, float]  # row, change of its training, sigma


def contributions(results: Path) -> dict[Side, pd.DataFrame]:
    """What each image adds to the ACR, in pixels of [0, 1]: a column per seed, a line per image. Runs of other studies are left out.

    Raises:
        BenchError: no results there; runs of the study that were trained or certified in several ways.
    """
    found: dict[Side, dict[int, pd.Series]] = defaultdict(dict)
    ways = set()
    for text, run in bench.load_results(results).groupby("record", observed=True):
        record = json.loads(str(text))
        spec, certify = record["spec"], record["certify"]
        if (spec["protocol"], certify["images"]) != (STUDY["protocol"], STUDY["set"]["certify"]["images"]):
            continue
        changes = {name.removeprefix("train."): value for name, value in spec["changes"].items() if name.startswith("train.")}
        side = str(run["row"].iloc[0]), ",".join(f"{name}={json.dumps(value)}" for name, value in changes.items()), float(spec["sigma"])
        ways.add((spec["recipe"], *(certify[name] for name in ("n0", "n", "rule", "seed"))))
        if len(ways) > 1 or spec["seed"] in found[side]:
            told = f"{side[0]} at sigma {side[2]:g}, seed {spec['seed']}"
            raise BenchError(f"{results} holds the study in several ways, such as {told}; keep one of them in a folder of its own")
        found[side][spec["seed"]] = run["radius"].where(run["correct"], 0.0).set_axis(run["image"])
    return {side: pd.DataFrame(seeds).sort_index(axis=1) for side, seeds in found.items()}


def lines(results: Path) -> Iterator[str]:
    """The table, a line at a time; where one side lacks a seed or an image of the other, it says so."""
    cells = contributions(results)
    yield "| switch | in | sigma | code | paper | difference | across images | images up, down |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, code, paper, change in SWITCHES:
        for sigma in sorted({sigma for _, _, sigma in cells}):
            a, b = cells.get((code, "", sigma)), cells.get((paper, change, sigma))
            if a is None or b is None or not a.notna().equals(b.notna()) or a.isna().any(axis=None):
                yield f"| {name} | {code} | {sigma:g} | | | not all seeds and images are there | | |"
                continue
            difference = b - a
            seeds, images = difference.mean(axis=0), difference.mean(axis=1).to_numpy()
            half = f" ±{stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(seeds):.4f}" if len(seeds) > 1 else ""
            across = flip_each(images[None, :])
            yield (
                f"| {name} | {code} | {sigma:g} | {a.to_numpy().mean():.4f} | {b.to_numpy().mean():.4f} | {seeds.mean():+.4f}{half} "
                f"| {across.low[0]:+.4f} to {across.high[0]:+.4f} | {(images > TIE).sum()}, {(images < -TIE).sum()} |"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the results of studies/ablation.toml")
    print("\n".join(lines(parser.parse_args().results)))
