"""A hand made of boxes, seen by two cameras: the truth is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geo4d_bench.geometry.camera import intrinsics, look_at, project
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, RIGHT_FINGER, HandModel, part_label
from geo4d_bench.geometry.se3 import Array, inverse, pose, transform
from geo4d_bench.model.types import Video4D

H, W = 64, 80
MAX_OPENING_M = 0.08


def box_surface(low: Array, high: Array, step: float) -> tuple[Array, Array]:
    """Points and outward normals on an axis-aligned box, on a grid of about ``step`` metres."""
    points, normals = [], []
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        grids = [
            np.linspace(low[a] + step / 2, high[a] - step / 2, max(1, round((high[a] - low[a]) / step))) for a in others
        ]
        a, b = np.meshgrid(*grids, indexing="ij")
        for side, value in ((-1.0, low[axis]), (1.0, high[axis])):
            p = np.zeros((a.size, 3))
            p[:, axis], p[:, others[0]], p[:, others[1]] = value, a.ravel(), b.ravel()
            n = np.zeros_like(p)
            n[:, axis] = side
            points.append(p)
            normals.append(n)
    return np.concatenate(points), np.concatenate(normals)


def box_hand(step: float = 0.005) -> HandModel:
    """About a Panda's hand: a 20 x 6 x 7 cm palm above two fingers of 2 x 2 x 5 cm, grip site at the finger tips."""
    boxes = {
        HAND: ([-0.03, -0.10, -0.12], [0.03, 0.10, -0.05]),
        LEFT_FINGER: ([-0.01, 0.0, -0.05], [0.01, 0.02, 0.01]),
        RIGHT_FINGER: ([-0.01, -0.02, -0.05], [0.01, 0.0, 0.01]),
    }
    parts = [(box_surface(np.array(lo), np.array(hi), step), part) for part, (lo, hi) in boxes.items()]
    return HandModel(
        points=np.concatenate([p for (p, _), _ in parts]),
        normals=np.concatenate([n for (_, n), _ in parts]),
        part=np.concatenate([np.full(len(p), part, dtype=np.uint8) for (p, _), part in parts]),
        finger_axis=np.array([0.0, 1.0, 0.0]),
        max_opening_m=MAX_OPENING_M,
    )


@dataclass(frozen=True)
class Scene:
    """Two cameras a metre from a hand at the world's origin, 50° apart."""

    T_world_n: Array
    T_world_m: Array
    K: Array

    @staticmethod
    def make() -> Scene:
        def eye(azimuth: float) -> Array:
            return np.array([np.cos(azimuth), np.sin(azimuth), 0.6])

        K = intrinsics(np.radians(45), H, W)
        return Scene(look_at(eye(0.2), [0, 0, 0]), look_at(eye(1.1), [0, 0, 0]), np.stack([K, K]))


def render(
    scene: Scene,
    hand: HandModel,
    T_world_ee: Array,
    openings: Array,
    rng: np.random.Generator,
    noise_m: float = 0.0,
    dt_s: float = 0.4,
) -> Video4D:
    """The hand alone, splatted into both views with a depth buffer; noise along each pixel's ray.

    Args:
        hand: its model; use a finer one than the tracker's, so that pixels have no holes.
        T_world_ee: (T, 4, 4).  openings: (T,).
    """
    frames = len(openings)
    points = np.full((2, frames, H, W, 3), np.nan, dtype=np.float32)
    parts = np.zeros((2, frames, H, W), dtype=np.uint8)
    T_n_world = inverse(scene.T_world_n)
    labels = np.array([part_label(0, int(part)) for part in hand.part], dtype=np.uint8)
    for view, T_world_cam in enumerate((scene.T_world_n, scene.T_world_m)):
        for t in range(frames):
            p_cam = transform(inverse(T_world_cam) @ T_world_ee[t], hand.at_opening(openings[t]))
            pixel = np.rint(project(p_cam, scene.K[view])).astype(int)
            inside = (pixel >= 0).all(1) & (pixel[:, 0] < W) & (pixel[:, 1] < H)
            far_first = np.argsort(-p_cam[:, 2])
            seen = far_first[inside[far_first]]
            # Of repeated pixels the last assignment stays: the nearest point.
            points[view, t, pixel[seen, 1], pixel[seen, 0]] = p_cam[seen]
            parts[view, t, pixel[seen, 1], pixel[seen, 0]] = labels[seen]
            scale = 1.0 + noise_m * rng.standard_normal((H, W, 1)) / np.linalg.norm(p_cam.mean(0))
            points[view, t] *= scale.astype(np.float32)
            points[view, t] = transform(T_n_world @ T_world_cam, points[view, t])
    return Video4D(np.zeros((2, frames, H, W, 3), dtype=np.uint8), points, parts, scene.K, dt_s)


def downward(translation: Array, yaw: float = 0.0, pitch: float = 0.0) -> Array:
    """T_world_ee of a hand that approaches downwards, turned by yaw about world z and pitched about world y."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("zy", [yaw, pitch]) * Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))
    return pose(turn.as_matrix(), translation)
