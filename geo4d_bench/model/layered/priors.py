"""What the layered generator takes from its data besides weights: a template of the grippers, a map of the scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, RIGHT_FINGER, part_label
from geo4d_bench.geometry.se3 import Array, inverse, transform
from geo4d_bench.model.layered.localise import CELL_M, MAP_POINTS
from geo4d_bench.model.layered.sprites import CLOUD_POINTS, HandClouds

_OPEN_M = 0.02  # fingers at least this far apart tell along which axis they open


def hand_clouds(windows: Sequence[Window]) -> HandClouds:
    """Points that the windows' future shows of each hand, gathered in its end effector's frame with the fingers closed.

    Half of them lie on the hand and a quarter on each finger, as far as these are seen. Fingers that are never seen
    open together stay where they are.
    """
    arms = len(windows[0].T_n_ee)
    clouds = [_gather(windows, arm) for arm in range(arms)]
    points, rgb, part, axis = (torch.from_numpy(np.stack(x).astype(np.float32)) for x in zip(*clouds, strict=True))
    return HandClouds(points, rgb, part, axis)


def scene_points(windows: Sequence[Window]) -> torch.Tensor:
    """(up to ``MAP_POINTS``, 3) metres in the world: of the cubes in which the windows' first future frames show
    something, one point each, those seen by the most views first. What stands elsewhere in every episode is seen least.
    """
    views = []
    for w in windows:
        for T, points in zip((w.T_world_n, w.T_world_n @ w.T_n_m), w.points[:, 1], strict=True):
            finite = points[np.isfinite(points).all(-1)].astype(np.float64)
            world = transform(T, finite)
            views.append(world[np.unique(_cells(world), axis=0, return_index=True)[1]])
    world = np.concatenate(views)
    _, first, count = np.unique(_cells(world), axis=0, return_index=True, return_counts=True)
    most = np.argsort(-count, kind="stable")[:MAP_POINTS]
    return torch.from_numpy(world[first[most]].astype(np.float32))


def _cells(points: Array) -> npt.NDArray[np.int64]:
    cells: npt.NDArray[np.int64] = np.floor(points / CELL_M).astype(np.int64)
    return cells


def _gather(windows: Sequence[Window], arm: int) -> tuple[Array, Array, Array, Array]:
    found: list[tuple[Array, Array, Array, float]] = []  # points (P, 3), colours (P, 3), parts (P,), opening
    for w in windows:
        points_n = np.stack([w.points[0], transform(w.T_n_m, w.points[1])])
        for t in range(1, len(w.T_n_ee[arm])):
            T_n_ee = w.T_n_ee[arm, t]
            part = w.parts[:, t].astype(np.int64) - part_label(arm, HAND)
            mine = (part >= HAND) & (part <= RIGHT_FINGER) & np.isfinite(points_n[:, t]).all(-1)
            points = transform(inverse(T_n_ee), points_n[:, t][mine].astype(np.float64))
            found.append((points, w.rgb[:, t][mine] / 127.5 - 1.0, part[mine], float(w.opening_m[arm, t])))
    axis = _axis(found)
    parts = np.concatenate([part for _, _, part, _ in found])
    sign = (parts == LEFT_FINGER).astype(np.float64) - (parts == RIGHT_FINGER)
    opening = np.concatenate([np.full(len(part), o) for _, _, part, o in found])
    points = np.concatenate([p for p, _, _, _ in found]) - 0.5 * (opening * sign)[:, None] * axis
    rgb = np.concatenate([c for _, c, _, _ in found])
    cloud_points, cloud_rgb = np.zeros((CLOUD_POINTS, 3)), np.zeros((CLOUD_POINTS, 3))
    cloud_part = np.full(CLOUD_POINTS, -1.0)
    rng, room = np.random.default_rng(0), 0
    for label, share in ((HAND, 0.5), (LEFT_FINGER, 0.25), (RIGHT_FINGER, 0.25)):
        of_part = np.flatnonzero(parts == label)
        count = min(len(of_part), round(share * CLOUD_POINTS))
        chosen, here = rng.choice(of_part, count, replace=False) if count else of_part, slice(room, room + count)
        cloud_points[here], cloud_rgb[here], cloud_part[here] = points[chosen], rgb[chosen], label
        room += count
    return cloud_points, cloud_rgb, cloud_part, axis


def _axis(found: Sequence[tuple[Array, Array, Array, float]]) -> Array:
    """(3,) unit vector from the right to the left finger; zeros where they are never seen apart."""
    apart = [
        points[part == LEFT_FINGER].mean(0) - points[part == RIGHT_FINGER].mean(0)
        for points, _, part, opening in found
        if opening >= _OPEN_M and (part == LEFT_FINGER).any() and (part == RIGHT_FINGER).any()
    ]
    if not apart:
        return np.zeros(3)
    mean = np.median(apart, axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9))
