"""Sizes and settings of the video generator. No torch here, so that presets can be listed at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from geo4d_bench.errors import ConfigError
from geo4d_bench.model.config import GeneratorConfig

if TYPE_CHECKING:
    from geo4d_bench.dataset.types import Window


@dataclass(frozen=True)
class UNetSizes:
    """Of diffusers' ``UNetSpatioTemporalConditionModel``; the defaults are Stable Video Diffusion's.

    Attributes:
        block_out_channels, num_attention_heads: of each level; attention is in all but the last.
        layers_per_block: of the encoder; the decoders have one more.
        cross_attention_dim: width of the image embedding.
        addition_time_embed_dim: width of each added number (frame rate, motion, noise) in the time embedding.
        cross_view_heads: of 64 each.
    """

    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    num_attention_heads: tuple[int, ...] = (5, 10, 20, 20)
    layers_per_block: int = 2
    cross_attention_dim: int = 1024
    addition_time_embed_dim: int = 256
    cross_view_heads: int = 8


@dataclass(frozen=True)
class AutoencoderSizes:
    """Of diffusers' ``AutoencoderKLTemporalDecoder``; it makes images smaller by 2 ** (levels - 1)."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    scaling_factor: float = 0.18215


@dataclass(frozen=True)
class ImageEncoderSizes:
    """Of transformers' ``CLIPVisionModelWithProjection`` (ViT-H/14), and how it wants its images."""

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    projection_dim: int = 1024
    hidden_act: str = "gelu"
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class VideoConfig(GeneratorConfig):
    """See :class:`~geo4d_bench.model.config.GeneratorConfig`.

    Attributes:
        latent: ``autoencoder`` (Stable Video Diffusion's, frozen, with a frozen CLIP image encoder) or ``pixels``:
            cells of ``patch`` x ``patch`` pixels are the latents, and the image embedding is learned: for training from
            scratch.
        diffusion: ``edm`` or ``rectified_flow``.
        condition_dropout: share of the training samples without image embedding, and, drawn anew, without first
            frames' latents.
        hand_weight: added loss weight of cells on or near a hand.  hand_dilation: how near, in cells.
        point_mean_m, point_scale_m: points p are seen as (p - mean) / scale; by default -1 to 2 m become -1 to 1.
        gradient_checkpointing: whether training computes layers anew instead of remembering them.
    """

    name = "unet"
    generator = "geo4d_bench.model.video.generator:VideoGenerator"
    policy = "geo4d"

    latent: Literal["autoencoder", "pixels"] = "autoencoder"
    diffusion: Literal["edm", "rectified_flow"] = "edm"
    sample_steps: int = 25
    condition_dropout: float = 0.1
    hand_weight: float = 1.0
    hand_dilation: int = 2
    point_mean_m: tuple[float, float, float] = (0.5, 0.5, 0.5)
    point_scale_m: float = 1.5
    patch: int = 4
    gradient_checkpointing: bool = False
    unet: UNetSizes = UNetSizes()
    autoencoder: AutoencoderSizes = AutoencoderSizes()
    image_encoder: ImageEncoderSizes = ImageEncoderSizes()

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.unet
        if (
            self.patch < 1
            or self.point_scale_m <= 0
            or not 0.0 <= self.condition_dropout < 1.0
            or min(self.hand_weight, self.hand_dilation) < 0
        ):
            raise ConfigError(
                "generator: patch must be at least 1, point_scale_m positive, condition_dropout in 0..1, hand_weight "
                "and hand_dilation not negative"
            )
        cells = self.cell * 2 ** (len(sizes.block_out_channels) - 1)
        if self.height % cells or self.width % cells:
            raise ConfigError(
                f"generator: {self.height} x {self.width} pixels don't divide by {cells}, the side of the "
                "U-Net's largest cell; choose multiples of it"
            )
        if len(sizes.num_attention_heads) != len(sizes.block_out_channels) or sizes.cross_view_heads < 0:
            raise ConfigError(
                f"generator: {len(sizes.block_out_channels)} block_out_channels, "
                f"{len(sizes.num_attention_heads)} num_attention_heads and cross_view_heads {sizes.cross_view_heads}; "
                "give each level a number of heads, and 0 or more heads between the views"
            )
        if any(width % 32 or width < 32 for width in sizes.block_out_channels):
            raise ConfigError(f"generator: block_out_channels are {sizes.block_out_channels}; give multiples of 32")
        if not self.pixels and self.image_encoder.projection_dim != sizes.cross_attention_dim:
            raise ConfigError(
                f"generator: the image encoder's projection_dim is {self.image_encoder.projection_dim}, the U-Net's "
                f"cross_attention_dim {sizes.cross_attention_dim}; they must be equal"
            )

    @classmethod
    def presets(cls) -> dict[str, Self]:
        # diffusers normalises 32 groups of channels: with 32 channels each would be normalised by itself.
        from_scratch = cls(
            height=64, width=80, latent="pixels", diffusion="rectified_flow", sample_steps=1, condition_dropout=0.0,
            hand_weight=4.0, hand_dilation=1, patch=8, unet=UNetSizes(
                block_out_channels=(64, 128), num_attention_heads=(1, 2), layers_per_block=1, cross_attention_dim=64,
                addition_time_embed_dim=32, cross_view_heads=1,
            ),
        )  # fmt: skip
        debug = cls(
            height=16, width=24, frames=3, latent="pixels", diffusion="rectified_flow", sample_steps=1,
            condition_dropout=0.0, unet=UNetSizes(
                block_out_channels=(32, 64), num_attention_heads=(1, 1), layers_per_block=1, cross_attention_dim=16,
                addition_time_embed_dim=8, cross_view_heads=1,
            ),
        )  # fmt: skip
        papers = cls(height=256, width=320, gradient_checkpointing=True)
        return {"unet_debug": debug, "unet_nano": from_scratch, "svd": papers}

    def fitted(self, windows: Sequence[Window]) -> Self:
        """Points keep the preset's normalisation where an autoencoder expects it."""
        config = super().fitted(windows)
        if not self.pixels:
            return config
        from geo4d_bench.model.batch import batch_from_windows, point_statistics

        mean, scale = point_statistics(batch_from_windows(windows))
        return dataclasses.replace(config, point_mean_m=mean, point_scale_m=scale)

    @property
    def needs_pretrained(self) -> bool:
        return not self.pixels

    @property
    def pixels(self) -> bool:
        """Whether there is neither autoencoder nor CLIP."""
        return self.latent == "pixels"

    @property
    def cell(self) -> int:
        """Pixels along the side of a latent cell."""
        return self.patch if self.pixels else 2 ** (len(self.autoencoder.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Channels of one image's latents."""
        return 3 * self.patch**2 if self.pixels else self.autoencoder.latent_channels
