"""What the layered generator is given: the first frames in patches, where the hands are in them, the cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geo4d_bench.model.blocks import constant, product
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.patches import to_patches
from geo4d_bench.model.layered.poses import OPENING_SCALE_M, Poses, camera_poses, normalise

INPUT_CHANNELS = 8  # rgb, points in the view's own frame, validity, hand mask


@dataclass(frozen=True)
class Condition:
    """The first frames: images in patches (B, V, N, C, 1, patch²), and what the networks read."""

    rgb: Tensor  # C = 3, -1..1
    depth: Tensor  # C = 1, metres
    valid: Tensor  # C = 1
    rays: Tensor  # C = 3, z = 1
    inputs: Tensor  # (B, V, N, 8, patch²), see ``INPUT_CHANNELS``; points are normalised, 0 where invalid
    anchor: Tensor  # (B, V, A, 3) in camera n's frame, normalised; 0 for a view that is not given it
    opening: Tensor  # (B, V, A) in units of ``OPENING_SCALE_M``


def condition_of(c: LayeredConfig, batch: dict[str, Tensor]) -> Condition:
    """The first frames of a batch, see :func:`geo4d_bench.model.batch.batch_from_first_frames`."""
    views = batch["first_rgb"].shape[1]
    on_hand = torch.zeros_like(batch["first_valid"])
    on_hand[:, 0] = batch["hand_mask"]
    rgb = to_patches(batch["first_rgb"][:, :, None], c.patch).float() / 127.5 - 1.0
    depth = to_patches(batch["first_points"][:, :, None, ..., 2:], c.patch)
    valid, mask = (to_patches(x[:, :, None, ..., None], c.patch).float() for x in (batch["first_valid"], on_hand))
    rays = to_patches(batch["rays"][:, :, None], c.patch)
    given = torch.zeros_like(valid) if c.rgb_only else valid
    points = normalise(c, rays * depth, 3) * given
    # Where nothing may flow between the views, view m must not get the hand's place in view n's frame either.
    gets_ee = constant((not c.rgb_only, *[c.view_m_gets_ee] * (views - 1)), rgb.device, torch.bool)
    return Condition(
        rgb=rgb,
        depth=depth,
        valid=valid,
        rays=rays,
        inputs=torch.cat([rgb, points, given, mask], 3).squeeze(4),
        anchor=torch.where(gets_ee[:, None, None], normalise(c, batch["first_hand"], 2)[:, None], 0.0),
        opening=batch["opening"][:, None].expand(-1, views, -1) / OPENING_SCALE_M,
    )


def known_cameras(c: LayeredConfig, batch: dict[str, Tensor]) -> Poses:
    """The cameras in the scene; each in its own frame where no frame is shared."""
    if c.predicts_trajectory and c.shared_frame:
        return camera_poses(c, batch["T_world_cam"], c.work_centre_m)
    views, device = batch["first_rgb"].shape[:2], batch["first_rgb"].device
    return Poses(torch.eye(3, device=device).expand(*views, 3, 3), torch.zeros((*views, 3), device=device))


def points_in_scene(inputs: Tensor, cameras: Poses) -> Tensor:
    """(B, V, N, 3, patch²) the points of ``Condition.inputs`` in the scene's frame; 0 where invalid."""
    R, t = cameras
    return (product(R[:, :, None], inputs[:, :, :, 3:6]) + t[:, :, None, :, None]) * inputs[:, :, :, 6:7]
