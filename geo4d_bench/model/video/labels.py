"""Part labels, openings and validity as an image of three channels, denoised like colours and points.

Channel 0 is 1 where there is depth, else -1. Channel 1 is 1 on the gripper of the first arm, -1 on that of the second,
0 elsewhere. Channel 2 is 1 on a left finger, -1 on a right one, where fingers are painted; on the rest of a gripper it
is how much farther it is open than in the first frame, from -1/2 (closed since) to 1/2 (opened), for in a small image
fingers are less than a pixel wide. It is 0 elsewhere, and where nothing is decided: a gripper then stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geo4d_bench.geometry.hand import PART_NAMES
from geo4d_bench.model.blocks import constant

_SHOWN = 0.25
"""Of channel 1, above which a gripper is shown. An undecided sample has the mean of what could be: a gripper is shown
from odds of one to three."""
_SIDES = (0.0, 1.0, -1.0)  # by part: hand, left and right finger
FINGER = 0.75  # of channel 2, above which a finger is shown
CHANGE = 0.5  # of channel 2, on a gripper that was closed in the first frame and is open
LEAST_SHOWN = 0.1  # pixels: less of a gripper has no place and no opening


def label_image(parts: Tensor, valid: Tensor, change: Tensor, fingers: bool) -> Tensor:
    """(..., 3, H, W) float32 from part labels (..., H, W), bool validity (..., H, W), and changes of the openings
    (..., arms) from -1 (closed since the first frame) to 1."""
    part, arm = (parts.long() - 1) % len(PART_NAMES), (parts.long() - 1) // len(PART_NAMES)
    hand = parts > 0
    first, last = change[..., 0, None, None], change[..., -1, None, None]
    side = CHANGE * torch.where(arm == 0, first, last)
    if fingers:
        side = torch.where(part == 0, side, constant(_SIDES, parts.device)[part])
    return torch.stack([2.0 * valid - 1.0, (1.0 - 2.0 * arm) * hand, side * hand], -3)


def read_labels(image: Tensor, arms: int, fingers: bool) -> tuple[Tensor, Tensor]:
    """Part labels (..., H, W) uint8 and validity (..., H, W) bool of a generated image (..., 3, H, W)."""
    valid, hand, side = image.unbind(-3)
    part = torch.where(side > FINGER, 1, torch.where(side < -FINGER, 2, 0)) * fingers
    arm = (hand < 0) if arms == 2 else torch.zeros_like(hand, dtype=torch.bool)
    shown = hand.abs() > _SHOWN if arms == 2 else hand > _SHOWN
    return torch.where(shown, 1 + len(PART_NAMES) * arm + part, 0).to(torch.uint8), valid > 0


def read_changes(labels: Tensor, arms: int) -> Tensor:
    """(B, arms, T) changes of the openings from -1 (closed since the first frame) to 1 in label images
    (B, V, T, 3, ...); NaN where no view shows the gripper."""
    painted, surely = change_sums(labels, arms)
    hand = _signed(labels[:, :, :, 1], arms)
    shown = (hand > _SHOWN).flatten(4).any(4).any(2).transpose(0, 1)
    return torch.where(shown, painted / surely, torch.nan).clamp(-1.0, 1.0)


def change_sums(labels: Tensor, arms: int) -> tuple[Tensor, Tensor]:
    """(B, arms, T) each: of all views' pixels of label images (B, V, T, 3, ...) the changes that they show, weighted by
    the square of how surely each shows the arm's gripper, and the weights, summed up. What is read is their ratio.

    Fingers are left out. An opening places no gripper: weights have no gradient.
    """
    side = labels[:, :, :, 2]
    surely = _signed(labels[:, :, :, 1].detach(), arms).clamp(min=0.0).square() * (side.abs() < FINGER)
    painted, weight = (each.flatten(4).sum((2, 4)).transpose(0, 1) for each in (side * surely, surely))
    return painted / CHANGE, weight


def _signed(hand: Tensor, arms: int) -> Tensor:
    """(arms, B, ...) channel 1 (B, ...) as each arm's: positive where it shows that arm's gripper."""
    return torch.stack([hand, -hand][:arms])
