"""Rigs: hemisphere16 sees the hand from everywhere; a user's YAML is read, and its mistakes are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geo4d_bench.errors import ConfigError, UnknownNameError
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.scene import load_scene, pack_scene
from geo4d_bench.tasks.rigs import load_rig, make_rig, rig_names
from geo4d_bench.tasks.store_cereal import SPEC, StoreCereal

HEIGHT, WIDTH = 64, 80
WORKSPACE = SPEC.workspace


def test_hemisphere16_is_a_shell_with_novel_cameras_among_seen_ones() -> None:
    rig = make_rig("hemisphere16", WORKSPACE)
    assert len(rig.views("seen")) == 12
    assert len(rig.views("novel")) == 4
    offset = {c.name: c.T_world_cam[:3, 3] - WORKSPACE for c in rig.cameras}
    for camera in rig.cameras:
        assert 0.7 - 1e-9 <= np.linalg.norm(offset[camera.name]) <= 1.2 + 1e-9
        # The workspace is in the middle of the image and up is up.
        middle = camera.project_world(np.array(WORKSPACE), HEIGHT, WIDTH)
        np.testing.assert_allclose(middle, [(WIDTH - 1) / 2, (HEIGHT - 1) / 2], atol=1e-6)
        assert camera.project_world(np.add(WORKSPACE, [0, 0, 0.1]), HEIGHT, WIDTH)[1] < middle[1]
    spherical = {
        name: np.array([np.arctan2(d[1], d[0]), np.arcsin(d[2] / np.linalg.norm(d)), np.linalg.norm(d)])
        for name, d in offset.items()
    }
    seen = np.array([spherical[c.name] for c in rig.views("seen")])
    for camera in rig.views("novel"):
        assert (spherical[camera.name] > seen.min(0)).all()
        assert (spherical[camera.name] < seen.max(0)).all()
        assert 8.0 < rig.view_angle_deg(camera.name) < 30.0


def test_every_camera_sees_the_gripper_in_most_frames_of_a_demonstration(task: StoreCereal) -> None:
    rig = make_rig("hemisphere16", WORKSPACE)
    scene = load_scene(pack_scene(task.scene_xml(), arms=SPEC.arms))
    hand = [i for i, name in enumerate(scene.seg_names) if name.endswith("/right")]
    task.reset(0, "train")
    expert = task.expert()
    inside, visible = [], []
    with Renderer(scene, HEIGHT, WIDTH) as renderer:
        step = 0
        while not task.success()["task"]:
            if step % 12 == 0:
                p = task.ee_poses()["right"][:3, 3]
                uv = np.array([c.project_world(p, HEIGHT, WIDTH) for c in rig.cameras])
                inside.append(((uv >= 0) & (uv <= [WIDTH - 1, HEIGHT - 1])).all(1))
                labels = renderer.render(task.physics_state(), rig.cameras).seg
                visible.append(np.isin(labels, hand).sum((1, 2)) >= 12)
            task.step(expert.command())
            step += 1
    share = (np.array(inside) & np.array(visible)).mean(0)
    assert (share >= 0.8).all(), dict(zip([c.name for c in rig.cameras], share.round(2), strict=True))


def test_a_misspelt_rig_gets_a_suggestion() -> None:
    assert rig_names() == ["hemisphere16"]
    with pytest.raises(UnknownNameError, match="hemisphere16"):
        make_rig("hemisfere16", WORKSPACE)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cameras: [", "is not YAML"),
        ("cameras: []", "at least one camera"),
        ("- 3", "at least one camera"),
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
        load_rig(path, WORKSPACE)


def test_a_missing_rig_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        make_rig(str(tmp_path / "none.yaml"), WORKSPACE)
