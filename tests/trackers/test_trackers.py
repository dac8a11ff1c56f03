"""The tracker against closed forms: a hand made of boxes, moved by known poses, seen by two known cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_hand import MAX_OPENING_M, Scene, box_hand, downward, render

from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, RIGHT_FINGER, part_label
from geo4d_bench.geometry.se3 import Array, inverse, pose_error, transform
from geo4d_bench.model.types import Video4D
from geo4d_bench.trackers.point_cloud import DISPLACED_CONFIDENCE, PointTracker, nearest_symmetric
from geo4d_bench.trackers.protocol import HandTrack

FRAMES = 8
SCENE = Scene.make()
HAND_MODEL = box_hand()
FINE_MODEL = box_hand(0.002)
T_N_WORLD = inverse(SCENE.T_world_n)


def motion(step_m: float = 0.05, turn_rad: float = 0.06, swing_m: float = 0.1) -> Array:
    """(1 + FRAMES, 4, 4) poses along an arc; frame 0 is the start that a tracker is told."""
    poses = []
    for t in range(1 + FRAMES):
        along = step_m * (t - FRAMES / 2)
        poses.append(downward([0.3 * along, along, swing_m * np.sin(t)], yaw=turn_rad * t, pitch=0.5))
    return np.array(poses)


def film(poses: Array, openings: Array, noise_m: float = 0.0, seed: int = 0) -> Video4D:
    return render(SCENE, FINE_MODEL, poses[1:], openings[1:], np.random.default_rng(seed), noise_m)


def track(video: Video4D, poses: Array, opening_m: float) -> HandTrack:
    return PointTracker(HAND_MODEL).track(video, T_N_WORLD @ poses[0], opening_m)


def errors(found: HandTrack, poses: Array) -> tuple[Array, Array]:
    return pose_error(SCENE.T_world_n @ found.T_n_ee, poses[1:])


OPEN = np.full(1 + FRAMES, 0.06)


@pytest.mark.parametrize("step_m", [0.0, 0.05, 0.12])
def test_known_motion_is_recovered(step_m: float) -> None:
    poses = motion(step_m)
    found = track(film(poses, OPEN), poses, OPEN[0])
    distance, angle = errors(found, poses)
    # Exact points of a model sampled every 5 mm: matches are at most half a step off along a surface.
    assert distance.max() < 0.0025
    assert np.degrees(angle).max() < 3.0
    assert not found.lost.any()


@pytest.mark.parametrize("noise_m", [0.004, 0.01])
def test_error_stays_below_the_noise(noise_m: float) -> None:
    poses = motion()
    quiet, noisy = (track(film(poses, OPEN, n), poses, OPEN[0]) for n in (0.0, noise_m))
    distance, _ = errors(noisy, poses)
    # More than a hundred points average the noise; one point's own noise is far above what may remain.
    assert np.median(distance) < noise_m
    assert distance.max() < 2 * noise_m
    assert noisy.confidence.mean() < quiet.confidence.mean()


def test_gross_outliers_are_rejected() -> None:
    poses = motion()
    video = film(poses, OPEN)
    rng = np.random.default_rng(1)
    on_hand = video.parts > 0
    flying = on_hand & (rng.random(on_hand.shape) < 0.15)
    points = video.points.copy()
    points[flying] += rng.uniform(0.05, 0.4, (int(flying.sum()), 3)).astype(np.float32)
    distance, _ = errors(track(replace(video, points=points), poses, OPEN[0]), poses)
    assert np.median(distance) < 0.01


@pytest.mark.parametrize("opening_m", [0.0, 0.03, MAX_OPENING_M])
def test_opening_is_read_from_the_fingers(opening_m: float) -> None:
    poses = motion()
    openings = np.full(1 + FRAMES, opening_m)
    openings[0] = 0.05  # the hand opens or closes between the first frame and the video
    found = track(film(poses, openings), poses, openings[0])
    # A distance between two fingers, each known to half a pixel: one pixel at the hand's distance.
    pixel_m = np.linalg.norm(SCENE.T_world_n[:3, 3]) / SCENE.K[0, 0, 0]
    assert np.median(np.abs(found.opening_m - opening_m)) < pixel_m
    assert (found.opening_m >= 0).all()
    assert (found.opening_m <= MAX_OPENING_M).all()


def test_opening_is_held_where_no_finger_is_seen() -> None:
    poses = motion()
    video = film(poses, OPEN)
    fingers = (video.parts == part_label(0, LEFT_FINGER)) | (video.parts == part_label(0, RIGHT_FINGER))
    found = track(replace(video, parts=np.where(fingers, 0, video.parts).astype(np.uint8)), poses, OPEN[0])
    np.testing.assert_allclose(found.opening_m, OPEN[0], atol=0.005)


def test_a_hidden_hand_is_lost_and_found_again() -> None:
    poses = motion(0.04, swing_m=0.0)
    video = film(poses, OPEN)
    parts = video.parts.copy()
    parts[:, 3:5] = 0
    found = track(replace(video, parts=parts), poses, OPEN[0])
    np.testing.assert_array_equal(found.lost, [False, False, False, True, True, False, False, False])
    np.testing.assert_array_equal(found.confidence == 0, found.lost)
    distance, _ = errors(found, poses)
    assert distance[~found.lost].max() < 0.005
    # Bridged from both ends: a straight way is bridged as well as its ends and their velocities are known.
    assert distance[3:5].max() < 0.005


def test_a_hand_that_stays_hidden_coasts_on() -> None:
    poses = motion(0.04, swing_m=0.0)
    video = film(poses, OPEN)
    parts = video.parts.copy()
    parts[:, 3:] = 0
    found = track(replace(video, parts=parts), poses, OPEN[0])
    np.testing.assert_array_equal(found.lost, [False] * 3 + [True] * 5)
    distance, _ = errors(found, poses)
    standing = np.linalg.norm(poses[4:, :3, 3] - poses[3, :3, 3], axis=1)
    assert (distance[3:] < standing).all()


def test_blurred_points_move_the_hand_as_far_as_their_mean_has() -> None:
    """They fit no hand, as where a generator is unsure; the frame before the video is sharp."""
    poses, rng = motion(0.04, turn_rad=0.0), np.random.default_rng(0)
    before = render(SCENE, FINE_MODEL, poses[:1], OPEN[:1], rng).points[:, 0]
    before[1] = transform(inverse(SCENE.T_world_m) @ SCENE.T_world_n, before[1])  # each view's in its own frame
    video = film(poses, OPEN)
    blurred = video.points + rng.normal(0.0, 0.05, video.points.shape).astype(np.float32)
    blurred = np.where((video.parts > 0)[..., None], blurred, np.nan)
    found = track(replace(video, points=blurred, first_points=before), poses, OPEN[0])
    assert not found.lost.any()
    assert (found.confidence == DISPLACED_CONFIDENCE).sum() >= FRAMES / 2
    assert np.median(errors(found, poses)[0]) < 0.02
    # Sharp points are registered as before.
    distance, _ = errors(track(replace(video, first_points=before), poses, OPEN[0]), poses)
    assert distance.max() < 0.0025


def test_a_video_without_a_hand_is_lost_throughout() -> None:
    poses = motion()
    video = film(poses, OPEN)
    found = track(replace(video, parts=np.zeros_like(video.parts)), poses, OPEN[0])
    assert found.lost.all()
    np.testing.assert_allclose(found.T_n_ee, np.tile(T_N_WORLD @ poses[0], (FRAMES, 1, 1)))
    np.testing.assert_allclose(found.opening_m, OPEN[0])


def test_invalid_points_are_never_used() -> None:
    poses = motion()
    video = film(poses, OPEN)
    points = video.points.copy()
    points[0] = np.nan  # view n has no depth at all: view m must do
    found = track(replace(video, points=points), poses, OPEN[0])
    assert np.isfinite(found.T_n_ee).all()
    distance, _ = errors(found, poses)
    assert distance.max() < 0.01


@pytest.mark.parametrize("view", [0, 1])
def test_a_hand_in_pixels_that_look_elsewhere_is_not_followed(view: int) -> None:
    """A view's whole hand, each point where it is in truth, painted into rows above it: no pixel looks there."""
    poses = motion()
    video = film(poses, OPEN)
    rows = -(video.parts.shape[2] // 2)
    parts, points = np.roll(video.parts, rows, axis=2), np.roll(video.points, rows, axis=2)
    parts[1 - view] = 0
    painted = replace(video, parts=parts, points=points, T_n_m=T_N_WORLD @ SCENE.T_world_m)
    assert track(painted, poses, OPEN[0]).lost.all()


def test_arms_are_told_apart_by_their_labels() -> None:
    poses = motion()
    video = film(poses, OPEN)
    second = np.where(video.parts > 0, video.parts + part_label(1, HAND) - part_label(0, HAND), 0).astype(np.uint8)
    tracker = PointTracker(HAND_MODEL)
    start = T_N_WORLD @ poses[0]
    as_first = tracker.track(video, start, OPEN[0], arm=0)
    as_second = tracker.track(replace(video, parts=second), start, OPEN[0], arm=1)
    np.testing.assert_array_equal(as_first.T_n_ee, as_second.T_n_ee)
    assert tracker.track(video, start, OPEN[0], arm=1).lost.all()


def test_symmetry_of_the_hand_does_not_turn_it_round() -> None:
    poses = motion()
    turned = poses @ np.diag([-1.0, -1.0, 1.0, 1.0])
    half_turn = nearest_symmetric(turned[0], poses[0])
    np.testing.assert_allclose(half_turn, poses[0], atol=1e-12)
    np.testing.assert_allclose(nearest_symmetric(poses[0], poses[0]), poses[0])
    # A video whose labels name the fingers the other way round is still tracked in the start's orientation.
    video = film(poses, OPEN)
    swapped = video.parts.copy()
    swapped[video.parts == part_label(0, LEFT_FINGER)] = part_label(0, RIGHT_FINGER)
    swapped[video.parts == part_label(0, RIGHT_FINGER)] = part_label(0, LEFT_FINGER)
    _, angle = errors(track(replace(video, parts=swapped), poses, OPEN[0]), poses)
    assert angle.max() < np.pi / 2


def test_the_same_video_gives_the_same_track() -> None:
    poses = motion()
    video = film(poses, OPEN, 0.01)
    tracker = PointTracker(HAND_MODEL)
    first, second = (tracker.track(video, T_N_WORLD @ poses[0], OPEN[0]) for _ in range(2))
    np.testing.assert_array_equal(first.T_n_ee, second.T_n_ee)
    np.testing.assert_array_equal(first.opening_m, second.opening_m)
    np.testing.assert_array_equal(first.confidence, second.confidence)
