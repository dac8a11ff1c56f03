"""Sprites land where a pinhole camera sees the hand's position, at the size that its distance gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geo4d_bench.geometry.camera import depth_to_points, intrinsics, project
from geo4d_bench.model.layered.patches import from_patches, to_patches
from geo4d_bench.model.layered.sprites import CHANNELS, HALF_EXTENT_M, SIZE, draw

HEIGHT, WIDTH, PATCH = 48, 64, 8
K = intrinsics(np.deg2rad(50.0), HEIGHT, WIDTH)


def drawn(centres: np.ndarray) -> np.ndarray:
    """(T, H, W) of a sprite whose first channel is 1 everywhere, at centres (T, 3) in the camera's frame."""
    rays = depth_to_points(np.ones((HEIGHT, WIDTH), np.float32), K)
    patches = to_patches(torch.from_numpy(rays)[None, None, None], PATCH)
    sprites = torch.zeros((1, 1, len(centres), CHANNELS, SIZE, SIZE))
    sprites[:, :, :, 0] = 1.0
    hand = draw(sprites, torch.from_numpy(centres).float()[None, None], patches)
    image = from_patches(hand[:, :, :, :1], PATCH, HEIGHT, WIDTH)
    return image[0, 0, ..., 0].numpy()


@pytest.mark.parametrize("depth", [0.9, 1.3])
def test_a_sprite_is_centred_and_sized_by_projection(depth: float) -> None:
    centres = np.array([[0.0, 0.0, depth], [0.1, -0.06, depth], [-0.12, 0.05, depth]])
    for image, centre in zip(drawn(centres), centres, strict=True):
        v, u = np.nonzero(image > 0.5)
        expected = project(centre, K)
        # A square's pixels are symmetric about its middle up to half a pixel on either side.
        np.testing.assert_allclose([u.mean(), v.mean()], expected, atol=0.5)
        width_px = K[0, 0] * 2 * HALF_EXTENT_M / depth
        assert abs(np.ptp(u) + 1 - width_px) <= 1.0
        assert abs(np.ptp(v) + 1 - width_px) <= 1.0


def test_a_sprite_out_of_view_says_nothing() -> None:
    assert not drawn(np.array([[3.0, 0.0, 1.0]])).any()
