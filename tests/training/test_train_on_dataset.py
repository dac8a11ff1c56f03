"""``train`` as the command line runs it, on a small real dataset."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import CheckpointError, DatasetError
from geo4d_bench.model.batch import first_frames
from geo4d_bench.model.generator import Generator
from geo4d_bench.training.data import batches, make_batch
from geo4d_bench.training.train import TrainConfig, run


class Tiny(Protocol):
    train: Path
    eval: Path


def test_a_dataset_becomes_a_checkpoint_that_generates(tiny_dataset: Tiny, tmp_path: Path) -> None:
    result = run(
        TrainConfig(data=tiny_dataset.train, steps=3, batch_size=2, out=tmp_path, threads=1, watched=1, watches=1)
    )
    assert result.steps == 3
    assert np.isfinite(result.held_out_cm)  # DATA_eval was found without being named
    generator = Generator.from_pretrained(tmp_path)
    window = Windows(tiny_dataset.eval, "novel").sample(np.random.default_rng(0))
    (video,) = generator.generate([first_frames(window)], [0])
    assert video.rgb.shape == window.rgb[:, 1:].shape
    assert video.points.shape == window.points[:, 1:].shape
    # Measured on the data: the middle of what a camera about 1 m away sees, in its own frame.
    assert 0.5 < generator.config.point_mean_m[2] < 1.5


def test_the_calibrated_setting_trains_on_a_dataset(tiny_dataset: Tiny, tmp_path: Path) -> None:
    run(
        TrainConfig(
            data=tiny_dataset.train, setting="geo4d_calibrated", steps=2, batch_size=2, out=tmp_path, threads=1,
            watched=1, watches=1, precision="bf16",
        )
    )  # fmt: skip
    generator = Generator.from_pretrained(tmp_path)
    assert generator.config.setting == "geo4d_calibrated"
    assert 0.8 < generator.config.work_centre_m[2] < 1.6  # the shelf's height in the world
    window = Windows(tiny_dataset.eval, "novel").sample(np.random.default_rng(0))
    (video,) = generator.generate([first_frames(window)], [0])
    assert video.points.shape == window.points[:, 1:].shape


def test_the_checkpoint_says_which_sensor_it_was_trained_with(tiny_dataset: Tiny, tmp_path: Path) -> None:
    settings = TrainConfig(
        data=tiny_dataset.train, sensor="stereo", steps=1, batch_size=2, out=tmp_path, threads=1, watched=1, watches=1
    )
    run(settings)
    assert Generator.from_pretrained(tmp_path).config.sensor == "stereo"
    assert dataclasses.replace(settings, out=None).folder.name == "nano_stereo"
    with pytest.raises(CheckpointError, match="sensor = 'stereo', now it is 'perfect'"):
        run(dataclasses.replace(settings, sensor="perfect"))


def test_batches_are_the_same_from_any_number_of_processes(tiny_dataset: Tiny) -> None:
    windows = Windows(tiny_dataset.train, "seen")
    taken = []
    for workers in (0, 2):
        with closing(batches(windows, 2, seed=5, start=3, workers=workers)) as stream:
            taken.append([next(stream) for _ in range(3)])
    for others in taken[1:]:
        for batch, expected in zip(others, taken[0], strict=True):
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert not torch.equal(taken[0][0]["rgb"], taken[0][1]["rgb"])
    later = make_batch(windows, 2, seed=5, step=4)
    assert torch.equal(later["points"], taken[0][1]["points"])
    assert not later["points"][~later["valid"]].any()


def test_a_preset_of_another_size_is_refused(tiny_dataset: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="images are 64 x 80, this preset is for 16 x 24"):
        run(TrainConfig(data=tiny_dataset.train, preset="debug", steps=1, out=tmp_path))


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        run(TrainConfig(data=tmp_path / "nowhere", steps=1, out=tmp_path / "out"))
