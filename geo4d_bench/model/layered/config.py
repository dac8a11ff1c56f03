"""Sizes and settings of the layered generator, and its presets. No torch here, so that presets are listed at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from geo4d_bench.dataset.sensors import SensorName  # noqa: F401  # pydantic looks the base's types up here
from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.model.config import GeneratorConfig

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window

_MARGIN_M = 0.15
"""About where grippers go: what they reach for is no farther."""


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(GeneratorConfig):
    """See :class:`~geo4d_bench.model.config.GeneratorConfig`.

    Attributes:
        patch: a token is patch x patch pixels of all T frames of one view.
        dim, heads: width of a token and attention heads.
        trunk_layers: blocks shared by the views.  decoder_layers: blocks that each view has to itself.
        pure_noise_share: share of the training samples at pure noise, where one-step generation works.
        loss_frames: frames whose pixels a training step looks at, drawn anew each time: neighbours say nearly the
            same, and fewer frames make more steps.
        hand_weight: added loss weight of pixels within ``hand_dilation`` pixels of a hand.
        part_weight: weight of hand pixels in the loss of the part labels: they are less than 1 % of an image.
        part_odds: a pixel is generated as hand where its probability times this exceeds the others'; above 1, hands
            whose place is uncertain still show.
        point_mean_m, point_scale_m: points p in a camera's frame are seen by the network as (p - mean) / scale.
        work_centre_m, work_half_m: the cube in the world, by its middle and half its edge, in which hands work.
        scene_layers: blocks that predict the hands' motion from orthographic pictures of that cube.
        scene_cells: cells of such a picture along an edge, a multiple of 8.
        motion_scale_m: unit of the hands' predicted motion.
    """

    name = "layered"
    generator = "geo4d_bench.model.layered.generator:LayeredGenerator"
    policy = "layered"
    gradient_clip = 4.0

    dim: int
    heads: int
    trunk_layers: int
    decoder_layers: int
    patch: int = 8
    pure_noise_share: float = 0.7
    loss_frames: int = 3
    hand_weight: float = 4.0
    hand_dilation: int = 2
    part_weight: float = 16.0
    part_odds: float = 3.0
    point_mean_m: tuple[float, float, float] = (0.0, 0.0, 0.8)
    point_scale_m: float = 0.3
    work_centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    work_half_m: float = 0.5
    scene_layers: int = 3
    scene_cells: int = 32
    motion_scale_m: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.dim, self.heads, self.patch) < 1:
            raise ConfigError("generator: dim, heads and patch must be at least 1")
        if self.height % self.patch or self.width % self.patch:
            raise ConfigError(
                f"generator: {self.height} x {self.width} pixels don't divide into patches of {self.patch}; "
                "choose multiples of the patch"
            )
        if self.dim % self.heads or self.dim % 2:
            raise ConfigError(
                f"generator: dim {self.dim} does not divide into {self.heads} heads, or is not even: half of what a "
                "noise level is told by are sines"
            )
        if min(self.decoder_layers, self.loss_frames) < 1 or self.trunk_layers < 0:
            raise ConfigError("generator: loss_frames and decoder_layers must be at least 1")
        if not (0.0 <= self.pure_noise_share <= 1.0):
            raise ConfigError(f"generator: pure_noise_share is {self.pure_noise_share}, expected 0 to 1")
        if (
            min(self.point_scale_m, self.motion_scale_m, self.work_half_m, self.part_weight, self.part_odds) <= 0
            or min(self.hand_weight, self.hand_dilation) < 0
        ):
            raise ConfigError(
                "generator: scales and weights must be positive, hand_weight and hand_dilation at least 0"
            )
        if self.scene_cells < 8 or self.scene_cells % 8:
            raise ConfigError(f"generator: scene_cells is {self.scene_cells}, expected a multiple of 8")

    @classmethod
    def presets(cls) -> dict[str, Self]:
        return {
            "layered_debug": cls(
                height=16, width=24, dim=32, heads=2, trunk_layers=1, decoder_layers=1, frames=3, scene_layers=1,
                scene_cells=16,
            ),
            "layered_nano": cls(height=64, width=80, dim=192, heads=3, trunk_layers=4, decoder_layers=2),
            "layered_small": cls(
                height=128, width=160, dim=384, heads=6, trunk_layers=8, decoder_layers=4, scene_layers=6,
                scene_cells=64,
            ),
        }  # fmt: skip

    def fitted(self, windows: Sequence[Window]) -> Self:
        from geo4d_bench.model.batch import batch_from_windows, point_statistics

        config = super().fitted(windows)
        batch = batch_from_windows(windows)
        mean, scale = point_statistics(batch)
        motion = batch["hand"][:, :, -1] - batch["hand"][:, :, 0]
        hands = np.concatenate([transform(w.T_world_n, w.T_n_ee[..., :3, 3]).reshape(-1, 3) for w in windows])
        low, high = hands.min(0) - _MARGIN_M, hands.max(0) + _MARGIN_M
        centre = ((low + high) / 2).tolist()
        return dataclasses.replace(
            config,
            point_mean_m=mean,
            point_scale_m=scale,
            work_centre_m=(round(centre[0], 3), round(centre[1], 3), round(centre[2], 3)),
            work_half_m=round(float((high - low).max()) / 2, 3),
            motion_scale_m=round(max(0.02, float(motion.square().sum(-1).mean().sqrt())), 3),
        )

    @property
    def predicts_trajectory(self) -> bool:
        return not self.rgb_only

    @property
    def view_m_gets_ee(self) -> bool:
        """Whether every view, not only view n, is given where the end effectors are at first."""
        return not self.rgb_only and (self.calibrated or (self.cross_view_attention and self.shared_frame))

    @property
    def finds_cameras(self) -> bool:
        """Whether cameras have to be found in the scene."""
        return self.predicts_trajectory and self.shared_frame and not self.calibrated

    @property
    def weight_of_parts(self) -> float:
        """What a hand's pixel weighs in the loss of the part labels."""
        return self.part_weight if self.weight_gripper else 1.0

    @property
    def tokens(self) -> int:
        """Tokens of one view."""
        return (self.height // self.patch) * (self.width // self.patch)
