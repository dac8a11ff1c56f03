"""``geo4d-bench generate``: held-out windows as one can look at them, films and point clouds, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import HeldOut
from geo4d_bench.evaluation.predictors import CheckpointOptions, CheckpointPredictor
from geo4d_bench.evaluation.window_film import write_film
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.io import atomic
from geo4d_bench.model.types import Video4D
from geo4d_bench.options import Count

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window


@dataclass(frozen=True)
class GenerateConfig(CheckpointOptions):
    """Generate held-out windows, the very ones that 'evaluate' scores, as films and point clouds."""

    views: ViewSplit = "novel"
    """Which cameras the windows are seen from."""
    windows: Count = 4
    """How many windows: the first ones of 'evaluate' with the same seed."""
    out: Path | None = None
    """Where to write; <checkpoint>/generated where not given."""


def run(config: GenerateConfig) -> str:
    """Generate and write ``film.mp4``, and ``generated_00.ply``, ``true_00.ply`` ... of every frame, into a folder a
    window; files of the same window are replaced, each whole. Returns the closing summary.

    Raises:
        CheckpointError, DatasetError: a folder is missing, damaged, or the dataset is of the train split.
        ConfigError: images of another size than the checkpoint's.
    """
    from tqdm import tqdm

    from geo4d_bench.model.batch import true_video

    dataset = config.open()
    checkpoint = config.folder(dataset.manifest.settings.task_name)
    contender = CheckpointPredictor(checkpoint, config.seed, config.steps, device=config.device)
    held_out = HeldOut(
        dataset, config.splits, config.seed, contender.frames, contender.dt_s, contender.sensor,
        calibrated=contender.calibrated,
    )  # fmt: skip
    films = []
    for v, i in tqdm(config.keys, desc="generate", unit="window"):
        window, given = held_out.window(v, i), held_out.given(v, i)
        video = contender.predict(given, v, i)
        if not isinstance(video, Video4D):
            raise ConfigError(
                f"{checkpoint}: was trained for trajectory_regression, which makes no video; evaluate scores it"
            )
        folder = (config.out or checkpoint / "generated") / f"{v}_{i:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        title = f"{contender.name}, {v} views {' and '.join(window.cameras)}: {window.episode}"
        true, generated = _with_first_frame(window, true_video(window)), _with_first_frame(given[0], video)
        films.append(folder / "film.mp4")
        write_film(films[-1], true, generated, title)
        _write_clouds(folder, "true", true)
        _write_clouds(folder, "generated", generated)
    return (
        "\n".join(map(str, films)) + f"\neach window's folder has its film and {1 + contender.frames} frames as point "
        "clouds, generated_NN.ply and true_NN.ply (00: what was given): both views' points, metres, camera n's frame "
        "(x right, y down, z forward)\n"
        "films open in any player (grey in the depth: no surface), clouds in MeshLab, CloudCompare or Blender\n"
        "next: geo4d-bench evaluate scores these windows and more"
    )


def _with_first_frame(window: Window, video: Video4D) -> Video4D:
    """1 + T frames: what was given, view m's points moved by the true pose, and then the video's T."""
    from geo4d_bench.evaluation.scoring import first_points

    return replace(
        video,
        rgb=np.concatenate([window.rgb[:, :1], video.rgb], axis=1),
        points=np.concatenate([first_points(window)[:, None], video.points], axis=1),
        parts=np.concatenate([window.parts[:, :1], video.parts], axis=1),
        opening_m=None,
    )


def _write_clouds(folder: Path, name: str, video: Video4D) -> None:
    """``<name>_00.ply`` and so on, binary: a frame's valid points in camera n's frame, metres, view n's first."""
    from trimesh import PointCloud

    for t in range(video.rgb.shape[1]):
        points, rgb = video.points[:, t], video.rgb[:, t]
        valid = np.isfinite(points).all(-1)
        with atomic(folder / f"{name}_{t:02d}.ply") as part:
            PointCloud(points[valid], rgb[valid]).export(part)
