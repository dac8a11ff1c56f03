"""Hands drawn where they are predicted to be: small pictures of a hand, placed in a view by the hand's position.

A hand covers thirty of five thousand pixels, and where it will be is uncertain. Pixel by pixel, each would say
"rather not here", and no hand would be generated at all. A picture that is moved as a whole is sharp wherever it lands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

PART_CHANNELS, SHAPE_CHANNELS, RGB_CHANNELS = 3, 3, 3
CHANNELS = PART_CHANNELS + SHAPE_CHANNELS + RGB_CHANNELS
SIZE = 32
HALF_EXTENT_M = 0.16


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
    # Outside the sprite all channels are 0: nothing is said there.
    drawn = F.grid_sample(sprites.flatten(0, 2), grid, padding_mode="zeros", align_corners=False)
    drawn = drawn.view(b, v, t, CHANNELS, n, area).permute(0, 1, 4, 3, 2, 5)
    parts, shape, rgb = drawn.split([PART_CHANNELS, SHAPE_CHANNELS, RGB_CHANNELS], 3)  # type: ignore[no-untyped-call]
    return DrawnHand(parts=parts, shape=shape, rgb=rgb)
