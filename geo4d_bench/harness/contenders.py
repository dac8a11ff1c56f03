"""Whose videos are scored: a checkpoint of ours, which generates them, or anybody's predictions, which are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.harness.held_out import noise_seed
from geo4d_bench.model.backbones import Device

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.model.video import Video4D
    from geo4d_bench.policies.trackers import HandTrack


@dataclass(frozen=True)
class Prediction:
    """What a generator says of one window: a video of two views or more, or, from one that makes none, the hands."""

    video: Video4D | None
    tracks: list[HandTrack] | None = None


class Contender(Protocol):
    """What an evaluation needs to know of a generator.

    Attributes:
        name: what it is called on the board.  sha256: of the weights and config, or of the predictions.
        setting: what it is shown, one of ``model.config.SETTINGS``.  ablation: what it lacks, ``none``.
        sensor: how the depth that it is shown is measured.
        steps: sampling steps; None where that is not known, or nothing is sampled.
        frames, dt_s: predicted frames T, and the seconds between them.
        generates: whether ``predict`` generates, so that its time means something.
        draws: whether there will be videos.
    """

    name: str
    sha256: str
    setting: str
    ablation: str
    sensor: SensorName
    steps: int | None
    frames: int
    dt_s: float
    generates: bool
    draws: bool

    def predict(self, given: Sequence[Window], views: ViewSplit, index: int) -> Prediction:
        """The prediction for window ``index``: of view n and of each view m of ``given``, pairs with one view n. What
        it may look at are their first frames."""
        ...


class CheckpointContender:
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
        from geo4d_bench.model.backbones import load_generator
        from geo4d_bench.model.checkpoint import checkpoint_sha256

        if steps is not None and steps < 1:
            raise ConfigError(f"--steps is {steps}, expected at least 1")
        self.sha256 = checkpoint_sha256(folder)
        self._generator = load_generator(folder, device)
        self._seed = seed
        config = self._generator.config
        self.name = folder.resolve().name
        self.setting, self.frames, self.dt_s = config.setting, config.frames, config.dt_s
        if steps is not None and not config.draws:
            raise ConfigError(f"{folder} was trained for pose_regression, which samples no video; leave --steps out")
        self.ablation, self.draws, self.sensor = config.ablation, config.draws, sensor or config.sensor
        self.steps = (steps or config.sample_steps) if config.draws else None
        policy = config.setting if config.draws else config.setting.replace("geo4d", "pose_regression")
        self.policy = None if config.rgb_only else policy

    def predict(self, given: Sequence[Window], views: ViewSplit, index: int) -> Prediction:
        from geo4d_bench.model.batch import first_frames
        from geo4d_bench.model.generator import Generator
        from geo4d_bench.policies.pose_regression import tracks

        first, *others = (first_frames(window) for window in given)
        for other in others:
            first = first.with_view_m_of(other)
        if isinstance(self._generator, Generator) and not self.draws:
            return Prediction(None, tracks(self._generator.foresee([first])[0]))
        return Prediction(self._generator.generate([first], [noise_seed(self._seed, views, index)], self.steps)[0])
