"""What a hand takes along, against pictures that can be moved by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from geo4d_bench.model.generators import presets
from geo4d_bench.model.layered.condition import Condition
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.layers import NUMBERS, Layers, RGBDLayer, compose, warp_with_gripper
from geo4d_bench.model.layered.patches import from_patches, to_patches
from geo4d_bench.model.layered.poses import Hands, Poses, normalise

C = dataclasses.replace(presets().get("layered_debug"), height=24, width=24, frames=2)
FOCAL, DEPTH_M = 24.0, 0.8
STEP_M = DEPTH_M / FOCAL  # as far as a pixel is wide at that depth
FRAMES = torch.arange(2)


def condition(c: LayeredConfig = C) -> Condition:
    """A wall of random colours, seen straight on."""
    rgb = torch.rand((1, 1, 1, c.height, c.width, 3), generator=torch.Generator().manual_seed(0))
    v, u = torch.meshgrid(torch.arange(c.height), torch.arange(c.width), indexing="ij")
    rays = torch.stack([(u - 11.5) / FOCAL, (v - 11.5) / FOCAL, torch.ones_like(u)], -1).float()[None, None, None]
    one = torch.ones((1, 1, 1, c.height, c.width, 1))
    patches = {"rgb": rgb, "depth": DEPTH_M * one, "valid": one, "rays": rays}
    unused = torch.empty(0)
    return Condition(
        **{k: to_patches(v, c.patch) for k, v in patches.items()}, inputs=unused, anchor=unused, opening=unused
    )


def hand_that_goes(by: tuple[float, float, float], turn: Tensor | None = None) -> Hands:
    """In the middle of the wall, still there in the first frame foreseen, moved in the second; metres."""
    start = torch.tensor([0.0, 0.0, DEPTH_M]).view(1, 1, 1, 3)
    rotation = torch.eye(3).repeat(1, 1, 1, 2, 1, 1)
    rotation[:, :, :, 1] = torch.eye(3) if turn is None else turn
    return Hands(torch.stack([start, start + torch.tensor(by)], 3), rotation, torch.zeros(1, 1, 1, 2), start)


def taken_along(
    by: tuple[float, float, float],
    turn: Tensor | None = None,
    first: Condition | None = None,
    share: float = 1.0,
    farther_m: float = 0.0,
) -> tuple[RGBDLayer, Tensor]:
    """What such a hand takes along, and the first frame's picture."""
    first = first or condition()
    numbers = torch.zeros((1, 1, C.tokens, NUMBERS, 2))
    numbers[:, :, :, 1], numbers[:, :, :, 2] = share - 1.0, farther_m / C.motion_scale_m
    attachment = torch.ones((1, 1, C.tokens, 1, 1, C.patch**2))
    return warp_with_gripper(C, numbers, attachment, first, hand_that_goes(by, turn), FRAMES), picture(first.rgb)[0]


def picture(patches: Tensor) -> Tensor:
    """(frames, H, W, C)."""
    return from_patches(patches, C.patch, C.height, C.width)[0, 0]


def test_what_is_carried_sideways_moves_by_pixels() -> None:
    along, first = taken_along((3 * STEP_M, -2 * STEP_M, 0.0))
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
    along, first = taken_along((4 * STEP_M, 0.0, 0.0), share=share)
    by = int(4 * share)
    torch.testing.assert_close(picture(along.rgb)[1][:, by:], first[:, : 24 - by], atol=1e-4, rtol=0)


def test_what_comes_nearer_grows_and_its_depth_falls() -> None:
    along, first = taken_along((0.0, 0.0, -DEPTH_M / 2))
    torch.testing.assert_close(picture(along.depth_m)[1], torch.full((24, 24, 1), DEPTH_M / 2))
    # Pixel (11, 12) was half as far from the middle, (11.5, 11.5): at (11.25, 11.75).
    above, below = (0.25 * first[row, 11] + 0.75 * first[row, 12] for row in (11, 12))
    torch.testing.assert_close(picture(along.rgb)[1, 11, 12], 0.75 * above + 0.25 * below, atol=1e-4, rtol=0)


def test_what_turns_with_the_hand_turns_about_it() -> None:
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x to y: clockwise in the image
    along, first = taken_along((0.0, 0.0, 0.0), quarter)
    torch.testing.assert_close(picture(along.rgb)[1], torch.rot90(first, -1, (0, 1)), atol=1e-4, rtol=0)


def test_a_hole_is_carried_as_a_hole() -> None:
    valid = torch.ones((1, 1, 1, 24, 24, 1))
    valid[0, 0, 0, 10, 10] = 0
    first = dataclasses.replace(condition(), valid=to_patches(valid, C.patch))
    along, _ = taken_along((5 * STEP_M, 0.0, 0.0), first=first)
    assert torch.nonzero(picture(along.valid)[..., 0] == 0).tolist() == [[0, 10, 10], [1, 10, 15]]
    assert math.isclose(float(picture(along.depth_m)[1, 10, 15]), DEPTH_M, rel_tol=1e-5)


