"""Whose videos are scored: a checkpoint of ours, which generates them, or anybody's predictions, which are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import noise_seed
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.model.generators import Device

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.model.types import Video4D
    from geo4d_bench.trackers.protocol import HandTrack


@dataclass(frozen=True)
class Prediction:
    """What a generator predicts for one window: a video of two views or more, or trajectories alone."""

    video: Video4D | None
    tracks: list[HandTrack] | None = None


class VideoPredictor(Protocol):
    """What an evaluation needs to know of a generator.

    Attributes:
        name: what it is called on the board.  sha256: of the weights and config, or of the predictions.
        generator: its registered name; that of the predictions where they are not of a checkpoint.
        calibrated: whether it is given the poses of both cameras.  ablation: what it lacks, ``none``.
        sensor: how the depth that it is shown is measured.
        steps: sampling steps; None where that is not known, or nothing is sampled.
        frames, dt_s: predicted frames T, and the seconds between them.
        generates: whether ``predict`` generates, so that its time means something.
        generates_video: whether there will be videos.
    """

    name: str
    sha256: str
    generator: str
    calibrated: bool
    ablation: str
    sensor: SensorName
    steps: int | None
    frames: int
    dt_s: float
    generates: bool
    generates_video: bool

    def predict(self, given: Sequence[Window], views: ViewSplit, index: int) -> Prediction:
        """The prediction for window ``index``: of view n and of each view m of ``given``, pairs with one view n. What
        it may look at are their first frames."""
        ...


class CheckpointPredictor:
    """A checkpoint of ``geo4d-bench train``.

    Args:
        folder: config and weights.  seed: of the noise.  steps: sampling steps; None takes the checkpoint's own.
        sensor: None takes that of the training.  device: where it generates.

    Raises:
        CheckpointError: the folder is missing, incomplete or of another version.
        ConfigError: there is no such device, ``steps`` is below 1, or given to a checkpoint that samples nothing.
    """

    generates = True

    def __init__(
        self,
        folder: Path,
        seed: int,
        steps: int | None,
        sensor: SensorName | None = None,
        device: Device = "cpu",
    ) -> None:
        from geo4d_bench.model.checkpoint import checkpoint_sha256
        from geo4d_bench.model.generators import load_generator

        if steps is not None and steps < 1:
            raise ConfigError(f"--steps is {steps}, expected at least 1")
        self.sha256 = checkpoint_sha256(folder)
        self._generator = load_generator(folder, device)
        self._seed = seed
        config = self._generator.config
        self.name = folder.resolve().name
        self.generator, self.calibrated = config.name, config.calibrated
        self.frames, self.dt_s = config.frames, config.dt_s
        if steps is not None and not config.generates_video:
            raise ConfigError(
                f"{folder} was trained for trajectory_regression, which samples no video; leave --steps out"
            )
        self.ablation, self.generates_video, self.sensor = (
            config.ablation,
            config.generates_video,
            sensor or config.sensor,
        )
        self.steps = (steps or config.sample_steps) if config.generates_video else None
        self.policy = config.board_name

    def predict(self, given: Sequence[Window], views: ViewSplit, index: int) -> Prediction:
        from geo4d_bench.model.batch import first_frames
        from geo4d_bench.trackers.protocol import tracks

        first, *others = (first_frames(window) for window in given)
        for other in others:
            first = first.with_view_m_of(other)
        if not self.generates_video:
            return Prediction(None, tracks(self._generator.predict_trajectory([first])[0]))
        return Prediction(self._generator.generate([first], [noise_seed(self._seed, views, index)], self.steps)[0])
