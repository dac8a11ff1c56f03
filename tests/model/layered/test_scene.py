"""Orthographic pictures of a cloud, hands drawn from clouds, and cameras found by a map, against closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from synthetic_windows import window

from geo4d_bench.geometry.camera import look_at
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.model.blocks import product, rotation
from geo4d_bench.model.layered.localise import SceneMap
from geo4d_bench.model.layered.priors import hand_clouds, scene_points
from geo4d_bench.model.layered.sprites import CLOUD_POINTS, HALF_EXTENT_M, SIZE, HandClouds, pictures
from geo4d_bench.model.layered.trajectory import scene_pictures


def test_pictures_of_a_cloud_show_the_topmost_point_of_each_cell() -> None:
    points = torch.tensor([[[-0.9, 0.4, 0.2], [-0.9, 0.4, 0.7], [0.6, -0.3, -0.5], [1.5, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    features = torch.arange(20.0).view(1, 5, 4)
    valid = torch.tensor([[True, True, True, True, False]])
    top, front, side = scene_pictures(points, features, valid, 8)[0]

    def cell(x: float) -> int:
        return int((x + 1) * 4)

    # From above the second point hides the first; the fourth lies outside the cube, the fifth is invalid.
    assert top[..., 5].sum() == 2
    torch.testing.assert_close(top[cell(-0.9), cell(0.4)], torch.tensor([4.0, 5, 6, 7, 0.7, 1]))
    torch.testing.assert_close(top[cell(0.6), cell(-0.3)], torch.tensor([8.0, 9, 10, 11, -0.5, 1]))
    assert front[..., 5].sum() == side[..., 5].sum() == 3
    torch.testing.assert_close(front[cell(0.4), cell(0.2), 4], torch.tensor(-0.9))
    torch.testing.assert_close(side[cell(-0.9), cell(0.7), 4], torch.tensor(0.4))


def test_pictures_do_not_depend_on_the_order_of_points() -> None:
    rng = torch.Generator().manual_seed(0)
    points, features = torch.rand((1, 200, 3), generator=rng) * 2 - 1, torch.rand((1, 200, 4), generator=rng)
    order, valid = torch.randperm(200, generator=rng), torch.ones((1, 200), dtype=torch.bool)
    a = scene_pictures(points, features, valid, 16)
    b = scene_pictures(points[:, order], features[:, order], valid, 16)
    torch.testing.assert_close(a, b)


def test_rotations_and_products_are_exact() -> None:
    R = rotation(torch.randn((20, 6), generator=torch.Generator().manual_seed(0)))
    eye = torch.eye(3).expand_as(R)
    torch.testing.assert_close(R @ R.transpose(-1, -2), eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(20))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(product(R, R.transpose(-1, -2)), eye, atol=1e-5, rtol=0)


def cloud_of(points: list[list[float]], part: list[int]) -> HandClouds:
    """One arm's cloud; all further points are none."""
    padded = torch.zeros((1, CLOUD_POINTS, 3))
    padded[0, : len(points)] = torch.tensor(points)
    parts = torch.full((1, CLOUD_POINTS), -1.0)
    parts[0, : len(part)] = torch.tensor(part, dtype=torch.float32)
    return HandClouds(padded, 0.5 * torch.ones_like(padded), parts, torch.tensor([[0.0, 1.0, 0.0]]))


@pytest.mark.parametrize("turn_deg", [0.0, 90.0])
def test_fingers_are_drawn_as_far_apart_as_they_are_open(turn_deg: float) -> None:
    """Two closed fingers near the optical axis, opened by 7 cm along y: up and down, or left and right when turned."""
    clouds = cloud_of([[0.004, 0.004, 0.0], [0.004, 0.004, 0.0], [0.0, 0.0, 0.05]], [1, 2, 0])
    R = torch.from_numpy(Rotation.from_euler("z", turn_deg, degrees=True).as_matrix()).float()
    centre = torch.tensor([0.1, -0.05, 1.0])
    drawn = pictures(
        clouds, R.expand(1, 1, 1, 1, 3, 3), centre.expand(1, 1, 1, 1, 3), torch.full((1, 1, 1, 1), 0.07), 0.5
    )
    parts, shape = drawn[0, 0, 0, 0, :3], drawn[0, 0, 0, 0, 3:6]
    for part, sign in ((1, 1.0), (2, -1.0)):
        x, y = (R @ torch.tensor([0.004, 0.004 + sign * 0.035, 0.0]))[:2].tolist()
        row, column = (int((v / HALF_EXTENT_M + 1) * SIZE / 2) for v in (y, x))
        assert (parts[part] > 0).nonzero().tolist() == [[row, column]]
        # Shapes stay in the end effector's axes, in units.
        torch.testing.assert_close(shape[:, row, column], 2 * torch.tensor([0.004, 0.004 + sign * 0.035, 0.0]))
    # The point of the hand lies 5 cm farther away, and so nearer to the optical axis than a parallel projection has it.
    x, y = 0.1 / 1.05 - 0.1, -0.05 / 1.05 + 0.05
    row, column = (int(np.floor((v / HALF_EXTENT_M + 1) * SIZE / 2)) for v in (y, x))
    assert (parts[0] > 0).nonzero().tolist() == [[row, column]]


