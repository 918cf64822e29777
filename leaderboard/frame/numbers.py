"""Radii, ACR and certified accuracy of numbers and arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from bench.rules.bounds import Floats, certified_radii, check_alpha, lower_confidence_bounds


@overload
def certified_radius(count: int, n: int, alpha: float, sigma: float) -> float: ...
@overload
def certified_radius(count: pd.Series[Any], n: Any, alpha: Any, sigma: Any) -> pd.Series[float]: ...
@overload
def certified_radius(count: ArrayLike, n: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> Floats: ...
def certified_radius(count: Any, n: Any, alpha: Any, sigma: Any) -> Any:
    """The certified L2 radius of counts, in pixels of [0, 1]; 0 where the classifier abstains.

    sigma * Phi^-1(pA) where pA, the one-sided Clopper-Pearson lower bound at level alpha, is at least 1/2. Source: Cohen, Rosenfeld and
    Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, procedure CERTIFY.

    Args:
        count: samples on the selected class, 0 <= count <= n.
        n: samples drawn. Where it is 0, nothing is certified.
        alpha: chance that a certificate is wrong, in (0, 1/2).
        sigma: noise level, finite and above 0.

    Returns:
        a number for numbers; a Series for a Series `count`; else an array of the shape to which all four broadcast.

    Raises:
        ValueError: values out of range, or shapes that do not fit together.
        TypeError: counts that are not whole numbers.
    """
    index = count.index if isinstance(count, pd.Series) else None
    counts, samples = _whole(count, "count"), _whole(n, "n")
    levels, sigmas = _floats(alpha, "alpha"), _floats(sigma, "sigma")
    shape = np.broadcast_shapes(counts.shape, samples.shape, levels.shape, sigmas.shape)
    counts, samples = (np.broadcast_to(values, shape).ravel() for values in (counts, samples))
    levels, sigmas = (np.broadcast_to(values, shape).ravel() for values in (levels, sigmas))
    if (wrong := np.flatnonzero((counts < 0) | (samples < 0) | (counts > samples))).size:
        k, of = counts[wrong[0]], samples[wrong[0]]
        raise ValueError(f"count {k} of n {of} is impossible: 0 <= count <= n")
    radii = np.zeros(counts.shape)
    for level in np.unique(levels).tolist():
        check_alpha(level)
        for noise in np.unique(sigmas).tolist():
            mine = (levels == level) & (sigmas == noise)
            bounds = lower_confidence_bounds(counts[mine], np.maximum(samples[mine], 1), level)
            radii[mine] = np.nan_to_num(certified_radii(bounds, noise), nan=0.0)
    if index is not None and shape == index.shape:
        return pd.Series(radii, index=index, name="radius")
    return radii.reshape(shape) if shape else float(radii[0])


def acr(radius: ArrayLike, correct: ArrayLike) -> float:
    """Average certified radius: the mean over ALL images of the radius where the certified class is right, else 0.

    Source: Zhai et al., "MACER: Attack-free and Scalable Robust Training via Maximizing Certified Radius", ICLR 2020.

    Args:
        radius: I, certified L2 radii in pixels of [0, 1]; 0 where the classifier abstained.
        correct: I, certified and the predicted class is the label.

    Raises:
        ValueError: no images, different lengths, radii that are not finite numbers from 0 up, or `correct` that is not True or False.
    """
    radii, right = _evidence(radius, correct)
    return math.fsum(radii[right].tolist()) / len(radii)


@overload
def certified_accuracy(radius: ArrayLike, correct: ArrayLike, at: float) -> float: ...
@overload
def certified_accuracy(radius: ArrayLike, correct: ArrayLike, at: Sequence[float] | Floats) -> Floats: ...
def certified_accuracy(radius: ArrayLike, correct: ArrayLike, at: Any) -> Any:
    """Certified accuracy: the share of ALL images, in [0, 1], that are correct with a radius strictly larger than `at`.

    Args:
        radius: as for `acr`.
        correct: as for `acr`.
        at: one radius, or several, in pixels of [0, 1].

    Returns:
        a number for a number, an array for several. (Tables print it in %.)

    Raises:
        ValueError: as `acr`; `at` is not made of finite numbers from 0 up.
    """
    radii, right = _evidence(radius, correct)
    places = _floats(at, "at")
    if not (np.isfinite(places) & (places >= 0)).all():
        raise ValueError(f"at {at} must be a finite number from 0 up, such as 0.5, or several of them")
    certified = np.sort(radii[right])
    shares = (len(certified) - np.searchsorted(certified, places, side="right")) / len(radii)
    return shares if places.shape else float(shares)


def _evidence(radius: ArrayLike, correct: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    radii, right = _floats(radius, "radius"), _array(correct, "correct")
    if radii.ndim != 1 or radii.shape != right.shape:
        raise ValueError(f"radius and correct must be two lists of the same length, not of shapes {radii.shape} and {right.shape}")
    if not len(radii):
        raise ValueError("there are no certificates, and nothing has no average")
    if not (np.isfinite(radii) & (radii >= 0)).all():
        raise ValueError("radius must hold finite numbers from 0 up; it is 0 where the classifier abstained")
    if right.dtype.kind not in "biu" or (right.dtype.kind != "b" and not np.isin(right, (0, 1)).all()):
        raise ValueError("correct must hold True or False for each image")
    return radii, right.astype(bool)


def _array(values: Any, name: str) -> NDArray[Any]:
    if isinstance(values, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        if values.isna().any():
            raise ValueError(f"{name} has missing values; published logs hold no counts")
        kind: Any = values.dtype
        values = values.to_numpy(dtype=getattr(kind, "numpy_dtype", None))
    elif hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _floats(values: Any, name: str) -> Floats:
    array = _array(values, name)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold numbers, not {array.dtype}")
    return array.astype(np.float64)


def _whole(values: Any, name: str) -> NDArray[np.int64]:
    array = _array(values, name)
    if not array.size and isinstance(values, Sequence):  # NumPy takes an empty list for floats
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold whole numbers, not {array.dtype}")
    return array.astype(np.int64)
