"""Stable Video Diffusion's networks: random ones of any size, or pretrained from a folder in diffusers' layout or from
the hub, safetensors only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from pydantic import TypeAdapter
from torch import nn

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.model.video.config import AutoencoderSizes, ImageEncoderSizes, UNetConfig, UNetSizes, VideoConfig
from geo4d_bench.model.video.diffusion import EDM
from geo4d_bench.model.video.unet import ADDED_NUMBERS, svd_unet

Networks = tuple[nn.Module, nn.Module | None, nn.Module | None]
"""U-Net, autoencoder and image encoder; the last two are None where latents are pixels."""


def random_networks(c: UNetConfig) -> Networks:
    """Networks of the config's sizes with random weights; ConfigError where transformers is wanted and missing."""
    unet = svd_unet(c.unet, c.channels, c.frames)
    if c.pixels:
        return unet, None, None
    blocks = ("DownEncoderBlock2D",) * len(c.autoencoder.block_out_channels)
    autoencoder = AutoencoderKLTemporalDecoder(down_block_types=blocks, **dataclasses.asdict(c.autoencoder))
    transformers = _import_transformers()
    clip = transformers.CLIPVisionConfig(**dataclasses.asdict(c.image_encoder))
    return unet, autoencoder, transformers.CLIPVisionModelWithProjection(clip)


def load_svd(source: Path | str, config: VideoConfig) -> tuple[UNetConfig, Networks]:
    """``config`` with the sizes of the networks in ``source``, and these, float32, with their weights.

    Raises:
        CheckpointError: something is missing there, is not in safetensors, or of another kind, or not sampled as
            :class:`EDM` does.
    """
    if not isinstance(config, UNetConfig) or config.pixels:
        raise CheckpointError(
            f"{source}: its networks work on latents of an autoencoder, the preset's are pixels; choose --preset svd"
        )
    scheduler = _read(source, "scheduler", EulerDiscreteScheduler.load_config)
    _require(source, "scheduler", scheduler, {
        "prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True,
        "sigma_min": EDM.sigma_min, "sigma_max": EDM.sigma_max,
    })  # fmt: skip
    transformers = _import_transformers()
    images = _read(source, "feature_extractor", transformers.ImageProcessingMixin.get_image_processor_dict)[0]
    kinds = (UNetSpatioTemporalConditionModel, AutoencoderKLTemporalDecoder, transformers.CLIPVisionModelWithProjection)
    unet, vae, encoder = (
        _read(source, name, kind.from_pretrained, use_safetensors=True).float()
        for name, kind in zip(("unet", "vae", "image_encoder"), kinds, strict=True)
    )
    latent, width = vae.config["latent_channels"], unet.config["addition_time_embed_dim"]
    _require(source, "unet", unet.config, {
        "in_channels": 2 * latent, "out_channels": latent, "transformer_layers_per_block": 1,
        "projection_class_embeddings_input_dim": ADDED_NUMBERS * width,
    })  # fmt: skip
    # Of the libraries' configs pydantic takes the fields that ours have, lists as tuples.
    sizes_of_unet = {**unet.config, "cross_view_heads": config.unet.cross_view_heads}
    sizes_of_encoder = encoder.config.to_dict() | {name: images[name] for name in ("image_mean", "image_std")}
    sized = dataclasses.replace(
        config,
        diffusion="edm",
        unet=TypeAdapter(UNetSizes).validate_python(sizes_of_unet),
        autoencoder=TypeAdapter(AutoencoderSizes).validate_python({**vae.config}),
        image_encoder=TypeAdapter(ImageEncoderSizes).validate_python(sizes_of_encoder),
    )
    return sized, (unet, vae, encoder)


def _import_transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "Stable Video Diffusion's image encoder needs transformers, which is not installed; "
            "pip install 'geo4d-bench[svd]'"
        ) from None
    return transformers


def _read(source: Path | str, name: str, read: Callable[..., Any], **options: Any) -> Any:
    try:
        return read(str(source), subfolder=name, **options)
    except Exception as error:  # each library, and safetensors, raise types of their own for what is missing or cut off
        copied = Path(source).is_dir()
        advice = "copy it again" if copied else "give a hub id that can be reached or is in the hub's cache"
        raise CheckpointError(
            f"{source}: {'' if copied else 'no such folder, and as a hub id its '}{name} cannot be read "
            f"({str(error).splitlines()[0]}); {advice}, or give a folder in diffusers' layout with safetensors"
        ) from None


def _require(source: Path | str, name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise CheckpointError(
                f"{source}: {name} has {key} = {found.get(key)!r}, expected {value!r}; "
                "give an image-to-video checkpoint of Stable Video Diffusion"
            )
