"""Hands drawn where they are predicted to be: sprites, small pictures of a hand placed in a view by its position.

A hand covers thirty of five thousand pixels, and where it will be is uncertain. Labelled pixel by pixel, no hand would
be generated at all; a picture that is moved as a whole is sharp wherever it lands. A finger, one or two pixels wide, is
too small to learn its shape from in minutes: each picture starts from points that demonstrations show of a hand, and
the network predicts the difference.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from geo4d_bench.model.layered.patches import over_patches

CHANNELS = 9  # logits of the parts (3), points about the hand's position (3), rgb (3)
SIZE = 32
HALF_EXTENT_M = 0.16
CLOUD_POINTS = 2048
_CERTAIN = 6.0  # logit of a part where a cell shows nothing else
_SURFACE_M = 0.015  # what lies this little behind the nearest point of a cell is mixed with it


class HandClouds(NamedTuple):
    """What hands look like, in the end effectors' frames with the fingers closed."""

    points: Tensor  # (A, P, 3) metres
    rgb: Tensor  # (A, P, 3) in -1..1
    part: Tensor  # (A, P) 0 hand, 1 left finger, 2 right finger, as floats; -1 is no point
    axis: Tensor  # (A, 3) along which the left finger opens, the right one against it


def pictures(clouds: HandClouds, turned: Tensor, centre_m: Tensor, opening_m: Tensor, unit_m: float) -> Tensor:
    """(B, V, A, F, 9, S, S) clouds of hands as sprites, each cell showing what is nearest to the camera.

    Args:
        turned: (B, V, A, F, 3, 3) rotations of the end effectors in each view's OWN camera frame.
        centre_m: (B, V, A, F, 3) where they are there.  opening_m: (B, V, A, F).
        unit_m: metres a unit of the sprites' points, which are in the end effectors' axes.
    """
    b, v, _, f = opening_m.shape
    sign = (clouds.part == 1).float() - (clouds.part == 2).float()
    open_by = 0.5 * opening_m[..., None, None] * (sign[..., None] * clouds.axis[:, None])[None, None, :, None]
    shape = clouds.points[None, None, :, None] + open_by  # (B, V, A, F, P, 3)
    offset = (turned[..., None, :, :] * shape[..., None, :]).sum(-1)
    centre = centre_m[..., None, :]
    depth = centre[..., 2:].clamp(min=0.1)
    across = (centre[..., :2] + offset[..., :2]) * depth / (depth + offset[..., 2:]).clamp(min=0.05) - centre[..., :2]
    cell = ((across / HALF_EXTENT_M + 1) * (SIZE / 2)).floor().long()
    inside = ((cell >= 0) & (cell < SIZE)).all(-1) & (clouds.part >= 0)[None, None, :, None]
    index = torch.where(inside, cell[..., 1] * SIZE + cell[..., 0], SIZE**2)  # (B, V, A, F, P)
    parts = _CERTAIN * F.one_hot(clouds.part.long().clamp(min=0), 3).float()
    parts, rgb = (x[None, None, :, None].expand(b, v, -1, f, -1, -1) for x in (parts, clouds.rgb))
    mean, _, _ = splat(index, offset[..., 2], torch.cat([parts, shape / unit_m, rgb], -1), SIZE**2, _SURFACE_M)
    return mean.mT.view(*mean.shape[:-2], CHANNELS, SIZE, SIZE)


def splat(index: Tensor, depth: Tensor, features: Tensor, cells: int, layer: float) -> tuple[Tensor, Tensor, Tensor]:
    """Points drawn into cells: the mean features (..., cells, C) of those within ``layer`` of the nearest one in their
    cell, 0 where there is none; the nearest depth (..., cells, 1); and 1 or 0 (..., cells, 1), whether there is one.

    Args:
        index: (..., P) of the cell; ``cells`` itself is for points that are not drawn.
        depth: (..., P).  features: (..., P, C).
    """
    nearest = torch.full((*index.shape[:-1], cells + 1), 9.0, device=depth.device)
    nearest = nearest.scatter_reduce(-1, index, depth, "amin")
    shown = ((index < cells) & (depth <= nearest.gather(-1, index) + layer)).float()
    values = torch.cat([features, torch.ones_like(features[..., :1])], -1) * shown[..., None]
    sums = torch.zeros((*nearest.shape, values.shape[-1]), device=depth.device)
    sums = sums.scatter_add(-2, index[..., None].expand_as(values), values)[..., :-1, :]
    count = sums[..., -1:]
    return sums[..., :-1] / count.clamp(min=1), nearest[..., :-1, None], (count > 0).float()


def draw(sprites: Tensor, centre_m: Tensor, rays: Tensor) -> Tensor:
    """One arm's hand in pixels (B, V, N, 9, T, patch²), 0 outside of its sprite.

    Args:
        sprites: (B, V, T, 9, 32, 32); 1 cm a cell, seen along the optical axis.
        centre_m: (B, V, T, 3) metres, each view's OWN camera frame: where the middle of the sprite belongs.
        rays: (B, V, N, 3, 1, patch²) with z = 1.
    """
    b, v, n, _, _, area = rays.shape
    t = sprites.shape[2]
    centre = over_patches(centre_m)
    depth = centre[:, :, :, 2:].clamp(min=0.1)
    offset = (rays[:, :, :, :2] * depth - centre[:, :, :, :2]) / HALF_EXTENT_M  # (B, V, N, 2, T, patch²)
    grid = offset.permute(0, 1, 4, 2, 5, 3).reshape(b * v * t, n, area, 2)
    # Nearest: a blend of two surfaces lies on neither.
    drawn = F.grid_sample(sprites.flatten(0, 2), grid, "nearest", padding_mode="zeros", align_corners=False)
    return drawn.view(b, v, t, CHANNELS, n, area).permute(0, 1, 4, 3, 2, 5)
