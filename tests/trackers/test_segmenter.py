"""A segmenter that is trained on demonstrations labels the gripper in images that it was not trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geo4d_bench import trackers
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import CheckpointError, ConfigError, DatasetError, UnknownNameError
from geo4d_bench.geometry.se3 import inverse
from geo4d_bench.model.batch import true_video
from geo4d_bench.policies.video_policy import VideoOptions
from geo4d_bench.trackers import SEGMENTERS
from geo4d_bench.trackers.segmenter import SegmenterConfig, run


def test_a_trained_segmenter_labels_images_of_novel_cameras(
    tiny_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trackers.segmenter, "CHANNELS", 16)
    dataset = Dataset(tiny_dataset.eval)
    with pytest.raises(CheckpointError, match="geo4d-bench segmenter --data data/store_cereal"):
        SEGMENTERS.get("trained")(dataset.hand("right"), "store_cereal")
    trained = run(SegmenterConfig(tiny_dataset.train, steps=60))
    assert trained.iou > 0.25, trained  # of two demonstrations; whoever guesses has 0.05
    segmenter = SEGMENTERS.get("trained")(dataset.hand("right"), "store_cereal")
    windows, rng = Windows([dataset], cameras="seen", horizon=2, dt_s=0.4), np.random.default_rng(0)
    both = either = 0
    for window in (windows.sample(rng) for _ in range(8)):
        video = true_video(window)
        blind = dataclasses.replace(video, parts=np.zeros_like(video.parts))
        labels = segmenter.segment(blind, window.T_n_ee[:, 0], window.opening_m[:, 0])
        assert labels.shape == video.parts.shape
        both += ((labels > 0) & (video.parts > 0)).sum()
        either += ((labels > 0) | (video.parts > 0)).sum()
    assert both > 0.4 * either


def test_the_parts_of_points_on_the_surface_are_known_at_any_pose(tiny_dataset: Any) -> None:
    hand = Dataset(tiny_dataset.train).hand("right")
    T = inverse(np.array([[0, -1, 0, 0.3], [0, 0, -1, 0.1], [1, 0, 0, -0.2], [0, 0, 0, 1.0]]))
    points = hand.at_opening(0.05) @ T[:3, :3].T + T[:3, 3]
    assert np.array_equal(hand.nearest_part(points, T, 0.05, 1e-6), hand.part)
    assert (hand.nearest_part(points + 1.0, T, 0.05) == -1).all()
    assert (hand.nearest_part(np.full((2, 3, 3), np.nan), T, 0.05) == -1).all()


def test_what_cannot_be_is_refused(tiny_dataset: Any) -> None:
    with pytest.raises(ConfigError, match="--steps is 0"):
        run(SegmenterConfig(tiny_dataset.train, steps=0))
    with pytest.raises(DatasetError, match="eval split"):
        run(SegmenterConfig(tiny_dataset.eval))
    with pytest.raises(UnknownNameError, match="segmenter"):
        VideoOptions(segmenter="traind")
