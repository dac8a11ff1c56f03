"""Packed scenes: the same bytes every time, nothing from outside, the state still fits, the shapes within bounds."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import mujoco
import numpy as np
import pytest
import trimesh

from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.camera import depth_to_points
from geo4d_bench.geometry.hand import HAND, LEFT_FINGER, RIGHT_FINGER, part_image, part_label
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.rendering.hand import hand_model
from geo4d_bench.rendering.meshes import simplify, surface_error
from geo4d_bench.rendering.renderer import Renderer
from geo4d_bench.rendering.scene import STATE, Scene, load_scene, pack_scene


@pytest.fixture(scope="module")
def task() -> Any:
    from geo4d_bench import tasks

    made = tasks.make("store_cereal")
    made.reset(0, "train")
    return made


@pytest.fixture(scope="module")
def scene(task: Any) -> Scene:
    return load_scene(pack_scene(task.scene_xml()))


def test_a_packed_scene_is_deterministic_and_needs_nothing_outside(task: Any) -> None:
    first, second = pack_scene(task.scene_xml()), pack_scene(task.scene_xml())
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        names = set(archive.namelist())
        xml = archive.read("scene.xml").decode()
        assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in archive.infolist())
    files = [part.split('"')[0] for part in xml.split('file="')[1:]]
    assert files
    assert set(files) <= names
    assert not any(f.startswith("/") or ".." in f for f in files)
    assert "site-packages" not in xml


def test_recorded_states_fit_and_every_body_stands_where_it_stood(task: Any, scene: Scene) -> None:
    original = mujoco.MjModel.from_xml_string(task.scene_xml())
    data = mujoco.MjData(original)
    for name in ("nq", "nv", "na", "nbody", "nu"):
        assert getattr(scene.model, name) == getattr(original, name)
    state = task.physics_state()
    assert state.shape == (scene.state_size,)
    mujoco.mj_setState(original, data, state, STATE)
    mujoco.mj_forward(original, data)
    scene.set_state(state)
    # MJCF writes numbers with 6 digits.
    assert np.allclose(scene.data.xpos, data.xpos, atol=1e-6)
    assert np.allclose(scene.data.xmat, data.xmat, atol=1e-6)
    moving = original.body_weldid > 0
    assert np.allclose(scene.model.body_mass[moving], original.body_mass[moving], rtol=1e-5)
    for arm, T in task.ee_poses().items():
        assert np.allclose(scene.T_world_site(f"gripper0_{arm}_grip_site"), T, atol=1e-6)


def test_labels_name_robot_objects_fixtures_and_hand_parts(scene: Scene) -> None:
    assert scene.seg_names[0] == "background"
    assert {"robot", "cereal", "shelf", "hand/right", "finger_left/right", "finger_right/right"} <= set(scene.seg_names)
    labels = {
        scene.model.body(int(b)).name: int(g) for b, g in zip(scene.model.geom_bodyid, scene.geom_label, strict=True)
    }
    assert scene.seg_names[labels["robot0_link5"]] == "robot"
    assert scene.seg_names[labels["gripper0_right_right_gripper"]] == "hand/right"
    assert scene.seg_names[labels["gripper0_right_leftfinger"]] == "finger_left/right"


def test_the_picture_of_the_packed_scene_is_that_of_the_original(task: Any, scene: Scene, tiny_rig: Any) -> None:
    """Simplified meshes and dropped collision shapes change neither depth nor colour by more than the bound."""
    model = mujoco.MjModel.from_xml_string(task.scene_xml())
    model.geom_rgba[model.geom_group != 1, 3] = 0.0  # collision shapes
    model.geom_matid[model.geom_group != 1] = -1
    whole = Scene(model, mujoco.MjData(model), (), np.zeros(model.ngeom, np.uint8), ())
    state = task.physics_state()
    frames = []
    for shown in (whole, scene):
        with Renderer(shown, 128, 160) as renderer:
            frames.append(renderer.render(state, tiny_rig.cameras))
    before, after = frames
    both = np.isfinite(before.depth) & np.isfinite(after.depth)
    assert (np.isfinite(before.depth) == np.isfinite(after.depth)).mean() > 0.995
    off = np.abs(before.depth - after.depth)[both]
    assert np.quantile(off, 0.9) < 0.001
    assert (off < 0.01).mean() > 0.98  # what is left are edges, where a pixel falls to the other side
    assert np.abs(before.rgb.astype(int) - after.rgb.astype(int)).mean() < 4


def test_every_camera_finds_the_shelf_where_it_stands(tiny_dataset: Any) -> None:
    """Every pixel labelled as shelf, lifted to the world, lies on one of the shelf's boards or posts."""
    dataset = Dataset(tiny_dataset.train)
    episode = dataset.episodes[0]
    scene = load_scene(dataset.scene_path(episode.trajectory.scene))
    label = scene.seg_names.index("shelf")
    geoms = np.flatnonzero(scene.geom_label == label)
    for camera in episode.cameras:
        view = episode.frames(camera.name, [0])
        points = depth_to_points(view.depth[0], episode.K(camera.name))
        mask = (view.seg[0] == label) & np.isfinite(view.depth[0])
        assert mask.sum() > 300
        world = transform(camera.T_world_cam, points[mask].astype(np.float64))
        distance = np.full(len(world), np.inf)
        for g in geoms:
            local = np.abs((world - scene.data.geom_xpos[g]) @ scene.data.geom_xmat[g].reshape(3, 3))
            distance = np.minimum(
                distance, distance_to_surface(local, scene.model.geom_type[g], scene.model.geom_size[g])
            )
        assert distance.max() < 1e-3


