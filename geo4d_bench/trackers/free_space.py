"""Which space of a video is empty, because a view sees a surface behind it."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import minimum_filter

from geo4d_bench.geometry.camera import project
from geo4d_bench.geometry.se3 import Array, inverse, transform
from geo4d_bench.model.types import Video4D


class FreeSpace:
    """Depth of both views through a video.

    Args:
        T_n_m: view m's pose (4, 4). Where it is None, view n alone tells what is empty.
    """

    def __init__(self, video: Video4D, T_n_m: Array | None) -> None:
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
