"""``train`` as the command line runs it, on a small real dataset."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from geo4d_bench.datagen.render import frame_steps
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import ConfigError, DatasetError, RunError, WorkerError
from geo4d_bench.model.batch import frames_of_window
from geo4d_bench.model.generators import load_generator, presets
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.priors import hand_clouds
from geo4d_bench.training.data import batches, make_batch
from geo4d_bench.training.train import TrainConfig, _open, run


class Tiny(Protocol):
    train: Path
    eval: Path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A preset for the data's images, of the fewest layers."""
    path = tmp_path_factory.mktemp("preset") / "small.json"
    config = LayeredConfig(height=64, width=80, dim=32, heads=2, trunk_layers=1, decoder_layers=1)
    path.write_text(config.to_json())
    return str(path)


def test_a_dataset_becomes_a_checkpoint_that_generates(tiny_dataset: Tiny, tmp_path: Path) -> None:
    result = run(
        TrainConfig(
            data=tiny_dataset.train, steps=2, batch_size=1, out=tmp_path, threads=1, val_windows=1, n_validations=1
        )
    )
    assert result.steps == 2
    assert np.isfinite(result.held_out_cm)  # DATA_eval was found without being named
    generator = load_generator(tmp_path)
    window = Windows(tiny_dataset.eval, "novel").sample(np.random.default_rng(0))
    (video,) = generator.generate([frames_of_window(window)], [0])
    assert video.rgb.shape == window.rgb[:, 1:].shape
    assert video.points.shape == window.points[:, 1:].shape
    # Measured on the data: the middle of what a camera about 1 m away sees, in its own frame.
    assert 0.5 < generator.config.point_mean_m[2] < 1.5


def test_the_calibrated_setting_trains_on_a_dataset(tiny_dataset: Tiny, small: str, tmp_path: Path) -> None:
    run(
        TrainConfig(
            data=tiny_dataset.train, preset=small, calibrated=True, steps=2, batch_size=2, out=tmp_path, threads=1,
            val_windows=1, n_validations=1, precision="bf16",
        )
    )  # fmt: skip
    generator = load_generator(tmp_path)
    assert generator.config.calibrated
    assert 0.8 < generator.config.work_centre_m[2] < 1.6  # the shelf's height in the world
    window = Windows(tiny_dataset.eval, "novel").sample(np.random.default_rng(0))
    (video,) = generator.generate([frames_of_window(window)], [0])
    assert video.points.shape == window.points[:, 1:].shape


def test_training_windows_start_behind_the_last_letting_go(tiny_dataset: Tiny) -> None:
    windows = _open(TrainConfig(data=tiny_dataset.train), Dataset(tiny_dataset.train), presets().get("layered_nano"))
    assert isinstance(windows, Windows)
    for index, (_, episode) in enumerate(windows.episodes):
        opening = episode.trajectory.opening_m["right"][episode.steps]
        let_go = int(np.flatnonzero(opening < 0.06)[-1]) + 1
        assert sum(i == index and start >= let_go for i, start in windows.starts) >= 3


@pytest.mark.parametrize("calibrated", [False, True])
def test_windows_are_scaled_where_the_setting_knows_the_pose(tiny_dataset: Tiny, calibrated: bool) -> None:
    config = TrainConfig(data=tiny_dataset.train, calibrated=calibrated, sensor="estimated")
    windows = _open(config, Dataset(tiny_dataset.train), presets().get("layered_nano"))
    expected = Windows(tiny_dataset.train, "seen", sensor="estimated", both_poses=calibrated, pad_share=0.9)
    a, b = (w.sample(np.random.default_rng(1)) for w in (windows, expected))
    np.testing.assert_array_equal(a.points, b.points)


def test_what_is_known_of_hands_and_scene_is_in_metres_though_depth_is_not(tiny_dataset: Tiny) -> None:
    """Also in the setting that may not scale view m's first frame."""
    windows = Windows(tiny_dataset.train, "seen", sensor="estimated")
    model = windows.datasets[0].hand("right")
    sample = [windows.sample(np.random.default_rng(i)) for i in range(8)]
    clouds = hand_clouds(sample)
    points = clouds.points[0][clouds.part[0] >= 0].numpy()
    assert len(points) > 200
    assert cKDTree(model.points).query(points)[0].max() < 0.012


def test_the_checkpoint_says_which_sensor_and_rig_it_was_trained_with(
    tiny_dataset: Tiny, small: str, tmp_path: Path
) -> None:
    settings = TrainConfig(
        data=tiny_dataset.train,
        preset=small,
        sensor="stereo",
        steps=1,
        batch_size=2,
        out=tmp_path,
        threads=1,
        val_windows=1,
        n_validations=1,
    )
    run(settings)
    config = load_generator(tmp_path).config
    assert (config.sensor, config.rig) == ("stereo", "tiny4")
    assert dataclasses.replace(settings, preset="layered_nano", out=None).folder.name == "layered_nano_stereo"
    with pytest.raises(RunError, match="sensor stereo there, perfect asked for"):
        run(dataclasses.replace(settings, sensor="perfect"))


def test_batches_are_the_same_from_any_number_of_processes(tiny_dataset: Tiny) -> None:
    windows = Windows(tiny_dataset.train, "seen")
    taken = []
    for workers in (0, 2):
        with closing(batches(partial(make_batch, windows, 2, 5), start=3, workers=workers)) as stream:
            taken.append([next(stream) for _ in range(3)])
    for others in taken[1:]:
        for batch, expected in zip(others, taken[0], strict=True):
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert not torch.equal(taken[0][0]["rgb"], taken[0][1]["rgb"])
    later = make_batch(windows, 2, seed=5, step=4)
    assert torch.equal(later["points"], taken[0][1]["points"])
    assert not later["points"][~later["valid"]].any()


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (os._exit, WorkerError, "ended one of 1 worker processes"),
        (partial(frame_steps, control_hz=20.0, video_hz=7.0), ConfigError, "^video_hz=7 does not divide"),
    ],
)
def test_a_process_that_fails_is_the_same_sentence_as_here(
    make: Callable[[int], Any], error: type[Exception], said: str
) -> None:
    with closing(batches(make, start=3, workers=1)) as stream, pytest.raises(error, match=said):
        next(stream)


def test_a_preset_of_another_size_is_refused(tiny_dataset: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="images are 64 x 80, this preset is for 16 x 24"):
        run(TrainConfig(data=tiny_dataset.train, preset="layered_debug", steps=1, out=tmp_path))


def test_a_training_does_not_go_on_with_other_data(tiny_dataset: Tiny, small: str, tmp_path: Path) -> None:
    """Nor is one that ended taken for one on what the folder holds now."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tiny_dataset.train, data)
    config = TrainConfig(
        data=data, preset=small, steps=1, batch_size=2, out=out, threads=1, val_windows=0, n_validations=1
    )
    run(config)
    assert run(config).nothing_to_do
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["episodes"].pop()
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="holds another training: data_sha256 "):
        run(config)


def test_demonstrations_to_judge_on_are_not_trained_on(tiny_dataset: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'eval' split, which generators and policies are judged on"):
        run(TrainConfig(data=tiny_dataset.eval, steps=1, out=tmp_path))


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        run(TrainConfig(data=tmp_path / "nowhere", steps=1, out=tmp_path / "out"))
