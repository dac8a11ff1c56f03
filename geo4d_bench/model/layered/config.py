"""Sizes and settings of the layered generator, and its presets. No torch here, so that presets are listed at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from geo4d_bench.errors import ConfigError
from geo4d_bench.geometry.se3 import transform
from geo4d_bench.model.config import GeneratorConfig

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window

_MARGIN_M = 0.15  # about where grippers go: what they reach for is no farther


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(GeneratorConfig):
    """See :class:`~geo4d_bench.model.config.GeneratorConfig`."""

    name = "layered"
    generator = "geo4d_bench.model.layered.generator:LayeredGenerator"
    policy = "layered"
    gradient_clip = 4.0

    dim: int  # of a token
    heads: int  # of attention
    trunk_layers: int  # blocks shared by the views
    decoder_layers: int  # blocks that each view has to itself
    patch: int = 8  # a token is patch x patch pixels of all T frames of one view
    pure_noise_share: float = 0.7  # of the training samples, where one-step generation works
    loss_frames: int = 3  # whose pixels a training step looks at, drawn anew each time: neighbours are nearly alike
    hand_weight: float = 4.0  # added loss weight of pixels within hand_dilation of a hand
    hand_dilation: int = 2  # pixels
    part_weight: float = 16.0  # of hand pixels, less than 1 % of an image, in the loss of the part labels
    part_odds: float = (
        3.0  # a pixel is hand where its probability times this exceeds the others': above 1 shows uncertain ones
    )
    point_mean_m: tuple[float, float, float] = (0.0, 0.0, 0.8)  # points in a camera's frame, (p - mean) / scale
    point_scale_m: float = 0.3
    work_centre_m: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the cube in the world in which hands work
    work_half_m: float = 0.5  # half its edge
    scene_layers: int = 3  # blocks that predict the hands' motion from orthographic pictures of that cube
    scene_cells: int = 32  # of such a picture along an edge, a multiple of 8
    motion_scale_m: float = 0.1  # unit of the hands' predicted motion

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.dim, self.heads, self.patch, self.decoder_layers, self.loss_frames) < 1 or self.trunk_layers < 0:
            raise ConfigError("generator: dim, heads, patch, decoder_layers and loss_frames must be at least 1")
        if self.height % self.patch or self.width % self.patch:
            raise ConfigError(
                f"generator: {self.height} x {self.width} pixels don't divide into patches of {self.patch}; "
                "choose multiples of the patch"
            )
        if self.dim % self.heads or self.dim % 2:
            raise ConfigError(f"generator: dim {self.dim} does not divide into {self.heads} heads, or is not even")
        if not (0.0 <= self.pure_noise_share <= 1.0):
            raise ConfigError(f"generator: pure_noise_share is {self.pure_noise_share}, expected 0 to 1")
        scales = (self.point_scale_m, self.motion_scale_m, self.work_half_m, self.part_weight, self.part_odds)
        if min(scales) <= 0 or min(self.hand_weight, self.hand_dilation) < 0:
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
        x, y, z = ((low + high) / 2).tolist()
        return dataclasses.replace(
            config,
            point_mean_m=mean,
            point_scale_m=scale,
            work_centre_m=(round(x, 3), round(y, 3), round(z, 3)),
            work_half_m=round(float((high - low).max()) / 2, 3),
            motion_scale_m=round(max(0.02, float(motion.square().sum(-1).mean().sqrt())), 3),
        )

    @property
    def predicts_trajectory(self) -> bool:
        return not self.rgb_only

    @property
    def view_m_gets_ee(self) -> bool:
        """Whether every view, not only view n, is given the end effectors' initial positions."""
        return not self.rgb_only and (self.calibrated or (self.cross_view_attention and self.shared_frame))

    @property
    def finds_cameras(self) -> bool:
        """Whether cameras have to be found in the scene."""
        return self.predicts_trajectory and self.shared_frame and not self.calibrated

    @property
    def weight_of_parts(self) -> float:
        """Weight of a hand's pixel in the loss of the part labels."""
        return self.part_weight if self.weight_gripper else 1.0

    @property
    def tokens(self) -> int:
        """Tokens of one view."""
        return (self.height // self.patch) * (self.width // self.patch)
