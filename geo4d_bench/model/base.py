"""What every generator is to its users."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from geo4d_bench.dataset.types import Window
from geo4d_bench.errors import ConfigError
from geo4d_bench.model import checkpoint
from geo4d_bench.model.batch import apply_ablation, batch_from_first_frames
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.types import EETrajectory, FirstFrames, Video4D

ConfigT = TypeVar("ConfigT", bound=GeneratorConfig)
OptimizerName = Literal["muon", "adamw"]


@dataclass(frozen=True)
class Loss:
    """The training loss (scalar, differentiable) and its parts, unweighted scalars without gradient; all on the device,
    where reading them would make a training step wait."""

    total: Tensor
    parts: dict[str, Tensor]


class Generator(nn.Module, ABC, Generic[ConfigT]):
    """First RGB-D frames of some views in, their future out.

    A generator overrides ``loss`` and what it makes: ``generate_batch`` (video), ``predict_trajectory`` (the gripper's
    trajectory), or both; its config's ``generates_video`` and ``predicts_trajectory`` say which.
    """

    finds_cameras = False
    """Whether it searches for the poses of the cameras; it takes given ones instead where ``cameras_given`` is set."""
    cameras_given = False

    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    # ---- to be overridden -------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, batch: dict[str, Tensor], rng: torch.Generator) -> Loss:
        """Loss of a batch from :func:`~geo4d_bench.model.batch.batch_from_windows`, without its invalid pixels.

        Args:
            batch: tensors on this module's device, of two views, see :func:`~geo4d_bench.model.batch.input_spec`.
            rng: decides noise levels, noise and dropout; on the CPU or the batch's device.

        Raises:
            ConfigError: the batch has another size, number of frames or of arms than the config.
        """

    def generate_batch(self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int) -> list[Video4D]:
        """The futures of several samples in one pass; each sample's noise is its own seed's."""
        raise NotImplementedError

    def predict_trajectory(self, conditions: Sequence[FirstFrames]) -> list[EETrajectory]:
        """Where the end effectors will be, without any video; ConfigError of a generator that predicts none."""
        raise ConfigError(f"the generator '{self.config.name}' of {self.config.ablation} predicts no trajectory")

    def set_priors(self, windows: Sequence[Window]) -> None:
        """Keep, with the weights, what else is taken from training windows; by default nothing."""

    def optimizer_groups(self) -> dict[OptimizerName, list[nn.Parameter]]:
        """The parameters to train, by the optimiser that they want; by default all are AdamW's."""
        return {"adamw": [p for p in self.parameters() if p.requires_grad]}

    def layers_to_compile(self) -> list[nn.Module]:
        """Modules that are worth compiling for a GPU, one by one: those of a kind share what is compiled."""
        return []

    @classmethod
    def from_pretrained(cls, source: Path | str, config: ConfigT) -> Self:
        """A generator to fine-tune, on weights that others trained; ConfigError of one that takes none."""
        raise ConfigError(f"the generator '{config.name}' takes no pretrained weights; choose --preset svd")

    def add_adapters(self) -> None:
        """Freeze the pretrained weights and train low-rank additions to them; ConfigError of one that has none."""
        raise ConfigError(f"the generator '{self.config.name}' takes no adapters; choose --preset svd")

    def halve_frozen(self) -> None:
        """Hold in bfloat16, from now on, what is not trained; a training computes under autocast then."""

    def layers(self) -> list[nn.Module]:
        """Modules that compute one after the other, each called as a whole: what several GPUs share out, piece by
        piece."""
        return []

    def fit_autoencoder(
        self, batches: Iterable[dict[str, Tensor]], state: dict[str, Tensor] | None = None
    ) -> list[dict[str, float]]:
        """Fit an autoencoder before the training, a step a batch; ``state`` lets one call go on where another ended.
        Returns what to log of each step. ConfigError of a generator that has none."""
        raise ConfigError(f"the generator '{self.config.name}' has no autoencoder to fit; choose --preset svd")

    # ---- of all generators ------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int | None = None, batch: int = 1
    ) -> list[Video4D]:
        """Futures of first frames of the config's size, with one seed each.

        Each is a pure function of its condition, its seed, the sampling ``steps`` (None: the config's) and, in the last
        bits, of ``batch``, how many are computed together.

        Raises:
            ConfigError: images of another size, not as many seeds as conditions, ``steps`` below 1, or a generator that
                makes no video.
        """
        if len(conditions) != len(seeds):
            raise ConfigError(f"generate: {len(conditions)} first frames but {len(seeds)} seeds; give one for each")
        if steps is not None and steps < 1:
            raise ConfigError(f"generate: steps is {steps}, expected at least 1")
        if not self.config.generates_video:
            raise ConfigError(
                f"the generator '{self.config.name}' of {self.config.ablation} makes no video; ask it for "
                "predict_trajectory(...)"
            )
        count = steps or self.config.sample_steps
        videos: list[Video4D] = []
        for i in range(0, len(conditions), batch):
            videos += self.generate_batch(conditions[i : i + batch], seeds[i : i + batch], count)
        return videos

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; a checkpoint that was there stays whole until the end."""
        checkpoint.save_checkpoint(folder, self.config, self.state_dict())

    def condition_batch(self, conditions: Sequence[FirstFrames]) -> dict[str, Tensor]:
        """Conditions as a batch on this module's device, the config's ablation applied."""
        batch = batch_from_first_frames(conditions)
        self.check(batch)
        device = next(self.parameters()).device
        return apply_ablation(self.config, {k: v.to(device) for k, v in batch.items()})

    def as_videos(
        self,
        conditions: Sequence[FirstFrames],
        rgb: Tensor,
        points: Tensor,
        valid: Tensor,
        parts: Tensor,
        opening_m: Tensor | None = None,
    ) -> list[Video4D]:
        """From rgb (B, V, T, H, W, 3) in -1..1, points (B, V, T, H, W, 3), metres in camera n's frame, (B, V, T, H, W)
        validity and part labels, and (B, arms, T) metres where the labels show openings."""
        if not self.config.shared_frame:
            valid[:, 1:] = False  # points of an unknown camera's frame are of no use to anyone
        rgb = ((rgb.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        images = (rgb, torch.where(valid[..., None], points, torch.nan), parts.to(torch.uint8))
        arrays = (np.ascontiguousarray(image.cpu().numpy()) for image in images)
        openings = [None] * len(conditions) if opening_m is None else list(opening_m.double().cpu().numpy())
        return [
            Video4D(rgb, points, parts, np.asarray(first.K, dtype=np.float64), self.config.dt_s, opening)
            for first, opening, rgb, points, parts in zip(conditions, openings, *arrays, strict=True)
        ]

    def check(self, batch: dict[str, Tensor]) -> None:
        """ConfigError where the batch is not what the config was made for."""
        c = self.config
        got = tuple(batch["first_rgb"].shape[2:4])
        if got != (c.height, c.width):
            raise ConfigError(
                f"the generator is made for images of {c.height} x {c.width}, got {got[0]} x {got[1]}; "
                "use data of its size or another preset"
            )
        arms = batch["first_hand"].shape[1]
        if arms != c.arms:
            raise ConfigError(
                f"the generator is made for {c.arms} arm(s), got {arms}; use a checkpoint that was trained on this task"
            )
        if c.calibrated and "T_world_cam" not in batch:
            raise ConfigError("a calibrated generator needs the poses of both cameras; give T_world_cam")
        if "rgb" in batch and batch["rgb"].shape[2] != c.frames:
            raise ConfigError(
                f"the generator is made for {c.frames} frames, got windows of {batch['rgb'].shape[2]}; "
                "read windows of as many"
            )
