"""What the generators of all backbones are to their users."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.model import checkpoint
from geo4d_bench.model.ablations import as_told
from geo4d_bench.model.batch import batch_from_first_frames
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.latent_config import LatentConfig
from geo4d_bench.model.sprites import HandClouds
from geo4d_bench.model.video import FirstFrames, Video4D

ConfigT = TypeVar("ConfigT", GeneratorConfig, LatentConfig)


@dataclass(frozen=True)
class Loss:
    """The training loss (scalar, differentiable) and its parts, unweighted floats without gradient."""

    total: Tensor
    parts: dict[str, float]


class BaseGenerator(nn.Module, ABC, Generic[ConfigT]):
    """First RGB-D frames of some views in, their future out. The config tells all sizes and settings."""

    config_type: ClassVar[type[GeneratorConfig | LatentConfig]]
    config: ConfigT

    @abstractmethod
    def __init__(self, config: ConfigT) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def know(self, hands: HandClouds, scene_points: Tensor) -> None:
        """Be told what the hands look like, and a map of the scene: points (P, 3), metres in the world."""

    @abstractmethod
    def loss(self, batch: dict[str, Tensor], rng: torch.Generator) -> Loss:
        """Loss of a batch from :func:`~geo4d_bench.model.batch.batch_from_windows`; pixels that are invalid take no
        part in it.

        Args:
            batch: tensors on this module's device, of two views; :func:`~geo4d_bench.model.batch.input_spec` tells
                their shapes.
            rng: decides noise levels, noise and dropout; on the CPU.

        Raises:
            ConfigError: the batch has another size, number of frames or of arms than the config.
        """

    @torch.no_grad()
    def generate(
        self, conditions: Sequence[FirstFrames], seeds: Sequence[int], steps: int | None = None
    ) -> list[Video4D]:
        """Futures of several first frames; each is a pure function of its condition, its seed and ``steps``.

        One sample at a time, so that a result never depends on what else is in the batch, to the bit: two cores
        gain nothing from larger batches, and a ledger must not depend on how episodes were grouped.

        Args:
            conditions: first frames of the config's size.
            seeds: one for each.
            steps: Euler steps, the config's where None.

        Raises:
            ConfigError: images of another size, not as many seeds as conditions, ``steps`` below 1, or a generator that
                draws nothing.
        """
        if len(conditions) != len(seeds):
            raise ConfigError(f"generate: {len(conditions)} first frames but {len(seeds)} seeds; give one for each")
        if steps is not None and steps < 1:
            raise ConfigError(f"generate: steps is {steps}, expected at least 1")
        count = steps or self.config.sample_steps
        return [self._generate_one(first, seed, count) for first, seed in zip(conditions, seeds, strict=True)]

    def save_pretrained(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; a checkpoint that was there stays whole until the end."""
        checkpoint.save_checkpoint(folder, self.config, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path, device: str = "cpu") -> Self:
        """The generator saved in ``folder``, in evaluation mode; CheckpointError where it is missing or not whole."""
        config: Any = checkpoint.load_config(folder)
        if config.backbone != cls.config_type.backbone:
            raise CheckpointError(
                f"{folder}: its backbone is '{config.backbone}', not '{cls.config_type.backbone}'; load it with "
                "backbones.load_generator"
            )
        generator = cls(config)
        checkpoint.load_weights(folder, generator)
        return generator.to(device).eval()

    @abstractmethod
    def _generate_one(self, first: FirstFrames, seed: int, steps: int) -> Video4D: ...

    def _batch_of_one(self, first: FirstFrames) -> dict[str, Tensor]:
        """One sample's condition as a batch on this module's device, as the generator is told it."""
        batch = batch_from_first_frames([first])
        self._check(batch)
        device = next(self.parameters()).device
        return as_told(self.config, {k: v.to(device) for k, v in batch.items()})

    def _check(self, batch: dict[str, Tensor]) -> None:
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
            raise ConfigError(
                "a generator of the setting geo4d_calibrated needs the poses of both cameras; give T_world_cam"
            )
        if "rgb" in batch and batch["rgb"].shape[2] != c.frames:
            raise ConfigError(
                f"the generator is made for {c.frames} frames, got windows of {batch['rgb'].shape[2]}; "
                "read windows of as many"
            )
