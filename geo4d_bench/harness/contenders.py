"""Whose videos are scored: a checkpoint of ours, which generates them, or anybody's predictions, which are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from geo4d_bench.geometry.camera import ViewSplit
from geo4d_bench.harness.held_out import noise_seed

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window
    from geo4d_bench.model.video import Video4D


class Contender(Protocol):
    """What an evaluation needs to know of a generator.

    Attributes:
        name: what it is called on the board.  sha256: of the weights and config, or of the predictions.
        setting: what it is shown, one of ``model.config.SETTINGS``.  ablation: what it lacks, ``none``.
        frames, dt_s: predicted frames T, and the seconds between them.
        generates: whether ``video`` generates, so that its time means something.
    """

    name: str
    sha256: str
    setting: str
    ablation: str
    frames: int
    dt_s: float
    generates: bool

    def video(self, window: Window, views: ViewSplit, index: int) -> Video4D:
        """The video for window ``index`` of these views. What it may look at of ``window`` is its first frames."""
        ...


class CheckpointContender:
    """A checkpoint of ``geo4d-bench train``.

    Args:
        folder: config and weights.  seed: of the noise.  steps: sampling steps; None takes the checkpoint's own.

    Raises:
        CheckpointError: the folder is missing, incomplete or of another version.
    """

    generates = True

    def __init__(self, folder: Path, seed: int, steps: int | None) -> None:
        from geo4d_bench.model.checkpoint import checkpoint_sha256
        from geo4d_bench.model.generator import Generator

        self.sha256 = checkpoint_sha256(folder)
        self._generator = Generator.from_pretrained(folder)
        self._seed, self._steps = seed, steps
        config = self._generator.config
        self.name = folder.resolve().name
        self.setting, self.frames, self.dt_s = config.setting, config.frames, config.dt_s
        self.ablation = str(getattr(config, "ablation", "none"))

    def video(self, window: Window, views: ViewSplit, index: int) -> Video4D:
        from geo4d_bench.model.batch import first_frames

        return self._generator.generate([first_frames(window)], [noise_seed(self._seed, views, index)], self._steps)[0]
