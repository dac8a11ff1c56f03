"""A user's rig file: cameras, a shell or a ring are read, and its mistakes are named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d_bench.dataset.manifest import Manifest, read_manifest, write_manifest
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.camera import Camera, look_at
from geo4d_bench.geometry.rig import DrawnRig, Rig, Shell
from geo4d_bench.geometry.se3 import Array, inverse, pose, pose_error, transform
from geo4d_bench.tasks.rigs import make_rig, warn_of_unseen_workspace
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
        ("- 3", "rig.yaml: expected keys with values, such as 'cameras:', got a list"),
        ("", "expected keys with values, such as 'cameras:', got nothing"),
        ("cameras: &a [*a]", "is not YAML or JSON: Circular reference"),
        ("cameras: " + "[" * 1500, "is not YAML or JSON: maximum recursion depth"),
        ("cameras:\n\t- {name: a}", r"is not YAML: line 2: found character .* \(a tab; indent with spaces\)"),
        ("cameras: !!python/name:os.system", "is not YAML: line 1: could not determine a constructor for the tag"),
        ("cameras: []\n---\ncameras: []", "is not YAML: line 2: but found another document"),
        ("fovy_deg: 50\nfovy_deg: 60\ncameras: []", "line 2: 'fovy_deg' is given twice"),
        ("cameras: [{name: a, position: [0.4, 0.8, 1.7],\n position: [5, 5, 5]}]", "line 2: 'position' is given twice"),
        ("image_width: 640\ncamera_matrix: {}", "got 0 of them; 'geo4d-bench rig import' makes a rig"),
        ("%YAML:1.0\n---\nimage_width: 640", "is a calibration file: 'geo4d-bench rig import .*rig.yaml' makes a rig"),
        ("cameras: null", "'cameras' is empty"),
        (f"cameras: [{', '.join(101 * ['{name: a, position: [1, 0, 2]}'])}]", "at most 100 items"),
        ("fovy_deg: 50", "expected one of 'cameras', 'shell' and 'ring', got 0"),
        (SHELL + RING.removeprefix("fovy_deg: 50\n"), "expected one of 'cameras', 'shell' and 'ring', got 2"),
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


def read(tmp_path: Path, text: str | bytes, name: str = "rig.yaml") -> Rig:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    rig = make_rig(str(path), WORKSPACE)
    assert isinstance(rig, Rig)
    return rig


def camera(tmp_path: Path, **values: object) -> Camera:
    return read(tmp_path, json.dumps({"cameras": [{"name": "a", "position": [0.4, 0.8, 1.7]} | values]})).cameras[0]


OPENGL = """
cameras:
  - name: left
    convention: opengl
    width: 640
    height: 480
    K: [[615.0, 0, 318.2], [0, 612.4, 244.1], [0, 0, 1]]
    T_world_cam: [[-0.894427, -0.182574, 0.408248, 0.4], [0.447214, -0.365148, 0.816497, 0.8],
                  [0.0, 0.912871, 0.408248, 1.7], [0, 0, 0, 1]]
    split: seen
  - {name: right, position: [0.4, -0.8, 1.7], split: seen}
"""
QUATERNION = """
cameras:
  - {name: a, position: [0.4, 0.8, 1.7], quaternion_xyzw: [0.192791, 0.816674, -0.529394, -0.124973],
     convention: opencv, fovx_deg: 69.4, split: seen}
  - {name: b, position: [0.4, -0.8, 1.7], split: seen}
