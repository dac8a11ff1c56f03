"""What the token generator is given of first frames: images in patches, places in units that networks like, cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.patches import pixels
from geo4d_bench.model.layered.scene import OPENING_SCALE_M
from geo4d_bench.model.layered.trajectory import Poses, cameras_in_scene, identity_poses


@dataclass(frozen=True)
class Condition:
    """The first frames in patches (B, V, N, C, 1, patch²), with a T axis to broadcast over."""

    rgb: Tensor
    depth: Tensor
    valid: Tensor
    hand: Tensor
    rays: Tensor
    anchor_m: Tensor  # (B, V, A, 3) where the hands are at first, camera n's frame
    opening_m: Tensor  # (B, V, A)


def condition_of(c: LayeredConfig, batch: dict[str, Tensor]) -> Condition:
    """The first frames of a batch, see :func:`geo4d_bench.model.batch.batch_from_first_frames`."""
    points, anchor, views = batch["first_points"], batch["first_hand"], batch["first_rgb"].shape[1]
    # Where nothing may flow between the views, view m must not be told where the hand is in view n's frame either.
    unknown = torch.tensor(c.point_mean_m, device=points.device).expand_as(anchor)
    hand = batch["hand_mask"][:, None]
    return Condition(
        rgb=pixels(batch["first_rgb"][:, :, None], c.patch).float() / 127.5 - 1.0,
        depth=pixels(points[:, :, None, ..., 2:], c.patch),
        valid=pixels(batch["first_valid"][:, :, None, ..., None], c.patch).float(),
        hand=pixels(
            torch.cat([hand] + [torch.zeros_like(hand)] * (views - 1), 1)[:, :, None, ..., None], c.patch
        ).float(),
        rays=pixels(batch["rays"][:, :, None], c.patch),
        anchor_m=torch.stack(
            [unknown if c.rgb_only else anchor] + [anchor if c.view_m_gets_ee else unknown] * (views - 1), 1
        ),
        opening_m=batch["opening"][:, None].expand(-1, views, -1),
    )


def network_inputs(c: LayeredConfig, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
    """What the networks see of the first frames: (B, V, N, 8, patch²), and where the hands are and how far open."""
    valid = torch.zeros_like(condition.valid) if c.rgb_only else condition.valid
    own_points = normalise(c, condition.rays * condition.depth, 3) * valid
    image = torch.cat([condition.rgb, own_points, valid, condition.hand], 3).squeeze(4)
    return image, normalise(c, condition.anchor_m, 3), condition.opening_m / OPENING_SCALE_M


def known_cameras(c: LayeredConfig, batch: dict[str, Tensor]) -> Poses:
    """The cameras in the scene; each in its own frame where no frame is shared."""
    if c.predicts_trajectory and c.shared_frame:
        return cameras_in_scene(c, batch["T_world_cam"])
    return identity_poses(batch["first_rgb"])


def normalise(c: LayeredConfig, points: Tensor, dim: int) -> Tensor:
    """Points in metres, xyz along ``dim``, as the network sees them."""
    return (points - _mean_m(c, points, dim)) / c.point_scale_m


def metres(c: LayeredConfig, points: Tensor, dim: int) -> Tensor:
    """The inverse of :func:`normalise`."""
    return points * c.point_scale_m + _mean_m(c, points, dim)


def _mean_m(c: LayeredConfig, points: Tensor, dim: int) -> Tensor:
    shape = [1] * points.ndim
    shape[dim] = 3
    return torch.tensor(c.point_mean_m, device=points.device).view(shape)
