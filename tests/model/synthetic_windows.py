"""Windows of a made-up scene with exact geometry: a back wall and a square 'hand' that moves across it."""

from __future__ import annotations

import numpy as np

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.camera import depth_to_points, intrinsics, look_at
from geo4d_bench.geometry.se3 import inverse, transform

_EYES = ((0.9, -0.35, 0.5), (0.95, 0.3, 0.45), (0.85, 0.05, 0.7), (0.9, -0.1, 0.35))
_HALF_M = 0.12


def window(seed: int, height: int = 16, width: int = 24, frames: int = 3, same_camera: bool = False) -> Window:
    """Two views of the scene; the world's x = 0 plane is the wall, the hand floats 0.2 m in front of it."""
    rng = np.random.default_rng(seed)
    n, m = rng.choice(len(_EYES), 2, replace=False)
    if same_camera:
        m = n
    T_world = [look_at(_EYES[i], (0.0, 0.0, 0.3)) for i in (n, m)]
    K = intrinsics(np.deg2rad(60.0), height, width)
    start, goal = rng.uniform([-0.15, 0.15], [0.15, 0.45]), np.array([0.1, 0.25])
    centres = [np.array([0.2, *(start + (goal - start) * i / frames)]) for i in range(frames + 1)]
    views = [[_render(T, K, c, height, width) for c in centres] for T in T_world]
    T_n_m = inverse(T_world[0]) @ T_world[1]
    T_n_ee = np.tile(np.eye(4), (1, frames + 1, 1, 1))
    T_n_ee[0, :, :3, 3] = transform(inverse(T_world[0]), np.stack(centres))
    parts = np.stack([[f[2] for f in v] for v in views])
    return Window(
        rgb=np.stack([[f[0] for f in v] for v in views]),
        points=np.stack([[f[1] for f in v] for v in views]),
        parts=parts,
        hand_mask=parts[0, 0] > 0,
        K=np.stack([K, K]),
        T_n_m=T_n_m,
        T_world_n=T_world[0],
        T_n_ee=T_n_ee,
        opening_m=np.full((1, frames + 1), 0.04),
        dt_s=0.4,
        episode="synthetic",
        start=0,
        cameras=(f"cam{n:02d}", f"cam{m:02d}"),
    )


def _render(T_world_cam, K, centre, height, width):
    """(rgb, points in the camera's frame, parts) by intersecting pixel rays with the hand's plane, then the wall."""
    rays = depth_to_points(np.ones((height, width), np.float32), K).astype(np.float64)
    directions, eye = rays @ T_world_cam[:3, :3].T, T_world_cam[:3, 3]
    depth_hand, depth_wall = (centre[0] - eye[0]) / directions[..., 0], -eye[0] / directions[..., 0]
    on_plane = eye + directions * depth_hand[..., None]
    offset = on_plane - centre
    hit = (np.abs(offset[..., 1:]) < _HALF_M).all(-1) & (depth_hand > 0)
    # The hand's lower half is its palm, the upper corners are its fingers.
    parts = np.where(hit, np.where(offset[..., 2] < 0, 1, np.where(offset[..., 1] < 0, 2, 3)), 0).astype(np.uint8)
    depth = np.where(hit, depth_hand, depth_wall)
    depth[(depth_wall <= 0) | (depth > 1.2)] = np.nan
    wall = eye + directions * depth_wall[..., None]
    checker = (np.floor(wall[..., 1] * 8) + np.floor(wall[..., 2] * 8)) % 2
    rgb = np.where(hit[..., None], [200, 40 * 1, 40], np.where(checker[..., None] > 0, [90, 120, 150], [40, 60, 80]))
    points = (rays * depth[..., None]).astype(np.float32)
    return rgb.astype(np.uint8), points, parts
