"""``geo4d-bench checkpoint split`` and ``join``: a checkpoint as files that are small enough to carry, and back.

Each shard is a safetensors file whose metadata has the checkpoint's config, the shard's number, the digest of its own
tensors and one of the whole set, so that shards need no further file and tell what is missing, foreign or damaged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field

from geo4d_bench.errors import CheckpointError
from geo4d_bench.io import write_atomic
from geo4d_bench.options import check_ranges

if TYPE_CHECKING:
    from torch import Tensor

_AGAIN = "copy it again"
_HEADER_BYTES = 2**16
"""Room for a shard's header but for the config: names, shapes and places of its tensors."""


@dataclass(frozen=True)
class SplitConfig:
    """Write a checkpoint's weights and config into files of a limited size."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The checkpoint's folder; it is only read."""
    out: Path
    """Folder of the shards."""
    max_mib: Annotated[float, Field(ge=0.25, le=10**6)] = 16.0
    """The most that a shard may have, in MiB."""
    bf16: bool = False
    """Store float32 weights as bfloat16, in half of the bytes; join makes float32 of them again, rounded to 8 bits."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class JoinConfig:
    """Put the shards of a checkpoint together."""

    shards: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """All files that 'checkpoint split' wrote, in any order."""
    out: Path
    """Folder of the checkpoint, new."""


@dataclass(frozen=True)
class Shards:
    """What was written."""

    files: tuple[Path, ...]

    def __str__(self) -> str:
        sizes = [path.stat().st_size / 2**20 for path in self.files]
        lines = [f"{path}: {size:.1f} MiB" for path, size in zip(self.files, sizes, strict=True)]
        return "\n".join([*lines, f"join them: geo4d-bench checkpoint join {self.files[0].parent}/* --out FOLDER"])


@dataclass(frozen=True)
class Joined:
    """The checkpoint's folder."""

    folder: Path

    def __str__(self) -> str:
        return f"checkpoint: {self.folder}\nnext: geo4d-bench evaluate --checkpoint {self.folder}"


def run(config: SplitConfig | JoinConfig) -> Shards | Joined:
    """Split or join.

    Raises:
        CheckpointError: the checkpoint or a shard is missing, damaged or of another checkpoint, a tensor is larger than
            a shard may be, or what is to be written is there already.
    """
    if isinstance(config, SplitConfig):
        return Shards(split(config.checkpoint, config.out, config.max_mib, bf16=config.bf16))
    join(config.shards, config.out)
    return Joined(config.out)


def split(folder: Path, out: Path, max_mib: float, *, bf16: bool) -> tuple[Path, ...]:
    """Write a checkpoint's shards into ``out``, each of ``max_mib`` MiB at most; see :func:`run`."""
    import torch

    from geo4d_bench.model.checkpoint import CONFIG_NAME, WEIGHTS_NAME, existing, read_tensors, write_tensors

    config = existing(folder, CONFIG_NAME).read_text(encoding="utf-8")
    tensors = read_tensors(existing(folder, WEIGHTS_NAME))
    rounded = sorted(name for name, tensor in tensors.items() if bf16 and tensor.dtype == torch.float32)
    tensors |= {name: tensors[name].to(torch.bfloat16) for name in rounded}
    room = int(max_mib * 2**20) - _HEADER_BYTES - 2 * len(json.dumps(config)) - 2 * len(json.dumps(rounded))
    parts: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if tensor.nbytes > room:
            raise CheckpointError(
                f"{folder}: '{name}' has {tensor.nbytes / 2**20:.1f} MiB, more than a shard of {max_mib:g} MiB takes; "
                "give a larger --max-mib"
            )
        if sum(t.nbytes for t in parts[-1].values()) + tensor.nbytes > room:
            parts.append({})
        parts[-1][name] = tensor
    if there := sorted(out.glob("model-*-of-*.safetensors")):
        raise CheckpointError(f"{there[0]}: is there already; remove it, or give another --out")
    digests = [_digest(part) for part in parts]
    whole = {"config": config, "rounded": json.dumps(rounded), "shards": str(len(parts))}
    whole["set"] = hashlib.sha256("".join([*digests, *whole.values()]).encode()).hexdigest()
    files = []
    for number, (part, digest) in enumerate(zip(parts, digests, strict=True), 1):
        files.append(out / f"model-{number:05d}-of-{len(parts):05d}.safetensors")
        write_tensors(files[-1], part, {**whole, "shard": str(number), "sha256": digest})
    return tuple(files)


def join(shards: tuple[Path, ...], out: Path) -> None:
    """Write the checkpoint that ``shards`` were split from into ``out``; see :func:`run`."""
    from geo4d_bench.model.checkpoint import CONFIG_NAME, WEIGHTS_NAME, read_tensors, write_tensors

    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if (out / name).exists():
            raise CheckpointError(f"{out / name}: is there already; give another --out")
    if not shards:
        raise CheckpointError("checkpoint join: no shards; name the files that 'geo4d-bench checkpoint split' wrote")
    found: dict[int, Path] = {}
    first: dict[str, str] = {}
    for path in shards:
        metadata = _metadata(path)
        first = first or metadata
        if metadata["set"] != first["set"]:
            raise CheckpointError(f"{path}: is of another checkpoint than {shards[0]}; join them apart")
        number = int(metadata["shard"])
        if number in found:
            raise CheckpointError(f"{path}: is shard {number}, as {found[number]} is; leave one of them out")
        found[number] = path
    count = int(first["shards"])
    if missing := [str(number) for number in range(1, count + 1) if number not in found]:
        raise CheckpointError(f"{shards[0]}: of its {count} shards, {', '.join(missing)} is missing; name all of them")
    digests: list[str] = []
    tensors: dict[str, Tensor] = {}
    for _, path in sorted(found.items()):
        part = read_tensors(path, _AGAIN)
        if _digest(part) != _metadata(path)["sha256"]:
            raise CheckpointError(f"{path}: its tensors were changed after it was written; {_AGAIN}")
        digests.append(_digest(part))
        tensors |= part
    whole = [first[name] for name in ("config", "rounded", "shards")]
    if hashlib.sha256("".join([*digests, *whole]).encode()).hexdigest() != first["set"]:
        raise CheckpointError(f"{shards[0]}: its config was changed after it was written; {_AGAIN}")
    tensors |= {name: tensors[name].float() for name in json.loads(first["rounded"])}
    write_tensors(out / WEIGHTS_NAME, tensors)
    write_atomic(out / CONFIG_NAME, first["config"])


def _metadata(path: Path) -> dict[str, str]:
    """What :func:`split` wrote beside the tensors; CheckpointError where it is no shard."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            found: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is no whole safetensors file ({error}); {_AGAIN}") from None
    numbers = re.fullmatch(r"[1-9]\d{0,4} [1-9]\d{0,4}", f"{found.get('shard')} {found.get('shards')}")
    if numbers is None or not {"config", "rounded", "set", "sha256"} <= found.keys():
        raise CheckpointError(f"{path}: is no shard of 'geo4d-bench checkpoint split'; name only those")
    return found


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names, dtypes, shapes and values."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        values: Any = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(values)
    return digest.hexdigest()
