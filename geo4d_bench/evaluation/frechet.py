"""The Fréchet distance between the SETS of real and generated videos, by the mean and covariance of their features.

FVD (Unterthiner et al., arXiv 1812.01717) is this distance on I3D's features. Its estimate from n videos is biased
upwards: even two sets of one distribution are apart, roughly by D / n in units of the features' variance, so numbers
compare only at equal n, and with n below the feature dimension D the covariances lack rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.bootstrap import Mean

Features = npt.NDArray[np.floating[Any]]


def frechet_distance(a: Features, b: Features) -> float:
    """|mean_a - mean_b|² + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets of features (N_a, D) and (N_b, D).

    S is the unbiased covariance. The trace of the root is taken without forming a product of covariances, whose root
    loses half the digits: with S = A Aᵀ it is the sum of the singular values of A_aᵀ A_b, also where S lacks rank.

    Raises:
        ConfigError: another number of features in b than in a, or fewer than two videos in one of them.
    """
    from scipy.linalg import svdvals

    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ConfigError(
            f"Fréchet distance of sets of shape {a.shape} and {b.shape}, expected (N, D) and (M, D) with 2 videos or "
            "more; score more windows"
        )
    a64: npt.NDArray[np.float64] = a.astype(np.float64)
    b64: npt.NDArray[np.float64] = b.astype(np.float64)
    shift = a64.mean(0) - b64.mean(0)
    root_a, root_b = _root(a64), _root(b64)
    common = float(svdvals(root_a.T @ root_b).sum())
    distance = float(shift @ shift) + float((root_a**2).sum()) + float((root_b**2).sum()) - 2.0 * common
    return max(distance, 0.0)  # rounding only: the exact value is not negative


def frechet_interval(
    real: Features, generated: Features, clusters: Sequence[object], rng: np.random.Generator, resamples: int = 500
) -> Mean:
    """The distance between paired sets (N, D), row i of both from window i, with an interval over clusters.

    Resampled are whole episodes, the same ones on both sides. Repeating videos in a resample lowers the rank of its
    covariances and moves the distance upwards, so the percentiles of the resamples lie above the estimate; their
    spread is still that of the estimate, and the interval is the distance ± 1.96 standard deviations of them, cut off
    at 0. It says how much other episodes would change the number, not how far the bias at this N has raised it.

    Returns:
        NaN for the interval where it would say nothing: fewer than three clusters, or no more videos than features,
        where the covariances lack rank and the bias outweighs the spread; NaN for all with fewer than two videos, or
        where there are none (NaN features).
    """
    names, index = np.unique([str(c) for c in clusters], return_inverse=True)
    if len(real) < 2 or not np.isfinite(generated).all():
        return Mean(np.nan, np.nan, np.nan, len(real))
    value = frechet_distance(real, generated)
    if len(names) < 3 or len(real) <= real.shape[1] + 1:
        return Mean(value, np.nan, np.nan, len(real))
    members = [np.flatnonzero(index == k) for k in range(len(names))]
    draws = []
    for _ in range(resamples):
        rows = np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])
        draws.append(frechet_distance(real[rows], generated[rows]))
    half = 1.96 * float(np.std(draws, ddof=1))
    return Mean(value, max(value - half, 0.0), value + half, len(real))


def pair_distance(real: Features, generated: Features) -> float:
    """The mean over pairs of |f - f'|², features (N, D) of a real video and of the one generated for it.

    This is what a Fréchet distance becomes when it is called on one pair at a time, as the paper's released code does:
    a set of one has no covariance, and only the distance of the means is left. It is a feature distance, not FVD.
    """
    return float(np.square(real.astype(np.float64) - generated.astype(np.float64)).sum(1).mean())


def _root(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(D, R) with S = root rootᵀ; R is the smaller of N and D."""
    root: npt.NDArray[np.float64] = ((features - features.mean(0)) / np.sqrt(len(features) - 1)).T
    if root.shape[1] > root.shape[0]:
        root = np.asarray(np.linalg.qr(root.T, mode="r"), dtype=np.float64).T
    return root
