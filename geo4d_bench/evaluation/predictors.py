"""A checkpoint as what an evaluation scores; :mod:`predictions` has anybody's files in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geo4d_bench.dataset.sensors import SensorName
from geo4d_bench.errors import ConfigError
from geo4d_bench.evaluation.held_out import HeldOutOptions
from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.model.generators import Device
from geo4d_bench.options import Steps
from geo4d_bench.seeding import derive_seed

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.model.types import Video4D
    from geo4d_bench.trackers.protocol import HandTrack


@dataclass(frozen=True)
class CheckpointOptions(HeldOutOptions):
    """Which checkpoint generates which windows."""

    checkpoint: Path | None = None
    """The checkpoint folder; runs/<task of the data>/layered_nano where not given."""
    steps: Steps | None = None
    """Sampling steps; the checkpoint's own number where not given."""
    device: Device = "cpu"
    """Where the checkpoint generates. On a GPU (cuda) two runs may differ by rounding."""

    def folder(self, task: str) -> Path:
        """The checkpoint's."""
        return self.checkpoint or Path("runs") / task / "layered_nano"


class CheckpointPredictor:
    """A checkpoint of ``geo4d-bench train``.

    Args:
        folder: config and weights.  seed: of the noise.  steps: sampling steps; None takes the checkpoint's own.
        sensor: None takes that of the training.  device: where it generates.

    Attributes:
        name: of the folder.  generator: its registered name.  policy: of the rollout that plays it.
        sha256: of weights and config.
        calibrated, ablation, sensor, rig, frames, dt_s: of its config.
        steps: sampling steps; None where nothing is sampled.

    Raises:
        CheckpointError: the folder is missing, incomplete or of another version.
        ConfigError: there is no such device, or ``steps`` is given to a checkpoint that samples nothing.
    """

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

        self.sha256 = checkpoint_sha256(folder)
        self._generator, self._seed = load_generator(folder, device), seed
        config = self._generator.config
        if steps is not None and not config.generates_video:
            raise ConfigError(
                f"{folder} was trained for trajectory_regression, which samples no video; leave --steps out"
            )
        self.name, self.generator, self.policy = folder.resolve().name, config.name, config.board_name
        self.calibrated, self.ablation = config.calibrated, config.ablation
        self.rig: str | None = config.rig
        self.frames, self.dt_s, self.sensor = config.frames, config.dt_s, sensor or config.sensor
        self.steps = (steps or config.sample_steps) if config.generates_video else None

    def predict(self, given: Sequence[Window], views: ViewSplit, index: int) -> Video4D | list[HandTrack]:
        """The video of view n and of each view m of ``given``, pairs with one view n, or where the checkpoint makes no
        video each arm's track. It looks at their first frames alone."""
        from geo4d_bench.model.batch import frames_of_window
        from geo4d_bench.trackers.protocol import tracks

        first, *others = (frames_of_window(window) for window in given)
        for other in others:
            first = first.with_view_m_of(other)
        if not self._generator.config.generates_video:
            return tracks(self._generator.predict_trajectory([first])[0])
        seed = derive_seed("evaluation", "eval", self._seed, f"generate/{views}/{index}")
        return self._generator.generate([first], [seed], self.steps)[0]
