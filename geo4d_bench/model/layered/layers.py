"""From what the network says to pixels and points: layers of background and hands, put together.

Everything is in patches (B, V, N, C, T, patch²): V views, the reference first, of N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geo4d_bench.geometry.hand import part_label
from geo4d_bench.model.layered.condition import Condition, metres, normalise
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.patches import apart
from geo4d_bench.model.layered.scene import Hands
from geo4d_bench.model.layered.sprites import draw
from geo4d_bench.model.layered.trajectory import Poses
from geo4d_bench.model.layered.warp import NUMBERS, RGBDLayer, warp_with_gripper


@dataclass(frozen=True)
class Layers:
    """What the network says, in patches (B, V, N, channels, T * patch²); A arms.

    Attributes:
        rgb: 3 channels, the new colour.  depth: 1, the new background depth, normalised.
        keep: 1, logit of "as in the first frame".  valid: 1, what validity, as far as layers tell it, is corrected by,
            a logit.
        parts: 1 + 3 A logits.  hand: (A * 3), points of each hand about its position, in motion units and the end
            effector's axes.
        carried: (B, V, N, A * 3, F), what is said of whole patches, see ``carried.NUMBERS``.
        rides: (B, V, N, A, patch²) logits of the first frame: what goes with a hand; None where hands are not known.
        sprites: (B, V, A, F, 9, S, S) pictures of the hands, see :mod:`.sprites`; None where hands
            are told pixel by pixel.
    """

    rgb: Tensor
    depth: Tensor
    keep: Tensor
    valid: Tensor
    parts: Tensor
    hand: Tensor
    carried: Tensor
    rides: Tensor | None
    sprites: Tensor | None


@dataclass(frozen=True)
class Scene:
    """The layers as colours and points, (B, V, N, C, T, patch²), metres in camera n's frame."""

    rgb: Tensor
    background: Tensor
    hands: Tensor  # C = 3 * arms
    parts: Tensor  # C = 1 + 3 * arms, logits
    valid: Tensor  # C = 1, logit

    def points(self, labels: Tensor) -> Tensor:
        """(B, V, N, 3, T, patch²) of what is seen: a hand's own points where labels (B, V, N, T, patch²) show it."""
        points = self.background
        for arm, hand in enumerate(self.hands.split(3, 3)):  # type: ignore[no-untyped-call]
            first = part_label(arm, 0)
            points = torch.where(((labels >= first) & (labels < first + 3))[:, :, :, None], hand, points)
        return points


def compose(
    c: LayeredConfig,
    layers: Layers,
    condition: Condition,
    hands: Hands | None,
    own_hands: Hands | None,
    in_n: Poses,
    frames: Tensor | None = None,
) -> Scene:
    """The layers put together.

    Args:
        c: sizes and units.
        layers: of all frames, or of those in ``frames`` (F,).
        condition: the first frames.
        hands: where the hands are in camera n's frame, V is 1 or that of the layers; None where no places are known.
        own_hands: the same in each view's own frame: where it sees them, and what they take along.
        in_n: each camera's pose, of normalised points, by which its background is taken to camera n.
    """
    if own_hands is not None:
        own_hands = replace(own_hands, position=metres(c, own_hands.position, 4), start=metres(c, own_hands.start, 3))
    rgb, depth, seen = _background(c, layers, condition, own_hands, frames)
    own = condition.rays * depth
    R, t = in_n.R[:, 1:], in_n.t[:, 1:]
    moved = torch.einsum("bvij,bvnjtp->bvnitp", R, normalise(c, own[:, 1:], 3)) + t[:, :, None, :, None, None]

    labels, points = apart(layers.parts, c.patch).float(), apart(layers.hand, c.patch).float()
    if hands is not None and own_hands is not None and layers.sprites is not None:
        labels, points, rgb = _with_sprites(c, layers.sprites, condition, hands, own_hands, frames, labels, points, rgb)
    return Scene(
        rgb=rgb,
        background=torch.cat([own[:, :1], metres(c, moved, 3)], 1),
        hands=points,
        parts=labels,
        valid=apart(layers.valid, c.patch).float() + 3.0 * (2.0 * seen - 1.0),
    )


