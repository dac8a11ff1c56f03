"""Evaluation on a real dataset, with a generator of which one thing is known: it shows no hand."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import torch

from geo4d_bench.csv_files import read_frame
from geo4d_bench.dataset.reader import Dataset
from geo4d_bench.dataset.windows import Windows
from geo4d_bench.errors import CheckpointError, ConfigError, DatasetError, PluginError, RunError
from geo4d_bench.evaluation import evaluate, scoring
from geo4d_bench.evaluation.evaluate import EvaluateConfig
from geo4d_bench.evaluation.held_out import HeldOut
from geo4d_bench.evaluation.predictors import CheckpointPredictor
from geo4d_bench.evaluation.scoring import ScoredWindow, zero_motion
from geo4d_bench.evaluation.summary import median_window
from geo4d_bench.evaluation.window_store import SOURCES
from geo4d_bench.geometry.hand import hand_mask
from geo4d_bench.geometry.rig import Rig
from geo4d_bench.geometry.se3 import pose_error
from geo4d_bench.model.batch import true_video
from geo4d_bench.model.generators import load_generator
from geo4d_bench.model.layered.config import LayeredConfig
from geo4d_bench.model.layered.generator import LayeredGenerator
from geo4d_bench.model.types import EETrajectory
from geo4d_bench.trackers.protocol import tracks

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
TIMES = ["generate_ms", "track_ms", "run_id"]


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory, tiny_rig: Rig) -> Path:
    """A checkpoint with zero weights: all part labels tie, so every pixel is 0, no hand."""
    folder = tmp_path_factory.mktemp("blind")
    config = LayeredConfig(height=64, width=80, dim=32, heads=2, trunk_layers=1, decoder_layers=1, rig=tiny_rig.name)
    generator = LayeredGenerator(config)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    generator.save_pretrained(folder)
    return folder


def settings(blind: Path, tiny_dataset: Any, out: Path, **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(checkpoint=blind, data=tiny_dataset.eval, windows=2, workers=1, out=out, **changes)


def test_a_sensor_changes_what_is_given_and_not_the_truth(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    for name in ("perfect", "estimated"):
        evaluate.run(settings(blind, tiny_dataset, tmp_path / name, views="novel", sensor=name))
    perfect, estimated = (
        pd.read_csv(tmp_path / name / "metrics.csv").set_index("source") for name in ("perfect", "estimated")
    )
    assert set(perfect.sensor) == {"perfect"}
    assert set(estimated.sensor) == {"estimated"}
    assert estimated.loc["true_frames", "abs_rel_n"] == 0.0
    assert estimated.loc["true_frames", "gripper_cm"] == perfect.loc["true_frames", "gripper_cm"]
    assert estimated.loc["copy_first_frame", "abs_rel_n"] > perfect.loc["copy_first_frame", "abs_rel_n"]


def test_only_whoever_is_told_both_poses_has_view_m_scaled(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(load_generator(blind).config, calibrated=True)
    LayeredGenerator(config).save_pretrained(tmp_path / "calibrated")
    copied = []
    for name, checkpoint in (("plain", blind), ("told", tmp_path / "calibrated")):
        evaluate.run(settings(checkpoint, tiny_dataset, tmp_path / name, views="novel", sensor="estimated"))
        copied.append(pd.read_csv(tmp_path / name / "metrics.csv").set_index("source").loc["copy_first_frame"])
    plain, told = copied
    assert plain.abs_rel_n == told.abs_rel_n
    assert plain.abs_rel_m != told.abs_rel_m


def test_the_sensor_is_the_checkpoints_where_none_is_named(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    trained = load_generator(blind)
    trained.config = dataclasses.replace(trained.config, sensor="stereo")
    trained.save_pretrained(tmp_path / "stereo")
    evaluate.run(settings(tmp_path / "stereo", tiny_dataset, tmp_path / "out", views="novel"))
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert (set(metrics.sensor), set(metrics.steps)) == ({"stereo"}, {trained.config.sample_steps})


def test_several_views_in_one_pass_are_scored_pair_by_pair(
    blind: Path, tiny_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geo4d_bench.dataset.windows._camera_names", lambda datasets, _: datasets[0].rig.camera_names())
    evaluate.run(settings(blind, tiny_dataset, tmp_path / "one", views="seen"))
    evaluate.run(settings(blind, tiny_dataset, tmp_path / "three", views="seen", second_views=3, steps=2))
    one, three = (pd.read_csv(tmp_path / name / "windows.csv") for name in ("one", "three"))
    assert list(three.camera_n) == list(one.camera_n)
    for few, many in zip(one.camera_m, three.camera_m, strict=True):
        assert many.split()[0] == few
        assert len(set(many.split())) == 3
    mine = three.set_index("source").loc["true_frames"]
    assert (mine.abs_rel_m == 0).all()
    metrics = pd.read_csv(tmp_path / "three" / "metrics.csv")
    assert (set(metrics.second_views), set(metrics.steps)) == ({3}, {2})
    with pytest.raises(ConfigError, match="--steps is 0, expected at least 1"):
        evaluate.run(settings(blind, tiny_dataset, tmp_path / "none", views="seen", steps=0))
    with pytest.raises(ConfigError, match="4 second views, but seen has 4 cameras"):
        evaluate.run(settings(blind, tiny_dataset, tmp_path / "many", views="seen", second_views=4))


def test_poses_without_a_video_are_scored_as_poses(tiny_dataset: Any, tmp_path: Path) -> None:
    """Untrained, the network moves a hand by little: about what standing still costs. Of a video nothing is said."""
    config = LayeredConfig(
        height=64, width=80, dim=32, heads=2, trunk_layers=1, decoder_layers=1, generates_video=False
    )
    LayeredGenerator(config).save_pretrained(tmp_path / "poses")
    result = evaluate.run(settings(tmp_path / "poses", tiny_dataset, tmp_path / "out", views="seen"))
    metrics = result.metrics.set_index("source")
    assert set(metrics.ablation) == {"trajectory_regression"}
    assert metrics.steps.isna().all()  # nothing is sampled
    generated, copied = metrics.loc["generated"], metrics.loc["copy_first_frame"]
    assert generated.gripper_cm == pytest.approx(copied.gripper_cm, abs=5.0)
    assert generated.gripper_cm != copied.gripper_cm
    assert generated.lost_share == 0.0
    assert np.isnan([generated.psnr_n_db, generated.miou, generated.frechet_derivatives_n]).all()
    assert not (tmp_path / "out" / "generated_seen.png").exists()
    assert "--policy trajectory_regression --checkpoint" in str(result)
    with pytest.raises(ConfigError, match="samples no video; leave --steps out"):
        evaluate.run(settings(tmp_path / "poses", tiny_dataset, tmp_path / "steps", views="seen", steps=8))


def test_known_generator_gets_its_known_scores(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    result = evaluate.run(settings(blind, tiny_dataset, tmp_path))
    metrics = pd.read_csv(tmp_path / "metrics.csv").set_index(["views", "source"])
    assert list(metrics.index) == [(v, s) for v in ("seen", "novel") for s in SOURCES]
    for views in ("seen", "novel"):
        generated, copied, true = (metrics.loc[views, s] for s in ("generated", "copy_first_frame", "true_frames"))
        # No hand is shown: the tracker is always lost, and the pose stays where it was at first.
        assert generated.lost_share == 1.0
        assert generated.gripper_cm == pytest.approx(copied.gripper_cm)
        assert generated.miou == 0.0  # hiding the hands is no consistency
        # The truth against itself; the tracker's own error is left.
        assert (true.abs_rel_n, true.abs_rel_m, true.d1_n, true.d1_m) == (0.0, 0.0, 1.0, 1.0)
        assert (true.psnr_n_db, true.ssim_m) == (np.inf, pytest.approx(1.0))
        assert (true.abs_rel_n_moved, true.abs_rel_m_moved, true.psnr_m_moved_db) == (0.0, 0.0, np.inf)
        for view in "nm":  # a still video is worst where something moves
            assert copied[f"abs_rel_{view}_moved"] > 1.5 * copied[f"abs_rel_{view}"]
            assert copied[f"psnr_{view}_moved_db"] < copied[f"psnr_{view}_db"] - 3
        assert true.abs_rel_m_paper_compat < 1e-5
        assert 0.0 < true.gripper_cm < copied.gripper_cm
        assert 0.0 < true.miou <= 1.0
        assert true.view_gap_cm < 2.0  # half a pixel's diagonal on surfaces up to 2 m away is below
        assert generated.view_gap_cm > true.view_gap_cm
        assert (true.off_ray_n, true.off_ray_m, copied.off_ray_m) == (0.0, 0.0, 0.0)
        assert true.frechet_derivatives_m == pytest.approx(0.0, abs=1e-9)
        assert copied.frechet_derivatives_n > 1.0  # a film that stands still has no derivatives in time
        assert len(copied.frechet_derivatives_sha256) == 64
        assert generated.generate_ms > 0
        assert np.isnan(true.generate_ms)

    assert read_frame(tmp_path / "metrics.csv", ("views", "source")).trained_rig.notna().all()  # as a report reads it
    first_cells = re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), flags=re.M)
    documented = {name for cell in first_cells for name in re.findall("`(.*?)`", cell)}
    assert len(documented) > 20
    assert {name for name in documented if not name.startswith("fvd")} <= set(metrics.columns)

    frames = pd.read_csv(tmp_path / "gripper_error_by_frame.csv")
    assert len(frames) == 2 * 3 * 10
    mean = frames.groupby(["views", "source"])["gripper_cm"].mean()
    for key, row in metrics.iterrows():
        assert mean[key] == pytest.approx(row.gripper_cm)

    rows = pd.read_csv(tmp_path / "windows.csv")
    for views in ("seen", "novel"):
        assert iio.imread(tmp_path / f"generated_{views}.png").std() > 5
        mine = rows[(rows.views == views) & (rows.source == "generated")].sort_values("gripper_cm")
        median = mine.iloc[(len(mine) - 1) // 2]
        assert median_window(rows, views) == (median.window, median.gripper_cm)
    rig = Dataset(tiny_dataset.eval).rig
    assert isinstance(rig, Rig)
    cameras = {camera.name: camera for camera in rig.cameras}
    for row in rows.itertuples():
        pair = [cameras[name] for name in (row.camera_n, row.camera_m)]
        at = np.array([camera.T_world_cam[:3, 3] for camera in pair])
        assert row.view_angle_deg == pytest.approx(max(map(rig.angle_to_training_deg, pair)), abs=1e-4)
        assert row.distance_m == pytest.approx(np.linalg.norm(at - rig.target, axis=1).mean())
        assert row.baseline_m == pytest.approx(np.linalg.norm(at[0] - at[1]))
        assert row.fovy_deg == pytest.approx(np.degrees([camera.fovy_rad for camera in pair]).mean())
        assert 0 < row.elevation_deg < 60
    text = str(result)
    assert "copy_first_frame" in text
    assert "geo4d-bench rollout" in text


def test_copied_error_is_the_distance_moved(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    evaluate.run(settings(blind, tiny_dataset, tmp_path, views="novel"))
    rows = pd.read_csv(tmp_path / "windows.csv")
    windows = Windows(tiny_dataset.eval, "novel")
    names = [episode.name for _, episode in windows.episodes]
    for row in rows[rows.source == "copy_first_frame"].itertuples():
        window = windows.window(names.index(row.episode), row.start, row.camera_n, row.camera_m)
        moved = 100 * np.linalg.norm(window.T_n_ee[0, 1:, :3, 3] - window.T_n_ee[0, 0, :3, 3], axis=-1)
        assert row.gripper_cm == pytest.approx(moved.mean())
        assert row.gripper_cm_frames_1_4 == pytest.approx(moved[:4].mean())
        assert row.gripper_cm_frame_10 == pytest.approx(moved[9])
        assert row.gripper_cm_undisturbed == row.gripper_cm
        disturbed = dataclasses.replace(window, disturbed=True)
        scores = ScoredWindow(disturbed, None, zero_motion(window)).numbers()
        assert scores["gripper_cm"] == pytest.approx(row.gripper_cm)
        assert np.isnan(scores["gripper_cm_undisturbed"])
    novel = {camera.name for camera in windows.datasets[0].rig.views("novel")}
    assert set(rows.camera_n) | set(rows.camera_m) <= novel


def test_rerun_keeps_finished_windows_and_repeats_to_the_bit(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    config = settings(blind, tiny_dataset, a, views="seen")
    evaluate.run(dataclasses.replace(config, windows=1))
    before = pd.read_csv(a / "windows.csv")
    evaluate.run(config)
    after = pd.read_csv(a / "windows.csv")
    kept = after[after.window < 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(before, kept)  # times included: nothing was computed again
    text = (a / "windows.csv").read_text()
    for lost in (text.rpartition("\n")[0].rpartition("\n")[0], re.sub(r"(\.\d{4})\d+", r"\1", text), text[:-4]):
        (a / "windows.csv").write_text(lost)
        with pytest.raises(DatasetError, match=r"windows\.csv: .* put (it|the file) back as it was"):
            evaluate.run(config)
        assert (a / "windows.csv").read_text() == lost
    # Read as it was: nothing is computed again, times included.
    (a / "windows.csv").write_text(text.replace(",", ";").replace(".", ",").replace("True", "TRUE"))
    evaluate.run(dataclasses.replace(config, windows=3))
    pd.testing.assert_frame_equal(after, pd.read_csv(a / "windows.csv").query("window < 2").reset_index(drop=True))
    evaluate.run(dataclasses.replace(config, out=b))
    pd.testing.assert_frame_equal(after.drop(columns=TIMES), pd.read_csv(b / "windows.csv").drop(columns=TIMES))
    evaluate.run(config)
    resumed, fresh = (pd.read_csv(folder / "metrics.csv") for folder in (a, b))
    times = [c for c in fresh if c.startswith(("generate_ms", "track_ms"))]
    pd.testing.assert_frame_equal(resumed.drop(columns=times), fresh.drop(columns=times))  # features were kept, too
    with pytest.raises(RunError, match="holds another evaluation: "):
        evaluate.run(dataclasses.replace(config, seed=1))
    evaluate.run(dataclasses.replace(config, seed=1, out=tmp_path / "c"))
    other = pd.read_csv(tmp_path / "c" / "windows.csv")
    assert set(other.run_id).isdisjoint(after.run_id)
    assert not other[["start", "camera_n"]].equals(after[["start", "camera_n"]])


def test_the_documented_metric_gets_its_column_in_tables(
    blind: Path, tiny_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(blind, tiny_dataset, tmp_path, views="novel")
    evaluate.run(config)
    page = (DOCUMENT.parent / "adding_a_metric.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    module: dict[str, Any] = {}
    exec(code, module)
    monkeypatch.setitem(scoring._PLUGINS._entries, "flicker_n", module["metric"])
    with pytest.raises(RunError, match="flicker_n"):  # an evaluation without it is not mixed with one that has it
        evaluate.run(config)
    result = evaluate.run(dataclasses.replace(config, out=tmp_path / "with"))
    rows = pd.read_csv(tmp_path / "with" / "metrics.csv").set_index("source")
    assert rows.loc["copy_first_frame", "flicker_n"] == 0.0
    assert "flicker_n_low" in rows
    assert re.search(r"^flicker n +0\.0 ", str(result), flags=re.M)
    monkeypatch.setitem(scoring._PLUGINS._entries, "gripper_cm", module["metric"])
    with pytest.raises(PluginError, match="gripper_cm"):
        evaluate.run(dataclasses.replace(config, out=tmp_path / "taken"))


def test_train_split_is_refused_unless_asked_for(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    config = EvaluateConfig(checkpoint=blind, data=tiny_dataset.train, views="seen", windows=1, out=tmp_path)
    with pytest.raises(DatasetError, match="'train' split"):
        evaluate.run(config)
    evaluate.run(dataclasses.replace(config, allow_train_data=True))
    assert set(pd.read_csv(tmp_path / "metrics.csv")["split"]) == {"train"}


def test_wrong_input_is_one_sentence(blind: Path, tiny_dataset: Any, tmp_path: Path) -> None:
    config = settings(blind, tiny_dataset, tmp_path, views="seen")
    with pytest.raises(CheckpointError, match="geo4d-bench train"):
        evaluate.run(dataclasses.replace(config, checkpoint=tmp_path / "none"))
    with pytest.raises(DatasetError):
        evaluate.run(dataclasses.replace(config, data=tmp_path / "none"))
    with pytest.raises(ConfigError, match="windows"):
        evaluate.run(dataclasses.replace(config, windows=0))
    LayeredGenerator(
        LayeredConfig(height=16, width=24, dim=32, heads=2, trunk_layers=1, decoder_layers=1)
    ).save_pretrained(tmp_path / "small")
    with pytest.raises(ConfigError, match="16 x 24"):
        evaluate.run(dataclasses.replace(config, checkpoint=tmp_path / "small"))
    evaluate.run(config)
    (tmp_path / "features.safetensors").write_bytes(b"not ours")
    with pytest.raises(DatasetError, match=r"features\.safetensors"):
        evaluate.run(config)
    (tmp_path / "windows.csv").write_text("not,ours\n1,2\n")
    with pytest.raises(DatasetError, match="run_id"):
        evaluate.run(config)


def test_scores_measure_a_known_offset(tiny_dataset: Any) -> None:
    """True frames whose points are moved by 3 cm along camera n's axis: d' - d is 3 cm in both views."""
    window = Windows(tiny_dataset.eval, "seen").sample(np.random.default_rng(0))
    video = true_video(window)
    moved = video.points + np.array([0.0, 0.0, 0.03], dtype=np.float32)
    scores = ScoredWindow(window, dataclasses.replace(video, points=moved), zero_motion(window)).numbers()
    for view, found in enumerate((scores["abs_rel_n"], scores["abs_rel_m"])):
        z = video.points[view, ..., 2]
        assert found == pytest.approx(float(np.mean(0.03 / z[np.isfinite(z) & (z > 0.05)])), rel=1e-4)
    assert scores["missing_m"] == 0.0
    assert scores["opening_cm"] == pytest.approx(
        100 * float(np.abs(window.opening_m[0, 1:] - window.opening_m[0, 0]).mean())
    )


class Still(CheckpointPredictor):
    """Hands stay where the robot knows them to be; trained on other cameras."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rig = "wide16"

    def predict(self, given: Any, views: Any, index: int) -> Any:
        first = given[0]
        return tracks(EETrajectory(np.repeat(first.T_n_ee[:, :1], 10, 1), np.repeat(first.opening_m[:, :1], 10, 1)))


