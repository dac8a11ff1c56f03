"""Whole files of every kind that readers are given, small, and the readers that need more than a line to be called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import damaged_episodes as episodes
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RIG = {"fovy_deg": 55, "cameras": [
    {"name": "left", "position": [0.4, 0.8, 1.7]},
    {"name": "right", "position": [0.4, -0.8, 1.7], "look_at": [0, 0, 1.4], "fovy_deg": 40, "split": "seen"},
]}  # fmt: skip
SCENE = """<mujoco><asset><mesh name="wedge" vertex="0 0 0  0.1 0 0  0 0.1 0  0 0 0.1"/></asset><worldbody>
  <geom name="floor" type="plane" size="1 1 0.1" group="1"/>
  <body name="cube" pos="0 0 0.1"><freejoint/>
    <geom type="box" size="0.05 0.05 0.05" group="1" rgba="0.8 0.2 0.1 1"/><geom type="mesh" mesh="wedge" group="1"/>
  </body></worldbody></mujoco>"""
PAGE = """# Results
<!-- success
`expert` | rollout/episodes.csv
-->
<!-- end -->
<!-- metrics novel generated: gripper_cm miou
`layered` | report/metrics.csv
-->
<!-- end -->
"""
FRAMES = 26


def prepare(whole: Path) -> None:
    """Write all of them; each by the code that users have write it, where it is quick."""
    from geo4d_bench.dataset.hands import save_hand
    from geo4d_bench.dataset.manifest import Manifest
    from geo4d_bench.dataset.rescan import rescan
    from geo4d_bench.geometry.hand import HandModel
    from geo4d_bench.model.checkpoint import save_checkpoint, write_tensors
    from geo4d_bench.model.generators import presets
    from geo4d_bench.rendering.scene import pack_scene
    from geo4d_bench.trackers.segmenter import network

    whole.mkdir(parents=True)
    (whole / "rig.yaml").write_text(json.dumps(RIG, indent=1))  # JSON is YAML
    square = np.stack([np.linspace(0, 0.02, 4)] * 3, axis=-1)
    hand = HandModel(square, square, np.array([0, 1, 2, 0], np.uint8), np.eye(3)[1], 0.08)
    save_hand(whole / "dataset/hands/right.npz", hand)
    episodes.write(whole / "dataset/episodes" / episodes.NAME)
    rescan(whole / "dataset", Manifest(episodes.settings()))
    (whole / "scene.zip").write_bytes(pack_scene(SCENE))
    preset = presets().get("layered_debug")
    save_checkpoint(whole / "checkpoint", preset, preset.build().state_dict())
    (whole / "preset.json").write_text(preset.to_json())
    write_tensors(whole / "runs/quick/segmenter.safetensors", network(4).state_dict())
    write_tensors(whole / "i3d.safetensors", network(4).state_dict())  # of another network, at least
    _write_training(whole / "training")
    _write_evaluation(whole / "evaluation")
    _write_rollout(whole / "rollout")
    _write_predictions(whole / "predictions")
    results = ROOT / "results/store_cereal-v1/demo"
    (whole / "report").mkdir()
    for name in ("metrics.csv", "gripper_error_by_frame.csv"):
        shutil.copyfile(results / name, whole / "report" / name)
    shutil.copyfile(whole / "training/training_log.csv", whole / "report/training_log.csv")
    _write_trajectory(whole / "report/1.npz")
    (whole / "page.md").write_text(PAGE)


def trainer(folder: Path) -> Any:
    """A trainer that goes on with what lies in a folder, as ``train`` makes it."""
    from synthetic_windows import window

    from geo4d_bench.model.generators import presets
    from geo4d_bench.training.train import TrainConfig
    from geo4d_bench.training.trainer import Trainer

    class Source:
        def sample(self, rng: np.random.Generator) -> Any:
            return window(int(rng.integers(1000)))

    config = TrainConfig(steps=2, batch_size=1, out=folder, threads=1, val_windows=0, n_validations=1, precision="fp32")
    windows = [window(seed) for seed in range(2)]
    made = presets().get("layered_debug").fitted(windows)
    return Trainer(config, made, {"seed": 0, "preset": "layered_debug"}, Source(), windows, [])


def _write_training(folder: Path) -> None:
    made = trainer(folder)
    made.run()


def _write_evaluation(folder: Path) -> None:
    from geo4d_bench.evaluation.window_store import SOURCES, WindowStore

    store = WindowStore(folder, "run")
    rng = np.random.default_rng(0)
    for views in ("seen", "novel"):
        for index in range(3):
            rows = [
                {"views": views, "source": source, "window": index, "episode": "ep_000000", "gripper_cm": rng.uniform()}
                for source in SOURCES
            ]
            features = {f"{s}/derivatives": rng.normal(size=(2, 4)).astype(np.float32) for s in SOURCES}
            store.add(rows, features)
    store.save()


def _write_rollout(folder: Path) -> None:
    from geo4d_bench.rollout.ledger import EpisodeRow, Ledger
    from geo4d_bench.runs import claim

    run = claim(folder, "rollout", "episodes.csv", {"task": "quick", "seed": 1000}, seed=1000, episodes=6)
    for seed in range(1000, 1005):
        row = EpisodeRow(
            run_id=run, settings="5" * 16, rig="hemisphere16", task="quick", task_version="v1", policy="expert",
            generator="", ablation="none", checkpoint="", views="novel", camera_n="cam03", camera_m="cam07",
            view_angle_deg=21.125, sensor="perfect", tracker="", segmenter="", steps=0, split="eval", seed=seed,
            episode=seed - 1000, status="success" if seed % 2 else "timeout", success=bool(seed % 2), phase="task",
            plans=12, control_steps=240, wall_s=1.5, generate_ms=0.0, track_ms=0.25, privileged=True,
            fingerprint="f" * 16, commit="abc+",
        )  # fmt: skip
        Ledger(folder / "episodes.csv").append(row)


def _write_trajectory(path: Path) -> None:
    executed = np.tile(np.eye(4), (61, 1, 1))
    executed[:, :3, 3] = np.linspace([0.4, -0.1, 1.2], [0.6, 0.2, 0.9], 61)
    np.savez(
        path, **{"right/T_world_ee": executed, "right/plan_T_world_ee": executed[None, 1:11]}, dt_s=np.array(0.05),
        plan_step=np.array([0]), plan_time_s=0.4 * np.arange(1, 11)[None],
    )  # fmt: skip


def _evaluated(folder: Path) -> tuple[Any, Any]:
    """The dataset that predictions are of, and the options of ``evaluate``."""
    import dataclasses

    from geo4d_bench.dataset.reader import Dataset
    from geo4d_bench.evaluation.held_out import HeldOutOptions

    dataset = Dataset(folder / "dataset")
    settings = dataclasses.replace(dataset.manifest.settings, split="eval")
    dataset.manifest = dataclasses.replace(dataset.manifest, settings=settings)
    return dataset, HeldOutOptions(views="seen", windows=1)


def checked_predictions(folder: Path) -> Any:
    """What ``evaluate --predictions`` reads; DatasetError as there. The windows are of no dataset: what they are
    compared with is not what is damaged."""
    from synthetic_windows import window

    from geo4d_bench.evaluation import predictions

    predictions.HeldOut = lambda *_: type("Windows", (), {"window": lambda *_: _shown()})  # type: ignore[misc,assignment]
    dataset, options = _evaluated(folder)
    predictions.check(folder / "predictions", dataset, options)
    stored = predictions.StoredPredictions(folder / "predictions")
    video = stored.predict([window(0, episodes.HEIGHT, episodes.WIDTH, predictions.FRAMES)], "seen", 0)
    return stored.name, stored.calibrated, video.rgb, video.points, video.parts


def _shown() -> Any:
    from synthetic_windows import window

    from geo4d_bench.evaluation.predictions import FRAMES

    return window(0, episodes.HEIGHT, episodes.WIDTH, FRAMES)


def _write_predictions(folder: Path) -> None:
    from safetensors.numpy import save_file

    from geo4d_bench.evaluation import predictions
    from geo4d_bench.geometry.se3 import to_camera_n

    dataset, options = _evaluated(folder.parent)
    manifest = predictions.manifest_of(dataset, options, False) | {"generator": "someone"}
    path = predictions.window_path(folder, "seen", 0)
    path.parent.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    shown = _shown()
    points = to_camera_n(shown.points[:, 1:], shown.T_n_m)
    valid = np.isfinite(points).all(-1)
    arrays = {"rgb": shown.rgb[:, 1:], "points": np.where(valid[..., None], points, 0), "valid": valid}
    arrays |= {"parts": shown.parts[:, 1:], "points": arrays["points"].astype(np.float32)}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
