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
    """What both backbones share, see :class:`~geo4d_bench.model.config.GeneratorConfig`.

    Attributes:
        diffusion: ``edm`` or ``rectified_flow``.  pure_noise_share: of the latter's training samples.
        condition_dropout: share of the training samples without image embedding, and, drawn anew, without first
            frames' latents.
        hand_weight: added loss weight of cells on or near a hand.  hand_dilation: how near, in cells.
        point_weight: of points' errors, against those of colours and labels.
        opening_weight, hand_point_weight: added loss weights, not with an autoencoder, of how far a gripper is open and
            of where its points are, on its pixels.  centre_weight, change_weight: of what is read there together: where
            the gripper's centre is in each view, and how much farther it is open than in the first frame.
        paint_fingers: whether labels tell the fingers apart. Where they are less than a pixel wide they cannot be.
        point_mean_m, point_scale_m: points p are seen as (p - mean) / scale; by default -1 to 2 m become -1 to 1.
        patch: side in pixels of a cell, whose pixels are its latents; with an autoencoder not used.
        sample_steps: as in every generator; one step of the rectified flow would give the mean of what could happen.
    """

    generator = "geo4d_bench.model.video.generator:VideoGenerator"
    policy = "geo4d"

    diffusion: Literal["edm", "rectified_flow"] = "rectified_flow"
    pure_noise_share: float = 0.7
    condition_dropout: float = 0.0
    hand_weight: float = 4.0
    hand_dilation: int = 1
    point_weight: float = 1.0
    opening_weight: float = 30.0
    hand_point_weight: float = 20.0
    centre_weight: float = 0.25
    change_weight: float = 0.1
    paint_fingers: bool = True
    point_mean_m: tuple[float, float, float] = (0.5, 0.5, 0.5)
    point_scale_m: float = 1.5
    patch: int = 8
    sample_steps: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            self.patch < 1
            or self.point_scale_m <= 0
            or not 0.0 <= self.condition_dropout < 1.0
            or not 0.0 <= self.pure_noise_share <= 1.0
            or min(self.hand_weight, self.hand_dilation) < 0
            or min(self.opening_weight, self.hand_point_weight, self.centre_weight, self.change_weight) < 0
        ):
            raise ConfigError(
                "generator: patch must be at least 1, point_scale_m positive, condition_dropout and "
                "pure_noise_share in 0..1, hand_dilation and the other weights not negative"
            )
        if self.arms > 2:
            raise ConfigError(f"generator: {self.arms} arms; its part labels are of at most 2")

    def fitted(self, windows: Sequence[Window]) -> Self:
        """Points keep the preset's normalisation where an autoencoder expects it."""
        config = super().fitted(windows)
        if not self.pixels:
            return config
        from geo4d_bench.model.batch import batch_from_windows, point_statistics

        mean, scale = point_statistics(batch_from_windows(windows))
        return dataclasses.replace(config, point_mean_m=mean, point_scale_m=scale)

    @property
    def pixels(self) -> bool:
        """Whether cells of pixels are the latents, and there is neither autoencoder nor CLIP."""
        return True

    @property
    def needs_pretrained(self) -> bool:
        return not self.pixels

    @property
    def cell(self) -> int:
        """Pixels along the side of a latent cell."""
        return self.patch

    @property
    def channels(self) -> int:
        """Channels of one image's latents."""
        return 3 * self.patch**2


@dataclass(frozen=True, kw_only=True)
class UNetConfig(VideoConfig):
    """With Stable Video Diffusion's U-Net.

    Attributes:
        latent: ``autoencoder`` (Stable Video Diffusion's, frozen, with a frozen CLIP image encoder) or ``pixels``:
            cells of ``patch`` x ``patch`` pixels are the latents, and the image embedding is learned: for training from
            scratch.
        gradient_checkpointing: whether training computes layers anew instead of remembering them.
    """

    name = "unet"

    latent: Literal["autoencoder", "pixels"] = "pixels"
    gradient_checkpointing: bool = False
    unet: UNetSizes = UNetSizes()
    autoencoder: AutoencoderSizes = AutoencoderSizes()
    image_encoder: ImageEncoderSizes = ImageEncoderSizes()

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.unet
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
            height=64, width=80, unet=UNetSizes(
                block_out_channels=(64, 128), num_attention_heads=(1, 2), layers_per_block=1, cross_attention_dim=64,
                addition_time_embed_dim=32, cross_view_heads=1,
            ),
        )  # fmt: skip
        debug = cls(
            height=16, width=24, frames=3, patch=4, hand_weight=1.0, hand_dilation=2, unet=UNetSizes(
                block_out_channels=(32, 64), num_attention_heads=(1, 1), layers_per_block=1, cross_attention_dim=16,
                addition_time_embed_dim=8, cross_view_heads=1,
            ),
        )  # fmt: skip
        papers = cls(
            height=256, width=320, latent="autoencoder", diffusion="edm", sample_steps=25, condition_dropout=0.1,
            hand_weight=1.0, hand_dilation=2, gradient_checkpointing=True,
        )  # fmt: skip
        return {"unet_debug": debug, "unet_nano": from_scratch, "svd": papers}

    @property
    def pixels(self) -> bool:
        return self.latent == "pixels"

    @property
    def cell(self) -> int:
        return self.patch if self.pixels else 2 ** (len(self.autoencoder.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        return super().channels if self.pixels else self.autoencoder.latent_channels


@dataclass(frozen=True, kw_only=True)
class DiTConfig(VideoConfig):
    """With a video transformer, for training from scratch; a token is a cell of one frame of one view.

    Attributes:
        dim: width of a token.  heads: of attention.
        trunk_layers: shared by the views.  decoder_layers: that each view has to itself.
        loss_frames: how many of the video's frames a training step denoises, drawn anew for each.
    """

    name = "dit"

    dim: int
    heads: int
    trunk_layers: int
    decoder_layers: int
    loss_frames: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.height % self.patch or self.width % self.patch:
            raise ConfigError(
                f"generator: {self.height} x {self.width} pixels don't divide into patches of {self.patch}; "
                "choose multiples of the patch"
            )
        if self.patch < 2 or self.patch & (self.patch - 1):
            raise ConfigError(f"generator: patch is {self.patch}, expected 2 or a higher power of 2")
        if self.diffusion != "rectified_flow":
            raise ConfigError("generator: the transformer predicts clean video; its diffusion is rectified_flow")
        if (
            min(self.dim, self.heads, self.decoder_layers, self.loss_frames) < 1
            or self.trunk_layers < 0
            or self.dim % self.heads
        ):
            raise ConfigError(
                f"generator: dim {self.dim}, heads {self.heads}, trunk_layers {self.trunk_layers}, decoder_layers "
                f"{self.decoder_layers}, loss_frames {self.loss_frames}; all but trunk_layers must be at least 1, and "
                "heads divide dim"
            )

    @classmethod
    def presets(cls) -> dict[str, Self]:
        return {
            "dit_debug": cls(
                height=16, width=24, frames=3, patch=4, dim=32, heads=2, trunk_layers=3, decoder_layers=2,
            ),
            "dit_nano": cls(
                height=32, width=40, patch=8, dim=192, heads=3, trunk_layers=4, decoder_layers=2, loss_frames=2,
                point_weight=2.0, paint_fingers=False,
            ),
            "dit": cls(height=64, width=80, dim=320, heads=5, trunk_layers=6, decoder_layers=2),
            "dit_large": cls(height=128, width=160, dim=512, heads=8, trunk_layers=8, decoder_layers=4),
        }  # fmt: skip
