"""Exports hold what the dataset holds: frames, states, and commands that can be had back. ``make test-exports`` opens
them with robomimic and LeRobot themselves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geo4d_bench.dataset.export import ExportConfig, run
from geo4d_bench.dataset.manifest import Manifest, read_manifest
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.rescan import rescan
from geo4d_bench.dataset.writer import write_episode
from geo4d_bench.errors import ConfigError, DatasetError


def last_commands(episode: Any) -> np.ndarray:
    """(K,) the step before the next frame's, whose command says where the hand shall be there."""
    return np.append(episode.steps[1:], len(episode.trajectory.time)) - 1


@pytest.fixture(scope="module")
def robomimic(tiny_dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robomimic") / "tiny.hdf5"
    result = run(ExportConfig(tiny_dataset.train, "robomimic", out))
    assert (result.episodes, result.rows) == (2, sum(len(e.steps) for e in Dataset(tiny_dataset.train).episodes))
    return out


def test_robomimic_holds_the_frames_and_what_follows_them(robomimic: Path, tiny_dataset: Any) -> None:
    dataset = Dataset(tiny_dataset.train)
    seen = dataset.rig.camera_names("seen")
    with h5py.File(robomimic) as file:
        env = json.loads(file["data"].attrs["env_args"])
        assert {"env_name", "type", "env_kwargs"} <= env.keys()
        assert file["data"].attrs["total"] == sum(len(e.steps) for e in dataset.episodes)
        assert sorted(name.decode() for mask in file["mask"].values() for name in mask[()]) == ["demo_0", "demo_1"]
        assert all(len(mask) for mask in file["mask"].values())
        for index, episode in enumerate(dataset.episodes):
            demo, t, steps = file[f"data/demo_{index}"], episode.trajectory, episode.steps
            assert demo.attrs["num_samples"] == len(steps)
            assert np.array_equal(demo["states"], t.states[steps])
            assert np.array_equal(demo["obs/robot0_eef_pos"], t.T_world_ee["right"][steps, :3, 3])
            turned = Rotation.from_quat(demo["obs/robot0_eef_quat"][()]).as_matrix()
            np.testing.assert_allclose(turned, t.T_world_ee["right"][steps, :3, :3], atol=1e-9)
            assert np.array_equal(demo["obs/robot0_gripper_opening"][:, 0], t.opening_m["right"][steps])
            assert np.array_equal(demo["obs/object"][:, :3], t.T_world_obj["cereal"][steps, :3, 3])
            last = np.arange(len(steps)) == len(steps) - 1
            assert np.array_equal(demo["dones"], last)
            assert np.array_equal(demo["rewards"], last)
            assert {name for name in demo["obs"] if name.endswith("_image")} == {f"{name}_image" for name in seen}
            for name in seen:
                images = episode.frames(name, np.arange(len(steps))).rgb
                assert np.array_equal(demo[f"obs/{name}_image"], images)
                assert np.array_equal(demo[f"next_obs/{name}_image"], np.concatenate([images[1:], images[-1:]]))
                assert json.loads(demo.attrs["cameras"])[name]["K"] == episode.K(name).tolist()
            assert demo["next_obs"].keys() == demo["obs"].keys()
            assert np.array_equal(demo["next_obs/robot0_eef_pos"][:-1], demo["obs/robot0_eef_pos"][1:])


def test_robomimic_actions_fill_their_range_and_give_the_commands_back(robomimic: Path, tiny_dataset: Any) -> None:
    largest = np.zeros(7)
    with h5py.File(robomimic) as file:
        scale_m, scale_rad = (file["data"].attrs[name] for name in ("position_scale_m", "rotation_scale_rad"))
        for index, episode in enumerate(Dataset(tiny_dataset.train).episodes):
            demo, commands = file[f"data/demo_{index}"], episode.trajectory.actions[last_commands(episode)]
            actions = demo["actions"][()]
            assert actions.dtype == np.float32
            largest = np.maximum(largest, np.abs(actions).max(axis=0))
            target = demo["obs/robot0_eef_pos"] + scale_m * actions[:, :3].astype(float)
            np.testing.assert_allclose(target, commands[:, :3], atol=1e-6)
            turn = Rotation.from_rotvec(scale_rad * actions[:, 3:6].astype(float))
            turned = turn * Rotation.from_quat(demo["obs/robot0_eef_quat"][()])
            np.testing.assert_allclose(
                turned.as_matrix(), Rotation.from_rotvec(commands[:, 3:6]).as_matrix(), atol=1e-5
            )
            assert np.array_equal(actions[:, 6], commands[:, 6])
            absolute = demo["actions_abs"][()]
            assert np.array_equal(absolute[:, [0, 1, 2, 6]], commands[:, [0, 1, 2, 6]])
    assert largest[:3].max() == pytest.approx(1.0, abs=1e-6)
    assert largest[3:6].max() == pytest.approx(1.0, abs=1e-6)
    assert largest.max() <= 1.0


def test_a_hand_that_turns_through_half_a_turn_makes_no_jump(tmp_path: Path, tiny_dataset: Any) -> None:
    """Rotation vectors and quaternions change their sign there; the exported ones go on, between episodes too."""
    data = tmp_path / "data"
    shutil.copytree(tiny_dataset.train, data)
    for index, episode in enumerate(Dataset(tiny_dataset.train).episodes):
        t, cameras = episode.trajectory, episode.cameras
        angles = np.radians(np.linspace(170, 200, len(t.time)) + 15 * index)  # the second begins beyond
        turns = Rotation.from_rotvec(angles[:, None] * [1.0, 0.0, 0.0])
        actions, poses = t.actions.copy(), t.T_world_ee["right"].copy()
        actions[:, 3:6], poses[:, :3, :3] = turns.as_rotvec(), turns.as_matrix()
        assert np.abs(np.diff(actions[:, 3])).max() > 6 or index  # the stored ones do jump
        turned = dataclasses.replace(t, actions=actions, T_world_ee={"right": poses})
        views = [episode.frames(camera.name, np.arange(len(episode.steps))) for camera in cameras]
        images = (
            tuple(np.stack([getattr(view, kind)[k] for view in views]) for kind in ("rgb", "depth", "seg"))
            for k in range(len(episode.steps))
        )
        write_episode(
            data / "episodes" / episode.path.name, turned, images, steps=episode.steps, video_hz=5.0, cameras=cameras,
            height=64, width=80, seg_names=episode.seg_names,
        )  # fmt: skip
    rescan(data, Manifest(read_manifest(data).settings))
    run(ExportConfig(data, "robomimic", tmp_path / "out.hdf5"))
    with h5py.File(tmp_path / "out.hdf5") as file:
        for index, episode in enumerate(Dataset(data).episodes):
            at = last_commands(episode)
            wanted = np.linspace(170, 200, len(episode.trajectory.time))[at] + 15 * index
            found = np.degrees(file[f"data/demo_{index}/actions_abs"][:, 3])
            np.testing.assert_allclose(found, wanted, atol=1e-3)
        quaternions = np.concatenate([file[f"data/demo_{i}/obs/robot0_eef_quat"][()] for i in range(2)])
        assert np.abs(np.diff(quaternions, axis=0)).max() < 0.2
        # Where the command is a moment ahead of the hand, the relative action is small, whatever the pose.
        assert file["data"].attrs["rotation_scale_rad"] < np.radians(3)


def test_lerobot_holds_the_same_rows_with_their_pictures(tmp_path: Path, tiny_dataset: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    dataset, out = Dataset(tiny_dataset.train), tmp_path / "lerobot"
    name = dataset.rig.camera_names("novel")[0]
    result = run(ExportConfig(tiny_dataset.train, "lerobot", out, cameras=(name,)))
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 5, result.rows)
    assert info["features"][f"observation.images.{name}"]["shape"] == [64, 80, 3]
    table = parquet.read_table(out / info["data_path"].format(chunk_index=0, file_index=0))
    assert table.column_names == [n for n in info["features"] if not n.startswith("observation.images")]
    columns = {n: np.array(table[n].to_pylist()) for n in table.column_names}
    state = np.concatenate(
        [
            np.concatenate([e.trajectory.T_world_ee["right"][e.steps, :3, 3] for e in dataset.episodes]),
            np.concatenate([e.trajectory.opening_m["right"][e.steps] for e in dataset.episodes])[:, None],
        ],
        axis=1,
    )
    np.testing.assert_allclose(columns["observation.state"][:, [0, 1, 2, 7]], state, atol=1e-6)
    commands = np.concatenate([e.trajectory.actions[last_commands(e)] for e in dataset.episodes])
    np.testing.assert_allclose(columns["action"][:, [0, 1, 2, 6]], commands[:, [0, 1, 2, 6]], atol=1e-6)
    assert np.array_equal(columns["index"], np.arange(result.rows))
    np.testing.assert_allclose(columns["timestamp"], columns["frame_index"] / 5, atol=1e-6)

    episodes = parquet.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    film = out / f"videos/observation.images.{name}/chunk-000/file-000.mp4"
    pictures = _decoded(film, 64, 80)
    assert len(pictures) == result.rows
    for row, episode in zip(episodes, dataset.episodes, strict=True):
        first = round(row[f"videos/observation.images.{name}/from_timestamp"] * 5)
        assert first == row["dataset_from_index"]
        assert row["length"] == row["dataset_to_index"] - first == len(episode.steps)
        shown = episode.frames(name, np.arange(row["length"])).rgb
        error = np.abs(pictures[first : row["dataset_to_index"]].astype(float) - shown).mean(axis=(1, 2, 3))
        assert error.max() < 4  # of 255: lossy
    stats = json.loads((out / "meta/stats.json").read_text())
    np.testing.assert_allclose(stats["action"]["mean"], columns["action"].mean(axis=0), atol=1e-6)
    images = np.concatenate([e.frames(name, np.arange(len(e.steps))).rgb for e in dataset.episodes]) / 255
    picture_stats = {k: np.array(v) for k, v in stats[f"observation.images.{name}"].items()}
    assert picture_stats["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(picture_stats["mean"].ravel(), images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(picture_stats["std"].ravel(), images.std(axis=(0, 1, 2)))
    np.testing.assert_allclose(picture_stats["q50"].ravel(), np.median(images.reshape(-1, 3), axis=0), atol=1 / 255)
    calibration = json.loads((out / "meta/cameras.json").read_text())
    assert calibration[1][name]["T_world_cam"] == dataset.episodes[1].T_world_cam(name).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lerobot"]


def test_what_cannot_be_exported_is_named(tmp_path: Path, tiny_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="has no camera 'top'; it has cam"):
        run(ExportConfig(tiny_dataset.train, "robomimic", out, cameras=("top",)))
    with pytest.raises(DatasetError, match="there is no such dataset"):
        run(ExportConfig(tmp_path / "nothing", "robomimic", out))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'geo4d-bench\[lerobot\]'"):
        run(ExportConfig(tiny_dataset.train, "lerobot", out))
    data = tmp_path / "data"
    shutil.copytree(tiny_dataset.train, data)
    with h5py.File(data / "episodes" / "ep_000001.hdf5", "r+") as file:
        del file["views"][Dataset(data).rig.camera_names("seen")[0]]["rgb"]
    with pytest.raises(DatasetError, match="ep_000001"):
        run(ExportConfig(data, "robomimic", out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]  # nothing half done
    out.touch()
    with pytest.raises(ConfigError, match="exists already"):
        run(ExportConfig(tiny_dataset.train, "robomimic", out))


def _decoded(film: Path, height: int, width: int) -> np.ndarray:
    """(N, H, W, 3) uint8: all frames of a film of that size."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-loglevel", "error", "-i", str(film), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, height, width, 3)
