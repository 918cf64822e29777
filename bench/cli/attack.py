"""`bench attack`: PGD against a smoothed classifier, beside its certificates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench.cli.command import CERTIFICATION, OUTPUT, option
from bench.cli.common import check_out, check_value, existing_folder, numbers, print_json, refuse, stop, use_plugins, write_file
from bench.cli.exchange import finished_certification
from bench.errors import BenchError, counted
from bench.spec import select_images

if TYPE_CHECKING:
    from bench.certify.attack import Attacked, AttackSpec, Outcome
    from bench.evidence.certificate import Certificate
    from bench.store.runs import Run
    from bench.store.subject import Certification

COLUMNS = ("index", "label", "certified", "radius", "eps", "distance", "predict")


def attack(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Key or folder of a run with weights; `bench list runs` shows the keys.")],
    eps: Annotated[list[str], option("--eps", "R", "L2 radii of the attack, in pixels of [0, 1], such as 0.5,1.")],
    images: Annotated[str, option("--images", "WHICH", "Of the certified images: all, every:100, 0-499, ...")] = "all",
    steps: Annotated[int, option("--steps", "N", "Gradient steps, each of length 2 eps / steps.", "Attack")] = 20,
    samples: Annotated[int, option("--samples", "N", "Noise samples of each gradient.", "Attack")] = 128,
    restarts: Annotated[int, option("--restarts", "N", "Additional starts from random points of the ball.", "Attack")] = 0,
    n: Annotated[int, option("--n", "N", "Samples that evaluate the attacked image.", CERTIFICATION)] = 1000,
    alpha: Annotated[float, option("--alpha", "A", "Failure probability of a prediction and of a certificate.", CERTIFICATION)] = 0.001,
    seed: Annotated[int, option("--seed", "N", "Seed of all noise.", CERTIFICATION)] = 0,
    certification: options.Certification = None,
    device: options.Device = "auto",
    csv: Annotated[Path | None, option("--csv", "FILE", "Write one line per image and radius to this file.", OUTPUT)] = None,
    results: options.Results = Path("results/runs"),
    plugin: options.Models = None,
    as_json: options.Json = False,
) -> None:
    """Attack a smoothed classifier with PGD; its robust accuracy lies between attack and certificate.

    Exit codes: 0 done; 1 the class changed inside certified radii more often than alpha allows; 2 usage.
    """
    problems: list[str] = []
    radii = numbers(eps, "--eps", problems)
    check_value(images, lambda text: select_images(text, 1), problems)
    check_out(csv, "attack.csv", problems, "--csv")
    refuse(problems)
    if not Path(run).is_dir():
        existing_folder(results)

    use_plugins(plugin, "data set", "network")

    from bench.certify.attack import AttackSpec
    from bench.store.runs import Store

    try:
        spec = AttackSpec(eps=tuple(radii), steps=steps, samples=samples, restarts=restarts, n=n, alpha=alpha, seed=seed)
    except ValueError as error:
        stop([f"--{error}"])

    found, taken, outcome = _attack(Store(results).find(run), certification, images, spec, device)
    if csv is not None:
        write_file(csv, "--csv", _csv(outcome.attacked).encode())
    if as_json:
        print_json(_as_json(found, taken, spec, outcome))
    else:
        _print(found, images, taken, spec, outcome)
        if csv is not None:
            typer.echo(f"wrote {csv}")
    raise typer.Exit(int(outcome.refuted))


def _attack(run: Run, key: str | None, images: str, spec: AttackSpec, device: str) -> tuple[Certification, list[Certificate], Outcome]:
    """Attacks those of the certified images that were chosen; the certification, its rows of these, and what came of it.

    Raises:
        BenchError: no such certification or images, one that is not finished, or weights that are not there.
    """
    import torch

    from bench import rules
    from bench.api.progress import counting
    from bench.certify.attack import attack
    from bench.data import load
    from bench.matrix.resume import load_weights
    from bench.matrix.task import pick_device

    found, every = finished_certification(run, key)
    chosen = select_images(images, run.info.test_size)
    rows = [row for row in every if row.index in chosen]
    if not rows:
        raise BenchError(f"--images {images} has none of the certified images, which are {found.spec.images}")
    rule = rules.of(found.spec)
    rule.check(spec.alpha)
    place = pick_device(device)
    model = load_weights(run, (run.training() or {}).get("weights_sha256", ""), place)
    pixels = load(run.spec.dataset, "test").images(torch.tensor([row.index for row in rows])).to(place)
    with counting(run.name, "attacking") as progress:
        return found, rows, attack(model, pixels, rows, run.spec.sigma, run.info.classes, spec, rule, progress)


def _csv(attacked: Sequence[Attacked]) -> str:
    """One line per image and radius; classes and counts of the evaluation stand in the last column as `class:count`, parted by spaces."""
    lines = [",".join((*COLUMNS, "counts"))]
    for item in sorted(attacked, key=lambda item: (item.index, item.eps)):
        radius = "" if item.radius is None else repr(item.radius)
        counts = " ".join(f"{c}:{k}" for c, k in sorted(item.counts.items()))
        values = (item.index, item.label, item.certified, radius, item.eps, f"{item.distance:.6g}", item.predict, counts)
        lines.append(",".join(map(str, values)))
    return "\n".join(lines) + "\n"


def _as_json(found: Certification, rows: Sequence[Certificate], spec: AttackSpec, outcome: Outcome) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "run": found.subject.spec.key,
        "certification": found.spec.key,
        "attack": asdict(spec) | {"rule": found.spec.rule},
        "n": found.spec.n,
        "drawn": _drawn(rows),
        "levels": [asdict(level) | {"upper_bound": 1 - level.broken} for level in outcome.levels],
        "attacked_inside": outcome.inside,
        "contradictions": [asdict(item) for item in outcome.contradictions],
        "p_value": outcome.p_value,
        "refuted": outcome.refuted,
        "images": [asdict(item) for item in outcome.attacked],
    }


def _drawn(rows: Sequence[Certificate]) -> float:
    """Estimation samples per image behind the certificates, the mean."""
    return sum(row.n for row in rows) / len(rows)


def _print(found: Certification, images: str, rows: Sequence[Certificate], spec: AttackSpec, outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    from bench import rules
    from bench.rules.rule import drawn_words

    run = found.subject.spec
    chosen = f"{counted(len(rows), 'image')}: {images} of the certified {found.spec.images}"
    typer.echo(f"{run.row} on {run.dataset}, sigma {run.sigma:g}, seed {run.seed}; {chosen}")
    typer.echo(f"certificates: {rules.of(found.spec).words()}, n = {found.spec.n:,}{drawn_words(found.spec.n, _drawn(rows))}")
    starts = counted(1 + spec.restarts, "start")
    typer.echo(
        f"PGD within [0, 1]: {counted(spec.steps, 'step')} of 2 eps / {spec.steps}, {counted(spec.samples, 'noise sample')}, {starts}; "
        f"evaluated with {counted(spec.n, 'fresh sample')}; alpha {spec.alpha:g}"
    )
    table = Table(box=None, pad_edge=False)
    for name in ("eps", "certified %", "survived %", "undecided %", "at most %", "inside a certificate", "contradictions"):
        table.add_column(name, justify="right")
    for level in outcome.levels:
        shares = (level.certified, level.survived, level.undecided, 1 - level.broken)
        table.add_row(f"{level.eps:g}", *(f"{100 * share:.2f}" for share in shares), str(level.inside), str(level.contradictions))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    typer.echo(
        "robust accuracy lies between `certified` (right, with a radius above eps) and `at most` (no other class was found up to eps);"
    )
    typer.echo("`survived`: the label is predicted at every point that was found up to eps; `undecided`: the prediction abstains at one")
    for item in outcome.contradictions:
        typer.echo(
            f"CONTRADICTION: image {item.index} is certified as class {item.certified} within {item.radius or 0:.4f}, but at distance "
            f"{item.distance:.4f} its samples are {dict(sorted(item.counts.items()))} (p = {item.p_change():.2g})"
        )
    if not outcome.contradictions:
        typer.echo(f"no contradiction in {counted(outcome.inside, 'image')} attacked inside their certified radius")
        return
    contradicted = len({item.index for item in outcome.contradictions})
    typer.echo(
        f"contradicted: {contradicted} of {counted(outcome.inside, 'image')} attacked inside their certified radius; if each is so with"
    )
    verdict = "alpha does not explain it: the certificates are wrong" if outcome.refuted else "alpha explains it"
    typer.echo(f"probability {2 * spec.alpha:g} at most, so many have probability {outcome.p_value:.2g}: {verdict}")
