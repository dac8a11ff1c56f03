"""Checkpoint folders: ``config.json`` + ``model.safetensors``. Files are written aside and renamed: a file that
exists is whole, and a full disk costs nothing that was there before."""

from __future__ import annotations

import hashlib
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from geo4d_bench.errors import CheckpointError
from geo4d_bench.io import atomic, check_file
from geo4d_bench.model.config import GeneratorConfig

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def checkpoint_sha256(folder: Path) -> str:
    """64 hex digits over config and weights, the name of a checkpoint in ledgers."""
    digest = hashlib.sha256()
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        digest.update(existing(folder, name).read_bytes())
    return digest.hexdigest()


def save_checkpoint(folder: Path, config: GeneratorConfig, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint; CheckpointError where the disk refuses, and what was there stays."""
    write_tensors(folder / WEIGHTS_NAME, weights)
    with _written(folder / CONFIG_NAME) as part:
        part.write_text(config.to_json(), encoding="utf-8")


def load_weights(folder: Path, module: nn.Module) -> None:
    """Fill a module from ``model.safetensors``; CheckpointError where names, shapes or bytes don't fit."""
    path = existing(folder, WEIGHTS_NAME)
    tensors = read_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = textwrap.shorten(str(error).splitlines()[1], 200)
        raise CheckpointError(
            f"{path}: does not fit config.json ({first}); the files are of different models"
        ) from None


def read_tensors(path: Path, advice: str = "train or copy it again") -> dict[str, Tensor]:
    """The tensors of a safetensors file; CheckpointError where it is cut off, something else, or not finite."""
    try:
        check_file(path)
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        what = disguise(path) or f"not a whole safetensors file ({error}); {advice}"
        raise CheckpointError(f"{path}: {what}") from None
    if name := not_finite(tensors):
        raise CheckpointError(f"{path}: '{name}' has values that are not finite; {advice}")
    return tensors


def disguise(path: Path) -> str:
    """What a file is that passes for weights, and what to do; empty where it is nothing well known."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; run 'git lfs pull' where it was cloned"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the file itself; download the file by its direct link, logged in where needed"
    return ""


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that has a value that is not finite; None where all are."""
    return next((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), None)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a whole safetensors file, from the tensors' own memory where they are on the CPU."""
    apart: dict[str, Tensor] = {}
    owners: set[int] = set()
    for name, tensor in tensors.items():
        there = tensor.detach().cpu().contiguous()
        storage = there.untyped_storage().data_ptr()
        apart[name] = there.clone() if storage in owners else there  # two names may share one tensor
        owners.add(storage)
    with _written(path) as part:
        save_file(apart, part, metadata)


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments by ``<parameter>/<moment>``; of one in eight bits its codes and scales,
    ``<parameter>/<moment>.codes`` and so on."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    tensors: dict[str, Tensor] = {}
    for i, moments in state.items():
        for name, v in moments.items():
            parts = {f"{name}.{part}": getattr(v, part) for part in getattr(v, "tensor_attrs", ())}
            tensors |= {f"{i}/{key}": torch.as_tensor(part) for key, part in (parts or {name: v}).items()}
    return tensors


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Tensor]) -> None:
    """Take over what :func:`optimizer_state` returned."""
    moments: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in state.items():
        index, name = key.split("/")
        moment, _, part = name.partition(".")
        if part == "codes":
            from torchao.optim.subclass_8bit import OptimState8bit

            scale, qmap = (state[f"{index}/{moment}.{k}"] for k in ("scale", "qmap"))
            value = OptimState8bit(value, scale, qmap, moment == "exp_avg", torch.float32)
        if part in ("", "codes"):
            moments[int(index)][moment] = spread(value, parameters[int(index)])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def spread(value: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor, where ``like``, of the same shape, is shared out among several; else
    itself."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole(tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors with those gathered, on the processor, that are shared out among several processes, all of which must
    call this; nothing of these but for those who ``keep`` it."""
    gathered: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if isinstance(value, DTensor):
            full = value.full_tensor()
            if keep:
                gathered[name] = full.cpu()
        else:
            gathered[name] = value
    return gathered


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    try:
        with atomic(path) as part:
            yield part
    except (OSError, SafetensorError) as error:  # a full disk is of the second kind where tensors are written
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be written ({reason}); free space and run again") from None


def existing(folder: Path, name: str) -> Path:
    """The path of a checkpoint's file; CheckpointError where it is not there."""
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; 'geo4d-bench train' makes a checkpoint")
    return path
