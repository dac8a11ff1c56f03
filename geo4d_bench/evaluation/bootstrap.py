"""Percentile intervals of means over windows that come in clusters: windows of one episode are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval; NaN where it cannot be had.

    Attributes:
        value: mean of the finite values.
        low, high: 2.5 and 97.5 percentiles of the bootstrap; NaN where fewer than two clusters have a value.
        count: finite values.
    """

    value: float
    low: float
    high: float
    count: int


def cluster_mean(
    values: npt.ArrayLike, clusters: Sequence[object], rng: np.random.Generator, resamples: int = 2000
) -> Mean:
    """The mean of ``values`` (N,) with a percentile interval from resampling whole clusters.

    NaN values are left out. A resample draws as many clusters as there are, with replacement, and takes the mean
    over all their values, so that a cluster weighs by its size (Davison and Hinkley, Bootstrap Methods, 1997, 3.8).

    Args:
        values: (N,) one number a window; infinities are kept (the PSNR of equal frames).
        clusters: (N,) the episode of each window.
    """
    every = np.asarray(values, dtype=np.float64)
    kept = ~np.isnan(every)
    finite = every[kept]
    if len(finite) == 0:
        return Mean(np.nan, np.nan, np.nan, 0)
    if np.isinf(finite).any():
        return Mean(float(finite.mean()), np.nan, np.nan, len(finite))
    _, index = np.unique(np.asarray([str(c) for c in clusters])[kept], return_inverse=True)
    sums, sizes = np.bincount(index, weights=finite), np.bincount(index)
    if len(sums) < 2:
        return Mean(float(finite.mean()), np.nan, np.nan, len(finite))
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))
    low, high = np.percentile(sums[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    return Mean(float(finite.mean()), float(low), float(high), len(finite))
