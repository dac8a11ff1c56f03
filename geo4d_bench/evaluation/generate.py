"""``geo4d-bench generate``: held-out windows as one can look at them, films and point clouds, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import HeldOut, open_held_out
from geo4d_bench.evaluation.point_clouds import write_clouds
from geo4d_bench.evaluation.predictors import CheckpointPredictor
from geo4d_bench.evaluation.window_film import write_film
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.model.generators import Device

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.model.types import Video4D


@dataclass(frozen=True)
class GenerateConfig:
    """Generate held-out windows, the very ones that 'evaluate' scores, as films and point clouds."""

    checkpoint: Path | None = None
    """The checkpoint folder; runs/<task of the data>/layered_nano where not given."""
    data: Path = Path("data/store_cereal_eval")
    """A dataset of the eval split, rendered from seen and novel cameras."""
    views: ViewSplit = "novel"
    """Which cameras the windows are seen from."""
    windows: int = 4
    """How many windows: the first ones of 'evaluate' with the same seed."""
    seed: int = 0
    """Chooses the windows and the generator's noise."""
    steps: int | None = None
    """Sampling steps; the checkpoint's own number where not given."""
    device: Device = "cpu"
    """Where the checkpoint generates. On a GPU (cuda) two runs may differ by rounding."""
    out: Path | None = None
    """Where to write; <checkpoint>/generated where not given."""


@dataclass(frozen=True)
class Generated:
    """``folders`` hold a window each: ``film.mp4``, and ``generated_00.ply``, ``true_00.ply`` ... of every frame."""

    out: Path
    folders: list[Path]
    frames: int

    def __str__(self) -> str:
        return "\n".join(
            [
                *(f"{folder / 'film.mp4'}" for folder in self.folders),
                f"each window's folder has its film and {self.frames} frames as point clouds, generated_NN.ply and "
                "true_NN.ply (00: what was given): both views' points, metres, camera n's frame (x right, y down, "
                "z forward)",
                "films open in any player (white in the depth: no surface), clouds in MeshLab, CloudCompare or Blender",
                "next: geo4d-bench evaluate scores these windows and more",
            ]
        )


def run(config: GenerateConfig) -> Generated:
    """Generate and write; files of the same window are replaced, each whole.

    Raises:
        CheckpointError, DatasetError: a folder is missing, damaged, or the dataset is of the train split.
        ConfigError: ``windows`` below 1, or images of another size than the checkpoint's.
    """
    from tqdm import tqdm

    from geo4d_bench.model.batch import true_video

    if config.windows < 1:
        raise ConfigError(f"generate: windows is {config.windows}, expected 1 or more")
    dataset = open_held_out(config.data)
    checkpoint = config.checkpoint or Path("runs") / dataset.manifest.settings.task / "layered_nano"
    contender = CheckpointPredictor(checkpoint, config.seed, config.steps, device=config.device)
    if not contender.generates_video:
        raise ConfigError(
            f"{checkpoint}: was trained for trajectory_regression, which makes no video; evaluate scores it"
        )
    held_out = HeldOut(
        dataset, [config.views], config.seed, contender.frames, contender.dt_s, contender.sensor,
        calibrated=contender.calibrated,
    )  # fmt: skip
    out = config.out or checkpoint / "generated"
    folders = []
    for index in tqdm(range(config.windows), desc="generate", unit="window"):
        window, given = held_out.window(config.views, index), held_out.given(config.views, index)
        video = contender.predict(given, config.views, index).video
        assert video is not None
        true = _from_the_first_frame(window, true_video(window))
        generated = _from_the_first_frame(given[0], video)
        folder = out / f"{config.views}_{index:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        title = f"{contender.name}, {config.views} views {' and '.join(window.cameras)}: {window.episode}"
        write_film(folder / "film.mp4", true, generated, title)
        write_clouds(folder, "true", true)
        write_clouds(folder, "generated", generated)
        folders.append(folder)
    return Generated(out, folders, 1 + contender.frames)


def _from_the_first_frame(window: Window, video: Video4D) -> Video4D:
    """1 + T frames: what was given, view m's points moved by the true pose, and then the video's T."""
    from geo4d_bench.evaluation.scoring import copied_first_frame

    first = copied_first_frame(window)

    def join(name: str) -> Any:
        return np.concatenate([getattr(first, name)[:, :1], getattr(video, name)], axis=1)

    return replace(video, rgb=join("rgb"), points=join("points"), parts=join("parts"))