def test_what_is_nearer_hides_what_lies_behind() -> None:
    clouds = cloud_of([[0.0, 0.0, 0.03], [0.0, 0.0, 0.0]], [0, 1])
    drawn = pictures(
        clouds, torch.eye(3).expand(1, 1, 1, 1, 3, 3), torch.tensor([0.0, 0.0, 1.0]).expand(1, 1, 1, 1, 3),
        torch.zeros((1, 1, 1, 1)), 1.0,
    )  # fmt: skip
    assert (drawn[0, 0, 0, 0, 1] > 0).sum() == 1
    assert not (drawn[0, 0, 0, 0, 0] > 0).any()


def test_clouds_are_gathered_where_the_hand_is() -> None:
    """The made-up hand is a square of half width 0.12 m about its end effector, with a finger in each upper corner."""
    windows = [window(seed) for seed in range(6)]
    clouds = hand_clouds(windows)
    there = clouds.part[0] >= 0
    assert {0.0, 1.0, 2.0} == set(clouds.part[0][there].tolist())
    assert np.linalg.norm(clouds.points[0][there].numpy(), axis=1).max() < 0.12 * np.sqrt(2) + 0.03
    assert clouds.points[0][~there].abs().max() == 0
    torch.testing.assert_close(clouds.axis.norm(dim=-1), torch.ones(1))


def room(rng: np.random.Generator) -> np.ndarray:
    """(P, 3) points on a floor, two walls and a box: nothing in it can be turned into itself."""
    floor = np.stack([*rng.uniform(-0.8, 0.8, (2, 6000)), np.zeros(6000)], 1)
    wall = np.stack([np.full(3000, 0.8), rng.uniform(-0.8, 0.8, 3000), rng.uniform(0, 0.9, 3000)], 1)
    other = np.stack([rng.uniform(0, 0.8, 2000), np.full(2000, 0.8), rng.uniform(0, 0.6, 2000)], 1)
    box = rng.uniform([-0.3, -0.1, 0.25], [-0.1, 0.2, 0.25], (1500, 3))
    side = rng.uniform([-0.3, -0.1, 0.0], [-0.3, 0.2, 0.25], (1500, 3))
    return np.concatenate([floor, wall, other, box, side])


@pytest.mark.parametrize("off_deg", [4.0, 15.0, 30.0])
def test_a_camera_is_found_from_a_guess_that_is_far_off(off_deg: float) -> None:
    rng = np.random.default_rng(0)
    scene = SceneMap(room(rng), np.zeros(3))
    T = look_at((-1.2, -0.7, 0.9), (0.0, 0.0, 0.2))
    seen = transform(inverse(T), room(rng)[::3]) + 0.001 * rng.standard_normal((len(room(rng)[::3]), 3))
    stranger = rng.uniform([-0.2, -0.5, 0.0], [0.1, -0.3, 0.3], (400, 3))  # something that the map does not have
    seen = np.concatenate([seen, transform(inverse(T), stranger)])
    guess = np.eye(4)
    guess[:3, :3] = Rotation.from_rotvec(np.radians([0.1 * off_deg, 0, off_deg])).as_matrix()
    guess = guess @ T
    guess[:3, 3] += [0.03, -0.02, 0.04]
    found = scene.find(seen, guess)
    assert np.degrees(Rotation.from_matrix(found[:3, :3].T @ T[:3, :3]).magnitude()) < 0.3
    assert np.linalg.norm(found[:3, 3] - T[:3, 3]) < 0.01
    few = scene.find(seen[:20], guess)
    np.testing.assert_array_equal(few, guess)


def test_the_map_holds_what_views_show_once() -> None:
    points = scene_points([window(seed) for seed in range(4)]).numpy()
    cells = np.floor(points / 0.015 + 1e-4).astype(int)
    assert len(np.unique(cells, axis=0)) > 0.95 * len(points)
    on_wall, on_hand = np.abs(points[:, 0]) < 1e-3, np.abs(points[:, 0] - 0.2) < 1e-3
    assert (on_wall | on_hand).all()
    assert on_wall.sum() > on_hand.sum() > 0
