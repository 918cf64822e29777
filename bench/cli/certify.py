"""`bench certify` and `bench predict`: numbers for anyone's base classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import bench.cli.options as options
from bench import rules
from bench.cli.command import CERTIFICATION, OUTPUT, option
from bench.cli.common import check_alpha, check_folder, check_out, check_value, plain, print_json, refuse, say, use_plugins, write_file
from bench.cli.data import DataDir, check_data_dir
from bench.cli.outcome import typed
from bench.errors import BenchError, Interrupted, counted

if TYPE_CHECKING:
    from bench.certify.predict import Prediction
    from bench.checkpoints.check import Accuracy
    from bench.evidence.certificate import Certificate
    from bench.rules.rule import Rule
    from bench.spec import CertifySpec
    from bench.store.subject import Certification

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A weights file (.pth, .pt, .tar or .safetensors), a run's key or folder, a network of --plugin, or module:factory.",
    ),
]
Dataset = Annotated[str | None, option("--dataset", "NAME", "Whose test images. Default: the run's.")]
Sigma = Annotated[float | None, option("--sigma", "S", "Noise level, in pixels of [0, 1]. Default: the run's.")]
Alpha = Annotated[float, option("--alpha", "A", "Failure probability of the answer for one image.", CERTIFICATION)]
Images = Annotated[str, option("--images", "WHICH", "Test images: all, every:100, 0-499 or 5000-9999:20.", CERTIFICATION)]
Seed = Annotated[int, option("--seed", "N", "Seed of the noise.", CERTIFICATION)]
Arch = Annotated[
    str | None, option("--arch", "NAME", "Network of the suite, of timm or of --plugin, or module:factory. Default: what the file says.")
]
NormalizeOption = Annotated[
    str | None,
    option(
        "--normalize",
        "HOW",
        "What pixels are normalised by, if the file does not hold it: dataset, timm, none, or MEAN/STD such as 0.1307/0.3081.",
    ),
]
Tsv = Annotated[Path | None, option("--tsv", "FILE", "Also write one line per image to this file.", OUTPUT)]
HUGE = 4.0
"""Noise in pixels of [0, 1] that nobody means; the field's largest is 1."""


