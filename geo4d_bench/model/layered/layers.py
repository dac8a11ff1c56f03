"""From the network's output to pixels and points: background, what hands take along and hands, composed in layers.

Everything is in patches (B, V, N, C, F, patch²): V views, the reference first, of N tokens; F frames.

Where something goes that moves with a hand is known as soon as the hand's trajectory is: a pixel of a later frame takes
colour and depth from where its surface was at first, supposing that it moved as the hand did. What has to be learned is
which pixels of the first frame go along, and by which share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geo4d_bench.geometry.hand import part_label
from geo4d_bench.model.blocks import constant, product
from geo4d_bench.model.layered.condition import Condition
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.patches import from_patches, over_patches, to_patches
from geo4d_bench.model.layered.poses import Hands, Poses, metres, normalise
from geo4d_bench.model.layered.sprites import draw

NUMBERS = 3
"""Predicted for a patch, a frame and an arm: a logit; the share of the hand's motion minus 1; how much farther away
than the hand it is, along the optical axis, in motion units."""
_OUTSIDE = -8.0  # logit of what was not in the first image
_NEAREST_M = 0.05


@dataclass(frozen=True)
class Layers:
    """The network's output in patches; A arms."""

    rgb: Tensor  # C = 3, the new colour
    depth: Tensor  # C = 1, the new background depth, normalised
    keep: Tensor  # C = 1, logit of "as in the first frame"
    valid: Tensor  # C = 1, logit added to the validity of the layers
    parts: Tensor  # C = 1 + 3 A, logits
    hand: Tensor  # C = 3 A, points of each hand about its position, motion units, the end effector's axes
    warp: Tensor  # (B, V, N, 3 A, F), see ``NUMBERS``
    attachment: (
        Tensor | None
    )  # (B, V, N, A, patch²) logits of the first frame: what goes with a hand; None without hands
    sprites: Tensor | None  # (B, V, A, F, 9, S, S), see :mod:`.sprites`; None without hands


@dataclass(frozen=True)
class Composite:
    """The layers as colours and points, in patches, metres in camera n's frame."""

    rgb: Tensor
    background: Tensor
    hands: Tensor  # C = 3 * arms
    parts: Tensor  # C = 1 + 3 * arms, logits
    valid: Tensor  # C = 1, logit

    def points(self, labels: Tensor) -> Tensor:
        """(B, V, N, 3, F, patch²) of what is seen: a hand's own points where labels (B, V, N, F, patch²) show it."""
        points = self.background
        for arm, hand in enumerate(torch.split(self.hands, 3, dim=3)):
            first = part_label(arm, 0)
            points = torch.where(((labels >= first) & (labels < first + 3))[:, :, :, None], hand, points)
        return points


class AttachmentMask(nn.Module):
    """Which pixels of the first frames go with which hand."""

    def __init__(self, c: LayeredConfig, pixel_channels: int) -> None:
        super().__init__()
        hidden = 48
        self.pixel, self.token = nn.Linear(pixel_channels, hidden), nn.Linear(c.dim, hidden)
        self.inner, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, c.arms)
        nn.init.constant_(self.out.bias, -1.0)

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, V, N, A, P) from pixels (B, V, N, C, P) and their tokens (B, V, N, D)."""
        h = F.gelu(self.pixel(pixels.transpose(3, 4)) + self.token(tokens)[:, :, :, None])
        return cast(Tensor, self.out(F.gelu(self.inner(h))).transpose(3, 4))


def compose(
    c: LayeredConfig,
    layers: Layers,
    condition: Condition,
    hands: Hands | None,
    own_hands: Hands | None,
    in_n: Poses,
    frames: Tensor,
) -> Composite:
    """The layers put together.

    Args:
        layers: of the frames (F,) in ``frames``.
        hands: in camera n's frame, V is 1 or that of the layers; None where no places are known.
        own_hands: the same in each view's own frame: where it sees them, and what they take along.
        in_n: each camera's pose, of normalised points, by which its background is taken to camera n.
        frames: of all T.
    """
    if own_hands is not None:
        own_hands = own_hands._replace(position=metres(c, own_hands.position, 4), start=metres(c, own_hands.start, 3))
    rgb, depth, seen = _background(c, layers, condition, own_hands, frames)
    own = condition.rays * depth
    R, t = in_n.R[:, 1:], in_n.t[:, 1:]
    moved = torch.einsum("bvij,bvnjtp->bvnitp", R, normalise(c, own[:, 1:], 3)) + t[:, :, None, :, None, None]

    labels, points = layers.parts.float(), layers.hand.float()
    if hands is not None and own_hands is not None and layers.sprites is not None:
        in_view = own_hands.position[:, :, :, frames].unbind(2)
        drawn = [draw(layers.sprites[:, :, a], in_view[a], condition.rays) for a in range(c.arms)]
        labels = labels + F.pad(torch.cat([d[:, :, :, :3] for d in drawn], 3), (0, 0, 0, 0, 1, 0))
        points = _hand_points(c, points + torch.cat([d[:, :, :, 3:6] for d in drawn], 3), hands.at(frames))
        shown = torch.softmax(debias_logits(c, labels), 3)
        for d, share in zip(drawn, torch.split(shown[:, :, :, 1:], 3, dim=3), strict=True):
            rgb = torch.lerp(rgb, d[:, :, :, 6:], share.sum(3, keepdim=True))
    return Composite(
        rgb=rgb,
        background=torch.cat([own[:, :1], metres(c, moved, 3)], 1),
        hands=points,
        parts=labels,
        valid=layers.valid.float() + 3.0 * (2.0 * seen - 1.0),
    )


def debias_logits(c: LayeredConfig, logits: Tensor) -> Tensor:
    """Part logits (B, V, N, C, F, patch²) once the loss's own weight of hand pixels is taken out."""
    odds = torch.full((c.part_classes,), math.log(c.part_odds / c.weight_of_parts), device=logits.device)
    odds[0] = 0.0
    return logits + odds[:, None, None]


