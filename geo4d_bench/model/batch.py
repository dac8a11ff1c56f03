"""Windows and first frames as tensors. The one place where view m's targets are moved to camera n's frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.types import FirstFrames, Video4D

AUXILIARY = "more/"
"""Prefix of what a batch holds of further windows: conditions, and where the hands go without any future frame."""


def batch_from_windows(windows: Sequence[Window]) -> dict[str, Tensor]:
    """A training batch: the condition of both views, and the targets with all points in camera n's frame.

    Returns:
        first_rgb (B, 2, H, W, 3) uint8; first_points (B, 2, H, W, 3) float32 m, each view's OWN frame, 0 where
        invalid; first_valid (B, 2, H, W) bool; hand_mask (B, H, W) bool; rays (B, 2, H, W, 3) float32, z = 1;
        first_hand (B, arms, 3) float32 m, camera n's frame; opening (B, arms) float32 m;
        rgb (B, 2, T, H, W, 3) uint8; points (B, 2, T, H, W, 3) float32 m, camera n's frame, 0 where invalid;
        valid (B, 2, T, H, W) bool; parts (B, 2, T, H, W) uint8; hand (B, arms, T, 3) float32 m and
        hand_rotation (B, arms, T, 3, 3), camera n's frame; hand_opening (B, arms, T) float32 m;
        T_world_cam (B, 2, 4, 4) float32, an input of calibrated generators, a target of the others.

    Raises:
        DatasetError: no windows, or windows of different shapes.
    """
    if not windows:
        raise DatasetError("a batch needs at least one window, got none")
    shapes = {w.rgb.shape for w in windows}
    if len(shapes) > 1:
        raise DatasetError(f"the windows of a batch have different shapes {sorted(shapes)}; render them at one size")
    batch = hands_from_windows(windows)
    points = np.stack([w.points[:, 1:] for w in windows])
    for i, w in enumerate(windows):
        # One (N, 3) product: as (T, H, W, 3) it would be T * H small ones.
        points[i, 1] = transform(w.T_n_m, points[i, 1].reshape(-1, 3)).reshape(points.shape[2:])
    valid = _zero_invalid(points)
    batch |= {
        "rgb": torch.from_numpy(np.stack([w.rgb[:, 1:] for w in windows])),
        "points": torch.from_numpy(points),
        "valid": torch.from_numpy(valid),
        "parts": torch.from_numpy(np.stack([w.parts[:, 1:] for w in windows])),
    }
    return batch


def hands_from_windows(windows: Sequence[Window]) -> dict[str, Tensor]:
    """The condition part of :func:`batch_from_windows`, with ``hand``, ``hand_rotation`` and ``hand_opening``."""
    T_n_ee = np.stack([w.T_n_ee[:, 1:] for w in windows]).astype(np.float32)
    return batch_from_first_frames([first_frames(w) for w in windows]) | {
        "hand": torch.from_numpy(T_n_ee[..., :3, 3].copy()),
        "hand_rotation": torch.from_numpy(T_n_ee[..., :3, :3].copy()),
        "hand_opening": torch.from_numpy(np.stack([w.opening_m[:, 1:] for w in windows]).astype(np.float32)),
    }


def first_frames(window: Window) -> FirstFrames:
    """What a policy would be shown at the window's start."""
    return FirstFrames(
        rgb=window.rgb[:, 0],
        points=window.points[:, 0],
        K=window.K,
        hand_mask=window.hand_mask,
        p_n_ee=window.T_n_ee[:, 0, :3, 3],
        opening_m=window.opening_m[:, 0],
        T_world_cam=np.stack([window.T_world_n, window.T_world_n @ window.T_n_m]),
    )


def true_video(window: Window) -> Video4D:
    """The window's own future, view m's points moved to camera n's frame."""
    points = np.stack([window.points[0, 1:], transform(window.T_n_m, window.points[1, 1:])])
    return Video4D(rgb=window.rgb[:, 1:], points=points, parts=window.parts[:, 1:], K=window.K, dt_s=window.dt_s)


