"""Calibration files of other tools become rigs: the same pixels, the same poses, and what cannot be known is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d_bench.cli import main
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import look_at
from geo4d_bench.geometry.rig import Rig
from geo4d_bench.geometry.se3 import Array, inverse, pose, pose_error
from geo4d_bench.tasks.base import ArmSetup
from geo4d_bench.tasks.rig_import import RigImportConfig, run
from geo4d_bench.tasks.rigs import make_rig
from geo4d_bench.tasks.store_cereal import SPEC, StoreCereal

LEFT = look_at((0.4, 0.8, 1.7), SPEC.workspace)
RIGHT = look_at((0.5, -0.7, 1.6), SPEC.workspace)
T_WORLD_BASE = StoreCereal.arms["right"].T_world_base
K = np.array([[615.0, 0, 318.2], [0, 612.4, 244.1], [0, 0, 1]])

OPENCV = """%YAML:1.0
---
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 615., 0., 318.2, 0., 612.4, 244.1, 0., 0., 1. ]
"""
ROS = """
image_width: 640
image_height: 480
camera_name: left
camera_matrix:
  rows: 3
  cols: 3
  data: [615.0, 0, 318.2, 0, 612.4, 244.1, 0, 0, 1]
distortion_model: plumb_bob
"""
COLMAP_CAMERAS = """# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
1 PINHOLE 640 480 615.0 612.4 318.7 244.6
2 SIMPLE_RADIAL 640 480 615.0 320 240 -0.01
"""


def numbers(values: object) -> str:
    return " ".join(map(repr, np.asarray(values, dtype=float).ravel().tolist()))


def quaternion(T: Array, letters: str = "xyzw") -> list[float]:
    values = dict(zip("xyzw", Rotation.from_matrix(T[:3, :3]).as_quat().tolist(), strict=True))
    return [values[letter] for letter in letters]


def colmap_images(points: bool) -> str:
    lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"]
    for index, (T, camera, name) in enumerate([(LEFT, 1, "rig/left 1.png"), (RIGHT, 2, "right.png")], start=1):
        T_cam_world = inverse(T)
        words = numbers([*quaternion(T_cam_world, "wxyz"), *T_cam_world[:3, 3]])
        lines += [f"{index} {words} {camera} {name}", "12.5 30.25 -1 7 8 42" if points else ""]
    return "\n".join(lines) + "\n"


def imported(tmp_path: Path, *files: tuple[str, str], **options: object) -> tuple[Rig, str]:
    paths = []
    for name, text in files:
        (tmp_path / name).write_text(text)
        paths.append(tmp_path / name)
    result = run(RigImportConfig(tuple(paths), tmp_path / "rig.yaml", **options))  # type: ignore[arg-type]
    rig = make_rig(str(tmp_path / "rig.yaml"), SPEC.workspace)
    assert isinstance(rig, Rig)
    return rig, str(result)


@pytest.mark.parametrize(("name", "text"), [("left.yml", OPENCV), ("left.yaml", ROS)])
def test_intrinsics_alone_stand_where_they_are_told_to(tmp_path: Path, name: str, text: str) -> None:
    rig, said = imported(tmp_path, (name, text), position=((0.4, 0.8, 1.7),))
    (camera,) = rig.cameras
    assert (camera.name, camera.split) == ("left", "seen")
    np.testing.assert_allclose(camera.K(480, 640), K, rtol=1e-12)
    assert np.max(pose_error(camera.T_world_cam, LEFT)) < 1e-7
    assert "a position was given" in said


@pytest.mark.parametrize("points", [False, True])
def test_colmaps_images_are_world_to_camera_and_its_pixels_begin_at_the_corner(tmp_path: Path, points: bool) -> None:
    rig, said = imported(tmp_path, ("cameras.txt", COLMAP_CAMERAS), ("images.txt", colmap_images(points)))
    assert rig.camera_names() == ("rig_left 1", "right")
    for camera, T in zip(rig.cameras, (LEFT, RIGHT), strict=True):
        assert np.max(pose_error(camera.T_world_cam, T)) < 1e-7
    np.testing.assert_allclose(rig.cameras[0].K(480, 640), K, rtol=1e-12)
    np.testing.assert_allclose(rig.cameras[1].K(480, 640)[:2, 2], [319.5, 239.5])
    assert "COLMAP's origin, axes and scale are its own" in said
    # A radial lens moves the image's corner by k r^2 of its distance from the middle.
    r = np.hypot(319.5 + 0.0, 239.5) / 615.0
    assert f"'right': its distortion, up to {0.01 * r**3 * 615.0:.1f} pixels, is left out" in said


def test_a_camera_of_ros_stands_where_its_extrinsics_say(tmp_path: Path) -> None:
    T_base_cam = inverse(T_WORLD_BASE) @ LEFT
    (x, y, z), q = T_base_cam[:3, 3].tolist(), quaternion(T_base_cam)
    letters = dict(zip("xyzw", q, strict=True))
    for form in (
        {"transform": {"translation": {"x": x, "y": y, "z": z}, "rotation": letters}},
        {"translation": [x, y, z], "rotation": q},
        {"transformation": {"x": x, "y": y, "z": z, **{f"q{k}": v for k, v in letters.items()}}},
        {"pose": {"position": {"x": x, "y": y, "z": z}, "orientation": letters}},
    ):
        rig, said = imported(tmp_path, ("left.yaml", ROS), ("tf.yaml", json.dumps(form)), frame="base")
        assert np.max(pose_error(rig.cameras[0].T_world_cam, LEFT)) < 1e-7
        assert "the base of store_cereal's arm 'right'" in said
        (tmp_path / "rig.yaml").unlink()


def test_opencvs_rvec_and_tvec_are_world_to_camera(tmp_path: Path) -> None:
    """What solvePnP returns for four points of the world that LEFT sees."""
    points = np.array([[0, 0, 1.4], [0.1, 0, 1.4], [0, 0.1, 1.5], [0.1, 0.1, 1.3], [-0.1, 0, 1.5], [0, -0.1, 1.4]])
    seen = points @ inverse(LEFT)[:3, :3].T + inverse(LEFT)[:3, 3]
    pixels = (seen @ K.T)[:, :2] / seen[:, 2:]
    _, rvec, tvec = cv2.solvePnP(points, pixels, K, np.zeros(4))
    file = cv2.FileStorage(str(tmp_path / "a.yml"), cv2.FILE_STORAGE_WRITE)
    for name, value in (
        ("image_width", 640),
        ("image_height", 480),
        ("camera_matrix", K),
        ("rvec", rvec),
        ("tvec", tvec),
    ):
        file.write(name, value)
    file.release()
    rig, _ = imported(tmp_path, ("a.yml", (tmp_path / "a.yml").read_text()))
    assert np.max(pose_error(rig.cameras[0].T_world_cam, LEFT)) < 1e-4


def test_droids_poses_are_of_the_robots_base_with_fixed_axes(tmp_path: Path) -> None:
    poses = {}
    for serial, T in (("23404442", LEFT), ("29838012", RIGHT)):
        T_base_cam = inverse(T_WORLD_BASE) @ T
        angles = Rotation.from_matrix(T_base_cam[:3, :3]).as_euler("xyz")
        poses[serial] = [*T_base_cam[:3, 3].tolist(), *angles.tolist()]
    for text in (poses, {"IRIS+2023": poses | {"relative_path": "x"}}, {k: {"pose": v} for k, v in poses.items()}):
        rig, said = imported(tmp_path, ("extrinsics.json", json.dumps(text)), fovy_deg=42.0)
        assert rig.camera_names() == ("23404442", "29838012")
        for camera, T in zip(rig.cameras, (LEFT, RIGHT), strict=True):
            assert np.max(pose_error(camera.T_world_cam, T)) < 1e-7
            assert camera.fovy_rad == pytest.approx(np.radians(42))
        assert "has no intrinsics: its field of view is 42 degrees high" in said
        (tmp_path / "rig.yaml").unlink()


def test_kalibrs_chain_hangs_on_its_first_camera(tmp_path: Path) -> None:
    chain = "".join(
        f"cam{i}:\n  camera_model: pinhole\n  intrinsics: [615.0, 612.4, 318.2, 244.1]\n  resolution: [640, 480]\n"
        "  distortion_model: radtan\n  distortion_coeffs: [0.1, -0.2, 0.0, 0.0]\n" + more
        for i, more in enumerate(["", f"  T_cn_cnm1: {(inverse(RIGHT) @ LEFT).tolist()}\n"])
    )
    rig, said = imported(tmp_path, ("camchain.yaml", chain), position=((0.4, 0.8, 1.7),))
    for camera, T in zip(rig.cameras, (LEFT, RIGHT), strict=True):
        assert np.max(pose_error(camera.T_world_cam, T)) < 1e-7
        np.testing.assert_allclose(camera.K(480, 640), K, rtol=1e-12)
    assert "'cam1': its distortion, up to" in said


def test_the_robots_base_is_where_the_simulation_has_it(task: StoreCereal) -> None:
    body = task._sim.data.body("robot0_link0")
    expected = pose(Rotation.from_quat(np.roll(body.xquat, -1)).as_matrix(), body.xpos)
    np.testing.assert_allclose(T_WORLD_BASE, expected, atol=1e-9)
    turned = ArmSetup((1.0, 2.0, 0.0), (), base_yaw_rad=np.pi / 2).T_world_base
    np.testing.assert_allclose(turned @ [1, 0, 0, 1], [1, 3, 0.912, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "no file was given; expected OpenCV"),
        (["hello: 3"], {}, "f0.yaml is of no known kind; expected OpenCV .*, DROID's extrinsics JSON"),
        (["* no YAML"], {}, "is not YAML: .*; expected OpenCV"),
        ([ROS], {}, r"1 of the cameras have no pose \(left\) and --position has 0: expected its x y z"),
        ([ROS], {"position": ((0, 0, 2), (0, 0, 3))}, "and --position has 2"),
        ([ROS], {"position": ((400, 800, 1700),)}, "--out .*rig.yaml, camera 'left': .*are these millimetres"),
        ([ROS.replace("plumb_bob", "equidistant")], {}, "model 'equidistant' is no pinhole; undistort"),
        ([ROS.replace("image_height: 480", "")], {}, "a value is missing or is not what it should be .*height"),
        ([ROS.replace("318.2, ", "")], {}, "a value is missing or is not what it should be"),
        ([ROS, "translation: [0, 0, 2]\nrotation: [0, 0, 0, 2]"], {}, "4 numbers and length 1, got length 2"),
        ([ROS, ROS, "translation: [0, 0, 2]\nrotation: [0, 0, 0, 1]"], {}, "2 intrinsics without a pose and 1 poses"),
        ([OPENCV.replace("camera_matrix", "matrix")], {}, "expected camera_matrix, image_width and image_height"),
        ([COLMAP_CAMERAS], {}, "cameras.txt has no poses: give its images.txt"),
        ([colmap_images(True)], {}, "is of COLMAP's camera 1: give its cameras.txt"),
        ([COLMAP_CAMERAS.replace("PINHOLE", "OPENCV_FISHEYE")], {}, "'OPENCV_FISHEYE' is no pinhole; undistort"),
        (["cam0: {camera_model: omni, intrinsics: [1, 2, 3, 4], resolution: [6, 4]}"], {}, "'omni' is no pinhole"),
        (['{"a": {"1": [0,0,0,0,0,0]}, "b": {"1": [0,0,0,0,0,0]}}'], {}, "has the cameras of 2 episodes"),
    ],
)  # fmt: skip
def test_what_cannot_become_a_rig_is_explained(
    tmp_path: Path, texts: list[str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        imported(tmp_path, *((f"f{i}.yaml", text) for i, text in enumerate(texts)), **options)
    assert not list(tmp_path.glob("*rig*"))


def test_the_command_says_what_it_read_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "left.yaml").write_text(ROS)
    command = ["rig", "import", str(tmp_path / "left.yaml"), "--out", str(tmp_path / "rig.yaml")]
    assert main([*command, "--position", "0.4", "0.8", "1.7"]) == 0
    assert "read 1 camera from ROS" in capsys.readouterr().out
    for arguments, sentence in (
        (command, "rig import: --out .*rig.yaml is there already"),
        (["rig"], "there is no command 'rig'; did you mean 'rig import'"),
        ([*command[:-1], "rig.txt"], "expected a file name that ends in .yaml"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert re.search(sentence, said)
