"""The Fréchet distance between the SETS of real and generated videos, by the mean and covariance of their features.

FVD (Unterthiner et al., arXiv 1812.01717) is this distance on I3D's features. Its estimate from n videos is biased
upwards: even two sets of one distribution are apart, roughly by D / n in units of the features' variance, so numbers
compare only at equal n, and with n below the feature dimension D the covariances lack rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.dataset.manifest import file_sha256
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation import derivatives
from geo4d_bench.evaluation.statistics import Mean

Features = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Extractor:
    """What turns a video into features: its name and hash stand in every row.

    Attributes:
        metric: the distance's column: ``fvd`` for I3D with a weights file given, ``frechet_<name>`` for any other.
        sha256: of the weights file; of the source file for features that have no weights.
        features: video (T, H, W, 3) uint8 to (D,) float32.
    """

    metric: str
    sha256: str
    features: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def extractors(i3d: Path | None) -> tuple[Extractor, ...]:
    """The derivative energies, and I3D where its weights are given.

    Raises:
        CheckpointError: the weights are missing or of another network.
    """
    own = Extractor("frechet_derivatives", file_sha256(Path(derivatives.__file__)), derivatives.derivative_energies)
    if i3d is None:
        return (own,)
    from geo4d_bench.evaluation.i3d import I3D

    network = I3D.load(i3d)  # first: it says what is wrong with the file
    return own, Extractor("fvd", file_sha256(i3d), network.features)


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
    a, b = a.astype(np.float64), b.astype(np.float64)
    shift = a.mean(0) - b.mean(0)
    root_a, root_b = _root(a), _root(b)
    common = float(svdvals(root_a.T @ root_b).sum())
    distance = float(shift @ shift) + float((root_a**2).sum()) + float((root_b**2).sum()) - 2.0 * common
    return max(distance, 0.0)  # rounding only: the exact value is not negative


def frechet_interval(
    real: Features, generated: Features, clusters: Sequence[object], rng: np.random.Generator, resamples: int = 500
) -> Mean:
    """The distance between paired sets (N, D), row i of both from window i, with an interval over clusters.

    Whole episodes are resampled, the same ones on both sides. Repeated videos lower the rank of a resample's
    covariances and raise the distance, so percentiles would lie above the estimate; the interval is the distance
    ± 1.96 standard deviations of the resamples, cut off at 0. It does not include the bias at this N.

    Returns:
        No interval with fewer than three clusters, or no more videos than features, where the bias outweighs the
        spread; NaN for all with fewer than two videos, or with NaN features (no video).
    """
    names, index = np.unique([str(c) for c in clusters], return_inverse=True)
    if len(real) < 2 or not np.isfinite(generated).all():
        return Mean(np.nan)
    value = frechet_distance(real, generated)
    if len(names) < 3 or len(real) <= real.shape[1] + 1:
        return Mean(value)
    members = [np.flatnonzero(index == k) for k in range(len(names))]
    draws = []
    for _ in range(resamples):
        rows = np.concatenate([members[k] for k in rng.integers(len(names), size=len(names))])
        draws.append(frechet_distance(real[rows], generated[rows]))
    half = 1.96 * float(np.std(draws, ddof=1))
    return Mean(value, max(value - half, 0.0), value + half)


def pair_distance(real: Features, generated: Features) -> float:
    """The mean over pairs of |f - f'|², features (N, D) of a real video and of the one generated for it.

    The paper's released code calls a Fréchet distance on one pair at a time: a set of one has no covariance, and only
    this distance of the means is left. It is not FVD.
    """
    return float(np.square(real.astype(np.float64) - generated.astype(np.float64)).sum(1).mean())


def _root(features: Features) -> npt.NDArray[np.float64]:
    """(D, R) with S = root rootᵀ; R is the smaller of N and D."""
    centred = np.asarray((features - features.mean(0)) / np.sqrt(len(features) - 1), dtype=np.float64)
    return centred.T if len(centred) <= centred.shape[1] else np.asarray(np.linalg.qr(centred, mode="r")).T
