"""Registered rigs: where their cameras stand, and that these see the hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from geo4d_bench.errors import ConfigError, UnknownNameError
from geo4d_bench.geometry.camera import Camera, project
from geo4d_bench.geometry.rig import DrawnRig, Rig
from geo4d_bench.geometry.se3 import inverse, transform
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.scene import load_scene
from geo4d_bench.rollout.views import resolve
from geo4d_bench.tasks.assets import packed_assets
from geo4d_bench.tasks.rig_file import Ring
from geo4d_bench.tasks.rigs import RIGS, make_rig
from geo4d_bench.tasks.store_cereal import SPEC, StoreCereal

HEIGHT, WIDTH = 64, 80
WORKSPACE = SPEC.workspace


def pixel(camera: Camera, p_world: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(u, v) of a point (3,)."""
    return project(
        transform(inverse(camera.T_world_cam), np.asarray(p_world, dtype=np.float64)), camera.K(HEIGHT, WIDTH)
    )


@pytest.fixture(scope="module")
def hand_shares(task: StoreCereal) -> dict[str, dict[str, float]]:
    """For each rig and camera: the share of a demonstration's frames in which the gripper is in the image and at
    least 12 pixels show it."""
    rigs = [rig for rig in (make_rig(name, WORKSPACE) for name in ("hemisphere16", "orbit")) if isinstance(rig, Rig)]
    cameras = [camera for rig in rigs for camera in rig.cameras]
    scene = load_scene(packed_assets(task, ())[0])
    hand = [i for i, name in enumerate(scene.seg_names) if name.endswith("/right")]
    task.reset(0, "train")
    expert = task.expert()
    shown = []
    with Renderer(scene, HEIGHT, WIDTH) as renderer:
        step = 0
        while not task.success()["task"]:
            if step % 20 == 0:
                p = task.ee_poses()["right"][:3, 3]
                uv = np.array([pixel(c, p) for c in cameras])
                inside = ((uv >= 0) & (uv <= [WIDTH - 1, HEIGHT - 1])).all(1)
                labels = renderer.render(task.physics_state(), cameras).seg
                shown.append(inside & (np.isin(labels, hand).sum((1, 2)) >= 12))
            task.step(expert.command())
            step += 1
    shares = iter(np.mean(shown, axis=0))
    return {rig.name: {name: round(float(next(shares)), 2) for name in rig.camera_names()} for rig in rigs}


def test_hemisphere16_is_a_shell_with_novel_cameras_among_seen_ones() -> None:
    rig = make_rig("hemisphere16", WORKSPACE)
    assert len(rig.views("seen")) == 12
    assert len(rig.views("novel")) == 4
    offset = {c.name: c.T_world_cam[:3, 3] - WORKSPACE for c in rig.cameras}
    for camera in rig.cameras:
        assert 0.7 - 1e-9 <= np.linalg.norm(offset[camera.name]) <= 1.2 + 1e-9
        # The workspace is in the middle of the image and up is up.
        middle = pixel(camera, WORKSPACE)
        np.testing.assert_allclose(middle, [(WIDTH - 1) / 2, (HEIGHT - 1) / 2], atol=1e-6)
        assert pixel(camera, np.add(WORKSPACE, [0, 0, 0.1]))[1] < middle[1]
    spherical = {
        name: np.array([np.arctan2(d[1], d[0]), np.arcsin(d[2] / np.linalg.norm(d)), np.linalg.norm(d)])
        for name, d in offset.items()
    }
    seen = np.array([spherical[c.name] for c in rig.views("seen")])
    for camera in rig.views("novel"):
        assert (spherical[camera.name] > seen.min(0)).all()
        assert (spherical[camera.name] < seen.max(0)).all()
        assert 8.0 < rig.angle_to_training_deg(camera) < 30.0


@pytest.mark.parametrize(("name", "least"), [("hemisphere16", 0.8), ("orbit", 0.75)])
def test_every_camera_sees_the_gripper_in_most_frames_of_a_demonstration(
    hand_shares: dict[str, dict[str, float]], name: str, least: float
) -> None:
    assert min(hand_shares[name].values()) >= least, hand_shares[name]


def test_a_misspelt_rig_gets_a_suggestion() -> None:
    assert list(RIGS) == ["hemisphere16", "orbit", "random16", "ring_360", "wide16", "wide32", "wide64", "zoom"]
    with pytest.raises(UnknownNameError, match="hemisphere16"):
        make_rig("hemisfere16", WORKSPACE)


