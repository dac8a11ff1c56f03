"""In which frames the network sees points: two cameras of one scene give the same where their poses are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from geo4d_bench.dataset.types import Window
from geo4d_bench.model.batch import batch_from_windows, fake_window, frames_of_window
from geo4d_bench.model.video.config import DiTConfig
from geo4d_bench.model.video.generator import VideoGenerator

DEBUG = DiTConfig.presets()["dit_debug"]


def seen_from(window: Window, T_world_n: np.ndarray, T_world_m: np.ndarray) -> Window:
    """The window's world, which its points are taken to be in, seen by cameras with these poses."""
    to_n, to_m = (np.linalg.inv(T) for T in (T_world_n, T_world_m))
    points = np.stack([window.points[v] @ T[:3, :3].T + T[:3, 3] for v, T in enumerate((to_n, to_m))])
    return dataclasses.replace(
        window,
        points=points.astype(np.float32),
        T_world_n=T_world_n,
        T_n_m=to_n @ T_world_m,
        T_n_ee=to_n @ window.T_n_ee,
    )


def pose(seed: int) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.random(random_state=seed).as_matrix(), [0.1 * seed, -0.3, 0.2]
    return T


def test_calibrated_points_are_the_same_from_everywhere_and_go_back_to_camera_n() -> None:
    generator = VideoGenerator(dataclasses.replace(DEBUG, calibrated=True)).eval()
    window = fake_window(DEBUG)
    one, other = (batch_from_windows([seen_from(window, pose(n), pose(m))]) for n, m in ((1, 2), (3, 4)))
    torch.testing.assert_close(generator._first(one)[:, :, :8], generator._first(other)[:, :, :8], rtol=0, atol=1e-5)
    for a, b in zip(generator._targets(one)[0].values(), generator._targets(other)[0].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    # Where the output is the first frame's, which an untrained network's is, its points are in camera n's frame.
    (video,) = generator.generate([frames_of_window(seen_from(window, pose(1), pose(2)))], [0], steps=1)
    first = one["first_points"][0].numpy()
    T_n_m = np.linalg.inv(pose(1)) @ pose(2)
    expected = np.stack([first[0], first[1] @ T_n_m[:3, :3].T + T_n_m[:3, 3]])
    valid = one["first_valid"][0].numpy()
    np.testing.assert_allclose(video.points[:, 0][valid], expected[valid], atol=1e-3)


def test_the_network_knows_where_each_pixel_is_seen_from_and_in_which_direction() -> None:
    generator = VideoGenerator(dataclasses.replace(DEBUG, calibrated=True)).eval()
    window = fake_window(DEBUG)
    batch = batch_from_windows([seen_from(window, pose(1), pose(2))])
    found = generator._first(batch)[0, :, 8:].movedim(1, -1).numpy()
    hand = window.T_n_ee[:, 0, :3, 3].mean(0)  # in the world, which the made-up window's frame is taken to be
    for view, T_world_cam in enumerate((pose(1), pose(2))):
        rays = batch["rays"][0, view].numpy() @ T_world_cam[:3, :3].T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        np.testing.assert_allclose(found[view, ..., :3], rays, atol=1e-5)
        place = (T_world_cam[:3, 3] - hand) / generator.config.point_scale_m
        np.testing.assert_allclose(found[view, ..., 3:], np.broadcast_to(place, rays.shape), atol=1e-5)


def test_far_off_points_count_by_their_distance_and_the_rest_by_squares() -> None:
    generator = VideoGenerator(DEBUG)
    z = torch.zeros(1, 2, 3, 1, DEBUG.channels, 2, 2)
    near, far, farther = (generator._errors(z + d, z) for d in (1e-4, 0.5, 1.0))
    torch.testing.assert_close(far[:, :, :2], torch.full_like(far[:, :, :2], 0.25))
    assert (farther / far)[:, :, 2].allclose(torch.tensor(2.0), atol=0.05)
    assert (generator._errors(z + 2e-4, z) / near)[:, :, 2].allclose(torch.tensor(4.0), atol=0.02)
