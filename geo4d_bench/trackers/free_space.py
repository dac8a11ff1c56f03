"""Free space of a video: a place is empty where either view sees a surface behind it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import minimum_filter
from scipy.spatial.transform import Rotation

from geo4d_bench.geometry.camera import project
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.model.types import Video4D

MIN_POINTS = 30
"""A view with fewer valid points than this cannot be located."""
MAX_RESIDUAL_M = 0.1
"""A view whose points lie further than this (median) from their pixels' rays has not been located."""


class FreeSpace:
    """Depth of both views through a video. View m's pose is not given, so it is estimated from its points.

    Attributes:
        T_n_m: that pose (4, 4), None where they tell none.
    """

    def __init__(self, video: Video4D) -> None:
        self.T_n_m = T_n_m = locate_view(video.points[1, 0], video.K[1])
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


def locate_view(points_n: npt.NDArray[np.float32], K: Array) -> Array | None:
    """T_n_cam (4, 4) of the camera that sees a pointmap (H, W, 3), given in frame n, with intrinsics (3, 3).

    None where there are too few points or they fit no camera. The solver is SQPnP (Terzakis and Lourakis, ECCV 2020).
    """
    valid = np.isfinite(points_n).all(axis=-1)
    if int(valid.sum()) < MIN_POINTS:
        return None
    p_n = points_n[valid].astype(np.float64)
    pixel = np.argwhere(valid)[:, ::-1].astype(np.float64)
    found, rotvec, translation = cv2.solvePnP(p_n, pixel, K, np.zeros(4), flags=cv2.SOLVEPNP_SQPNP)
    if not found:
        return None
    T_cam_n = pose(Rotation.from_rotvec(rotvec[:, 0]).as_matrix(), translation[:, 0])
    p_cam = transform(T_cam_n, p_n)
    rays = np.column_stack([pixel, np.ones(len(pixel))]) @ np.linalg.inv(K).T
    residual = np.linalg.norm(np.cross(rays, p_cam), axis=1) / np.linalg.norm(rays, axis=1)
    return inverse(T_cam_n) if np.median(residual) < MAX_RESIDUAL_M and np.median(p_cam[:, 2]) > 0 else None
