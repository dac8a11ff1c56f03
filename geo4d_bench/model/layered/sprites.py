"""Hands drawn where they are predicted to be: small pictures of a hand, placed in a view by the hand's position.

A hand covers thirty of five thousand pixels, and where it will be is uncertain. Pixel by pixel, each would say
"rather not here", and no hand would be generated at all. A picture that is moved as a whole is sharp wherever it lands.

A finger is one or two pixels wide, too few to learn its shape from in minutes. What the demonstrations show of a hand
is therefore gathered once, as points in the end effector's frame, and drawn as the start of each picture; the network
says what differs from that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PART_CHANNELS, SHAPE_CHANNELS, RGB_CHANNELS = 3, 3, 3
CHANNELS = PART_CHANNELS + SHAPE_CHANNELS + RGB_CHANNELS
SIZE = 32
HALF_EXTENT_M = 0.16
CLOUD_POINTS = 2048
_SURE = 6.0  # logit of a part where a cell shows nothing else
_SURFACE_M = 0.015  # what lies this little behind the nearest point of a cell is mixed with it


@dataclass(frozen=True)
class HandClouds:
    """What hands look like, in the end effectors' frames with the fingers closed.

    Attributes:
        points: (A, P, 3) metres.  rgb: (A, P, 3) in -1..1.
        part: (A, P) 0 hand, 1 left finger, 2 right finger, as floats; -1 is no point.
        axis: (A, 3) along which the left finger opens, the right one against it.
    """

    points: Tensor
    rgb: Tensor
    part: Tensor
    axis: Tensor


def pictures(clouds: HandClouds, turned: Tensor, centre_m: Tensor, opening_m: Tensor, unit_m: float) -> Tensor:
    """(B, V, A, F, 9, S, S) clouds of hands as sprites, each cell showing what is nearest to the camera.

    Args:
        clouds: of the A hands.
        turned: (B, V, A, F, 3, 3) rotations of the end effectors in each view's OWN camera frame.
        centre_m: (B, V, A, F, 3) where they are there.  opening_m: (B, V, A, F).
        unit_m: metres a unit of the shapes, which are in the end effectors' axes.
    """
    b, v, a, f = opening_m.shape
    area = SIZE * SIZE
    sign = (clouds.part == 1).float() - (clouds.part == 2).float()
    open_by = 0.5 * opening_m[..., None, None] * (sign[..., None] * clouds.axis[:, None])[None, None, :, None]
    shape = clouds.points[None, None, :, None] + open_by  # (B, V, A, F, P, 3)
    offset = (turned[..., None, :, :] * shape[..., None, :]).sum(-1)
    centre = centre_m[..., None, :]
    depth = centre[..., 2:].clamp(min=0.1)
    across = (centre[..., :2] + offset[..., :2]) * depth / (depth + offset[..., 2:]).clamp(min=0.05) - centre[..., :2]
    cell = ((across / HALF_EXTENT_M + 1) * (SIZE / 2)).floor().long()
    inside = ((cell >= 0) & (cell < SIZE)).all(-1) & (clouds.part >= 0)[None, None, :, None]
    index = torch.where(inside, cell[..., 1] * SIZE + cell[..., 0], area)  # (B, V, A, F, P)
    far = torch.full((b, v, a, f, area + 1), 9.0, device=offset.device)
    nearest = far.scatter_reduce(-1, index, offset[..., 2], "amin")
    shown = (inside & (offset[..., 2] <= nearest.gather(-1, index) + _SURFACE_M))[..., None].float()
    parts = _SURE * F.one_hot(clouds.part.long().clamp(min=0), PART_CHANNELS).float()
    fixed = torch.cat([parts, clouds.rgb], -1)[None, None, :, None].expand(b, v, -1, f, -1, -1)
    said = torch.cat([fixed[..., :PART_CHANNELS], shape / unit_m, fixed[..., PART_CHANNELS:], shown], -1) * shown
    cells = torch.zeros((b, v, a, f, area + 1, CHANNELS + 1), device=offset.device)
    cells = cells.scatter_add(-2, index[..., None].expand_as(said), said)[..., :-1, :]
    mean = cells[..., :-1] / cells[..., -1:].clamp(min=1)
    return mean.transpose(-1, -2).reshape(b, v, a, f, CHANNELS, SIZE, SIZE)


@dataclass(frozen=True)
class DrawnHand:
    """One arm's hand in pixels (B, V, N, 3, T, patch²): logits of its parts, points about its position, colour."""

    parts: Tensor
    shape: Tensor
    rgb: Tensor


def draw(sprites: Tensor, centre_m: Tensor, rays: Tensor) -> DrawnHand:
    """Place one arm's sprites in both views.

    Args:
        sprites: (B, V, T, 9, 32, 32); 1 cm a cell, seen along the optical axis.
        centre_m: (B, V, T, 3) metres, each view's OWN camera frame: where the middle of the sprite belongs.
        rays: (B, V, N, 3, 1, patch²) with z = 1.
    """
    b, v, n, _, _, area = rays.shape
    t = sprites.shape[2]
    centre = centre_m.transpose(2, 3)[:, :, None, :, :, None]  # (B, V, 1, 3, T, 1)
    depth = centre[:, :, :, 2:].clamp(min=0.1)
    offset = (rays[:, :, :, :2] * depth - centre[:, :, :, :2]) / HALF_EXTENT_M  # (B, V, N, 2, T, patch²)
    grid = offset.permute(0, 1, 4, 2, 5, 3).reshape(b * v * t, n, area, 2)
    # Outside the sprite all channels are 0: nothing is said there. Nearest: a blend of two surfaces lies on neither.
    drawn = F.grid_sample(sprites.flatten(0, 2), grid, "nearest", padding_mode="zeros", align_corners=False)
    drawn = drawn.view(b, v, t, CHANNELS, n, area).permute(0, 1, 4, 3, 2, 5)
    parts, shape, rgb = drawn.split([PART_CHANNELS, SHAPE_CHANNELS, RGB_CHANNELS], 3)  # type: ignore[no-untyped-call]
    return DrawnHand(parts=parts, shape=shape, rgb=rgb)
