"""What a generator is told of its data before it is trained: sizes, scales, and what the hands look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, RIGHT_FINGER, part_label
from geo4d_bench.geometry.se3 import Array, inverse, transform
from geo4d_bench.model.backbones import AnyConfig
from geo4d_bench.model.batch import batch_from_windows
from geo4d_bench.model.latent_config import LatentConfig
from geo4d_bench.model.localise import CELL_M, MAP_POINTS
from geo4d_bench.model.sprites import CLOUD_POINTS, HandClouds

_ROOM_M = 0.15  # about where the hands go: what they reach for is no farther
_OPEN_M = 0.02  # fingers at least this far apart tell along which axis they open


def measure(preset: AnyConfig, windows: Sequence[Window]) -> AnyConfig:
    """The preset with normalisation measured on windows, and their frames, time step and arms.

    Points keep the preset's normalisation where an autoencoder expects it.

    Raises:
        DatasetError: images of another size than the preset's.
    """
    height, width = windows[0].rgb.shape[2:4]
    if (height, width) != (preset.height, preset.width):
        raise DatasetError(
            f"the data's images are {height} x {width}, this preset is for {preset.height} x {preset.width}; "
            f"render with --height {preset.height} --width {preset.width} or choose another preset"
        )
    batch = batch_from_windows(windows)
    points = batch["points"][batch["valid"]].double()
    hands = [transform(w.T_world_n, w.T_n_ee[..., :3, 3]).reshape(-1, 3) for w in windows]
    low, high = np.concatenate(hands).min(0) - _ROOM_M, np.concatenate(hands).max(0) + _ROOM_M
    motion = batch["hand"][:, :, -1] - batch["hand"][:, :, 0]
    mean, centre = points.mean(0).tolist(), ((low + high) / 2).tolist()
    arms, frames, dt_s = batch["hand"].shape[1], batch["rgb"].shape[2], windows[0].dt_s
    if isinstance(preset, LatentConfig) and not preset.pixels:
        return dataclasses.replace(preset, arms=arms, frames=frames, dt_s=dt_s)
    preset = dataclasses.replace(
        preset,
        arms=arms,
        frames=frames,
        dt_s=dt_s,
        point_mean_m=(round(mean[0], 3), round(mean[1], 3), round(mean[2], 3)),
        point_scale_m=round(float(points.std(0).mean()), 3),
    )
    if isinstance(preset, LatentConfig):
        return preset
    return dataclasses.replace(
        preset,
        work_centre_m=(round(centre[0], 3), round(centre[1], 3), round(centre[2], 3)),
        work_half_m=round(float((high - low).max()) / 2, 3),
        motion_scale_m=round(max(0.02, float(motion.square().sum(-1).mean().sqrt())), 3),
    )


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
