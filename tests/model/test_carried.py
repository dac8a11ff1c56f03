"""What a hand takes along, against pictures that can be moved by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from geo4d_bench.model.carried import NUMBERS, Shown, carry
from geo4d_bench.model.config import PRESETS, GeneratorConfig
from geo4d_bench.model.layers import pixels
from geo4d_bench.model.patches import Condition, from_patches
from geo4d_bench.model.scene import Hands

C = dataclasses.replace(PRESETS.get("debug"), height=24, width=24, frames=2)
FOCAL, DEPTH_M = 24.0, 0.8
STEP_M = DEPTH_M / FOCAL  # as far as a pixel is wide at that depth
FRAMES = torch.arange(2)


def condition(c: GeneratorConfig = C) -> Condition:
    """A wall of random colours, seen straight on."""
    rgb = torch.rand((1, 1, 1, c.height, c.width, 3), generator=torch.Generator().manual_seed(0))
    v, u = torch.meshgrid(torch.arange(c.height), torch.arange(c.width), indexing="ij")
    rays = torch.stack([(u - 11.5) / FOCAL, (v - 11.5) / FOCAL, torch.ones_like(u)], -1).float()[None, None, None]
    one = torch.ones((1, 1, 1, c.height, c.width, 1))
    return Condition(
        rgb=pixels(c, rgb), depth=pixels(c, DEPTH_M * one), valid=pixels(c, one), hand=pixels(c, 0 * one),
        rays=pixels(c, rays), anchor_m=torch.zeros(1, 1, 1, 3), opening_m=torch.zeros(1, 1, 1),
    )  # fmt: skip


def moved(by: tuple[float, float, float], turn: Tensor | None = None, share: float = 1.0) -> tuple[Shown, Tensor]:
    """What a hand in the middle of the wall takes along, in both frames foreseen; and the first frame's picture."""
    first = condition()
    start = torch.tensor([0.0, 0.0, DEPTH_M]).view(1, 1, 1, 3)
    position = torch.stack([start, start + torch.tensor(by)], 3)
    rotation = torch.eye(3).repeat(1, 1, 1, 2, 1, 1)
    rotation[:, :, :, 1] = torch.eye(3) if turn is None else turn
    said = torch.zeros((1, 1, C.tokens, NUMBERS, 2))
    said[:, :, :, 1] = share - 1.0
    hands = Hands(position, rotation, torch.zeros(1, 1, 1, 2), start)
    along = carry(C, said, torch.ones((1, 1, C.tokens, 1, 1, C.patch**2)), first, hands, FRAMES)
    return along, picture(first.rgb)[0]


def picture(patches: Tensor) -> Tensor:
    """(frames, H, W, C)."""
    return from_patches(patches.flatten(4), C.patch, C.height, C.width)[0, 0]


def test_what_is_carried_sideways_moves_by_pixels() -> None:
    along, first = moved((3 * STEP_M, -2 * STEP_M, 0.0))
    rgb = picture(along.rgb)
    torch.testing.assert_close(rgb[0], first, atol=1e-4, rtol=0)  # it had not moved yet
    torch.testing.assert_close(rgb[1][:-2, 3:], first[2:, :-3], atol=1e-4, rtol=0)
    torch.testing.assert_close(picture(along.depth_m), torch.full((2, 24, 24, 1), DEPTH_M))
    logit = picture(along.logit)[1, ..., 0]
    assert (logit[:-2, 3:] == 1.0).all()
    assert (logit[:, :3] < -6).all()  # it was outside the first frame
    assert (logit[-2:] < -6).all()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_goes_a_share_of_the_way(share: float) -> None:
    along, first = moved((4 * STEP_M, 0.0, 0.0), share=share)
    by = int(4 * share)
    torch.testing.assert_close(picture(along.rgb)[1][:, by:], first[:, : 24 - by], atol=1e-4, rtol=0)


def test_what_comes_nearer_grows_and_its_depth_falls() -> None:
    along, first = moved((0.0, 0.0, -DEPTH_M / 2))
    torch.testing.assert_close(picture(along.depth_m)[1], torch.full((24, 24, 1), DEPTH_M / 2))
    # Pixel (11, 12) was half as far from the middle, (11.5, 11.5): at (11.25, 11.75).
    above, below = (0.25 * first[row, 11] + 0.75 * first[row, 12] for row in (11, 12))
    torch.testing.assert_close(picture(along.rgb)[1, 11, 12], 0.75 * above + 0.25 * below, atol=1e-4, rtol=0)


def test_what_turns_with_the_hand_turns_about_it() -> None:
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x to y: clockwise in the image
    along, first = moved((0.0, 0.0, 0.0), quarter)
    torch.testing.assert_close(picture(along.rgb)[1], torch.rot90(first, -1, (0, 1)), atol=1e-4, rtol=0)


def test_a_hole_is_carried_as_a_hole() -> None:
    first = condition()
    valid = torch.ones((1, 1, 1, 24, 24, 1))
    valid[0, 0, 0, 10, 10] = 0
    first = dataclasses.replace(first, valid=pixels(C, valid))
    start = torch.tensor([0.0, 0.0, DEPTH_M]).view(1, 1, 1, 3)
    position = torch.stack([start, start + torch.tensor([5 * STEP_M, 0.0, 0.0])], 3)
    hands = Hands(position, torch.eye(3).repeat(1, 1, 1, 2, 1, 1), torch.zeros(1, 1, 1, 2), start)
    said = torch.zeros((1, 1, C.tokens, NUMBERS, 2))
    along = carry(C, said, torch.zeros((1, 1, C.tokens, 1, 1, C.patch**2)), first, hands, FRAMES)
    assert torch.nonzero(picture(along.valid)[..., 0] == 0).tolist() == [[0, 10, 10], [1, 10, 15]]
    assert math.isclose(float(picture(along.depth_m)[1, 10, 15]), DEPTH_M, rel_tol=1e-5)
