"""Stable Video Diffusion's weights from a folder in diffusers' layout, or from the hub; safetensors only.

The layout: ``unet/``, ``vae/``, ``image_encoder/``, ``scheduler/``, ``feature_extractor/``, each with its JSON config.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from torch import nn

from geo4d_bench.errors import CheckpointError
from geo4d_bench.model.video.conditioning import import_transformers
from geo4d_bench.model.video.config import AutoencoderSizes, ImageEncoderSizes, UNetSizes, VideoConfig
from geo4d_bench.model.video.diffusion import EDM
from geo4d_bench.model.video.unet import ADDED_NUMBERS

_LAYOUT = {
    "unet": ("config.json", "diffusion_pytorch_model"),
    "vae": ("config.json", "diffusion_pytorch_model"),
    "image_encoder": ("config.json", "model"),
    "scheduler": ("scheduler_config.json", None),
    "feature_extractor": ("preprocessor_config.json", None),
}
_SCHEDULE = {
    "prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True,
    "sigma_min": EDM.sigma_min, "sigma_max": EDM.sigma_max,
}  # fmt: skip


def with_sizes_of(source: Path | str, config: VideoConfig) -> VideoConfig:
    """``config`` with the sizes of the networks in ``source``, which must be sampled as :class:`EDM` does.

    Raises:
        CheckpointError: something is missing there or of another kind.
    """
    if config.pixels:
        raise CheckpointError(
            f"{source}: its networks work on latents of an autoencoder, the preset's are pixels; choose --preset svd"
        )
    folder = _folder(source)
    unet = _read(source, "unet", UNetSpatioTemporalConditionModel.load_config, folder)
    vae = _read(source, "vae", AutoencoderKLTemporalDecoder.load_config, folder)
    scheduler = _read(source, "scheduler", EulerDiscreteScheduler.load_config, folder)
    transformers = import_transformers()
    clip = _read(source, "image_encoder", transformers.CLIPVisionConfig.from_pretrained, folder).to_dict()
    images = _read(source, "feature_extractor", transformers.ImageProcessingMixin.get_image_processor_dict, folder)[0]
    for key, expected in _SCHEDULE.items():
        if scheduler.get(key) != expected:
            raise CheckpointError(
                f"{source}: scheduler has {key} = {scheduler.get(key)!r}, expected {expected!r}; "
                "give a checkpoint of Stable Video Diffusion"
            )
    latent = vae["latent_channels"]
    width = unet["addition_time_embed_dim"]
    wanted = {
        "in_channels": 2 * latent, "out_channels": latent, "transformer_layers_per_block": 1,
        "projection_class_embeddings_input_dim": ADDED_NUMBERS * width,
    }  # fmt: skip
    for key, value in wanted.items():
        if unet[key] != value:
            raise CheckpointError(
                f"{source}: unet has {key} = {unet[key]!r}, expected {value!r}; give an image-to-video checkpoint"
            )
    heads = config.unet.cross_view_heads
    return dataclasses.replace(
        config,
        diffusion="edm",
        unet=UNetSizes(**_taken(UNetSizes, unet, cross_view_heads=heads)),
        autoencoder=AutoencoderSizes(**_taken(AutoencoderSizes, vae)),
        image_encoder=ImageEncoderSizes(
            **_taken(
                ImageEncoderSizes, clip, image_mean=tuple(images["image_mean"]), image_std=tuple(images["image_std"])
            )
        ),
    )


@dataclass(frozen=True)
class Parts:
    """The networks that may come pretrained; autoencoder and image encoder are None where latents are pixels."""

    unet: nn.Module
    autoencoder: nn.Module | None
    image_encoder: nn.Module | None


def load_parts(source: Path | str) -> Parts:
    """U-Net, autoencoder and image encoder of ``source``, float32, with their weights.

    Raises:
        CheckpointError: something is missing there, or is not in safetensors.
    """
    folder = _folder(source)
    networks = {
        "unet": UNetSpatioTemporalConditionModel,
        "vae": AutoencoderKLTemporalDecoder,
        "image_encoder": import_transformers().CLIPVisionModelWithProjection,
    }
    unet, vae, encoder = (
        _read(source, name, kind.from_pretrained, folder, use_safetensors=True).float()
        for name, kind in networks.items()
    )
    return Parts(unet, vae, encoder)


def _folder(source: Path | str) -> str:
    """The source as the libraries take it; CheckpointError where a local folder lacks something."""
    folder = Path(source)
    if not folder.is_dir():
        if isinstance(source, Path):
            raise CheckpointError(f"{source}: no such folder; give Stable Video Diffusion in diffusers' layout")
        return source
    for name, (config, weights) in _LAYOUT.items():
        if not (folder / name / config).is_file():
            raise CheckpointError(
                f"{folder / name / config}: no such file; give Stable Video Diffusion in diffusers' layout, "
                f"with {', '.join(_LAYOUT)}"
            )
        if weights is not None and not list((folder / name).glob(f"{weights}*.safetensors*")):
            raise CheckpointError(
                f"{folder / name / weights}.safetensors: no such file; only safetensors are read, so convert other "
                "weights with the library's save_pretrained"
            )
    return str(folder)


def _read(source: Path | str, name: str, read: Any, folder: str, **options: Any) -> Any:
    try:
        return read(folder, subfolder=name, **options)
    except Exception as error:  # each library, and safetensors, raise types of their own for what is missing or cut off
        copied = Path(folder).is_dir()
        advice = "copy it again" if copied else "give a hub id that can be reached or is in the hub's cache"
        raise CheckpointError(
            f"{source}: {'' if copied else 'no such folder, and as a hub id its '}{name} cannot be read "
            f"({str(error).splitlines()[0]}); {advice}, or give a folder in diffusers' layout"
        ) from None


def _taken(kind: Any, values: Any, **known: Any) -> dict[str, Any]:
    """The fields of a dataclass out of a library's config, lists as tuples."""
    taken = {f.name: values[f.name] for f in dataclasses.fields(kind) if f.name not in known}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in taken.items()} | known
