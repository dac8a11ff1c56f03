"""What both views of a video see: where view m stands, which points are where their pixels look, and which space is
empty, because a view sees a surface behind it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import minimum_filter
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.camera import project, ray_distance_m
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


class FreeSpace:
    """Depth of both views through a video.

    Attributes:
        T_n_m: view m's pose (4, 4) by :func:`locate_view`. Where it is None, view n alone tells what is empty.
    """

    def __init__(self, video: Video4D) -> None:
        self.T_n_m = T_n_m = locate_view(video)
        T_cam_n = [np.eye(4)] if T_n_m is None else [np.eye(4), inverse(T_n_m)]
        self._views = []
        for T, K, points in zip(T_cam_n, video.K, video.points, strict=False):
            depth = transform(T, points)[..., 2]
            # The nearest of each pixel and its neighbours: a point on a silhouette may fall on the pixel beside it.
            nearest = minimum_filter(np.where(np.isnan(depth), np.inf, depth), size=(1, 3, 3))
            self._views.append((T, K, nearest))

    def empty_share(self, points_n: Array, frame: int, tolerance_m: float) -> float:
        """Share of points (N, 3) with a surface more than ``tolerance_m`` behind them in some view.

        Of the points at whose pixel some view has depth; 0 where there are none.
        """
        known, empty = np.zeros((2, len(points_n)), dtype=bool)
        for T_cam_n, K, nearest in self._views:
            p = transform(T_cam_n, points_n)
            pixel = project(p, K)
            height, width = nearest.shape[1:]
            inside = ((pixel > -0.5) & (pixel < [width - 0.5, height - 0.5])).all(axis=1)  # NaN compares false
            u, v = np.rint(pixel[inside]).astype(int).T
            surface = nearest[frame, v, u].astype(np.float64)
            known[inside] |= np.isfinite(surface)
            empty[inside] |= np.isfinite(surface) & (surface - p[inside, 2] > tolerance_m)
        return float(empty[known].mean()) if known.any() else 0.0


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
