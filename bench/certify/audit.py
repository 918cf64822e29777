"""Whether a base classifier is one function of one image, judged from outside: by what its passes answer."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.certify.noise import noisy_images
from bench.errors import BenchError
from bench.spec import derive

if TYPE_CHECKING:
    from bench.certify.network import Network

CLOSE = 1e-3
"""Where the two highest logits lie nearer than this share of the largest logit, the referee decides."""
DRIFT = CLOSE / 4
"""Logits that move further than this share of the largest one between two computations of the same row are refused."""
WITNESSES = 16
"""Noisy rows of as many images whose logits are kept, and looked at again in other passes."""
SIZES = ((16,), (11, 5), (7, 6, 3), (2,) * 8)
"""Rows of the small passes at the start; each of these sums to WITNESSES."""
FEW = 4
"""Rows that are compared where each takes passes of its own."""
ALONE_EVERY = 5_000
"""Of so many counted rows, one more is computed alone; of every image, one at least."""
EARLY, AGAIN = 4, 1 / 400
"""Chance that passes are followed by some of the audit, of the same size: 1 / 2 (EARLY + how many there were), and then AGAIN."""
MOST_SIZES = 8
"""Sizes that are sure of passes of their own: few occur, but where only some rows are judged."""
LOUDER = 8
"""Times the noise, with which even an easy image's copies get other answers than their mean."""
TIED = 1e-9
"""Nearer than this share of the largest logit, the referee's two highest logits are a tie, which either class may win."""


