"""The smoothed classifier g and the few functions of its predictions that the methods share.

Shapes: B images, M noise copies, C H W pixels, K classes. Natural logarithms throughout.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bench.errors import BenchError

FLOAT16_SCALE = 1024.0
"""Of what is differentiated in float16, so that the small gradients of confident images do not vanish."""


class SmoothedClassifier:
    """g(x) = the class that the base classifier f most likely gives to x + noise, noise ~ N(0, sigma^2 I).

    A method trains the base classifier through this object, the only source of randomness that it may use. Certification draws its own
    noise, keyed by the image (`bench.certify`).

    Args:
        base: f, maps B C H W in [0, 1] plus noise to logits B K; normalisation is its first layer.
        sigma: noise level in pixels of [0, 1].
        generator: decides every draw; lives on the device of the images.
        reduced: the base classifier's passes are computed in this dtype where that is safe (autocast); logits are float32.
        layout: in which the images are given to the base classifier; decides speed alone.

    Attributes:
        mark: called where an attack begins and where it ends, which is where `frozen` is entered and left.
    """

    def __init__(
        self,
        base: nn.Module,
        sigma: float,
        generator: torch.Generator,
        *,
        reduced: torch.dtype | None = None,
        layout: torch.memory_format = torch.channels_last,
    ) -> None:
        self.base = base
        self.sigma = sigma
        self.generator = generator
        self.reduced = reduced
        self.layout = layout
        self.mark: Callable[[], None] | None = None

    def noise(self, x: Tensor, copies: int = 1) -> Tensor:
        """Fresh Gaussian noise for every image and copy: M B C H W. Noisy pixels are never clipped."""
        drawn = torch.empty((copies, *x.shape), dtype=x.dtype, device=x.device)
        return drawn.normal_(0.0, self.sigma, generator=self.generator)

    def uniform(self, size: int, like: Tensor) -> Tensor:
        """`size` numbers from U[0, 1), dtype and device of `like`: shape (size,)."""
        return torch.rand(size, dtype=like.dtype, device=like.device, generator=self.generator)

    def logits(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Logits of x under each noise copy in one forward pass: M B K; B K of x itself without noise."""
        if noise is None:
            return self._base_logits(x)
        noisy = (x + noise).flatten(0, 1)  # M*B C H W
        return self._base_logits(noisy).unflatten(0, noise.shape[:2])  # type: ignore[no-any-return, no-untyped-call]

    def _base_logits(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=self.layout)
        if self.reduced is None:
            return self.base(x)  # type: ignore[no-any-return]
        with torch.autocast(x.device.type, dtype=self.reduced):
            logits: Tensor = self.base(x)
        return logits.float()

    def gradient_of_images(self, loss: Tensor, x: Tensor) -> Tensor:
        """Gradient of a scalar with respect to the images that it was computed from: B C H W."""
        if self.reduced != torch.float16:
            return torch.autograd.grad(loss, x)[0]
        gradient = torch.autograd.grad(loss * FLOAT16_SCALE, x)[0] / FLOAT16_SCALE
        return gradient.nan_to_num(0.0, 0.0, 0.0)  # one that left float16's range all the same; such an image stays where it is

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode and no parameter gradients inside; every flag as it was afterwards."""
        if self.mark:
            self.mark()
        modes = [(module, module.training) for module in self.base.modules()]
        flags = [(parameter, parameter.requires_grad) for parameter in self.base.parameters()]
        self.base.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            if self.mark:
                self.mark()


class Piecewise(SmoothedClassifier):
    """g for a batch that is computed piece by piece: every piece gets its rows of the draws that the whole batch would get.

    A method's k-th draw is made once, for all images, and cut; so pieces together see the noise of an unsplit step, and
    the generator moves as it does there.

    Args:
        whole: g of the unsplit batch.
        images: its size.
        own: its rows that the pieces will be of, all of them if None; of the others the draws are made but not kept.
    """

    def __init__(self, whole: SmoothedClassifier, images: int, own: range | None = None) -> None:
        super().__init__(whole.base, whole.sigma, whole.generator, reduced=whole.reduced, layout=whole.layout)
        self.mark = whole.mark
        self._images, self._own = images, range(images) if own is None else own
        self._draws: list[Tensor] = []
        self._rows = slice(0, images)
        self._next = 0

    def take(self, rows: slice) -> None:
        """Begins the piece of these images."""
        self._rows, self._next = rows, 0

    def noise(self, x: Tensor, copies: int = 1) -> Tensor:
        whole = x.new_empty(()).expand(self._images, *x.shape[1:])  # a shape, not memory
        return self._cut(len(x), 1, lambda: super(Piecewise, self).noise(whole, copies))

    def uniform(self, size: int, like: Tensor) -> Tensor:
        return self._cut(size, 0, lambda: super(Piecewise, self).uniform(self._images, like))

    def _cut(self, size: int, dim: int, draw: Callable[[], Tensor]) -> Tensor:
        count = self._rows.stop - self._rows.start
        if size != count:
            raise BenchError(f"a draw for {size} images in a piece of {count} cannot be split; train on one device, without --micro-batch")
        if self._next == len(self._draws):
            drawn = draw()
            whole = len(self._own) == self._images
            self._draws.append(drawn if whole else drawn.narrow(dim, self._own.start, len(self._own)).clone())
        drawn = self._draws[self._next]
        self._next += 1
        return drawn.narrow(dim, self._rows.start - self._own.start, count)


def now(device: torch.device) -> float:
    """Seconds of a steady clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def log_soft_vote(logits: Tensor) -> Tensor:
    """log pbar, the logarithm of the softmax averaged over the noise copies: M B K -> B K."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(logits.shape[0])


def soft_vote(logits: Tensor) -> Tensor:
    """pbar, the softmax averaged over the noise copies: M B K -> B K."""
    return logits.softmax(-1).mean(0)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every row, not averaged: M B K and labels B, or target distributions B K -> M B."""
    log_p = logits.log_softmax(-1)
    if y.dim() == 1:
        return -log_p.gather(-1, y.expand(log_p.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return -(y * log_p).sum(-1)


def kl(p: Tensor, logits: Tensor) -> Tensor:
    """KL(p || softmax(logits)) of every row: distributions B K, logits M B K -> M B."""
    return cross_entropy(logits, p) - entropy(p)


def entropy(p: Tensor) -> Tensor:
    """H(p) of every row: B K -> B."""
    # The floor keeps the gradient finite where a probability has underflown to 0; the value is 0 there either way.
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(-1)


def warmup(epoch: float, epochs: float, first: float = 1.0) -> float:
    """Linear ramp to 1: min(1, (epoch + first) / epochs); 1 where epochs is 0."""
    return 1.0 if epochs == 0 else min(1.0, (epoch + first) / epochs)


def gather(log_p: Tensor, y: Tensor) -> Tensor:
    """The entry of each row's label: B K, B -> B."""
    return log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
