"""Checkpoint folders: ``config.json`` + ``model.safetensors``. Files are written aside and renamed: a file that
exists is whole, and a full disk costs nothing that was there before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geo4d_bench.errors import CheckpointError, ConfigError
from geo4d_bench.model.config import GeneratorConfig
from geo4d_bench.model.latent_config import LatentConfig

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def checkpoint_sha256(folder: Path) -> str:
    """64 hex digits over config and weights, the name of a checkpoint in ledgers."""
    digest = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        digest.update(_existing(folder, name).read_bytes())
    return digest.hexdigest()


def save_checkpoint(folder: Path, config: GeneratorConfig | LatentConfig, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint; CheckpointError where the disk refuses, and what was there stays."""
    write_tensors(folder / WEIGHTS_NAME, weights)
    write_aside(folder / CONFIG_NAME, config.to_json().encode())


def load_config(folder: Path) -> GeneratorConfig | LatentConfig:
    """The config of a checkpoint folder, of the backbone that it names (tokens where it names none).

    Raises:
        CheckpointError: there is none or it is of another kind.
    """
    path = _existing(folder, CONFIG_NAME)
    try:
        return read_config(path)
    except ConfigError as error:
        raise CheckpointError(f"{error}; train again with this version") from None


def read_config(path: Path) -> GeneratorConfig | LatentConfig:
    """The config in a JSON file, as a checkpoint has one; ConfigError where there is none or it is of another kind."""
    try:
        text = path.read_text()
        return LatentConfig.from_json(text) if _backbone(text) == "unet" else GeneratorConfig.from_json(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None


def load_weights(folder: Path, module: nn.Module) -> None:
    """Fill a module from ``model.safetensors``; CheckpointError where names, shapes or bytes don't fit."""
    path = _existing(folder, WEIGHTS_NAME)
    weights = read_tensors(path)
    expected = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    got = {k: tuple(v.shape) for k, v in weights.items()}
    wrong = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
    if wrong:
        raise CheckpointError(
            f"{path}: '{wrong[0]}' is {got.get(wrong[0], 'missing')}, config.json asks for "
            f"{expected.get(wrong[0], 'no such tensor')} ({len(wrong)} such tensors); the files are of different models"
        )
    module.load_state_dict(weights)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; CheckpointError where it is cut off."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); train or copy it again") from None
    return tensors


def write_aside(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all; CheckpointError where it cannot be written."""
    _write_aside(path, lambda aside: aside.write_bytes(content))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file like :func:`write_aside`, from the tensors' own memory where they are on the CPU."""
    apart: dict[str, Tensor] = {}
    owners: set[int] = set()
    for name, tensor in tensors.items():
        there = tensor.detach().cpu().contiguous()
        storage = there.untyped_storage().data_ptr()
        apart[name] = there.clone() if storage in owners else there  # two names may share one tensor
        owners.add(storage)
    _write_aside(path, lambda aside: save_file(apart, aside, metadata))


def _write_aside(path: Path, write: Callable[[Path], object]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except (OSError, SafetensorError) as error:  # a full disk is of the second kind where tensors are written
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be written ({reason}); free space and run again") from None
    finally:
        aside.unlink(missing_ok=True)


def _backbone(text: str) -> str:
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return "tokens"  # whose reader explains what is wrong with it
    return str(values.get("backbone", "tokens")) if isinstance(values, dict) else "tokens"


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; 'geo4d-bench train' makes a checkpoint")
    return path