def test_what_is_farther_than_the_hand_moves_by_fewer_pixels() -> None:
    """Twice as far away, four pixels' width of a hand's way is two pixels."""
    first = condition()
    first = dataclasses.replace(first, depth=2 * first.depth)
    along, picture_of_it = taken_along((4 * STEP_M, 0.0, 0.0), first=first, farther_m=DEPTH_M)
    torch.testing.assert_close(picture(along.rgb)[1][:, 2:], picture_of_it[:, :-2], atol=1e-4, rtol=0)
    torch.testing.assert_close(picture(along.depth_m)[1], torch.full((24, 24, 1), 2 * DEPTH_M))


def layers(c: LayeredConfig, frames: int, keep: float) -> Layers:
    """A random output of the network."""
    rng = torch.Generator().manual_seed(1)

    def some(channels: int) -> Tensor:
        return torch.randn((1, 1, c.tokens, channels, frames, c.patch**2), generator=rng)

    return Layers(
        rgb=some(3), depth=some(1), keep=0 * some(1) + keep, valid=some(1), parts=some(c.part_classes),
        hand=some(3 * c.arms), warp=torch.randn((1, 1, c.tokens, NUMBERS * c.arms, frames), generator=rng),
        attachment=torch.randn((1, 1, c.tokens, c.arms, c.patch**2), generator=rng), sprites=None,
    )  # fmt: skip


def test_each_arm_takes_its_own_along() -> None:
    """Two arms, one to the right and one down: each picture is where its arm's logit wins."""
    c = dataclasses.replace(C, arms=2)
    right, down = hand_that_goes((3 * STEP_M, 0.0, 0.0)), hand_that_goes((0.0, 3 * STEP_M, 0.0))
    hands = Hands(*(torch.cat(both, 2) for both in zip(right, down, strict=True)))
    own = hands._replace(position=normalise(c, hands.position, 4), start=normalise(c, hands.start, 3))
    still = Poses(torch.eye(3).view(1, 1, 3, 3), torch.zeros(1, 1, 3))
    first = condition(c)
    for arm, expected in ((0, (slice(None), slice(3, None))), (1, (slice(3, None), slice(None)))):
        made = layers(c, 2, keep=-50.0)
        warp, attachment = torch.zeros_like(made.warp), torch.full((1, 1, c.tokens, 2, c.patch**2), -50.0)
        attachment[:, :, :, arm] = 50.0
        made = dataclasses.replace(made, warp=warp, attachment=attachment)
        rgb, was = picture(compose(c, made, first, own, own, still, FRAMES).rgb)[1], picture(first.rgb)[0]
        shifted = was[tuple(slice(None, -3) if s.start else s for s in expected)]
        torch.testing.assert_close(rgb[expected], shifted, atol=1e-4, rtol=0)


def test_some_frames_are_those_of_all() -> None:
    own = hand_that_goes((3 * STEP_M, 0.0, 0.0))
    own = own._replace(position=normalise(C, own.position, 4), start=normalise(C, own.start, 3))
    still = Poses(torch.eye(3).view(1, 1, 3, 3), torch.zeros(1, 1, 3))
    every = layers(C, 2, keep=1.0)
    last = {
        k: v if k in ("attachment", "sprites") else v[..., 1:] if k == "warp" else v[..., 1:, :]
        for k, v in vars(every).items()
    }
    both = compose(C, every, condition(), own, own, still, FRAMES)
    one = compose(C, Layers(**last), condition(), own, own, still, torch.tensor([1]))
    for name in ("rgb", "background", "parts", "valid"):
        torch.testing.assert_close(getattr(one, name)[..., 0, :], getattr(both, name)[..., 1, :])


def test_where_nothing_was_seen_at_first_depth_is_what_the_network_predicts() -> None:
    """However sure it is that nothing changes."""
    first = condition()
    first = dataclasses.replace(first, valid=0 * first.valid, depth=0 * first.depth)
    made = layers(C, 2, keep=30.0)
    still = Poses(torch.eye(3).view(1, 1, 3, 3), torch.zeros(1, 1, 3))
    new = made.depth * C.point_scale_m + C.point_mean_m[2]
    torch.testing.assert_close(compose(C, made, first, None, None, still, FRAMES).background[:, :, :, 2:], new)


def test_hands_in_each_views_own_frame() -> None:
    angle = torch.tensor(0.3)
    R = torch.tensor([[angle.cos(), 0.0, angle.sin()], [0.0, 1.0, 0.0], [-angle.sin(), 0.0, angle.cos()]])
    t = torch.tensor([0.2, -0.1, 0.4])
    in_n = Poses(torch.stack([torch.eye(3), R])[None], torch.stack([torch.zeros(3), t])[None])
    hands = hand_that_goes((0.1, 0.2, 0.3), R)
    own = hands.in_own_frames(in_n)
    torch.testing.assert_close(own.position[:, :1], hands.position)
    back = torch.einsum("ij,...j->...i", R, own.position[:, 1:]) + t
    torch.testing.assert_close(back, hands.position)
    torch.testing.assert_close(torch.einsum("ij,...j->...i", R, own.start[:, 1:]) + t, hands.start)
    torch.testing.assert_close(R @ own.rotation[:, 1:], hands.rotation)
