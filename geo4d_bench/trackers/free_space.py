"""What the two views of a video see through: where a surface is seen behind a place, that place is empty.

View m's pose is not given to a policy. Its pointmap is in camera n's frame, so its own rays tell where it stands.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import minimum_filter

from geo4d_bench.geometry import inverse, pose, project, transform
from geo4d_bench.geometry.se3 import Array
from geo4d_bench.model.types import Video4D

MIN_POINTS = 30
"""A view with fewer valid points than this cannot be located."""
MAX_RESIDUAL_M = 0.1
"""A view whose points lie further than this (median) from their pixels' rays has not been located."""
ITERATIONS = 15


class FreeSpace:
    """Depth images of both views through a video, and which places in camera n's frame they show to be empty."""

    def __init__(self, video: Video4D) -> None:
        self.K = video.K
        self.T_cam_n: list[Array | None] = [np.eye(4), None]
        T_n_m = locate_view(video.points[1, 0], video.K[1])
        if T_n_m is not None:
            self.T_cam_n[1] = inverse(T_n_m)
        # The nearest of each pixel and its neighbours: a point on a silhouette may fall on the pixel beside it.
        self.nearest: list[npt.NDArray[np.float32] | None] = []
        for view, T_cam_n in enumerate(self.T_cam_n):
            if T_cam_n is None:
                self.nearest.append(None)
                continue
            depth = transform(T_cam_n, video.points[view])[..., 2]
            self.nearest.append(minimum_filter(np.where(np.isnan(depth), np.inf, depth), size=(1, 3, 3)))

    def behind_m(self, points_n: Array, frame: int) -> Array:
        """(2, N) how far behind each point (N, 3) the nearest surface is that a view sees there, metres.

        Negative where something stands before the point; NaN where the view does not look, or nothing is known.
        """
        gap = np.full((2, len(points_n)), np.nan)
        for view, (T_cam_n, nearest) in enumerate(zip(self.T_cam_n, self.nearest, strict=True)):
            if T_cam_n is None or nearest is None:
                continue
            p = transform(T_cam_n, points_n)
            pixel = project(p, self.K[view])
            height, width = nearest.shape[1:]
            with np.errstate(invalid="ignore"):
                inside = (pixel > -0.5).all(axis=1) & (pixel[:, 0] < width - 0.5) & (pixel[:, 1] < height - 0.5)
            u, v = np.rint(pixel[inside]).astype(int).T
            seen = nearest[frame, v, u].astype(np.float64)
            gap[view, inside] = np.where(np.isfinite(seen), seen, np.nan) - p[inside, 2]
        return gap

    def empty_share(self, points_n: Array, frame: int, tolerance_m: float) -> float:
        """Share of points (N, 3) that some view looks through, of those that any view looks at; 0 where none does."""
        gap = self.behind_m(points_n, frame)
        known = np.isfinite(gap).any(axis=0)
        if not known.any():
            return 0.0
        with np.errstate(invalid="ignore"):
            return float((gap[:, known] > tolerance_m).any(axis=0).mean())


def locate_view(points_n: npt.NDArray[np.float32], K: Array) -> Array | None:
    """T_n_cam (4, 4) of the camera whose pointmap (H, W, 3), given in frame n, and intrinsics (3, 3) these are.

    A linear start, then orthogonal iteration: slide each point along its pixel's ray, align rigidly, repeat. None
    where there are too few points or they fit no camera.
    """
    valid = np.isfinite(points_n).all(axis=-1)
    if int(valid.sum()) < MIN_POINTS:
        return None
    v, u = np.nonzero(valid)
    rays = np.column_stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(len(u))])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    X = points_n[valid].astype(np.float64)
    T = _linear(rays, X)
    for _ in range(ITERATIONS):
        along = np.sum(rays * transform(inverse(T), X), axis=1)
        T = _align(rays * along[:, None], X)
    p = transform(inverse(T), X)
    along = np.sum(rays * p, axis=1)
    residual = float(np.median(np.linalg.norm(p - rays * along[:, None], axis=1)))
    return T if residual < MAX_RESIDUAL_M and np.median(along) > 0 else None


def _linear(rays: Array, X: Array) -> Array:
    """Direct linear transform: ray x (A X + b) = 0, A made a rotation."""
    centre = X.mean(axis=0)
    Y = np.column_stack([X - centre, np.ones(len(X))])
    x, y, z = rays.T
    zero = np.zeros_like(Y)
    rows = np.concatenate(
        [
            np.column_stack([zero, -z[:, None] * Y, y[:, None] * Y]),
            np.column_stack([z[:, None] * Y, zero, -x[:, None] * Y]),
            np.column_stack([-y[:, None] * Y, x[:, None] * Y, zero]),
        ]
    )
    _, vectors = np.linalg.eigh(rows.T @ rows)
    M = vectors[:, 0].reshape(3, 4)
    left, scale, right = np.linalg.svd(M[:, :3])
    sign = np.sign(np.linalg.det(left @ right))
    R, t = sign * left @ right, sign * M[:, 3] / scale.mean()
    return inverse(pose(R, t - R @ centre))


def _align(p_cam: Array, X: Array) -> Array:
    """T (4, 4) that takes p_cam (N, 3) to X (N, 3) with the least squared distance."""
    a, b = p_cam.mean(axis=0), X.mean(axis=0)
    left, _, right = np.linalg.svd((X - b).T @ (p_cam - a))
    R = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return pose(R, b - R @ a)