def test_random16_is_drawn_from_the_space_of_hemisphere16_for_every_episode() -> None:
    rig = make_rig("random16", WORKSPACE)
    assert isinstance(rig, DrawnRig)
    assert (len(rig.camera_names("seen")), len(rig.camera_names("novel"))) == (12, 4)
    protocol = make_rig("hemisphere16", WORKSPACE)
    assert isinstance(protocol, Rig)
    fixed = np.array([spherical(c) for c in protocol.cameras])
    drawn = np.array([spherical(c) for seed in range(20) for c in rig.episode(SPEC.key, "train", seed).cameras])
    assert len(np.unique(drawn.round(6), axis=0)) == 320
    # Inside the box that hemisphere16's cameras span, and, with 320 of them, all over it.
    span = fixed.max(0) - fixed.min(0)
    assert (drawn.min(0) >= fixed.min(0) - 1e-6).all()
    assert (drawn.max(0) <= fixed.max(0) + 1e-6).all()
    assert (drawn.max(0) - drawn.min(0) > 0.95 * span).all()


@pytest.mark.parametrize("number", [16, 32, 64])
def test_wide_rigs_go_beyond_hemisphere16_on_all_sides(number: int) -> None:
    rig, protocol = make_rig(f"wide{number}", WORKSPACE), make_rig("hemisphere16", WORKSPACE)
    assert isinstance(protocol, Rig)
    assert (len(rig.camera_names("seen")), len(rig.camera_names("novel"))) == (number - 4, 4)
    fixed = np.array([spherical(c) for c in protocol.cameras])
    drawn = np.array([spherical(c) for seed in range(20) for c in rig.episode(SPEC.key, "train", seed).cameras])
    assert (drawn.min(0) < fixed.min(0)).all()
    assert (drawn.max(0) > fixed.max(0)).all()
    assert max(rig.angle_to_training_deg(c) for c in protocol.cameras) == 0.0


def test_the_orbit_is_a_level_ring_of_novel_cameras_that_face_the_workspace() -> None:
    rig = make_rig("orbit", WORKSPACE)
    assert isinstance(rig, Rig)
    assert rig.views("seen") == ()
    places = np.array([spherical(c) for c in rig.cameras])
    np.testing.assert_allclose(np.diff(places[:, 0]), 10.0, atol=1e-6)
    np.testing.assert_allclose(places[:, 1:], np.tile(places[:1, 1:], (len(places), 1)), atol=1e-6)
    assert np.abs(places[:, 0]).max() < 140.0  # the robot's base stands at 180
    for camera, (azimuth, *_) in zip(rig.cameras, places, strict=True):
        assert int(camera.name.removeprefix("az")) == round(azimuth)
        middle = pixel(camera, WORKSPACE)
        np.testing.assert_allclose(middle, [(WIDTH - 1) / 2, (HEIGHT - 1) / 2], atol=1e-6)


def test_the_zoom_changes_the_field_of_view_alone() -> None:
    views = resolve("zoom", make_rig("hemisphere16", WORKSPACE))
    pairs = [views.pair("store_cereal-v1", "eval", seed) for seed in range(26)]
    places = np.array([[spherical(c) for c in pair] for pair in pairs])
    np.testing.assert_allclose(np.abs(places[..., 0]), 45.0, atol=1e-6)
    np.testing.assert_allclose(places[:, 0, 0], -places[:, 1, 0], atol=1e-6)
    assert np.ptp(places[..., 1:], axis=(0, 1)).max() < 1e-6
    degrees = [tuple(np.degrees([c.fovy_rad for c in pair]).round(6)) for pair in pairs]
    assert Counter(degrees) == {(f, f): 2 for f in range(24, 85, 5)}


@pytest.mark.parametrize("pair_deg", [15, 140])
def test_a_ring_whose_pairs_do_not_fit_is_explained(pair_deg: int) -> None:
    ring = Ring(azimuth_deg=(-130, 130), step_deg=10, elevation_deg=12.0, radius_m=0.95, pair_deg=pair_deg)
    with pytest.raises(ConfigError, match=f"multiple of its step, 10 degrees.*130 degrees, got {pair_deg}"):
        ring.place("mine", WORKSPACE, fovy_deg=48.0)


def spherical(camera: Camera) -> tuple[float, float, float]:
    """Azimuth and elevation in degrees and distance in metres from the workspace."""
    x, y, z = camera.T_world_cam[:3, 3] - WORKSPACE
    radius = float(np.linalg.norm([x, y, z]))
    return float(np.degrees(np.arctan2(y, x))), float(np.degrees(np.arcsin(z / radius))), radius
