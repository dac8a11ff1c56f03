"""Pinhole cameras with OpenCV axes."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.se3 import Array, pose

ViewSplit = Literal["seen", "novel"]
VERTICAL_DEG = 0.1
"""Nearer to the vertical than this, the world's z axis gives no image a stable upper side."""


def intrinsics(fovy_rad: float, height: int, width: int) -> Array:
    """K (3, 3) of square pixels from the vertical field of view; the principal point is the image's middle.

    Pixel (u, v) has its centre at (u, v), so the middle of the image is ((W - 1) / 2, (H - 1) / 2).
    """
    f = 0.5 * height / np.tan(0.5 * fovy_rad)
    return np.array([[f, 0.0, (width - 1) / 2], [0.0, f, (height - 1) / 2], [0.0, 0.0, 1.0]])


def look_at(eye: npt.ArrayLike, target: npt.ArrayLike, up: npt.ArrayLike | None = None) -> Array:
    """T_world_cam (4, 4) of a camera at ``eye`` that looks at ``target`` with ``up`` upwards in the image.

    Without ``up`` it is the world's z axis, and its x axis, away from the robot, for a camera that looks straight down
    or up (within ``VERTICAL_DEG``). ConfigError where ``up`` is parallel to the viewing direction.
    """
    eye, target = np.asarray(eye, dtype=np.float64), np.asarray(target, dtype=np.float64)
    z = target - eye
    z /= np.linalg.norm(z)
    if up is None:
        up = (1.0, 0.0, 0.0) if np.hypot(z[0], z[1]) < np.sin(np.radians(VERTICAL_DEG)) else (0.0, 0.0, 1.0)
    x = np.cross(z, np.asarray(up, dtype=np.float64))
    if np.linalg.norm(x) < 1e-9:
        raise ConfigError("the viewing direction is parallel to 'up'; give another 'up'")
    x /= np.linalg.norm(x)
    return pose(np.stack([x, np.cross(z, x), z], axis=1), eye)


def depth_to_points(
    depth: npt.NDArray[np.floating[Any]], K: npt.ArrayLike, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Pointmap (..., H, W, 3) float32 in the camera's frame from depth (..., H, W), metres along z; NaN stays NaN.

    Written into ``out`` where that is given.
    """
    x, y = ray_slopes(K, *depth.shape[-2:])
    depth = depth.astype(np.float32, copy=False)
    points = np.empty((*depth.shape, 3), dtype=np.float32) if out is None else out
    np.multiply(x[None, :], depth, out=points[..., 0])
    np.multiply(y[:, None], depth, out=points[..., 1])
    points[..., 2] = depth
    return points


def ray_slopes(K: npt.ArrayLike, height: int, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """x (W,) of every column's rays and y (H,) of every row's, where z = 1."""
    K = np.asarray(K, dtype=np.float64)
    x, y = (np.arange(width) - K[0, 2]) / K[0, 0], (np.arange(height) - K[1, 2]) / K[1, 1]
    return x.astype(np.float32), y.astype(np.float32)


def project(points_cam: npt.NDArray[np.floating[Any]], K: npt.ArrayLike) -> npt.NDArray[np.floating[Any]]:
    """Pixels (..., 2) as (u, v) of points (..., 3) in the camera's frame; NaN for points not in front of it."""
    K = np.asarray(K, dtype=points_cam.dtype)
    z = np.where(points_cam[..., 2] > 1e-6, points_cam[..., 2], np.nan)
    u = K[0, 0] * points_cam[..., 0] / z + K[0, 2]
    v = K[1, 1] * points_cam[..., 1] / z + K[1, 2]
    return np.stack([u, v], axis=-1)


def ray_distance_m(points_cam: npt.NDArray[np.floating[Any]], K: npt.ArrayLike) -> Array:
    """(..., H, W) metres from the points (..., H, W, 3) of a pointmap in its camera's frame to the rays of the pixels
    that they are in; infinite behind the camera, NaN for NaN. A rendered pointmap's are 0, a generated one's can be
    anything."""
    x, y = ray_slopes(K, *points_cam.shape[-3:-1])
    ray = np.stack(np.broadcast_arrays(x[None, :], y[:, None], np.float32(1.0)), axis=-1).astype(np.float64)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    along = (points_cam * ray).sum(-1)
    away = np.linalg.norm(points_cam - along[..., None] * ray, axis=-1)
    return np.where(along <= 0, np.inf, away)


@dataclass(frozen=True)
class Lens:
    """A calibrated pinhole. Images of any size show the largest middle part of the calibrated image that has their
    aspect ratio: all of it where the ratio is the same.

    Attributes:
        fx, fy: focal lengths.  x0, y0: from the middle of the image to the principal point, right and down. All in
            pixels of the calibrated image.
        width, height: of that image; height 0 where only the width is known: as high as need be.
    """

    fx: float
    fy: float
    x0: float
    y0: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (all(map(math.isfinite, astuple(self))) and min(self.fx, self.fy, self.width) > 0 <= self.height):
            raise ValueError(f"expected finite focal lengths and a size above 0, got {self}")

    def K(self, height: int, width: int) -> Array:
        """(3, 3) intrinsics of images of a size."""
        scale = max(width / self.width, height / self.height if self.height else 0.0)
        u, v = self.x0 * scale + (width - 1) / 2, self.y0 * scale + (height - 1) / 2
        return np.array([[self.fx * scale, 0.0, u], [0.0, self.fy * scale, v], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Camera:
    """One fixed pinhole camera, independent of resolution.

    Attributes:
        name: ``cam00`` ...
        T_world_cam: (4, 4), OpenCV axes.
        fovy_rad: vertical field of view, square pixels, the principal point in the middle; None with a ``lens``.
        split: ``seen`` cameras may be trained on, ``novel`` ones never.
        lens: in place of ``fovy_rad``.
    """

    name: str
    T_world_cam: Array
    fovy_rad: float | None
    split: ViewSplit = "seen"
    lens: Lens | None = None

    def __post_init__(self) -> None:
        if (self.fovy_rad is None) == (self.lens is None):
            raise ConfigError(f"camera '{self.name}': expected a vertical field of view or a lens")

    def K(self, height: int, width: int) -> Array:
        """(3, 3) intrinsics at a resolution."""
        if self.lens is not None:
            return self.lens.K(height, width)
        assert self.fovy_rad is not None
        return intrinsics(self.fovy_rad, height, width)
