"""Everything that comes after the simulation, with two arms: the same commands as for one, and both hands in every
result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from geo4d_bench.datagen import verify
from geo4d_bench.dataset.hands import load_hand
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation import evaluate
from geo4d_bench.geometry.hand import HAND, RIGHT_FINGER, part_label
from geo4d_bench.geometry.se3 import pose_error
from geo4d_bench.model.batch import true_video
from geo4d_bench.model.generators import load_generator, presets
from geo4d_bench.policies.generated import GeneratorOptions
from geo4d_bench.report import report
from geo4d_bench.rollout import rollout
from geo4d_bench.rollout.config import RolloutConfig
from geo4d_bench.trackers.point_cloud import PointTracker
from geo4d_bench.training.train import TrainConfig, train
from geo4d_bench.training.validation import copy_error_cm

ARMS = ("left", "right")


@pytest.fixture(scope="session")
def checkpoint(two_arms_dataset: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of the smallest sizes that the data fits, after three steps: it need not be good, only whole."""
    folder = tmp_path_factory.mktemp("two_arms_checkpoint")
    sizes = dataclasses.replace(presets().get("layered_debug"), height=64, width=80)
    config = TrainConfig(
        data=two_arms_dataset.train, steps=3, batch_size=2, out=folder, threads=1, val_windows=2, n_validations=1
    )
    source, held_out = (
        Windows(data, "seen", horizon=sizes.frames) for data in (two_arms_dataset.train, two_arms_dataset.eval)
    )
    result = train(config, sizes, source, held_out)
    assert np.isfinite(result.held_out_cm)
    return folder


def test_a_dataset_holds_both_arms_and_one_kind_of_hand(two_arms_dataset: Any) -> None:
    assert verify.run(verify.VerifyConfig(two_arms_dataset.train)).exit_code == 0
    dataset = Dataset(two_arms_dataset.train)
    assert dataset.arms == ARMS
    for episode in dataset.episodes:
        trajectory = episode.trajectory
        assert trajectory.actions.shape == (len(trajectory.time), 14)
        for arm in ARMS:
            assert np.ptp(trajectory.opening_m[arm]) > 0.03  # each closed its fingers
            assert np.linalg.norm(np.ptp(trajectory.T_world_ee[arm][:, :3, 3], axis=0)) > 0.05
        # The arms stand side by side, and so do their hands: neither was stored under the other's name.
        left, right = (trajectory.T_world_ee[arm][:, 1, 3] for arm in ARMS)
        assert (left > 0.1).all()
        assert (right < -0.1).all()
    left, right = (load_hand(two_arms_dataset.train / "hands" / f"{arm}.npz") for arm in ARMS)
    np.testing.assert_allclose(left.points, right.points, atol=1e-9)  # policies are told of one hand for all arms
    np.testing.assert_allclose(left.finger_axis, right.finger_axis, atol=1e-9)


@pytest.mark.parametrize("views", ["seen", "novel"])
def test_labels_and_tracks_keep_the_hands_apart(two_arms_dataset: Any, views: Any) -> None:
    windows = Windows(two_arms_dataset.eval, views)
    tracker = PointTracker(windows.datasets[0].hand("left"))
    errors: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(4):
        window = windows.sample(np.random.default_rng(seed))
        video = true_video(window)
        for index, arm in enumerate(ARMS):
            labels = (window.parts >= part_label(index, HAND)) & (window.parts <= part_label(index, RIGHT_FINGER))
            on_hand = window.points[0][labels[0] & np.isfinite(window.points[0]).all(-1)]
            frame = np.nonzero(labels[0] & np.isfinite(window.points[0]).all(-1))[0]
            away = np.linalg.norm(on_hand - window.T_n_ee[index, frame, :3, 3], axis=-1)
            assert away.max(initial=0.0) < 0.25  # a Panda's hand is 0.2 m wide; the other one is 0.4 m away
            found = tracker.track(video, window.T_n_ee[index, 0], float(window.opening_m[index, 0]), index)
            errors[arm] += list(100 * pose_error(found.T_n_ee, window.T_n_ee[index, 1:])[0])
    for arm in ARMS:
        assert np.median(errors[arm]) < 0.3
        assert np.mean(errors[arm]) < 1.0  # frames in which a hand is hidden are guessed


