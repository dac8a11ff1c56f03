"""Rigid transforms as 4x4 float64 matrices, named ``T_a_b``: they take points in frame b to frame a."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation, Slerp

Array = npt.NDArray[np.float64]
Float = TypeVar("Float", bound=np.floating[Any])

FURTHEST_M = 100.0
"""No target of a robot lies further from the world's origin, along any axis."""


def pose(rotation: npt.ArrayLike | None = None, translation: npt.ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """The (4, 4) pose with a (3, 3) rotation (identity where None) and a (3,) translation in metres."""
    T = np.eye(4)
    if rotation is not None:
        T[:3, :3] = rotation
    T[:3, 3] = translation
    return T


def unfit_pose(poses: Array) -> tuple[int, str] | None:
    """Index of the first of some poses (N, 4, 4) that no robot can be sent to, and what it has; None where all are
    fit."""
    finite = np.isfinite(poses).all((1, 2))
    if not finite.all():
        return int(finite.argmin()), "values that are not finite"
    R = poses[:, :3, :3]
    rigid = np.isclose(R @ R.transpose(0, 2, 1), np.eye(3), atol=1e-4).all((1, 2)) & (np.linalg.det(R) > 0)
    near = (np.abs(poses[:, :3, 3]) <= FURTHEST_M).all(1)
    for fit, has in ((rigid, "a rotation that is not orthonormal"), (near, f"a position beyond {FURTHEST_M:g} m")):
        if not fit.all():
            return int(fit.argmin()), has
    return None


def inverse(T: npt.ArrayLike) -> Array:
    """Inverse of rigid poses (..., 4, 4), by transposing the rotation."""
    T = np.asarray(T, dtype=np.float64)
    out = np.zeros_like(T)
    R_t = np.swapaxes(T[..., :3, :3], -1, -2)
    out[..., :3, :3] = R_t
    out[..., :3, 3] = -(R_t @ T[..., :3, 3, None])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def transform(T_a_b: npt.ArrayLike, points_b: npt.NDArray[Float]) -> npt.NDArray[Float]:
    """Points (..., 3) in b to frame a, by one (4, 4) pose; dtype is kept and NaN stays NaN."""
    T = np.asarray(T_a_b, dtype=points_b.dtype)
    points_a: npt.NDArray[Float] = points_b @ T[:3, :3].T + T[:3, 3]
    return points_a


def to_camera_n(points: npt.NDArray[Float], T_n_m: npt.ArrayLike) -> npt.NDArray[Float]:
    """Pointmaps (2, ..., 3) of views n and m, each in its own camera's frame, all in camera n's frame; a copy."""
    moved = points.copy()
    moved[1] = transform(T_n_m, points[1].reshape(-1, 3)).reshape(points.shape[1:])  # one product, not one a row
    return moved


def rotation_angle(R_a: npt.ArrayLike, R_b: npt.ArrayLike) -> Array:
    """Angle in radians between rotations (..., 3, 3)."""
    R = np.swapaxes(np.asarray(R_a, dtype=np.float64), -1, -2) @ np.asarray(R_b, dtype=np.float64)
    # atan2 of the skew part and the trace keeps its precision near 0, where arccos loses it.
    skew = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1)
    angle: Array = np.arctan2(np.linalg.norm(skew, axis=-1), np.trace(R, axis1=-2, axis2=-1) - 1.0)
    return angle


def pose_error(T_a: npt.ArrayLike, T_b: npt.ArrayLike) -> tuple[Array, Array]:
    """Distance in metres and angle in radians between poses (..., 4, 4)."""
    T_a, T_b = np.asarray(T_a, dtype=np.float64), np.asarray(T_b, dtype=np.float64)
    distance = np.linalg.norm(T_a[..., :3, 3] - T_b[..., :3, 3], axis=-1)
    return distance, rotation_angle(T_a[..., :3, :3], T_b[..., :3, :3])


def interpolate_poses(times: npt.ArrayLike, poses: npt.ArrayLike, at: npt.ArrayLike) -> Array:
    """Poses (M, 4, 4) at times ``at`` (M,), linear in position and spherical in rotation.

    Args:
        times: (N,) increasing seconds, N >= 2.
        poses: (N, 4, 4).
        at: (M,) seconds; clamped to the range of ``times``.
    """
    times, poses = np.asarray(times, dtype=np.float64), np.asarray(poses, dtype=np.float64)
    at = np.clip(np.asarray(at, dtype=np.float64), times[0], times[-1])
    out = np.tile(np.eye(4), (len(at), 1, 1))
    out[:, :3, :3] = Slerp(times, Rotation.from_matrix(poses[:, :3, :3]))(at).as_matrix()
    for axis in range(3):
        out[:, axis, 3] = np.interp(at, times, poses[:, axis, 3])
    return out
