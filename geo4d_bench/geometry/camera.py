"""Pinhole cameras with OpenCV axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.se3 import Array, pose

ViewSplit = Literal["seen", "novel"]


def intrinsics(fovy_rad: float, height: int, width: int) -> Array:
    """K (3, 3) of square pixels from the vertical field of view; the principal point is the image's middle.

    Pixel (u, v) has its centre at (u, v), so the middle of the image is ((W - 1) / 2, (H - 1) / 2).
    """
    f = 0.5 * height / np.tan(0.5 * fovy_rad)
    return np.array([[f, 0.0, (width - 1) / 2], [0.0, f, (height - 1) / 2], [0.0, 0.0, 1.0]])


def look_at(eye: npt.ArrayLike, target: npt.ArrayLike, up: npt.ArrayLike = (0.0, 0.0, 1.0)) -> Array:
    """T_world_cam (4, 4) of a camera at ``eye`` that looks at ``target`` with ``up`` upwards in the image."""
    eye, target = np.asarray(eye, dtype=np.float64), np.asarray(target, dtype=np.float64)
    z = target - eye
    z /= np.linalg.norm(z)
    x = np.cross(z, np.asarray(up, dtype=np.float64))
    if np.linalg.norm(x) < 1e-9:
        raise ConfigError("look_at: the viewing direction is parallel to 'up'; give another 'up'")
    x /= np.linalg.norm(x)
    return pose(np.stack([x, np.cross(z, x), z], axis=1), eye)


def depth_to_points(
    depth: npt.NDArray[np.floating[Any]], K: npt.ArrayLike, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Pointmap (..., H, W, 3) float32 in the camera's frame from depth (..., H, W), metres along z; NaN stays NaN.

    Written into ``out`` where that is given.
    """
    K = np.asarray(K, dtype=np.float64)
    h, w = depth.shape[-2:]
    x = ((np.arange(w) - K[0, 2]) / K[0, 0]).astype(np.float32)
    y = ((np.arange(h) - K[1, 2]) / K[1, 1]).astype(np.float32)
    depth = depth.astype(np.float32, copy=False)
    points = np.empty((*depth.shape, 3), dtype=np.float32) if out is None else out
    np.multiply(x[None, :], depth, out=points[..., 0])
    np.multiply(y[:, None], depth, out=points[..., 1])
    points[..., 2] = depth
    return points


def project(points_cam: npt.NDArray[np.floating[Any]], K: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    """Pixels (..., 2) as (u, v) of points (..., 3) in the camera's frame; NaN for points not in front of it."""
    K = np.asarray(K, dtype=points_cam.dtype)
    z = np.where(points_cam[..., 2] > 1e-6, points_cam[..., 2], np.nan)
    u = K[0, 0] * points_cam[..., 0] / z + K[0, 2]
    v = K[1, 1] * points_cam[..., 1] / z + K[1, 2]
    return np.stack([u, v], axis=-1)


@dataclass(frozen=True)
class Camera:
    """One fixed pinhole camera, independent of resolution.

    Attributes:
        name: ``cam00`` ...
        T_world_cam: (4, 4), OpenCV axes.
        fovy_rad: vertical field of view.
        split: ``seen`` cameras may be trained on, ``novel`` ones never.
    """

    name: str
    T_world_cam: Array
    fovy_rad: float
    split: ViewSplit = "seen"

    def K(self, height: int, width: int) -> Array:
        """(3, 3) intrinsics at a resolution."""
        return intrinsics(self.fovy_rad, height, width)
