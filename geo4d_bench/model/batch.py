"""Windows and first frames as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import DatasetError
from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.geometry.se3 import to_camera_n
from geo4d_bench.model.blocks import product
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.types import FirstFrames, Video4D

AUXILIARY = "more/"
"""Prefix of what a batch holds of further windows: conditions, and where the hands go without any future frame."""


def batch_from_windows(windows: Sequence[Window], further: Sequence[Window] = ()) -> dict[str, Tensor]:
    """A training batch: the condition of both views, and the targets with all points in camera n's frame.

    Of ``further`` windows it has :func:`hands_from_windows` under ``AUXILIARY``.

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
    more = hands_from_windows(further) if further else {}
    points = np.stack([to_camera_n(w.points[:, 1:], w.T_n_m) for w in windows])
    valid = _zero_invalid(points)
    return {
        **hands_from_windows(windows),
        "rgb": torch.from_numpy(np.stack([w.rgb[:, 1:] for w in windows])),
        "points": torch.from_numpy(points),
        "valid": torch.from_numpy(valid),
        "parts": torch.from_numpy(np.stack([w.parts[:, 1:] for w in windows])),
        **{AUXILIARY + k: v for k, v in more.items()},
    }


def hands_from_windows(windows: Sequence[Window]) -> dict[str, Tensor]:
    """The condition part of :func:`batch_from_windows`, with ``hand``, ``hand_rotation`` and ``hand_opening``."""
    T_n_ee = np.stack([w.T_n_ee[:, 1:] for w in windows]).astype(np.float32)
    return batch_from_first_frames([frames_of_window(w) for w in windows]) | {
        "hand": torch.from_numpy(T_n_ee[..., :3, 3].copy()),
        "hand_rotation": torch.from_numpy(T_n_ee[..., :3, :3].copy()),
        "hand_opening": torch.from_numpy(np.stack([w.opening_m[:, 1:] for w in windows]).astype(np.float32)),
    }


def frames_of_window(window: Window) -> FirstFrames:
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
    points = to_camera_n(window.points[:, 1:], window.T_n_m)
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


def apply_ablation(c: GeneratorConfig, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch (see :func:`batch_from_windows`) as a generator with this config gets it.

    ``no_mask`` follows the paper's release: an invalid pixel is the point (0, 0, 0) of its own camera's frame, which
    for view m is moved to camera n's frame like any other, and counts. ``native_frame`` leaves view m's points in
    camera m's frame.
    """
    if not c.mask_invalid:
        batch = batch | {
            "first_points": batch["first_points"].where(batch["first_valid"][..., None], 0.0),
            "first_valid": torch.ones_like(batch["first_valid"]),
        }
        if "points" in batch:
            centre = T_n_cam(batch)[:, :, None, None, None, :3, 3]
            batch["points"] = batch["points"].where(batch["valid"][..., None], centre)
            batch["valid"] = torch.ones_like(batch["valid"])
    if not c.shared_frame and "points" in batch:
        T = T_n_cam(batch)[:, 1]
        to_m = T[:, None, None, None, :3, :3].transpose(-1, -2)
        own = product(to_m, (batch["points"][:, 1] - T[:, None, None, None, :3, 3])[..., None])[..., 0]
        batch = batch | {"points": torch.stack([batch["points"][:, 0], own * batch["valid"][:, 1, ..., None]], 1)}
    return batch


def T_n_cam(batch: dict[str, Tensor]) -> Tensor:
    """(B, V, 4, 4) poses of all cameras in camera n's frame."""
    T_world_cam = batch["T_world_cam"].double()
    T: Tensor = torch.linalg.inv_ex(T_world_cam[:, :1]).inverse @ T_world_cam  # inv would wait to see if it failed
    return T.float()


def point_statistics(batch: dict[str, Tensor]) -> tuple[tuple[float, float, float], float]:
    """Mean (metres) and mean standard deviation of a batch's valid points, in camera n's frame, for a config."""
    points = batch["points"][batch["valid"]].double()
    x, y, z = points.mean(0).tolist()
    return (round(x, 3), round(y, 3), round(z, 3)), round(float(points.std(0).mean()), 3)


def fake_window(config: GeneratorConfig, seed: int = 0) -> Window:
    """A window of noise for a generator; half of the points are invalid, both cameras in one place, no hand turned."""
    c, rng = config, np.random.default_rng(seed)
    video, hands = (2, 1 + c.frames, c.height, c.width), (c.arms, 1 + c.frames)
    points = rng.random((*video, 3), dtype=np.float32)
    points[rng.random(video, dtype=np.float32) < 0.5] = np.nan
    T_n_ee = np.tile(np.eye(4), (*hands, 1, 1))
    T_n_ee[..., :3, 3] = rng.random((*hands, 3))
    K = np.array([[c.width, 0, c.width / 2], [0, c.width, c.height / 2], [0, 0, 1]])
    return Window(
        rgb=rng.integers(256, size=(*video, 3), dtype=np.uint8), points=points,
        parts=rng.integers(c.part_classes, size=video, dtype=np.uint8), hand_mask=rng.random(video[2:]) < 0.5,
        K=np.stack([K, K]), T_n_m=np.eye(4), T_world_n=np.eye(4), T_n_ee=T_n_ee, opening_m=rng.random(hands),
        dt_s=c.dt_s, episode="noise", start=0, cameras=("n", "m"),
    )  # fmt: skip


def fake_batch(config: GeneratorConfig, size: int, further: int = 0) -> dict[str, Tensor]:
    """:func:`batch_from_windows` of so many windows of noise, the same at every call."""
    windows = [fake_window(config, seed) for seed in range(size + further)]
    return batch_from_windows(windows[:size], windows[size:])


def input_spec(config: GeneratorConfig, size: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of everything in a batch of ``size`` windows for a generator, see :func:`batch_from_windows`."""
    return {k: (tuple(v.shape), v.dtype) for k, v in fake_batch(config, size).items()}


def _zero_invalid(points: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Set points (..., 3) that are not finite to 0, in place, and return which (...) were finite."""
    valid: npt.NDArray[np.bool_] = np.isfinite(points[..., 0] + points[..., 1] + points[..., 2])
    np.copyto(points, 0.0, where=~valid[..., None])
    return valid
