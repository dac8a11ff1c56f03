"""The two backbones behind one door: ``tokens``, a video transformer, and ``unet``, Stable Video Diffusion's.

Both generators are a :class:`~geo4d_bench.model.base.BaseGenerator`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from geo4d_bench.errors import ConfigError
from geo4d_bench.model import config as tokens
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.latent_config import DEBUG_UNET, NANO_UNET, SVD, LatentConfig
from geo4d_bench.registry import Registry

if TYPE_CHECKING:
    from geo4d_bench.model.generator import Generator
    from geo4d_bench.model.latent import LatentGenerator

AnyGenerator: TypeAlias = "Generator | LatentGenerator"
AnyConfig: TypeAlias = GeneratorConfig | LatentConfig
Device = Literal["cpu", "cuda"]

PRESETS: Registry[AnyConfig] = Registry("preset")
"""Those of both backbones."""
for _name in tokens.PRESETS:
    PRESETS.register(_name, tokens.PRESETS.get(_name))
PRESETS.register("debug_unet", DEBUG_UNET)
PRESETS.register("nano_unet", NANO_UNET)
PRESETS.register("svd", SVD)


def find_config(name: str) -> AnyConfig:
    """A preset by its name, or the config in a file NAME.json, as a checkpoint has one.

    Raises:
        UnknownNameError: there is no such preset.
        ConfigError: the file is missing or holds something else.
    """
    if not name.endswith(".json"):
        return PRESETS.get(name)
    from geo4d_bench.model.checkpoint import read_config

    return read_config(Path(name))


def make_generator(config: AnyConfig, pretrained: str | None = None) -> AnyGenerator:
    """An untrained generator of the config's backbone, or one to fine-tune.

    Args:
        config: sizes and settings.
        pretrained: Stable Video Diffusion, a folder in diffusers' layout or a hub id; the networks take its sizes.

    Raises:
        CheckpointError: something is missing in ``pretrained``.
        ConfigError: the backbone cannot take such weights.
    """
    if isinstance(config, LatentConfig):
        from geo4d_bench.model.latent import LatentGenerator

        return LatentGenerator(config) if pretrained is None else LatentGenerator.from_svd(pretrained, config)
    if pretrained is not None:
        raise ConfigError("the backbone 'tokens' takes no pretrained weights; choose --preset svd")
    from geo4d_bench.model.generator import Generator

    return Generator(config)


def check_device(device: Device) -> None:
    """ConfigError where there is no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here ('geo4d-bench doctor' tells more); use --device cpu")


def load_generator(folder: Path, device: Device = "cpu") -> AnyGenerator:
    """The generator saved in ``folder``, in evaluation mode.

    Raises:
        CheckpointError: it is missing or not whole.
        ConfigError: there is no such device.
    """
    from geo4d_bench.model.checkpoint import load_config

    check_device(device)
    if isinstance(load_config(folder), LatentConfig):
        from geo4d_bench.model.latent import LatentGenerator

        return LatentGenerator.from_pretrained(folder, device)
    from geo4d_bench.model.generator import Generator

    return Generator.from_pretrained(folder, device)
