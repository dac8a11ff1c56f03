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


def read_changes(image: Tensor, parts: Tensor, arms: int) -> Tensor:
    """(B, arms, T) changes of the openings from -1 (closed since the first frame) to 1 in images (B, V, T, 3, H, W)
    that have these part labels (B, V, T, H, W): the mean of what all views' pixels say, by how surely each shows a
    gripper; NaN where none does."""
    hand, side = image[..., 1, :, :].abs(), image[..., 2, :, :]
    shown = [parts == 1 + len(PART_NAMES) * arm for arm in range(arms)]  # fingers apart
    sums = [torch.stack([(each * on).sum((1, 3, 4)) for each in (side, hand)]) for on in shown]
    return torch.stack([painted / (CHANGE * sure) for painted, sure in sums], 1).clamp(-1.0, 1.0)
