"""Where a video's view m stands, and which points of a hand are where their pixels look."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.camera import ray_distance_m
from geo4d_bench.geometry.hand import NO_PART
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.model.types import Video4D

MIN_PAIRS, MAX_PAIRS = 30, 2000
"""Of pixels before and in the video: with fewer a view cannot be located, and more of them make it no more exact."""
MAX_RESIDUAL_M = 0.1
"""A view whose pairs lie further apart than this (median) has not been located."""
MAX_AWAY_M = 0.1
"""From the ray of the pixel that shows it, a point of a hand: as far as a hand is wide."""
ITERATIONS, FLOOR_M = 10, 0.002
"""Of the fit, and the smallest scale of its weights."""


def seen_parts(video: Video4D, T_n_m: Array | None) -> npt.NDArray[np.uint8]:
    """The video's part labels (V, T, H, W) without those of points that are not where their pixel looks.

    A pointmap can put any point into any pixel, and a generator that was trained by points alone may tell a place by
    pixels in a corner. View m counts as it is where its pose (4, 4) is not known.
    """
    parts = video.parts.copy()
    for view, T_n_cam in enumerate([np.eye(4)] if T_n_m is None else [np.eye(4), T_n_m]):
        away = ray_distance_m(transform(inverse(T_n_cam), video.points[view]), video.K[view])
        parts[view][away > MAX_AWAY_M] = NO_PART  # NaN compares false: a point that is missing is nowhere else
    return parts


def locate_view(video: Video4D) -> Array | None:
    """T_n_m (4, 4), by which what view m saw before the video lies on what it shows; None where too little does.

    A pixel shows the same place in both, unless something has moved: such pairs fit no rigid motion and lose their
    weight. Least squares with Cauchy's weights, again and again; hands are left out.
    """
    if video.first_points is None:
        return None
    first, later = np.broadcast_to(video.first_points[1], video.points[1].shape), video.points[1]
    pairs = np.flatnonzero((video.parts[1] == 0) & np.isfinite(first).all(-1) & np.isfinite(later).all(-1))
    pairs = pairs[:: 1 + len(pairs) // MAX_PAIRS]
    if len(pairs) < MIN_PAIRS:
        return None
    p_m, p_n = (points.reshape(-1, 3)[pairs].astype(np.float64) for points in (first, later))
    T_n_m, weight = np.eye(4), np.ones(len(pairs))
    for _ in range(ITERATIONS):
        centre_m, centre_n = (np.average(p, axis=0, weights=weight) for p in (p_m, p_n))
        turn = Rotation.align_vectors(p_n - centre_n, p_m - centre_m, weight)[0].as_matrix()
        T_n_m = pose(turn, centre_n - turn @ centre_m)
        residual = np.linalg.norm(transform(T_n_m, p_m) - p_n, axis=1)
        weight = 1.0 / (1.0 + (residual / max(float(np.median(residual)), FLOOR_M)) ** 2)
    return T_n_m if np.median(residual) < MAX_RESIDUAL_M else None