class SeenByCameraN(CheckpointPredictor):
    """The true future, in the true frame of camera n."""

    truth: HeldOut

    def predict(self, given: Any, views: Any, index: int) -> Any:
        window = self.truth.window(views, index)
        return tracks(EETrajectory(window.T_n_ee[:, 1:], window.opening_m[:, 1:]))


def test_poses_that_are_told_wrong_move_a_plan_as_far(
    blind: Path, tiny_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        SeenByCameraN, "truth", HeldOut(Dataset(tiny_dataset.eval), ["novel"], 0, 10, 0.4), raising=False
    )
    found = {}
    for predictor in (Still, SeenByCameraN):
        monkeypatch.setattr(evaluate, "CheckpointPredictor", predictor)
        for cm in (0.0, 5.0):
            out = tmp_path / f"{predictor.__name__}{cm:g}"
            evaluate.run(settings(blind, tiny_dataset, out, views="novel", calibration_cm=cm))
            table = pd.read_csv(out / "metrics.csv").set_index("source")
            assert table.calibration_cm.eq(cm).all()
            found[predictor, cm] = table
            other_rig = predictor is Still
            angles = pd.read_csv(out / "windows.csv").view_angle_deg
            # hemisphere16's novel cameras lie inside the space of wide16, and between its own seen ones.
            assert angles.eq(0).all() if other_rig else angles.gt(5).all()
            assert table.trained_rig.eq("wide16").all() == other_rig
    for source in ("copy_first_frame", "true_frames"):  # neither is told anything
        assert len({(round(t.gripper_cm[source], 6), round(t.abs_rel_m[source], 6)) for t in found.values()}) == 1
    generated = {key: table.gripper_cm.generated for key, table in found.items()}
    assert generated[Still, 0.0] == pytest.approx(found[Still, 0.0].gripper_cm.copy_first_frame)
    assert generated[Still, 5.0] == pytest.approx(generated[Still, 0.0])  # from told to told
    assert generated[SeenByCameraN, 0.0] == pytest.approx(0.0, abs=1e-6)
    assert generated[SeenByCameraN, 5.0] == pytest.approx(5.0)
    with pytest.raises(ConfigError, match="estimated depth is scaled by the hands"):
        evaluate.run(settings(blind, tiny_dataset, tmp_path / "e", sensor="estimated", calibration_deg=1.0))


def test_what_is_given_under_an_error_of_calibration(tiny_dataset: Any) -> None:
    dataset = Dataset(tiny_dataset.eval)
    held_out = HeldOut(dataset, ["novel"], 0, 10, 0.4, calibration=(3.0, 4.0))
    for index in range(3):
        true, (told,) = held_out.window("novel", index), held_out.given("novel", index)
        for T_true, T_told in (
            (true.T_world_n, told.T_world_n),
            (true.T_world_n @ true.T_n_m, told.T_world_n @ told.T_n_m),
        ):
            distance, angle = pose_error(T_told, T_true)
            assert (distance, np.degrees(angle)) == pytest.approx((0.04, 3.0))
        np.testing.assert_allclose(told.T_world_n @ told.T_n_ee, true.T_world_n @ true.T_n_ee, atol=1e-12)
        hand = dataset.hand(dataset.arms[0]), told.T_n_ee[0, 0], told.opening_m[0, 0]
        np.testing.assert_array_equal(told.hand_mask, hand_mask(true.points[0, 0], [hand]))
        assert (told.hand_mask != true.hand_mask).any()
        np.testing.assert_array_equal(told.points, true.points)
