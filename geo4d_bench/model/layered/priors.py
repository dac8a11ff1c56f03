"""What the layered generator takes from its data besides weights: a template of the grippers, a map of the scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from geo4d_bench.dataset.types import Window
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, RIGHT_FINGER, part_label
from geo4d_bench.geometry.se3 import Array, inverse, to_camera_n, transform
from geo4d_bench.model.layered.localise import CELL_M, MAP_POINTS, one_per_cell
from geo4d_bench.model.layered.sprites import CLOUD_POINTS, HandClouds

_OPEN_M = 0.02  # fingers at least this far apart show along which axis they open


def hand_clouds(windows: Sequence[Window]) -> HandClouds:
    """Points that the windows' future shows of each hand, gathered in its end effector's frame with the fingers closed.

    Half of them lie on the hand and a quarter on each finger, as far as these are seen. Fingers that are never seen
    open together stay where they are.
    """
    clouds = [_gather(windows, arm) for arm in range(len(windows[0].T_n_ee))]
    return HandClouds(*(torch.from_numpy(np.stack(x).astype(np.float32)) for x in zip(*clouds, strict=True)))


def scene_points(windows: Sequence[Window]) -> torch.Tensor:
    """(up to ``MAP_POINTS``, 3) metres in the world: of the cubes in which the windows' first future frames show
    something, one point each, those seen by the most views first. What stands elsewhere in every episode is seen least.
    """
    views = []
    for w in windows:
        for T, points in zip((w.T_world_n, w.T_world_n @ w.T_n_m), w.points[:, 1], strict=True):
            seen = transform(T, points[np.isfinite(points).all(-1)].astype(np.float64))
            views.append(seen[one_per_cell(seen, CELL_M)[0]])
    world = np.concatenate(views)
    first, count = one_per_cell(world, CELL_M)
    most = np.argsort(-count, kind="stable")[:MAP_POINTS]
    return torch.from_numpy(world[first[most]].astype(np.float32))


def _gather(windows: Sequence[Window], arm: int) -> tuple[Array, Array, Array, Array]:
    """One arm's fields of :class:`HandClouds`."""
    found: list[tuple[Array, Array, Array, float]] = []  # points (P, 3), colours (P, 3), parts (P,), opening
    for w in windows:
        points_n = to_camera_n(w.points, w.T_n_m)
        for t in range(1, len(w.T_n_ee[arm])):
            part: Any = w.parts[:, t].astype(np.int64) - part_label(arm, HAND)
            mine = (part >= HAND) & (part <= RIGHT_FINGER) & np.isfinite(points_n[:, t]).all(-1)
            points = transform(inverse(w.T_n_ee[arm, t]), points_n[:, t][mine].astype(np.float64))
            found.append((points, w.rgb[:, t][mine] / 127.5 - 1.0, part[mine], float(w.opening_m[arm, t])))
    axis = _axis(found)
    points, rgb, parts = (np.concatenate(x) for x in list(zip(*found, strict=True))[:3])
    opening = np.repeat([opening for *_, opening in found], [len(part) for _, _, part, _ in found])
    sign = (parts == LEFT_FINGER).astype(np.float64) - (parts == RIGHT_FINGER)
    points = points - 0.5 * (opening * sign)[:, None] * axis
    rng, chosen = np.random.default_rng(0), []
    for label, share in ((HAND, 0.5), (LEFT_FINGER, 0.25), (RIGHT_FINGER, 0.25)):
        of_part = np.flatnonzero(parts == label)
        count = min(len(of_part), round(share * CLOUD_POINTS))
        chosen.append(rng.choice(of_part, count, replace=False) if count else of_part)
    kept = np.concatenate(chosen)
    rest = (0, CLOUD_POINTS - len(kept))
    return (
        np.pad(points[kept], (rest, (0, 0))), np.pad(rgb[kept], (rest, (0, 0))),
        np.pad(parts[kept].astype(np.float64), rest, constant_values=-1.0), axis,
    )  # fmt: skip


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
