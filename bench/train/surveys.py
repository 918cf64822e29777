"""Surveys of the training images: when they are asked, what was found, and who keeps it.

A survey is counted between two steps of a training. Its noise is keyed by the run's seed, the survey, the epoch and the image, so that it
draws nothing from the training's own generators, and one that was interrupted goes on where it was.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.certify import Sampler
from bench.data import Images
from bench.errors import BenchError
from bench.method import Method, Prior, Survey
from bench.spec import NAME, RunSpec, derive, select_images, survey_limit

CHUNK = 250
"""Images that are counted and kept at a time; one that was interrupted goes on with a whole chunk."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A survey as it is asked once, by the facts that decide its counts; `model` is the SHA-256 of the weights that answer."""

    survey: str
    epoch: int
    copies: int
    votes: bool
    augment: str
    images: str
    sigma: float
    seed: int
    model: str


@dataclass(frozen=True, eq=False)
class Answers:
    """What a survey found, for the images that are trained on, in their order; sparse, for most classes of most images have no vote.

    Attributes:
        places: of these images in the training set.
        starts: where each image's votes begin, and at last where they end: N + 1. classes, counts: of each vote.
        right: share of right answers of each image, N (float64).
        width: classes of the data set; 0 where right answers alone were counted.
    """

    places: range
    copies: int
    starts: Tensor
    classes: Tensor
    counts: Tensor
    right: Tensor
    width: int

    @classmethod
    def of(cls, places: range, copies: int, labels: Tensor, rows: list[Mapping[int, int]], width: int) -> Answers:
        """From each image's votes, class -> count. width: as the attribute."""
        sizes = torch.tensor([0, *map(len, rows)])
        classes = torch.tensor([c for row in rows for c in row], dtype=torch.int64)
        counts = torch.tensor([k for row in rows for k in row.values()], dtype=torch.int64)
        right = torch.tensor([row.get(y, 0) for row, y in zip(rows, labels.tolist(), strict=True)], dtype=torch.float64) / copies
        return cls(places, copies, sizes.cumsum(0), classes, counts, right, width)

    def rows(self, index: Tensor) -> Tensor:
        """The shares of images by their places in the training set: B -> B K, or B where right answers alone were counted."""
        at = (index - self.places.start) // self.places.step
        if not self.width:
            return self.right[at].float()
        begins, sizes = self.starts[at], self.starts[at + 1] - self.starts[at]
        row = torch.arange(len(at)).repeat_interleave(sizes)
        vote = torch.arange(len(row)) + (begins - sizes.cumsum(0) + sizes)[row]
        found = torch.zeros(len(at), self.width, dtype=torch.float64)
        found[row, self.classes[vote]] = self.counts[vote].double() / self.copies
        return found.float()


Counting = Callable[[int], Iterator[list[Mapping[int, int]]]]
"""Votes of the images from a place of their order on, in chunks of `CHUNK`."""


class Keeper(Protocol):
    """Whoever keeps surveys, so that none is counted twice."""

    def keep(self, question: Question, places: range, count: Counting) -> tuple[list[Mapping[int, int]], str]:
        """The votes of every image, from where they are kept or else counted, and the SHA-256 that `recall` asks for.

        Args:
            places: of the images in the training set, in order.
        """

    def recall(self, survey: str, epoch: int, places: range, sha256: str) -> tuple[list[Mapping[int, int]], int]:
        """What `keep` once gave, and the copies of an image.

        Raises:
            BenchError: it is not there any more.
        """


class Memory:
    """Keeps surveys as long as it lives."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], tuple[list[Mapping[int, int]], int]] = {}

    def keep(self, question: Question, places: range, count: Counting) -> tuple[list[Mapping[int, int]], str]:
        place = question.survey, question.epoch
        if place not in self.kept:
            self.kept[place] = [row for chunk in count(0) for row in chunk], question.copies
        return self.kept[place][0], ""

    def recall(self, survey: str, epoch: int, places: range, sha256: str) -> tuple[list[Mapping[int, int]], int]:
        if (survey, epoch) not in self.kept:
            raise BenchError(f"the survey {survey!r} of epoch {epoch} is not at hand")
        return self.kept[survey, epoch]


class Guess:
    """Counts nothing: every class gets all votes, so that steps can be timed."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def keep(self, question: Question, places: range, count: Counting) -> tuple[list[Mapping[int, int]], str]:
        return [dict.fromkeys(range(self.classes), question.copies)] * len(places), ""

    def recall(self, survey: str, epoch: int, places: range, sha256: str) -> tuple[list[Mapping[int, int]], int]:
        raise BenchError(f"the survey {survey!r} was never counted")


