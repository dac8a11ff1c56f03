"""Stable Video Diffusion's networks: random ones of any size, or pretrained from a folder in diffusers' layout or from
the hub, safetensors only."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn

from geo4d_bench.errors import CheckpointError, ConfigError, explain
from geo4d_bench.model.checkpoint import disguise, not_finite
from geo4d_bench.model.video.config import AutoencoderSizes, ImageEncoderSizes, UNetConfig, UNetSizes, VideoConfig
from geo4d_bench.model.video.diffusion import EDM
from geo4d_bench.model.video.unet import ADDED_NUMBERS, svd_unet

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
"""The networks' folders, and how their weights are named there."""
PARTS = ("scheduler", "feature_extractor", *WEIGHTS)
_GIVE = (
    "give the whole folder of an image-to-video checkpoint of Stable Video Diffusion, in diffusers' layout with "
    "safetensors"
)

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

    Weights of full precision are taken where they are there, else those of ``fp16``; in one file or in shards.

    Raises:
        CheckpointError: something is missing there, is not in safetensors, not finite, or of another kind, or not
            sampled as :class:`EDM` does.
    """
    if not isinstance(config, UNetConfig) or config.pixels:
        raise CheckpointError(
            f"{source}: its networks work on latents of an autoencoder, the preset's are pixels; choose --preset svd"
        )
    _require_layout(Path(source))
    scheduler = _read(source, "scheduler", EulerDiscreteScheduler.load_config)
    _require(source, "scheduler", scheduler, {
        "prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True,
        "sigma_min": EDM.sigma_min, "sigma_max": EDM.sigma_max,
    })  # fmt: skip
    transformers = _import_transformers()
    images = _read(source, "feature_extractor", transformers.ImageProcessingMixin.get_image_processor_dict)[0]
    kinds = (UNetSpatioTemporalConditionModel, AutoencoderKLTemporalDecoder, transformers.CLIPVisionModelWithProjection)
    unet, vae, encoder = (_network(source, name, kind) for name, kind in zip(WEIGHTS, kinds, strict=True))
    latent, width = vae.config["latent_channels"], unet.config["addition_time_embed_dim"]
    _require(source, "unet", unet.config, {
        "in_channels": 2 * latent, "out_channels": latent, "transformer_layers_per_block": 1,
        "projection_class_embeddings_input_dim": ADDED_NUMBERS * width,
    })  # fmt: skip
    # Of the libraries' configs pydantic takes the fields that ours have, lists as tuples.
    sizes_of_unet = {**unet.config, "cross_view_heads": config.unet.cross_view_heads}
    sizes_of_encoder = encoder.config.to_dict() | {name: images.get(name) for name in ("image_mean", "image_std")}
    try:
        sized = dataclasses.replace(
            config,
            diffusion="edm",
            unet=TypeAdapter(UNetSizes).validate_python(sizes_of_unet),
            autoencoder=TypeAdapter(AutoencoderSizes).validate_python({**vae.config}),
            image_encoder=TypeAdapter(ImageEncoderSizes).validate_python(sizes_of_encoder),
        )
    except ValidationError as error:
        raise CheckpointError(
            f"{source}: a network has a size that is not known here ({explain(error)}); {_GIVE}"
        ) from None
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


def _require_layout(source: Path) -> None:
    """CheckpointError where a folder lacks a part, or a file is not what its name says, before anything is loaded."""
    if source.is_file():
        raise CheckpointError(f"{source}: is a file, expected a folder in diffusers' layout, with {', '.join(PARTS)}")
    if not source.is_dir():
        return
    if missing := [name for name in PARTS if not (source / name).is_dir()]:
        places = [source.absolute().parent, *sorted(source.glob("*")), *sorted(source.glob("snapshots/*"))]
        near = next((p for p in places if all((p / name).is_dir() for name in PARTS)), None)
        advice = (
            f"give {near}"
            if near
            else f"a checkpoint in diffusers' layout has {', '.join(PARTS)}: copy what is missing"
        )
        raise CheckpointError(f"{source}: there is no folder '{missing[0]}'; {advice}")
    for path in sorted(path for name in PARTS for path in (source / name).glob("*.json")):
        try:
            fault = disguise(path) or (
                "" if isinstance(json.loads(path.read_bytes()), dict) else "is no object of JSON; copy this file again"
            )
        except ValueError as error:
            fault = f"is not JSON ({error}); copy this file again"
        if fault:
            raise CheckpointError(f"{path}: {fault}")


def _network(source: Path | str, name: str, kind: Any) -> Any:
    """A network in float32, with all of its weights from its folder and nothing left over there."""
    options = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    read = functools.partial(_read, source, name, kind.from_pretrained, **options)
    if Path(source).is_dir():
        network, found = read(variant=_variant(Path(source) / name))
    else:
        try:
            network, found = read()
        except CheckpointError as error:
            try:
                network, found = read(variant="fp16")
            except CheckpointError:
                raise error from None
    faults = [
        *(f"'{key}' is missing" for key in sorted(found["missing_keys"])),
        *(f"'{key[0]}' is {tuple(key[1])}, expected {tuple(key[2])}" for key in sorted(found["mismatched_keys"])),
        *(f"there is '{key}', which the network has not" for key in sorted(found["unexpected_keys"])),
    ]
    if not faults and (bad := not_finite(network.state_dict())):
        faults = [f"'{bad}' has values that are not finite"]
    if faults:
        raise CheckpointError(f"{source}: of the tensors of {name}, {faults[0]}; {_GIVE}")
    return network.float()


def _variant(folder: Path) -> str | None:
    """Which of the weights in a network's folder are read: None, those of full precision, or ``fp16``."""
    stem = WEIGHTS[folder.name]
    weights = sorted(folder.glob(f"{stem}*.safetensors"))
    for variant in (None, "fp16"):
        own = [path for path in weights if ("fp16" in path.name) == (variant == "fp16")]
        if own and not any(map(disguise, own)):
            for path in own:
                try:
                    with safe_open(path, "pt"):  # checks the size too
                        pass
                except (SafetensorError, OSError) as error:
                    raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy it again") from None
            return variant
    if weights:
        raise CheckpointError(f"{weights[0]}: {disguise(weights[0])}")
    pickled = sorted(path for path in folder.iterdir() if path.suffix in (".bin", ".ckpt", ".pt", ".pth"))
    advice = "copy it there"
    if pickled:
        advice = (
            f'there is {pickled[0].name}, which is pickled and never read; convert it: python -c "import torch, '
            f"safetensors.torch as s; s.save_file(torch.load('{pickled[0]}', weights_only=True), "
            f"'{folder / stem}.safetensors', {{'format': 'pt'}})\""
        )
    raise CheckpointError(f"{folder}: no file named {stem}.safetensors or {stem}.fp16.safetensors; {advice}")


@contextmanager
def _quiet() -> Iterator[None]:
    """What the libraries warn of, a line for every tensor, is an error here and said in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _read(source: Path | str, name: str, read: Callable[..., Any], **options: Any) -> Any:
    try:
        with _quiet():
            return read(str(source), subfolder=name, **options)
    except Exception as error:  # each library, and safetensors, raise types of their own for what is missing or cut off
        why = str(error).splitlines()[0]
        if Path(source).is_dir():
            raise CheckpointError(f"{source}: {name} cannot be read ({why}); {_GIVE}") from None
        raise CheckpointError(
            f"{source}: no such folder, and as a hub id its {name} cannot be read ({why}); give a hub id that can be "
            "reached or is in the hub's cache, or a folder in diffusers' layout with safetensors"
        ) from None


def _require(source: Path | str, name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise CheckpointError(f"{source}: {name} has {key} = {found.get(key)!r}, expected {value!r}; {_GIVE}")
