"""Datasets in other rooms: the same states, another background, drawn again from what is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from episode_contents import contents

from geo4d_bench.datagen import verify
from geo4d_bench.datagen.job import make_dataset
from geo4d_bench.datagen.redraw import render_dataset
from geo4d_bench.datagen.verify import VerifyConfig
from geo4d_bench.dataset.checks import episode_faults
from geo4d_bench.dataset.manifest import Settings, read_manifest
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.errors import DatasetError, SceneError
from geo4d_bench.geometry.room import ROOM_SETS, THINGS, WALLS, RoomsName, draw_room
from geo4d_bench.rendering.rooms import (
    _MOUNT_SLOTS,
    _SLOTS,
    MOUNTS,
    PATTERNS,
    RoomScene,
    corners,
    load_scene_for,
    pattern,
)
from geo4d_bench.rendering.scene import load_scene

NAME = "ep_000000.hdf5"


@pytest.fixture(scope="module")
def settings(tiny_dataset: Any) -> Settings:
    return read_manifest(tiny_dataset.eval).settings


@pytest.fixture(scope="module")
def held_out(tiny_dataset: Any, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny dataset's eval episode, simulated and drawn in rooms of ``held_out``."""
    folder = tmp_path_factory.mktemp("rooms") / "held_out"
    make_dataset(folder, dataclasses.replace(settings, rooms="held_out"), 1)
    return folder


def test_equal_seeds_give_equal_states_and_only_the_room_differs(tiny_dataset: Any, held_out: Path) -> None:
    fixed, other = Dataset(tiny_dataset.eval).episodes[0], Dataset(held_out).episodes[0]
    for name, value in vars(fixed.trajectory).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, getattr(other.trajectory, name)), name
    assert fixed.trajectory.scene == other.trajectory.scene
    labels = list(other.seg_names)
    assert labels == list(fixed.seg_names)
    for camera in fixed.cameras:
        a, b = (episode.frames(camera.name, range(len(fixed.steps))) for episode in (fixed, other))
        # The shelf's legs end on another floor and may be hidden by what stands there; the robot's mount is another.
        for name in ("cereal", "hand/right", "finger_left/right", "finger_right/right"):
            assert np.array_equal(a.seg == labels.index(name), b.seg == labels.index(name)), name
        thing = (a.seg > labels.index("shelf")) & np.isfinite(a.depth)
        assert np.abs(a.depth - b.depth)[thing].max() <= 1.01e-4  # a step of what is stored
        background = (a.seg == 0) & (b.seg == 0)
        assert np.abs(a.rgb.astype(int) - b.rgb)[background].mean() > 15


def test_what_is_stored_is_drawn_again_in_its_room_or_another(
    tiny_dataset: Any, held_out: Path, settings: Settings, tmp_path: Path
) -> None:
    rooms = dataclasses.replace(settings, rooms="held_out")
    render_dataset(held_out, tmp_path / "bundle", dataclasses.replace(rooms, views="none"))
    for source, name in ((tmp_path / "bundle", "again"), (tiny_dataset.eval, "from fixed")):
        render_dataset(source, tmp_path / name, rooms)
        ours, first = contents(tmp_path / name / "episodes" / NAME), contents(held_out / "episodes" / NAME)
        assert ours.keys() == first.keys()
        assert all(np.array_equal(ours[key], value) for key, value in first.items())
    assert verify.run(VerifyConfig(tmp_path / "again")).faults == ()
    render_dataset(held_out, tmp_path / "fixed", settings)
    back, first = (contents(folder / "episodes" / NAME) for folder in (tmp_path / "fixed", tiny_dataset.eval))
    assert all(np.array_equal(back[key], value) for key, value in first.items())


def test_a_folder_of_other_rooms_is_refused(held_out: Path, settings: Settings) -> None:
    with pytest.raises(DatasetError, match="rooms held_out there, varied asked for"):
        make_dataset(held_out, dataclasses.replace(settings, rooms="varied"), 1)
    (fault,) = episode_faults(held_out / "episodes" / NAME, settings, None, images=False)
    assert fault.startswith("its rooms are 'held_out', expected 'fixed'")


@pytest.mark.parametrize("rooms", ["varied", "held_out"])
def test_everything_stands_on_the_floor(held_out: Path, rooms: RoomsName) -> None:
    (path,) = (held_out / "scenes").glob("*.zip")
    own, scene = load_scene(path), load_scene_for(path, rooms)
    assert isinstance(scene, RoomScene)
    assert scene.seg_names == own.seg_names
    model, data = scene.model, scene.data
    mounts = set()
    for room in (draw_room(rooms, "store_cereal-v1", "train", seed) for seed in range(12)):
        assert room is not None
        scene.enter(room)
        floor_m = room.T_world_room[2, 3]
        mounts.add(room.mount[0])
        there = [g for g in range(model.ngeom) if data.geom_xpos[g][2] > -10]
        posts = [g for g in there if model.geom(g).name.startswith("shelf_post")]
        low = [data.geom_xpos[g][2] - model.geom_size[g][1] for g in posts]
        np.testing.assert_allclose(low, floor_m, atol=1e-9)
        np.testing.assert_allclose([data.geom_xpos[g][2] + model.geom_size[g][1] for g in posts], 1.42, atol=1e-9)
        robot = [g for g in there if scene.seg_names[scene.geom_label[g]] == "robot"]
        bottom = min(corners(model, data, g)[:, 2].min() for g in robot)
        assert min(floor_m, -0.007) - 1e-6 < bottom < floor_m + 1e-6  # robosuite's pedestal sinks in by 6 mm
    assert mounts == {*ROOM_SETS[rooms].mounts}
    with pytest.raises(SceneError, match="no room but its own"):
        own.enter(room)


@pytest.mark.parametrize("name", ROOM_SETS)
def test_the_fullest_room_has_a_geom_for_each_of_its_parts(name: RoomsName) -> None:
    most = {"low": 12, "tall": 3, "hung": 5}  # as draw_room puts them
    parts = [n * max(len(THINGS[thing][1]) for thing in getattr(ROOM_SETS[name], kind)) for kind, n in most.items()]
    assert 1 + len(WALLS) + sum(parts) <= _SLOTS
    assert max(len(MOUNTS[kind](1.0)) for kind in ROOM_SETS[name].mounts if kind in MOUNTS) <= _MOUNT_SLOTS


def test_patterns_repeat_and_differ() -> None:
    images = {name: pattern(name) for name in PATTERNS}
    assert {*images} == {name for among in ROOM_SETS.values() for name in among.patterns}
    for name, image in images.items():
        assert 0.0 <= image.min() < image.max() <= 1.0, name
        assert image.mean() > 0.5, name
    assert len({image.tobytes() for image in images.values()}) == len(images)
