"""Rigs that are drawn for every episode, and view angles, against closed forms and a fine grid."""

from __future__ import annotations

import numpy as np
import pytest

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import Camera
from geo4d_bench.geometry.rig import DrawnRig, Rig, Shell, on_sphere

TARGET = (0.3, -0.2, 1.1)
SHELL = Shell((-126.0, 126.0), (6.0, 44.0), (0.7, 1.2), 48.0)
RIG = DrawnRig("drawn", SHELL, TARGET, seen=3, novel=2)


def direction(azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    azimuth, elevation = np.radians([azimuth_deg, elevation_deg])
    return np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])


def test_an_episodes_cameras_are_a_function_of_task_split_and_seed():
    def places(*key):
        return np.stack([c.T_world_cam for c in RIG.episode(*key).cameras])

    here = places("a-v1", "train", 3)
    np.testing.assert_array_equal(here, places("a-v1", "train", 3))
    for other in (("b-v1", "train", 3), ("a-v1", "eval", 3), ("a-v1", "train", 4)):
        assert np.linalg.norm(here[:, :3, 3] - places(*other)[:, :3, 3], axis=1).min() > 1e-3


def test_names_and_splits_are_the_same_in_every_episode():
    for seed in range(3):
        rig = RIG.episode("a-v1", "train", seed)
        assert rig.camera_names() == RIG.camera_names() == ("cam00", "cam01", "cam02", "cam03", "cam04")
        assert rig.camera_names("seen") == RIG.camera_names("seen") == ("cam00", "cam01", "cam02")
        assert rig.camera_names("novel") == RIG.camera_names("novel") == ("cam03", "cam04")


def test_places_are_uniform_over_the_shells_part_of_the_sphere():
    rng, count = np.random.default_rng(0), 4000
    T = np.stack([SHELL.draw(rng, TARGET) for _ in range(count)])
    offset = T[:, :3, 3] - TARGET
    radius = np.linalg.norm(offset, axis=1)
    azimuth = np.arctan2(offset[:, 1], offset[:, 0])
    np.testing.assert_allclose(T[:, :3, 2], -offset / radius[:, None], atol=1e-9)  # looks at the target
    assert (T[:, 2, 1] < 0).all()  # upright
    # Area is uniform where azimuth and the sine of elevation are. Mean and extremes of each, to four standard errors.
    uniform = {
        "azimuth": (azimuth, np.radians(SHELL.azimuth_deg)),
        "sine of elevation": (offset[:, 2] / radius, np.sin(np.radians(SHELL.elevation_deg))),
        "radius": (radius, np.array(SHELL.radius_m)),
    }
    for name, (values, (low, high)) in uniform.items():
        unit = (values - low) / (high - low)
        assert unit.min() > -1e-9, name
        assert unit.max() < 1 + 1e-9, name
        for quantile in (0.25, 0.5, 0.75):
            error = abs((unit < quantile).mean() - quantile)
            assert error < 4 * np.sqrt(quantile * (1 - quantile) / count), name


@pytest.mark.parametrize(
    ("azimuth_deg", "elevation_deg", "angle_deg"),
    [(0, 30, 0), (126, 6, 0), (-126, 44, 0), (10, 50, 6), (-100, -4, 10), (0, 90, 46), (0, -90, 96)],
)
def test_the_angle_to_a_shell_is_that_to_its_edge(azimuth_deg, elevation_deg, angle_deg):
    assert SHELL.angle_deg(direction(azimuth_deg, elevation_deg)) == pytest.approx(angle_deg, abs=1e-6)


def test_beside_a_shell_on_the_equator_the_angle_is_the_azimuths():
    shell = Shell((10.0, 50.0), (-30.0, 30.0), (1.0, 1.0), 50.0)
    for azimuth, angle in ((70, 20), (-10, 20), (-60, 70), (130, 80), (30, 0)):
        assert shell.angle_deg(direction(azimuth, 0.0)) == pytest.approx(angle, abs=1e-6)


def test_the_angle_to_a_shell_is_that_to_the_nearest_of_many_directions_in_it():
    grid = [
        direction(a, e) for a in np.linspace(*SHELL.azimuth_deg, 253) for e in np.linspace(*SHELL.elevation_deg, 39)
    ]
    rng = np.random.default_rng(1)
    for _ in range(50):
        d = rng.normal(size=3)
        nearest = np.degrees(np.arccos(np.clip(np.max(grid @ d) / np.linalg.norm(d), -1, 1)))
        assert SHELL.angle_deg(d) == pytest.approx(nearest, abs=0.75)  # half a cell's diagonal of 1 x 1 degree


def test_an_episodes_cameras_are_among_those_that_were_trained_on():
    for camera in RIG.episode("a-v1", "eval", 5).cameras:
        assert RIG.angle_to_training_deg(camera) == 0.0
    behind = Camera("behind", on_sphere(TARGET, 180, 6, 1.0), 0.8)
    # Cosine rule on the sphere, between azimuths 54 degrees apart; up the meridian it gets nearer still.
    along = np.radians(54)
    edge = np.degrees(np.arccos(max(
        np.sin(np.radians(6)) * np.sin(e) + np.cos(np.radians(6)) * np.cos(e) * np.cos(along)
        for e in np.radians(np.linspace(6, 44, 20001))
    )))  # fmt: skip
    assert RIG.angle_to_training_deg(behind) == pytest.approx(edge, abs=1e-5)


def test_a_rig_without_seen_cameras_has_no_angles_to_them():
    novel = Camera("a", on_sphere(TARGET, 0, 10, 1.0), 0.8, "novel")
    for rig in (Rig("ring", (novel,), TARGET), DrawnRig("drawn", SHELL, TARGET, seen=0, novel=4)):
        with pytest.raises(ConfigError, match=f"'{rig.name}' has no seen camera"):
            rig.angle_to_training_deg(novel)