def certify(
    checkpoint: Checkpoint,
    dataset: Dataset = None,
    sigma: Sigma = None,
    n: Annotated[int, option("--n", "N", "Samples per image that estimate the class's probability.", CERTIFICATION)] = 100_000,
    n0: Annotated[int, option("--n0", "N", "Samples per image that select the class.", CERTIFICATION)] = 100,
    alpha: Alpha = 0.001,
    rule: Annotated[
        str,
        option(
            "--rule", "NAME", f"Bound that turns counts into radii, and when sampling stops: {', '.join(rules.names())}.", CERTIFICATION
        ),
    ] = rules.DEFAULT,
    radii: Annotated[
        str | None,
        option("--radii", "LIST", "Radii such as 0,0.5,1 for a rule that certifies only given ones. Default: the paper's.", CERTIFICATION),
    ] = None,
    skip_misclassified: options.SkipMisclassified = False,
    images: Images = "all",
    seed: Seed = 0,
    arch: Arch = None,
    normalize: NormalizeOption = None,
    row: Annotated[
        str | None,
        option(
            "--row",
            "NAME",
            "Row of this checkpoint in tables; checkpoints of one row are averaged. Default: a row of its own, named like the file.",
            OUTPUT,
        ),
    ] = None,
    device: options.Device = "auto",
    results: options.Results = Path("results/runs"),
    plugin: options.Models = None,
    tsv: Tsv = None,
    data_dir: DataDir = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Certify a model by randomized smoothing: your own, a published checkpoint, or a run.

    Run the same command again to resume. The evidence goes into DIR/checkpoints, or into the run if CHECKPOINT is one. --tsv writes a
    log as the field does: idx, label, predict, radius, correct and time, then our count and n; radii are rounded down. module:factory
    names a function of yours that returns the network for pixels of [0, 1]; it is imported and run with your rights.

    Exit codes: 0 done, 2 usage or a checkpoint that is refused, 128 + signal when interrupted (130 for Ctrl-C).
    """
    job = _Job(locals())
    job.certify(rule, {"n0": n0, "n": n, "seed": seed, "skip_misclassified": skip_misclassified, "radii": radii or ""})


def predict(
    checkpoint: Checkpoint,
    dataset: Dataset = None,
    sigma: Sigma = None,
    n: Annotated[int, option("--n", "N", "Samples per image.", CERTIFICATION)] = 1_000,
    alpha: Alpha = 0.001,
    images: Images = "all",
    seed: Seed = 0,
    arch: Arch = None,
    normalize: NormalizeOption = None,
    device: options.Device = "auto",
    results: options.Results = Path("results/runs"),
    plugin: options.Models = None,
    tsv: Tsv = None,
    data_dir: DataDir = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Predict the class of test images with the smoothed classifier, or abstain.

    --tsv writes idx, label, predict (-1: abstained), correct and counts (class:samples). Nothing else is kept.

    Exit codes: 0 done, 2 usage or a checkpoint that is refused, 128 + signal when interrupted (130 for Ctrl-C).
    """
    _Job(locals()).predict(n, seed)


class _Job:
    """What both commands know once their flags are read."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        """Checks the flags, reports all that is wrong with them at once, then reads the checkpoint.

        Args:
            said: the flags of the command, by name.
        """
        from bench.spec import check_sigma, select_images
        from bench.store.checkpoints import check_row

        self.alpha: float = said["alpha"]
        self.images: str = said["images"]
        self.results: Path = said["results"]
        self.tsv: Path | None = said["tsv"]
        self.data_dir: Path | None = said["data_dir"]
        self.row: str | None = said.get("row")
        self.as_json: bool = said["as_json"]
        problems: list[str] = []
        check_folder(self.results, problems)
        check_data_dir(self.data_dir, problems)
        check_out(self.tsv, "log.tsv", problems, "--tsv")
        check_alpha(self.alpha, problems)
        check_value(self.images, lambda text: select_images(text, 1), problems)
        check_value(said["sigma"], check_sigma, problems)
        check_value(self.row, check_row, problems)
        refuse(problems)

        from rich.console import Console

        from bench.checkpoints.load import Wanted, load
        from bench.data import load as load_data
        from bench.matrix.task import pick_device

        self.console = Console(stderr=self.as_json, quiet=said["quiet"], highlight=False, soft_wrap=True, emoji=False)
        self.progress = Console(stderr=True, quiet=said["quiet"], highlight=False, soft_wrap=True, emoji=False)
        self.device = pick_device(said["device"])
        registry = use_plugins(said["plugin"], "data set", "network")
        names = ("dataset", "sigma", "arch", "normalize", "results")
        self.base = load(Wanted(word=said["checkpoint"], **{name: said[name] for name in names}))
        info = self.base.info
        self.indices = select_images(self.images, info.test_size)
        if not self.indices:
            raise BenchError(f"--images {self.images} selects none of the {info.test_size} test images of {info.name}")
        self.data = load_data(info.name, "test", self.data_dir)
        self.sources: dict[str, Any] = registry.used(self.base.arch, info.name) if registry else {}

    def say(self, text: str) -> None:
        self.console.print(plain(text), markup=False)

    def introduce(self) -> Accuracy:
        """Says what was understood of the checkpoint, and warns where its accuracy makes no sense."""
        from bench.checkpoints.check import accuracy, warnings

        base = self.base
        self.say(f"{base.name}: {base.arch} for {base.info.name}, normalisation {base.normalization}, sigma {base.sigma:g}")
        if base.told:
            self.say(f"read: {base.told}")
        if base.sigma >= HUGE:
            scaled = f"{base.sigma:g}/255 is {base.sigma / 255:.3g}"
            say(f"bench: warning: sigma is in pixels of [0, 1], and {base.sigma:g} drowns every image; {scaled}", err=True)
        found = accuracy(base, self.data, self.device)
        self.say(f"base classifier: accuracy {found} at sigma {base.sigma:g}, on {counted(found.images, 'test image')}")
        for warning in warnings(base, found, self.data, self.device):
            say(f"bench: warning: {warning}", err=True)
        return found

    def certify(self, name: str, settings: dict[str, Any]) -> None:
        from bench.api.progress import Show
        from bench.cli.exchange import check_log, log_of
        from bench.executors.here import Numbered
        from bench.matrix.cells import certify as certify_images
        from bench.matrix.task import Options
        from bench.models import place
        from bench.spec import CertifySpec
        from bench.store.checkpoints import Checkpoint as CertifiedElsewhere
        from bench.system.signals import StopSignals
        from leaderboard import layouts

        try:
            chosen = rules.named(name)
            if chosen.stops:
                settings["stop_alpha"] = self.alpha
            if chosen.takes_radii and not settings["radii"]:
                settings["radii"] = ",".join(layouts.of_dataset(self.base.info.name).radii)
            if reason := rules.needless_radii(name, settings["radii"]):
                raise ValueError(reason)
            spec = CertifySpec(images=self.images, rule=chosen.stored_as, **settings)
        except ValueError as error:
            raise BenchError(f"--{error}") from None
        rule = rules.of(spec, name)
        rule.check(self.alpha)
        if reason := rule.too_few(self.alpha, self.base.sigma):
            raise BenchError(f"--n {spec.n}: {reason}")
        if self.tsv:
            check_log(spec)
        certification, sources = self._certification(spec)
        run = certification.subject
        if self.row and not isinstance(run, CertifiedElsewhere):
            raise BenchError(f"--row {self.row}: {run.path} is a run of the suite, whose row is {run.row}; leave out --row")
        found = self.introduce()
        with run.claimed():
            if isinstance(run, CertifiedElsewhere):
                run.begin()
                before, now = run.keep(self.base.weights, self.base.name, self.row), run.origin()
                if now.row:
                    self.say(f"row {now.row} of tables" + (f"; it was {before.label} before" if before and before.label != now.row else ""))
            expected, rows = certification.expected(), certification.rows()
            self.say(f"{len(rows)} of {counted(len(expected), 'image')} done")
            model, options = place(self.base.model, self.device), Options(device=self.device, data_dir=self.data_dir)
            with StopSignals().installed() as signals, Show(self.progress, [self.base.name], [{"certifying": 1.0}]) as show:
                show.begin(0)
                try:
                    certify_images(certification, model, sources, options, Numbered(show, 0), signals)
                except Interrupted:
                    kept = len(certification.columns())
                    done = f"{kept} of {counted(len(expected), 'image')} certified and kept"
                    self.say(f"interrupted; {done}. Run the same command again to resume:")
                    self.say(f"  {typed()}")
                    raise
            rows = certification.rows()
        if self.tsv:
            write_file(self.tsv, "--tsv", log_of(certification, rows, self.alpha))
        self._report(certification, rule, rows, found)

    def _certification(self, spec: CertifySpec) -> tuple[Certification, dict[str, Any]]:
        """Where the evidence goes, and what is recorded of the code that made the classifier."""
        from bench.store.checkpoints import CheckpointSpec
        from bench.store.runs import Store

        base, run, store = self.base, self.base.run, Store(self.results)
        if run and (run.spec.dataset, run.spec.sigma) == (base.info.name, base.sigma):
            known = ("method_sha256", "method_code_sha256", "network_code_sha256", "plugins")
            return run.certification(spec), {name: value for name, value in (run.environment() or {}).items() if name in known}
        own = CheckpointSpec(
            dataset=base.info.name,
            sigma=base.sigma,
            arch=base.arch,
            normalization=str(base.normalization),
            weights_sha256=base.sha256,
            code_sha256=base.code_sha256,
        )
        earlier = dataclasses.replace(own, source_sha256=base.source_sha256, code_sha256="")
        if base.source_sha256 and store.checkpoint(earlier).path.exists():
            own = earlier  # begun by a release that hashed the whole text
        code = {"network_code_sha256": base.code_sha256} if base.code_sha256 else {}
        return store.checkpoint(own).certification(spec), code | self.sources

    def _report(self, certification: Certification, rule: Rule, rows: list[Certificate], found: Accuracy) -> None:
        from bench.files.writing import sha256
        from bench.rules.rule import drawn_words
        from leaderboard import metrics

        base, spec, run = self.base, certification.spec, certification.subject
        o = metrics.outcomes(certification.columns(), self.alpha, base.sigma, spec, rule.name)
        largest, step = rule.largest_radius(self.alpha, base.sigma), 0.25 if base.sigma <= 0.5 else 0.5
        radii = rule.given_radii or [k * step for k in range(1 + int(largest / step))]
        accuracies = {f"{r:.2f}" if round(r, 2) == r else repr(r): metrics.certified_accuracy(o, r) for r in radii}
        acr = None if rule.acr == "none" else metrics.average_certified_radius(o)
        abstained = metrics.abstention_rate(o)
        if self.as_json:
            own: dict[str, Any] = {"row": run.row, "weights_sha256": sha256(run.weights)}
            own |= {"images": len(rows), "sigma": base.sigma, "alpha": self.alpha, "n0": spec.n0, "n": spec.n, "drawn": o.drawn}
            own |= {"rule": rule.name, "largest_radius": largest, "ACR": acr, "abstention": abstained, "certified_accuracy": accuracies}
            base_accuracy = {"clean": found.clean, "noisy": found.noisy, "images": found.images}
            print_json({"evidence": str(certification.evidence), **own, "base_accuracy": base_accuracy})
            return
        self.say(
            f"certified {len(rows)} of {base.info.test_size} test images ({spec.images}): sigma {base.sigma:g}, n0 {spec.n0}, "
            f"n {spec.n}{drawn_words(spec.n, o.drawn)}, {rule.words()}, alpha {self.alpha:g}, seed {spec.seed}"
        )
        told = "abstention unknown, since misclassified images were skipped" if abstained is None else f"abstained on {abstained:.2%}"
        told += f"; {counted(o.samples, 'sample', ',.0f')} per image" if o.samples else ""
        self.say(f"{'no ACR' if acr is None else f'ACR {acr:.4f}'}; {told}; largest possible radius {largest:.4f}")
        if rule.acr_note:
            self.say(rule.acr_note)
        self.say("radius              " + "".join(f"{r:>8}" for r in accuracies))
        self.say("certified accuracy %" + "".join(f"{100 * value:>8.2f}" for value in accuracies.values()))
        self.say(f"evidence in {certification.path}" + (f", log in {self.tsv}" if self.tsv else ""))

    def predict(self, n: int, seed: int) -> None:
        import torch

        from bench.api.progress import counting
        from bench.certify import Sampler
        from bench.certify import predict as procedure
        from bench.models import place
        from bench.spec import derive, normal
        from bench.system.signals import StopSignals

        procedure.check_samples(n, self.alpha)
        self.introduce()
        base, total = self.base, len(self.indices)
        # Noise of its own, so that predictions and certificates of one seed share none.
        sampler = Sampler(place(base.model, self.device), base.sigma, base.info.classes, derive(seed, "predict"))
        rows: list[Prediction] = []
        try:
            with StopSignals().installed() as signals, counting(base.name, "predicting", self.progress) as progress:
                for index in self.indices:
                    signals.check()
                    image = self.data.images(torch.tensor([index]))[0].to(self.device)
                    rows.append(procedure.predict(sampler, image, index, int(self.data.labels[index]), n, self.alpha))
                    progress(len(rows), total)
        except Interrupted:
            kept = f"; they are in {self.tsv}" if self.tsv and rows else ""
            self.say(f"interrupted after {len(rows)} of {counted(total, 'image')}{kept}. Run the same command again to start over:")
            self.say(f"  {typed()}")
            raise
        finally:
            if self.tsv and rows:
                write_file(self.tsv, "--tsv", procedure.write(rows))
        right = sum(row.correct for row in rows) / total
        abstained = sum(row.predict is None for row in rows) / total
        if self.as_json:
            facts = {"images": total, "sigma": base.sigma, "alpha": self.alpha, "n": n}
            print_json(facts | {"accuracy": right, "abstention": abstained})
            return
        chosen = f"predicted {total} of {base.info.test_size} test images ({normal(self.images)})"
        self.say(f"{chosen}: sigma {base.sigma:g}, n {n}, alpha {self.alpha:g}")
        self.say(f"right on {right:.2%}, abstained on {abstained:.2%}, wrong on {1 - right - abstained:.2%}")
        if self.tsv:
            self.say(f"predictions in {self.tsv}")
