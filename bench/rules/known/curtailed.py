"""Sampling stops once nothing can certify any more, and the image abstains as it would have; the bound is Clopper-Pearson's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.rules.bounds import least_count
from bench.rules.known.clopper_pearson import ClopperPearson
from bench.rules.rule import Counts, Stopping


class Curtailed(ClopperPearson):
    stops = True

    def stop(self, sigma: float) -> Stopping:
        n, needed = self.spec.n, least_count(self.spec.n, self.spec.stop_alpha)
        return Stopping(lambda count, drawn: count + (n - drawn) < needed)

    def may_stop(self, counts: Counts) -> NDArray[np.bool_]:
        return np.asarray(counts.count + (self.spec.n - counts.n) < least_count(self.spec.n, self.spec.stop_alpha))

    def refusal(self, alpha: float) -> str:
        stopped = self.spec.stop_alpha
        told = f"sampling was stopped where nothing certifies at alpha {stopped:g}, so alpha {alpha:g} is too large"
        return f"{told}; give --alpha {stopped!r} or less" if alpha > stopped else ""


RULE = Curtailed