class Audit:
    """Looks for logits that depend on more than their own row: on the other rows of a pass, its size, its place, or earlier passes.

    Rows are computed where nothing but the row is the same: alone, and at other places of passes among copies of other images, of the sizes
    that count. Logits must not move by more than rounding does. It has random numbers of its own, so it changes no count.

    What it costs: for each certification some 100 rows, and two passes of every size that occurs; for each image 5 to 8 rows; 0.3 % of
    the samples.

    Args:
        network: whose passes are looked at; its referee's, too, where they hold several rows.
        sigma, sampling: of the noise.
        seed: the certification's, from which the audit's own is derived.
    """

    def __init__(self, network: Network, sigma: float, sampling: str, seed: int) -> None:
        self._network, self._passes = network, network.logits
        self._sigma, self._sampling, self._seed = sigma, sampling, derive(seed, "audit")
        self._random, self._generator = random.Random(self._seed), torch.Generator()
        self._lock = threading.Lock()
        self._twice = False  # the network fails on a pass of one row
        self._scale = 0.0
        self._calls = 0
        self._sizes: set[int] = set()
        self._targets: set[int] = set()
        self._turn = -1
        # One of each per witness: the image, its noisy row, the logits of that row.
        self._images = self._rows = self._logits = torch.empty(0)

    def begin(self, x: Tensor, samples: int) -> None:
        """Before the first pass of an image.

        Args:
            x: C H W. samples: noisy copies that will be counted, at the most.

        Raises:
            BenchError: the logits of a row depend on more than the row.
        """
        with self._lock:
            if self._turn < 0:
                self._start(x)
            self._turn += 1
            self._targets = {self._random.randrange(samples) for _ in range(1 + samples // ALONE_EVERY)}
            place = self._turn % WITNESSES
            self._images[place] = x
            self._rows[place] = self._noisy(x.unsqueeze(0))[0]
            # Asked before the network has seen any other copy of this image, and again after it has seen all.
            self._logits[place] = self._alone(self._rows[place : place + 1])[0]

    def seen(self, noisy: Tensor, logits: Tensor, first: int) -> None:
        """After rows of an image were classified; safe to call from several threads.

        Args:
            noisy: B C H W. logits: what the passes gave them, B K. first: place of the first of them among all copies of the image.

        Raises:
            BenchError: as `begin`.
        """
        with self._lock:
            if self._turn < 0:  # rows of no image
                return
            self._largest(logits)
            self._calls += 1
            if (size := len(noisy)) not in self._sizes and len(self._sizes) < MOST_SIZES:
                self._sizes.add(size)
                self._mixed(size)
                self._copies(size)
            elif self._random.random() < max(AGAIN, 0.5 / (EARLY + self._calls)):
                self._random.choice((self._mixed, self._copies))(size)
            for place in sorted(self._targets):
                if 0 <= (at := place - first) < len(noisy):
                    row = noisy[at : at + 1]
                    self._compare(self._alone(row), logits[at : at + 1], row, noisy)

    def end(self) -> None:
        """After the last pass of an image.

        Raises:
            BenchError: as `begin`.
        """
        with self._lock:
            own = self._turn % WITNESSES
            others = [place for place in range(WITNESSES) if place != own]
            for _ in range(self._random.choice((1, 2))):  # so that no count of calls stays in step
                chosen = [own, *self._random.sample(others, 2)]
                self._together(self._random.sample(chosen, len(chosen)))

    def explain(self, rows: Tensor, one: Tensor, other: Tensor, together: Tensor | None = None) -> BenchError:
        """Why logits of the same rows moved, as far as a few more passes tell.

        Args:
            rows: B C H W. one, other: their logits in two computations.
            together: the pass that one of them is of; None: the rows.
        """
        try:
            self._network.end()
        except BenchError as error:
            return error
        together = rows if together is None else together
        together = twice(together[0]) if len(together) == 1 else together
        moved = f"logits move by up to {float((one - other).abs().max()):.2g}"
        before = self._state()
        first = self._passes(together)
        after = self._state()
        changed = next(
            (n for n, (tensor, times) in after.items() if before.get(n, (None, 0))[0] is not tensor or before[n][1] != times), None
        )
        kept = f"; its tensor {changed!r} changes in a pass" if changed else ""
        if not all(self._agree(self._passes(together), first) for _ in range(4)):
            return BenchError(
                f"the base classifier gives the same noisy images other logits in each pass ({moved}): something random acts in "
                f"evaluation, such as dropout, or it keeps something from one pass to the next{kept}"
            )
        worst = int((one - other).abs().amax(1).argmax())
        row = rows[worst : worst + 1]
        mates = torch.cat([row, row.flip(-1).expand(7, *row.shape[1:])])
        alone = self._alone(row)
        within = self._passes(torch.cat([row, together[1:]]))[:1]
        if not (self._agree(self._passes(mates)[:1], alone) and self._agree(within, alone)):
            return BenchError(
                f"the logits that the base classifier gives to a noisy image depend on the other images of its pass ({moved}), such as "
                f"by batch norm in training mode, so there is no one classifier to certify{kept}"
            )
        if one.dtype != other.dtype:
            return BenchError(
                f"the base classifier's {moved} between {one.dtype} and {other.dtype}, where the largest is {self._scale:.2g}: too "
                "imprecise to count"
            )
        return BenchError(
            f"the logits that the base classifier gives to a noisy image depend on more than the image ({moved}): on its place in a pass, "
            f"on the number of rows there, or on earlier passes, so there is no one classifier to certify{kept}"
        )

    # ---- the parts

    def _start(self, x: Tensor) -> None:
        self._generator = torch.Generator(x.device).manual_seed(self._seed)
        self._images = _views(x, self._generator)
        self._rows = self._noisy(self._images)
        self._logits = torch.cat([self._alone(row) for row in torch.split(self._rows, 1)])
        for sizes in SIZES:
            order = iter(self._random.sample(range(WITNESSES), WITNESSES))
            for size in sizes:
                self._together([next(order) for _ in range(size)])
        if self._network.referee != torch.float64:  # its passes hold one row each
            return
        among = self._network.judged(self._rows)
        for place in range(FEW):
            alone = self._network.judged(twice(self._rows[place]))[:1]
            first, second = alone[0].topk(2).values.tolist() if alone.shape[1] > 1 else (math.inf, 0.0)
            self._compare(among[place : place + 1], alone, self._rows[place : place + 1], self._rows)
            if first - second > TIED * self._scale and int(alone.argmax()) != int(among[place].argmax()):
                raise self.explain(self._rows[place : place + 1], among[place : place + 1], alone, self._rows)

    def _together(self, places: Sequence[int]) -> None:
        """A pass of witnesses in this order."""
        rows = self._rows[places].contiguous(memory_format=torch.channels_last)
        self._compare(self._passes(rows), self._logits[places], rows)

    def _mixed(self, size: int) -> None:
        """Passes of so many rows: fresh copies of the witnesses' images, and among them the witnesses."""
        if size < 2:
            return
        chosen = torch.tensor([self._random.randrange(WITNESSES) for _ in range(size)], device=self._images.device)
        rows = self._noisy(self._images[chosen])
        count = min(WITNESSES, size // 2)
        at = self._random.sample(range(size), count)
        places = self._random.sample(range(WITNESSES), count)
        rows[at] = self._rows[places]
        found = self._passes(rows)
        self._largest(found)
        self._compare(found[at], self._logits[places], self._rows[places], rows)

    def _copies(self, size: int) -> None:
        """Passes of so many copies of the image at hand, a few of which have more noise, and are computed alone as well."""
        place = self._turn % WITNESSES
        rows = self._noisy(self._images[place : place + 1].expand(size, *self._images.shape[1:]))
        at = self._random.sample(range(size), min(FEW, size))
        rows[at] = noisy_images(self._images[[place] * len(at)], LOUDER * self._sigma, self._sampling, self._generator)
        found = self._passes(rows)
        self._largest(found)
        for place in at:
            row = rows[place : place + 1]
            self._compare(self._alone(row), found[place : place + 1], row, rows)

    def _alone(self, row: Tensor) -> Tensor:
        """Logits of a pass that holds nothing but a row: 1 C H W -> 1 K."""
        if not self._twice:
            try:
                return self._passes(row)
            except Exception:  # whatever a stranger's forward raises on one row, by a `squeeze` for instance
                if self._turn >= 0:
                    raise
                self._twice = True
        return self._passes(twice(row[0]))[:1]

    def _noisy(self, images: Tensor) -> Tensor:
        return noisy_images(images, self._sigma, self._sampling, self._generator)

    def _compare(self, found: Tensor, expected: Tensor, rows: Tensor, together: Tensor | None = None) -> None:
        self._largest(found)
        self._largest(expected)
        if not self._agree(found, expected):
            raise self.explain(rows, found, expected, together)

    def _agree(self, one: Tensor, other: Tensor) -> bool:
        return bool((one - other).abs().max() <= DRIFT * self._scale)

    def _largest(self, logits: Tensor) -> None:
        self._scale = max(self._scale, largest(logits))

    def _state(self) -> dict[str, tuple[Tensor, int]]:
        """Name of every tensor that the networks hold -> it, and how often it was written to."""
        return {
            f"{path}.{name}".removeprefix("."): (tensor, 0 if tensor.is_inference() else tensor._version)
            for network in (self._network.fast, self._network.base)
            for path, module in network.named_modules()
            for name, tensor in {**module._parameters, **module._buffers, **vars(module)}.items()
            if isinstance(tensor, Tensor)
        }


def largest(logits: Tensor) -> float:
    """The largest absolute logit; BenchError if one is not finite, which the maximum shows without a pass of its own."""
    found = float(logits.abs().max())
    if not math.isfinite(found):
        raise BenchError("the base classifier gave logits that are not finite numbers, which would certify class 0 for free")
    return found


def twice(row: Tensor) -> Tensor:
    """One row as a batch of two: some networks fail on one, by a `squeeze` for instance."""
    return row.expand(2, *row.shape).contiguous(memory_format=torch.channels_last)


def _views(x: Tensor, generator: torch.Generator) -> Tensor:
    """As many images as there are witnesses, far apart, the first of them x: C H W -> WITNESSES C H W."""
    channels, height, width = x.shape
    near = [x, 1 - x, x.flip(-1, -2), x.roll((height // 2, width // 2), (-2, -1)), torch.zeros_like(x), torch.ones_like(x)]
    coarse = torch.rand((WITNESSES - len(near), channels, 4, 4), generator=generator, device=x.device)
    return torch.cat([torch.stack(near), F.interpolate(coarse, (height, width))])
