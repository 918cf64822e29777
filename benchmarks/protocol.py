"""Why protocol quick has the batch and the learning rate that it has: trainings compared on held-out training images.

No test image is looked at. Trains on every second training image, as `quick` does, and evaluates the smoothed classifier on
200 of the others: accuracy of the class that most of 100 noisy copies give, and the ACR that those counts certify.

    python benchmarks/protocol.py
"""

from __future__ import annotations

import argparse
import dataclasses

import torch

from bench.certify import Sampler
from bench.data import load
from bench.datasets import DATASETS
from bench.matrix.plan import Request, make_plan
from bench.registry import Registry
from bench.rules.bounds import certified_radius
from bench.train.loop import Trainer

METHODS = ("gaussian", "consistency", "macer")
SIGMAS = (0.25, 1.0)
SETTINGS = ((32, 0.01), (32, 0.02), (32, 0.05), (64, 0.02), (64, 0.05))  # images per step, first learning rate
HELD_OUT = range(1, 60_000, 300)  # odd: `every:2` takes the even ones
N0, N, ALPHA = 100, 500, 0.001


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    info, data, device = DATASETS["mnist"], load("mnist", "train"), torch.device("cpu")
    print(f"n0={N0}, n={N}, alpha={ALPHA}, {len(HELD_OUT)} held-out training images, seed 0")
    print(f"{'method':<12} {'sigma':>5} {'batch':>5} {'lr':>5} {'accuracy':>9} {'ACR':>7}")
    for cell in make_plan(Request(methods=METHODS, sigmas=SIGMAS), Registry()).cells:
        for batch, lr in SETTINGS:
            spec = dataclasses.replace(cell.spec, train=dataclasses.replace(cell.spec.train, batch=batch, lr=lr))
            model = Trainer(spec, cell.method, info, data, device).run(lambda trainer: None)
            sampler = Sampler(model, spec.sigma, info.classes, seed=1)
            right, radii = 0, 0.0
            for index in HELD_OUT:
                label = int(data.labels[index])
                row = sampler.certify(data.images(torch.tensor([index]))[0], index, label, N0, N)
                right += row.selected == label
                if row.selected == label:
                    radii += certified_radius(row.count, N, ALPHA, spec.sigma) or 0.0
            count = len(HELD_OUT)
            print(f"{spec.method:<12} {spec.sigma:>5g} {batch:>5} {lr:>5g} {right / count:>9.3f} {radii / count:>7.4f}", flush=True)


if __name__ == "__main__":
    main()