@dataclass(frozen=True)
class Witness:
    """A model that answers: f, the noise level that it was trained at, and the SHA-256 of its weights."""

    model: nn.Module
    sigma: float
    sha256: str


class Surveys:
    """The surveys of one training.

    Args:
        places: of the images that are trained on. steps: of the whole training.
        keeper: None: they are kept in memory.
        prior: gives the model of the method's `Prior` when it is first asked; None: there is none.

    Attributes:
        taken: name, epoch and SHA-256 of every survey that was asked, in order. latest: by name, what the last one found.
    """

    def __init__(
        self,
        spec: RunSpec,
        method: Method,
        data: Images,
        classes: int,
        steps: int,
        keeper: Keeper | None = None,
        prior: Callable[[], Witness] | None = None,
    ) -> None:
        self.spec, self.data, self.classes, self.steps, self.prior = spec, data, classes, steps, prior
        self.places, self.keeper = select_images(spec.train.images, len(data)), keeper or Memory()
        self.labels = data.labels.cpu()[torch.tensor(self.places, dtype=torch.int64)]
        self.wanted = checked(method)
        self.taken: list[tuple[str, int, str]] = []
        self.latest: dict[str, Answers] = {}

    def due(self, step: int) -> dict[str, int]:
        """The surveys that are to be asked before a step, and the epoch of each: the last that has come, unless it was asked."""
        if not self.wanted:
            return {}
        now, asked = self.spec.train.clock * step // self.steps, {(name, epoch) for name, epoch, _ in self.taken}
        come = {name: survey.epochs(min(self.spec.train.clock, now + 1)) for name, survey in self.wanted.items()}
        return {name: epochs[-1] for name, epochs in come.items() if epochs and (name, epochs[-1]) not in asked}

    def begun(self, step: int) -> int:
        """The last step up to this one before which a survey was asked; 0 if none was."""
        clock = self.spec.train.clock
        return max((first for _, epoch, _ in self.taken if (first := -(-epoch * self.steps // clock)) <= step), default=0)

    def ask(self, model: nn.Module, step: int) -> None:
        """Asks what is due before a step."""
        for name, epoch in self.due(step).items():
            witness = self._witness(self.wanted[name], model)
            question = self.question(name, epoch, witness.sigma, witness.sha256)
            votes, sha256 = self.keeper.keep(question, self.places, partial(self._count, witness.model, question))
            self.taken.append((name, epoch, sha256))
            self.latest[name] = self._answers(name, votes, question.copies)

    def _witness(self, survey: Survey, model: nn.Module) -> Witness:
        """Who answers a survey. model: the one in training."""
        if survey.of is None or isinstance(self.keeper, Guess):
            return Witness(model, self.spec.sigma, sha256_of(model))
        if self.prior is None:
            raise BenchError(f"{self.spec.method} asks a model of {survey.of.method}, and there is none here")
        return self.prior()

    def question(self, name: str, epoch: int, sigma: float, model: str) -> Question:
        """What is asked. sigma: noise level of the copies. model: SHA-256 of its weights."""
        survey, train = self.wanted[name], self.spec.train
        return Question(
            survey=name,
            epoch=epoch,
            copies=copies_of(survey, self.spec),
            votes=survey.votes,
            augment=train.augment if survey.augmented else "none",
            images=train.images,
            sigma=sigma,
            seed=derive(self.spec.seed, "survey", name, epoch),
            model=model,
        )

    def of(self, index: Tensor, device: torch.device) -> dict[str, Tensor]:
        """By name, what the last survey found of images: `Batch.surveys`. index: their places in the training set, on the CPU."""
        return {name: found.rows(index).to(device) for name, found in self.latest.items()}

    @property
    def passes(self) -> int:
        """Noisy copies that the surveys took so far."""
        return sum(copies_of(self.wanted[name], self.spec) for name, _, _ in self.taken) * len(self.places)

    @property
    def right(self) -> dict[str, Tensor]:
        """By name, the share of right answers of each image in the last survey, N."""
        return {name: found.right for name, found in self.latest.items()}

    def restore(self, taken: list[Any]) -> None:
        """Continues from the `taken` of a checkpoint."""
        self.taken, self.latest = [(str(name), int(epoch), str(sha256)) for name, epoch, sha256 in taken], {}
        for name, epoch, sha256 in {name: (name, epoch, sha256) for name, epoch, sha256 in self.taken}.values():
            self.latest[name] = self._answers(name, *self.keeper.recall(name, epoch, self.places, sha256))

    def _answers(self, name: str, votes: list[Mapping[int, int]], copies: int) -> Answers:
        return Answers.of(self.places, copies, self.labels, votes, self.classes if self.wanted[name].votes else 0)

    def _count(self, model: nn.Module, question: Question, start: int) -> Iterator[list[Mapping[int, int]]]:
        base = copy.deepcopy(model).eval()  # so that no mode, flag or buffer of the one in training changes
        sampler = Sampler(base, question.sigma, self.classes, question.seed)
        order = torch.tensor(self.places, dtype=torch.int64)[start:]
        batches = self.data.batches(order, CHUNK, augment=question.augment, seed=derive(question.seed, "augment"))
        for places, (images, labels) in zip(torch.split(order, CHUNK), batches, strict=True):
            found = sampler.survey(images, places.tolist(), question.copies).cpu()
            if not question.votes:
                found = found.gather(1, labels.cpu().unsqueeze(1))
                yield [{y: k} if k else {} for y, (k,) in zip(labels.tolist(), found.tolist(), strict=True)]
                continue
            yield [{c: k for c, k in enumerate(row) if k} for row in found.tolist()]


def checked(method: Method) -> dict[str, Survey]:
    """The surveys that a method declares.

    Raises:
        BenchError: a name that is none, or what is no survey.
    """
    found = dict(method.surveys())
    for name, survey in found.items():
        if not isinstance(name, str) or not NAME.match(name) or not isinstance(survey, Survey):
            raise BenchError(f"survey {name!r} must be a bench.method.Survey under a name of lower case letters, digits, - and _")
    if len(priors := {survey.of for survey in found.values() if survey.of is not None}) > 1:
        raise BenchError(f"surveys of {' and '.join(sorted(prior.method for prior in priors))}: a method may ask one other model")
    return found


def prior_of(method: Method) -> Prior | None:
    """The other model that a method's surveys ask."""
    return next((survey.of for survey in checked(method).values() if survey.of is not None), None)


def even(method: Method, images: int, classes: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """`Batch.surveys` where nothing was asked: every class equally often, every second answer right."""
    sizes = {name: ((images, classes), 1 / classes) if survey.votes else ((images,), 0.5) for name, survey in checked(method).items()}
    return {name: torch.full(size, share, device=device) for name, (size, share) in sizes.items()}


def check_weights(weights: object, images: int) -> Tensor:
    """What a method's `weights` returned, in float64, if images can be drawn by it.

    Raises:
        BenchError: they cannot; the sentence says why.
    """
    if not isinstance(weights, Tensor) or weights.shape != (images,):
        what = f"a tensor of shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
        raise BenchError(f"weights must be a tensor of one number for each of the {images} training images, not {what}")
    weights = weights.detach().cpu().double()
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise BenchError("weights must be finite numbers from 0 up")
    if not bool(weights.any()):
        raise BenchError(f"the weights of all {images} training images are 0, so none is left to train on")
    return weights


def copies_of(survey: Survey, spec: RunSpec) -> int:
    """Noisy copies of an image in a survey of a run."""
    limit = survey_limit(spec.train, spec.protocol)
    return min(survey.copies, limit) if limit else survey.copies


def times(survey: Survey, clock: int, steps: int) -> int:
    """How often a survey is asked in a training of so many steps: at most once before each."""
    return len({-(-epoch * steps // clock) for epoch in survey.epochs(clock)} - {steps})


def sha256_of(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
