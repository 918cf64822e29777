"""Which short training keeps the order of the methods? Trainings compared on training images that none sees; no test image is looked at.

    python benchmarks/protocol.py                       # batch and first learning rate of `quick`
    python benchmarks/protocol.py --rows all --held-out 1:59905:144 --n 6000 --seeds 0,1 --device cuda \\
        --training epochs=2,images=all,batch=64,lr=0.02,lr_step=60 > mine.csv
    python benchmarks/protocol.py --tau benchmarks/short-trainings.csv    # the order of the rows against Table 5

A line per training: accuracy of the class that most of 100 noisy copies give, and the ACR that n fresh ones certify.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import kendalltau

from bench.certify import Sampler
from bench.data import Images, load
from bench.datasets import DATASETS
from bench.matrix.plan import Cell, Request, make_plan
from bench.registry import Registry
from bench.rules.bounds import certified_radius
from bench.spec.values import replace_checked
from bench.train.loop import Trainer

PAPER = Path(__file__).resolve().parent.parent / "results" / "published" / "table5.csv"
DEFAULT = [f"batch={batch},lr={lr}" for batch, lr in ((32, 0.01), (32, 0.02), (32, 0.05), (64, 0.02), (64, 0.05))]
N0, ALPHA = 100, 0.001
TRAINING = ["epochs", "images", "batch", "lr", "lr_step"]
COLUMNS = [*TRAINING, "deferral", "row", "sigma", "seed", "device", "accuracy", "ACR"]


def paper() -> dict[Any, dict[Any, float]]:
    """Sigma -> row -> ACR of Table 5."""
    found: dict[Any, dict[Any, float]] = {}
    for sigma, row, acr in pd.read_csv(PAPER)[["sigma", "row", "mean"]].itertuples(index=False):
        found.setdefault(sigma, {})[row] = acr
    return found


def taus(cells: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b with Table 5 of each training, all of whose rows are there: by the mean ACR of the seeds that all rows have.

    Raises:
        ValueError: a training stands twice.
    """
    published, lines = paper(), []
    for keys, found in cells.groupby([*TRAINING, "sigma"], sort=False):
        theirs, others = published.get(keys[-1], {}), found[found["row"] != "macer"]
        for deferral, macer in found[found["row"] == "macer"].groupby("deferral", sort=False, dropna=False):
            rows = pd.concat([others, macer]).pivot(index="seed", columns="row", values="ACR")
            if set(rows) != set(theirs) or rows.dropna().empty:
                continue
            own = rows.dropna().mean().to_dict()
            tau, but_macer = (
                kendalltau([own[row] for row in names], [theirs[row] for row in names]).statistic
                for names in (list(own), [row for row in own if row != "macer"])
            )
            lines.append((*keys[:-1], deferral, keys[-1], " ".join(map(str, rows.dropna().index)), tau, but_macer))
    return pd.DataFrame(lines, columns=[*TRAINING, "deferral", "sigma", "seeds", "tau", "but MACER"]).sort_values(["sigma", *TRAINING])


def train_and_certify(cell: Cell, words: argparse.Namespace, held_out: range, data: Images) -> tuple[float, float]:
    """Accuracy and ACR on the images that are held out, and left out of the training."""
    info, device = DATASETS["mnist"], torch.device(words.device)
    trainer = Trainer(cell.spec, cell.method, info, data, device)
    trainer.chosen = trainer.chosen[~torch.isin(trainer.chosen, torch.tensor(held_out))]
    trainer.per_epoch = -(-len(trainer.chosen) // cell.spec.train.batch)
    trainer.total = trainer.per_epoch * cell.spec.train.epochs
    sampler = Sampler(trainer.run(lambda trainer: None), cell.spec.sigma, info.classes, seed=1)
    right, radii = 0, 0.0
    for index in held_out:
        label = int(data.labels[index])
        row = sampler.certify(data.images(torch.tensor([index], device=device))[0], index, label, N0, words.n)
        if row.selected == label:
            right += 1
            radii += certified_radius(row.count, words.n, ALPHA, cell.spec.sigma) or 0.0
    return right / len(held_out), radii / len(held_out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="gaussian,consistency,macer", help="with commas between; all: the nine of Table 5")
    parser.add_argument("--sigmas", default="0.25,1.0")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--training", action="append", help=f"what differs from `quick`, of {', '.join(TRAINING)}; may be repeated")
    parser.add_argument("--deferral", type=int, help="of MACER, in epochs of the recipe's clock of 90")
    parser.add_argument(
        "--held-out", default="1:60000:300", help="training images, first:end:step; odd ones, since `quick` takes the even ones"
    )
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tau", metavar="CSV", help="of trainings that are there; nothing is trained")
    words = parser.parse_args()
    if words.tau:
        print(taus(pd.read_csv(words.tau)).round(2).to_string(index=False))
        return
    held_out = range(*map(int, words.held_out.split(":")))
    rows = tuple(paper()[0.25] if words.rows == "all" else words.rows.split(","))
    sigmas, seeds = tuple(map(float, words.sigmas.split(","))), tuple(map(int, words.seeds.split(",")))
    trainings = [dict(part.partition("=")[::2] for part in training.split(",")) for training in words.training or DEFAULT]
    if unknown := sorted({*rows} - {*paper()[0.25]}) + sorted({name for one in trainings for name in one} - {*TRAINING}):
        parser.error(f"{unknown[0]} is no row of Table 5 and none of {', '.join(TRAINING)}")
    data = load("mnist", "train").to(torch.device(words.device))
    print(",".join(COLUMNS))
    for cell in make_plan(Request(methods=rows, sigmas=sigmas, seeds=seeds), Registry()).cells:
        if words.deferral is not None and cell.spec.method == "macer":
            cell = dataclasses.replace(cell, method=replace_checked(cell.method, {"deferral": words.deferral}, "--deferral")[0])
        for training in trainings:
            train, problems = replace_checked(cell.spec.train, training, "--training")
            if problems:
                sys.exit("; ".join(problems))
            one = dataclasses.replace(cell, spec=dataclasses.replace(cell.spec, train=train))
            accuracy, acr = train_and_certify(one, words, held_out, data)
            how = [*(str(getattr(train, name)) for name in TRAINING), str(getattr(cell.method, "deferral", ""))]
            row = cell.spec.row
            print(*how, row, cell.spec.sigma, cell.spec.seed, words.device, f"{accuracy:.4f}", f"{acr:.4f}", sep=",", flush=True)


if __name__ == "__main__":
    main()
