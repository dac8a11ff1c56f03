"""What goes with a hand when it moves, the arm and the thing that it holds: taken from the first frame.

What moves is a small part of an image, and where it goes is known as soon as the hand's way is. A pixel of a later
frame therefore asks where the surface that it shows was at first, supposing that it moved as the hand did, and takes
colour and depth from there. What has to be learned is which pixels of the first frame go along, and how much of the
way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.model.blocks import product
from geo4d_bench.model.layered.condition import Condition
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.patches import from_patches, pixels
from geo4d_bench.model.layered.scene import Hands

NUMBERS = 3
"""Said of a patch, a frame and an arm: a logit; how much more than the hand's whole way it goes (0: all of it); how
much farther away it is than the hand, along the optical axis, in motion units."""
_OUTSIDE = -8.0  # logit of what was not in the first image
_NEAREST_M = 0.05


class AttachmentMask(nn.Module):
    """Which pixels of the first frames go with which hand."""

    def __init__(self, c: LayeredConfig, pixel_channels: int, hidden: int = 48) -> None:
        super().__init__()
        self.pixel, self.token = nn.Linear(pixel_channels, hidden), nn.Linear(c.dim, hidden)
        self.inner, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, c.arms)
        nn.init.constant_(self.out.bias, -1.0)

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, V, N, A, P) from pixels (B, V, N, C, P) and their tokens (B, V, N, D)."""
        h = F.gelu(self.pixel(pixels.transpose(3, 4)) + self.token(tokens)[:, :, :, None])
        return cast(Tensor, self.out(F.gelu(self.inner(h))).transpose(3, 4))


@dataclass(frozen=True)
class RGBDLayer:
    """What a pixel may show of one thing, in patches (B, V, N, C, F, patch²): of what a hand takes along, for one.

    Attributes:
        logit: C = 1.  rgb: 3, -1..1.
        depth_m: 1.  valid: 1, 0 where there is no depth.
    """

    logit: Tensor
    rgb: Tensor
    depth_m: Tensor
    valid: Tensor


def warp_with_gripper(
    c: LayeredConfig, said: Tensor, rides: Tensor, condition: Condition, hands: Hands, frames: Tensor
) -> RGBDLayer:
    """What a hand has taken along.

    Args:
        c: sizes and units.
        said: (B, V, N, 3, F) of patches, see ``NUMBERS``; between their middles it changes smoothly, so that what is
            carried is not torn.
        rides: (B, V, N, 1, 1, patch²) logits of the first frame.
        condition: the first frame.
        hands: A = 1, in each view's own frame, metres; of all frames.
        frames: (F,) those that are wanted.

    Returns:
        Colour and depth, in metres along each view's own axis, as they were where the pixel's surface was at first; the
        logit is that of the first frame there, plus what is said.
    """
    logit, share, farther = torch.split(_smooth(c, said), 1, dim=3)
    share = 1.0 + share
    start, place = _laid(hands.start), _laid(hands.position[:, :, 0, frames])
    turned = hands.rotation[:, :, 0]  # at first it is not known: the first frame foreseen is nearest to that
    turn = product(turned[:, :, frames], turned[:, :, :1].transpose(-1, -2))  # (B, V, F, 3, 3)

    now = condition.rays * (place[:, :, :, 2:] + c.motion_scale_m * farther).clamp(min=_NEAREST_M)
    moved = torch.einsum("bvfji,bvnjfp->bvnifp", turn, now - place) + start
    was = torch.lerp(now, moved, share)
    seen = was[:, :, :, :2] / was[:, :, :, 2:].clamp(min=_NEAREST_M)  # (B, V, N, 2, F, P), z = 1
    grid = _in_image(seen, condition.rays)
    soft = _sample(c, torch.cat([condition.rgb, rides], 3), grid, "bilinear")
    # A blend of two depths would lie on neither surface.
    depth, valid = torch.split(_sample(c, torch.cat([condition.depth, condition.valid], 3), grid, "nearest"), 1, dim=3)
    point = torch.cat([seen, torch.ones_like(depth)], 3) * depth
    moved_z = torch.einsum("bvfj,bvnjfp->bvnfp", turn[:, :, :, 2], point - start)[:, :, :, None] + place[:, :, :, 2:]
    half_a_pixel = torch.tensor([1 / (c.width - 1), 1 / (c.height - 1)], device=grid.device).view(2, 1, 1)
    outside = (grid.abs() > 1 + half_a_pixel).any(3, keepdim=True) | (was[:, :, :, 2:] < _NEAREST_M)
    return RGBDLayer(
        logit=soft[:, :, :, 3:] + logit + _OUTSIDE * outside,
        rgb=soft[:, :, :, :3],
        depth_m=torch.lerp(depth, moved_z, share),
        valid=valid,
    )


def _smooth(c: LayeredConfig, said: Tensor) -> Tensor:
    """(B, V, N, C, F) -> (B, V, N, C, F, patch²), bilinear."""
    b, v, n, channels, f = said.shape
    rows = c.height // c.patch
    grid = said.view(b, v, rows, n // rows, channels, f).permute(0, 1, 5, 4, 2, 3).flatten(0, 2)  # (B V F, C, h, w)
    fine = F.interpolate(grid, scale_factor=c.patch, mode="bilinear", align_corners=False)
    return pixels(fine.view(b, v, f, channels, c.height, c.width).movedim(3, 5), c.patch)


def _laid(points: Tensor) -> Tensor:
    """(B, V, F, 3) -> (B, V, 1, 3, F, 1)."""
    return points.transpose(2, 3)[:, :, None, :, :, None]


def _in_image(seen: Tensor, rays: Tensor) -> Tensor:
    """Directions (B, V, N, 2, F, P), z = 1, as places in the image: -1 and 1 are the middles of outermost pixels."""
    low, high = (f(rays[:, :, :, :2], (2, 4, 5))[:, :, None, :, None, None] for f in (torch.amin, torch.amax))
    return 2.0 * (seen - low) / (high - low) - 1.0


def _sample(c: LayeredConfig, first: Tensor, grid: Tensor, mode: str) -> Tensor:
    """(B, V, N, C, F, P) what the first frame (B, V, N, C, 1, P) shows at places (B, V, N, 2, F, P)."""
    b, v, n, _, f, area = grid.shape
    image = from_patches(first.flatten(4), c.patch, c.height, c.width)[:, :, 0].permute(0, 1, 4, 2, 3).flatten(0, 1)
    places = grid.permute(0, 1, 4, 2, 5, 3).reshape(b * v, f * n, area, 2)
    sampled = F.grid_sample(image, places, mode, "border", align_corners=True)
    return sampled.view(b, v, -1, f, n, area).permute(0, 1, 4, 2, 3, 5)
