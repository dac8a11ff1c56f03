"""What inspect says is what the file holds; its picture and film show the images, upright and in their places."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import imageio.v2
import imageio_ffmpeg
import numpy as np
import pytest

from geo4d_bench.dataset.reader import Dataset, EpisodeFile
from geo4d_bench.errors import ConfigError, DatasetError
from geo4d_bench.report.inspection import InspectConfig, run


def test_a_dataset_is_described_and_drawn(tmp_path: Path, tiny_dataset: Any) -> None:
    result = run(InspectConfig(tiny_dataset.train, episode=1, out=tmp_path))
    dataset = Dataset(tiny_dataset.train)
    episode = dataset.episodes[1]
    summary, tree = dict(result.summary), dict(result.tree)
    frames = sum(len(e.steps) for e in dataset.episodes)
    assert summary["episodes"].startswith("2, of")
    assert f"{frames} frames in all" in summary["episodes"]
    assert summary["cameras"] == "4 of tiny4 (2 seen, 2 novel), 64 x 80 pixels"
    assert summary["yield"].startswith(f"2 of {dataset.manifest.attempts} attempts succeeded")
    assert summary["disturbed"].startswith("1 of 2 episodes: 1 x ")
    stored = sum(path.stat().st_size for path in (tiny_dataset.train / "episodes").glob("*.hdf5"))
    raw = sum(
        array[()].nbytes
        for e in dataset.episodes
        for array in [*(e.file[n] for n in ("states", "actions", "time", "ee/right/T_world_ee", "ee/right/opening"))]
        + [e.file["objects/cereal/T_world_obj"]]
        + [view[kind] for view in e.file["views"].values() for kind in ("rgb", "depth", "seg")]
    )
    assert summary["size"] == f"{stored / 1e6:.1f} MB, {stored / raw:.0%} of the raw bytes"
    # Every array is named with its shape, and none has an unknown unit.
    first = episode.cameras[0].name
    for name in ("states", "actions", "frames/step", f"views/{first}/rgb", f"views/{first}/T_world_cam"):
        assert str(episode.file[name].shape) in tree[name]
    assert not [text for text in tree.values() if "; ?" in text]
    assert "chunks (8, 64, 80, 3)" in tree[f"views/{first}/rgb"]
    assert "scale=0.0001" in tree[f"views/{first}/depth"]
    text = str(result)
    assert str(result.picture) in text
    assert str(result.film) in text


def test_the_picture_holds_the_images_of_the_frame(tmp_path: Path, tiny_dataset: Any) -> None:
    result = run(InspectConfig(tiny_dataset.train, frame=3, out=tmp_path))
    sheet = imageio.v2.imread(result.picture)[..., :3]
    episode = Dataset(tiny_dataset.train).episodes[0]
    for camera in episode.cameras:
        rgb = episode.frames(camera.name, [3]).rgb[0].repeat(2, axis=0).repeat(2, axis=1)
        assert _found(sheet, rgb), camera.name


def test_the_film_shows_the_chosen_cameras_over_their_depth(tmp_path: Path, tiny_dataset: Any) -> None:
    path = tiny_dataset.train / "episodes" / "ep_000000.hdf5"
    episode = EpisodeFile(path)
    names = [camera.name for camera in episode.cameras]
    result = run(InspectConfig(path, cameras=(names[2], names[0]), out=tmp_path))
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(result.film))
    assert count == len(episode.steps)
    assert seconds == pytest.approx(count / episode.attrs["video_hz"], abs=0.01)
    frames = _decoded(result.film, 18 + 2 * 128, 2 * 160)
    for column, name in enumerate((names[2], names[0])):
        shown = episode.frames(name, [10])
        ours = frames[10][18 : 18 + 128, 160 * column : 160 * (column + 1)]
        wanted = shown.rgb[0].repeat(2, axis=0).repeat(2, axis=1)
        assert np.abs(ours.astype(float) - wanted).mean() < 8  # lossy, and the other camera is 30 away
        # Below it: grey where depth is invalid, coloured elsewhere.
        depth = frames[10][18 + 128 :, 160 * column : 160 * (column + 1)].astype(float)
        saturation = np.ptp(depth, axis=-1)[::2, ::2]
        invalid = np.isnan(shown.depth[0])
        assert saturation[invalid].mean() < 20 < 60 < saturation[~invalid].mean()


def test_an_episode_says_what_happened_to_it(tmp_path: Path, tiny_dataset: Any) -> None:
    path = tiny_dataset.train / "episodes" / "ep_000001.hdf5"
    summary = dict(run(InspectConfig(path, out=tmp_path)).summary)
    episode = EpisodeFile(path)
    ((step, name),) = episode.trajectory.disturbances
    assert summary["disturbed"] == f"{name} at step {step}"
    failed = episode.attrs["notes"]["failed_attempts"]
    assert summary["attempts"] == "the first one succeeded" if not failed else str(failed[0][1]) in summary["attempts"]


def test_what_cannot_be_shown_is_named(tmp_path: Path, tiny_dataset: Any) -> None:
    with pytest.raises(ConfigError, match="--episode 2: expected 0 to 1"):
        run(InspectConfig(tiny_dataset.train, episode=2, out=tmp_path))
    with pytest.raises(ConfigError, match="--frame 900: ep_000000 has frames 0 to"):
        run(InspectConfig(tiny_dataset.train, frame=900, out=tmp_path))
    with pytest.raises(DatasetError, match="there is no camera 'top'; it has cam"):
        run(InspectConfig(tiny_dataset.train, cameras=("top",), out=tmp_path))
    with pytest.raises(DatasetError, match="there is no such dataset"):
        run(InspectConfig(tmp_path / "nothing"))
    broken = tmp_path / "broken.hdf5"
    shutil.copyfile(tiny_dataset.train / "episodes" / "ep_000000.hdf5", broken)
    with broken.open("r+b") as file:
        file.truncate(broken.stat().st_size // 2)
    with pytest.raises(DatasetError, match=r"broken\.hdf5: not a whole HDF5 file"):
        run(InspectConfig(broken, out=tmp_path))
    assert not list(tmp_path.glob("*.png"))


def _decoded(film: Path, height: int, width: int) -> np.ndarray:
    """(N, H, W, 3) uint8: all frames of a film of that size."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-loglevel", "error", "-i", str(film), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, height, width, 3)


def _found(sheet: np.ndarray, image: np.ndarray) -> bool:
    """Whether the image is somewhere in the sheet, pixel for pixel: its first row is looked for, then the rest."""
    height, width = image.shape[:2]
    rows = np.lib.stride_tricks.sliding_window_view(sheet, (1, width, 3))[:, :, 0, 0]
    places = np.argwhere((rows[:, :, ::16] == image[0, ::16]).all(axis=(2, 3)))
    return any(np.array_equal(sheet[y : y + height, x : x + width], image) for y, x in places)


def test_sensors_are_drawn_where_asked_for(tiny_dataset: Any, tmp_path: Path) -> None:
    result = run(InspectConfig(tiny_dataset.eval, sensors=True, out=tmp_path))
    assert result.sensors is not None
    image = imageio.v2.imread(result.sensors)
    assert image.std() > 20
    assert str(result.sensors) in str(result)