"""


def test_matrix_and_quaternion_are_one_pose_in_either_convention(tmp_path: Path) -> None:
    """The same camera of a rendering tool and of a calibration, by rounded numbers: it looks at (0, 0, 1.3)."""
    expected = look_at((0.4, 0.8, 1.7), (0, 0, 1.3))
    given = [read(tmp_path, text).cameras[0].T_world_cam for text in (OPENGL, QUATERNION)]
    for T in given:
        assert np.max(pose_error(T, expected)) < 2e-6
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    x, y, z, w = Rotation.from_matrix(expected[:3, :3]).as_quat().tolist()
    wxyz = camera(tmp_path, quaternion_wxyz=[w, x, y, z], convention="opencv")
    assert np.max(pose_error(wxyz.T_world_cam, expected)) < 1e-7
    assert np.max(pose_error(camera(tmp_path, look_at=[0, 0, 1.3]).T_world_cam, expected)) < 1e-7


def test_lenses_are_calibrations_at_their_size_and_fields_of_view_at_any(tmp_path: Path) -> None:
    left, right = read(tmp_path, OPENGL).cameras
    np.testing.assert_allclose(left.K(480, 640), [[615.0, 0, 318.2], [0, 612.4, 244.1], [0, 0, 1]], rtol=1e-12)
    # Half the size: pixels' edges are halved, not their centres.
    np.testing.assert_allclose(left.K(240, 320)[:2, 2], [(318.2 + 0.5) / 2 - 0.5, (244.1 + 0.5) / 2 - 0.5])
    assert right.fovy_rad == pytest.approx(np.radians(48))
    wide = camera(tmp_path, fovx_deg=69.4)
    for height, width in ((480, 640), (64, 64), (90, 30)):
        K = wide.K(height, width)
        assert 2 * np.degrees(np.arctan2(0.5 * width, K[0, 0])) == pytest.approx(69.4)
        assert (K[0, 0], K[0, 2], K[1, 2]) == (K[1, 1], (width - 1) / 2, (height - 1) / 2)


@pytest.mark.parametrize(("up", "upwards"), [(None, (1, 0, 0)), ([0, 1, 0], (0, 1, 0)), ([-1, 1e-4, 0], (-1, 0, 0))])
@pytest.mark.parametrize("shift", [0.0, 1e-6, -1e-6, 1e-3])
def test_straight_down_has_the_worlds_x_upwards_unless_told_otherwise(
    tmp_path: Path, up: list[float] | None, upwards: tuple[int, ...], shift: float
) -> None:
    x, y, _ = WORKSPACE
    T = camera(tmp_path, position=[x + shift, y - shift, 2.4], up=up).T_world_cam
    np.testing.assert_allclose(T[:3, 1], np.multiply(upwards, -1), atol=2e-3)
    np.testing.assert_allclose(T[:3, 2], [0, 0, -1], atol=2e-3)


def test_roll_turns_the_camera_clockwise_about_its_view(tmp_path: Path) -> None:
    level, rolled = camera(tmp_path).T_world_cam, camera(tmp_path, roll_deg=90).T_world_cam
    np.testing.assert_allclose(rolled[:3, 0], level[:3, 1], atol=1e-12)  # its right is where down was
    np.testing.assert_allclose(rolled[:3, 2:], level[:3, 2:], atol=1e-12)


R = Rotation.from_euler("xyz", [-115, 0, 120], degrees=True).as_matrix()


def matrix(rotation: Array = R, **more: object) -> dict[str, object]:
    return {"position": None, "T_world_cam": pose(rotation, (0.4, 0.8, 1.7)).tolist(), "convention": "opencv"} | more


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"position": None}, "camera 'a': expected 'position' or 'T_world_cam'"),
        ({"position": [400, 800, 1700]}, "1920 m from the workspace, expected 0.05 to 10 m.*; are these millimetres"),
        ({"position": [0, 30, 1]}, "30 m from the workspace, expected 0.05 to 10 m: .* metres in the world$"),
        ({"position": [1e300, 0, 1]}, "position.0: Input should be less than or equal to 1000000"),
        ({"position": [0.4, 0.8, -0.1]}, "below the floor, which is z = 0"),
        ({"position": [*WORKSPACE], "look_at": [0, 0, 5]}, "0 m from the workspace"),
        ({"up": [0.43, 0.8, 0.27]}, "parallel to 'up'"),
        ({"convention": "opencv"}, "'convention' is of 'T_world_cam' or a quaternion"),
        ({"quaternion_xyzw": [0, 0, 0, 1]}, "expected 'convention' beside 'quaternion_xyzw': opencv .* or opengl"),
        ({"quaternion_xyzw": [0, 0, 0, 2], "convention": "opencv"}, "'quaternion_xyzw' of length 1, got length 2"),
        ({"quaternion_wxyz": [0, 0, 0, 0], "convention": "opencv"}, "got length 0"),
        ({"quaternion_wxyz": [1, 0, 0, 0], "position": None, "convention": "opencv"}, "'position' beside"),
        (matrix(position=[0, 0, 2]), "expected 'T_world_cam' or 'position', got both"),
        (matrix(roll_deg=3), "expected 'T_world_cam' or 'roll_deg', got both"),
        (matrix(quaternion_xyzw=[0, 0, 0, 1]), "expected 'T_world_cam' or 'quaternion_xyzw', got both"),
        (matrix(convention=None), "expected 'convention' beside 'T_world_cam'"),
        (matrix(convention="blender"), "convention: Input should be 'opencv' or 'opengl', got 'blender'"),
        (matrix(2.5 * R), "scaled by 2.5: divide it by that"),
        (matrix(R + np.eye(3)[:, ::-1] * 0.1), "columns of length 1 at right angles.*off by"),
        (matrix(R * [1, 1, -1]), "left-handed axes"),
        (matrix(T_world_cam=pose(R, (0.4, 0.8, 1.7)).T.tolist()), "stored by columns: transpose it"),
        (matrix(T_world_cam=np.eye(4)[:3].tolist()), "T_world_cam.3: Field required"),
        ({"fovy_deg": 50, "fovx_deg": 60}, "expected one of 'fovy_deg', 'fovx_deg' and 'K', got fovy_deg and fovx_deg"),
        ({"width": 640}, "'width' is of the image that 'K' was calibrated with, and there is no 'K'"),
        ({"K": [[600, 0, 320], [0, 600, 240], [0, 0, 1]], "width": 640}, "expected 'width' and 'height'"),
        ({"K": [[600, 3, 320], [0, 600, 240], [0, 0, 1]], "width": 640, "height": 480}, "expected 'K' as .*, got"),
        ({"K": [[600, 0, 960], [0, 600, 540], [0, 0, 1]], "width": 640, "height": 480}, "outside the image .*another"),
        ({"K": [[0.9, 0, 320], [0, 1.2, 240], [0, 0, 1]], "width": 640, "height": 480}, "makes a field of view of 180"),
        ({"name": "camera/left"}, "cameras.0.name: a name becomes part of paths: .*, got 'camera/left'"),
    ],
)  # fmt: skip
def test_a_faulty_camera_is_explained(tmp_path: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        camera(tmp_path, **values)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("cam 1.rgb", True), ("..a", True), ("Kamera-Süd", True), ("\u6444" * 66, True), ("x" * 200, True),
        ("..", False), (".", False), ("", False), ("a/b", False), ("a\\b", False), ("a\0", False), ("a\nb", False),
        ("x" * 201, False), ("\u6444" * 67, False), ("\ud800", False),
    ],
)  # fmt: skip
def test_rig_files_and_manifests_take_the_same_names(tmp_path: Path, name: str, good: bool) -> None:
    """A camera's name is a group of an HDF5 file, a folder of an export and a value of a CSV file."""
    from damaged_episodes import settings

    (tmp_path / "data").mkdir()
    made = settings()
    assert isinstance(made.rig, Rig)
    cameras = (dataclasses.replace(made.rig.cameras[0], name=name), *made.rig.cameras[1:])
    write_manifest(tmp_path / "data", Manifest(dataclasses.replace(made, rig=Rig("r", cameras, (0.0, 0.0, 0.0)))))
    text = json.dumps({"cameras": [{"name": name, "position": [0.4, 0.8, 1.7]}]})
    for suffix in (".yaml", ".json"):
        if good:
            assert read(tmp_path, text, f"rig{suffix}").cameras[0].name == name
        else:
            with pytest.raises(ConfigError, match=r"cameras\.0\.name|hex escape"):
                read(tmp_path, text, f"rig{suffix}")
    if good:
        assert read_manifest(tmp_path / "data").settings.rig.camera_names()[0] == name
    else:
        with pytest.raises(DatasetError, match="not a whole manifest"):
            read_manifest(tmp_path / "data")