def debias_logits(c: LayeredConfig, logits: Tensor) -> Tensor:
    """Part logits (B, V, N, C, T, patch²) once the loss's own weight of hand pixels is taken out."""
    odds = torch.full((c.part_classes,), math.log(c.part_odds / c.weight_of_parts), device=logits.device)
    odds[0] = 0.0
    return logits + odds[:, None, None]


def _background(
    c: LayeredConfig, layers: Layers, condition: Condition, hands: Hands | None, frames: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, depth in metres and first guess of validity, 0 to 1: what is new, what stays and what hands take along.

    Hands are in each view's own frame, metres.
    """
    logit = apart(layers.keep, c.patch).float()
    new_m = apart(layers.depth, c.patch).float() * c.point_scale_m + c.point_mean_m[2]
    shown = [
        RGBDLayer(torch.zeros_like(logit), apart(layers.rgb, c.patch).float(), new_m, torch.ones_like(condition.valid)),
        RGBDLayer(logit, condition.rgb, condition.depth, condition.valid),
    ]
    if hands is not None and layers.rides is not None:
        chosen = torch.arange(c.frames, device=logit.device) if frames is None else frames
        said = torch.split(layers.carried.float(), NUMBERS, dim=3)
        rides = torch.split(layers.rides[:, :, :, :, None].float(), 1, dim=3)
        shown += [warp_with_gripper(c, said[a], rides[a], condition, _one(hands, a), chosen) for a in range(c.arms)]
    logits = torch.stack([layer.logit for layer in shown])
    valid = torch.stack([layer.valid.expand_as(layer.logit) for layer in shown])
    shares = torch.softmax(logits, 0)
    # There is no depth to keep or to take along where the first frame has none; what is new always has one.
    of_depth = torch.softmax(logits.masked_fill(valid == 0, -torch.inf), 0)

    def mixed(weights: Tensor, values: Iterable[Tensor]) -> Tensor:
        return torch.stack([w * x for w, x in zip(weights, values, strict=True)]).sum(0)

    # What is new is taken to be as valid as what was there; the network says where it is not.
    seen = mixed(shares, [condition.valid] + [layer.valid for layer in shown[1:]])
    return mixed(shares, [layer.rgb for layer in shown]), mixed(of_depth, [layer.depth_m for layer in shown]), seen


def _one(hands: Hands, arm: int) -> Hands:
    only = slice(arm, arm + 1)
    return Hands(
        hands.position[:, :, only], hands.rotation[:, :, only], hands.opening[:, :, only], hands.start[:, :, only]
    )


def _with_sprites(
    c: LayeredConfig,
    sprites: Tensor,
    condition: Condition,
    hands: Hands,
    own_hands: Hands,
    frames: Tensor | None,
    logits: Tensor,
    shapes: Tensor,
    rgb: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Part logits, hand points in camera n's frame and colours, with the hands drawn where they are.

    Hands are in camera n's frame, and again in each view's own, metres.
    """
    chosen = slice(None) if frames is None else frames
    shared = (*rgb.shape[:2], -1, -1)
    centre = metres(c, hands.position.expand(*shared, -1)[:, :, :, chosen], 4)  # (B, V, A, F, 3)
    turned = hands.rotation.expand(*shared, -1, -1)[:, :, :, chosen]
    in_view = own_hands.position[:, :, :, chosen]
    drawn = [draw(sprites[:, :, arm], in_view[:, :, arm], condition.rays) for arm in range(c.arms)]
    parts, points = [logits[:, :, :, :1]], []
    for arm, hand in enumerate(drawn):
        first = part_label(arm, 0)
        parts.append(logits[:, :, :, first : first + 3] + hand.parts)
        shape = shapes[:, :, :, 3 * arm : 3 * arm + 3] + hand.shape
        shape = torch.einsum("bvtij,bvnjtp->bvnitp", turned[:, :, arm], shape)
        points.append(centre[:, :, arm].transpose(2, 3)[:, :, None, :, :, None] + c.motion_scale_m * shape)
    labels = torch.cat(parts, 3)
    shown = torch.softmax(debias_logits(c, labels), 3)
    for arm, hand in enumerate(drawn):
        first = part_label(arm, 0)
        rgb = torch.lerp(rgb, hand.rgb, shown[:, :, :, first : first + 3].sum(3, keepdim=True))
    return labels, torch.cat(points, 3), rgb