def batch_from_first_frames(conditions: Sequence[FirstFrames]) -> dict[str, Tensor]:
    """The condition part of a batch (``first_*``, ``hand_mask``, ``opening``, ``rays``); an unknown mask is empty.

    ``T_world_cam`` (B, V, 4, 4) float32 is in it where all conditions have it; V views, as many as the conditions have.
    """
    points = np.stack([c.points for c in conditions]).astype(np.float32, copy=False)
    valid = _zero_invalid(points)
    height, width = points.shape[2:4]
    plane = np.ones((height, width), np.float32)
    empty = np.zeros((height, width), bool)
    rays = np.stack([[depth_to_points(plane, K) for K in c.K] for c in conditions])
    poses = [c.T_world_cam for c in conditions if c.T_world_cam is not None]
    known = (
        {"T_world_cam": torch.from_numpy(np.stack(poses).astype(np.float32))} if len(poses) == len(conditions) else {}
    )
    return known | {
        "first_rgb": torch.from_numpy(np.stack([c.rgb for c in conditions])),
        "first_points": torch.from_numpy(points),
        "first_valid": torch.from_numpy(valid),
        "hand_mask": torch.from_numpy(np.stack([empty if c.hand_mask is None else c.hand_mask for c in conditions])),
        "first_hand": torch.from_numpy(np.stack([c.p_n_ee for c in conditions]).astype(np.float32)),
        "opening": torch.from_numpy(np.stack([c.opening_m for c in conditions]).astype(np.float32)),
        "rays": torch.from_numpy(rays),
    }


def point_statistics(batch: dict[str, Tensor]) -> tuple[tuple[float, float, float], float]:
    """Mean (metres) and mean standard deviation of a batch's valid points, in camera n's frame, for a config."""
    points = batch["points"][batch["valid"]].double()
    x, y, z = points.mean(0).tolist()
    return (round(x, 3), round(y, 3), round(z, 3)), round(float(points.std(0).mean()), 3)


def input_spec(config: GeneratorConfig, size: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of everything in a batch of ``size`` windows for a generator, see :func:`batch_from_windows`."""
    c, image = config, (config.height, config.width)
    views, video, hands = (size, 2, *image), (size, 2, c.frames, *image), (size, c.arms, c.frames)
    return {
        "first_rgb": ((*views, 3), torch.uint8),
        "first_points": ((*views, 3), torch.float32),
        "first_valid": (views, torch.bool),
        "hand_mask": ((size, *image), torch.bool),
        "rays": ((*views, 3), torch.float32),
        "first_hand": ((size, c.arms, 3), torch.float32),
        "opening": ((size, c.arms), torch.float32),
        "T_world_cam": ((size, 2, 4, 4), torch.float32),
        "rgb": ((*video, 3), torch.uint8),
        "points": ((*video, 3), torch.float32),
        "valid": (video, torch.bool),
        "parts": (video, torch.uint8),
        "hand": ((*hands, 3), torch.float32),
        "hand_rotation": ((*hands, 3, 3), torch.float32),
        "hand_opening": (hands, torch.float32),
    }


def fake_batch(config: GeneratorConfig, size: int, further: int = 0) -> dict[str, Tensor]:
    """A batch of noise of that shape, the same at every call; both cameras in one place, nothing turned.

    With ``further``, so many more windows, of which only the hands are learned, see ``AUXILIARY``.
    """
    if further:
        videos = ("rgb", "points", "valid", "parts")
        more = {AUXILIARY + k: v for k, v in fake_batch(config, further).items() if k not in videos}
        return fake_batch(config, size) | more
    rng = torch.Generator().manual_seed(0)
    batch = {}
    for name, (shape, dtype) in input_spec(config, size).items():
        if dtype == torch.float32:
            batch[name] = torch.rand(shape, generator=rng)
        else:
            high = {"first_rgb": 256, "rgb": 256, "parts": config.part_classes}.get(name, 2)
            batch[name] = torch.randint(high, shape, generator=rng).to(dtype)
    for name in ("T_world_cam", "hand_rotation"):
        batch[name] = torch.eye(batch[name].shape[-1]).expand(batch[name].shape).clone()
    batch["points"] *= batch["valid"][..., None]
    batch["first_points"] *= batch["first_valid"][..., None]
    batch["rays"][..., 2] = 1.0
    return batch


def _zero_invalid(points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Set points (..., 3) that are not finite to 0, in place, and return which (...) were finite."""
    valid: npt.NDArray[np.bool_] = np.isfinite(points[..., 0] + points[..., 1] + points[..., 2])
    np.copyto(points, 0.0, where=~valid[..., None])
    return valid
