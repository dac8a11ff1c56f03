"""A user's rig file: cameras, a shell or a ring are read, and its mistakes are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry import DrawnRig, Rig, Shell
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.tasks.rigs import make_rig
from geo4d_bench.tasks.store_cereal import SPEC

WORKSPACE = SPEC.workspace
SHELL = (
    "fovy_deg: 50\nshell: {azimuth_deg: [-20, 20], elevation_deg: [10, 30], radius_m: [0.8, 1.0], seen: 3, novel: 2}\n"
)
RING = "fovy_deg: 50\nring: {azimuth_deg: [-20, 20], step_deg: 5, elevation_deg: 30, radius_m: 1.2, pair_deg: 15}\n"


def test_a_rig_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "fovy_deg: 55\ncameras:\n"
        "  - {name: left, position: [0.4, 0.8, 1.7]}\n"
        "  - {name: right, position: [0.4, -0.8, 1.7], look_at: [0, 0, 1.5], fovy_deg: 40, split: seen}\n"
    )
    rig = make_rig(str(path), WORKSPACE)
    assert (rig.name, [c.name for c in rig.cameras]) == ("mine", ["left", "right"])
    assert [c.split for c in rig.cameras] == ["novel", "seen"]
    assert [round(np.degrees(c.fovy_rad)) for c in rig.cameras] == [55, 40]
    np.testing.assert_allclose(rig["left"].T_world_cam[:3, 3], [0.4, 0.8, 1.7])
    for camera, target in ((rig["left"], WORKSPACE), (rig["right"], (0, 0, 1.5))):
        ahead = transform(np.linalg.inv(camera.T_world_cam), np.array(target, dtype=float))
        np.testing.assert_allclose(ahead[:2], 0, atol=1e-9)
        assert ahead[2] > 0


def test_a_shell_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHELL)
    rig = make_rig(str(path), WORKSPACE)
    shell = Shell((-20.0, 20.0), (10.0, 30.0), (0.8, 1.0), 50.0)
    assert rig == DrawnRig("mine", shell, tuple(WORKSPACE), seen=3, novel=2)


def test_a_ring_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RING)
    rig = make_rig(str(path), WORKSPACE)
    assert isinstance(rig, Rig)
    assert rig.camera_names("novel") == tuple(f"az{a:+04d}" for a in range(-20, 21, 5))
    assert rig.ring_offset == 3
    heights = [c.T_world_cam[2, 3] - WORKSPACE[2] for c in rig.cameras]
    np.testing.assert_allclose(heights, 1.2 * np.sin(np.radians(30)), atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cameras: [", "is not YAML"),
        ("cameras: []", "at least one camera"),
        ("- 3", "expected one of 'cameras', 'shell' and 'ring', got none"),
        ("fovy_deg: 50\nshell: {}\nring: {}", "got shell and ring"),
        ("shell: {azimuth_deg: [0, 1]}", "'fovy_deg' between 1 and 150, got None"),
        ("fovy_deg: 50\nshell: 3", "expected 'shell' with its ranges, got 3"),
        ("fovy_deg: 50\nshell: {azimuth_deg: [60, -60]}", "'azimuth_deg' as .low, high. .*got .60, -60."),
        ("fovy_deg: 50\nshell: {azimuth_deg: [-300, 300]}", "at most 360 degrees"),
        (SHELL.replace("elevation_deg", "elevation"), "unknown key 'elevation'"),
        (SHELL.replace("seen: 3, novel: 2", "seen: true"), "'seen' as a whole number from 0 to 100, got True"),
        (SHELL.replace("seen: 3, novel: 2", "seen: 0"), "numbers of cameras"),
        (SHELL.replace("[0.8, 1.0]", "[0, 1.0]"), "'radius_m' as .low, high. between 0.05 and 10"),
        (RING.replace("20]", "20.5]"), "'azimuth_deg' in whole degrees, less than a full turn"),
        (RING.replace("step_deg: 5", "step_deg: 0"), "'step_deg' as a whole number from 1 to 180, got 0"),
        (RING.replace("pair_deg: 15", "pair_deg: 17"), "'pair_deg' as a multiple of its step, 5 degrees"),
        ("fov: 3\ncameras: [{name: a, position: [1, 0, 2], fovy_deg: 50}]", "unknown key 'fov'"),
        ("cameras: [{position: [1, 0, 2], fovy_deg: 50}]", "camera 0: expected a 'name'"),
        ("cameras: [{name: a, position: [1, 0], fovy_deg: 50}]", "'a'.*'position' as .x, y, z."),
        ("cameras: [{name: a, position: [1, 0, .nan], fovy_deg: 50}]", "'a'.*'position' as .x, y, z."),
        ("cameras: [{name: a, position: [1, 0, 2]}]", "'fovy_deg' between 1 and 150, got None"),
        ("cameras: [{name: a, position: [1, 0, 2], fovy_deg: 50, split: new}]", "seen or novel, got 'new'"),
        ("cameras: [{name: a, position: [1, 0, 2], look_at: [1, 0, 2], fovy_deg: 50}]", "move it away"),
        ("fovy_deg: 50\ncameras: [{name: a, position: [1, 0, 2]}, {name: a, position: [2, 0, 2]}]", "one name"),
    ],
)  # fmt: skip
def test_a_faulty_rig_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_rig(str(path), WORKSPACE)


def test_a_missing_rig_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        make_rig(str(tmp_path / "none.yaml"), WORKSPACE)
