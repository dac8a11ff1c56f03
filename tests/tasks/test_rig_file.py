"""A user's rig file: cameras, a shell or a ring are read, and its mistakes are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.rig import DrawnRig, Rig, Shell
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
    np.testing.assert_allclose(rig.cameras[0].T_world_cam[:3, 3], [0.4, 0.8, 1.7])
    for camera, target in zip(rig.cameras, (WORKSPACE, (0, 0, 1.5)), strict=True):
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
        ("cameras: []", "cameras: List should have at least 1 item"),
        ("- 3", "rig.yaml: Input should be an object, got .3."),
        ("fovy_deg: 50", "expected one of 'cameras', 'shell' and 'ring', got 0"),
        (SHELL + RING.removeprefix("fovy_deg: 50\n"), "expected one of 'cameras', 'shell' and 'ring', got 2"),
        (SHELL.replace("fovy_deg: 50\n", ""), "expected 'fovy_deg', degrees"),
        ("fovy_deg: 50\nshell: 3", "shell: Input should be an object, got 3"),
        (SHELL.replace("[-20, 20]", "[60, -60]"), "shell.azimuth_deg: expected .low, high., got .60.0, -60.0."),
        (SHELL.replace("[-20, 20]", "[-300, 300]"), "at most 360 degrees"),
        (SHELL.replace("elevation_deg", "elevation"), "shell.elevation_deg: Field required, got .*'elevation'"),
        (SHELL.replace("seen: 3, novel: 2", "seen: true"), "shell.seen: Input should be a valid integer, got True"),
        (SHELL.replace("seen: 3, novel: 2", "seen: 0"), "numbers of cameras"),
        (SHELL.replace("[0.8, 1.0]", "[0, 1.0]"), "shell.radius_m.0.*greater than or equal to 0.05, got 0"),
        (RING.replace("20]", "20.5]"), "ring.azimuth_deg: expected whole degrees, less than a full turn"),
        (RING.replace("step_deg: 5", "step_deg: 0"), "ring.step_deg.*greater than or equal to 1, got 0"),
        (RING.replace("pair_deg: 15", "pair_deg: 17"), "'pair_deg' as a multiple of its step, 5 degrees"),
        ("fov: 3\ncameras: [{name: a, position: [1, 0, 2], fovy_deg: 50}]", "fov: Extra inputs are not permitted"),
        ("cameras: [{position: [1, 0, 2], fovy_deg: 50}]", "cameras.0.name: Field required"),
        ("cameras: [{name: a, position: [1, 0], fovy_deg: 50}]", "cameras.0.position.2: Field required, got .1, 0."),
        ("cameras: [{name: a, position: [1, 0, .nan], fovy_deg: 50}]", "position.2: Input should be a finite number"),
        ("cameras: [{name: a, position: [1, 0, 2]}]", "camera 'a': expected 'fovy_deg'"),
        ("cameras: [{name: a, position: [1, 0, 2], fovy_deg: 50, split: new}]", "should be .seen. or .novel., got"),
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
