"""Where view m stands, which points are where their pixels look, and which space is empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from synthetic_hand import H, Scene, W, box_hand, downward, render

from geo4d_bench.geometry.camera import look_at
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.model.types import Video4D
from geo4d_bench.trackers.free_space import FreeSpace
from geo4d_bench.trackers.views import locate_view, seen_parts


def test_a_view_is_located_by_what_has_not_moved() -> None:
    rng = np.random.default_rng(0)
    frames = 4
    for _ in range(5):
        T = look_at(rng.uniform([-1, -1, 0.5], [1, 1, 2.5]), rng.uniform(-0.2, 0.2, 3))
        before = rng.uniform([-0.5, -0.5, 0.5], [0.5, 0.5, 1.5], (H, W, 3))
        points = np.repeat(transform(T, before)[None, None], frames, axis=1).repeat(2, axis=0)
        parts = np.zeros((2, frames, H, W), dtype=np.uint8)
        parts[:, :, : H // 2, : W // 2] = 1  # a hand, which has gone
        points[:, :, : H // 2, : W // 2] += [0.4, 0.0, 0.0]
        points[:, 2:, H // 2 :, : W // 4] += [0.0, 0.3, 0.0]  # and something that it took along
        rgb, K = np.zeros((2, frames, H, W, 3), dtype=np.uint8), np.tile(np.eye(3), (2, 1, 1))
        first = np.stack([before, before]).astype(np.float32)
        video = Video4D(rgb, points.astype(np.float32), parts, K, 0.4, first_points=first)
        found = locate_view(video)
        assert found is not None
        np.testing.assert_allclose(found, T, atol=1e-4)  # float32 points a metre away, and weights that never vanish
        blurred = replace(video, points=video.points + rng.normal(0, 0.05, video.points.shape).astype(np.float32))
        found = locate_view(blurred)
        assert found is not None
        assert np.linalg.norm(found[:3, 3] - T[:3, 3]) < 0.02
        assert locate_view(replace(video, points=rng.permutation(video.points, axis=3))) is None
        assert locate_view(replace(video, first_points=None)) is None
        assert locate_view(replace(video, parts=np.ones_like(parts))) is None


def test_points_elsewhere_than_their_pixel_looks_are_not_of_a_hand() -> None:
    scene = Scene.make()
    T = np.array([downward([0.0, 0.0, 0.0])] * 2)
    video = render(scene, box_hand(0.002), T, np.array([0.05, 0.05]), np.random.default_rng(0))
    T_n_m = inverse(scene.T_world_n) @ scene.T_world_m
    np.testing.assert_array_equal(seen_parts(video, T_n_m), video.parts)
    told = replace(video, points=video.points.copy(), parts=video.parts.copy())
    told.parts[:, :, :2, :4], told.points[:, :, :2, :4] = 1, video.points[0, 0][video.parts[0, 0] > 0].mean(0)
    np.testing.assert_array_equal(seen_parts(told, T_n_m), video.parts)
    unknown = seen_parts(told, None)  # view m's pose
    np.testing.assert_array_equal(unknown[0], video.parts[0])
    np.testing.assert_array_equal(unknown[1], told.parts[1])
    missing = replace(told, points=np.full_like(told.points, np.nan))
    np.testing.assert_array_equal(seen_parts(missing, T_n_m), told.parts)


def test_what_is_seen_through_is_empty() -> None:
    scene, hand = Scene.make(), box_hand()
    T = np.array([downward([0.0, 0.0, 0.0])])
    video = render(scene, box_hand(0.002), T, np.array([0.05]), np.random.default_rng(0))
    wall = video.points.copy()
    v, u = np.mgrid[:H, :W]
    K = scene.K[0]
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones((H, W))], axis=-1)
    far = [2.0 * rays, transform(inverse(scene.T_world_n) @ scene.T_world_m, 2.0 * rays)]
    for view in (0, 1):
        hole = video.parts[view, 0] == 0
        wall[view, 0][hole] = far[view][hole]
    before = np.stack([2.0 * rays, 2.0 * rays]).astype(np.float32)
    shown = replace(video, points=wall, first_points=before)
    T_n_m = locate_view(shown)
    assert T_n_m is not None
    sight = FreeSpace(shown, T_n_m)
    T_n_world = inverse(scene.T_world_n)
    there = transform(T_n_world @ T[0], hand.at_opening(0.05))
    beside = transform(T_n_world @ downward([0.0, 0.0, 0.25]), hand.at_opening(0.05))
    assert sight.empty_share(there, 0, 0.03) < 0.05
    assert sight.empty_share(beside, 0, 0.03) > 0.9