@pytest.mark.parametrize(
    ("scalar", "name"),
    [
        ("23404442", "23404442"), ("007", "007"), ("1e5", "1e5"), ("0x1F", "0x1F"), ("12:30", "12:30"), ("on", "on"),
        ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), ("null", "null"), ("'7'", "7"), ("1.50", "1.50"),
    ],
)  # fmt: skip
def test_a_name_is_the_text_that_stands_there(tmp_path: Path, scalar: str, name: str) -> None:
    assert read(tmp_path, f"cameras: [{{name: {scalar}, position: [0.4, 0.8, 1.7]}}]").cameras[0].name == name


def test_a_number_as_a_name_in_json_is_its_digits_or_to_be_quoted(tmp_path: Path) -> None:
    text = '{"cameras": [{"name": %s, "position": [0.4, 0.8, 1.7]}]}'
    assert read(tmp_path, text % "23404442", "rig.json").cameras[0].name == "23404442"
    with pytest.raises(ConfigError, match=r"the name 100000\.0 is a number; quote it"):
        read(tmp_path, text % "1e5", "rig.json")
    with pytest.raises(ConfigError, match="'name' is given twice"):
        read(tmp_path, text % '"a", "name": "b"', "rig.json")


@pytest.mark.parametrize(
    ("numbers", "x"), [("4e-1, 8e-1, 17e-1", 0.4), (".4, +.8, 1.7", 0.4), ("02, 0, 1", 2.0), ("1.E-1, 0.8, 1.7", 0.1)]
)
@pytest.mark.parametrize("name", ["rig.yaml", "rig.YML", "Rig.Yaml"])
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, numbers: str, x: float, name: str) -> None:
    rig = read(tmp_path, f"cameras: [{{name: a, position: [{numbers}]}}]", name)
    assert rig.cameras[0].T_world_cam[0, 3] == x


