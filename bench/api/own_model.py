"""Certification of a model that only lives in memory: a class for notebooks.

It is not the smoothed classifier that methods are trained with, which is `bench.smoothing.SmoothedClassifier`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from bench.certify import Sampler
from bench.certify.predict import check_samples, predict
from bench.datasets import DatasetInfo, facts_of
from bench.errors import BenchError, counted
from bench.evidence.columns import Columns
from bench.spec import CertifySpec, TrainSpec, canonical, check_sigma, derive, to_json
from bench.store.checkpoints import Checkpoint, CheckpointSpec, check_row, row_of
from bench.system.environment import describe
from bench.system.guards import as_before
from leaderboard.frame.arguments import level, number, whole
from leaderboard.frame.load import record_of, words_of
from leaderboard.frame.schema import Part, frame_of, images_of_counts
from leaderboard.metrics import outcomes


class SmoothedClassifier:
    """g(x) = the class that a base classifier f most likely gives to x + noise, noise ~ N(0, sigma^2 I), estimated by sampling.

    Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019.

    The model is used where it is (on its own device), in evaluation mode, and in float32; afterwards every module is in the mode it was in,
    and torch's settings and random generators are as before. The same checks as in `bench certify` refuse a model whose answer
    for an image depends on chance or on the other images of its batch.

    Args:
        model: f, maps B C H W, pixels in [0, 1] plus noise, to logits B K. Normalisation belongs in it.
        sigma: noise level in pixels of [0, 1].
        name: of its row in tables, such as `mine.v2`; the name of its class if None.
        batch: samples per forward pass; chosen by image size and device if None. It changes no count.

    Raises:
        BenchError: sigma is not a finite number above 0; a model that is no torch module, not in float32 or on several devices; a bad name.
    """

    def __init__(self, model: nn.Module, sigma: float, *, name: str | None = None, batch: int | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise BenchError(f"model is a {type(model).__name__}, not a torch.nn.Module")
        try:
            check_sigma(number(sigma, "sigma"))
            if name is not None:
                check_row(name)
        except (ValueError, TypeError) as error:
            raise BenchError(str(error)) from None
        self.model, self.sigma, self.name = model, float(sigma), name
        self.batch = None if batch is None else whole(batch, "batch", 1)
        tensors = [*model.parameters(), *model.buffers()]
        if len(devices := {tensor.device for tensor in tensors}) > 1:
            raise BenchError(f"the model lies on {len(devices)} devices ({', '.join(sorted(map(str, devices)))}); move it to one")
        if others := sorted({str(t.dtype) for t in tensors if t.is_floating_point()} - {"torch.float32"}):
            raise BenchError(f"the model holds {', '.join(others)}, and certification runs in float32; call model.float() first")

    def certify(
        self, images: Tensor | ArrayLike, labels: Tensor | ArrayLike, *, n: int = 10_000, n0: int = 100, alpha: float = 0.001, seed: int = 0
    ) -> pd.DataFrame:
        """Certified radii of images (procedure CERTIFY).

        The noise of an image is keyed by the seed and its place, so that the same call gives the same counts.

        Args:
            images: B C H W, tensor or array of floats in [0, 1].
            labels: B, true classes as whole numbers from 0 up.
            n: samples that count the class; the field uses 100,000. n0: samples that choose it.
            alpha: chance that one certificate is wrong, in (0, 1/2).
            seed: of the noise.

        Returns:
            a row per image, with the columns of `bench.load_results`; `summary`, `table`, `plot_curves` and `pandas.concat` take it.
            `source` is model. `dataset` is a name made of the images' content, so only models certified on the same images share a table.

        Raises:
            BenchError: images, labels or numbers out of range; a model that is refused (see above), or whose logits are not finite.
        """
        x, y = _images(images), _labels(labels)
        if len(y) != len(x):
            raise BenchError(f"there are {counted(len(x), 'image')} and {counted(len(y), 'label')}")
        alpha, n, n0, seed = level(alpha), whole(n, "n", 1), whole(n0, "n0", 1), whole(seed, "seed")
        try:
            spec = CertifySpec(n0=n0, n=n, seed=seed)
        except ValueError as error:
            raise BenchError(str(error)) from None
        with self._sampling(x, seed) as (sampler, device):
            if (wrong := y[(y < 0) | (y >= sampler.classes)]).size:
                raise BenchError(f"label {wrong[0]} is not a class of the model, which has 0 to {sampler.classes - 1}")
            certification = describe(device, {}, {}) | {"precision": sampler.arithmetic(x[0].to(device))}
            rows = [sampler.certify(image.to(device), index, int(y[index]), n0, n) for index, image in enumerate(x)]
            weights = _digest(*(part for name, t in sorted(self.model.state_dict().items()) for part in (name.encode(), _bytes(t))))
        columns = Columns.of(rows)
        o = outcomes(columns, alpha, self.sigma, spec)
        subject = self._subject(x, y, weights, sampler.classes)
        record = record_of(subject) | {"folder": str(subject.path), "certify": to_json(spec), "certified": certification}
        record |= {"labels": True, "bound": True, "finding": ""}
        own = {"source": "model", "status": "evidence", "rule": spec.rule, "alpha": alpha, "certification": spec.key}
        constants = words_of(subject) | own | {"record": canonical(record)}
        return frame_of([Part(constants=constants, images=images_of_counts(columns, o))], {})

    def predict(self, images: Tensor | ArrayLike, *, n: int = 1_000, alpha: float = 0.001, seed: int = 0) -> NDArray[np.int64]:
        """The class of each image, or -1 for abstain (procedure PREDICT, with the two-sided test of Hung and Fithian).

        Args:
            images: B C H W, tensor or array of floats in [0, 1].
            n: samples per image. alpha: chance that another class than that of g is returned, at most; in (0, 1/2).
            seed: of the noise, which is not that of `certify`.

        Returns:
            B classes; -1 where the samples do not tell.

        Raises:
            BenchError: as `certify`; so few samples that every image would abstain.
        """
        alpha, n, seed = level(alpha), whole(n, "n"), whole(seed, "seed")
        try:
            check_samples(n, alpha)
        except BenchError as error:  # in the words of the command
            raise BenchError(str(error).removeprefix("--")) from None
        x = _images(images)
        with self._sampling(x, derive(seed, "predict")) as (sampler, device):
            found = [predict(sampler, image.to(device), index, 0, n, alpha).predict for index, image in enumerate(x)]
        return np.array([-1 if c is None else c for c in found], dtype=np.int64)

    @contextlib.contextmanager
    def _sampling(self, x: Tensor, seed: int) -> Iterator[tuple[Sampler, torch.device]]:
        """A sampler of the model, and its device; the model and torch are put back afterwards."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        device = tensors[0].device if tensors else x.device
        modes = [(module, module.training) for module in self.model.modules()]
        with as_before():
            try:
                self.model.eval()
                with torch.inference_mode():
                    logits = self.model(x[:1].expand(2, *x.shape[1:]).to(device))
                if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 2:
                    told = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
                    raise BenchError(f"the model gave {told} for 2 images; it must give 2 x K")
                yield Sampler(self.model, self.sigma, logits.shape[1], seed, self.batch), device
            finally:
                for module, training in modes:
                    module.training = training

    def _subject(self, x: Tensor, y: NDArray[np.int64], weights: str, classes: int) -> Checkpoint:
        """What tables call the model, and the images it was certified on."""
        kind, (channels, height, width) = type(self.model).__name__, x.shape[1:]
        info = DatasetInfo(
            name=f"images-{_digest(str(tuple(x.shape)).encode(), _bytes(x), y.tobytes())[:8]}",
            summary="images of a notebook",
            classes=max(2, classes),
            shape=(channels, height, width),
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            train_size=len(x),
            test_size=len(x),
            sigmas=(self.sigma,),
            train=TrainSpec(arch="none", epochs=1, clock=1, batch=1, lr=1.0, lr_step=1),
        )
        spec = CheckpointSpec(dataset=info.name, sigma=self.sigma, arch=kind, normalization="none", weights_sha256=weights)
        origin = {"name": self.name or row_of(kind), "tensors_sha256": weights} | ({"row": self.name} if self.name else {})
        records = {"dataset.json": facts_of(info), "origin.json": origin}
        place = Path(f"a {kind} in memory, {origin['name']} {spec.key}")  # tables keep what they read of a subject by its place
        return Checkpoint(place, spec, records | {"": dict.fromkeys(records, "file")})


def _images(values: Any) -> Tensor:
    try:
        x = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError) as error:
        raise BenchError(f"images are no array of numbers: {error}") from None
    if x.ndim != 4 or not x.numel():
        raise BenchError(f"images have shape {tuple(x.shape)}, not B C H W with at least one image; one image is images[None]")
    if not x.is_floating_point():
        raise BenchError(f"images are {x.dtype}, not floats in [0, 1]; divide bytes by 255")
    x = x.float()
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise BenchError(
            f"pixels reach from {float(x.min()):g} to {float(x.max()):g}, not within [0, 1]; normalisation belongs in the model"
        )
    return x


def _labels(values: Any) -> NDArray[np.int64]:
    y = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise BenchError(f"labels are {y.dtype} of shape {y.shape}, not a list of whole numbers")
    return y.astype(np.int64)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _digest(*parts: bytes) -> str:
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()