def test_both_hands_are_scored(checkpoint: Path, two_arms_dataset: Any, tmp_path: Path) -> None:
    config = evaluate.EvaluateConfig(two_arms_dataset.eval, "novel", 2, checkpoint=checkpoint, workers=1, out=tmp_path)
    result = evaluate.run(config)
    rows = pd.read_csv(tmp_path / "windows.csv")
    arms = rows[["gripper_cm_of_left", "gripper_cm_of_right"]]
    np.testing.assert_allclose(arms.mean(axis=1), rows["gripper_cm"])
    windows = Windows(two_arms_dataset.eval, "novel", horizon=3)
    for row in rows[rows["source"] == "copy_first_frame"].to_dict("records"):
        window = windows.window(0, row["start"], row["camera_n"], row["camera_m"])
        moved = 100 * np.linalg.norm(window.T_n_ee[:, 1:, :3, 3] - window.T_n_ee[:, :1, :3, 3], axis=-1).mean(axis=1)
        np.testing.assert_allclose([row["gripper_cm_of_left"], row["gripper_cm_of_right"]], moved)
    metrics = result.metrics.set_index("source")
    for arm in ARMS:
        assert metrics.loc["true_frames", f"gripper_cm_of_{arm}"] < 1.0
    assert "geo4d-bench rollout --task two_arms" in str(result)


def test_the_copied_frame_is_off_by_what_the_hands_move_on_average(two_arms_dataset: Any) -> None:
    windows = Windows(two_arms_dataset.train, "seen", horizon=3)
    sampled = [windows.sample(np.random.default_rng(seed)) for seed in range(4)]
    moved = [np.linalg.norm(w.T_n_ee[:, 1:, :3, 3] - w.T_n_ee[:, :1, :3, 3], axis=-1).mean() for w in sampled]
    # Medians of what is seen of a hand follow it to within a few centimetres; the hands are forty apart.
    assert copy_error_cm(sampled) == pytest.approx(100 * np.mean(moved), abs=2.0)


def test_the_whole_ladder_plays_and_is_reported(
    two_arms: str, checkpoint: Path, two_arms_dataset: Any, tmp_path: Path
) -> None:
    done = {}
    for policy in ("random", "layered", "oracle_video", "oracle_pose", "expert"):
        done[policy] = rollout.run(
            RolloutConfig(
                task=two_arms,
                policy=policy,
                rig="hemisphere16",  # of which the dataset has four cameras
                options=GeneratorOptions(checkpoint=checkpoint) if policy == "layered" else None,
                episodes=1,
                seed=5000,
                workers=1,
                out=tmp_path / "runs" / f"rollout_{policy}_novel",
                video=policy == "layered",
            )
        )
    for policy in ("oracle_video", "oracle_pose", "expert"):
        assert [row.phase for row in done[policy].rows] == ["task"], policy
    (failed,) = done["random"].rows
    assert (failed.status, failed.phase) == ("timeout", "start")
    assert "last phase reached: start 1" in str(done["random"])
    with np.load(tmp_path / "runs" / "rollout_layered_novel" / "trajectories" / "5000.npz") as saved:
        for arm in ARMS:
            assert saved[f"{arm}/plan_T_world_ee"].shape[1:] == (3, 4, 4)  # the whole plan of the debug preset
            assert len(saved[f"{arm}/T_world_ee"]) == done["layered"].rows[0].control_steps + 1
    assert (tmp_path / "runs" / "rollout_layered_novel" / "videos" / "5000.mp4").stat().st_size > 1000

    page = report.run(report.ReportConfig(two_arms, tmp_path / "runs", two_arms_dataset.train, tmp_path / "report"))
    assert (tmp_path / "report" / "trajectory_layered_novel_failure.png").is_file()
    assert "start 1" in page.page.read_text()
    assert page.board is not None
    assert any("random" in line and line.endswith("start 1") for line in page.board.table())


def test_a_checkpoint_for_another_number_of_arms_is_refused_at_once(checkpoint: Path, tmp_path: Path) -> None:
    config = RolloutConfig(options=GeneratorOptions(checkpoint=checkpoint), episodes=1, workers=1, out=tmp_path)
    with pytest.raises(ConfigError, match=r"trained for 2 arm\(s\), and store_cereal has 1 \(right\)"):
        rollout.run(config)
    assert load_generator(checkpoint).config.arms == 2


def test_an_expert_that_fails_leaves_a_row_with_its_phase(
    two_arms: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from two_arms import TwoArms

    monkeypatch.setattr(TwoArms, "spec", dataclasses.replace(TwoArms.spec, max_seconds=2.4))  # too short to lift
    config = RolloutConfig(task=two_arms, policy="expert", episodes=2, seed=5000, workers=1, out=tmp_path)
    result = rollout.run(config)
    assert [(row.status, row.phase, row.success) for row in result.rows] == [("timeout", "grasped", False)] * 2
    assert "last phase reached: grasped 2" in str(result)
