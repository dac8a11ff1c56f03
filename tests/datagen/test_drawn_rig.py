"""A dataset whose cameras are drawn anew for every episode: stored, verified, read and told apart from others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from geo4d_bench.datagen import verify
from geo4d_bench.datagen.job import DatagenConfig, make_dataset, settings_of
from geo4d_bench.datagen.verify import VerifyConfig
from geo4d_bench.dataset.manifest import Settings, read_manifest
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.geometry.rig import DrawnRig
from geo4d_bench.geometry.se3 import inverse


def settings() -> Settings:
    """random16's shell with two seen and two novel cameras, small images."""
    made = settings_of(DatagenConfig(rig="random16", height=24, width=32, disturbed_share=0.0))
    assert isinstance(made.rig, DrawnRig)
    return dataclasses.replace(made, rig=dataclasses.replace(made.rig, name="random4", seen=2, novel=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "store_cereal"
    make_dataset(folder, settings(), 2)
    return folder


def test_every_episode_has_its_own_cameras_and_stores_them(folder: Path) -> None:
    dataset, expected = Dataset(folder), settings()
    poses = []
    for episode in dataset.episodes:
        drawn = expected.rig.episode("store_cereal-v1", "train", episode.trajectory.seed)
        assert [(c.name, c.split) for c in episode.cameras] == [(c.name, c.split) for c in drawn.cameras]
        for camera in drawn.cameras:
            np.testing.assert_array_equal(episode.T_world_cam(camera.name), camera.T_world_cam)
        poses.append([c.T_world_cam for c in episode.cameras])
    assert np.abs(np.subtract(*poses)).max(axis=(1, 2)).min() > 0.01


def test_the_manifest_says_that_cameras_are_drawn_and_from_what(folder: Path) -> None:
    rig = json.loads((folder / "manifest.json").read_text())["settings"]["rig"]
    assert rig["per_episode"] is True
    assert rig["shell"]["radius_m"] == [0.7, 1.2]
    assert "cameras" not in rig
    assert read_manifest(folder).settings.rig == settings().rig


def test_verify_finds_it_whole_and_finds_a_camera_that_was_not_drawn(folder: Path, tmp_path: Path) -> None:
    assert verify.run(VerifyConfig(folder)).faults == ()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    with h5py.File(moved / "episodes" / "ep_000001.hdf5", "r+") as file:
        file["views/cam02/T_world_cam"][0, 3] += 1e-3
    faults = [fault for _, fault in verify.run(VerifyConfig(moved)).faults]
    assert any(fault.startswith("views/cam02/T_world_cam differs from the manifest's rig") for fault in faults)


def test_windows_use_the_poses_of_their_episode(folder: Path) -> None:
    for split, names in (("seen", ("cam00", "cam01")), ("novel", ("cam02", "cam03"))):
        windows = Windows(folder, split)  # type: ignore[arg-type]
        assert windows.cameras == names
        relative = []
        for index, (_, episode) in enumerate(windows.episodes):
            window = windows.window(index, 0, *names)
            n, m = (episode.T_world_cam(name) for name in names)
            np.testing.assert_allclose(window.T_n_m, inverse(n) @ m, atol=1e-12)
            relative.append(window.T_n_m)
        assert np.abs(relative[0] - relative[1]).max() > 0.01
    with pytest.raises(ConfigError, match="'random4' has no camera 'cam09'; it has cam00, cam01"):
        Windows(folder, ("cam00", "cam09"))


def test_a_second_call_makes_nothing_and_another_shell_is_refused(folder: Path) -> None:
    mine = settings()
    assert isinstance(mine.rig, DrawnRig)
    assert make_dataset(folder, mine, 2).made == 0
    wider = dataclasses.replace(mine.rig, shell=dataclasses.replace(mine.rig.shell, radius_m=(0.5, 1.5)))
    with pytest.raises(DatasetError, match="'random4' with other cameras"):
        make_dataset(folder, dataclasses.replace(mine, rig=wider), 2)
    fixed = mine.rig.episode("store_cereal-v1", "train", 0)
    with pytest.raises(DatasetError, match="'random4' with other cameras"):
        make_dataset(folder, dataclasses.replace(mine, rig=fixed), 2)
