"""Films and clouds show the windows that ``evaluate`` scores, and nothing is lost on the way to the file."""

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh

from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import CheckpointError, ConfigError, DatasetError
from geo4d_bench.evaluation import generate
from geo4d_bench.evaluation.generate import GenerateConfig
from geo4d_bench.evaluation.held_out import HeldOut
from geo4d_bench.evaluation.predictors import CheckpointPredictor
from geo4d_bench.evaluation.window_film import film_frames
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.generator import LayeredGenerator
from geo4d_bench.model.types import Video4D

SHORT = LayeredConfig(height=64, width=80, dim=32, heads=2, trunk_layers=1, decoder_layers=1, frames=3)


def _first_frames(window: Window) -> Video4D:
    return Video4D(window.rgb[:, :1], window.points[:, :1], window.parts[:, :1], window.K, window.dt_s)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("short")
    LayeredGenerator(SHORT).save_pretrained(folder)
    return folder


def test_clouds_hold_every_valid_point_in_camera_n_and_its_colour(
    checkpoint: Path, tiny_dataset: Any, tmp_path: Path
) -> None:
    result = generate.run(GenerateConfig(checkpoint=checkpoint, data=tiny_dataset.eval, windows=1, out=tmp_path))
    folder = tmp_path / "novel_00000"
    window = HeldOut(Dataset(tiny_dataset.eval), ["novel"], 0, SHORT.frames, SHORT.dt_s).window("novel", 0)
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["film.mp4", *(f"{name}_{t:02d}.ply" for name in ("true", "generated") for t in range(4))]
    )
    for t in (0, 2):
        points = np.concatenate([window.points[0, t], transform(window.T_n_m, window.points[1, t])])
        rgb = window.rgb[:, t].reshape(points.shape)
        valid = np.isfinite(points).all(-1)
        read = trimesh.load(folder / f"true_{t:02d}.ply")
        np.testing.assert_allclose(read.vertices, points[valid], rtol=0, atol=1e-6)  # float32 and its decimals
        np.testing.assert_array_equal(read.colors[:, :3], rgb[valid])
    video = CheckpointPredictor(checkpoint, 0, None).predict([window], "novel", 0)
    read = trimesh.load(folder / "generated_01.ply")
    there = np.isfinite(video.points[:, 0]).all(-1)
    np.testing.assert_allclose(read.vertices, video.points[:, 0][there], rtol=0, atol=1e-6)
    (height, width) = film_frames(*[_first_frames(window)] * 2, "")[0].shape[:2]
    decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(folder / "film.mp4")]
    raw = subprocess.run([*decode, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True).stdout
    film = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(film) == 10 * (1 + SHORT.frames) + 10  # each a second, the last one two
    first, held, following = film[[1, 9, 10]].astype(np.int16)
    within, between = np.abs(first - held).mean(), np.abs(held - following).mean()
    assert within < 0.1 * between  # a picture is held, then the next one comes
    assert str(folder / "film.mp4") in result


def test_a_calibrated_generator_is_given_both_views_scaled(tiny_dataset: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(SHORT, calibrated=True, sensor="estimated")
    LayeredGenerator(config).save_pretrained(tmp_path / "checkpoint")
    options = GenerateConfig(checkpoint=tmp_path / "checkpoint", data=tiny_dataset.eval, windows=1, out=tmp_path)
    generate.run(options)
    read = trimesh.load(tmp_path / "novel_00000" / "generated_00.ply")
    dataset = Dataset(tiny_dataset.eval)
    near = []
    for calibrated in (True, False):
        held_out = HeldOut(dataset, ["novel"], 0, SHORT.frames, SHORT.dt_s, "estimated", calibrated=calibrated)
        (window,) = held_out.given("novel", 0)
        points = np.concatenate([window.points[0, 0], transform(window.T_n_m, window.points[1, 0])])
        near.append(np.abs(points[np.isfinite(points).all(-1)] - read.vertices).max())
    assert near[0] < 1e-5
    assert near[1] > 1e-3


def test_a_films_pictures_show_each_frame_enlarged_and_unchanged() -> None:
    """Frames of one colour each can be counted; 24 pixels are enlarged ten times."""
    frames, h, w = 3, 16, 24

    def video(first: int) -> Video4D:
        levels = first + 20 * np.arange(2 * frames, dtype=np.uint8).reshape(2, frames, 1, 1, 1)
        rgb = np.broadcast_to(levels, (2, frames, h, w, 3)).astype(np.uint8).copy()
        rgb[..., 2] = 7
        points = np.full((2, frames, h, w, 3), np.nan, dtype=np.float32)
        return Video4D(rgb, points, np.zeros((2, frames, h, w), np.uint8), np.stack([np.eye(3)] * 2), 0.4)

    true, generated = video(3), video(11)
    pictures = film_frames(true, generated, "title")
    assert len(pictures) == frames
    for t, picture in enumerate(pictures):
        assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
        for shown in (true, generated):
            for view in range(2):
                colour = shown.rgb[view, t, 0, 0]
                assert (picture == colour).all(-1).sum() == 100 * h * w
    assert (pictures[0] != pictures[1]).any()


def test_wrong_input_is_one_sentence(checkpoint: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="windows"):
        generate.run(GenerateConfig(checkpoint=checkpoint, data=tiny_dataset.eval, windows=0))
    with pytest.raises(CheckpointError, match="geo4d-bench train"):
        generate.run(GenerateConfig(checkpoint=tmp_path / "none", data=tiny_dataset.eval))
    with pytest.raises(DatasetError, match="'train' split"):
        generate.run(GenerateConfig(checkpoint=checkpoint, data=tiny_dataset.train))