def _background(
    c: LayeredConfig, layers: Layers, condition: Condition, hands: Hands | None, frames: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, depth in metres and first guess of validity, 0 to 1, of what is new, what stays and what hands (in each
    view's own frame, metres) take along."""
    logit = layers.keep.float()
    new_m = layers.depth.float() * c.point_scale_m + c.point_mean_m[2]
    shown = [
        RGBDLayer(torch.zeros_like(logit), layers.rgb.float(), new_m, torch.ones_like(condition.valid)),
        RGBDLayer(logit, condition.rgb, condition.depth, condition.valid),
    ]
    if hands is not None and layers.attachment is not None:
        numbers = torch.split(layers.warp.float(), NUMBERS, dim=3)
        attachment = torch.split(layers.attachment[:, :, :, :, None].float(), 1, dim=3)
        for arm in range(c.arms):
            hand = Hands(*(x[:, :, arm : arm + 1] for x in hands))
            shown.append(warp_with_gripper(c, numbers[arm], attachment[arm], condition, hand, frames))
    logits = torch.stack([layer.logit for layer in shown])
    valid = torch.stack([layer.valid.expand_as(layer.logit) for layer in shown])
    shares = torch.softmax(logits, 0)
    # There is no depth to keep or to take along where the first frame has none; what is new always has one.
    of_depth = torch.softmax(logits.masked_fill(valid == 0, -torch.inf), 0)

    def mixed(weights: Tensor, values: Iterable[Tensor]) -> Tensor:
        return torch.stack([w * x for w, x in zip(weights, values, strict=True)]).sum(0)

    # What is new is taken to be as valid as what was there; the network predicts where it is not.
    seen = mixed(shares, [condition.valid] + [layer.valid for layer in shown[1:]])
    return mixed(shares, [layer.rgb for layer in shown]), mixed(of_depth, [layer.depth_m for layer in shown]), seen


def _hand_points(c: LayeredConfig, shapes: Tensor, hands: Hands) -> Tensor:
    """(B, V, N, A * 3, F, patch²) metres in the frame of ``hands`` in F frames, from ``Layers.hand``."""
    views = (*shapes.shape[:2], -1, -1)
    centre = metres(c, hands.position.expand(*views, -1), 4)  # (B, V, A, F, 3)
    turned = hands.rotation.expand(*views, -1, -1)
    points = []
    for arm, shape in enumerate(torch.split(shapes, 3, dim=3)):
        shape = torch.einsum("bvtij,bvnjtp->bvnitp", turned[:, :, arm], shape)
        points.append(over_patches(centre[:, :, arm]) + c.motion_scale_m * shape)
    return torch.cat(points, 3)


class RGBDLayer(NamedTuple):
    """One of the things that a pixel may show, in patches (B, V, N, C, F, patch²)."""

    logit: Tensor  # C = 1
    rgb: Tensor  # C = 3, -1..1
    depth_m: Tensor  # C = 1, along the view's own axis
    valid: Tensor  # C = 1, 0 where there is no depth


def warp_with_gripper(
    c: LayeredConfig, numbers: Tensor, attachment: Tensor, condition: Condition, hands: Hands, frames: Tensor
) -> RGBDLayer:
    """What one hand takes along: the first frame as it was where the pixel's surface was at first.

    Args:
        numbers: (B, V, N, 3, F), see ``NUMBERS``; smooth between the patches' middles, so that nothing is torn.
        attachment: (B, V, N, 1, 1, patch²) logits of the first frame, to which the patches' are added.
        hands: A = 1, in each view's own frame, metres; of all frames.
        frames: (F,) those that are wanted.
    """
    logit, share, farther = torch.split(_smooth(c, numbers), 1, dim=3)
    share = 1.0 + share
    start, place = over_patches(hands.start), over_patches(hands.position[:, :, 0, frames])
    turned = hands.rotation[:, :, 0]  # unknown in the first frame; the first predicted frame is nearest to it
    turn = product(turned[:, :, frames], turned[:, :, :1].mT)  # (B, V, F, 3, 3)

    now = condition.rays * (place[:, :, :, 2:] + c.motion_scale_m * farther).clamp(min=_NEAREST_M)
    moved = torch.einsum("bvfji,bvnjfp->bvnifp", turn, now - place) + start
    was = torch.lerp(now, moved, share)
    seen = was[:, :, :, :2] / was[:, :, :, 2:].clamp(min=_NEAREST_M)  # (B, V, N, 2, F, P), z = 1
    grid = _in_image(seen, condition.rays)
    soft = _sample(c, torch.cat([condition.rgb, attachment], 3), grid, "bilinear")
    # A blend of two depths would lie on neither surface.
    depth, valid = torch.split(_sample(c, torch.cat([condition.depth, condition.valid], 3), grid, "nearest"), 1, dim=3)
    point = torch.cat([seen, torch.ones_like(depth)], 3) * depth
    moved_z = torch.einsum("bvfj,bvnjfp->bvnfp", turn[:, :, :, 2], point - start)[:, :, :, None] + place[:, :, :, 2:]
    half_a_pixel = constant((1 / (c.width - 1), 1 / (c.height - 1)), grid.device).view(2, 1, 1)
    outside = (grid.abs() > 1 + half_a_pixel).any(3, keepdim=True) | (was[:, :, :, 2:] < _NEAREST_M)
    return RGBDLayer(
        logit=soft[:, :, :, 3:] + logit + _OUTSIDE * outside,
        rgb=soft[:, :, :, :3],
        depth_m=torch.lerp(depth, moved_z, share),
        valid=valid,
    )


def _smooth(c: LayeredConfig, numbers: Tensor) -> Tensor:
    """(B, V, N, C, F) -> (B, V, N, C, F, patch²), bilinear."""
    b, v, n, channels, f = numbers.shape
    rows = c.height // c.patch
    grid = numbers.view(b, v, rows, n // rows, channels, f).permute(0, 1, 5, 4, 2, 3).flatten(0, 2)  # (B V F, C, h, w)
    fine = F.interpolate(grid, scale_factor=c.patch, mode="bilinear", align_corners=False)
    return to_patches(fine.view(b, v, f, channels, c.height, c.width).movedim(3, 5), c.patch)


def _in_image(seen: Tensor, rays: Tensor) -> Tensor:
    """Directions (B, V, N, 2, F, P), z = 1, as places in the image: -1 and 1 are the middles of outermost pixels."""
    low, high = (f(rays[:, :, :, :2], (2, 4, 5))[:, :, None, :, None, None] for f in (torch.amin, torch.amax))
    return 2.0 * (seen - low) / (high - low) - 1.0


def _sample(c: LayeredConfig, first: Tensor, grid: Tensor, mode: str) -> Tensor:
    """(B, V, N, C, F, P) what the first frame (B, V, N, C, 1, P) shows at places (B, V, N, 2, F, P)."""
    b, v, n, _, f, area = grid.shape
    image = from_patches(first, c.patch, c.height, c.width)[:, :, 0].permute(0, 1, 4, 2, 3).flatten(0, 1)
    places = grid.permute(0, 1, 4, 2, 5, 3).reshape(b * v, f * n, area, 2)
    places = places.nan_to_num()  # torch's backward pass crashes the process at a NaN
    sampled = F.grid_sample(image, places, mode, "border", align_corners=True)
    return sampled.view(b, v, -1, f, n, area).permute(0, 1, 4, 2, 3, 5)