def test_byte_order_marks_anchors_and_tabs_in_json_are_understood(tmp_path: Path) -> None:
    text = "all: &all {split: seen}\ncameras:\n- {<<: *all, name: a, position: [0.4, 0.8, 1.7]}\n"
    with pytest.raises(ConfigError, match="all: Extra inputs are not permitted"):
        read(tmp_path, text)
    text = "cameras:\n- &a {split: seen, name: a, position: [0.4, 0.8, 1.7]}\n- {<<: *a, name: b}\n"
    for encoded in (text.encode("utf-8-sig"), text.encode("utf-16"), text.replace("\n", "\r\n").encode()):
        assert [(c.name, c.split) for c in read(tmp_path, encoded).cameras] == [("a", "seen"), ("b", "seen")]
    tabs = b'\xef\xbb\xbf{\n\t"cameras": [\n\t{"name": "a", "position": [0.4, 0.8, 1.7]}]}'
    assert read(tmp_path, tabs, "rig.json").camera_names() == ("a",)
    with pytest.raises(ConfigError, match="is not YAML or JSON"):
        read(tmp_path, b"\xff\xfe\x00\xd8\x00", "rig.yaml")


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({}, None),
        (matrix(look_at((0.4, 0.8, 1.7), WORKSPACE)[:3, :3], convention="opengl"), "in the other 'convention'"),
        ({"position": [0.9, 0, 1.5], "look_at": [0.9, 0, 5]}, "turn it, or leave it so"),
        (
            matrix(T_world_cam=inverse(look_at((0.4, 0.8, 1.7), WORKSPACE)).tolist()),
            "is it world-to-camera",
        ),
    ],
)
def test_a_camera_that_does_not_look_at_the_workspace_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, object], hint: str | None
) -> None:
    rig = Rig("rig", (camera(tmp_path, **values),), WORKSPACE)
    warn_of_unseen_workspace(rig, 64, 80)
    said = capsys.readouterr().err
    assert (hint is None and said == "") or (hint is not None and hint in said and "camera 'a'" in said)