def distance_to_surface(local: np.ndarray, kind: int, size: np.ndarray) -> np.ndarray:
    """Distance (N,) of points (N, 3), given by their absolute coordinates in the geom's frame, to a box or cylinder."""
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        local, size = np.stack([np.hypot(local[:, 0], local[:, 1]), local[:, 2]], axis=1), size[:2]
    else:
        assert kind == mujoco.mjtGeom.mjGEOM_BOX
    beyond = local - size
    return np.abs(np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0))


def test_simplified_meshes_keep_to_their_bound() -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.1)
    vertices, faces = np.array(ball.vertices), np.array(ball.faces, dtype=np.int32)
    small_vertices, small_faces = simplify(vertices, faces, error_m=0.0005)
    assert len(small_faces) < len(faces) / 4
    # The distance to a sphere has a closed form: check the measured bound against it.
    bound = surface_error(vertices, small_vertices, small_faces)
    assert np.quantile(bound, 0.99) <= 0.0005
    centres = small_vertices[small_faces].mean(axis=1)
    assert np.median(0.1 - np.linalg.norm(centres, axis=1)) < 0.0008


def test_the_hand_model_lies_on_what_is_drawn(scene: Scene, task: Any, tiny_rig: Any) -> None:
    hand = hand_model(scene, "right")
    assert 1500 <= len(hand.points) <= 3000
    assert set(np.unique(hand.part)) == {HAND, LEFT_FINGER, RIGHT_FINGER}
    assert np.allclose(np.linalg.norm(hand.normals, axis=1), 1.0, atol=1e-6)
    assert hand.max_opening_m == pytest.approx(0.08, abs=0.002)
    assert np.linalg.norm(hand.finger_axis) == pytest.approx(1.0)
    left = hand.points[hand.part == LEFT_FINGER] @ hand.finger_axis
    right = hand.points[hand.part == RIGHT_FINGER] @ hand.finger_axis
    assert left.min() > -0.001  # closed fingers touch in the middle; the left one is on the axis' positive side
    assert right.max() < 0.001
    # At another pose and opening, what the cameras see of each part lies on the model's points of that part.
    state = task.physics_state()
    opening = task.openings()["right"]
    T_world_ee = task.ee_poses()["right"]
    surface = transform(T_world_ee, hand.at_opening(opening))
    with Renderer(scene, 128, 160) as renderer:
        frame = renderer.render(state, tiny_rig.cameras)
    parts = part_image(frame.seg, scene.seg_names, ["right"])
    from scipy.spatial import cKDTree

    for part in (HAND, LEFT_FINGER, RIGHT_FINGER):
        tree = cKDTree(surface[hand.part == part])
        seen = []
        for view in range(len(frame.depth)):
            mask = (parts[view] == part_label(0, part)) & np.isfinite(frame.depth[view])
            lifted = transform(frame.T_world_cam[view], depth_to_points(frame.depth[view], frame.K[view])[mask])
            seen.append(tree.query(lifted.astype(np.float64))[0])
        distance = np.concatenate(seen)
        assert len(distance) > 20
        assert np.quantile(distance, 0.95) < 0.006  # the samples' spacing
    again = hand_model(scene, "right")
    assert np.array_equal(again.points, hand.points)


def test_broken_scenes_are_refused(scene: Scene, task: Any) -> None:
    packed = pack_scene(task.scene_xml())
    with pytest.raises(SceneError, match="not a whole scene"):
        load_scene(packed[: len(packed) // 2])
    with pytest.raises(SceneError, match="does not compile"):
        pack_scene("<mujoco><worldbody><geom type='ball'/></worldbody></mujoco>")
    with pytest.raises(SceneError, match="no label 'hand/left'"):
        hand_model(scene, "left")
