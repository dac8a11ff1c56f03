"""Part labels and validity as an image of three channels, so that they are denoised like colours and points.

Channel 0 is 1 where there is depth, else -1. Channel 1 is 1 on the gripper of the first arm, -1 on that of the second,
0 elsewhere. Channel 2 is 1 on a left finger, -1 on a right one, 0 elsewhere.
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


def label_image(parts: Tensor, valid: Tensor) -> Tensor:
    """(..., 3, H, W) float32 from part labels (..., H, W) and bool validity (..., H, W)."""
    part, arm = (parts.long() - 1) % len(PART_NAMES), (parts.long() - 1) // len(PART_NAMES)
    hand = parts > 0
    side = constant(_SIDES, parts.device)[part]
    return torch.stack([2.0 * valid - 1.0, (1.0 - 2.0 * arm) * hand, side * hand], -3)


def read_labels(image: Tensor, arms: int) -> tuple[Tensor, Tensor]:
    """Part labels (..., H, W) uint8 and validity (..., H, W) bool of a generated image (..., 3, H, W)."""
    valid, hand, side = image.unbind(-3)
    part = torch.where(side > 0.5, 1, torch.where(side < -0.5, 2, 0))
    arm = (hand < 0) if arms == 2 else torch.zeros_like(hand, dtype=torch.bool)
    shown = hand.abs() > _SHOWN if arms == 2 else hand > _SHOWN
    return torch.where(shown, 1 + len(PART_NAMES) * arm + part, 0).to(torch.uint8), valid > 0
