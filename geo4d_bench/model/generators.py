"""The generators by name, their presets, and their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.io import read_json
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.registry import Registry

if TYPE_CHECKING:
    from geo4d_bench.model.base import Generator

Device = Literal["cpu", "cuda"]

GENERATORS: Registry[type[GeneratorConfig]] = Registry(
    "generator",
    group="geo4d_bench.generators",
    builtin={
        "layered": "geo4d_bench.model.layered.config:LayeredConfig",
        "unet": "geo4d_bench.model.video.config:UNetConfig",
        "dit": "geo4d_bench.model.video.config:DiTConfig",
    },
)
"""Config classes by their ``name``."""


def presets() -> Registry[GeneratorConfig]:
    """The presets of all generators."""
    found: Registry[GeneratorConfig] = Registry("preset")
    for _, config in GENERATORS.items():
        for name, preset in config.presets().items():
            found.register(name, preset)
    return found


def find_config(name: str) -> GeneratorConfig:
    """A preset by its name (else UnknownNameError), or the config in a file NAME.json, as a checkpoint has one;
    ConfigError where the file is missing or holds something else."""
    return _read_config(Path(name)) if name.endswith(".json") else presets().get(name)


def _read_config(path: Path) -> GeneratorConfig:
    try:
        values = read_json(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error})") from None
    if not isinstance(values, dict) or not isinstance(values.get("generator"), str):
        raise ConfigError(f"{path}: names no generator, as the config of a checkpoint does")
    try:
        return GENERATORS.get(values.pop("generator")).from_values(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def load_generator(folder: Path, device: Device = "cpu") -> Generator[Any]:
    """The generator saved in ``folder``, in evaluation mode; CheckpointError where it is missing, not whole, or of
    another version, ConfigError where there is no such device."""
    from geo4d_bench.model.checkpoint import CONFIG_NAME, existing, load_weights

    check_device(device)
    path = existing(folder, CONFIG_NAME)
    try:
        config = _read_config(path)
    except ConfigError as error:
        raise CheckpointError(f"{error}; train again with this version") from None
    generator = config.build()
    load_weights(folder, generator)
    return generator.to(device).eval()


def check_device(device: Device) -> None:
    """ConfigError where there is no such device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here ('geo4d-bench doctor' tells more); use --device cpu")
