"""From what the network says to pixels and points: layers of background and hands, put together.

Everything is in patches (B, V, N, C, T, patch²): V views, the reference first, of N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geo4d_bench.geometry.hand import part_label
from geo4d_bench.model.carried import NUMBERS, Shown, carry
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.foresight import Poses, in_own_frames
from geo4d_bench.model.patches import Condition, to_patches
from geo4d_bench.model.scene import Hands
from geo4d_bench.model.sprites import draw


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
        sprites: (B, V, A, F, 9, S, S) pictures of the hands, see :mod:`geo4d_bench.model.sprites`; None where hands
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
    c: GeneratorConfig,
    layers: Layers,
    condition: Condition,
    hands: Hands | None,
    background_in_n: Poses,
    hands_in_n: Poses,
    frames: Tensor | None = None,
) -> Scene:
    """The layers put together.

    Args:
        c: sizes and units.
        layers: of all frames, or of those in ``frames`` (F,).
        condition: the first frames.
        hands: where the hands are, V is 1 or that of the layers; None where they are told pixel by pixel.
        background_in_n: each camera's pose, of normalised points, by which its background is taken to camera n.
        hands_in_n: the poses that decide where a view sees a hand.
    """
    own_hands = None if hands is None else _metres(c, in_own_frames(hands, hands_in_n))
    rgb, depth, seen = _background(c, layers, condition, own_hands, frames)
    own = condition.rays * depth
    R, t = background_in_n.R[:, 1:], background_in_n.t[:, 1:]
    moved = torch.einsum("bvij,bvnjtp->bvnitp", R, normalise(c, own[:, 1:], 3)) + t[:, :, None, :, None, None]

    labels, points = apart(c, layers.parts).float(), apart(c, layers.hand).float()
    if hands is not None and own_hands is not None and layers.sprites is not None:
        labels, points, rgb = _with_sprites(c, layers.sprites, condition, hands, own_hands, frames, labels, points, rgb)
    return Scene(
        rgb=rgb,
        background=torch.cat([own[:, :1], metres(c, moved, 3)], 1),
        hands=points,
        parts=labels,
        valid=apart(c, layers.valid).float() + 3.0 * (2.0 * seen - 1.0),
    )


def without_weights(c: GeneratorConfig, logits: Tensor) -> Tensor:
    """Part logits (B, V, N, C, T, patch²) once the loss's own weight of hand pixels is taken out."""
    odds = torch.full((c.part_classes,), math.log(c.part_odds / c.part_weight), device=logits.device)
    odds[0] = 0.0
    return logits + odds[:, None, None]


def pixels(c: GeneratorConfig, images: Tensor) -> Tensor:
    """(B, V, T, H, W, C) -> (B, V, N, C, T, patch²)."""
    patches = to_patches(images, c.patch)
    return patches.view(*patches.shape[:4], images.shape[2], -1)


def apart(c: GeneratorConfig, patches: Tensor) -> Tensor:
    """(B, V, N, C, T * patch²) -> (B, V, N, C, T, patch²)."""
    return patches.reshape(*patches.shape[:4], -1, c.patch**2)


def normalise(c: GeneratorConfig, points: Tensor, dim: int) -> Tensor:
    """Points in metres, xyz along ``dim``, as the network sees them."""
    return (points - _mean_m(c, points, dim)) / c.point_scale_m


def metres(c: GeneratorConfig, points: Tensor, dim: int) -> Tensor:
    """The inverse of :func:`normalise`."""
    return points * c.point_scale_m + _mean_m(c, points, dim)


def _background(
    c: GeneratorConfig, layers: Layers, condition: Condition, hands: Hands | None, frames: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour, depth in metres and first guess of validity, 0 to 1: what is new, what stays and what hands take along.

    Hands are in each view's own frame, metres.
    """
    logit = apart(c, layers.keep).float()
    new_m = apart(c, layers.depth).float() * c.point_scale_m + c.point_mean_m[2]
    shown = [
        Shown(torch.zeros_like(logit), apart(c, layers.rgb).float(), new_m, torch.ones_like(condition.valid)),
        Shown(logit, condition.rgb, condition.depth, condition.valid),
    ]
    if hands is not None and layers.rides is not None:
        chosen = torch.arange(c.frames, device=logit.device) if frames is None else frames
        said = layers.carried.float().split(NUMBERS, 3)  # type: ignore[no-untyped-call]
        rides = layers.rides[:, :, :, :, None].float().split(1, 3)  # type: ignore[no-untyped-call]
        shown += [carry(c, said[a], rides[a], condition, _one(hands, a), chosen) for a in range(c.arms)]
    weights = torch.softmax(torch.stack([layer.logit for layer in shown]), 0)

    def mixed(weights: Iterable[Tensor], values: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * x for w, x in zip(weights, values, strict=True)]).sum(0)

    # What is new is taken to be as valid as what was there; the network says where it is not.
    seen = mixed(weights, [condition.valid] + [layer.valid for layer in shown[1:]])
    # There is no depth to keep or to take along where the first frame has none.
    there = [w * layer.valid for w, layer in zip(weights, shown, strict=True)]
    depth = mixed(there, [layer.depth_m for layer in shown]) / torch.stack(there).sum(0).clamp(min=1e-4)
    return mixed(weights, [layer.rgb for layer in shown]), depth, seen


def _one(hands: Hands, arm: int) -> Hands:
    only = slice(arm, arm + 1)
    return Hands(
        hands.position[:, :, only], hands.rotation[:, :, only], hands.opening[:, :, only], hands.start[:, :, only]
    )


def _metres(c: GeneratorConfig, hands: Hands) -> Hands:
    return replace(hands, position=metres(c, hands.position, 4), start=metres(c, hands.start, 3))


def _with_sprites(
    c: GeneratorConfig,
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
    shown = torch.softmax(without_weights(c, labels), 3)
    for arm, hand in enumerate(drawn):
        first = part_label(arm, 0)
        rgb = torch.lerp(rgb, hand.rgb, shown[:, :, :, first : first + 3].sum(3, keepdim=True))
    return labels, torch.cat(points, 3), rgb


def _mean_m(c: GeneratorConfig, points: Tensor, dim: int) -> Tensor:
    shape = [1] * points.ndim
    shape[dim] = 3
    return torch.tensor(c.point_mean_m, device=points.device).view(shape)
